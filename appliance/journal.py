"""The log as a journal that can be searched: what is written to the logger `ghostnote`, with fields beside the text.

    log.error("the engine ended", extra=about("engine-died", exit="signal 9"))
    journalctl -u ghostnote GHOSTNOTE_EVENT=engine-died

Without systemd the same lines go to stderr, as everywhere else. Runs in: the main process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "GHOSTNOTE_"
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # those of syslog
Send = Callable[..., Any]  # systemd.journal.send


def about(name: str, **fields: object) -> dict[str, object]:
    """`extra` of a log line: what it is about, and values that can be searched for."""
    return {"journal_fields": {"event": name, **fields}}


class JournalHandler(logging.Handler):
    """Each line with its level, its place in the code, and the fields that `about` gave it."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        fields: Mapping[str, object] = getattr(record, "journal_fields", {})
        named = {PREFIX + name.upper(): str(value) for name, value in fields.items() if value is not None}
        priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
        self._send(
            self.format(record),
            PRIORITY=str(priority),
            SYSLOG_IDENTIFIER="ghostnote",
            CODE_FILE=record.pathname,
            CODE_LINE=record.lineno,
            CODE_FUNC=record.funcName,
            **named,
        )


def log_to_journal(environ: Mapping[str, str]) -> bool:
    """Send the log to the journal, if that is where stderr goes and systemd-python is installed. Whether it is so."""
    if "JOURNAL_STREAM" not in environ:
        return False
    try:
        from systemd.journal import send
    except ImportError:
        return False
    logging.getLogger().handlers[:] = [JournalHandler(send)]
    return True

"""What is written down of a missed deadline: one line of JSON, in a file that never grows beyond its cap.

    misses.jsonl      the newest; when it has half of what is allowed, it becomes
    misses.old.jsonl  ... and what was there before is gone

A pedal in trouble misses many deadlines: after a burst, one a second is written, and the next record says how many were not.

Runs in: the main process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.causes import Verdict
from appliance.stats import Rows

NAME = "misses.jsonl"
OLD_NAME = "misses.old.jsonl"
LEDGER_BLOCKS = 8  # so many of the last blocks go into a record
BURST = 20
PER_SECOND = 1.0
_STAGES = ("started", "encoded", "first_step", "last_step", "decoded", "written", "due")


@dataclass(frozen=True)
class Miss:
    """One missed deadline."""

    when: str  # UTC, ISO 8601
    seconds: float  # on the audio clock
    kind: str  # "block", "period" or "board"
    verdict: Verdict
    evidence: Mapping[str, Any]  # use of the processor, usual use, machine
    blocks: tuple[Mapping[str, Any], ...] = ()  # the ledger of the last blocks, in milliseconds since each was whole

    def record(self, unwritten: int) -> dict[str, Any]:
        verdict = self.verdict
        return {
            "when": self.when,
            "seconds": round(self.seconds, 3),
            "kind": self.kind,
            "cause": verdict.cause.value,
            "why": verdict.why,
            "lost_ms": dict(verdict.lost_ms),
            "unwritten": unwritten,
            **self.evidence,
            "blocks": list(self.blocks),
        }


def ledger_lines(rows: Rows, sample_rate: int) -> tuple[Mapping[str, Any], ...]:
    """The last of the ledger's rows as a person wants to read them."""
    return tuple(_line(row, sample_rate) for row in rows[-LEDGER_BLOCKS:])


def _line(row: Any, sample_rate: int) -> dict[str, Any]:
    captured = int(row["captured"])
    times = {stage: round((int(row[stage]) - captured) / 1e6, 2) for stage in _STAGES if row[stage]}
    return {"seconds": round(int(row["start"]) / sample_rate, 3), "mode": int(row["mode"]), "steps": int(row["steps"]), **times}


class MissLog:
    """`write` as often as there is a miss. A disk that is full or gone is no reason to stop playing: `failure` says so."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.path, self._old = folder / NAME, folder / OLD_NAME
        self._most_bytes = most_bytes // 2
        self._allowance, self._at = float(BURST), 0.0
        self._unwritten = 0
        self.failure = ""

    def write(self, miss: Miss, now: float) -> bool:
        """Whether it was written; `now` is any clock in seconds."""
        self._allowance = min(BURST, self._allowance + (now - self._at) * PER_SECOND)
        self._at = now
        if not self._most_bytes or self._allowance < 1:
            self._unwritten += 1
            return False
        self._allowance -= 1
        line = json.dumps(miss.record(self._unwritten), ensure_ascii=False) + "\n"
        written = self._append(line.encode())
        self._unwritten = 0 if written else self._unwritten + 1
        return written

    def _append(self, line: bytes) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size + len(line) > self._most_bytes:
                self.path.replace(self._old)
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            self.failure = f"{self.path}: misses can't be written down ({error.strerror}); make room, or set [storage] folder"
            return False
        self.failure = ""
        return True

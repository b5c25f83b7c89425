"""The flight recorder's place in the supervisor: who keeps the ring files, and when a flight is saved.

    a ring per slot      flight-0.ring, flight-1.ring in the runtime folder; taken away when the pedal ends as it should
    saved                by order, by a footswitch, some seconds after a missed deadline, and at the start where the last pedal has died

Saving is done by a process of its own (appliance/flight_save.py): here nothing waits. What comes by itself comes at most once in the time
that a ring holds, so a pedal in trouble does not wear out its card.

Runs in: the main process.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import sys
import time
from collections import deque
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.child import Child
from appliance.config import Config
from appliance.flight_file import SUFFIX, About
from appliance.flight_ring import LIVES_AT, PEDAL_AT, FlightError, FlightSettings, text_bytes
from appliance.flight_save import Job
from appliance.journal import about
from appliance.orders import Answer, Handler, OrderError, Request
from appliance.prompt_commands import prompt_folder
from appliance.shared import SLOTS
from appliance.status import runtime_folder
from appliance.storage import state_folder

if TYPE_CHECKING:
    from appliance.main import Supervisor

log = logging.getLogger("ghostnote")

AFTER_MISS_SECONDS = 4.0  # what follows a miss belongs to it
BETWEEN_CRASHES_SECONDS = 60.0
NOTES = 200
UTC = "%Y-%m-%dT%H:%M:%SZ"


class Notes(logging.Handler):
    """The last lines of the log, as a journal would have them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=NOTES)

    def emit(self, record: logging.LogRecord) -> None:
        when = datetime.fromtimestamp(record.created, timezone.utc)
        self.lines.append(f"{when:{UTC}} {record.levelname} {record.getMessage()}")


class FlightKeeper:
    """`settings` for each worker, `tick` often, `close` at last. With `wanted` false nothing is recorded."""

    def __init__(self, config: Config, wanted: bool = True) -> None:
        self._config, self._folder = config, state_folder(config.storage.folder) / "flights"
        self._rings: dict[int, tuple[Path, int]] = {}  # by slot: where it is, and the open file
        self._crashed: list[Path] = []
        self._saver: Child | None = None
        self._next: Job | None = None
        self._misses, self._missed_at, self._began = 0, 0.0, time.monotonic()
        self._notes = Notes()
        if wanted and config.flight.minutes:
            self._open()

    def settings(self, slot: int) -> FlightSettings | None:
        """For the worker in that slot."""
        return FlightSettings(self._rings[slot][1], self._config.flight.minutes) if slot in self._rings else None

    def save(self, reason: str) -> Path:
        """Begin to save what is in the rings now; the log says when it is done. Raises FlightError."""
        if not self._rings:
            raise FlightError("no flight is recorded: set [flight] minutes")
        if self._saver or self._next:
            raise FlightError("a flight is being saved already: wait until it is")
        self._next = self._job(reason, [path for path, _ in self._rings.values()])
        return Path(self._next.target)

    def asked(self) -> str:
        """As `save`, for a foot: what is to be said about it."""
        try:
            return f"the flight is being saved as {self.save('a footswitch').name}"
        except FlightError as error:
            return str(error)

    def orders(self) -> dict[str, Handler]:
        """For the socket of orders: {"order": "save-flight"}."""

        def save(order: Request) -> Answer:
            try:
                path = self.save("an order")
            except FlightError as error:
                raise OrderError(str(error)) from None
            return {"line": f"the flight is being saved as {path.name}", "file": str(path)}

        return {"save-flight": save}

    def tick(self, pedal: Supervisor) -> None:
        if not self._rings:
            return
        self._follow()
        self._look_for_misses(pedal)
        if self._crashed and not self._saver and time.monotonic() - self._began > AFTER_MISS_SECONDS:
            self._start(self._job("the pedal before this one ended without a word", self._crashed, spent=True), pedal)
            self._crashed = []
        elif self._next and not self._saver:
            job, self._next = self._next, None
            self._start(job, pedal)

    def close(self) -> None:
        """The pedal ends as it should: nobody will ask for its rings."""
        logging.getLogger("ghostnote").removeHandler(self._notes)
        if self._saver:
            self._saver.stop(time.monotonic())
            self._job_file.unlink(missing_ok=True)
        for path, fd in self._rings.values():
            path.unlink(missing_ok=True)
            os.close(fd)
        self._rings = {}

    # Rings

    def _open(self) -> None:
        try:
            folder = runtime_folder()
            for slot in range(SLOTS):
                path = folder / f"flight-{slot}.ring"
                self._rings[slot] = path, self._ring(path)
        except BlockingIOError:
            log.warning("no flight is recorded: another pedal is running and records its own", extra=about("flight"))
        except OSError as error:
            log.warning("no flight is recorded (%s): set [flight] minutes = 0 if none is wanted", error, extra=about("flight"))
        logging.getLogger("ghostnote").addHandler(self._notes)

    def _ring(self, path: Path) -> int:
        """An empty ring at `path`, locked for as long as this pedal lives. What one that died has left there is put aside to be saved."""
        fd = _locked(path)
        if os.fstat(fd).st_size > LIVES_AT:
            aside = path.with_suffix(".crashed")
            if not aside.exists() or time.time() - aside.stat().st_mtime > BETWEEN_CRASHES_SECONDS:
                os.rename(path, aside)
            else:
                path.unlink()
            os.close(fd)
            fd = _locked(path)
        aside = path.with_suffix(".crashed")
        self._crashed += [aside] if aside.exists() else []
        os.ftruncate(fd, 0)
        os.pwrite(fd, text_bytes(self._pedal()), PEDAL_AT)
        return fd

    def _pedal(self) -> dict[str, object]:
        return {"pid": os.getpid(), "began": _utc(), "ghostnote": _version(), "config": asdict(self._config)}

    # Saving

    def _look_for_misses(self, pedal: Supervisor) -> None:
        misses, now = sum(pedal.observer.monitor.causes.values()), time.monotonic()
        if misses > self._misses and not self._missed_at:
            self._missed_at = now
        self._misses = misses
        if self._missed_at and now - self._missed_at > AFTER_MISS_SECONDS:
            self._missed_at = 0.0
            if self._config.flight.misses and not self._saver and not self._next and self._long_ago():
                self.save("a missed deadline")

    def _long_ago(self) -> bool:
        """The last flight that was saved has nothing of what the rings hold now."""
        newest = max((path.stat().st_mtime for path in self._folder.glob(f"*{SUFFIX}")), default=0.0)
        return bool(time.time() - newest > 60 * self._config.flight.minutes)

    def _job(self, reason: str, rings: list[Path], spent: bool = False) -> Job:
        flight, now = self._config.flight, _utc()
        target = self._folder / f"{now.replace(':', '-')}{SUFFIX}"
        prompts = str(prompt_folder(self._config))
        return Job(tuple(map(str, rings)), str(target), flight.files, flight.megabytes, About(now, reason), prompts=prompts, spent=spent)

    def _start(self, job: Job, pedal: Supervisor) -> None:
        told = About(job.about.saved, job.about.reason, pedal.observer.snapshot(pedal), tuple(self._notes.lines))
        whole = Job(**{**vars(job), "about": told, "misses": str(pedal.observer.monitor.misses.path)})
        try:
            self._job_file.write_text(whole.json(), "utf-8")
        except OSError as error:
            log.error("the flight can't be saved (%s)", error, extra=about("flight"))
            return
        self._saver = Child("flight", [sys.executable, "-m", "appliance.flight_save", str(self._job_file)], ())
        self._saver.start()

    @property
    def _job_file(self) -> Path:
        return self._rings[0][0].with_name("flight-job.json")

    def _follow(self) -> None:
        if self._saver and self._saver.ended():
            level = logging.INFO if self._saver.exit_code == 0 else logging.ERROR
            for line in self._saver.lines() or ["the flight was not saved: the process that should save it ended"]:
                log.log(level, "%s", line, extra=about("flight"))
            self._saver = None


def _locked(path: Path) -> int:
    """An open file that is this process's alone. Raises BlockingIOError where another pedal has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _utc() -> str:
    return f"{datetime.now(timezone.utc):{UTC}}"


def _version() -> str:
    try:
        return importlib.metadata.version("ghostnote")
    except importlib.metadata.PackageNotFoundError:
        return "0"

"""The process that saves a flight: reads the rings, compresses what they hold, and makes room by letting the oldest flights go.

    python -m appliance.flight_save JOB     JOB: a file with a Job as JSON; prints what it has saved, or why it could not (exit code 2)

Runs in: a process of its own, nicer than all others.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.flight_file import SUFFIX, About, FlightWriter
from appliance.flight_ring import LIVES_AT, FlightError, FlightRing

MISSES = 50  # of the last lines of misses.jsonl
_UNFINISHED = ".new"


@dataclass(frozen=True)
class Job:
    """What to save, and where."""

    rings: tuple[str, ...]  # files, by slot
    target: str
    files: int  # so many flights are kept in its folder ...
    megabytes: float  # ... and so much
    about: About
    misses: str = ""  # misses.jsonl
    prompts: str = ""  # folder of the player's own
    spent: bool = False  # the rings are of no more use afterwards

    def json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Job:
        facts = json.loads(text)
        about = About(**{**facts["about"], "notes": tuple(facts["about"]["notes"]), "misses": tuple(facts["about"]["misses"])})
        return cls(**{**facts, "rings": tuple(facts["rings"]), "about": about})


def save(job: Job) -> int:
    """Write the file, all or nothing. Returns how many blocks it holds. Raises FlightError, OSError."""
    target = Path(job.target)
    target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    for left in target.parent.glob(f".*{_UNFINISHED}"):
        left.unlink()
    unfinished = target.with_name(f".{target.name}{_UNFINISHED}")
    with open(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as file:
        blocks = _write(job, FlightWriter(file))
        file.flush()
        os.fsync(file.fileno())
    if not blocks:
        unfinished.unlink()
        raise FlightError("there is nothing to save yet: the engine has not heard a block")
    os.rename(unfinished, target)
    _sync_folder(target.parent)
    make_room(target, job.files, job.megabytes)
    return blocks


def make_room(newest: Path, files: int, megabytes: float) -> None:
    """The oldest flights beside `newest` go until what is left is within both bounds."""
    flights = sorted((path for path in newest.parent.glob(f"*{SUFFIX}") if path != newest), key=lambda path: path.stat().st_mtime)
    sizes = {path: path.stat().st_size for path in (*flights, newest)}
    while flights and (len(sizes) > files or sum(sizes.values()) > megabytes * 1e6):
        oldest = flights.pop(0)
        oldest.unlink()
        del sizes[oldest]


def _write(job: Job, writer: FlightWriter) -> int:
    blocks = 0
    for slot, path in enumerate(map(Path, job.rings)):
        if path.exists() and path.stat().st_size > LIVES_AT:  # else its engine has never started
            try:
                blocks += writer.add(slot, FlightRing.open(path))
            except FlightError as error:
                print(error, file=sys.stderr)
    if job.prompts:
        writer.add_prompts(Path(job.prompts))
    writer.close(About(**{**vars(job.about), "misses": _misses(job.misses)}))
    return blocks


def _misses(path: str) -> tuple[Any, ...]:
    try:
        lines = Path(path).read_text("utf-8").splitlines()[-MISSES:] if path else []
        return tuple(json.loads(line) for line in lines)
    except (OSError, ValueError):
        return ()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main(argv: list[str]) -> int:
    os.nice(19)
    job = Job.parse(Path(argv[0]).read_text("utf-8"))
    Path(argv[0]).unlink()
    try:
        blocks = save(job)
    except FlightError as error:
        print(error)
        return 2
    except OSError as error:
        print(f"{job.target} can't be written ({error.strerror}): make room, or set [storage] folder")
        return 2
    finally:
        for ring in job.rings if job.spent else ():
            Path(ring).unlink(missing_ok=True)
    print(f"saved the last {blocks} blocks as {job.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

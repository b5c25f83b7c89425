"""Tries what a pedal asks of the operating system, and says what it got: in a process of its own, so that nothing of it stays.

    python -m appliance.granted PRIORITY NICE LOCK     {"realtime": "SCHED_FIFO 70, locked memory", "niceness": -10}

Runs in: `ghostnote certify`, and whoever checks a certificate.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence

from appliance.realtime import Step, lock_memory, schedule_fifo


def steps(priority: int, lock: bool) -> Iterator[Step]:
    if priority:
        yield schedule_fifo(priority)
    if lock:
        yield lock_memory()


def niceness(wanted: int) -> int:
    """What it is after `wanted` was asked for."""
    try:
        if wanted:
            os.setpriority(os.PRIO_PROCESS, 0, wanted)
    except OSError:
        pass
    return os.getpriority(os.PRIO_PROCESS, 0)


def main(argv: Sequence[str]) -> None:
    priority, nice, lock = map(int, argv)
    nice = niceness(nice)
    granted = ", ".join(step.what for step in steps(priority, bool(lock)) if step.granted)
    print(json.dumps({"realtime": granted or "nothing", "niceness": nice}))


if __name__ == "__main__":
    main(sys.argv[1:])

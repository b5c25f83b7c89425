"""What a soak puts the machine under: processes that copy memory, write files and compute, while an engine has its deadlines.

    with disturbed(LOADS["stage"], folder):
        ...

Each is a process in a session of its own, as whatever disturbs a pedal is, for a kernel may share its time out between sessions first.
It ends with whoever started it, however that ends: the kernel sees to it. What a writer writes has no name in any folder, so nothing is
left of that either.

    python -m appliance.disturbance copy|write|spin NICE FOLDER PARENT

Runs in: the main process of `ghostnote certify` (`disturbed`), processes of their own (`main`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.certificate import NO_DISTURBANCE, Disturbance
from appliance.child import CHILD_ENVIRONMENT, REPO, STOP_SECONDS
from appliance.realtime import end_with_parent

CORES = len(os.sched_getaffinity(0))
LOADS = {
    "none": NO_DISTURBANCE,
    "stage": Disturbance("stage", copiers=1, writers=1, spinners=CORES, spinner_niceness=10),  # an update, a backup, a log gone wild
    "heavy": Disturbance("heavy", copiers=CORES, writers=2, spinners=CORES, spinner_niceness=0),
}
COPIED_BYTES = 32 << 20  # beyond what caches hold
WRITTEN_BYTES, FILE_BYTES = 1 << 20, 64 << 20
WRITE_PAUSE_SECONDS = 0.1  # 10 MB/s at most: memory cards wear


@contextmanager
def disturbed(disturbance: Disturbance, folder: Path) -> Iterator[list[int]]:
    """For as long as the block lasts; `folder` is on the disk that is written to. Gives the processes' ids."""
    wanted = (
        ("copy", disturbance.copiers, 0),
        ("write", disturbance.writers, 0),
        ("spin", disturbance.spinners, disturbance.spinner_niceness),
    )
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for what, count, niceness in wanted:
            processes += [_start(what, niceness, folder) for _ in range(count)]
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            _bury(process)


def _start(what: str, niceness: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "appliance.disturbance", what, str(niceness), str(folder), str(os.getpid())]
    environment = {**os.environ, **CHILD_ENVIRONMENT, "PYTHONPATH": str(REPO)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _bury(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:  # it waits for a disk
        process.kill()
        process.wait()


def copy(folder: Path) -> None:
    """From one end of a large array to the other and back."""
    there = bytearray(os.urandom(1 << 16) * (COPIED_BYTES >> 16))
    back = bytearray(COPIED_BYTES)
    while True:
        back[:] = there
        there[:] = back


def write(folder: Path) -> None:
    """Into a file without a name, until it is on the disk."""
    data = os.urandom(WRITTEN_BYTES)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while True:
            file.seek(0)
            for _ in range(FILE_BYTES // WRITTEN_BYTES):
                file.write(data)
                os.fsync(file.fileno())
                time.sleep(WRITE_PAUSE_SECONDS)


def spin(folder: Path) -> None:
    """Compute, and nothing else."""
    number = 1
    while True:
        number = number * 6_364_136_223_846_793_005 % (1 << 64) + 1


WORK: dict[str, Callable[[Path], None]] = {"copy": copy, "write": write, "spin": spin}


def be_nice(niceness: int) -> None:
    """The process, and its session among the others."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
        Path("/proc/self/autogroup").write_text(str(niceness))
    except OSError:
        pass  # whoever is nice may not become less so; and not every kernel looks at sessions


def main(argv: Sequence[str]) -> int:
    end_with_parent()
    what, niceness, folder, parent = argv
    if os.getppid() != int(parent):
        return 1  # it had ended before this process was tied to it
    be_nice(int(niceness))
    WORK[what](Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

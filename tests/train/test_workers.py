"""Workers end with the process that they work for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.train import workers

PARENT = """
from engines.train import workers
from tests.train.test_workers import say_and_sleep
if __name__ == "__main__":
    with workers.pool(2) as pool:
        list(pool.map(say_and_sleep, range(2)))
"""


def say_and_sleep(_: int) -> None:
    """One write for each: what two processes write at once must not mix."""
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(600)


def running(pid: int) -> bool:
    """Not so if it ended and nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_workers_of_a_killed_process_end(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(running, pids))
        parent.kill()
    until = time.monotonic() + 30
    while any(map(running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(running, pids))


def test_what_a_worker_finds_comes_back_and_what_it_raises_too() -> None:
    with workers.pool(1) as pool:
        assert pool.submit(abs, -3).result(60) == 3
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result(60)

"""A child process that is meant to live: started, watched, started again when it dies, and stopped in bounded time.

The clock is passed in, so that the policy of restarts needs no waiting to be tested. Runs in: the main process.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[1]
STOP_SECONDS = 0.5  # for all children together, before they are killed
# A thread pool that spins while it waits takes the core from the audio process; a child that computes says how many threads itself.
CHILD_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the n-th restart in a row."""

    step_seconds: float = 0.1
    most_seconds: float = 5.0
    forget_seconds: float = 5.0  # whoever lived for so long starts with a clean record

    def delay_seconds(self, restarts_in_a_row: int) -> float:
        return min(self.most_seconds, self.step_seconds * restarts_in_a_row**2)


class Child:
    """One process. `watch` must be called often: it starts the process again after a death, when the back-off allows."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        pass_fds: Sequence[int],
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        own_errors: bool = False,
    ) -> None:
        """`own_errors`: what the process complains of is among its `lines` and goes nowhere else."""
        self.name, self.command, self.pass_fds = name, list(command), tuple(pass_fds)
        self.backoff, self.clock = backoff or Backoff(), clock
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_code: int | None = None  # of the last life that ended
        self.restarts = 0
        self.peak_rss_mb = 0.0
        self.started_at = self.ended_at = 0.0
        self.last_line = ""
        self._errors = subprocess.STDOUT if own_errors else None
        self._in_a_row = 0
        self._printed = b""

    def start(self) -> None:
        self.started_at = self.clock()
        environment = {**os.environ, **CHILD_ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            self.command, pass_fds=self.pass_fds, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors
        )
        assert self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def running(self) -> bool:
        return self.process is not None

    def ended(self) -> bool:
        """Whether the process has ended since the last call; `exit_code` says how."""
        if self.process is None or self.process.poll() is None:
            return False
        self._bury()
        return True

    def restart_when_due(self) -> bool:
        """Start a dead process again, once the back-off has passed. Whether it did."""
        if self.process is not None or self.clock() - self.ended_at < self.backoff.delay_seconds(self._in_a_row):
            return False
        self.restarts += 1
        self._in_a_row += 1
        self.start()
        return True

    def lines(self) -> list[str]:
        """What the process has printed since the last call."""
        self._read()
        whole, _, self._printed = self._printed.rpartition(b"\n")
        lines = whole.decode(errors="replace").splitlines()
        self.last_line = lines[-1] if lines else self.last_line
        return lines

    def _read(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self._printed += self.process.stdout.read() or b""

    def measure(self) -> None:
        """Remember the largest resident size that the kernel has seen of it."""
        if self.process is None:
            return
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        kilobytes = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
        self.peak_rss_mb = max([self.peak_rss_mb, *(kb / 1024 for kb in kilobytes)])

    def kill(self) -> None:
        """End it now; `ended` will report it as any other death."""
        if self.process is not None:
            self.process.kill()

    def stop(self, deadline: float) -> None:
        """It has been asked to end: wait for that until `deadline` on the clock, then end it."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - self.clock()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._bury()

    def _bury(self) -> None:
        self._read()
        assert self.process
        self.exit_code, self.ended_at = self.process.returncode, self.clock()
        if self.process.stdout:
            self.process.stdout.close()
        self.process = None
        if self.ended_at - self.started_at >= self.backoff.forget_seconds:
            self._in_a_row = 0

"""What Linux knows of a process and of the machine: processor time, time in the queue for it, page faults, clocks, heat.

    sample = Vitals(Path("/proc"), Path("/sys")).sample({"audio": 812, "engine": 813})

Whatever a machine does not tell (a virtual one has no clocks and no heat) is absent, never invented. `root` paths are passed in, so that
a folder can stand in for a machine that is too hot.

Runs in: the main process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_CELSIUS = range(-20, 126)  # sensors that say anything else are not connected
GPUS = ("gpu", "gv11b", "ga10b")  # as Jetsons call theirs
STOPPED, WAITING_FOR_DISK, RUNNABLE, ASLEEP = "T", "D", "R", "S"


@dataclass(frozen=True)
class ProcessVitals:
    """Sums over all threads since the process began."""

    state: str  # of its first thread: R, S, D, T ...
    cpu_ns: int  # on a core
    wait_ns: int  # ready to run, but without a core
    system_ns: int  # of cpu_ns, in the kernel
    minor_faults: int
    major_faults: int


@dataclass(frozen=True)
class MachineVitals:
    """None where the machine does not tell."""

    clock_mhz: float | None = None  # the fastest core's
    gpu_mhz: float | None = None
    celsius: float | None = None  # the hottest sensor's
    throttles: int = 0  # times that a core has been slowed down because of heat, where the processor counts them
    steal_ns: int = 0  # processor time that a virtual machine's host kept for others


@dataclass(frozen=True)
class Sample:
    """Everything at one moment of CLOCK_MONOTONIC. A process that is not there is absent."""

    at_ns: int
    machine: MachineVitals = field(default_factory=MachineVitals)
    processes: Mapping[str, ProcessVitals] = field(default_factory=dict)


class Vitals:
    """Finds the sensors once; reading them all takes well under a millisecond."""

    def __init__(self, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self.proc = proc
        cpu = sys / "devices/system/cpu"
        self._clocks = sorted(cpu.glob("cpufreq/policy*/scaling_cur_freq"))
        self._gpus = sorted(path for path in sys.glob("class/devfreq/*/cur_freq") if any(name in str(path) for name in GPUS))
        self._heat = [*sorted(sys.glob("class/thermal/thermal_zone*/temp")), *sorted(sys.glob("class/hwmon/hwmon*/temp*_input"))]
        self._throttles = sorted(cpu.glob("cpu*/thermal_throttle/core_throttle_count"))

    def sample(self, pids: Mapping[str, int]) -> Sample:
        found = {name: self.process(pid) for name, pid in pids.items()}
        at_ns = time.monotonic_ns()
        return Sample(at_ns, self.machine(), {name: vitals for name, vitals in found.items() if vitals})

    def machine(self) -> MachineVitals:
        celsius = [value / 1000 for value in _numbers(self._heat) if value // 1000 in _CELSIUS]
        return MachineVitals(
            clock_mhz=_most(value / 1e3 for value in _numbers(self._clocks)),  # sysfs has kHz
            gpu_mhz=_most(value / 1e6 for value in _numbers(self._gpus)),  # and Hz for these
            celsius=_most(celsius),
            throttles=sum(_numbers(self._throttles)),
            steal_ns=self._steal_ns(),
        )

    def process(self, pid: int) -> ProcessVitals | None:
        """None if it is not there (any more)."""
        try:
            facts = (self.proc / f"{pid}/stat").read_text().rpartition(")")[2].split()
            times = [self._schedule(task) for task in (self.proc / f"{pid}/task").iterdir()]
        except (OSError, ValueError, IndexError):
            return None
        return ProcessVitals(
            state=facts[0],
            cpu_ns=sum(cpu for cpu, _ in times),
            wait_ns=sum(wait for _, wait in times),
            system_ns=int(facts[12]) * _TICK_NS,
            minor_faults=int(facts[7]),
            major_faults=int(facts[9]),
        )

    def state(self, pid: int) -> str:
        """Only the state letter; empty if the process is not there."""
        try:
            return (self.proc / f"{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return ""

    def _schedule(self, task: Path) -> tuple[int, int]:
        try:
            cpu_ns, wait_ns, _ = (task / "schedstat").read_text().split()
        except FileNotFoundError:
            return 0, 0  # the thread has just ended
        return int(cpu_ns), int(wait_ns)

    def _steal_ns(self) -> int:
        try:
            with (self.proc / "stat").open() as lines:
                return int(lines.readline().split()[8]) * _TICK_NS
        except (OSError, ValueError, IndexError):
            return 0


def _numbers(paths: Iterable[Path]) -> Iterator[int]:
    for path in paths:
        try:
            yield int(path.read_text())
        except (OSError, ValueError):
            continue  # a sensor that sleeps, or is gone


def _most(values: Iterable[float]) -> float | None:
    return max(values, default=None)

"""A computer in virtual time: processes that run one at a time, and a clock that jumps to whatever comes next.

Each process is a thread, of which exactly one runs; it runs until it waits (`select.poll`, `time.sleep`, `work`), and the next one is
who wakes first. So a run is the same each time, however busy the real machine is, and nobody waits for real time.

`install` puts this clock in the place of the real one, for the whole Python process and before the pedal's code is imported: no part
of the pedal can read another by mistake, also none that is written later. What it replaces: time.monotonic, time.monotonic_ns, time.time,
time.sleep, select.poll and os.eventfd_write. Threads that are no process of the machine (a writer of files) have real time where they wait.
"""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

FOREVER = 1 << 62
FIRST_PID = 1 << 23  # more than Linux gives: nothing real is ever meant
FIRST_DEVICE = 1 << 20  # file descriptors from here on are devices of the machine
EPOCH_SECONDS = 1_900_000_000.0  # what time.time() begins with

_real_poll, _real_sleep, _real_write = select.poll, time.sleep, os.eventfd_write


class Killed(BaseException):
    """Unwinds a process that was killed; nothing in it may catch this."""


class Device(Protocol):
    """Something that a process can poll."""

    def ready_ns(self) -> int:
        """When it will be ready, as it looks now: the past if it is."""


class Process:
    """One thread that believes to be alone. The face of subprocess.Popen that appliance.child needs."""

    def __init__(self, machine: Machine, name: str, pid: int) -> None:
        self.machine, self.name, self.pid = machine, name, pid
        self.returncode: int | None = None
        self.stdout: object = None
        self.fds: frozenset[int] = frozenset()
        self.wake_ns, self.held_until_ns = machine.now_ns, 0
        self.doomed = self.ended = self.working = False
        self.held_as = ""  # the letter that Linux shows for a process that is held up
        self.queued_ns = self._done_ns = self._began_ns = 0
        self.lateness: Callable[[], int] = lambda: 0  # how late it wakes up, in nanoseconds
        self.ident = threading.get_ident()
        self.baton = threading.Lock()
        self.baton.acquire()

    @property
    def state(self) -> str:
        if self.held_until_ns > self.machine.now_ns:
            return self.held_as
        return "R" if self.working else "S"

    @property
    def cpu_ns(self) -> int:
        """Processor time until now. One that is held up gets none."""
        going_ns = self.machine.now_ns - self._began_ns if self.working and self.held_until_ns <= self.machine.now_ns else 0
        return self._done_ns + going_ns

    def pause(self, ns: int) -> None:
        """What it computes takes so much longer, and costs no more."""
        self._began_ns += ns

    def compute(self, ns: int) -> None:
        """It is on a core for so long."""
        self.working, self._began_ns = True, self.machine.now_ns
        self.machine.park(self.machine.now_ns + ns)
        self.working = False
        self._done_ns += ns

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.machine.kill(self)

    def wait(self, timeout: float | None = None) -> int:
        until_ns = FOREVER if timeout is None else self.machine.now_ns + int(timeout * 1e9)
        while self.returncode is None:
            if self.machine.now_ns >= until_ns:
                import subprocess

                raise subprocess.TimeoutExpired(self.name, timeout or 0)
            self.machine.park(min(until_ns, self.machine.now_ns + 1_000_000))
        return self.returncode


class Machine:
    """`main` is whoever makes it; others are spawned."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.devices: dict[int, Device] = {}
        self.crashes: list[str] = []
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = 0
        self.main = self.current = Process(self, "main", FIRST_PID)
        self.running = [self.main]
        self.spawned = 1

    @property
    def seconds(self) -> float:
        return self.now_ns / 1e9

    # What processes do

    @property
    def is_here(self) -> bool:
        """Whether the caller is a process of this machine."""
        return threading.get_ident() == self.current.ident

    def park(self, until_ns: int, fds: frozenset[int] = frozenset()) -> None:
        """The current process waits until then, or until one of `fds` is rung."""
        me = self.current
        if me.doomed:
            raise Killed
        me.wake_ns, me.fds = until_ns, fds
        self._dispatch(me)
        if me.doomed:
            raise Killed

    def sleep(self, seconds: float) -> None:
        if self.is_here:
            self.park(self.now_ns + int(seconds * 1e9))
        else:
            _real_sleep(seconds)

    def work(self, ns: int) -> None:
        """The current process computes for so long; others have cores of their own."""
        self.current.compute(ns)

    def ring(self, fd: int) -> None:
        """Whoever polls `fd` wakes up, as late as it does."""
        for process in self.running:
            if fd in process.fds:
                process.wake_ns = min(process.wake_ns, self.now_ns + process.lateness())

    # What befalls processes

    def spawn(self, name: str, body: Callable[[], int]) -> Process:
        process = Process(self, name, FIRST_PID + self.spawned)
        self.spawned += 1
        threading.Thread(target=self._live, args=(process, body), name=name, daemon=True).start()
        self.running.append(process)
        return process

    def kill(self, process: Process) -> None:
        """As by SIGKILL: it does nothing more."""
        if process.returncode is None:
            process.returncode, process.doomed = -9, True
            process.wake_ns, process.held_until_ns = 0, 0

    def hold(self, process: Process, ns: int, held_as: str) -> None:
        """For so long it does not get on: `R` without a core, `T` stopped, `S` waiting for something that does not come."""
        process.held_until_ns, process.held_as = self.now_ns + ns, held_as
        if process.working:
            process.wake_ns += ns
            process.pause(ns)
        if held_as == "R":
            process.queued_ns += ns

    def at(self, ns: int, do: Callable[[], None]) -> None:
        """`do` at that time. It must not wait."""
        self._numbers += 1
        heapq.heappush(self._timers, (ns, self._numbers, do))

    def device(self, device: Device) -> int:
        self._numbers += 1
        self.devices[FIRST_DEVICE + self._numbers] = device
        return FIRST_DEVICE + self._numbers

    # Turns

    def _live(self, process: Process, body: Callable[[], int]) -> None:
        process.ident = threading.get_ident()
        process.baton.acquire()
        code = 1
        try:
            if not process.doomed:
                code = body()
        except Killed:
            code = -9
        except BaseException:
            self.crashes.append(f"{process.name} at {self.seconds:.3f} s\n{traceback.format_exc()}")
        if process.returncode is None:
            process.returncode = code
        process.ended = True
        self.running.remove(process)
        self._dispatch(process)

    def _dispatch(self, me: Process) -> None:
        """Hand over to whoever is next, and come back when it is the caller's turn again."""
        chosen = self._next()
        if chosen is me:
            return
        self.current = chosen
        chosen.baton.release()
        if not me.ended:
            me.baton.acquire()

    def _next(self) -> Process:
        while True:
            chosen, at_ns = self.main, FOREVER
            for process in self.running:
                wake_ns = process.wake_ns if process.wake_ns > process.held_until_ns else process.held_until_ns
                if wake_ns < at_ns:
                    chosen, at_ns = process, wake_ns
            if not self._timers or self._timers[0][0] > at_ns:
                break
            ns, _, do = heapq.heappop(self._timers)
            self.now_ns = max(self.now_ns, ns)
            do()
        assert at_ns < FOREVER, "everybody waits for ever"
        self.now_ns = max(self.now_ns, at_ns)
        return chosen


class VirtualPoll:
    """In the place of select.poll."""

    machine: Machine

    def __init__(self) -> None:
        self._real = _real_poll()
        self._fds: frozenset[int] = frozenset()
        self._devices: tuple[tuple[int, Device], ...] = ()

    def register(self, fd: int, events: int = select.POLLIN) -> None:
        self._fds = self._fds | {fd}
        if fd in self.machine.devices:
            self._devices = (*self._devices, (fd, self.machine.devices[fd]))
        else:
            self._real.register(fd, events)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        machine = self.machine
        if not machine.is_here:
            return self._real.poll(timeout)
        ready = self._ready()
        if ready or timeout == 0:
            return ready
        until_ns = FOREVER if timeout is None else machine.now_ns + int(timeout * 1e6)
        for _, device in self._devices:
            ready_ns = device.ready_ns()
            if ready_ns < until_ns:
                until_ns = min(until_ns, ready_ns + machine.current.lateness())
        machine.park(until_ns, self._fds)
        return self._ready()

    def _ready(self) -> list[tuple[int, int]]:
        now_ns = self.machine.now_ns
        found = [(fd, select.POLLIN) for fd, device in self._devices if device.ready_ns() <= now_ns]
        return found + self._real.poll(0) if len(self._devices) < len(self._fds) else found


def _idlest_core() -> int:
    """Of those that this process may use, by a short look at all."""

    def idle() -> dict[int, int]:
        with open("/proc/stat") as lines:
            rows = [line.split() for line in lines if line.startswith("cpu") and line[3].isdigit()]
        return {int(row[0][3:]): int(row[4]) for row in rows}

    before = idle()
    _real_sleep(0.3)
    after = idle()
    return max(os.sched_getaffinity(0), key=lambda core: after.get(core, 0) - before.get(core, 0))


def install() -> Machine:
    """From here on this Python process lives in virtual time."""
    os.sched_setaffinity(0, {_idlest_core()})  # threads that take turns do so ten times as fast on one core
    machine = Machine()
    VirtualPoll.machine = machine

    def write(fd: int, value: int) -> None:
        _real_write(fd, value)
        if machine.is_here:
            machine.ring(fd)

    time.monotonic_ns = lambda: machine.now_ns
    time.monotonic = lambda: machine.now_ns / 1e9
    time.time = lambda: EPOCH_SECONDS + machine.now_ns / 1e9
    time.sleep = machine.sleep
    select.poll = VirtualPoll  # type: ignore[assignment,misc]
    os.eventfd_write = write
    return machine

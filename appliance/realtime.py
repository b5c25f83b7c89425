"""What the operating system is asked for, so that a process meets its deadlines; and an honest account of what it granted.

Nothing here raises: a pedal plays without real-time rights too, with a deeper queue. `enter_realtime` comes after everything else has
been loaded, as pages that are locked are all touched, and objects that are frozen are never looked at by the collector again.

Runs in: audio (all of it) and worker (what suits it), once, before the loop.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Step:
    """One thing that was asked for."""

    what: str
    granted: bool
    remedy: str = ""  # why not, and what would permit it

    def __str__(self) -> str:
        return self.what if self.granted else f"no {self.what} ({self.remedy})"


@dataclass(frozen=True)
class RealtimeReport:
    """As a text: one line, first what was granted, then what was not and how to permit it."""

    steps: tuple[Step, ...]

    @property
    def complete(self) -> bool:
        return all(step.granted for step in self.steps)

    @property
    def refused(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if not step.granted)

    def __str__(self) -> str:
        granted = ", ".join(str(step) for step in self.steps if step.granted) or "nothing"
        return "real time: " + "; ".join([granted, *map(str, self.refused)])


def enter_realtime(priority: int, core: int | None, lock: bool = True) -> RealtimeReport:
    """Collector off, memory locked, own core, timers exact, SCHED_FIFO at `priority`. 0, None and False ask for less."""
    steps = [quiet_collector(), exact_timers()]
    if lock:
        steps.append(lock_memory())
    if core is not None:
        steps.append(keep_to_core(core))
    if priority > 0:
        steps.append(schedule_fifo(priority))
    return RealtimeReport(tuple(steps))


def end_with_parent() -> None:
    """A child whose main process is gone would hold the sound card for ever, and no new main could open it."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def quiet_collector() -> Step:
    """No garbage collection from here on: what exists is frozen, what is made later must not form cycles."""
    gc.collect()
    gc.freeze()
    gc.disable()
    return Step("garbage collector off", True)


def exact_timers() -> Step:
    """Linux may wake a process 50 us late to save power; a FIFO process never, and with this no other."""
    return _ask("exact timers", lambda: _check(_libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)), "the kernel lacks PR_SET_TIMERSLACK")


def lock_memory() -> Step:
    """Nothing of this process is ever paged out. Under a finite limit it is not even tried: with MCL_FUTURE the allocation
    that reaches the limit would fail, minutes into a song."""
    what, remedy = "locked memory", "set LimitMEMLOCK=infinity in the unit, or `@audio - memlock unlimited` in /etc/security/limits.d"
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited and not _may_lock_without_limit():
        return Step(what, False, remedy)
    return _ask(what, lambda: _check(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE)), remedy)


def _may_lock_without_limit() -> bool:
    """Whether the process has CAP_IPC_LOCK."""
    cap_ipc_lock = 14
    try:
        with open("/proc/self/status") as status:
            effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return False
    return bool(int(effective, 16) >> cap_ipc_lock & 1)


def keep_to_core(core: int) -> Step:
    allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    remedy = f"cores {allowed} are there: set another, or CPUAffinity in the unit"
    return _ask(f"core {core}", lambda: os.sched_setaffinity(0, {core}), remedy)


def schedule_fifo(priority: int) -> Step:
    """Children do not inherit it: what a real-time process starts is not real-time by accident."""
    remedy = f"set LimitRTPRIO={priority} in the unit, or `@audio - rtprio {priority}` in /etc/security/limits.d"
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    return _ask(f"SCHED_FIFO {priority}", lambda: os.sched_setscheduler(0, policy, os.sched_param(priority)), remedy)


def _ask(what: str, ask: Callable[[], None], remedy: str) -> Step:
    try:
        ask()
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Step(what, False, f"{reason}: {remedy}")
    return Step(what, True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

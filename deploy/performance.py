"""What the whole machine is asked for while the pedal plays, and how it is given back.

    python -m deploy.performance start --config /etc/ghostnote/ghostnote.toml
    python -m deploy.performance stop

`start` asks each *tuning* in turn: clocks at their highest (nvpmodel and jetson_clocks on a Jetson, the CPU's governor elsewhere),
interrupts away from the pedal's cores. Each says in one line what it changed or why it did not, and what was there before is written
down first, so that `stop` can put it back even if `start` was cut short. A second `start` changes nothing that the first wrote down.

Runs in: its own process, as root, beside the service; never in the way of sound.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STATE = Path("/run/ghostnote-performance/before.json")
TOOL_SECONDS = 15.0
WANTED_MODES = ("MAXN_SUPER", "MAXN", "MODE_MAXN")  # of nvpmodel: everything on, best first
Say = Callable[[str], None]


@dataclass
class Before:
    """What was there: each value by the file, or the tool, that it goes back to. On disk before anything is changed."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    power_mode: str | None = None
    clocks: str | None = None

    @classmethod
    def read(cls, path: Path) -> Before:
        try:
            return cls(path, **json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return cls(path)

    def keep(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".new")
        aside.write_text(json.dumps({"files": self.files, "power_mode": self.power_mode, "clocks": self.clocks}))
        aside.replace(self.path)


@dataclass(frozen=True)
class Machine:
    """Where the machine's settings are; another root than / is a tree of a test or an image."""

    root: Path
    before: Before
    say: Say

    def write(self, path: Path, value: str) -> bool:
        """Set what the file holds, and remember what it held. False if the kernel refuses."""
        name = str(path.relative_to(self.root))
        try:
            held = path.read_text().strip()
            if held == value:
                return True
            if name not in self.before.files:
                self.before.files[name] = held
                self.before.keep()
            path.write_text(value)
        except OSError:
            return False
        return True

    def tool(self, name: str, *arguments: str) -> str | None:
        """What a tool printed; None where it is missing, fails, or asks questions (nvpmodel does before it reboots: it gets no answer)."""
        command = shutil.which(name)
        if command is None:
            return None
        try:
            done = subprocess.run([command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


def power_mode(machine: Machine) -> None:
    """Jetson: the power mode with all cores and clocks, if the board has one."""
    asked = machine.tool("nvpmodel", "-q")
    if asked is None:
        return machine.say("power mode: no nvpmodel here (not a Jetson)")
    now, wanted = _last_number(asked), best_power_mode(machine.root / "etc/nvpmodel.conf")
    if wanted is None or now is None:
        return machine.say("power mode: left as it is, nvpmodel names no MAXN mode")
    if wanted == now:
        return machine.say(f"power mode: {wanted} already")
    machine.before.power_mode = machine.before.power_mode or now
    machine.before.keep()
    done = machine.tool("nvpmodel", "-m", wanted) is not None
    return machine.say(f"power mode: {wanted} (was {now})" if done else f"power mode: stays {now}, {wanted} was refused or needs a reboot")


def best_power_mode(configuration: Path) -> str | None:
    """The number of the mode in nvpmodel's configuration that limits nothing."""
    try:
        modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\w+)\s*>", configuration.read_text())
    except OSError:
        return None
    numbers = {name: number for number, name in modes}
    return next((numbers[name] for name in WANTED_MODES if name in numbers), None)


def _last_number(text: str) -> str | None:
    numbers = [line.strip() for line in text.splitlines() if line.strip().isdecimal()]
    return numbers[-1] if numbers else None


def clocks(machine: Machine) -> None:
    """Jetson: CPU, GPU and memory at the highest clock of the power mode."""
    store = machine.before.path.with_name("jetson_clocks")
    if machine.before.clocks is None and machine.tool("jetson_clocks", "--store", str(store)) is None:
        return machine.say("jetson_clocks: not here (not a Jetson), or its state can't be stored")
    machine.before.clocks = str(store)
    machine.before.keep()
    done = machine.tool("jetson_clocks") is not None
    return machine.say("jetson_clocks: on" if done else "jetson_clocks: refused")


def governor(machine: Machine) -> None:
    """The CPU's clock does not wait for load."""
    paths = sorted(machine.root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))
    able = [path for path in paths if "performance" in _text(path.with_name("scaling_available_governors")).split()]
    if not able:
        return machine.say("governor: none to choose here")
    were = sorted({_text(path) for path in able})
    done = sum(machine.write(path, "performance") for path in able)
    return machine.say(f"governor: performance on {done} of {len(able)} cores (was {', '.join(were)})")


def interrupts(machine: Machine, cores: Sequence[int]) -> None:
    """Away from the pedal's cores, those of the sound card and its bus excepted: they wake the audio process."""
    others = sorted(_online(machine.root) - set(cores))
    if not cores or not others:
        reason = "no core is the pedal's own (realtime.audio_core, realtime.worker_core)" if not cores else "no other core is left"
        return machine.say(f"interrupts: left where they are, {reason}")
    moved = refused = 0
    for path in sorted(machine.root.glob("proc/irq/[0-9]*/smp_affinity_list")):
        if _allowed(_text(path)).isdisjoint(cores) or _wakes_audio(path.parent):
            continue
        if machine.write(path, ",".join(map(str, others))):
            moved += 1
        else:
            refused += 1
    kept = f", {refused} can't be moved" if refused else ""
    return machine.say(f"interrupts: {moved} moved away from cores {', '.join(map(str, sorted(cores)))}{kept}")


def _wakes_audio(irq: Path) -> bool:
    return any(re.search(r"xhci|ehci|snd|audio|usb", action.name) for action in irq.iterdir() if action.is_dir())


def _online(root: Path) -> set[int]:
    return _allowed(_text(root / "sys/devices/system/cpu/online"))


def _allowed(text: str) -> set[int]:
    """Cores of a list such as 0-2,5."""
    cores: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def own_cores(configuration: Path | None) -> list[int]:
    """The cores that [realtime] keeps for audio and engine."""
    try:
        realtime = tomllib.loads(configuration.read_text()).get("realtime", {}) if configuration else {}
    except (OSError, tomllib.TOMLDecodeError):  # the service itself says what is wrong with it
        realtime = {}
    named = (realtime.get(key, -1) for key in ("audio_core", "worker_core"))
    return sorted({core for core in named if isinstance(core, int) and core >= 0})


def start(machine: Machine, cores: Sequence[int]) -> None:
    power_mode(machine)
    clocks(machine)
    governor(machine)
    interrupts(machine, cores)


def stop(machine: Machine) -> None:
    """Everything back, in the opposite order."""
    before = machine.before
    back = sum(_put_back(machine.root / name, value) for name, value in reversed(before.files.items()))
    if before.files:
        machine.say(f"put back: {back} of {len(before.files)} settings")
    for what, tool, arguments in _tools_back(before):
        machine.say(f"{what}: {'put back' if machine.tool(tool, *arguments) is not None else 'could not be put back'}")
    before.path.unlink(missing_ok=True)


def _tools_back(before: Before) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if before.clocks is not None:
        yield "jetson_clocks", "jetson_clocks", ("--restore", before.clocks)
    if before.power_mode is not None:
        yield "power mode", "nvpmodel", ("-m", before.power_mode)


def _put_back(path: Path, value: str) -> bool:
    try:
        path.write_text(value)
    except OSError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("deploy.performance", description="Machine-wide performance while the pedal plays.")
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--config", type=Path, metavar="FILE", help="whose [realtime] names the pedal's cores")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="where sys, proc and etc are (default: /)")
    parser.add_argument("--state", type=Path, default=STATE, metavar="FILE", help="where what was there before is kept")
    a = parser.parse_args(argv)
    machine = Machine(a.root, Before.read(a.state), lambda line: print(line, flush=True))
    if a.action == "start":
        start(machine, own_cores(a.config))
    else:
        stop(machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())

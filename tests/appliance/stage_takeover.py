"""A pedal with real processes that plays a recording in real time, and a script of what happens to it meanwhile.

The first engine is `echo`, so that the wet bus is the input one delay later for as long as it sounds, to the last bit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.config import AudioConfig, RealtimeConfig, parse_config
from appliance.controls import Control, Turn
from appliance.main import RunOptions, Supervisor
from appliance.recorder import recorded
from appliance.report import Report
from appliance.slot import Slot, SlotState
from appliance.stats import Counter
from appliance.takeover import TakeoverState
from engines.bundle import REFERENCE, Bundle, write_bundle
from hw.file_audio import FileOptions, file_address
from tests.appliance.test_main import guitar

RATE, BLOCK = 44_100, 16_384
CLIP = Path(__file__).parents[2] / "appliance" / "samples" / "guit_em9.flac"
DARK_BLOCKS = 2
PATIENCE_SECONDS = 120.0
DELAY = 3 * BLOCK  # leaves an engine half a second of slack: tests that look for clicks and losses need no race
Wait = Callable[[], bool]
Script = Callable[[Supervisor], Iterator[Wait]]


@dataclass
class Story:
    """Runs a script at the ticks of the supervisor: what it yields is awaited, PATIENCE_SECONDS at most. The pedal stops when it ends."""

    script: Script
    seen: list[str] = field(default_factory=list)  # states of the takeover, as they changed
    turns: list[Turn] = field(default_factory=list)
    _steps: Iterator[Wait] | None = None
    _wait: Wait = lambda: True
    _since: float = field(default_factory=time.monotonic)

    def __call__(self, pedal: Supervisor) -> None:
        state, turn = pedal.takeover.state.value, Turn.of(pedal.controls.get(Control.TURN))
        self.seen += [state] if not self.seen or self.seen[-1] != state else []
        self.turns += [turn] if not self.turns or self.turns[-1] != turn else []
        if self._steps is None:
            self._steps = self.script(pedal)
        try:
            while self._wait():
                self._wait, self._since = next(self._steps), time.monotonic()
            assert time.monotonic() - self._since < PATIENCE_SECONDS, f"{self.script.__qualname__} waits for what does not come"
        except StopIteration:
            pedal.stop()
            self._wait = lambda: False


def play(
    folder: Path, script: Script, text: str = "", seconds: float = 90.0, real_guitar: bool = False
) -> tuple[Report, Supervisor, Story]:
    story = Story(script)
    wav, options = (CLIP, FileOptions(loop=True)) if real_guitar else (guitar(folder / "guitar.wav", seconds), FileOptions())
    config = parse_config(f'{text}\n[engine]\nbundle = "echo"\n[storage]\nfolder = "{folder}"\n[monitor]\nstatus = false', "test")
    config = replace(
        config,
        audio=AudioConfig(port=file_address(wav, options), periods=32, sample_format="FLOAT"),
        realtime=RealtimeConfig(priority=0),
        controls=replace(config.controls, delay_ms=1000 * DELAY / RATE),
    )
    options_ = RunOptions(wait_for_engine=True, record=folder, record_frames=round(seconds * RATE), on_tick=story)
    pedal = Supervisor(config, options_)
    pedal.takeover.dark_blocks = DARK_BLOCKS
    report = pedal.run()
    assert report.seconds < seconds - 1, f"the script did not come to its end: {story.seen}"
    return report, pedal, story


def reached(pedal: Supervisor, *states: TakeoverState) -> Wait:
    return lambda: pedal.takeover.state in states


def over(pedal: Supervisor) -> Wait:
    return reached(pedal, TakeoverState.DONE, TakeoverState.FAILED)


def played(pedal: Supervisor, blocks: float) -> Wait:
    until = pedal.counters.get(Counter.POSITION) + blocks * BLOCK
    return lambda: pedal.counters.get(Counter.POSITION) >= until


def active(pedal: Supervisor) -> Wait:
    return lambda: pedal.slot.state is SlotState.ACTIVE


def send(slot: Slot | None, how: signal.Signals) -> None:
    assert slot and slot.child.process
    os.kill(slot.child.process.pid, how)


def wet_and_dry(folder: Path, pedal: Supervisor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The wet bus and what was played, the second one delay later."""
    frames = pedal.counters.get(Counter.POSITION)
    dry, wet = recorded(folder, "dry", frames)[:, 0], recorded(folder, "wet", frames)
    return wet[DELAY:], dry[: frames - DELAY]


def second_bundle(path: Path, name: str = "second", memory_bytes: int | None = None, **engine: object) -> Path:
    """The reference engine under another name, with its prompts called otherwise and in another order."""
    bundle = Bundle.open(REFERENCE)
    facts = {key: value for key, value in bundle.manifest.facts.items() if key not in ("schema", "files")}
    prompts = [f"new {words}" for words in bundle.manifest.spec.prompts[:2]] + list(reversed(bundle.manifest.spec.prompts[2:]))
    facts |= {"name": name, "engine": {**facts["engine"], "name": name, "prompts": prompts, **engine}}
    if memory_bytes is not None:
        facts["memory_bytes"] = memory_bytes
    write_bundle(path, facts, {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files})
    return path


def leftovers(pedal: Supervisor) -> tuple[int, int, int]:
    """Children, open files and kilobytes of this process."""
    children = len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    resident = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return children, len(os.listdir("/proc/self/fd")), resident

"""Nothing that a player can do clicks: every knob, bypass, preset, freeze and engine switch, from the board's events to the amp's file.

The real audio loop plays a recording into a recording; the real worker answers, turn about with it. Guitar and engine are low tones, so
that the largest step from sample to sample is small by itself, and any click stands out of it. Allowed is 1 % of full scale more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.audio import AudioLoop
from appliance.config import parse_config
from appliance.controls import Control, Controls, Turn
from appliance.fit import Fit
from appliance.player import TURNED
from appliance.playing import Playing
from appliance.shared import SharedMemory, SlotFact
from appliance.stats import Counter
from appliance.worker import Worker
from engines.bundle import open_engine
from engines.engine import Audio, EngineControls, EngineSpec, Stamp, no_stamp
from hw.audio import open_audio
from hw.board import EXPRESSION, BoardEvent, ControlEvent, KnobEvent, SwitchEvent
from hw.file_audio import file_address, load_audio
from tests.appliance.rig import largest_step, sine

CLICK = 0.01  # 1 % of full scale
GUITAR = Path(__file__).parents[2] / "appliance" / "samples" / "guit_em9.flac"
RATE, BLOCK = 44_100, 4_096
SECONDS = 7.0
GUITAR_HZ, LOUD = 110.0, 0.25
PROMPTS = ("low", "high", "higher")
SPEC = EngineSpec("tones", RATE, BLOCK, 512, PROMPTS, 4, 8)


class ToneEngine:
    """Answers with a tone that the prompt chooses and that never breaks off: what clicks is not its doing."""

    def __init__(self, first_hz: float = 82.0, spec: EngineSpec = SPEC) -> None:
        self.spec, self._first_hz, self._phase, self._hz = spec, first_hz, 0.0, first_hz

    def reset(self, seed: int) -> None:
        self._phase = 0.0

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        if not controls.freeze:
            mean = controls.prompt * (1 - controls.morph) + controls.second_prompt * controls.morph
            self._hz = self._first_hz * (1 + 0.25 * mean + 0.1 * controls.stray)
        phases = self._phase + 2 * np.pi * self._hz / RATE * np.arange(1, BLOCK + 1)
        self._phase = float(phases[-1])
        stamp("encoded")
        stamp("decoded")
        return (LOUD * np.sin(phases)).astype(np.float32)

    def prefill(self, block: Audio) -> None:
        self._phase = 0.0


OWN_DRY = 2 * np.pi * GUITAR_HZ / RATE * LOUD
OWN_WET = 2 * np.pi * 82.0 * 1.6 / RATE * LOUD


class Pedal:
    """The pedal in one process: a period of the real audio loop, then whatever the worker can answer, then the board."""

    def __init__(self, folder: Path, text: str = "") -> None:
        soundfile.write(folder / "guitar.wav", sine(round(SECONDS * RATE), GUITAR_HZ, LOUD), RATE, "FLOAT")
        config = parse_config(f'{text}\n[storage]\nfolder = "{folder}"', "test")
        fit = Fit.of(config, SPEC)
        self.memory, self.amp = SharedMemory.create(fit.layout), folder / "amp.wav"
        self.playing = Playing(config, fit, self.memory, remember=True)
        self.controls = Controls(self.memory.controls)
        self.controls.set(Control.RUNNING, 1)
        self.port = open_audio(file_address(folder / "guitar.wav") + f"?out={self.amp}&paced=no", config.audio.format())
        self.loop = AudioLoop(self.port, self.memory, wet=fit.wet)
        self.worker: Worker | None = Worker(ToneEngine(), self.memory)
        self.second: Worker | None = None  # of the engine in the other slot
        self.said: list[str] = []

    @property
    def seconds(self) -> float:
        return self.loop.position / RATE

    def play(self, events: list[BoardEvent], happenings: list[tuple[float, Callable[[Pedal], None]]] | None = None) -> np.ndarray:
        """All of the guitar; what the amp gets."""
        events, happenings = sorted(events, key=lambda event: event.seconds), list(happenings or [])
        while self.loop.turn():
            for worker in (self.worker, self.second):
                while worker and (start := worker.pending()) is not None:
                    worker.turn(start)
            due = [event for event in events if event.seconds <= self.seconds]
            events = events[len(due) :]
            self.said += self.playing.take(due, self.seconds)
            while happenings and happenings[0][0] <= self.seconds:
                happenings.pop(0)[1](self)
        self.port.close()
        self.playing.end()
        assert self.loop.counters.get(Counter.SILENT_FRAMES) == 0
        return soundfile.read(self.amp, dtype="float32")[0]


def assert_no_click(amp: np.ndarray, own: float) -> None:
    assert largest_step(amp) <= own + CLICK, (largest_step(amp), own)
    assert np.sqrt(np.mean(amp**2)) > 0.02, "there was nothing to hear"


def sweep(start: float, seconds: float) -> list[tuple[float, float]]:
    """Up and down in steps of a tick, then from end to end at once, and back and forth as quickly as a board can report."""
    slow = [(start + at, 1 - abs(1 - 2 * at / seconds)) for at in np.arange(0, seconds, 0.01)]
    leaps = [(start + seconds + 0.2 * n, float(n % 2)) for n in range(1, 6)]
    flutter = [(start + seconds + 1.3 + 0.005 * n, 0.5 + 0.5 * (-1) ** n) for n in range(60)]
    return [*slow, *leaps, *flutter]


# Every parameter


@pytest.mark.parametrize("engine", ["on time", "absent"])
@pytest.mark.parametrize("control", TURNED)
def test_a_sweep(tmp_path: Path, control: str, engine: str) -> None:
    knobs = f'[knobs]\nexpression = "{control} 0 1"'
    pedal = Pedal(tmp_path, f'{knobs}\n[controls]\nrepeats = 0.4\nmix = 0.6\n[engine]\nsecond_prompt = "high"')
    if engine == "absent":
        pedal.worker = None
    amp = pedal.play([KnobEvent(seconds, EXPRESSION, position) for seconds, position in sweep(2.0, 2.0)])
    assert pedal.said == []
    assert_no_click(amp, (2 if control == "level" else 1) * own(engine, 0.95 if control == "repeats" else 0.4))


def own(engine: str, repeats: float) -> float:
    """What the signals have by themselves: side by side, and with the plain delay what it has collected in its repeats."""
    return OWN_DRY + OWN_WET if engine == "on time" else OWN_DRY * (1 + sum(repeats**n for n in range(12)))


@pytest.mark.parametrize("control", ["prompt", "second_prompt", "steps"])
def test_numbers(tmp_path: Path, control: str) -> None:
    pedal = Pedal(tmp_path, "[controls]\nmorph = 0.5")
    amp = pedal.play([ControlEvent(2.0 + 0.13 * n, control, float(n % 3)) for n in range(30)])
    assert pedal.said == []
    assert_no_click(amp, OWN_DRY + OWN_WET)


# Switches


@pytest.mark.parametrize("switch", ["bypass", "trails", "kill_dry", "freeze", "jam", "tuner"])
@pytest.mark.parametrize("bypass", ["trails = true", "trails = false", "kill_dry = true"])
@pytest.mark.parametrize("engine", ["on time", "absent"])
def test_a_switch(tmp_path: Path, switch: str, bypass: str, engine: str) -> None:
    pedal = Pedal(tmp_path, f"[controls]\nrepeats = 0.5\ntone = 0.3\n{bypass}")
    if engine == "absent":
        pedal.worker = None
    moments = [2.0 + 0.31 * n for n in range(12)] + [6.0 + 0.011 * n for n in range(20)]
    amp = pedal.play([ControlEvent(at, switch, float(n % 2 == 0)) for n, at in enumerate(moments)])
    assert_no_click(amp, own(engine, 0.5))


@pytest.mark.parametrize("engine", ["on time", "absent"])
def test_feet(tmp_path: Path, engine: str) -> None:
    """Presses, holds, taps and chords, as they come from a board."""
    pedal = Pedal(tmp_path, "[controls]\nrepeats = 0.5")
    if engine == "absent":
        pedal.worker = None
    feet: list[BoardEvent] = []
    for at, switch, seconds in [
        (2.0, 0, 0.1), (2.3, 0, 0.1), (2.6, 1, 0.1), (2.9, 1, 0.1), (3.2, 1, 0.8), (4.2, 0, 0.3), (4.25, 1, 0.3), (4.8, 0, 0.7),
        (5.8, 3, 0.1), (6.0, 3, 0.1), (6.2, 1, 0.05), (6.4, 1, 0.05), (6.6, 1, 0.05),
    ]:  # fmt: skip
        feet += [SwitchEvent(at, switch, True), SwitchEvent(at + seconds, switch, False)]
    assert_no_click(pedal.play(feet), own(engine, 0.5))
    assert pedal.playing.player.tempo.beat_seconds == pytest.approx(0.2)


@pytest.mark.parametrize("engine", ["on time", "absent"])
def test_presets(tmp_path: Path, engine: str) -> None:
    """From one extreme to another, and back before the first has settled."""
    pedal = Pedal(tmp_path)
    if engine == "absent":
        pedal.worker = None
    extremes = [
        {"mix": 0.0, "delay_ms": 300.0, "repeats": 0.0, "level": 0.3, "tone": 0.0, "prompt": 0.0},
        {"mix": 1.0, "delay_ms": 1500.0, "repeats": 0.6, "level": 1.0, "tone": 1.0, "prompt": 2.0},
        {"mix": 0.5, "delay_ms": 700.0, "repeats": 0.3, "level": 0.8, "tone": 0.5, "prompt": 1.0, "jam": 1.0, "stray": 1.0},
    ]
    events: list[BoardEvent] = []
    for number, sound in enumerate(extremes):
        events += [ControlEvent(0.1 + 0.01 * number, name, value) for name, value in sound.items()]
        events.append(ControlEvent(0.105 + 0.01 * number, "save", f"1.{number + 1}"))
    events += [ControlEvent(2.0 + 0.4 * n, "preset", float(n % 3)) for n in range(9)]
    events += [ControlEvent(5.8 + 0.02 * n, "preset", float(n % 3)) for n in range(30)]
    amp = pedal.play(events)
    assert sum("preset" in line for line in pedal.said) >= 42, pedal.said
    assert_no_click(amp, own(engine, 0.6))


# The engine is switched


def new_engine(pedal: Pedal) -> None:
    pedal.worker = Worker(ToneEngine(123.0), pedal.memory)


def no_engine(pedal: Pedal) -> None:
    pedal.worker = None


@pytest.mark.parametrize("absent_seconds", [0.0, 0.05, 0.4, 1.5])
def test_another_engine(tmp_path: Path, absent_seconds: float) -> None:
    """At once, or with a pause that the plain delay fills."""
    pedal = Pedal(tmp_path, "[controls]\nrepeats = 0.3\nmix = 0.7")
    happenings: list[tuple[float, Callable[[Pedal], None]]] = []
    for at in (1.7, 3.9):
        happenings += [(at, no_engine), (at + absent_seconds, new_engine)]
    amp = pedal.play([], happenings)
    assert_no_click(amp, max(own("on time", 0.3), own("absent", 0.3)) * 123.0 / 82.0)


def load_second(pedal: Pedal) -> None:
    """Another engine answers in the dark, with another codec; the player's words go to both."""
    memory, spec = pedal.memory.of(1), replace(SPEC, name="others", codec_delay_frames=1500, prompts=("high", "other"))
    memory.facts[SlotFact.CODEC_DELAY_FRAMES], memory.facts[SlotFact.TAKEN] = spec.codec_delay_frames, 1
    pedal.second = Worker(ToneEngine(123.0, spec), memory)
    pedal.playing.player.meet(spec, 1)


def turn_to_second(pedal: Pedal) -> None:
    player = pedal.playing.player
    assert pedal.second
    pedal.said += player.turn_to(player.fit.with_engine(pedal.playing.config, pedal.second.engine.spec), 1)
    pedal.controls.set(Control.TURN, Turn(1, (pedal.loop.position // BLOCK + 1) * BLOCK).value)


@pytest.mark.parametrize("dies_seconds", [None, 3.35, 3.62])
@pytest.mark.parametrize("moves", ["nothing", "knobs"])
def test_an_engine_takes_over(tmp_path: Path, dies_seconds: float | None, moves: str) -> None:
    """Faded to from the next block on; and lost again while that can be heard."""
    pedal = Pedal(tmp_path, "[controls]\nrepeats = 0.3\nmix = 0.7\ndelay_ms = 300")
    happenings: list[tuple[float, Callable[[Pedal], None]]] = [(1.7, load_second), (3.0, turn_to_second)]
    if dies_seconds:
        happenings += [(dies_seconds, lambda pedal: setattr(pedal, "second", None))]
    events = [ControlEvent(2.8 + 0.05 * n, name, value) for n in range(20) for name, value in (("time", n % 7 / 7), ("mix", n % 3 / 2))]
    amp = pedal.play(events if moves == "knobs" else [], happenings)
    assert_no_click(amp, (OWN_DRY + math.sqrt(2) * OWN_WET) * 123.0 / 82.0 / (1 - 0.3))
    assert pedal.loop.counters.get(Counter.SLOT) == 1 or dies_seconds
    assert pedal.said == ["prompt 'low' is unknown to engine 'others'; it knows: high, other"] or moves == "knobs"


def test_this_test_would_hear_a_click(tmp_path: Path) -> None:
    """A gain that falls by a tenth from one sample to the next."""
    amp = Pedal(tmp_path).play([])
    amp[2 * RATE + int(np.argmax(np.abs(amp[2 * RATE :]))) :] *= 0.9
    assert largest_step(amp) > OWN_DRY + OWN_WET + CLICK


# The shipped engine itself


def test_the_shipped_engine_goes_on_across_whatever_is_asked_of_it() -> None:
    """Where one block's answer meets the next, with freeze, jam, words and knobs moved in between: no larger step than within blocks."""
    engine = open_engine("reference", 1)
    block = engine.spec.block_frames
    played = load_audio(GUITAR, RATE, 1)[:, 0]
    engine.reset(1)
    answers = []
    for number in range(24):
        wishes = EngineControls(
            prompt=number // 3 % 4,
            second_prompt=5,
            morph=(number % 4) / 3,
            stray=(number % 5) / 4,
            freeze=number % 6 in (2, 3),
            jam=number % 7 > 4,
            steps=1 + number % 4,
        )
        start = number * block % (len(played) - block)
        answers.append(engine.generate(played[start : start + block], wishes))
    wet = np.concatenate(answers)
    steps = np.abs(np.diff(wet))
    seams = np.arange(1, len(answers)) * block - 1
    inside = np.delete(steps, seams)
    assert np.max(steps[seams]) <= np.max(inside) + CLICK
    assert np.max(steps[seams]) <= np.percentile(inside, 99.9) + CLICK  # and not only as large as the loudest attack has

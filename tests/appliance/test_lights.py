"""What the lights say, from how the pedal stands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from appliance.lights import LASTS_SECONDS, ClipLight, DeadlineColour, DeadlineLight, Stage, Standing, lights, stage
from appliance.slot import SlotState
from appliance.stats import Counter, Counters, WorkerCounter
from appliance.tuner import Reading
from hw.board import Colour, Light, Pattern
from tests.appliance.rig import LOST, Rig, Size, noise, sine

PLAYING = Standing(
    stage=Stage.ENGINE, slot=SlotState.ACTIVE, deadline=DeadlineColour.ON_TIME, clip=False, beat_seconds=0.5,
    press=("bypass", "tap", "next_preset", "jam"), hold=("tuner", "freeze", "none", "none"), on=frozenset(), saved=True, trails=True,
    preset="1.2 Choir",
)  # fmt: skip


# Progressive boot


def test_each_stage_of_the_start_has_its_colour() -> None:
    heard = [
        stage(False, 0, 100, SlotState.STARTING),
        stage(True, 50, 100, SlotState.STARTING),
        stage(True, 100, 100, SlotState.STARTING),
        stage(True, 100, 100, SlotState.READY),
        stage(True, 200, 100, SlotState.ACTIVE),
        stage(True, 300, 100, SlotState.DEAD),
    ]
    assert heard == [Stage.SILENT, Stage.DRY, Stage.DELAY, Stage.DELAY, Stage.ENGINE, Stage.DELAY]
    shown = [lights(replace(PLAYING, stage=one, slot=SlotState.STARTING)).status for one in Stage]
    assert shown == [Light(Colour.RED), Light(Colour.WHITE, Pattern.SLOW_BLINK), Light(Colour.BLUE, Pattern.SLOW_BLINK), Light(Colour.GREEN)]
    assert lights(replace(PLAYING, stage=Stage.DELAY, slot=SlotState.DEAD)).status == Light(Colour.BLUE, Pattern.FAST_BLINK)


# Switches


def test_switch_lights_show_what_is_on() -> None:
    assert lights(PLAYING).switches == (Light(Colour.GREEN), Light(), Light(Colour.WHITE), Light())
    busy = lights(replace(PLAYING, on=frozenset({"bypass", "freeze", "jam"}), saved=False))
    assert busy.switches == (Light(), Light(Colour.BLUE), Light(Colour.WHITE, Pattern.SLOW_BLINK), Light(Colour.VIOLET))
    assert lights(PLAYING).beat_seconds == 0.5 and lights(PLAYING).text == "1.2 Choir"


@pytest.mark.parametrize(
    ("cents", "left", "right"),
    [
        (-30.0, Light(Colour.AMBER, Pattern.FAST_BLINK), Light()),
        (-5.0, Light(Colour.AMBER), Light()),
        (-1.9, Light(Colour.GREEN), Light(Colour.GREEN)),
        (2.0, Light(Colour.GREEN), Light(Colour.GREEN)),
        (4.0, Light(), Light(Colour.AMBER)),
        (49.0, Light(), Light(Colour.AMBER, Pattern.FAST_BLINK)),
    ],
)
def test_the_tuner_takes_the_switch_lights_over(cents: float, left: Light, right: Light) -> None:
    tuning = replace(PLAYING, tuning=True, on=frozenset({"tuner"}), reading=Reading(110.0, "A2", cents))
    shown = lights(tuning)
    assert (shown.switches[0], shown.switches[-1]) == (left, right) and shown.beat_seconds == 0
    assert shown.text == f"A2 {cents:+.0f} cents"
    assert not any(light.colour for light in lights(replace(tuning, reading=None)).switches)


def test_the_relay_is_asked_for_in_true_bypass_only() -> None:
    bypassed = replace(PLAYING, on=frozenset({"bypass"}))
    assert lights(replace(bypassed, trails=False)).relay_bypass
    assert not lights(bypassed).relay_bypass  # trails ring out through the pedal
    assert not lights(replace(bypassed, trails=False, on=frozenset({"bypass", "kill_dry"}))).relay_bypass
    assert not lights(replace(bypassed, trails=False, tuning=True)).relay_bypass
    assert not lights(replace(PLAYING, trails=False)).relay_bypass


# The deadline light and the clip light, on the real audio loop


def engine_on_time(latency: int | None = 0, **controls: float) -> Rig:
    frames = 30 * 2048
    return Rig(noise(frames, 1, 0.3), sine(frames, 220), Size(), **controls)


def test_the_deadline_light_is_dark_without_an_engine_and_green_on_time() -> None:
    rig = engine_on_time()
    light = DeadlineLight(rig.memory)
    rig.play(200)
    assert light.judge(0.0, SlotState.STARTING) is DeadlineColour.DARK
    assert light.judge(1.0, SlotState.ACTIVE) is DeadlineColour.ON_TIME


def test_a_late_block_is_red_for_a_while() -> None:
    rig = engine_on_time()
    light = DeadlineLight(rig.memory)
    light.judge(0.0, SlotState.ACTIVE)
    rig.play(300, {8: LOST})
    assert rig.count(Counter.LATE_BLOCKS) == 1
    assert light.judge(5.0, SlotState.ACTIVE) is DeadlineColour.FALLBACK
    assert light.judge(5.0 + LASTS_SECONDS - 0.01, SlotState.ACTIVE) is DeadlineColour.FALLBACK
    assert light.judge(5.0 + LASTS_SECONDS, SlotState.ACTIVE) is DeadlineColour.ON_TIME


def test_what_was_late_before_the_engine_was_there_is_no_fault() -> None:
    rig = engine_on_time()
    light = DeadlineLight(rig.memory)
    rig.play(300, dict.fromkeys(range(20), LOST))
    assert light.judge(1.0, SlotState.STARTING) is DeadlineColour.DARK
    assert light.judge(1.1, SlotState.ACTIVE) is DeadlineColour.ON_TIME


@pytest.mark.parametrize(("left", "colour"), [(0.5, DeadlineColour.ON_TIME), (0.25, DeadlineColour.ON_TIME), (0.1, DeadlineColour.CLOSE)])
def test_little_slack_is_amber(left: float, colour: DeadlineColour) -> None:
    rig = engine_on_time()
    light = DeadlineLight(rig.memory)
    rig.play(300)
    for row in rig.memory.ledger:
        if row["start"] >= 0:
            row["written"] = row["due"] - left * (row["due"] - row["captured"])
    assert light.judge(1.0, SlotState.ACTIVE) is colour


def test_shed_steps_are_amber() -> None:
    rig = engine_on_time()
    light, worker = DeadlineLight(rig.memory), Counters(rig.memory.worker_counters)
    assert light.judge(1.0, SlotState.ACTIVE) is DeadlineColour.ON_TIME
    worker.add(WorkerCounter.SHED, 1)
    assert light.judge(2.0, SlotState.ACTIVE) is DeadlineColour.CLOSE
    assert light.judge(2.0 + LASTS_SECONDS, SlotState.ACTIVE) is DeadlineColour.ON_TIME


def test_the_clip_light_tells_of_the_input_and_of_the_output() -> None:
    quiet = engine_on_time(mix=0.5)
    light = ClipLight(quiet.memory)
    quiet.play(200)
    assert not light.judge(1.0)
    frames = 30 * 2048
    loud_in = np.full(frames, 0.5, np.float32)
    loud_in[100 * 128 + 7] = -1.0
    for rig in (Rig(loud_in, sine(frames, 220), mix=0.0), Rig(np.full(frames, 0.9, np.float32), np.full(frames, 0.9, np.float32), mix=0.5)):
        light = ClipLight(rig.memory)
        rig.play(200)
        assert light.judge(1.0) and light.judge(1.2) and not light.judge(1.31)

"""What the lights say, from how the pedal stands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from appliance.deadline import Health
from appliance.lights import ClipLight, Stage, Standing, lights, stage
from appliance.slot import SlotState
from appliance.tuner import Reading
from hw.board import Colour, Light, Pattern
from tests.appliance.rig import Rig, Size, noise, sine

PLAYING = Standing(
    stage=Stage.ENGINE, slot=SlotState.ACTIVE, deadline=Health.ON_TIME, clip=False, beat_seconds=0.5,
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
    slowly = Pattern.SLOW_BLINK
    assert shown == [Light(Colour.RED), Light(Colour.WHITE, slowly), Light(Colour.BLUE, slowly), Light(Colour.GREEN)]
    assert lights(replace(PLAYING, stage=Stage.DELAY, slot=SlotState.DEAD)).status == Light(Colour.BLUE, Pattern.FAST_BLINK)


def test_an_engine_without_a_certificate_is_amber_for_as_long_as_it_plays() -> None:
    assert lights(replace(PLAYING, certified=False)).status == Light(Colour.AMBER)
    delay = replace(PLAYING, certified=False, stage=Stage.DELAY, slot=SlotState.STARTING)
    assert lights(delay).status == Light(Colour.BLUE, Pattern.SLOW_BLINK)


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


# The deadline light, and the clip light on the real audio loop


def engine_on_time(latency: int | None = 0, **controls: float) -> Rig:
    frames = 30 * 2048
    return Rig(noise(frames, 1, 0.3), sine(frames, 220), Size(), **controls)


@pytest.mark.parametrize(
    ("health", "colour"),
    [(None, Colour.OFF), (Health.ON_TIME, Colour.GREEN), (Health.CLOSE, Colour.AMBER), (Health.FALLBACK, Colour.RED)],
)
def test_the_deadline_light_shows_what_the_monitor_judges(health: Health | None, colour: Colour) -> None:
    assert lights(replace(PLAYING, deadline=health)).deadline == Light(colour)


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

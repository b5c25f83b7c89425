"""The player's wishes: from configuration and events to controls."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.config import Config, ConfigError, parse_config
from appliance.controls import Control, Controls, Tuning
from appliance.fit import Fit
from appliance.player import TURNED, Player, find_prompt
from appliance.presets import Sound
from engines.engine import EngineSpec
from hw.board import CONTROL_NAMES, ControlEvent

SPEC = EngineSpec("toy", 44_100, 16_384, 1_024, ("string ensemble", "choir", "church organ", "grand piano"), 4, 8)
SHORTEST = 16_384 + 1_024 + 8_192


def player(text: str = "") -> Player:
    config = parse_config(text, "test")
    one = Player(Controls(np.zeros(64)), Fit.of(config, SPEC))
    one.start(config)
    return one


def after(one: Player, control: str, value: float | str, seconds: float = 0.0) -> str | None:
    return one.apply(ControlEvent(seconds, control, value))


def test_the_configuration_comes_first() -> None:
    one = player('[controls]\nmix = 0.25\nkill_dry = true\ndelay_ms = 1000\n[engine]\nprompt = "choir"\nsteps = 2')
    values = {Control.MIX: 0.25, Control.KILL_DRY: 1, Control.TRAILS: 1, Control.DELAY_FRAMES: 44_100, Control.PROMPT: 1, Control.STEPS: 2}
    assert {control: one.controls.get(control) for control in values} == values
    assert one.prompt == "choir"


@pytest.mark.parametrize(("delay_ms", "frames"), [(0, SHORTEST), (100, SHORTEST), (1_000, 44_100), (6_000, 264_600)])
def test_a_delay_is_never_shorter_than_the_engine_needs(delay_ms: float, frames: int) -> None:
    one = player()
    assert after(one, "delay_ms", delay_ms) is None
    assert one.controls.get(Control.DELAY_FRAMES) == frames


def test_taps_set_the_delay() -> None:
    one = player()
    for beat in range(4):
        after(one, "tap", 1, 10 + 0.8 * beat)
    assert one.controls.get(Control.DELAY_FRAMES) == pytest.approx(0.8 * 44_100, abs=2)
    after(one, "subdivision", "1/8.")
    assert one.controls.get(Control.DELAY_FRAMES) == pytest.approx(0.6 * 44_100, abs=2)
    after(one, "subdivision", "1/8")  # 0.4 s is too short for the engine: its double
    assert one.controls.get(Control.DELAY_FRAMES) == pytest.approx(0.8 * 44_100, abs=2)


@pytest.mark.parametrize(
    ("wish", "index"),
    [
        ("choir", 1),
        (" Church  ORGAN ".replace("  ", " "), 2),
        ("organ", 2),
        ("piano", 3),
        ("ensemble string", 0),
        ("3", 3),
        (2, 2),
        (1.0, 1),
    ],
)
def test_prompts(wish: str | float, index: int) -> None:
    assert find_prompt(wish, SPEC) == index


@pytest.mark.parametrize(("wish", "says"), [("chior", "did you mean 'choir'"), ("4", "it knows: string"), ("kazoo", "it knows: string")])
def test_an_unknown_prompt_names_the_known(wish: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_prompt(wish, SPEC)
    with pytest.raises(ConfigError, match="unknown to engine 'toy'"):
        player(f'[engine]\nprompt = "{wish}"')


def test_every_event_that_a_board_knows_does_something() -> None:
    values = {"prompt": "choir", "second_prompt": "choir", "subdivision": "1/8", "steps": 3, "delay_ms": 2_000, "tap": 1}
    for name in set(CONTROL_NAMES) - {"preset", "bank", "save"}:  # these are for appliance/playing.py
        one = player()
        before = one.controls.values.copy(), one.subdivision, one.tempo._last
        assert after(one, name, values.get(name, 0.0 if name in ("trails", "level", "mix") else 0.6)) is None
        assert (one.controls.values != before[0]).any() or (one.subdivision, one.tempo._last) != before[1:], name


@pytest.mark.parametrize(
    ("control", "value"), [("mix", 1.5), ("repeats", 1.0), ("delay_ms", 99_999), ("prompt", "kazoo"), ("subdivision", "1/5"), ("volume", 1)]
)
def test_what_cannot_be_done_is_said_and_changes_nothing(control: str, value: float | str) -> None:
    one = player()
    before = one.controls.values.copy()
    line = after(one, control, value, 2.5)
    assert line and line.startswith("board, 2.500 s: ") and "\n" not in line
    assert np.array_equal(one.controls.values, before)


def misfit(text: str, spec: EngineSpec = SPEC) -> str:
    with pytest.raises(ConfigError) as caught:
        Fit.of(parse_config(text, "test"), spec)
    return str(caught.value)


def test_what_does_not_go_together_is_refused() -> None:
    assert "rate_hz = 48000, but engine 'toy' plays at 44100" in misfit("[audio]\nrate_hz = 48000")
    assert "period_frames = 100 does not divide the engine's block of 16384" in misfit("[audio]\nperiod_frames = 100")
    assert "budget_ms = 20 leaves no time: use more than 23" in misfit("[engine]\nbudget_ms = 20")


def test_the_rings_hold_the_longest_delay() -> None:
    fit = Fit.of(Config(), SPEC)
    assert fit.delays.shortest_frames == SHORTEST
    assert fit.delays.longest_frames >= 6 * 44_100 + SPEC.codec_delay_frames


# Knobs


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("position", [0.0, 0.2, 0.5, 1.0])
def test_a_knob_that_is_turned_stands_where_it_was_turned_to(name: str, position: float) -> None:
    one = player()
    one.turn(name, position)
    assert one.position(name) == pytest.approx(position, abs=2e-5)


@pytest.mark.parametrize("name", TURNED)
def test_a_knob_has_ends(name: str) -> None:
    one = player()
    for position in (-5.0, float("nan"), 7.0):
        one.turn(name, position)
        assert one.position(name) in (pytest.approx(0.0, abs=1e-6), pytest.approx(1.0, abs=1e-6))


def test_the_time_knob_goes_from_the_shortest_to_the_longest_delay() -> None:
    one = player()
    for position, frames in ((0.0, SHORTEST), (1.0, one.fit.delays.longest_frames)):
        one.turn("time", position)
        assert one.controls.get(Control.DELAY_FRAMES) == frames


def test_a_delay_that_was_not_tapped_is_the_beat() -> None:
    one = player("[controls]\ndelay_ms = 1000")
    assert one.beat_seconds == pytest.approx(1.0, abs=1e-4)
    for beat in range(3):
        after(one, "tap", 1, 10 + 0.8 * beat)
    after(one, "subdivision", "1/2")
    assert one.beat_seconds == pytest.approx(0.8) and one.delay_ms == pytest.approx(1600, abs=0.1)
    after(one, "delay_ms", 2000.0)
    assert one.beat_seconds == pytest.approx(2.0, abs=1e-4)


def test_the_tuner_mutes_as_configured() -> None:
    for text, tuning in (("", Tuning.MUTE), ("[tuner]\nmute = false", Tuning.DRY)):
        one = player(text)
        after(one, "tuner", 1.0)
        assert one.controls.get(Control.TUNER) == tuning
        after(one, "tuner", 0.0)
        assert one.controls.get(Control.TUNER) == Tuning.OFF


# Whole sounds


def test_a_sound_comes_back_as_it_was() -> None:
    one = player()
    moved: dict[str, float | str] = {"mix": 0.3, "repeats": 0.7, "tone": 0.1, "jam": 1.0, "prompt": "organ", "second_prompt": 1.0}
    for name, value in moved.items():
        after(one, name, value)
    after(one, "delay_ms", 987.654)
    kept, values = one.sound(), one.controls.values.copy()
    other = player()
    assert other.play(kept) == [] and other.sound() == kept
    assert np.allclose(other.controls.values, values)


def test_a_prompt_that_this_engine_does_not_know_is_said_and_kept() -> None:
    one = player('[engine]\nprompt = "choir"')
    foreign = Sound(prompt="glass harmonica", mix=0.9)
    assert len(one.play(foreign)) == 1 and one.prompt == "choir" and one.controls.get(Control.MIX) == 0.9
    assert one.sound().prompt == "glass harmonica"
    after(one, "prompt", "organ")
    assert one.sound().prompt == "church organ"


def test_a_press_that_is_taken_back_leaves_what_a_knob_moved_since() -> None:
    one = player()
    before = one.remember()
    after(one, "bypass", 1.0)
    after(one, "tap", 1, 3.0)
    after(one, "mix", 0.9)
    done = one.remember()
    after(one, "mix", 0.2)
    one.take_back(before, done)
    assert not one.on("bypass") and one.tempo._last is None and one.controls.get(Control.MIX) == 0.2

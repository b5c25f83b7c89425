"""What switches and knobs mean, through the player to the controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import ConfigError, parse_config
from appliance.consent import Consent
from appliance.controls import Control, Controls
from appliance.fit import Fit
from appliance.player import TURNED, Player
from appliance.surface import ACTIONS, Expression, SoftTakeover, Surface
from engines.engine import EngineSpec
from hw.board import EXPRESSION, ControlEvent, KnobEvent, SwitchEvent

SPEC = EngineSpec("toy", 44_100, 16_384, 1_024, ("string ensemble", "choir", "church organ"), 4, 8)


class Bench:
    """A surface on a table: what it cannot hand to the player itself is kept in `others`."""

    def __init__(self, text: str = "") -> None:
        config = parse_config(text, "test")
        self.player = Player(Controls(np.zeros(64)), Fit.of(config, SPEC))
        self.player.start(config)
        self.others: list[ControlEvent] = []
        self.surface = Surface(config, self.player, self._apply, Consent(60.0))

    def _apply(self, event: ControlEvent) -> None:
        if event.control in ("preset", "bank", "save"):
            self.others.append(event)
        else:
            assert self.player.apply(event) is None

    def foot(self, *moves: tuple[float, int, bool]) -> Bench:
        for move in moves:
            self.surface.move(SwitchEvent(*move))
        return self

    def tap(self, seconds: float, switch: int) -> Bench:
        return self.foot((seconds, switch, True), (seconds + 0.05, switch, False))

    def turn(self, knob: int, *positions: float) -> Bench:
        for position in positions:
            self.surface.move(KnobEvent(1.0, knob, position))
        return self

    def get(self, control: Control) -> float:
        return self.player.controls.get(control)


# Switches


def test_bypass_and_jam_toggle_on_the_way_down() -> None:
    bench = Bench()
    for switch, name in ((0, "bypass"), (3, "jam")):
        bench.foot((1.0, switch, True))
        assert bench.player.on(name)
        bench.foot((1.1, switch, False))
        assert bench.player.on(name)
        assert not bench.tap(2.0, switch).player.on(name)


def test_a_hold_of_the_tap_switch_freezes_until_the_release() -> None:
    bench = Bench().foot((1.0, 1, True))
    bench.surface.advance(1.49)
    assert not bench.player.on("freeze")
    bench.surface.advance(1.51)
    assert bench.player.on("freeze")
    assert not bench.foot((4.0, 1, False)).player.on("freeze")


def test_taps_set_the_tempo() -> None:
    bench = Bench()
    for beat in range(4):
        bench.tap(10 + 0.75 * beat, 1)
    assert bench.player.beat_seconds == pytest.approx(0.75)
    assert bench.get(Control.DELAY_FRAMES) == pytest.approx(0.75 * 44_100, abs=2)


def test_two_switches_together_are_the_next_bank_and_nothing_else() -> None:
    bench = Bench()
    values = bench.player.controls.values.copy()
    bench.foot((1.0, 0, True), (1.04, 1, True), (3.0, 1, False), (3.1, 0, False))
    assert bench.others == [ControlEvent(1.04, "bank", "next")]
    assert np.array_equal(bench.player.controls.values, values) and bench.player.tempo._last is None
    bench.foot((5.0, 3, True), (5.01, 2, True))
    assert bench.others[1:] == [ControlEvent(5.01, "save", "new")]


def test_a_chord_that_means_nothing_does_nothing() -> None:
    bench = Bench().foot((1.0, 0, True), (1.02, 2, True))
    assert bench.others == [] and not bench.player.on("bypass")


def test_a_hold_of_bypass_is_the_tuner_and_any_switch_ends_it() -> None:
    bench = Bench().foot((1.0, 0, True))
    assert bench.player.on("bypass")
    bench.surface.advance(1.6)
    assert bench.player.on("tuner") and not bench.player.on("bypass")  # who tunes did not want the bypass
    bench.foot((3.0, 0, False))
    assert bench.player.on("tuner")
    bench.tap(5.0, 3)
    assert not bench.player.on("tuner") and not bench.player.on("jam")
    assert bench.tap(6.0, 3).player.on("jam")


def test_a_double_press_where_it_is_turned_on() -> None:
    bench = Bench('[switches]\ndouble = "next_preset"').tap(1.0, 0).tap(1.2, 0)
    assert not bench.player.on("bypass") and bench.others == [ControlEvent(1.2, "preset", "next")]
    bench = Bench().tap(1.0, 0).tap(1.2, 0)
    assert not bench.player.on("bypass") and bench.others == []  # two presses, there and back


def test_prompts_step_round() -> None:
    bench = Bench('[switches]\npress = "next_prompt previous_prompt"')
    heard = []
    for second in range(4):
        bench.tap(10.0 + second, 0)
        heard.append(bench.player.prompt)
    assert heard == ["choir", "church organ", "string ensemble", "choir"]
    assert bench.tap(20.0, 1).player.prompt == "string ensemble"


def test_a_switch_that_is_not_configured_does_nothing() -> None:
    bench = Bench('[switches]\npress = "bypass"\nhold = ""\nchords = ""')
    values = bench.player.controls.values.copy()
    bench.tap(1.0, 2).tap(2.0, 9).foot((3.0, 1, True), (3.01, 2, True))
    assert np.array_equal(bench.player.controls.values, values) and not bench.others


@pytest.mark.parametrize("action", [action for action in ACTIONS if not action.startswith("save")])
def test_every_action_can_be_a_press(action: str) -> None:
    bench = Bench(f'[switches]\npress = "{action}"')
    before = bench.player.controls.values.copy(), bench.player.tempo._last
    bench.tap(1.0, 0)
    after = bench.player.controls.values, bench.player.tempo._last
    changed = (before[0] != after[0]).any() or before[1] != after[1] or bool(bench.others)
    assert changed == (action != "none")


@pytest.mark.parametrize(
    "text",
    [
        '[switches]\npress = "bipass"',
        '[switches]\npress = "save"',
        '[knobs]\npots = "mix volume"',
        '[knobs]\nexpression = "volume"',
        '[knobs]\nexpression = "mix 0 2"',
        '[knobs]\nexpression = "mix 0"',
        '[knobs]\nexpression = "mix a b"',
        '[knobs]\nexpression = "none 0 1"',
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Bench(text)
    assert "\n" not in str(caught.value) and "use" in str(caught.value)


# Knobs


def test_a_knob_takes_hold_where_it_passes_the_value() -> None:
    bench = Bench("[controls]\nmix = 0.6")
    assert bench.turn(0, 0.1, 0.3, 0.5).get(Control.MIX) == 0.6
    assert bench.turn(0, 0.7).get(Control.MIX) == pytest.approx(0.7)  # passed it
    assert bench.turn(0, 0.2).get(Control.MIX) == pytest.approx(0.2)  # has hold of it
    bench.player.apply(ControlEvent(2.0, "mix", 0.9))  # a preset, say
    assert bench.turn(0, 0.21, 0.5).get(Control.MIX) == 0.9
    assert bench.turn(0, 0.895).get(Control.MIX) == pytest.approx(0.895)  # near enough


def test_without_soft_takeover_a_knob_is_followed_at_once() -> None:
    bench = Bench("[controls]\nmix = 0.6\n[knobs]\nsoft_takeover = false")
    assert bench.turn(0, 0.1).get(Control.MIX) == pytest.approx(0.1)


def test_the_time_knob_holds_on_although_frames_are_whole() -> None:
    bench = Bench().turn(1, 0.0)
    for position in np.linspace(0, 1, 50):
        bench.turn(1, float(position))
        assert bench.player.position("time") == pytest.approx(position, abs=2e-5)


def test_the_expression_pedal_moves_a_part_of_anything() -> None:
    for control in TURNED:
        bench = Bench(f'[knobs]\nexpression = "{control} 0.8 0.2"')
        for pedal, position in ((0.0, 0.8), (0.5, 0.5), (1.0, 0.2)):
            bench.turn(EXPRESSION, pedal)
            assert bench.player.position(control) == pytest.approx(position, abs=1e-4)
    assert Expression.parse("none") is None and Expression.parse("") is None
    assert Expression.parse("morph") == Expression("morph", 0.0, 1.0)


def test_a_knob_that_nobody_configured_does_nothing() -> None:
    bench = Bench('[knobs]\npots = "mix none"')
    values = bench.player.controls.values.copy()
    bench.turn(1, 0.0, 1.0).turn(5, 0.0, 1.0).turn(EXPRESSION, 0.0, 1.0).turn(77, 0.5)
    assert np.array_equal(bench.player.controls.values, values)


@given(start=st.floats(0, 1), way=st.lists(st.floats(0, 1), max_size=30))
def test_a_value_never_jumps_under_a_knob(start: float, way: list[float]) -> None:
    """What a knob sets is never further from the last value than the knob has just moved (or the little that counts as there)."""
    knob, value, last = SoftTakeover(), start, None
    for position in way:
        if knob.takes(position, value):
            moved = 0.0 if last is None else abs(position - last)
            assert abs(position - value) <= max(moved, 0.015) + 1e-9
            value = position
        last = position


@given(start=st.floats(0, 1), steps=st.integers(2, 200))
def test_a_knob_that_goes_all_the_way_takes_hold(start: float, steps: int) -> None:
    knob, value = SoftTakeover(), start
    for position in np.linspace(0, 1, steps):
        if knob.takes(float(position), value):
            value = float(position)
    assert value == 1.0

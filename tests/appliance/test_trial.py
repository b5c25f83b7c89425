"""When a new engine is good, and when it must go; and how somebody at the pedal agrees. No processes, no clocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.consent import HOLD_SECONDS, Consent
from appliance.lights import Stage, lights
from appliance.lights import Standing as Shown
from appliance.slot import SlotState
from appliance.trial import FUTILE_STARTS, SETTLE_SECONDS, Glance, Rules, Standing, Trial, Verdict
from hw.board import Colour, Light, Pattern, SwitchEvent
from tests.appliance.test_surface import Bench

RULES = Rules(healthy_seconds=60.0, late_blocks=2, ready_seconds=20.0)
FIRST = Glance(100.0, 0, False, 0, 5, 0)


class Course:
    """A pedal whose glances follow one another each second."""

    def __init__(self, trial: Trial | Standing) -> None:
        self.trial, self.now = trial, FIRST

    def go(self, seconds: int, ready: bool = True, late: int = 0, answered: int = 3, flows: bool = True) -> tuple[Verdict, str]:
        """So long, with all of `late` in the first second. The first verdict that says something, or the last."""
        verdict = Verdict.WAIT, ""
        for second in range(seconds):
            at, now = self.now, self.now.seconds + 1.0
            late_now = at.late + (late if second == 0 else 0)
            self.now = Glance(now, at.periods + 344 * flows, ready, at.deaths, late_now, at.answered + answered * ready)
            verdict = self.trial.judge(self.now)
            if verdict[0] is not Verdict.WAIT:
                break
        return verdict

    def die(self) -> tuple[Verdict, str]:
        self.now = replace(self.now, seconds=self.now.seconds + 0.1, ready=False, deaths=self.now.deaths + 1)
        return self.trial.judge(self.now)


@pytest.fixture
def course() -> Course:
    return Course(Trial(RULES, FIRST))


def test_healthy_minutes_make_it_good(course: Course) -> None:
    assert course.go(15, ready=False) == (Verdict.WAIT, "")
    assert course.go(58) == (Verdict.WAIT, "")
    assert course.go(10) == (Verdict.GOOD, "1 minutes on time")
    assert course.now.seconds - FIRST.seconds == pytest.approx(15 + 60 + SETTLE_SECONDS, abs=2)


def test_only_time_in_which_it_plays_counts(course: Course) -> None:
    for _ in range(5):
        course.go(10)
        assert course.go(100, flows=False)[0] is Verdict.WAIT, "no sound card"
        assert course.go(100, answered=0)[0] is Verdict.WAIT, "it answers nothing"
    course.now = replace(course.now, seconds=course.now.seconds + 1000, periods=10**6, answered=10**6)
    assert course.trial.judge(course.now)[0] is Verdict.WAIT, "nobody looked"
    assert course.go(30)[0] is Verdict.GOOD


def test_a_death_is_the_end_of_it(course: Course) -> None:
    course.go(30)
    assert course.die() == (Verdict.BACK, "its process died")


def test_late_blocks_are_counted_from_when_it_had_settled(course: Course) -> None:
    assert course.go(10, ready=False, late=50)[0] is Verdict.WAIT
    assert course.go(2, late=20)[0] is Verdict.WAIT
    assert course.go(10)[0] is Verdict.WAIT
    assert course.go(10, late=2)[0] is Verdict.WAIT
    assert course.go(1, late=1) == (Verdict.BACK, "3 blocks were late, 2 are allowed")


def test_an_engine_that_is_never_ready_goes(course: Course) -> None:
    assert course.go(40, ready=False) == (Verdict.BACK, "it was not ready after 20 s")


def test_one_that_has_been_good_goes_only_if_it_cannot_be_started() -> None:
    course = Course(Standing(RULES, FIRST))
    assert course.go(100, late=99)[0] is Verdict.WAIT
    assert [course.die()[0] for _ in range(5)] == [Verdict.WAIT] * 5, "it is started again, as ever"
    futile = Course(Standing(RULES, FIRST))
    verdicts = [futile.die()[0] for _ in range(FUTILE_STARTS)]
    assert verdicts == [Verdict.WAIT] * (FUTILE_STARTS - 1) + [Verdict.BACK]
    assert Course(Standing(RULES, FIRST)).go(40, ready=False)[0] is Verdict.BACK


# Consent


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def consent() -> tuple[Consent, Clock]:
    clock = Clock()
    return Consent(60.0, clock), clock


def test_a_question_stands_for_a_while_and_one_answer_is_enough() -> None:
    one, clock = consent()
    one.agree()
    assert not one.given, "nothing was asked"
    one.ask("activate choir?")
    assert one.asked and not one.given
    clock.now += 59
    one.press(5.0)
    one.advance(5.0 + HOLD_SECONDS - 0.01)
    assert not one.given
    one.advance(5.0 + HOLD_SECONDS)
    assert one.given and not one.asked
    one.ask("and another?")
    assert one.asked and not one.given, "each question by itself"
    clock.now += 61
    one.agree()
    assert not one.asked and not one.given, "too late"


def test_a_foot_that_lets_go_has_not_agreed() -> None:
    one, _ = consent()
    one.ask("?")
    one.press(5.0)
    one.release()
    one.advance(50.0)
    assert not one.given


class Foot(Bench):
    now = 10.0


def held(pedal: Foot, switch: int, seconds: float) -> None:
    """A foot on a switch for so long."""
    pedal.surface.move(SwitchEvent(pedal.now, switch, True))
    until = pedal.now + seconds
    while pedal.now < until:
        pedal.now += 0.01
        pedal.surface.advance(pedal.now)
    pedal.surface.move(SwitchEvent(pedal.now, switch, False))


def test_the_last_switch_held_agrees_and_what_its_press_did_is_taken_back() -> None:
    pedal = Foot()
    pedal.surface.consent.ask("activate choir?")
    held(pedal, 0, 3.0)
    held(pedal, 3, HOLD_SECONDS - 0.2)
    assert not pedal.surface.consent.given, "another switch, or too short"
    held(pedal, 3, HOLD_SECONDS + 0.1)
    assert pedal.surface.consent.given and not pedal.player.on("jam")


def test_without_a_question_the_switch_means_what_it_always_means() -> None:
    pedal = Foot()
    held(pedal, 3, 4.0)
    assert not pedal.surface.consent.given and pedal.player.on("jam")
    pedal.surface.consent.ask("?")
    assert not pedal.surface.consent.given, "a foot that was there before has agreed to nothing"


def test_the_light_of_the_last_switch_blinks_while_a_question_stands() -> None:
    press, hold = ("bypass", "tap", "next_preset", "jam"), ("none",) * 4
    base = Shown(Stage.ENGINE, SlotState.ACTIVE, None, False, 0.5, press, hold, frozenset(), True, True, "1.1")
    quiet, asking = lights(base), lights(replace(base, question="activate choir?"))
    assert asking.switches[3] == Light(Colour.AMBER, Pattern.FAST_BLINK) and asking.text == "activate choir?"
    assert asking.switches[:3] == quiet.switches[:3] and quiet.text == "1.1" and quiet.switches[3] == Light()

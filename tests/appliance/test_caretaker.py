"""Engines change while a real pedal plays, by orders as a shell or the page would send them; what goes wrong goes back by itself.

The engines are the shipped one under other names. The board is none, so that who orders agrees by word.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.config import AudioConfig, Config, ConfigError, RealtimeConfig, parse_config
from appliance.main import RunOptions, Supervisor
from appliance.orders import OrderError, send
from appliance.report import Report
from appliance.slot import SlotState
from appliance.store import CURRENT, PREVIOUS, Store
from engines.bundle import REFERENCE
from hw.board import Colour
from hw.file_audio import FileOptions, file_address
from tests.appliance.stage_takeover import CLIP, DELAY, RATE, Story, active, played
from tests.appliance.stage_takeover import second_bundle as bundle_called
from tests.appliance.stage_takeover import send as signal_to
from tests.appliance.tiny_engines import SIGNED, UNSIGNED, flash, tiny

HEALTHY_MINUTES = 0.05
Wait = Callable[[], bool]


class Shell:
    """Sends an order from a thread of its own, as another process would."""

    def __init__(self, pedal: Supervisor, runtime: Path) -> None:
        self.pedal, self.path = pedal, runtime / "ghostnote" / "orders.sock"
        self.answer: dict[str, Any] = {}

    def order(self, name: str, **words: Any) -> Wait:
        self.answer = {}
        threading.Thread(target=self._send, args=(name, words), daemon=True).start()
        return lambda: bool(self.answer)

    def _send(self, name: str, words: dict[str, Any]) -> None:
        try:
            self.answer = send(name, self.path, **words)
        except OrderError as error:
            self.answer = {"error": str(error)}

    def done(self) -> bool:
        return self.pedal.caretaker.task.steps is None

    @property
    def line(self) -> str:
        task = self.pedal.caretaker.task
        return ("refused: " if task.failed else "") + task.line


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def configured(folder: Path, text: str = "") -> Config:
    more = f'[storage]\nfolder = "{folder}"\n[monitor]\nstatus = false\n[flight]\nminutes = 0\n'
    store = f"[store]\nhealthy_minutes = {HEALTHY_MINUTES}\nlate_blocks = 100\n"
    config = parse_config(f'{text or "[engine]"}\nbundle = "current"\n{more}{store}', "test")
    return replace(
        config,
        audio=AudioConfig(port=file_address(CLIP, FileOptions(loop=True)), periods=32, sample_format="FLOAT"),
        realtime=RealtimeConfig(priority=0),
        controls=replace(config.controls, delay_ms=1000 * DELAY / RATE),
    )


def play(config: Config, script: Callable[[Supervisor], Iterator[Wait]], patient: bool = False) -> tuple[Report, Supervisor]:
    story = Story(script)
    pedal = Supervisor(config, RunOptions(wait_for_engine=True, remember=True, patient=patient, on_tick=story))
    return pedal.run(), pedal


def shown(pedal: Supervisor) -> Colour | None:
    """The status light, once the engine plays."""
    if pedal.slot.state is not SlotState.ACTIVE:
        return None
    return pedal.playing.show(time.monotonic(), pedal.slot.state, pedal.observer.health)[0].status.colour


def store_of(folder: Path) -> Store:
    return Store(folder / "engines")


def test_an_engine_goes_live_on_trial_becomes_good_and_a_worse_one_goes_by_itself(runtime: Path) -> None:
    store = store_of(runtime)
    store.begin()
    second = flash(store, bundle_called(runtime / "second.ghost", "second"))
    third = flash(store, bundle_called(runtime / "third.ghost", "third"), UNSIGNED)
    lines: list[str] = []

    def script(pedal: Supervisor) -> Iterator[Wait]:
        shell = Shell(pedal, runtime)
        yield active(pedal)
        # no certificate, no activation
        yield shell.order("activate", digest=second)
        yield shell.done
        lines.append(shell.line)
        assert store.link(CURRENT) == "" and pedal.address == str(REFERENCE)
        # forced: on trial, and the light says so
        yield shell.order("activate", digest="second", force=True)
        yield shell.order("rollback")
        assert "'activate' is still under way" in shell.answer["error"], "one at a time"
        yield shell.done
        lines.append(shell.line)
        assert pedal.spec.name == "second" and store.trial() and store.forced().startswith("no certificate")
        yield lambda: shown(pedal) == Colour.AMBER
        assert pedal.observer.snapshot(pedal)["forced"].startswith("no certificate")
        # good after healthy minutes
        yield lambda: store.trial() is None
        yield shell.done
        lines.append(shell.line)
        assert store.held(second).good and store.link(CURRENT) == second
        # from outside: somebody has to agree, here by word
        yield shell.order("activate", digest=third[:12], force=True)
        yield lambda: pedal.playing.consent.asked
        yield shell.order("engine-task")
        assert shell.answer["asks"] == "activate third?" and shell.answer["by_word"] and not shell.answer["finished"]
        yield shell.order("consent")
        yield shell.done
        lines.append(shell.line)
        assert pedal.spec.name == "third" and store.link(CURRENT) == third
        # it crashes at once, before anybody has looked at it: the one before it plays again
        signal_to(pedal.slot, signal.SIGKILL)
        yield lambda: pedal.spec.name == "second" and shell.done()
        lines.append(shell.line)
        assert store.link(CURRENT) == second and store.link(PREVIOUS) == "" and store.held(third).failed == "its process died"
        # what plays is not removed, what does not is
        yield shell.order("remove", digest="second")
        yield shell.done
        lines.append(shell.line)
        yield shell.order("collect")
        yield shell.done
        lines.append(shell.line)
        # by hand, back to the factory's
        yield shell.order("rollback")
        yield shell.done
        lines.append(shell.line)
        yield lambda: shown(pedal) == Colour.GREEN
        assert pedal.observer.snapshot(pedal)["forced"] == ""
        # forced for the next start: until then the light speaks of what plays now
        yield shell.order("activate", digest="second", force=True, restart=True)
        yield shell.done
        yield played(pedal, 2)
        assert shown(pedal) == Colour.GREEN and store.forced().startswith("no certificate")

    report, pedal = play(configured(runtime), script)
    assert [line.partition(":")[0] for line in lines[:1]] == ["refused"] and "no certificate" in lines[0]
    assert f"second 1 ({second[:12]}) is on trial for 0.05 minutes" in lines[1] or "is on trial" in lines[1]
    assert "is good: 0.05" in lines[2] and "third" in lines[3] and "is on trial" in lines[3]
    assert lines[4] == "second plays" and "in use" in lines[5] and f"1 engines are removed: {third[:12]}" in lines[6]
    assert lines[7] == f"{pedal.spec.name} plays" and pedal.address == str(REFERENCE) and store.link(PREVIOUS) == ""
    assert report.silent_frames == 0, "the guitar's answer never stopped"

    def next_start(pedal: Supervisor) -> Iterator[Wait]:
        yield lambda: shown(pedal) == Colour.AMBER
        assert pedal.spec.name == "second"

    play(configured(runtime), next_start)


def test_a_question_that_nobody_answers_changes_nothing(runtime: Path) -> None:
    store = store_of(runtime)
    store.begin()
    digest = flash(store, bundle_called(runtime / "second.ghost", "second"), UNSIGNED)

    def script(pedal: Supervisor) -> Iterator[Wait]:
        shell = Shell(pedal, runtime)
        yield shell.order("consent")
        assert "nothing is asked" in shell.answer["error"]
        pedal.playing.consent.patience_seconds = 0.3
        yield shell.order("activate", digest=digest, force=True)
        yield lambda: bool(shell.answer) and shell.done()
        assert "Nobody at the pedal has agreed" in shell.line and not store.held(digest).origin.consent

    play(configured(runtime), script)
    assert store.link(CURRENT) == ""


def test_an_engine_that_can_never_be_started_goes_at_once_where_it_fits_and_by_a_new_start_where_not(runtime: Path) -> None:
    """It passes for an engine, and its worker can't open it: three deaths, and a service that has nothing else to do starts anew."""
    store = store_of(runtime)
    store.begin()
    broken = flash(store, tiny(runtime / "broken.ghost", "broken"))
    store.activate(broken)
    said: list[str] = []

    def script(pedal: Supervisor) -> Iterator[Wait]:
        assert pedal.address == str(store.objects.path(broken)) and pedal.spec.name == "broken"
        yield lambda: store.link(CURRENT) == ""
        yield lambda: pedal.caretaker.task.steps is None
        said.append(pedal.caretaker.task.line)
        yield active(pedal)

    config = configured(runtime)
    story = Story(script)
    pedal = Supervisor(config, RunOptions(remember=True, patient=True, on_tick=story))
    report = pedal.run()
    assert report.silent_frames == 0 and said and said[0].endswith("plays") and pedal.address == str(REFERENCE)
    assert store.held(broken).failed == "its process died"


def test_an_engine_that_the_configuration_cannot_play_gives_way_at_the_start(runtime: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(runtime)
    store.begin()
    digest = flash(store, bundle_called(runtime / "odd.ghost", "odd", block_frames=16_001))
    store.activate(digest)
    pedal = Supervisor(configured(runtime), RunOptions(remember=True))
    assert pedal.address == str(REFERENCE) and "period_frames = 128 does not divide" in store.held(digest).failed
    pedal.caretaker.close()
    with pytest.raises(ConfigError, match="rate_hz"):  # that no engine here can play is for the operator
        Supervisor(replace(configured(runtime), audio=replace(configured(runtime).audio, rate_hz=48_000)), RunOptions(remember=True))


def test_a_pedal_that_keeps_nothing_and_one_beside_another_count_no_start(runtime: Path) -> None:
    store = store_of(runtime)
    store.begin()
    store.activate(flash(store, bundle_called(runtime / "second.ghost", "second"), SIGNED))
    guest = Supervisor(configured(runtime), RunOptions())
    assert guest.spec.name == "second" and store.trial().starts == 0  # type: ignore[union-attr]
    first = Supervisor(configured(runtime), RunOptions(remember=True))
    other = Supervisor(configured(runtime), RunOptions(remember=True))
    assert store.trial().starts == 1 and other.spec.name == "second"  # type: ignore[union-attr]
    for pedal in (guest, first, other):
        pedal.caretaker.close()
        pedal.desk.close()
        pedal.flights.close()


def test_a_pedal_that_plays_something_else_says_so(runtime: Path) -> None:
    def script(pedal: Supervisor) -> Iterator[Wait]:
        shell = Shell(pedal, runtime)
        yield shell.order("activate", digest="x")
        assert 'this pedal plays echo, not what is flashed: set [engine] bundle to "current"' in shell.answer["error"]

    config = configured(runtime)
    play(replace(config, engine=replace(config.engine, bundle="echo")), script)

"""What the supervisor calls at each tick: presets by foot, the last state, the tuner, and what the board is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance.cli import main
from appliance.config import parse_config
from appliance.controls import Control
from appliance.deadline import Health
from appliance.fit import Fit
from appliance.main import RunOptions, Supervisor
from appliance.playing import Playing
from appliance.presets import Place
from appliance.ring import Ring
from appliance.shared import SharedMemory
from appliance.slot import SlotState
from appliance.state import EVERY_SECONDS, state_path
from appliance.stats import Counter, Counters
from engines.engine import EngineSpec
from hw.board import BoardEvent, Colour, ControlEvent, KnobEvent, Lights, SwitchEvent
from hw.script import ScriptBoard
from tests.appliance.rig import sine
from tests.appliance.test_main import configuration, guitar

SPEC = EngineSpec("toy", 44_100, 16_384, 1_024, ("string ensemble", "choir", "church organ", "grand piano"), 4, 8)


class Stage:
    """A pedal without processes: time and audio progress are what the test says."""

    def __init__(self, folder: Path, text: str = "", remember: bool = True) -> None:
        config = parse_config(f'{text}\n[storage]\nfolder = "{folder}"', "test")
        fit = Fit.of(config, SPEC)
        self.memory = SharedMemory.create(fit.layout)
        self.playing = Playing(config, fit, self.memory, remember)
        self.player, self.counters = self.playing.player, Counters(self.memory.counters)
        self.now = 100.0
        self.said = self.playing.take([], self.now)

    def do(self, control: str, value: float | str = 1.0) -> list[str]:
        return self.move(ControlEvent(self.now, control, value))

    def move(self, *events: BoardEvent) -> list[str]:
        return self.playing.take(events, self.now)

    def foot(self, *switches: int) -> list[str]:
        downs = [SwitchEvent(self.now, switch, True) for switch in switches]
        ups = [SwitchEvent(self.now + 0.1, switch, False) for switch in switches]
        self.now += 1.0
        return self.move(*downs, *ups)

    def show(self, seconds: float = 0.01) -> tuple[Lights, bool]:
        self.now += seconds
        self.counters.add(Counter.PERIODS, 1)
        return self.playing.show(self.now, SlotState.ACTIVE, Health.ON_TIME)

    def unplug(self, folder: Path, text: str = "") -> Stage:
        """Another life after this one."""
        self.show(EVERY_SECONDS)
        self.playing.end()
        return Stage(folder, text)


# Presets


def test_presets_are_saved_and_chosen_by_foot(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for prompt, mix in (("choir", 0.2), ("organ", 0.9)):
        stage.do("prompt", prompt)
        stage.do("mix", mix)
        assert "saved as preset 1." in stage.foot(2, 3)[0]
    assert [str(place) for place in stage.playing.storage.places()] == ["1.1", "1.2"]  # type: ignore[union-attr]
    for place, prompt, mix in (("1.1", "choir", 0.2), ("1.2", "church organ", 0.9), ("1.1", "choir", 0.2)):
        assert stage.foot(2) == [f"preset {place} {prompt}"]
        assert stage.player.prompt == prompt and stage.player.controls.get(Control.MIX) == pytest.approx(mix)
        assert stage.show()[0].text == f"{place} {prompt}"
    stage.playing.end()


def test_banks_by_two_switches_and_programs_by_midi(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for place, mix in (("1.1", 0.1), ("1.3", 0.3), ("2.1", 0.6), ("2.3", 0.8)):
        stage.do("mix", mix)
        stage.do("save", place)
    before = stage.player.on("bypass")
    for mix in (0.3, 0.8, 0.3):  # the last one saved is 2.3: its bank goes round to the same slot of the first
        assert stage.foot(0, 1)[0].startswith("preset")
        assert stage.player.controls.get(Control.MIX) == pytest.approx(mix)
    assert stage.player.on("bypass") == before
    stage.do("preset", 4.0)
    assert stage.player.place == Place(2, 1) and stage.player.controls.get(Control.MIX) == pytest.approx(0.6)
    stage.do("bank", "1")
    assert stage.player.place == Place(1, 1)
    assert "bank 7 is empty" in stage.do("bank", 7.0)[0] and "makes no sense" in stage.do("bank", "x")[0]
    stage.playing.end()


def test_an_empty_place_is_where_the_next_save_goes(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.do("mix", 0.77)
    assert "is empty: the sound stays" in stage.do("preset", "3.4")[0]
    assert stage.player.controls.get(Control.MIX) == 0.77
    assert "saved as preset 3.4" in stage.do("save", "here")[0]
    assert "no preset is called" in stage.do("preset", "nothing like that")[0]
    stage.playing.end()


def test_a_sound_that_was_moved_away_from_its_preset_blinks(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.do("save", "1.1")
    assert stage.show()[0].switches[2].pattern == 0
    stage.do("mix", 0.123)
    assert stage.show()[0].switches[2].pattern != 0
    stage.do("preset", "1.1")
    assert stage.show()[0].switches[2].pattern == 0
    stage.playing.end()


def test_a_preset_change_by_accident_is_taken_back_with_the_chord(tmp_path: Path) -> None:
    stage = Stage(tmp_path, '[switches]\npress = "next_preset tap"')
    for place, mix in (("1.1", 0.1), ("1.2", 0.2), ("2.1", 0.5)):
        stage.do("mix", mix)
        stage.do("save", place)
    stage.do("preset", "1.1")
    stage.foot(0, 1)
    assert stage.player.place == Place(2, 1) and stage.player.controls.get(Control.MIX) == pytest.approx(0.5)
    stage.playing.end()


def test_after_a_preset_a_knob_must_find_its_value(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.do("mix", 0.2)
    stage.do("save", "1.1")
    stage.move(KnobEvent(stage.now, 0, 0.2), KnobEvent(stage.now, 0, 0.9))
    assert stage.player.controls.get(Control.MIX) == pytest.approx(0.9)
    stage.do("preset", "1.1")
    stage.move(KnobEvent(stage.now, 0, 0.8))
    assert stage.player.controls.get(Control.MIX) == pytest.approx(0.2)
    stage.playing.end()


def test_a_damaged_preset_is_one_line_and_the_pedal_plays(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "01-2.toml").write_text("[preset")
    stage = Stage(tmp_path)
    assert len(stage.said) == 1 and "preset 1.2 is damaged and set aside" in stage.said[0]
    stage.do("save", "1.2")
    stage.playing.end()


# The last state


def test_the_pedal_begins_as_it_ended(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.do("save", "2.3")
    moved = {"mix": 0.31, "bypass": 1.0, "prompt": "organ", "stray": 0.4, "delay_ms": 1234.5, "trails": 0.0, "tone": 0.2}
    for control, value in moved.items():
        stage.do(control, value)
    stage.do("freeze", 1.0)
    before, then = stage.playing.state(), stage.unplug(tmp_path)
    assert then.playing.state() == before and then.player.place == Place(2, 3) and then.player.on("bypass")
    assert not then.player.on("freeze")  # a foot held it
    then.playing.end()
    once_more = Stage(tmp_path, "")
    assert once_more.playing.state() == before
    once_more.playing.end()


def test_the_state_survives_a_pedal_that_is_killed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.do("mix", 0.44)
    stage.show(EVERY_SECONDS)
    stage.playing.storage.writer.close()  # type: ignore[union-attr]  # and nothing else is done
    stage.playing.storage._lock.release()  # type: ignore[union-attr]
    then = Stage(tmp_path)
    assert then.player.controls.get(Control.MIX) == pytest.approx(0.44)
    then.playing.end()


def test_restore_can_be_turned_off(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.do("mix", 0.9)
    stage.unplug(tmp_path).playing.end()
    text = f'[controls]\nmix = 0.1\n[storage]\nfolder = "{tmp_path}"\nrestore = false'
    config = parse_config(text, "test")
    fit = Fit.of(config, SPEC)
    playing = Playing(config, fit, SharedMemory.create(fit.layout), True)
    assert playing.player.controls.get(Control.MIX) == pytest.approx(0.1)
    playing.end()


def test_a_run_that_is_not_told_to_remember_keeps_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "x", remember=False)
    assert "presets are not kept in this run" in stage.do("save", "here")[0]
    stage.show(5.0)
    stage.playing.end()
    assert not (tmp_path / "x").exists()


def test_without_a_folder_the_pedal_plays_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    stage = Stage(tmp_path / "file")
    assert len(stage.said) == 1 and "can't be used" in stage.said[0]
    assert stage.do("mix", 0.3) == [] and stage.show()[1]
    first = Stage(tmp_path / "one")
    second = Stage(tmp_path / "one")
    assert len(second.said) == 1 and "another pedal plays with" in second.said[0]
    first.playing.end()


def test_a_damaged_state_is_set_aside_and_the_configuration_counts(tmp_path: Path) -> None:
    state_path(tmp_path).write_bytes(bytes(100))
    stage = Stage(tmp_path, "[controls]\nmix = 0.25")
    assert "the last state is damaged" in stage.said[0] and stage.player.controls.get(Control.MIX) == 0.25
    stage.do("save", "1.1")
    stage.playing.end()
    assert state_path(tmp_path).exists()


# Tuner and signs of life


def test_the_tuner_is_said_and_shown(tmp_path: Path) -> None:
    stage = Stage(tmp_path, remember=False)
    Ring(stage.memory.dry, 0).write(0, sine(16_384, 110.0 * 2 ** (10 / 1200), 0.2))
    stage.counters.set(Counter.POSITION, 16_384)
    stage.do("tuner", 1.0)
    shown = stage.show(1.0)[0]
    assert shown.text == "A2 +10 cents" and shown.switches[-1].colour is Colour.AMBER
    assert stage.move() == ["tuner: A2 +10 cents"]
    stage.show(0.1)
    assert stage.move() == []  # at most two lines a second
    stage.foot(0)
    assert not stage.player.on("tuner") and stage.show()[0].text == "1.1"


def test_alive_is_audio_progress(tmp_path: Path) -> None:
    stage = Stage(tmp_path, remember=False)
    assert not stage.playing.show(stage.now, SlotState.STARTING, Health.ON_TIME)[1]
    assert stage.show()[1]
    assert stage.playing.show(stage.now + 0.14, SlotState.ACTIVE, Health.ON_TIME)[1]
    shown, alive = stage.playing.show(stage.now + 0.16, SlotState.ACTIVE, Health.ON_TIME)
    assert not alive and shown.status.colour is Colour.RED
    stage.now += 1.0
    assert stage.show()[1]


def test_a_board_that_is_gone_does_not_freeze_for_ever(tmp_path: Path) -> None:
    stage = Stage(tmp_path, remember=False)
    stage.move(SwitchEvent(stage.now, 1, True))
    stage.now += 1.0
    stage.move()
    assert stage.player.on("freeze")
    stage.playing.take([], stage.now, answers=False)
    assert not stage.player.on("freeze")


# In a run of the real processes


class Witness(ScriptBoard):
    """A board that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__([])
        self.statuses: list[Colour] = []
        self.alive: list[bool] = []

    def show(self, lights: Lights, alive: bool) -> None:
        self.statuses += [lights.status.colour] if lights.status.colour not in self.statuses[-1:] else []
        self.alive += [alive] if alive not in self.alive[-1:] else []


@pytest.mark.system
def test_a_run_shows_dry_then_delay_then_engine_and_keeps_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "kept"))
    address = f"file:{guitar(tmp_path / 'guitar.wav', 60.0)}"
    for mix in (0.5, 0.2):
        witness = Witness()

        def until_the_engine_plays(pedal: Supervisor, witness: Witness = witness) -> None:
            if Colour.GREEN in witness.statuses:
                pedal.stop()

        pedal = Supervisor(configuration(address), RunOptions(remember=True, on_tick=until_the_engine_plays))
        assert pedal.controls.get(Control.MIX) == mix
        pedal.board = witness
        pedal.player.apply(ControlEvent(0.0, "mix", 0.2))
        pedal.run()
        assert witness.statuses[0] is Colour.RED and witness.statuses[-1] is Colour.GREEN
        assert {Colour.WHITE, Colour.BLUE} & set(witness.statuses) and witness.alive[:2] == [False, True]


# The command


def test_presets_from_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    def ghostnote(*words: str) -> tuple[int, str]:
        code = main(["preset", *words])
        said = capfd.readouterr()
        assert (said.err == "") == (code == 0) and said.err.count("\n") <= 1
        return code, said.out + said.err

    assert ghostnote("list") == (0, f"no presets in {tmp_path}/presets\n") or ghostnote("list")[0] == 0
    assert ghostnote("save", "1.2")[0] == 2  # nothing has been played
    stage = Stage(tmp_path)
    stage.do("prompt", "choir")
    stage.do("mix", 0.75)
    stage.show(EVERY_SECONDS)
    stage.playing.end()
    assert ghostnote("save", "1.2", "--name", "Big one")[1] == "saved as preset 1.2 Big one\n"
    assert ghostnote("save", "2.1")[1] == "saved as preset 2.1 choir\n"
    assert "Big one" in ghostnote("list")[1]
    assert ghostnote("rename", "big one", "Small one")[1] == "preset 1.2 is called Small one\n"
    stage = Stage(tmp_path)
    assert stage.do("preset", "small one") == ["preset 1.2 Small one"]  # a pedal that runs sees it at once
    assert "the pedal is playing" in ghostnote("load", "1.2")[1]
    stage.do("mix", 0.1)
    stage.playing.end()
    assert ghostnote("load", "1")[1] == "the pedal begins with preset 1.2 Small one\n"
    stage = Stage(tmp_path)
    assert stage.player.controls.get(Control.MIX) == 0.75 and stage.player.place == Place(1, 2)
    stage.playing.end()
    assert ghostnote("delete", "2.1")[1] == "preset 2.1 is deleted\n" and ghostnote("delete", "2.1")[0] == 2
    assert ghostnote("save", "7")[0] == 2 and ghostnote("rename", "1.2", "3")[0] == 2


def test_knob_positions_are_kept_by_value(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for knob, position in enumerate(np.linspace(0.05, 0.95, 6)):
        stage.move(*(KnobEvent(stage.now, knob, p) for p in (0.0, 1.0, float(position))))
    before = stage.playing.state()
    then = stage.unplug(tmp_path)
    assert then.playing.state() == before
    then.playing.end()

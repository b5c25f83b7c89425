"""Presets on disk: what is kept comes back, what is damaged is set aside, and whatever is beside it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.presets import (
    BANKS,
    PROGRAMS,
    SLOTS,
    Place,
    Preset,
    PresetStore,
    Sound,
    enter_bank,
    parse_preset,
    preset_text,
    step,
    step_bank,
)
from appliance.rules import ConfigError
from appliance.state import Stand, State, StateKeeper, load_state, parse_state, state_path, state_text
from appliance.storage import Disk, FolderLock, Writer, replace_file, state_folder, sweep

REPO = Path(__file__).parents[2]
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
shares = st.floats(0, 1).map(lambda share: round(share, 6))
sounds = st.builds(
    Sound, prompt=words, second_prompt=words, delay_ms=st.floats(0, 6000),
    subdivision=st.sampled_from(["1/4", "1/8t"]),
    mix=shares, repeats=shares.map(lambda share: share * 0.95), level=shares, tone=shares, morph=shares, stray=shares, jam=st.booleans(),
    steps=st.integers(0, 16),
)  # fmt: skip


@given(name=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40), sound=sounds)
def test_what_is_written_is_read_again(name: str, sound: Sound) -> None:
    assert parse_preset(preset_text(Preset(name, sound)), "x") == Preset(name, sound)
    stand = Stand("3.2", True, False, True)
    assert parse_state(state_text(State(stand, sound)), "x") == State(stand, sound)


def test_a_preset_by_hand_needs_no_more_than_a_name() -> None:
    assert parse_preset('[preset]\nname = "x"\n[sound]\nmix = 1', "x") == Preset("x", Sound(mix=1.0))


@pytest.fixture
def store(tmp_path: Path) -> PresetStore:
    store = PresetStore(tmp_path)
    for place, name in (("1.1", "Choir"), ("1.3", "Organ far away"), ("3.2", "Harp")):
        store.save(Place.parse(place) or Place(1, 1), Preset(name, Sound(prompt=name.lower(), mix=0.3)))
    return store


def test_places_names_and_programs_find_a_preset(store: PresetStore) -> None:
    assert [str(place) for place in store.places()] == ["1.1", "1.3", "3.2"]
    for wish in ("1.3", "organ  far away", "2", " 1.3 "):
        assert store.find(wish) == Place(1, 3)
    assert store.load(Place(3, 2)).sound.prompt == "harp"
    with pytest.raises(ConfigError, match=r"no preset is called 'banjo'; there are 1\.1, 1\.3, 3\.2"):
        store.find("banjo")
    with pytest.raises(ConfigError, match=r"there is no preset in 2\.1"):
        store.load(Place(2, 1))
    for wish in ("128", "33.1", "1.5", "0.1"):
        with pytest.raises(ConfigError, match="there is no"):
            store.find(wish)


@given(program=st.integers(0, PROGRAMS - 1))
def test_programs_and_places_are_the_same_thing(program: int) -> None:
    place = Place.of_program(program)
    assert place.program == program and Place.parse(str(place)) == place
    assert 1 <= place.bank <= BANKS and 1 <= place.slot <= SLOTS


def test_rename_and_delete(store: PresetStore) -> None:
    store.rename(Place(1, 1), "  Big   choir ")
    assert store.load(Place(1, 1)) == Preset("Big choir", Sound(prompt="choir", mix=0.3))
    store.delete(Place(1, 1))
    assert [str(place) for place in store.places()] == ["1.3", "3.2"]
    with pytest.raises(ConfigError, match="there is no preset"):
        store.delete(Place(1, 1))
    for name in ("", "   ", "a\nb\x00", "1.2", "7", "x" * 61):
        with pytest.raises(ConfigError, match="can't be called"):
            store.rename(Place(1, 3), name)


DAMAGED = {
    "cut": b'[preset]\nname = "Cho',
    "empty": b"",
    "zeros": bytes(200),
    "no text": b"\xff\xfe\x00\x01",
    "out of range": b'[preset]\nname = "x"\n[sound]\nmix = 7',
    "of the wrong kind": b'[preset]\nname = "x"\n[sound]\njam = "yes"',
    "of another program": b'name = "x"',
    "a mistake": b'[preset]\nname = "x"\n[sound]\nmixx = 0.5',
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_set_aside_with_one_line_and_the_others_load(store: PresetStore, how: str) -> None:
    path = store.path(Place(1, 3))
    path.write_bytes(DAMAGED[how])
    presets, lines = store.load_all()
    assert [str(place) for place in presets] == ["1.1", "3.2"]
    assert len(lines) == 1 and "\n" not in lines[0] and "preset 1.3 is damaged and set aside as" in lines[0]
    aside = path.with_name("01-3.toml.damaged-1")
    assert aside.read_bytes() == DAMAGED[how] and not path.exists()
    assert store.load_all() == (presets, [])
    path.write_bytes(b"again")
    store.load_all()
    assert aside.read_bytes() == DAMAGED[how] and path.with_name("01-3.toml.damaged-2").read_bytes() == b"again"


def test_files_that_are_no_presets_are_left_alone(store: PresetStore) -> None:
    for name in ("notes.txt", "99-9.toml", "00-0.toml", "01-3.toml~"):
        (store.folder / name).write_text("mine")
    assert len(store.places()) == 3 and store.load_all()[1] == []


places = [Place(1, 1), Place(1, 3), Place(3, 2), Place(4, 1), Place(4, 4)]


@pytest.mark.parametrize(
    ("now", "by", "then"), [("1.1", 1, "1.3"), ("1.3", 1, "1.1"), ("1.2", 1, "1.3"), ("1.2", -1, "1.1"), ("3.2", 1, None)]
)
def test_steps_go_round_in_the_bank(now: str, by: int, then: str | None) -> None:
    found = step(places, Place.parse(now) or Place(1, 1), by)
    assert (None if found is None else str(found)) == then


@pytest.mark.parametrize(
    ("now", "by", "then"), [("1.1", 1, "3.2"), ("1.1", -1, "4.1"), ("3.2", 1, "4.1"), ("4.4", 1, "1.1"), ("2.1", 1, "3.2")]
)
def test_banks_go_round_and_keep_the_slot_if_they_can(now: str, by: int, then: str) -> None:
    assert str(step_bank(places, Place.parse(now) or Place(1, 1), by)) == then
    assert enter_bank(places, 4, 4) == Place(4, 4) and enter_bank(places, 4, 2) == Place(4, 1) and enter_bank(places, 2, 1) is None


# The last state


def state(mix: float) -> State:
    return State(Stand("2.1", True), Sound(mix=mix))


def test_the_state_is_written_at_most_once_a_second_and_only_when_it_changes(tmp_path: Path) -> None:
    written: list[tuple[Path, str]] = []

    class Listener(Writer):
        def replace(self, path: Path, text: str) -> None:
            written.append((path, text))

    writer = Listener()
    keeper = StateKeeper(tmp_path, writer)
    for tick in range(1000):  # ten seconds of ticks; a knob turns for the first three
        keeper.note(tick / 100, lambda tick=tick: state(min(tick, 300) / 1000))
    assert 4 <= len(written) <= 5 and written[-1] == (state_path(tmp_path), state_text(state(0.3)))
    keeper.note(9.999, lambda: state(0.9), last=True)
    assert written[-1][1] == state_text(state(0.9))
    writer.close()


def test_the_newest_of_many_states_is_on_disk_at_the_end(tmp_path: Path) -> None:
    writer = Writer()
    for mix in range(100):
        writer.replace(state_path(tmp_path), state_text(state(mix / 100)))
    assert writer.pending(state_path(tmp_path)) in (None, state_text(state(0.99)))
    writer.close()
    assert load_state(tmp_path) == state(0.99) and writer.failures() == []


def test_a_slow_disk_delays_nobody_and_a_full_one_is_said(tmp_path: Path) -> None:
    class FullDisk(Disk):
        def write(self, fd: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    writer = Writer(FullDisk())
    writer.replace(tmp_path / "x.toml", "x")
    writer.close()
    assert len(lines := writer.failures()) == 1 and "No space left" in lines[0] and "x.toml" in lines[0]
    assert not (tmp_path / "x.toml").exists()


@pytest.mark.parametrize("damage", [b"", bytes(50), b"[stand]\n", b'[stand]\npreset = "x"\n[sound]\n', b"[sound]\nmix = 0.1\n"])
def test_a_damaged_state_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    state_path(tmp_path).write_bytes(damage)
    with pytest.raises(ConfigError, match="damaged and set aside"):
        load_state(tmp_path)
    assert load_state(tmp_path) is None


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/ghostnote:/var/lib/other")
    assert state_folder("") == Path("/var/lib/ghostnote") and state_folder("/here") == Path("/here")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert state_folder("") == Path("/xdg/ghostnote")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder("") == Path.home() / ".local" / "state" / "ghostnote"


def test_the_folder_belongs_to_one_pedal_until_it_ends_in_any_way(tmp_path: Path) -> None:
    program = f"from appliance.storage import *; l = FolderLock(Path({str(tmp_path)!r})); print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", program], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout and other.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    other.kill()
    other.wait()
    FolderLock(tmp_path).release()


def test_what_an_interrupted_write_has_left_is_swept(tmp_path: Path) -> None:
    replace_file(tmp_path / "01-1.toml", "kept")
    (tmp_path / f".01-1.toml.{os.getpid()}.new").write_text("half")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["01-1.toml"]


def test_replace_is_whole(store: PresetStore) -> None:
    before = store.load(Place(1, 1))
    store.save(Place(1, 1), replace(before, name="New"))
    assert store.load(Place(1, 1)).name == "New"
    assert sorted(path.name for path in store.folder.iterdir()) == ["01-1.toml", "01-3.toml", "03-2.toml"]

"""The power is cut at every step of every write: no preset and no last state is lost but the one being written.

Two ways to cut. A real process is killed with SIGKILL at each system call that changes the disk, in the middle of writes too. That
shows what a dying process leaves behind; but a kernel that lives on keeps what was written. So a second disk remembers what has been
made durable, and after the cut takes away, in all the ways a real disk might, what was not (tests/appliance/power.py).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.presets import Place, Preset, PresetStore, Sound
from appliance.rules import ConfigError
from appliance.state import Stand, State, load_state, state_path, state_text
from appliance.storage import Disk, replace_file, sweep
from tests.appliance.power import LosingDisk, PowerCut, killed

SEED = 7
CHANGES = 64


# A session of a player who saves, renames, deletes and turns knobs


@dataclass
class Kept:
    """What the disk must hold: the presets by place, and the state."""

    presets: dict[Place, Preset] = field(default_factory=dict)
    state: State | None = None


Change = Callable[[Path, Disk], None]


def session(count: int, seed: int) -> Iterator[tuple[Change, Kept]]:
    """Each change, and what must be kept once it is complete."""
    chance, kept = random.Random(seed), Kept()
    for number in range(count):
        place = Place(chance.randint(1, 2), chance.randint(1, 3))
        sound = Sound(prompt=f"words of number {number}", mix=chance.randint(0, 100) / 100)
        presets = dict(kept.presets)
        what = chance.choice(["save", "save", "state", "state", "rename", "delete"])
        if what == "state" or (what != "save" and place not in presets):
            kept = Kept(presets, State(Stand(str(place), bool(number % 2)), sound))
            yield _write_state(kept.state), kept
        elif what == "save":
            preset = presets[place] = Preset(f"Preset {number}", sound)
            kept = Kept(presets, kept.state)
            yield _save(place, preset), kept
        elif what == "rename":
            presets[place] = Preset(f"Renamed {number}", presets[place].sound)
            kept = Kept(presets, kept.state)
            yield _rename(place, f"Renamed {number}"), kept
        else:
            del presets[place]
            kept = Kept(presets, kept.state)
            yield _delete(place), kept


def _save(place: Place, preset: Preset) -> Change:
    return lambda folder, disk: PresetStore(folder, disk).save(place, preset)


def _rename(place: Place, name: str) -> Change:
    return lambda folder, disk: PresetStore(folder, disk).rename(place, name)


def _delete(place: Place) -> Change:
    return lambda folder, disk: PresetStore(folder, disk).delete(place)


def _write_state(state: State | None) -> Change:
    assert state
    return lambda folder, disk: replace_file(state_path(folder), state_text(state), disk)


def assert_kept(folder: Path, before: Kept, after: Kept) -> None:
    """Everything is as before the change or as after it, and nothing is damaged; what was left lying about is swept."""
    for one in (folder, folder / "presets"):
        sweep(one)
    presets, lines = PresetStore(folder).load_all()
    assert lines == []
    assert presets in (before.presets, after.presets)
    assert load_state(folder) in (before.state, after.state)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".toml"}


def test_a_process_that_is_killed_at_any_step_loses_nothing_else(quick_path: Path) -> None:
    """Each change is first made by a child that is killed at its first step, then by one killed at its second, and so on."""
    points, before = 0, Kept()
    PresetStore(quick_path)
    for change, after in session(CHANGES, SEED):
        for cut_at in range(1, 100):
            points += 1
            if _killed(change, quick_path, cut_at):
                assert_kept(quick_path, before, after)
                continue
            break
        assert_kept(quick_path, after, after)
        before = after
    assert points >= 500, points


def _killed(change: Change, folder: Path, cut_at: int) -> bool:
    # complete when the child before was killed: a preset that is deleted is not there
    return killed(lambda disk: change(folder, disk), cut_at, (ConfigError,))


@pytest.mark.parametrize("seed", range(2))
def test_a_disk_that_loses_what_was_not_synced_loses_nothing_else(quick_path: Path, seed: int) -> None:
    points, before, chance = 0, Kept(), random.Random(seed)
    folder, scene = quick_path / "pedal", quick_path / "before"
    PresetStore(folder)
    for change, after in session(CHANGES, seed):
        shutil.copytree(folder, scene)
        for cut_at in range(1, 100):
            disk = LosingDisk(cut_at, folder)
            try:
                change(folder, disk)
            except PowerCut:
                points += 1
                disk.crash(chance)
                assert_kept(folder, before, after)
                shutil.rmtree(folder)
                shutil.copytree(scene, folder)
                continue
            break
        shutil.rmtree(scene)
        before = after
    assert points >= 500, points


def test_the_losing_disk_would_find_a_careless_writer(quick_path: Path) -> None:
    """The same cuts against a program that writes in place, and one that renames before it syncs."""

    def in_place(path: Path, text: str, disk: Disk) -> None:
        fd = disk.create(path)
        disk.write(fd, text.encode())
        disk.sync(fd)
        disk.close(fd)

    def rename_only(path: Path, text: str, disk: Disk) -> None:
        fd = disk.create(path.with_suffix(".new"))
        disk.write(fd, text.encode())
        disk.close(fd)
        disk.rename(path.with_suffix(".new"), path)

    for careless in (in_place, rename_only):
        found, path = set(), quick_path / "x"
        for trial in range(60):
            path.write_text("old")
            disk = LosingDisk(1 + trial % 5, quick_path)
            try:
                careless(path, "new!", disk)
            except PowerCut:
                pass
            disk.crash(random.Random(trial))
            found.add(path.read_bytes() if path.exists() else None)
        assert found - {b"old", b"new!"}, careless

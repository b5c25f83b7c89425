"""The power is cut at every step of flash, start, activate, trial, commit, rollback, remove and collect: an engine plays afterwards.

As in test_power_cut.py there are two ways to cut: a process killed at each call that changes the disk, and a disk that loses what was not
made durable. After each cut the pedal starts, and whatever was under way is done again.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from appliance.storage import Disk
from appliance.store import CURRENT, PREVIOUS, Store, StoreError
from engines.bundle import Bundle, BundleError, verify
from tests.appliance.power import LosingDisk, PowerCut, StepDisk, killed
from tests.appliance.tiny_engines import SIGNED, UNSIGNED, flash, tiny

ENGINES, CHANGES, PIECE = 5, 60, 400
Do = Callable[[Store], object]


@dataclass(frozen=True)
class Scene:
    """A store's place, and engines that may come into it."""

    folder: Path
    bundles: tuple[Path, ...]
    factory: Path

    def store(self, disk: Disk | None = None) -> Store:
        return Store(self.folder / "engines", disk or StepDisk(1 << 30, lambda: None), self.factory)


@pytest.fixture
def scene(quick_path: Path) -> Scene:
    bundles = tuple(tiny(quick_path / f"{number}.ghost", f"engine {number % 3}", number) for number in range(ENGINES))
    made = Scene(quick_path / "pedal", bundles, tiny(quick_path / "factory.ghost", "factory"))
    made.folder.mkdir()
    return made


def session(scene: Scene, seed: int, changes: int = CHANGES) -> Iterator[tuple[str, Do]]:
    """What an owner and his pedal do to a store, one after another; what can't be done is refused, which is a change like any other."""
    chance = random.Random(seed)
    for number in range(changes):
        store = scene.store()
        held = [digest for digest in store.objects.digests() if digest != store.link(CURRENT)] or ["none"]
        digest = chance.choice(held)
        acts: dict[str, Do] = {
            "start": lambda store: store.begin(),
            "three starts": lambda store: [store.begin() for _ in range(3)],
            "flash": partial(_flash, chance.choice(scene.bundles), bool(number % 3)),
            "agree": lambda store, digest=digest: store.agree(digest),
            "activate": lambda store, digest=digest: store.activate(digest, "no certificate" if digest < "8" else "", True),
            "commit": lambda store: store.commit(),
            "roll back": lambda store: store.rollback("a test"),
            "factory": lambda store: store.activate_factory(),
            "remove": lambda store, digest=digest: store.remove(digest),
            "collect": lambda store: store.collect(),
        }
        likely = (4, 3, 5, 3, 8, 5, 3, 1, 2, 5) if held != ["none"] else (1, 0, 5, 0, 0, 0, 1, 0, 0, 0)
        yield chance.choices(list(acts.items()), likely)[0]


def _flash(bundle: Path, signed: bool, store: Store) -> None:
    flash(store, bundle, SIGNED if signed else UNSIGNED)


def done(do: Do, store: Store) -> None:
    """Twice the same is refused, as is what makes no sense."""
    try:
        do(store)
    except (StoreError, FileNotFoundError):
        pass


def assert_plays(scene: Scene, spared: set[str]) -> None:
    """What must hold at any moment, and after the start that follows: `spared` was in use before."""
    store = scene.store()
    verify(store.active())
    before = _pictured(store)
    store.begin()
    verify(store.active())
    assert spared <= set(store.objects.digests()), "what is in use is never deleted"
    for digest in store.objects.digests():
        assert Bundle.open(store.objects.path(digest)).digest == digest
        verify(store.objects.path(digest))
        assert {one.name for one in (store.objects.folder / digest).iterdir()} == {"engine.ghost", "origin.json"}
        assert store.objects.origin(digest) in (SIGNED, UNSIGNED, _agreed()), "no half of a file is ever there"
    for link in (CURRENT, PREVIOUS):
        path = store.folder / link
        assert not path.is_symlink() or (path / "engine.ghost").is_file(), f"{link} leads nowhere"
    current = store.link(CURRENT)
    assert store.active() == (store.objects.path(current) if current else scene.factory)
    assert current in (*before, ""), "a start changes to nothing that was not in use"
    assert not list(store.objects.moving.iterdir()) and not list(store.folder.glob(".*.new"))
    trial = store.trial()
    assert trial is None or (trial.digest == current and (not trial.back or trial.back in store.objects.digests()))
    assert trial is not None or not (store.folder / "trial.json").exists()


def _agreed() -> object:
    return type(UNSIGNED)(UNSIGNED.how, None, True, UNSIGNED.received)


def _pictured(store: Store) -> tuple[str, ...]:
    trial = store.trial()
    return (store.link(CURRENT), store.link(PREVIOUS), trial.back if trial else "")


def spared_by(scene: Scene) -> set[str]:
    """What plays or may be gone back to; one that can't be opened is neither."""
    return {digest for digest in scene.store().spared() if scene.store().objects.opens(digest)}


Cut = Callable[[Scene, Do, int], bool]  # whether the power was cut: a change that is complete before that step is not


def cut_at_every_step(scene: Scene, seed: int, cut: Cut, changes: int = CHANGES) -> Counter[str]:
    """Each change of a session from the same beginning, cut at its first step, at its second, and so on. How often which was cut."""
    points, before = Counter[str](), scene.folder.with_name("before")
    scene.store().begin()
    for name, do in session(scene, seed, changes):
        shutil.copytree(scene.folder, before, symlinks=True)
        for cut_at in range(1, 200):
            spared = spared_by(scene) if name in ("remove", "collect", "flash", "agree") else set()
            if not cut(scene, do, cut_at):
                break
            points[name] += 1
            assert_plays(scene, spared)
            shutil.rmtree(scene.folder)
            shutil.copytree(before, scene.folder, symlinks=True)
        shutil.rmtree(before)
    return points


def by_killing(scene: Scene, do: Do, cut_at: int) -> bool:
    return killed(lambda disk: done(do, scene.store(disk)), cut_at, piece=PIECE)


def by_losing(scene: Scene, do: Do, cut_at: int, kind: type[LosingDisk] = LosingDisk) -> bool:
    disk = kind(cut_at, scene.folder, PIECE)
    try:
        done(do, scene.store(disk))
    except PowerCut:
        disk.crash(random.Random(cut_at))
        return True
    return False


LONG = pytest.mark.slow


@pytest.mark.parametrize(
    ("seed", "cut", "changes"),
    [(1, by_killing, 50), (2, by_losing, 80), pytest.param(1, by_killing, 200, marks=LONG), pytest.param(2, by_losing, 200, marks=LONG)],
)
def test_whenever_the_power_goes_an_engine_plays(scene: Scene, seed: int, cut: Cut, changes: int) -> None:
    """Together far more than 500 points."""
    points = cut_at_every_step(scene, seed, cut, changes)
    print(f"{points.total()} points:", dict(points))
    assert points.total() >= 6 * changes and min(points.values()) >= 3
    assert set(points) >= {"start", "three starts", "flash", "activate", "commit", "roll back", "remove", "collect", "agree"}


class ForgetfulDisk(LosingDisk):
    """On which nobody waits for what was written."""

    def sync(self, fd: int) -> None:
        self._step()


def test_a_careless_store_would_be_found(scene: Scene) -> None:
    """The same cuts on a disk that never waits find damage soon."""
    with pytest.raises((AssertionError, BundleError)):
        cut_at_every_step(scene, 2, partial(by_losing, kind=ForgetfulDisk))


def test_the_first_start_may_be_cut_too(scene: Scene) -> None:
    """When there is no folder yet."""
    for cut_at in range(1, 200):
        disk = LosingDisk(cut_at, scene.folder, PIECE)
        try:
            scene.store(disk).begin()
            flash(scene.store(disk), scene.bundles[1])
        except PowerCut:
            disk.crash(random.Random(cut_at))
            assert_plays(scene, set())
            shutil.rmtree(scene.folder)
            scene.folder.mkdir()
            continue
        assert cut_at > 15
        break

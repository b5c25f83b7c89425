"""The store: what an owner may do with engines, and what is refused. (Power cuts: test_store_power_cut.py.)"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.objects import Objects
from appliance.storage import Disk
from appliance.store import CURRENT, PREVIOUS, TRIAL, Store, StoreError
from engines.bundle import Bundle, BundleError
from tests.appliance.tiny_engines import SIGNED, UNSIGNED, digest_of, flash, tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    one = Store(tmp_path / "engines", factory=tiny(tmp_path / "factory.ghost", "factory"))
    assert one.begin() == ""
    return one


@pytest.fixture
def engines(tmp_path: Path, store: Store) -> list[str]:
    """Three releases of one engine, all in the store."""
    return [flash(store, tiny(tmp_path / f"{number}.ghost", "choir", number)) for number in (1, 2, 3)]


def good(store: Store, digest: str) -> None:
    store.activate(digest)
    store.commit()


def test_without_any_engine_the_factorys_plays(store: Store) -> None:
    assert store.active() == store.factory and store.engines() == [] and store.trial() is None
    with pytest.raises(StoreError, match="came with Ghostnote plays: there is none to go back to"):
        store.rollback("")


def test_an_engine_on_its_way_to_good(store: Store, engines: list[str]) -> None:
    first, second, _ = engines
    assert store.held(first).state == "verified" and store.active() == store.factory
    trial = store.activate(first)
    assert store.active() == store.objects.path(first) and store.held(first).slots == (CURRENT, TRIAL)
    assert trial.back == "" and store.held(first).state == TRIAL
    assert store.commit() == first
    assert store.held(first).state == "good" and store.held(first).slots == (CURRENT,)
    good(store, second)
    assert store.held(first).slots == (PREVIOUS,) and store.held(second).slots == (CURRENT,)


def test_a_failed_trial_goes_back_and_keeps_the_way_back_from_there(store: Store, engines: list[str]) -> None:
    for digest in engines[:2]:
        good(store, digest)
    store.activate(engines[2])
    assert store.rollback("5 blocks were late") == engines[1]
    assert store.link(CURRENT) == engines[1] and store.link(PREVIOUS) == engines[0] and store.trial() is None
    assert store.held(engines[2]).state == "taken back" and store.held(engines[2]).failed == "5 blocks were late"


def test_each_rollback_goes_one_further_back_and_ends_at_the_factory(store: Store, engines: list[str]) -> None:
    for digest in engines[:2]:
        good(store, digest)
    assert store.rollback("") == engines[0] and store.link(PREVIOUS) == ""
    assert store.rollback("") == "" and store.active() == store.factory


def test_the_third_start_on_trial_goes_back(store: Store, engines: list[str]) -> None:
    good(store, engines[0])
    store.activate(engines[1])
    for start in (1, 2):
        assert f"start {start} of 2" in store.begin() and store.link(CURRENT) == engines[1]
    assert "is taken back (3 starts" in store.begin()
    assert store.link(CURRENT) == engines[0] and store.begin() == "" and "3 starts" in store.held(engines[1]).failed


def test_another_engine_may_be_tried_while_one_is_on_trial(store: Store, engines: list[str]) -> None:
    good(store, engines[0])
    store.activate(engines[1])
    assert store.activate(engines[2]).back == engines[0], "not to one that was never good"


def test_the_factorys_engine_may_be_chosen_and_left_again(store: Store, engines: list[str]) -> None:
    good(store, engines[0])
    good(store, engines[1])
    store.activate_factory()
    assert store.active() == store.factory and store.link(PREVIOUS) == engines[1]
    store.activate(engines[2])
    assert store.rollback("") == "" and store.active() == store.factory
    with pytest.raises(StoreError, match="plays already"):
        store.activate_factory()


def test_an_older_release_needs_a_word(store: Store, engines: list[str]) -> None:
    good(store, engines[2])
    for _ in range(2):
        with pytest.raises(StoreError, match="choir 1 is older than choir 3, which has been good here: say --downgrade"):
            store.activate(engines[0])
        store.remove(engines[1]) if engines[1] in store.objects.digests() else None
    store.activate(engines[0], downgrade=True)
    store.commit()
    with pytest.raises(StoreError, match="older"):
        store.check_number(Bundle.open(store.objects.path(engines[0])).manifest)  # what has been good once is not forgotten


def test_an_older_release_than_the_factorys_needs_a_word_too(tmp_path: Path) -> None:
    store = Store(tmp_path / "engines", factory=tiny(tmp_path / "factory.ghost", "choir", 5))
    with pytest.raises(StoreError, match="older than choir 5"):
        store.activate(flash(store, tiny(tmp_path / "old.ghost", "choir", 4)))


def test_an_engine_nobody_has_agreed_to_does_not_play(tmp_path: Path, store: Store) -> None:
    digest = flash(store, tiny(tmp_path / "x.ghost"), UNSIGNED)
    with pytest.raises(StoreError, match="nobody at the pedal has agreed"):
        store.activate(digest)
    store.agree(digest)
    assert store.activate(digest).digest == digest


def test_a_damaged_origin_is_no_consent(tmp_path: Path, store: Store) -> None:
    digest = flash(store, tiny(tmp_path / "x.ghost"))
    (store.objects.folder / digest / "origin.json").write_text('{"how": "shell", "key": "x", "consent": tr')
    with pytest.raises(StoreError, match="agreed"):
        store.activate(digest)


def test_the_same_engine_comes_in_once_and_a_signed_one_takes_the_place_of_an_unsigned(tmp_path: Path, store: Store) -> None:
    path = tiny(tmp_path / "x.ghost")
    digest = flash(store, path, UNSIGNED)
    with path.open("rb") as source, store.receive(source) as copy:
        assert not store.add(copy, digest, UNSIGNED)
    with path.open("rb") as source, store.receive(source) as copy:
        assert not store.add(copy, digest, replace(UNSIGNED, consent=True))
    assert store.objects.origin(digest).consent, "from a shell it is agreed to"
    with path.open("rb") as source, store.receive(source) as copy:
        assert store.add(copy, digest, SIGNED)
    assert store.objects.origin(digest) == SIGNED and store.objects.opens(digest)
    assert list(store.objects.moving.iterdir()) == []


def test_what_is_not_taken_in_leaves_nothing(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "x.ghost"
    path.write_bytes(b"no bundle")
    with pytest.raises(BundleError), path.open("rb") as source, store.receive(source) as copy:
        Bundle.open(copy)
    assert list(store.objects.moving.iterdir()) == [] and store.objects.digests() == []


class FullDisk(Disk):
    """Has room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(fd, data[: self.room])
        self.room -= written
        return written


def everything(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, store: Store, engines: list[str]) -> None:
    good(store, engines[0])
    path, before = tiny(tmp_path / "x.ghost", size=4_000), everything(store.folder)
    for room in (0, 1, 100, 2_000, path.stat().st_size - 1, path.stat().st_size + 20):
        with pytest.raises(StoreError, match=r"No space left on device\): nothing has changed; make room"):
            flash(Store(store.folder, FullDisk(room), store.factory), path)
        assert everything(store.folder) == before
    flash(Store(store.folder, FullDisk(path.stat().st_size + 1_000), store.factory), path)


def test_what_is_too_large_for_the_disk_is_refused_before_a_byte_is_copied(store: Store) -> None:
    with pytest.raises(StoreError, match="more than any bundle has"), open(os.devnull, "rb") as source, store.receive(source, 1 << 40):
        pass


def test_what_is_in_use_is_not_removed(tmp_path: Path, store: Store, engines: list[str]) -> None:
    other = flash(store, tiny(tmp_path / "x.ghost"))
    held = flash(store, tiny(tmp_path / "y.ghost", "open"))
    for digest in engines[:2]:
        good(store, digest)
    store.activate(engines[2])
    for digest in engines[1:]:  # where a trial goes back to, and what is on trial
        with pytest.raises(StoreError, match="in use"):
            store.remove(digest)
    with pytest.raises(StoreError, match="in use"):
        store.remove(other, in_use=[other])
    with store.objects.path(held).open("rb"):  # as a worker would have it
        assert store.collect(in_use=[other]) == [], "previous, current, trial, a playing pedal's, and what is open"
    assert sorted(store.collect()) == sorted({other, held})
    assert store.objects.digests() == sorted(engines)


def test_engines_are_found_by_digest_and_by_name(tmp_path: Path, store: Store, engines: list[str]) -> None:
    lone = flash(store, tiny(tmp_path / "x.ghost", "harp"))
    assert store.find("harp").digest == lone and store.find(engines[1][:12]).digest == engines[1]
    with pytest.raises(StoreError, match="'choir' is 3 engines"):
        store.find("choir")
    for wish in ("oboe", "../../etc", "", lone[:3]):
        with pytest.raises(StoreError, match="there is no engine"):
            store.find(wish)


def test_what_other_hands_have_damaged_is_passed_over(store: Store, engines: list[str]) -> None:
    for digest in engines[:2]:
        good(store, digest)
    store.objects.path(engines[1]).write_bytes(b"rust")
    assert store.active() == store.objects.path(engines[0])
    assert "is taken back (can't be opened)" in store.begin() and store.link(CURRENT) == engines[0]
    (store.objects.path(engines[0])).unlink()
    assert store.active() == store.factory
    store.begin()
    assert store.link(CURRENT) == "" and store.active() == store.factory
    (store.folder / "good.json").write_text("[1, 2")
    (store.folder / "trial.json").write_text('{"digest": 1}')
    assert store.begin() == "" and not (store.folder / "trial.json").exists()
    assert [one.digest for one in store.engines()] == [engines[2]]


def test_what_a_living_process_is_writing_is_not_swept(store: Store) -> None:
    living, dead = (store.objects.moving / f"in.{number}.new" for number in (os.getppid(), 1 << 30))
    living.mkdir()
    dead.mkdir()
    (dead / "engine.ghost").write_bytes(b"half")
    store.begin()
    assert list(store.objects.moving.iterdir()) == [living]


def test_two_processes_do_not_change_it_at_once(store: Store, engines: list[str]) -> None:
    with store.changing():
        child = os.fork()
        if child == 0:
            Store(store.folder, factory=store.factory).activate(engines[0])
            os._exit(0)
        os.sched_yield()
        assert os.waitpid(child, os.WNOHANG) == (0, 0) and store.link(CURRENT) == ""
    os.waitpid(child, 0)
    assert store.link(CURRENT) == engines[0]


def test_the_objects_are_named_after_what_is_in_them(tmp_path: Path, store: Store, engines: list[str]) -> None:
    for digest in engines:
        assert digest_of(Objects(store.folder).path(digest)) == digest

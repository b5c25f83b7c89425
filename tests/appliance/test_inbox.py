"""What is laid into the inbox is taken in or put aside with a line, and nothing that is still on its way is touched."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.inbox import MOST_REFUSED, InboxWatch, look, make_inbox
from appliance.store import Store
from tests.appliance.tiny_engines import tiny
from tests.trust.keys import KEY, STRANGER
from tests.trust.toy import write_toy

OLD = time.time() - 3_600


@pytest.fixture
def store(tmp_path: Path) -> Store:
    one = Store(tmp_path / "engines", factory=tiny(tmp_path / "factory.ghost", "factory"))
    one.begin()
    make_inbox(one.folder)
    return one


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "friend.pub").write_text(KEY.public.text())
    return tmp_path / "keys"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_signed_bundle_comes_in_and_waits_for_consent(store: Store, keys: Path) -> None:
    inbox = store.folder / "inbox"
    bundle = write_toy(inbox / "toy.ghost")
    said = list(look(store, keys))
    assert said == [f"toy.ghost: toy 3 ({bundle.digest[:12]}) is here: certify it, then activate it", f"arrived: {bundle.digest}"]
    held = store.held(bundle.digest)
    assert held.origin.how == "inbox" and held.origin.key == KEY.public.name and not held.origin.consent
    assert names(inbox) == {"refused"}
    write_toy(inbox / "again.ghost")
    assert list(look(store, keys)) == [f"again.ghost: {held} has been here already"] and names(inbox) == {"refused"}


def test_what_is_refused_is_put_aside_with_the_line(store: Store, keys: Path) -> None:
    inbox = store.folder / "inbox"
    write_toy(inbox / "unsigned.ghost", None)
    write_toy(inbox / "stranger.ghost", STRANGER)
    (inbox / "noise.ghost").write_bytes(os.urandom(1_000))
    os.utime(inbox / "noise.ghost", (OLD, OLD))
    (inbox / "link.ghost").symlink_to("/etc/hostname")
    os.utime(inbox / "link.ghost", (OLD, OLD), follow_symlinks=False)
    (inbox / "folder.ghost").mkdir()
    said = list(look(store, keys))
    assert len(said) == 4 and all(line.startswith("refused: ") and "\n" not in line for line in said)
    assert {path.name: path.read_text().split()[0] for path in (inbox / "refused").glob("*.txt")} == {
        "unsigned.ghost.txt": "unsigned.ghost:",
        "stranger.ghost.txt": "stranger.ghost:",
        "noise.ghost.txt": "noise.ghost:",
        "link.ghost.txt": "link.ghost:",
    }
    assert "nobody has signed it" in (inbox / "refused" / "unsigned.ghost.txt").read_text()
    assert store.objects.digests() == [] and list(store.objects.moving.iterdir()) == []
    assert names(inbox) == {"refused", "folder.ghost"}


def test_refused_bundles_do_not_fill_the_disk(store: Store, keys: Path) -> None:
    for number in range(MOST_REFUSED + 3):
        write_toy(store.folder / "inbox" / f"{number}.ghost", None)
        list(look(store, keys))
    assert len(list((store.folder / "inbox" / "refused").glob("*.ghost"))) == MOST_REFUSED


def test_a_file_that_is_still_on_its_way_is_left_until_it_is_old(store: Store, keys: Path) -> None:
    path = store.folder / "inbox" / "slow.ghost"
    whole = write_toy(path).path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert list(look(store, keys)) == [] and path.exists(), "scp writes under the name itself"
    path.write_bytes(whole)
    assert len(list(look(store, keys))) == 2 and not path.exists()


def until(watch: InboxWatch, so: Callable[[], bool]) -> list[str]:
    said: list[str] = []
    for _ in range(1_000):
        said += watch.tick()
        if so():
            return said
        time.sleep(0.02)
    raise AssertionError(said)


def test_the_watch_starts_a_process_of_its_own_once_for_each_file(store: Store, keys: Path) -> None:
    watch, inbox = InboxWatch(store.folder, keys), store.folder / "inbox"
    assert stat.S_IMODE(inbox.stat().st_mode) == 0o770
    (inbox / ".hidden.ghost").write_bytes(b"on its way")
    for _ in range(5):
        watch.tick()
    assert not watch._child.running, "there is nothing to do"
    bundle = write_toy(inbox / "toy.ghost")
    (inbox / "half.ghost").write_bytes(bundle.path.read_bytes()[:100])
    said = until(watch, lambda: bool(watch.arrived))
    said += until(watch, lambda: not watch._child.running)
    assert any("toy 3" in line for line in said) and watch.arrived == [bundle.digest]
    assert not any(line.startswith("arrived") for line in said)
    starts = watch._child.started_at
    for _ in range(10):
        watch.tick()
    assert watch._child.started_at == starts and names(inbox) == {"refused", "half.ghost", ".hidden.ghost"}, "the half one is waited for"
    os.utime(inbox / "half.ghost", (OLD, OLD))
    until(watch, lambda: (inbox / "refused" / "half.ghost.txt").exists())
    watch.close()

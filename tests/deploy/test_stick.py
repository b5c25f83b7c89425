"""Engines from a stick: what is copied of a folder that stands in for one. (Mounting a real stick has never been tried.)"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from deploy import stick
from deploy.stick import MOST_BUNDLES, copy


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "stick" / "ghostnote").mkdir(parents=True)
    (tmp_path / "inbox").mkdir()
    return tmp_path / "stick", tmp_path / "inbox"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bundles_in_the_folder_are_copied_and_nothing_else(places: tuple[Path, Path]) -> None:
    source, inbox = places
    (source / "ghostnote" / "choir.ghost").write_bytes(b"choir" * 100_000)
    (source / "ghostnote" / "readme.txt").write_text("not a bundle")
    (source / "ghostnote" / "-rf.ghost").write_text("no name for a bundle")
    (source / "ghostnote" / ".hidden.ghost").write_text("hidden")
    (source / "other.ghost").write_text("not in the folder")
    assert list(copy(source, inbox)) == ["choir.ghost: in the pedal's inbox"]
    assert names(inbox) == ["choir.ghost"] and (inbox / "choir.ghost").read_bytes() == b"choir" * 100_000
    found = (inbox / "choir.ghost").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640 and (found.st_uid, found.st_gid) == (inbox.stat().st_uid, inbox.stat().st_gid)


def test_links_pipes_and_folders_are_not_followed(places: tuple[Path, Path]) -> None:
    source, inbox = places
    (source / "ghostnote" / "link.ghost").symlink_to("/etc/shadow")
    os.mkfifo(source / "ghostnote" / "pipe.ghost")
    (source / "ghostnote" / "folder.ghost").mkdir()
    said = list(copy(source, inbox))
    assert len(said) == 3 and all("not copied" in line for line in said) and names(inbox) == []


def test_what_does_not_fit_leaves_no_part_of_it(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, inbox = places
    (source / "ghostnote" / "choir.ghost").write_bytes(b"x")
    full = shutil.disk_usage(inbox)._replace(free=1)
    monkeypatch.setattr(stick.shutil, "disk_usage", lambda path: full)
    assert list(copy(source, inbox)) == ["choir.ghost: not copied (there is no room for it)"] and names(inbox) == []


def test_no_more_than_a_few_at_a_time(places: tuple[Path, Path]) -> None:
    source, inbox = places
    for number in range(MOST_BUNDLES + 2):
        (source / "ghostnote" / f"{number}.ghost").write_bytes(b"x")
    assert list(copy(source, inbox))[-1].startswith("2 more were left out") and len(names(inbox)) == MOST_BUNDLES


def test_a_stick_or_a_pedal_without_its_folder_is_no_trouble(tmp_path: Path, places: tuple[Path, Path]) -> None:
    _, inbox = places
    assert list(copy(tmp_path, inbox)) == ["no bundle in the folder 'ghostnote' of this stick"]
    (tmp_path / "sly").mkdir()
    (tmp_path / "sly" / "ghostnote").symlink_to(places[0] / "ghostnote")
    (places[0] / "ghostnote" / "choir.ghost").write_bytes(b"x")
    assert list(copy(tmp_path / "sly", inbox)) == ["no bundle in the folder 'ghostnote' of this stick"]
    assert list(copy(tmp_path / "nothing", inbox)) == ["no bundle in the folder 'ghostnote' of this stick"]
    assert "start the pedal once" in next(copy(tmp_path, tmp_path / "no inbox"))

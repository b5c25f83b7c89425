"""Engines as files: each in a folder that is named after all that is in it, there as a whole or not at all.

    objects/<digest>/engine.ghost   the bundle; the name is the SHA-256 of its manifest, which holds a hash of every file
    objects/<digest>/origin.json    how it came here, who signed it, whether somebody at the pedal has agreed to it
    moving/                         what is on its way in or out, in folders whose names say which process is at it

Runs in: wherever the store does (appliance/store.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from appliance.storage import DISK, UNFINISHED, Disk, replace_file, write_file
from engines.bundle import Bundle, BundleError

BUNDLE_FILE, ORIGIN_FILE = "engine.ghost", "origin.json"
SPARE_BYTES = 64 << 20  # presets, state and records of misses need room too
LARGEST_BYTES = (1 << 31) - 1  # of a bundle: more is not even looked at
PIECE_BYTES = 1 << 20
Share = Callable[[int], None]  # bytes that have been copied


class StoreError(Exception):
    """What can't be done with an engine: one line that says why, and what to do."""


@dataclass(frozen=True)
class Origin:
    """How an engine came here."""

    how: str  # "shell", "inbox"
    key: str | None  # id of the key that signed it; None: nobody has
    consent: bool  # False: somebody at the pedal has yet to agree to it
    received: str  # UTC


def now_utc() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Objects:
    """One folder of them. Raises OSError for a disk that fails."""

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        self.folder, self.moving, self.disk = folder / "objects", folder / "moving", disk

    def prepare(self) -> None:
        """The folders are there, and will be after a power cut."""
        for folder in (self.folder.parent, self.folder, self.moving):
            if not folder.is_dir():
                folder.parent.mkdir(parents=True, exist_ok=True)
                self.disk.make_folder(folder)
                self.disk.sync_folder(folder.parent)

    def digests(self) -> list[str]:
        return sorted(one.name for one in self.folder.iterdir()) if self.folder.is_dir() else []

    def path(self, digest: str) -> Path:
        return self.folder / digest / BUNDLE_FILE

    def opens(self, digest: str) -> bool:
        try:
            return Bundle.open(self.path(digest)).digest == digest
        except BundleError:
            return False

    def origin(self, digest: str) -> Origin:
        """Without the file, or with a damaged one, somebody has to agree first."""
        try:
            return Origin(**read_json(self.folder / digest / ORIGIN_FILE))
        except TypeError:
            return Origin("unknown", None, False, "")

    def agree(self, digest: str) -> None:
        self._note(digest, replace(self.origin(digest), consent=True))

    @contextmanager
    def receive(self, source: BinaryIO, size: int, share: Share) -> Iterator[Path]:
        """A copy of `source` on this disk, for `take` to take in; what it has not taken at the end is removed again.

        The kernel has been told to forget it, so that who reads it now reads what the disk holds. `size` is what is expected, 0 if nobody
        knows. Raises StoreError, and nothing has changed."""
        self.prepare()
        self._make_room(size)
        place = self.moving / f"in.{os.getpid()}{UNFINISHED}"
        try:
            self._remove(place)
            self.disk.make_folder(place)
            write_file(place / BUNDLE_FILE, _pieces(source, share), self.disk)
            _forget(place / BUNDLE_FILE)
            yield place / BUNDLE_FILE
        except OSError as error:
            raise StoreError(f"it can't be kept ({error.strerror}): nothing has changed; make room in {self.folder}") from None
        finally:
            self._remove(place)

    def take(self, copy: Path, digest: str, origin: Origin) -> bool:
        """The copy that `receive` gave, which has been admitted as `digest`, is one of the engines. False: it has been here already."""
        here = digest in self.digests() and self.opens(digest)
        if here and (origin.key is None or self.origin(digest).key is not None):
            if origin.consent and not self.origin(digest).consent:
                self.agree(digest)
            return False
        if here:  # the same engine, which nobody had signed
            self.disk.rename(copy, self.path(digest))
            self.disk.sync_folder(self.folder / digest)
            self._note(digest, origin)
            return True
        write_file(copy.with_name(ORIGIN_FILE), [json.dumps(asdict(origin)).encode()], self.disk)
        self.disk.sync_folder(copy.parent)
        self.discard(digest)  # damaged, or it would be here
        self.disk.rename(copy.parent, self.folder / digest)
        self.disk.sync_folder(self.folder)
        return True

    def discard(self, digest: str) -> None:
        """Its name goes first, so that nobody finds half of it."""
        if (self.folder / digest).exists():
            doomed = self.moving / f"out.{os.getpid()}{UNFINISHED}"
            self._remove(doomed)
            self.disk.rename(self.folder / digest, doomed)
            self.disk.sync_folder(self.folder)
            self._remove(doomed)

    def sweep(self) -> None:
        """What an interrupted change has left; what a living process is at stays."""
        for left in self.moving.iterdir():
            if abandoned(left):
                self._remove(left)
        for left in self.folder.glob(f"*/.*{UNFINISHED}"):
            if abandoned(left):
                self.disk.remove(left)

    def _remove(self, place: Path) -> None:
        if place.is_dir():
            for one in place.iterdir():
                self.disk.remove(one)
            self.disk.remove_folder(place)

    def _make_room(self, size: int) -> None:
        if size > LARGEST_BYTES:
            raise StoreError(f"{size} bytes are more than any bundle has")
        if shutil.disk_usage(self.folder).free < size + SPARE_BYTES:
            needed, unused = f"there is no room for {size / 1e6:.0f} MB in {self.folder}", "`ghostnote engine remove --unused`"
            raise StoreError(f"{needed}: remove what is not used ({unused})")

    def _note(self, digest: str, origin: Origin) -> None:
        replace_file(self.folder / digest / ORIGIN_FILE, json.dumps(asdict(origin)), self.disk)


def read_json(path: Path) -> dict[str, Any]:
    """Empty where there is none, or none that makes sense."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def held_open(objects: Path) -> set[str]:
    """Digests of objects of which any process that we may look at has a file open."""
    found, prefix = set(), f"{objects.resolve()}/"
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue  # not ours to look at, or gone
        if target.startswith(prefix):
            found.add(target[len(prefix) :].split("/")[0])
    return found


def abandoned(left: Path) -> bool:
    """The name says who was writing. This process is not: it sweeps before it begins."""
    number = left.name.removesuffix(UNFINISHED).rpartition(".")[2]
    if not number.isdecimal() or int(number) == os.getpid():
        return True
    return not Path(f"/proc/{number}").exists()


def _pieces(source: BinaryIO, share: Share) -> Iterator[bytes]:
    done = 0
    while piece := source.read(PIECE_BYTES):
        done += len(piece)
        if done > LARGEST_BYTES:
            raise StoreError(f"more than {LARGEST_BYTES} bytes are more than any bundle has")
        yield piece
        share(done)


def _forget(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)

"""The outer form of a bundle: a zip file of exactly one shape. Stored members, no comments, no extra fields, one fixed date.

Names and contents determine every byte of it. So nothing is interpreted when one is read: headers are compared with what they have to
be, and a lying header, a file between the files, a second directory or an appended tail is a difference like any other. Stock tools
open it (`unzip`, Python's zipfile); what they write, `ghostnote engine pack` makes into this.

Runs in: any process.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_FILES = 256
MAX_NAME_BYTES = 120
MAX_BUNDLE_BYTES = (1 << 31) - 1  # of the whole file: zip64 is never needed
CHUNK_BYTES = 1 << 20
_VERSION, _FLAGS, _METHOD = 20, 0, 0
_TIME, _DATE = 0, 1 << 5 | 1  # 1980-01-01: the same files give the same bundle, whenever it is written
_MADE_BY, _MODE = 3 << 8 | 20, 0o100644 << 16  # Unix, an ordinary file
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")


class BundleError(Exception):
    """A bundle that can't be used: one line that names it, what is wrong, and what to do."""


@dataclass(frozen=True)
class Member:
    """One file in the container."""

    name: str
    size: int
    crc: int
    offset: int  # of its first byte


def local_header(name: str, size: int, crc: int) -> bytes:
    raw = name.encode()
    return _LOCAL.pack(b"PK\3\4", _VERSION, _FLAGS, _METHOD, _TIME, _DATE, crc, size, size, len(raw), 0) + raw


def directory(members: Iterable[Member]) -> bytes:
    """All that comes behind the last file."""
    entries, end = [], 0
    for one in members:
        raw = one.name.encode()
        fixed = (b"PK\1\2", _MADE_BY, _VERSION, _FLAGS, _METHOD, _TIME, _DATE, one.crc, one.size, one.size, len(raw), 0, 0, 0, 0, _MODE)
        entries.append(_CENTRAL.pack(*fixed, one.offset - _LOCAL.size - len(raw)) + raw)
        end = one.offset + one.size
    listed = b"".join(entries)
    return listed + _END.pack(b"PK\5\6", 0, 0, len(entries), len(entries), len(listed), end, 0)


def write_container(file: BinaryIO, files: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, content) in this order."""
    members, at = [], 0
    for name, data in files:
        header = local_header(name, len(data), zlib.crc32(data))
        members.append(Member(name, len(data), zlib.crc32(data), at + len(header)))
        file.write(header)
        file.write(data)
        at += len(header) + len(data)
    file.write(directory(members))


class Container:
    """An open bundle, read from its beginning on: `take` each member in turn, then `finish`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.members: list[Member] = []
        self._at = 0

    def take(self, most_bytes: int, name: str, size: int | None = None) -> Member:
        """The next member, which has to be `name`. Raises BundleError."""
        if not self.members and self._begin() != b"PK\3\4":
            raise BundleError(f"{self.path}: is not a bundle")
        header = self._bytes(self._at, _LOCAL.size)
        crc, stored = struct.unpack_from("<II", header, 14)
        size = stored if size is None else size
        expected = local_header(name, size, crc)
        if self._bytes(self._at, len(expected)) != expected:
            raise BundleError(self._wrong(header, name))
        if size > most_bytes:
            raise BundleError(f"{self.path}: file {name!r} in it has {size} bytes, more than {most_bytes} are not allowed")
        member = Member(name, size, crc, self._at + len(expected))
        if member.offset + size > self.size:
            raise BundleError(f"{self.path}: is cut short or damaged; get it again")
        self.members.append(member)
        self._at = member.offset + size
        return member

    def _begin(self) -> bytes:
        self.file.seek(0)
        return self.file.read(4)

    def next_is(self, name: str) -> bool:
        raw = name.encode()
        self.file.seek(self._at + 26)
        return self.file.read(4 + len(raw)) == struct.pack("<HH", len(raw), 0) + raw

    def finish(self) -> tuple[Member, ...]:
        """All members have been taken: nothing else may be there. Raises BundleError."""
        expected = directory(self.members)
        if self._bytes(self._at, len(expected)) != expected or self._at + len(expected) != self.size:
            raise BundleError(f"{self.path}: holds more or less than its manifest lists, or is cut short or damaged; get it again")
        return tuple(self.members)

    def read(self, member: Member) -> bytes:
        return self._bytes(member.offset, member.size)

    def chunks(self, member: Member) -> Iterator[bytes]:
        for at in range(0, member.size, CHUNK_BYTES):
            yield self._bytes(member.offset + at, min(CHUNK_BYTES, member.size - at))

    def _bytes(self, at: int, size: int) -> bytes:
        self.file.seek(at)
        data = self.file.read(size)
        if len(data) != size:
            raise BundleError(f"{self.path}: is cut short or damaged; get it again")
        return data

    def _wrong(self, header: bytes, name: str) -> str:
        begins_well = header.startswith(b"PK\3\4")
        if not self.members and not self.next_is(name):
            return f"{self.path}: is not a bundle (it does not begin with {name})"
        if begins_well and self.next_is(name) and header[4:14] != local_header(name, 0, 0)[4:14]:
            return f"{self.path}: file {name!r} in it is compressed, or packed by another tool; make it anew with `ghostnote engine pack`"
        return f"{self.path}: file {name!r} is not where and as its manifest lists it; get the bundle again"


def open_file(path: Path) -> BinaryIO:
    """An ordinary file of a size that a bundle may have, and nothing that would block or never end. Raises BundleError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: no bundle can be read there ({getattr(error, 'strerror', None) or error})") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BUNDLE_BYTES:
        os.close(fd)
        if stat.S_ISDIR(found.st_mode):
            raise BundleError(f"{path}: no bundle can be read there (Is a directory)")
        raise BundleError(f"{path}: is no ordinary file of at most {MAX_BUNDLE_BYTES} bytes, and so not a bundle")
    return os.fdopen(fd, "rb")

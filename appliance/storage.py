"""Files that a power cut can't damage: written beside the old one, made durable, and only then put in its place.

    create NAME.new -> write -> fsync -> rename over NAME -> fsync the folder

Before the rename the old file is whole, after it the new one is; there is no moment with neither. Every system call that changes
the disk is a method of `Disk`, so that a test can cut the power at each of them.

Runs in: the main process; while the pedal plays, on a thread of its own (`Writer`), because an fsync on a memory card can take a
second and a footswitch must not wait for it.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from collections.abc import Iterable
from pathlib import Path

UNFINISHED = ".new"


class Disk:
    """The system calls that change what is stored."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def symlink(self, target: str, path: Path) -> None:
        os.symlink(target, path)

    def make_folder(self, path: Path) -> None:
        os.mkdir(path)

    def remove_folder(self, path: Path) -> None:
        """Which is empty."""
        os.rmdir(path)

    def sync_folder(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


DISK = Disk()


def replace_file(path: Path, text: str, disk: Disk = DISK) -> None:
    """`path` holds `text`, or what it held before. Raises OSError."""
    unfinished = _beside(path)
    write_file(unfinished, [text.encode()], disk)
    disk.rename(unfinished, path)
    disk.sync_folder(path.parent)


def replace_link(path: Path, target: str, disk: Disk = DISK) -> None:
    """`path` is a symbolic link to `target`, or what it was before. Raises OSError."""
    unfinished = _beside(path)
    if os.path.lexists(unfinished):  # of a process of the same number that was killed
        disk.remove(unfinished)
    disk.symlink(target, unfinished)
    disk.rename(unfinished, path)
    disk.sync_folder(path.parent)


def write_file(path: Path, pieces: Iterable[bytes], disk: Disk = DISK) -> None:
    """A new file, durable but for its name. Raises OSError."""
    fd = disk.create(path)
    try:
        for piece in pieces:
            left = memoryview(piece)
            while left:
                left = left[disk.write(fd, left) :]
        disk.sync(fd)
    finally:
        disk.close(fd)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")


def remove_file(path: Path, disk: Disk = DISK) -> None:
    """Raises OSError, also where there is no such file."""
    disk.remove(path)
    disk.sync_folder(path.parent)


def set_aside(path: Path, disk: Disk = DISK) -> Path:
    """Give a damaged file another name, which nothing reads and nothing writes over. Returns it. Raises OSError."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    disk.rename(path, aside)
    disk.sync_folder(path.parent)
    return aside


def sweep(folder: Path, disk: Disk = DISK) -> None:
    """Remove what an interrupted write has left; nobody else may be writing. Raises OSError."""
    for left in folder.glob(f".*{UNFINISHED}"):
        disk.remove(left)


def state_folder(configured: str) -> Path:
    """Where presets and state live: as configured, else the service's folder, else the user's."""
    if configured:
        return Path(configured).expanduser()
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if service:
        return Path(service)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ghostnote"


class FolderLock:
    """Whoever holds it is the pedal that plays; it goes with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        """Raises BlockingIOError where another pedal holds it, any other OSError where the folder can't be used."""
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise

    def release(self) -> None:
        os.close(self._fd)


class Writer:
    """Replaces files on a thread of its own; of several texts for one file only the newest is written."""

    def __init__(self, disk: Disk = DISK) -> None:
        self.disk = disk
        self._texts: dict[Path, str] = {}
        self._lock, self._paths = threading.Lock(), queue.SimpleQueue[Path | None]()
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def replace(self, path: Path, text: str) -> None:
        with self._lock:
            self._texts[path] = text
        self._paths.put(path)

    def pending(self, path: Path) -> str | None:
        """What is on its way to `path`; None: what the disk has is the newest."""
        with self._lock:
            return self._texts.get(path)

    def failures(self) -> list[str]:
        """One line for each file that could not be written since the last call."""
        lines = []
        while not self._failures.empty():
            lines.append(self._failures.get())
        return lines

    def close(self, patience_seconds: float = 0.5) -> None:
        """Write what is left."""
        self._paths.put(None)
        self._thread.join(patience_seconds)

    def _work(self) -> None:
        while (path := self._paths.get()) is not None:
            text = self.pending(path)
            if text is None:
                continue
            try:
                replace_file(path, text, self.disk)
            except OSError as error:
                self._failures.put(f"{path} can't be written ({error.strerror}): make room, or set [storage] folder")
            with self._lock:
                if self._texts.get(path) is text:
                    del self._texts[path]

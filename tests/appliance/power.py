"""Disks whose power can be cut at every step: what a killed process leaves behind, and what a disk may lose that was not made durable."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.storage import Disk

PIECE = 50  # bytes that a write takes at most here, so that there are cuts in the middle of files


class PowerCut(BaseException):
    """Nothing runs after this."""


class StepDisk(Disk):
    """Counts its steps, and at step `cut_at` calls `cut` instead; a write is cut after half of its piece."""

    def __init__(self, cut_at: int, cut: Callable[[], None], piece: int = PIECE) -> None:
        self.cut_at, self.cut, self.piece, self.steps = cut_at, cut, piece, 0

    def _step(self) -> None:
        self.steps += 1
        if self.steps >= self.cut_at:  # whoever catches it and cleans up finds the power gone too
            self.cut()

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.steps + 1 == self.cut_at:
            super().write(fd, data[: self.piece // 2])
        self._step()
        return super().write(fd, data[: self.piece])

    def sync(self, fd: int) -> None:
        self._step()  # a kernel that lives on needs no more, and a test on a slow disk is spared it

    def close(self, fd: int) -> None:
        super().close(fd)  # which changes nothing on the disk, and a test has only so many
        self._step()

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def symlink(self, target: str, path: Path) -> None:
        self._step()
        super().symlink(target, path)

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)

    def remove_folder(self, path: Path) -> None:
        self._step()
        super().remove_folder(path)

    def sync_folder(self, folder: Path) -> None:
        self._step()


def killed(do: Callable[[Disk], object], cut_at: int, expected: tuple[type[Exception], ...] = (), piece: int = PIECE) -> bool:
    """Do it in a child that ends itself with SIGKILL at this step. Whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            do(StepDisk(cut_at, lambda: os.kill(os.getpid(), signal.SIGKILL), piece))
        except expected:
            pass
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code == -signal.SIGKILL


@dataclass
class Node:
    """What is durable of a file, a link or a folder; a folder's entries are names and inodes."""

    data: bytes = b""
    target: str | None = None
    entries: dict[str, int] | None = None


class LosingDisk(StepDisk):
    """Knows what is durable: a file's bytes after `sync`, the names in a folder after its own `sync_folder`. `crash` loses of the rest what
    chance says, of each folder by itself."""

    def __init__(self, cut_at: int, root: Path, piece: int = PIECE) -> None:
        super().__init__(cut_at, self._go_dark, piece)
        self.root, self.open_paths = root, dict[int, Path]()
        self.nodes: dict[int, Node] = {}
        self.pending: dict[int, list[tuple[str, str, int]]] = {}  # folder -> ("set" or "drop", name, inode), oldest first
        self.written: dict[int, Path] = {}  # files with bytes that no sync has followed
        self._learn(root)

    def _learn(self, path: Path) -> int:
        inode = path.lstat().st_ino
        if path.is_symlink():
            self.nodes[inode] = Node(target=os.readlink(path))
        elif path.is_dir():
            self.nodes[inode] = Node(entries={one.name: self._learn(one) for one in path.iterdir()})
        else:
            self.nodes[inode] = Node(path.read_bytes())
        return inode

    def _go_dark(self) -> None:
        raise PowerCut

    def _change(self, what: str, path: Path, inode: int = 0) -> None:
        self.pending.setdefault(path.parent.stat().st_ino, []).append((what, path.name, inode))

    def create(self, path: Path) -> int:
        fd = super().create(path)
        inode = os.fstat(fd).st_ino
        self.open_paths[fd], self.nodes[inode], self.written[inode] = path, Node(), path
        self._change("set", path, inode)
        return fd

    def sync(self, fd: int) -> None:
        super().sync(fd)
        inode = os.fstat(fd).st_ino
        self.nodes[inode] = Node(self.open_paths[fd].read_bytes())
        self.written.pop(inode, None)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        inode = new.lstat().st_ino
        if inode in self.written:
            self.written[inode] = new
        self._change("set", new, inode)
        self._change("drop", old)

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._change("drop", path)

    def symlink(self, target: str, path: Path) -> None:
        super().symlink(target, path)
        inode = path.lstat().st_ino
        self.nodes[inode] = Node(target=target)
        self._change("set", path, inode)

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        inode = path.stat().st_ino
        self.nodes[inode] = Node(entries={})
        self._change("set", path, inode)

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self._change("drop", path)

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        inode = folder.stat().st_ino
        self._apply(inode, self.pending.pop(inode, []))

    def _apply(self, folder: int, changes: list[tuple[str, str, int]]) -> None:
        entries = self.nodes[folder].entries
        assert entries is not None
        for what, name, inode in changes:
            if what == "set":
                entries[name] = inode
            else:
                entries.pop(name, None)

    def crash(self, chance: random.Random) -> None:
        """What a disk may show after the cut: of each folder's changed names any first ones, of unsynced bytes any part, or zeros."""
        for folder, changes in self.pending.items():
            self._apply(folder, changes[: chance.randint(0, len(changes))])
        for inode, path in self.written.items():
            written = path.read_bytes() if path.exists() else b""
            torn = [b"", written, written[: chance.randint(0, len(written))], bytes(len(written))]
            self.nodes[inode] = Node(chance.choice(torn))
        top = self.root.stat().st_ino
        for one in self.root.iterdir():
            shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
        self._show(self.root, self.nodes[top])

    def _show(self, path: Path, node: Node) -> None:
        if node.target is not None:
            path.symlink_to(node.target)
        elif node.entries is not None:
            path.mkdir(exist_ok=True)
            for name, inode in node.entries.items():
                self._show(path / name, self.nodes[inode])
        else:
            path.write_bytes(node.data)

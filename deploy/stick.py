"""Engines from a USB stick: `ghostnote/*.ghost` on it are copied into the pedal's inbox, and nothing else of it is looked at.

    python -m deploy.stick DEVICE       as root, from ghostnote-stick@.service, which udev starts for every stick

The stick is mounted read-only, without set-user-id, devices and programs, as one of a few file systems, in a mount namespace of the
service's own, and let go at once. Who made a bundle, and whether it may be used, is for the inbox to say.

Runs in: a process of its own, as root, with little else that it may do.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

INBOX = Path("/var/lib/ghostnote/engines/inbox")
MOUNTED = Path("/run/ghostnote-stick")
FOLDER, NAME = "ghostnote", re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\.ghost")
FILE_SYSTEMS, OPTIONS = "vfat,exfat,ext4", "ro,nosuid,nodev,noexec"
MOST_BUNDLES, LARGEST_BYTES, SPARE_BYTES = 8, (1 << 31) - 1, 256 << 20


class StickError(Exception):
    """What keeps a bundle from being copied: one line."""


def copy(stick: Path, inbox: Path) -> Iterator[str]:
    """A line for each bundle on the stick."""
    if not inbox.is_dir():
        yield f"{inbox} is not there yet: start the pedal once"
        return
    folder = stick / FOLDER
    found = sorted(one.name for one in folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    bundles = [name for name in found if NAME.fullmatch(name)]
    for name in bundles[:MOST_BUNDLES]:
        try:
            _copy_one(folder / name, inbox)
            yield f"{name}: in the pedal's inbox"
        except (OSError, StickError) as error:
            yield f"{name}: not copied ({error.strerror if isinstance(error, OSError) else error})"
    if len(bundles) > MOST_BUNDLES:
        yield f"{len(bundles) - MOST_BUNDLES} more were left out: no more than {MOST_BUNDLES} at a time"
    if not bundles:
        yield f"no bundle in the folder {FOLDER!r} of this stick"


def _copy_one(source: Path, inbox: Path) -> None:
    """Whole or not at all, and then its owner's whose inbox it is."""
    part, owner = inbox / f".{source.name}.part", inbox.stat()
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_BYTES:
            raise StickError("is no ordinary file of a bundle's size")
        if shutil.disk_usage(inbox).free < found.st_size + SPARE_BYTES:
            raise StickError("there is no room for it")
        try:
            with part.open("wb") as target:
                shutil.copyfileobj(file, target, 1 << 20)
                os.fchown(target.fileno(), owner.st_uid, owner.st_gid)
                os.fchmod(target.fileno(), 0o640)
                target.flush()
                os.fsync(target.fileno())
            part.rename(inbox / source.name)
        finally:
            part.unlink(missing_ok=True)


def main(argv: Sequence[str]) -> int:
    """0 also for a stick that has nothing to do with the pedal."""
    mounting = ["mount", "-t", FILE_SYSTEMS, "-o", OPTIONS, argv[0], str(MOUNTED)]
    done = subprocess.run(mounting, capture_output=True, text=True)
    if done.returncode:
        print(f"{argv[0]}: not looked at ({done.stderr.strip().splitlines()[-1:]})", flush=True)
        return 0
    try:
        for line in copy(MOUNTED, INBOX):
            print(line, flush=True)
    finally:
        subprocess.run(["umount", "--lazy", str(MOUNTED)], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The inbox: bundles that are laid into a folder, by scp, a USB stick or the web page, and wait for somebody at the pedal to agree.

    engines/inbox/NAME.ghost            a whole file: renamed to that, or unchanged for a second
    engines/inbox/refused/NAME.ghost    what was not taken, and beside it NAME.ghost.txt: the line that says why

    python -m appliance.inbox STORE KEYS     looks at all that is there, once

What comes in is checked by a process of its own, behind everything that has a deadline.

Runs in: the main process (`InboxWatch`), which looks about once a second; a process of its own (`main`).
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from appliance.child import Child
from appliance.flash import taken_in
from appliance.objects import Origin, now_utc
from appliance.store import Store, StoreError
from engines.bundle import SUFFIX, Bundle, BundleError

INBOX, REFUSED = "inbox", "refused"
COMING_SECONDS = 30.0  # a file that is no bundle yet may still be on its way for so long
MOST_REFUSED = 4  # bundles that are kept for whoever wants to look at them; a pedal's disk is small
NICENESS = 19
ARRIVED = "arrived: "  # before a digest, from the process to main
Seen = tuple[int, int]  # size, time of the last change


def inbox_of(store: Path) -> Path:
    return store / INBOX


def make_inbox(store: Path) -> Path:
    """For the pedal's user and group: whoever may give orders may lay a bundle here. Raises OSError.

    Who lays one here lets everybody read it: a folder that gives its group to what is in it is not permitted to a service."""
    inbox = inbox_of(store)
    (inbox / REFUSED).mkdir(parents=True, exist_ok=True)
    if stat.S_IMODE(inbox.stat().st_mode) & 0o777 != 0o770:
        inbox.chmod(0o770)
    return inbox


def waiting(inbox: Path) -> Iterator[tuple[Path, Seen]]:
    """Bundles by their names. Hidden ones are still being written."""
    with os.scandir(inbox) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # taken in meanwhile
                if not stat.S_ISDIR(found.st_mode):
                    yield Path(entry.path), (found.st_size, found.st_mtime_ns)


class InboxWatch:
    """`tick` about once a second; `close` at the end."""

    def __init__(self, store: Path, keys: Path) -> None:
        """Raises OSError."""
        self.inbox = make_inbox(store)
        self._child = Child("inbox", [sys.executable, "-m", "appliance.inbox", str(store), str(keys)], ())
        self._seen: dict[Path, Seen] = {}
        self._looked: dict[Path, Seen] = {}  # what was there when the process looked last
        self.arrived: list[str] = []  # digests that nobody has been asked about

    def tick(self) -> list[str]:
        """Returns what there is to say."""
        if self._child.running:
            self._child.ended()
            said = self._child.lines()
            self.arrived += [line.removeprefix(ARRIVED) for line in said if line.startswith(ARRIVED)]
            return [line for line in said if not line.startswith(ARRIVED)]
        try:
            now = dict(waiting(self.inbox))
        except OSError:
            return []
        whole = {path: seen for path, seen in now.items() if self._seen.get(path) == seen}
        self._seen = now
        if any(self._looked.get(path) != seen or _is_old(seen) for path, seen in whole.items()):
            self._looked = whole
            self._child.start()
        return []

    def close(self) -> None:
        self._child.kill()


def _is_old(seen: Seen) -> bool:
    """What has been here for so long will not become a bundle any more."""
    return time.time() - seen[1] / 1e9 > COMING_SECONDS


def look(store: Store, keys: Path) -> Iterator[str]:
    """Take in what can be, put aside what can't; a line on each, and one with the digest of what is new."""
    for path, seen in sorted(waiting(inbox_of(store.folder))):
        if not _is_old(seen) and not _opens(path):
            continue  # on its way
        try:
            with _opened(path) as file:
                held, new = taken_in(store, file, keys, origin=Origin("inbox", None, False, now_utc()), called=path.name)
            path.unlink()
            yield f"{path.name}: {held} {'is here: certify it, then activate it' if new else 'has been here already'}"
            if new:
                yield ARRIVED + held.digest
        except (BundleError, StoreError, OSError) as error:
            why = f"{path.name}: {error.strerror}" if isinstance(error, OSError) else str(error)
            _put_aside(path, why)
            yield f"refused: {why}"


def _opens(path: Path) -> bool:
    try:
        Bundle.open(path)
    except BundleError:
        return False
    return True


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _put_aside(path: Path, why: str) -> None:
    refused = path.parent / REFUSED
    refused.mkdir(exist_ok=True)
    for old in sorted(refused.glob(f"*{SUFFIX}"), key=lambda one: one.lstat().st_mtime)[: 1 - MOST_REFUSED or None]:
        old.unlink()
    path.rename(refused / path.name)
    (refused / f"{path.name}.txt").write_text(why + "\n")


def main(argv: Sequence[str]) -> int:
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    for line in look(Store(Path(argv[0])), Path(argv[1])):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

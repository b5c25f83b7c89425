"""A bundle on its way into the store's inbox: straight to disk, under a name that the store does not look at until all of it is there.

    inbox/.NAME.ghost.part -> fsync -> rename to inbox/NAME.ghost

Who made it, and whether it may be used, is for the store to say. Here is only seen to it that it fits: a name that is a name, no more
than the configuration allows, not the last of the disk, and what looks like a whole bundle.

Runs in: `ghostnote web`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from anyio import to_thread

from appliance.inbox import REFUSED
from engines.bundle import Bundle, BundleError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\.ghost")
SPARE_BYTES = 64 << 20  # presets, state and records of misses need room too
_PART = ".part"


class RefusedError(Exception):
    """What can't be done: an HTTP status, and a line that says why."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class Inbox:
    """The folder that the store watches. One upload at a time: a pedal has one slow disk."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self.digests: dict[str, str] = {}  # of what came in through here, by name
        self._busy = False

    def sweep(self) -> None:
        """Remove what an interrupted upload has left."""
        for left in self.folder.glob(f".*{_PART}"):
            left.unlink(missing_ok=True)

    async def take(self, name: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        """`size` is what the browser says that it is. Raises RefusedError; whatever happens, no part of it stays."""
        self._check(name, size)
        part = self.folder / f".{name}{_PART}"
        self._busy = True
        try:
            await self._write(part, chunks)
            self.digests[name] = (await to_thread.run_sync(Bundle.open, part)).digest
            part.rename(self.folder / name)
        except BundleError as error:
            raise RefusedError(422, str(error).replace(str(part), name).replace(part.name, name)) from None
        except OSError as error:
            raise RefusedError(507, f"{name} can't be kept ({error.strerror}): make room in {self.folder}") from None
        finally:
            self._busy = False
            part.unlink(missing_ok=True)

    def waits(self, name: str) -> bool:
        """Whether the store has yet to look at it."""
        return bool(NAME.fullmatch(name)) and (self.folder / name).exists()

    def refusal(self, name: str) -> str:
        """The store's line on a bundle that it has put aside."""
        if NAME.fullmatch(name):
            try:
                return (self.folder / REFUSED / f"{name}.txt").read_text("utf-8").strip()
            except OSError:
                pass
        return f"the store has not taken {name[:80]}"

    def _check(self, name: str, size: int | None) -> None:
        if not NAME.fullmatch(name):
            raise RefusedError(400, f"{name[:80]!r} is no name for a bundle: letters, digits, dots and dashes, and .ghost at the end")
        if self._busy:
            raise RefusedError(409, "another bundle is on its way: one at a time")
        if not self.folder.is_dir():
            raise RefusedError(503, "the pedal has not made its inbox yet: start it once with this [storage] folder")
        if (size or 0) > self.most_bytes:
            raise RefusedError(413, self._too_large())
        if shutil.disk_usage(self.folder).free < (size or 0) + SPARE_BYTES:
            raise RefusedError(507, "there is no room for it: remove an engine that is no longer used (ghostnote engine remove)")

    async def _write(self, part: Path, chunks: AsyncIterator[bytes]) -> None:
        written = 0
        with open(part, "wb") as file:
            async for chunk in chunks:
                written += len(chunk)
                if written > self.most_bytes:
                    raise RefusedError(413, self._too_large())
                await to_thread.run_sync(file.write, chunk)  # a memory card may take a second: the page goes on meanwhile
            await to_thread.run_sync(file.flush)
            await to_thread.run_sync(os.fsync, file.fileno())

    def _too_large(self) -> str:
        return f"it is larger than {self.most_bytes / 1e6:.0f} MB: [web] upload_mb says what is taken"

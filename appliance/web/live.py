"""What the pedal says of itself, again and again, to everyone who looks: server-sent events from one poller.

The pedal is asked twice a second while somebody looks, however many they are, and never while nobody does.

Runs in: `ghostnote web`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from appliance.status import StatusError

EVERY_SECONDS = 0.5
MOST_LISTENERS = 8


class Live:
    """`ask` gives a line of JSON. It may wait for the pedal: it is called on a thread. Raises StatusError where there is none."""

    def __init__(self, ask: Callable[[], bytes], every_seconds: float = EVERY_SECONDS) -> None:
        self._ask, self._every_seconds = ask, every_seconds
        self._listeners, self._asked = 0, 0
        self._event = b""
        self._changed = asyncio.Condition()
        self.over: Callable[[], bool] = lambda: False  # whether the page itself is about to end
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        return self._listeners >= MOST_LISTENERS

    async def events(self, may: Callable[[], bool]) -> AsyncIterator[bytes]:
        """For one listener, for as long as it `may` listen."""
        self._listeners += 1
        self._task = self._task or asyncio.create_task(self._poll())
        try:
            while may() and not self.over():
                seen = self._asked
                if self._event:
                    yield self._event
                async with self._changed:
                    while self._asked == seen:
                        await self._changed.wait()
        finally:
            self._listeners -= 1

    async def _poll(self) -> None:
        while self._listeners:
            self._event = await asyncio.to_thread(self._next)
            self._asked += 1
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(self._every_seconds)
        self._event, self._task = b"", None  # who comes next must not see what is long over

    def _next(self) -> bytes:
        try:
            said = self._ask()
        except (StatusError, OSError) as error:
            said = json.dumps({"line": str(error)}, ensure_ascii=False, separators=(",", ":")).encode()
        return b"data: " + said.strip() + b"\n\n"

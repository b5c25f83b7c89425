"""A call that may take its time, on a thread of its own: what main may not wait for. Runs in: the main process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Begins at once. Nobody waits for it when the process ends: what it does must stand a power cut anyway."""

    def __init__(self, do: Callable[[], Result]) -> None:
        self._do = do
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="background", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Result:
        """What came of it. Raises what it has raised."""
        self._thread.join()
        if self._error:
            raise self._error
        return self._result

    def _work(self) -> None:
        try:
            self._result = self._do()
        except BaseException as error:
            self._error = error


def off(do: Callable[[], Result]) -> Generator[None, None, Result]:
    """For a generator that is advanced once a tick: `result = yield from off(...)`."""
    call = Background(do)
    while not call.done:
        yield
    return call.result()

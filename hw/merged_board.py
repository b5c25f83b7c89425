"""Several boards as one: what any of them reports counts, and all show the same lights.

Runs in: the main process.
"""

from __future__ import annotations

from collections.abc import Sequence

from hw.board import BoardEvent, BoardPort, Lights


class MergedBoard:
    """A BoardPort over others. Switch 0 of one and switch 0 of another are the same switch."""

    def __init__(self, boards: Sequence[BoardPort]) -> None:
        self._boards = tuple(boards)

    @property
    def answers(self) -> bool:
        return all(board.answers for board in self._boards)

    def poll(self, until_seconds: float) -> list[BoardEvent]:
        events = [event for board in self._boards for event in board.poll(until_seconds)]
        return sorted(events, key=lambda event: event.seconds)

    def show(self, lights: Lights, alive: bool) -> None:
        for board in self._boards:
            board.show(lights, alive)

    def wake_fds(self) -> tuple[int, ...]:
        return tuple(fd for board in self._boards for fd in board.wake_fds())

    def close(self) -> None:
        for board in self._boards:
            board.close()

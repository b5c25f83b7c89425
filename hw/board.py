"""Footswitches and knobs, as timed events.

    "script:set.txt"    a text file of timed events (hw/script.py says how it reads)
    "none"              no board: the config's values stay

Runs in: the main process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SWITCHES = ("bypass", "kill_dry", "trails")
TEXTS = ("prompt", "subdivision")  # a prompt may also be a number
CONTROL_NAMES = ("mix", "repeats", "level", *SWITCHES, "delay_ms", "subdivision", "tap", "prompt", "steps")


class BoardError(Exception):
    """A board that can't be opened: one line that names what is wrong and what to do."""


@dataclass(frozen=True)
class ControlEvent:
    """At `seconds` since the first period: `control` (one of CONTROL_NAMES) takes `value`.

    For the switches the value is 0 or 1; `tap` counts a press (its time is what matters); `prompt` is an index or a text that the
    engine knows, `subdivision` a text such as 1/8. that says what a tapped beat sets.
    """

    seconds: float
    control: str
    value: float | str


class BoardPort(Protocol):
    def poll(self, until_seconds: float) -> list[ControlEvent]:
        """Events due up to `until_seconds` on the audio clock, oldest first, each given once. Never blocks."""

    def close(self) -> None: ...


def open_board(address: str) -> BoardPort:
    """Open the board that `address` names. Raises BoardError."""
    kind, _, rest = address.partition(":")
    if kind in ("script", "none"):
        from hw.script import ScriptBoard

        return ScriptBoard.from_file(rest) if kind == "script" else ScriptBoard([])
    raise BoardError(f"board {address!r} is unknown: use script:PATH or none")

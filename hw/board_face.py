"""A board drawn in a terminal: lights, switches and knobs as rich draws them. For the keyboard board and for `ghostnote board monitor`.

Runs in: the main process.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from hw.board import EXPRESSION, Colour, Light, Lights, Pattern

STYLES = {
    Colour.OFF: "bright_black",
    Colour.RED: "bold red",
    Colour.AMBER: "bold yellow",
    Colour.GREEN: "bold green",
    Colour.BLUE: "bold blue",
    Colour.VIOLET: "bold magenta",
    Colour.WHITE: "bold white",
}
PERIOD_SECONDS = {Pattern.SLOW_BLINK: 1.0, Pattern.FAST_BLINK: 0.25}
FLASH_SECONDS = 0.1
BAR = 20


def lamp(light: Light, now_seconds: float) -> Text:
    period = PERIOD_SECONDS.get(light.pattern)
    lit = light.colour if period is None or now_seconds % period < period / 2 else Colour.OFF
    return Text("●" if lit else "○", STYLES[lit])


def lights_line(lights: Lights, now_seconds: float) -> Text:
    beat = lights.beat_seconds > 0 and now_seconds % lights.beat_seconds < FLASH_SECONDS
    named = {
        "status": lights.status,
        "deadline": lights.deadline,
        "tempo": Light(Colour.WHITE if beat else Colour.OFF),
        "clip": Light(Colour.RED if lights.clip else Colour.OFF),
    }
    line = Text(" ")
    for name, light in named.items():
        line += lamp(light, now_seconds) + f" {name}   "
    return line + Text(lights.text, "bold")


def switches_line(down: Sequence[bool], lights: Lights, now_seconds: float) -> Text:
    line = Text(" ")
    shown = (*lights.switches, *[Light()] * len(down))
    for number, (pressed, light) in enumerate(zip(down, shown, strict=False), 1):
        line += lamp(light, now_seconds) + Text(f" {number} ", "reverse" if pressed else "") + "    "
    return line


def knob_lines(values: Sequence[float | None], chosen: int | None = None) -> Text:
    lines = []
    for knob, value in enumerate(values):
        name = "pedal" if knob == EXPRESSION else f"knob {knob + 1}"
        filled = 0 if value is None else round(value * BAR)
        told = "  -" if value is None else f"{100 * value:3.0f}"
        mark = ">" if knob == chosen else " "
        lines.append(Text(f" {mark} {name}  {'━' * filled}{'─' * (BAR - filled)} {told}", "bold" if knob == chosen else ""))
    return Text("\n").join(lines)


def face(
    lights: Lights, down: Sequence[bool], knobs: Sequence[float | None], now_seconds: float, chosen: int | None = None
) -> RenderableType:
    """All of it. `chosen` is the knob that is being turned."""
    return Group(lights_line(lights, now_seconds), switches_line(down, lights, now_seconds), knob_lines(knobs, chosen))

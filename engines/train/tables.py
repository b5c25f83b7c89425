"""How the pages of all evaluations write figures: numbers, intervals, tables, and what was asked beside what was measured.

Runs in: evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engines.train.metrics import Interval


def number(value: float, digits: int = 2) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def bounds(value: Interval, digits: int = 2, sign: str = "") -> str:
    """A mean with its interval; `sign` "+" for differences."""
    if math.isnan(value.mean):
        return "n/a"
    mean, low, high = (f"{one:{sign}.{digits}f}" for one in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


@dataclass(frozen=True)
class Goal:
    """One thing that is asked of an engine. What could not be measured is not met."""

    what: str
    asked: str
    measured: str
    met: bool

    @staticmethod
    def at_least(what: str, limit: float, value: float, unit: str = "") -> Goal:
        return Goal(what, f">= {_figure(limit, unit)}", _figure(value, unit), value >= limit)

    @staticmethod
    def at_most(what: str, limit: float, value: float, unit: str = "") -> Goal:
        return Goal(what, f"<= {_figure(limit, unit)}", _figure(value, unit), value <= limit)


def _figure(value: float, unit: str) -> str:
    """As it is read: shares in per cent, dB to a hundredth, levels and times whole."""
    if math.isnan(value):
        return "n/a"
    return {
        "%": f"{value:.1%}", "dB": f"{value:.2f} dB", "dBFS": f"{value:.0f} dBFS", "cents": f"{value:.1f} cents", "ms": f"{value:.0f} ms",
    }.get(unit, f"{value:.2f}")


def goal_table(goals: Iterable[Goal]) -> str:
    return table(("", "asked", "measured", "met"), [(g.what, g.asked, g.measured, "yes" if g.met else "**no**") for g in goals])


def rounded(value: object) -> object:
    """For JSON: four digits after the point, and null for what is not known."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return value

"""`ghostnote status`: the running pedal in one table, once or for as long as one looks at it.

Runs in: a process of its own, beside the pedal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from appliance.status import Snapshot, StatusError, fetch

EVERY_SECONDS = 1.0
STYLES = {"on time": "bold green", "close": "bold yellow", "fallback": "bold red"}
MEASURES = {
    "period_late": ("period: had late by", 1.0, "µs"),
    "period_work": ("period: work", 1.0, "µs"),
    "period_slack": ("period: slack", 1.0, "µs"),
    "block_late": ("block: begun after", 1e-3, "ms"),
    "block_work": ("block: work", 1e-3, "ms"),
    "block_slack": ("block: slack", 1e-3, "ms"),
}


def run(console: Console, path: Path | None, as_json: bool, once: bool) -> None:
    """Raises StatusError if there is no pedal; one that ends while it is looked at ends the look."""
    status = fetch(path)
    if as_json:
        print(json.dumps(status, indent=2, ensure_ascii=False))
    elif once or not console.is_terminal:
        console.print(shown(status))
    else:
        _follow(console, path, status)


def _follow(console: Console, path: Path | None, status: Snapshot) -> None:
    with Live(shown(status), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_SECONDS)
            try:
                live.update(shown(fetch(path)), refresh=True)
            except StatusError:
                return


def shown(status: Snapshot) -> RenderableType:
    return Group(_head(status), _spreads(status), _blocks(status))


def _head(status: Snapshot) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for what, found, style in _rows(status):
        table.add_row(what, Text(found, style))
    return table


def _rows(status: Snapshot) -> Iterator[tuple[str, str, str]]:
    audio, worker, limit = status["audio"], status["worker"], status["step_limit"]
    yield "deadlines", status["health"], STYLES[status["health"]]
    yield "engine", f"{status['engine']} ({status['state']}), “{status['prompt']}”, {status['delay_ms']:.0f} ms after the guitar", ""
    if status["forced"]:
        yield "certificate", f"none, and it plays because its owner wanted it so: {status['forced']}", "yellow"
    yield "played", f"{status['seconds']:.1f} s", ""
    steps = f"{status['steps']} wished" + (f", the governor allows {limit}" if limit else "") + f"; shed in {worker['shed']} blocks"
    yield "denoising steps", steps, "yellow" if limit else ""
    late = f"{worker['generated']} answered, {worker['prefilled']} only heard, {audio['late_blocks']} late (the start included)"
    yield "blocks", late, "red" if audio["late_blocks"] else ""
    xruns = audio["capture_xruns"] + audio["playback_xruns"] + audio["gaps"]
    yield "xruns", f"{xruns}; card opened again {audio['reopens']} times", "red" if xruns else ""
    for what, counts in (("misses", status["misses"]), ("over budget", status["breaches"])):
        yield what, _counts(counts), "red" if counts else ""
    yield "machine", _machine(status["machine"]), ""


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _machine(machine: dict[str, Any]) -> str:
    found = [f"{machine['celsius']:.0f} °C"] if machine["celsius"] is not None else []
    found += [f"{machine['clock_mhz']:.0f} MHz"] if machine["clock_mhz"] is not None else []
    return ", ".join(found) or "tells neither clock nor heat"


def _spreads(status: Snapshot) -> Table:
    table = Table(Column("", no_wrap=True), "count", "median", "99 %", "99.9 %", "worst", box=None, header_style="dim", padding=(0, 2))
    for name, (title, scale, unit) in MEASURES.items():
        found = status["measures"][name]
        cells = [f"{found[key] * scale:.1f} {unit}" if found["count"] else "" for key in ("p50", "p99", "p999", "worst")]
        table.add_row(title, str(found["count"]), *cells)
    return table


def _blocks(status: Snapshot) -> Table:
    table = Table("last blocks", "steps", "begun", "written", "due", "slack", box=None, header_style="dim", padding=(0, 2))
    for row in status["blocks"]:
        slack = row["due"] - row["written"] if "written" in row else None
        cells = [f"{row[key]:.1f}" if key in row else "" for key in ("started", "written", "due")]
        table.add_row(f"{row['seconds']:.2f} s", str(row["steps"]), *cells, Text("" if slack is None else f"{slack:.1f} ms", _bad(slack)))
    return table


def _bad(slack: float | None) -> str:
    return "red" if slack is not None and slack < 0 else ""

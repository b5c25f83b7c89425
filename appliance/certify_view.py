"""What `ghostnote certify` shows: how a soak goes, and what a certificate says.

Runs in: the main process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from appliance.certificate import Certificate
from appliance.certify import SoakJob
from appliance.stats import Rows, answered, compute_ms, slack_ms
from appliance.status_table import MEASURES

NAMES = ("block_late", "block_work", "block_answered", "block_slack", "period_work", "period_slack")
ROWS = {name: ({**MEASURES, "block_answered": ("block: answered", 1e-3, "ms")})[name] for name in NAMES}


@dataclass
class Tally:
    """What the live table says of the blocks so far."""

    blocks: int = 0
    late: int = 0
    slack_ms: float = float("inf")
    last_slack_ms: float = float("nan")
    work_ms: float = 0.0

    def add(self, rows: Rows) -> None:
        done = answered(rows)
        self.blocks += len(rows)
        self.late += int(np.count_nonzero((rows["written"] == 0) | (rows["written"] > rows["due"])))
        if len(done):
            slack = slack_ms(done)
            self.slack_ms, self.last_slack_ms = min(self.slack_ms, float(slack.min())), float(slack[-1])
            self.work_ms = max(self.work_ms, float(compute_ms(done).max()))


class LiveView:
    """A bar and one line, followed once a second."""

    def __init__(self, job: SoakJob) -> None:
        self.tally = Tally()
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self.task = self.bar.add_task(f"soak ({job.disturbance})", total=60 * job.minutes)

    def add(self, seconds: float, rows: Rows) -> None:
        self.tally.add(rows)
        self.bar.update(self.task, completed=seconds)

    def shown(self) -> RenderableType:
        tally = self.tally
        if not tally.blocks:
            return self.bar
        now = f"slack {tally.last_slack_ms:.0f} ms now, {tally.slack_ms:.0f} at least; longest block {tally.work_ms:.0f} ms"
        late = Text(f"{tally.blocks} blocks, {tally.late} late; ", "bold red" if tally.late else "green")
        return Group(self.bar, late.append(now, "default"))


def shown(certificate: Certificate) -> RenderableType:
    """For people."""
    head = Table(show_header=False, box=None, padding=(0, 2))
    head.add_column(style="dim", no_wrap=True)
    head.add_column()
    for what, says in rows_of(certificate):
        head.add_row(what, says if isinstance(says, Text) else Text(says))
    return Group(head, _spreads(certificate))


def rows_of(certificate: Certificate) -> list[tuple[str, str | Text]]:
    found, held = certificate.measured, certificate.conditions
    allowance = f"of {found.allowance_us / 1000:.0f} ms from the block to its answer"
    steps = f"{found.steps_allowed} (played with {held.steps}" + (f", {found.step_us / 1000:.1f} ms each)" if found.step_us else ")")
    clock = f", clock {found.clock_mhz[0]:.0f} to {found.clock_mhz[1]:.0f} MHz" if found.clock_mhz else ""
    heat = f"{found.celsius:.0f} °C at most" if found.celsius is not None else "this machine does not tell"
    return [
        ("verdict", Text(certificate.verdict, "bold green" if certificate.passed else "bold red")),
        *(("", reason) for reason in certificate.reasons),
        ("engine", f"{certificate.name} {held.engine[:12]}, on {held.backend}"),
        ("made", f"{certificate.made}, {found.seconds / 60:.1f} minutes of music"),
        ("load", str(certificate.disturbance)),
        ("blocks", f"{found.blocks}, {found.late} late; {allowance}"),
        ("steps allowed", steps),
        ("memory", ", ".join(f"{name} {mb:.0f} MB" for name, mb in found.resident_mb.items())),
        ("heat", heat + clock + (f", slowed down {found.throttles} times" if found.throttles else "")),
        *(("void if changed" if first else "", says) for first, says in _conditions(certificate)),
        *(("remark" if first else "", says) for first, says in _marked(certificate.remarks)),
    ]


def _conditions(certificate: Certificate) -> list[tuple[bool, str]]:
    held = certificate.conditions
    return _marked(
        [
            f"Ghostnote {held.ghostnote}; {held.backend}; {held.runtime}; GPU {held.gpu}",
            f"{held.cpu}; kernel {held.kernel}; power mode {held.power}; governor {held.governor}; clocks {held.clocks}",
            f"{held.rate} Hz, {held.periods} periods of {held.period}; {held.steps} steps; budget {held.budget:g} ms",
            f"cores: {held.cores}; {held.threads} threads; real time: {held.realtime}; engine at nice {held.niceness}",
        ]
    )


def _marked(lines: list[str] | tuple[str, ...]) -> list[tuple[bool, str]]:
    return [(at == 0, line) for at, line in enumerate(lines)]


def _spreads(certificate: Certificate) -> Table:
    table = Table(Column("", no_wrap=True), "count", "median", "99 %", "99.9 %", "worst", box=None, header_style="dim", padding=(0, 2))
    for name, (title, scale, unit) in ROWS.items():
        found = getattr(certificate.measured, name)
        table.add_row(title, str(found["count"]), *(f"{found[key] * scale:.1f} {unit}" for key in ("p50", "p99", "p999", "worst")))
    return table

"""What a session came to, in numbers: collected from shared memory when it ends, written as JSON, shown as a table.

Runs in: the main process.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from appliance.histogram import Measure, histogram
from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters, Ledger, Rows, WorkerCounter, WorkerTotals, compute_ms, slack_ms

Numbers = Mapping[str, float | None]


@dataclass(frozen=True)
class Session:
    """What shared memory does not know of a session."""

    engine: str
    prompt: str
    delay_frames: int
    startup_seconds: float | None  # until the engine was ready; None if it never was
    peak_rss_mb: Mapping[str, float]
    audio_restarts: int = 0
    engine_restarts: int = 0
    misses: Mapping[str, int] = field(default_factory=dict)  # missed deadlines by cause
    breaches: Mapping[str, int] = field(default_factory=dict)  # how often each budget began to be breached
    notes: tuple[str, ...] = ()  # what the processes had to say, such as what the system did not permit


@dataclass(frozen=True)
class Report:
    """The exit report. Times are milliseconds unless the name says otherwise; percentiles are over the ledger's blocks."""

    engine: str
    prompt: str
    sample_rate: int
    period_frames: int
    block_frames: int
    seconds: float  # of music
    delay_ms: float
    blocks: int
    answered_blocks: int
    prefilled_blocks: int  # heard, but not answered
    late_blocks: int
    xruns: int  # of capture and playback, and gaps that the card did not report
    silent_frames: int  # wet was due, and neither engine nor plain delay was heard
    resting_frames: int  # the engine's own answer, on time, was silence although the guitar was not silent
    fallback_frames: int  # in which the plain delay stood in for the engine
    clipped_frames: int
    slack_ms: Numbers
    block_compute_ms: Numbers
    block_ms: float
    rtf: float | None  # median block compute / block: below 1 is faster than real time
    period_work_us: Numbers
    period_late_us: Numbers
    period_slack_us: Numbers
    shed_blocks: int  # answered with fewer denoising steps than the player wished
    misses: Mapping[str, int]
    breaches: Mapping[str, int]
    startup_s: float | None
    peak_rss_mb: Mapping[str, float]
    audio_restarts: int
    engine_restarts: int
    engine_resets: int
    notes: tuple[str, ...]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")


def collect(memory: SharedMemory, session: Session) -> Report:
    layout, audio, worker = memory.layout, Counters(memory.counters), WorkerTotals(memory)
    rows = Ledger(memory.ledger, layout.block_frames).blocks()
    compute, block_ms = compute_ms(rows), 1000 * layout.block_frames / layout.sample_rate
    position = audio.get(Counter.POSITION)
    return Report(
        engine=session.engine,
        prompt=session.prompt,
        sample_rate=layout.sample_rate,
        period_frames=layout.period_frames,
        block_frames=layout.block_frames,
        seconds=round(position / layout.sample_rate, 3),
        delay_ms=round(1000 * session.delay_frames / layout.sample_rate, 2),
        blocks=position // layout.block_frames,
        answered_blocks=worker.get(WorkerCounter.GENERATED),
        prefilled_blocks=worker.get(WorkerCounter.PREFILLED),
        late_blocks=audio.get(Counter.LATE_BLOCKS),
        xruns=sum(audio.get(counter) for counter in (Counter.CAPTURE_XRUNS, Counter.PLAYBACK_XRUNS, Counter.GAPS)),
        silent_frames=audio.get(Counter.SILENT_FRAMES),
        resting_frames=audio.get(Counter.RESTING_FRAMES),
        fallback_frames=audio.get(Counter.FALLBACK_FRAMES),
        clipped_frames=audio.get(Counter.CLIPPED_FRAMES),
        slack_ms=spread(slack_ms(rows), "min", "p50", "p99"),
        block_compute_ms=spread(compute, "p50", "p99", "max"),
        block_ms=round(block_ms, 3),
        rtf=round(float(np.median(compute)) / block_ms, 4) if len(compute) else None,
        period_work_us=period_work_us(memory),
        period_late_us=_of_histogram(memory, Measure.PERIOD_LATE, p50=50, p99=99, max=100),
        period_slack_us=_of_histogram(memory, Measure.PERIOD_SLACK, min=0, p50=50, p99=1),
        shed_blocks=worker.get(WorkerCounter.SHED),
        misses=dict(session.misses),
        breaches=dict(session.breaches),
        startup_s=None if session.startup_seconds is None else round(session.startup_seconds, 3),
        peak_rss_mb={name: round(mb, 1) for name, mb in session.peak_rss_mb.items()},
        audio_restarts=session.audio_restarts,
        engine_restarts=session.engine_restarts,
        engine_resets=worker.get(WorkerCounter.RESETS),
        notes=session.notes,
    )


def spread(values: NDArray[np.float64], *names: str) -> dict[str, float | None]:
    """Smallest, largest and percentiles, rounded; None without values. For slack, p99 is what 99 % of the blocks have at least."""
    if not len(values):
        return dict.fromkeys(names)
    percents = {"min": 0.0, "p50": 50.0, "p99": 99.0, "max": 100.0}
    falls = "min" in names  # the bad end is the low one
    return {
        name: round(float(np.percentile(values, 100 - percents[name] if falls and name == "p99" else percents[name])), 3) for name in names
    }


def period_work_us(memory: SharedMemory) -> dict[str, float | None]:
    largest = Counters(memory.counters).get(Counter.MAX_WORK_US)
    return {**_of_histogram(memory, Measure.PERIOD_WORK, p50=50, p99=99), "max": largest}


def _of_histogram(memory: SharedMemory, measure: Measure, **percents: float) -> dict[str, float | None]:
    counted = histogram(memory.histograms, measure)
    return {name: counted.percentile_us(percent) for name, percent in percents.items()}


def own_peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ledger_rows(memory: SharedMemory) -> Rows:
    return Ledger(memory.ledger, memory.layout.block_frames).blocks()


def summary(report: Report, title: str) -> RenderableType:
    """What a person wants to know first, in one table."""
    table = Table(title=Text(title, "bold"), title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for what, found, bad in _rows(report):
        table.add_row(what, Text(found, "" if bad is None else "bold red" if bad else "green"))
    return Group(table, *(Text(f"  {note}", "dim") for note in report.notes))


def _rows(report: Report) -> Iterator[tuple[str, str, bool | None]]:
    """What, its value, and whether that is bad (None: neither good nor bad)."""
    yield "engine", f"{report.engine}, prompt “{report.prompt}”, {report.delay_ms:.0f} ms after the guitar", None
    yield "blocks", f"{report.blocks} of {report.block_ms:.0f} ms, {report.late_blocks} late", report.late_blocks > 0
    yield "block compute", f"{_shown(report.block_compute_ms)}; real-time factor {_number(report.rtf)}", None
    yield "slack", _shown(report.slack_ms), (report.slack_ms["min"] or 0) < 0
    yield "silent frames", f"{report.silent_frames} (and {report.resting_frames} in which the engine rests)", report.silent_frames > 0
    yield "xruns", f"{report.xruns}", report.xruns > 0
    yield "audio per period", f"{_shown(report.period_work_us, 'µs')} ({report.period_frames} frames)", None
    yield "... had late by", f"{_shown(report.period_late_us, 'µs')}; slack {_shown(report.period_slack_us, 'µs')}", None
    if report.shed_blocks:
        yield "shed steps", f"in {report.shed_blocks} blocks", True
    if report.misses or report.breaches:
        yield "misses", f"{_counts(report.misses)}; over budget: {_counts(report.breaches)}", True
    yield "engine ready after", f"{_number(report.startup_s)} s", None
    yield "peak memory", ", ".join(f"{name} {mb:.0f} MB" for name, mb in report.peak_rss_mb.items()), None
    if report.audio_restarts or report.engine_restarts or report.engine_resets:
        yield "restarts", f"audio {report.audio_restarts}, engine {report.engine_restarts}; engine resets {report.engine_resets}", True


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"  # noqa: RUF001


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _shown(numbers: Numbers, unit: str = "ms") -> str:
    names = {"p50": "median", "p99": "p99", "min": "min", "max": "max"}
    return ", ".join(f"{names[name]} {'–' if value is None else f'{value:.0f}'} {unit}" for name, value in numbers.items())  # noqa: RUF001

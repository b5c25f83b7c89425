"""What a soak came to: figures from ledger and histograms, how many denoising steps they allow, and whether the engine passed.

Pure: what was noted goes in, `Measured` and the reasons of a FAIL come out. Runs in: the main process of `ghostnote certify`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from appliance.certificate import Bins, Conditions, Measured
from appliance.config import Config
from appliance.governor import Cost
from appliance.gpu_check import Line
from appliance.histogram import BINS, LEAST_US, Histogram, Measure, histogram
from appliance.monitor import Monitor
from appliance.report import Report
from appliance.stats import Rows, answered, slack_ms
from appliance.status import PERCENTS, spread_us
from appliance.vitals import MachineVitals
from engines.engine import EngineSpec

MARGIN = 0.1  # p99.9 of the next hour may be larger than that of the soak by so much of itself
MEMORY_MARGIN = 1.25  # runtimes of other versions and machines take more or less than what was measured when it was packed
COURSE_POINTS = 120


@dataclass(frozen=True)
class Findings:
    """All that is judged."""

    spec: EngineSpec
    config: Config
    conditions: Conditions
    report: Report
    rows: Rows
    machine: Sequence[tuple[float, MachineVitals]]
    prepared: Sequence[Line]  # compiling and proving
    golden: Sequence[Line]
    promised_bytes: int  # by the bundle, for a process that plays it; 0: nothing is
    afterwards: Conditions


def least_slack_ms(config: Config) -> float:
    return config.monitor.slack_ms


def steps_allowed(rows: Rows, most: int, budget_us: float) -> int:
    """The most steps, up to `most`, at which p99.9 of what a block takes from the doorbell on, and the margin, are within `budget_us`."""
    done = answered(rows)
    costs = [(int(row["started"] - row["captured"]), Cost.of(row)) for row in done]
    if not any(cost.step_ns for _, cost in costs):  # this backend does not tell what a step takes
        most = min(most, max((cost.steps for _, cost in costs), default=0))
    for steps in range(most, 0, -1):
        taken_us = [(late_ns + cost.at(steps)) / 1000 for late_ns, cost in costs]
        if taken_us and worst_us(taken_us) <= budget_us:
            return steps
    return 0


def worst_us(taken_us: Sequence[float]) -> float:
    """p99.9, with its margin."""
    return float(np.percentile(taken_us, 99.9)) * (1 + MARGIN)


def measured(found: Findings, monitor: Monitor) -> Measured:
    rows, report, machine = found.rows, found.report, [one for _, one in found.machine]
    done, clocks = answered(rows), [one.clock_mhz for one in machine if one.clock_mhz]
    allowance_us = int((rows["due"] - rows["captured"]).min() // 1000) if len(rows) else 0
    took = answered_after(done)
    step_ns = [cost.step_ns for cost in map(Cost.of, done) if cost.step_ns]
    return Measured(
        seconds=report.seconds,
        blocks=len(rows),
        answered=len(done),
        late=int(np.count_nonzero((rows["written"] == 0) | (rows["written"] > rows["due"]))),
        causes=dict(report.misses),
        allowance_us=allowance_us,
        block_work=spread_us(monitor, Measure.BLOCK_WORK),
        block_late=spread_us(monitor, Measure.BLOCK_LATE),
        block_slack=spread_us(monitor, Measure.BLOCK_SLACK),
        block_answered={
            "count": took.count,
            **{name: took.percentile_us(percent) for name, percent in [*PERCENTS.items(), ("worst", 100)]},
        },
        period_work=spread_us(monitor, Measure.PERIOD_WORK),
        period_slack=spread_us(monitor, Measure.PERIOD_SLACK),
        xruns=report.xruns,
        silent_frames=report.silent_frames,
        step_us=int(np.median(step_ns)) // 1000 if step_ns else None,
        steps_allowed=steps_allowed(rows, found.spec.max_steps, allowance_us - 1000 * least_slack_ms(found.config)),
        resident_mb=dict(report.peak_rss_mb),
        celsius=max((one.celsius for one in machine if one.celsius is not None), default=None),
        clock_mhz=(min(clocks), max(clocks)) if clocks else None,
        throttles=machine[-1].throttles - machine[0].throttles if machine else 0,
        startup_seconds=report.startup_s or 0.0,
        answered_bins=bins(took),
        slack_bins=bins(histogram(monitor.memory.histograms, Measure.BLOCK_SLACK)),
        course=tuple(course(found)),
    )


def answered_after(done: Rows) -> Histogram:
    """From the moment when a block was whole to its answer: what the deadline is about."""
    took = Histogram(np.zeros(BINS, np.int64))
    for row in done:
        took.add(int(row["written"] - row["captured"]) // 1000)
    return took


def bins(counted: Histogram) -> Bins:
    return tuple((int(LEAST_US[at]), int(counted.bins[at])) for at in np.flatnonzero(counted.bins))


def course(found: Findings) -> Iterator[tuple[float, float, float | None]]:
    """Least slack and heat over the soak, in so many parts."""
    done = answered(found.rows)
    if not len(done):
        return
    ends, slack = (done["start"] + found.spec.block_frames) / found.spec.sample_rate, slack_ms(done)
    for part in np.array_split(np.arange(len(done)), min(len(done), COURSE_POINTS)):
        first, last = float(ends[part[0]]), float(ends[part[-1]])
        heat = [one.celsius for at, one in found.machine if first - 2 <= at <= last and one.celsius is not None]
        yield round(last, 2), round(float(slack[part].min()), 2), max(heat, default=None)


def reasons(found: Findings, figures: Measured) -> Iterator[str]:
    """Why the engine may not go live; none: it passed."""
    yield from (f"{line.what}: {line.detail}" for line in (*found.prepared, *found.golden) if line.passed is False)
    yield from _deadlines(found, figures)
    yield from _memory(found, figures)
    yield from _heat(found, figures)
    yield from (f"{change} during the soak" for change in found.conditions.changes(found.afterwards))


def _deadlines(found: Findings, figures: Measured) -> Iterator[str]:
    report, wanted_ms, steps = found.report, least_slack_ms(found.config), found.conditions.steps
    if not figures.answered:
        yield f"none of {figures.blocks} blocks was answered"
        return
    if figures.late:
        yield f"{figures.late} of {figures.blocks} blocks late (misses of blocks and periods: {_causes(figures.causes)})"
    if report.engine_restarts or report.engine_resets:
        yield f"the engine ended {report.engine_restarts} times, and had to forget everything {report.engine_resets} times"
    if figures.block_slack["worst"] < 1000 * wanted_ms:
        yield f"slack {figures.block_slack['worst'] / 1000:.0f} ms at worst, {wanted_ms:.0f} ms are wanted ([monitor] slack_ms)"
    if figures.steps_allowed < steps:
        instead = f"set [engine] steps = {figures.steps_allowed}" if figures.steps_allowed else "not even one step fits"
        yield f"{steps} steps do not leave the budget with a margin of {MARGIN:.0%}: {instead}"


def _causes(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in causes.items()) or "no cause found"


def _memory(found: Findings, figures: Measured) -> Iterator[str]:
    promised_mb = found.promised_bytes / 2**20
    if promised_mb and figures.resident_mb["engine"] > promised_mb * MEMORY_MARGIN:
        yield f"{figures.resident_mb['engine']:.0f} MB of memory, its manifest promises {promised_mb:.0f}"


def _heat(found: Findings, figures: Measured) -> Iterator[str]:
    most = found.config.monitor.celsius
    if figures.throttles:
        yield f"throttled: the processor was slowed down {figures.throttles} times because of heat"
    if figures.celsius is not None and figures.celsius >= most:
        yield f"throttled: {figures.celsius:.0f} degrees, {most:.0f} are allowed ([monitor] celsius)"

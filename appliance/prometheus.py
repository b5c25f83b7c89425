"""The monitor's figures as a text file for Prometheus: for node_exporter's textfile collector, on a pedal without any server of its own.

Seconds, not milliseconds, and names that end in what they are, as that world expects. The file is replaced, never written into.

Runs in: the main process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from appliance.causes import Cause
from appliance.histogram import LEAST_US, Measure, histogram
from appliance.monitor import Monitor
from appliance.status import Snapshot
from appliance.storage import Disk, replace_file

EVERY_SECONDS = 10.0
BOUNDS_US = {
    "period": (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000),
    "block": (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000),
}
HELP = {
    Measure.PERIOD_LATE: "From a period being whole in the card until the audio loop had it.",
    Measure.PERIOD_WORK: "From having a period until its output was ready.",
    Measure.PERIOD_SLACK: "What was left of a period until the card would have run dry; below 0 it did.",
    Measure.BLOCK_LATE: "From the doorbell until the engine began with a block.",
    Measure.BLOCK_WORK: "From beginning with a block until its answer was written.",
    Measure.BLOCK_SLACK: "What was left of a block until its answer was due; below 0 it was late.",
}


Values: TypeAlias = Mapping[tuple[tuple[str, str], ...], float]  # by labels


class _InMemory(Disk):
    """The file must be whole, not durable: a power cut may take it, and a slow memory card must not hold anyone up."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


def write(path: Path, monitor: Monitor, status: Snapshot) -> None:
    """Raises OSError."""
    replace_file(path, "".join(line + "\n" for line in lines(monitor, status)), _InMemory())


def lines(monitor: Monitor, status: Snapshot) -> Iterator[str]:
    plays: Values = {(("engine", status["engine"]), ("prompt", status["prompt"])): 1}
    yield from _labelled("info", "gauge", "What plays.", plays)
    yield from _gauges(status)
    counted = {**status["audio"], **{f"worker_{name}": value for name, value in status["worker"].items()}}
    for name, value in counted.items():
        if name not in ("worker_step_limit", "max_work_us", "position"):
            yield from _labelled(f"{name}_total", "counter", f"The pedal's counter {name}.", {(): value})
    causes: Values = {(("cause", cause.value),): status["misses"].get(cause.value, 0) for cause in Cause}
    yield from _labelled("misses_total", "counter", "Missed deadlines by their most likely cause.", causes)
    breaches: Values = {(("budget", name),): status["breaches"].get(name, 0) for name in status["budgets"]}
    yield from _labelled("breaches_total", "counter", "How often a budget began to be breached.", breaches)
    for measure, text in HELP.items():
        yield from _histogram(monitor, measure, text)


def _gauges(status: Snapshot) -> Iterator[str]:
    machine = status["machine"]
    gauges = {
        "played_seconds": ("The audio clock.", status["seconds"]),
        "steps_wished": ("Denoising steps that the player wishes.", status["steps"]),
        "step_limit": ("Denoising steps that the governor allows; 0: all.", status["step_limit"]),
        "clock_hertz": ("The fastest core's clock.", machine["clock_mhz"] and machine["clock_mhz"] * 1e6),
        "temperature_celsius": ("The hottest sensor.", machine["celsius"]),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield from _labelled(name, "gauge", text, {(): value})
    health: Values = {(("state", state),): int(state == status["health"]) for state in ("on time", "close", "fallback")}
    yield from _labelled("health", "gauge", "1 for the state that the deadline light shows.", health)


def _labelled(name: str, kind: str, text: str, values: Values) -> Iterator[str]:
    yield f"# HELP ghostnote_{name} {text}"
    yield f"# TYPE ghostnote_{name} {kind}"
    for labels, value in values.items():
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        yield f"ghostnote_{name}{'{' + inside + '}' if inside else ''} {value}"


def _histogram(monitor: Monitor, measure: Measure, text: str) -> Iterator[str]:
    """Cumulative, as Prometheus wants it; the sum is that of the bins' lower edges."""
    counted, name = histogram(monitor.memory.histograms, measure), f"ghostnote_{measure.name.lower()}_seconds"
    bins, bounds = counted.bins.copy(), BOUNDS_US[measure.name.split("_")[0].lower()]
    total = int(bins.sum())
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} histogram"
    for bound in (0, *bounds):
        below = int(bins[: np.searchsorted(LEAST_US, bound, "right")].sum())
        yield f'{name}_bucket{{le="{bound / 1e6:g}"}} {below}'
    yield f'{name}_bucket{{le="+Inf"}} {total}'
    yield f"{name}_sum {float(bins @ LEAST_US) / 1e6:.6f}"
    yield f"{name}_count {total}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""The exit report: what is counted, what it is called, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from appliance.histogram import Measure, histogram
from appliance.report import Report, Session, collect, spread, summary
from appliance.shared import Layout, SharedMemory
from appliance.stats import BlockMode, Counter, Counters, Ledger, WorkerCounter

BLOCK = 4_410
PROMISED = {  # what scripts may count on
    *("engine", "prompt", "sample_rate", "period_frames", "blocks", "late_blocks", "xruns", "silent_frames", "slack_ms"),
    *("block_compute_ms", "block_ms", "rtf", "startup_s", "peak_rss_mb"),
}
MS = 1_000_000


def memory_of(blocks: int) -> SharedMemory:
    """Block n takes n + 1 ms of the 50 ms that it has."""
    memory = SharedMemory.create(Layout(44_100, 90, BLOCK, 0, 8 * BLOCK, 1_024))
    audio, worker = Counters(memory.counters), Counters(memory.worker_counters)
    ledger, work = Ledger(memory.ledger, BLOCK), histogram(memory.histograms, Measure.PERIOD_WORK)
    for block in range(blocks):
        captured = (block + 1) * 100 * MS
        ledger.capture(block * BLOCK, captured, captured + 50 * MS)
        row = ledger.row(block * BLOCK)
        row["started"], row["written"], row["mode"] = captured, captured + (block + 1) * MS, BlockMode.GENERATED
        work.add(20)
    audio.set(Counter.POSITION, blocks * BLOCK)
    audio.set(Counter.MAX_WORK_US, 77)
    audio.set(Counter.CAPTURE_XRUNS, 1)
    audio.set(Counter.GAPS, 2)
    worker.set(WorkerCounter.GENERATED, blocks)
    return memory


def report_of(blocks: int) -> Report:
    session = Session("toy", "choir [aah]", 22_050, 1.23456, {"main": 40.123, "audio": 30.0}, notes=("real time: nothing",))
    return collect(memory_of(blocks), session)


def test_figures() -> None:
    report = report_of(10)
    assert (report.blocks, report.answered_blocks, report.xruns, report.seconds) == (10, 10, 3, 1.0)
    assert report.block_ms == 100.0 and report.delay_ms == 500.0
    assert report.block_compute_ms == {"p50": 5.5, "p99": pytest.approx(9.91), "max": 10.0}
    assert report.slack_ms == {"min": 40.0, "p50": 44.5, "p99": pytest.approx(40.09)}
    assert report.rtf == 0.055
    assert report.period_work_us == {"p50": 20, "p99": 20, "max": 77}
    assert report.peak_rss_mb == {"main": 40.1, "audio": 30.0}


def test_the_file_has_what_is_promised(tmp_path: Path) -> None:
    report_of(3).write(tmp_path / "report.json")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts.keys() >= PROMISED
    assert facts["slack_ms"].keys() == {"min", "p50", "p99"} and facts["block_compute_ms"].keys() == {"p50", "p99", "max"}


def test_a_session_without_a_block_is_still_a_report(tmp_path: Path) -> None:
    report = report_of(0)
    report.write(tmp_path / "report.json")
    assert report.rtf is None and report.slack_ms == {"min": None, "p50": None, "p99": None}
    shown(report)


def test_the_summary_shows_what_went_wrong() -> None:
    text = shown(report_of(3))
    for part in ("choir [aah]", "3 of 100 ms, 0 late", "real-time factor 0.02", "real time: nothing", "xruns", "audio 30 MB"):
        assert part in text, part


def shown(report: Report) -> str:
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary(report, "Played"))
    return console.export_text()


def test_the_bad_end_of_slack_is_the_low_one() -> None:
    values = np.arange(101, dtype=np.float64)
    assert spread(values, "min", "p50", "p99") == {"min": 0.0, "p50": 50.0, "p99": 1.0}
    assert spread(values, "p50", "p99", "max") == {"p50": 50.0, "p99": 99.0, "max": 100.0}

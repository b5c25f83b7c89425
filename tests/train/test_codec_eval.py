"""The page of the codec's evaluation: which sounds it shows, and where low notes lie in its picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from engines.lmdm.codec import SAMPLE_RATE
from engines.train.codec_eval import LOW_HZ, PICTURED, CodecEvaluation, Trip, low_db, picture, worst


def steady(hz: float) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)


@pytest.mark.parametrize("hz", [65.4, 196.0, 523.3])
def test_a_note_is_drawn_where_it_lies(hz: float) -> None:
    rows = low_db(steady(hz))
    assert abs((rows.mean(1).argmax() + 0.5) / len(rows) * LOW_HZ - hz) < 4
    assert rows.max(0).min() > -3 and rows.max() == pytest.approx(0, abs=1e-3)


def test_the_worst_are_shown_and_drums_have_no_notes(tmp_path: Path) -> None:
    marks = [0.9, 0.5, math.nan, 0.7, 0.6]
    result = CodecEvaluation("", [Trip(str(mark), "guitar", 1, 1, mark, mark, 0, 0, 1) for mark in marks])
    assert [one.note_f for one in worst(result)] == [0.5, 0.6, 0.7] and PICTURED == 3
    picture(worst(result), dict.fromkeys(map(str, marks), (steady(110.0), steady(220.0))), tmp_path / "codec.png")
    assert (tmp_path / "codec.png").read_bytes().startswith(b"\x89PNG")

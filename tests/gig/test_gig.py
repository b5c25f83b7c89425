"""The simulated set in short, the same each time; and a judge that objects to what it should.

Each run is a process of its own, because it replaces that process's clock. `make test-system` plays ten minutes, and plants every defect.
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
TOO_LONG_SECONDS = 1_800  # for a machine with much else to do
SAMPLES = "every sample that is due is heard, without a click"
COUNTERS = "counters are true, and stand still without a fault"
ENGINE = "the engine is heard unless a fault keeps it"
PLANTED = {  # in tests/gig/defects.py: the faults that bring it out, minutes, and the rules of which one must object
    "unwritten": ("engine killed", 1, {SAMPLES}),
    "jumps": ("", 1, {SAMPLES}),
    "no trails": ("", 1.5, {SAMPLES}),
    "longer": ("", 1, {SAMPLES}),
    "no seam": ("engine killed", 5, {SAMPLES}),  # it is heard only at a long delay
    "uncounted": ("card fails once", 1, {COUNTERS}),
    "dead stays dead": ("engine killed", 1, {"what died came back, and nothing else", ENGINE}),
    "no governor": ("heat", 1.5, {"heat sheds steps, not blocks"}),
    "no state": ("main killed", 2, {"a pedal that died sounds as before"}),
    "silent start": ("", 1, {SAMPLES, ENGINE}),
}
QUICK = ("jumps", "unwritten")


def play(minutes: float, faults: str = "all", seed: int = 1, defect: str = "") -> dict[str, Any]:
    words = ["--quiet", "--minutes", str(minutes), "--faults", faults, "--seed", str(seed), "--defect", defect]
    command = [sys.executable, "-m", "tests.gig", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=TOO_LONG_SECONDS, env=environment)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["good"] == (done.returncode == 0)
    return found


def objections(found: dict[str, Any]) -> dict[str, str]:
    return {what: check["found"] for what, check in found["checks"].items() if not check["good"]}


def test_two_minutes() -> None:
    """With a seed that has room for one fault of each kind."""
    kinds = {"engine killed", "audio killed", "card fails once", "board unplugged", "engine switch"}
    found = play(2, ", ".join(sorted(kinds)), seed=3)
    assert not objections(found)
    assert set(found["faults"]) == kinds and found["blocks"] >= 250


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_minutes(seed: int) -> None:
    found = play(10, seed=seed)
    assert not objections(found)
    assert len(found["faults"]) >= 14 and found["blocks"] >= 1_300


@pytest.mark.slow
def test_the_same_seed_is_the_same_set() -> None:
    first, second = (play(2, "engine killed, card stalls, main killed", seed=3) for _ in range(2))
    for found in (first, second):
        del found["wall_seconds"], found["cpu_seconds"], found["checks"]["memory and file descriptors stay flat"]
    assert first == second


@pytest.mark.parametrize("defect", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PLANTED])
def test_the_judge_objects_to(defect: str) -> None:
    faults, minutes, rules = PLANTED[defect]
    assert rules & set(objections(play(minutes, faults, defect=defect)))

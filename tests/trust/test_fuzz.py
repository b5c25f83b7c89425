"""Thousands of bundles that somebody has tampered with: none is taken, none breaks anything, none writes, and memory stays small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trust.keys import KEY
from tests.trust.toy import write_toy

REPO = Path(__file__).parents[2]
MOST_BYTES = 300 << 20


def fuzz(folder: Path, first: int, count: int) -> dict[str, Any]:
    """In a process of its own, which holds neither torch nor a runtime, as the pedal's main process does not."""
    write_toy(folder / "toy.ghost")
    (folder / "keys").mkdir()
    (folder / "keys" / "owner.pub").write_text(KEY.public.text())
    line = [sys.executable, "-m", "tests.trust.fuzz", str(folder), str(first), str(count)]
    done = subprocess.run(line, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(found)
    return found


def judge(found: dict[str, Any], count: int) -> None:
    assert found["mutants"] == count and found["failed"] == 0, found["failures"]
    assert not found["wrote"] and found["left"] == ["keys", "mutant.ghost", "toy.ghost"]
    assert found["peak_bytes"] <= MOST_BYTES * 0.8
    assert found["counts"]["the same bundle"] < count * 0.02


def test_mutants_are_refused(tmp_path: Path) -> None:
    judge(fuzz(tmp_path, 0, 900), 900)


@pytest.mark.slow
def test_ten_thousand_mutants_are_refused(tmp_path: Path) -> None:
    judge(fuzz(tmp_path, 10_000, 10_000), 10_000)

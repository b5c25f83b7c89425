"""Who may import whom: .importlinter's contracts, and what a playing process really loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
HEAVY = ("torch", "tensorrt", "tensorrt_rtx", "onnxruntime", "scipy", "matplotlib")
PLAYING = sorted(
    ".".join(path.relative_to(REPO).with_suffix("").parts)
    for package in ("appliance", "hw", "deploy")
    for path in (REPO / package).rglob("*.py")
    if path.stem not in ("__init__", "__main__") and "firmware" not in path.parts
)
OPTIONAL = ("alsaaudio", "serial", "systemd", "jack", "rtmidi", "starlette", "uvicorn", "anyio")  # of the extras


def test_contracts() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", PLAYING)
def test_playing_modules_load_no_runtime(module: str) -> None:
    """Importing any module of the pedal loads no graph runtime: main and audio never do, the worker only when it opens its engine."""
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True)
    missing = next((name for name in OPTIONAL if f"No module named '{name}" in done.stderr), None)
    if missing:
        pytest.skip(f"{missing} is not installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"{module} loads {done.stdout.strip()}"

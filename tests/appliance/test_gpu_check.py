"""`ghostnote check --gpu` where there is no GPU, and with stubs of a driver. No GPU takes part in any of this."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tensorrt.stub_driver import StubDriver
from tests.tensorrt.test_driver import WRONG

REPO = Path(__file__).parents[2]
NO_GPU, FAILED = 3, 1


def check_gpu(libraries: Path, *more: str) -> tuple[int, str]:
    """Exit code and what it prints, on one line, with this folder's libcuda.so.1 before any other."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "COLUMNS": "400", "XDG_CACHE_HOME": str(libraries / "cache")}
    command = [sys.executable, "-m", "appliance", "check", "--gpu", "--soak-seconds", "0.1", *more]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("case", WRONG)
def test_every_fault_of_a_driver_has_its_line(case: str, tmp_path: Path) -> None:
    stub, says = WRONG[case]
    stub.build(tmp_path)
    code, text = check_gpu(tmp_path)
    assert code == NO_GPU
    assert says in text
    for part in ("tensorrt-rtx", "pycuda", "cuda-bindings", "onnxruntime-gpu", "torch"):
        assert part in text, part


def test_a_driver_that_crashes_is_a_line(tmp_path: Path) -> None:
    library = StubDriver().build(tmp_path)
    source = (tmp_path / "stub.c").read_text()
    (tmp_path / "stub.c").write_text(source.replace("cuInit(unsigned flags) { return 0; }", "cuInit(unsigned flags) { return *(int *)0; }"))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "stub.c"], check=True)
    code, text = check_gpu(tmp_path)
    assert code == NO_GPU
    assert "takes down whoever asks it (ended by SIGSEGV)" in text


def test_a_gpu_that_nothing_can_use(tmp_path: Path) -> None:
    """The stub looks like a GPU of 8 GB, but no runtime gets anything out of it: each says what it lacks, and nothing passes."""
    (tmp_path / "broken.ghost").write_bytes(b"no bundle")
    StubDriver().build(tmp_path)
    code, text = check_gpu(tmp_path, "--engine", str(tmp_path / "broken.ghost"))
    assert code in (NO_GPU, FAILED)
    assert "Stub GPU, SM89" in text and "PASS:" not in text
    assert "onnxruntime-cuda" in text and "torch-cuda" in text

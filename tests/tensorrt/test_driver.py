"""The driver's probe, against a stub of the driver that is compiled here: no GPU takes part in any of this."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.tensorrt.driver import DriverError, Gpu, probe
from tests.tensorrt.stub_driver import StubDriver

WRONG: dict[str, tuple[StubDriver, str]] = {
    "no GPU": (StubDriver(init=100), "finds no GPU"),
    "no GPU, says so later": (StubDriver(devices=0), "finds no GPU"),
    "the toolkit's stub": (StubDriver(init=34), "toolkit's stub"),
    "module of another version": (StubDriver(init=803), "restart the machine after a driver update"),
    "compatibility library": (StubDriver(init=804), "forward-compatibility"),
    "lost after suspend": (StubDriver(init=999), "restart the machine"),
    "any other error": (StubDriver(init=46), "cuInit fails with CUDA error 46"),
    "old driver": (StubDriver(cuda=11_080), "runs CUDA 11.8 at most, 12.6 is needed"),
    "old GPU": (StubDriver(capability=(6, 1)), "Stub GPU has compute capability 6.1; 7.5 (Turing) or newer"),
    "no driver at all": (StubDriver(lacks="cuInit"), "is not an NVIDIA driver"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    stub, says = WRONG[case]
    with pytest.raises(DriverError) as caught:
        probe(str(stub.build(tmp_path)))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="no NVIDIA driver is installed"):
        probe(str(tmp_path / "libcuda.so.1"))


def test_a_library_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    with pytest.raises(DriverError, match="does not load"):
        probe(str(tmp_path / "libcuda.so.1"))


def test_a_gpu(tmp_path: Path) -> None:
    found = probe(str(StubDriver().build(tmp_path)))
    assert (found.name, found.compute_capability, found.cuda, found.memory_bytes) == ("Stub GPU", "SM89", "12.8", 8 << 30)
    assert isinstance(found, Gpu) and found.driver

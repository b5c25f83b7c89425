"""Which runtime is taken, what makes it trusted, and what happens when it fails in the middle of a set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from engines import proofs
from engines.backend import Array, BlockJob, BlockResult, BlockRunner, Graph
from engines.backends import RUNTIMES, Need, choose
from engines.bundle import Bundle
from engines.engine import EngineControls
from engines.lmdm.config import Regime
from engines.lmdm.stream import StreamingEngine
from engines.ort import OrtBackend
from engines.spare import SpareBackend
from tests.engines.conftest import Packed
from tests.engines.test_stream import guitar


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(name="bundle")
def _bundle(packed: Packed) -> Bundle:
    return packed(Regime.BLOCK_CAUSAL)[0]


def test_auto_is_onnxruntime_until_something_is_proved(bundle: Bundle) -> None:
    choice = choose("auto", Need(bundle))
    assert choice.backend.name == "onnxruntime"
    assert "run `ghostnote bench`" in choice.says


def test_auto_takes_what_is_proved_and_clearly_faster(bundle: Bundle) -> None:
    proofs.record(bundle, {"onnxruntime": 10.0, "torch": 5.0})
    choice = choose("auto", Need(bundle))
    assert choice.backend.name == "torch"
    assert choice.says == "torch (the fastest proved on this machine, 5.0 ms a block)"
    proofs.record(bundle, {"torch": 9.5})
    assert choose("auto", Need(bundle)).backend.name == "onnxruntime"


def test_a_proof_of_another_machine_or_version_counts_for_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs.record(bundle, {"onnxruntime": 10.0, "torch": 5.0})
    monkeypatch.setattr(proofs, "packages", lambda: "torch=99")
    assert proofs.proved(bundle, tuple(RUNTIMES)) is None
    monkeypatch.undo()


def test_a_damaged_proof_counts_for_nothing(bundle: Bundle, tmp_path: Path) -> None:
    proofs.record(bundle, {"onnxruntime": 10.0})
    (path,) = (tmp_path / "ghostnote" / "proofs").iterdir()
    path.write_text("[{]")
    assert proofs.proved(bundle, tuple(RUNTIMES)) is None


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime-cuda", "torch-cuda"])
def test_what_cannot_be_had_falls_back_and_says_why(bundle: Bundle, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = StreamingEngine.open(bundle, backend=name)
    if engine.runs_on.startswith(name):
        pytest.skip(f"{name} is here")
    assert engine.runs_on.startswith(f"onnxruntime, because {name} can't be used: ")
    assert "\n" not in engine.runs_on


class FailingGraph:
    def __init__(self, graph: Graph, device: FailingDevice) -> None:
        self.graph, self.device = graph, device

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        self.device.work()
        return self.graph(inputs)


class FailingDevice:
    """Computes as onnxruntime does, until it has done `lives` things; then it is lost, as a GPU is after a fault."""

    name = "failing"

    def __init__(self, lives: int, whole_blocks: bool = False) -> None:
        self.lives, self.whole_blocks = lives, whole_blocks

    def work(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise RuntimeError("an illegal memory access\nwas encountered")

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        self.work()
        return FailingGraph(OrtBackend().load(onnx, weights), self)

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        return FailingRunner(self) if self.whole_blocks else None


class FailingRunner:
    def __init__(self, device: FailingDevice) -> None:
        self.device = device

    def denoise(self, job: BlockJob) -> BlockResult | None:
        self.device.lives = 0
        self.device.work()
        return None

    def holds(self, edition: int) -> None: ...


@pytest.mark.parametrize(("lives", "whole_blocks"), [(0, False), (3, False), (6, False), (9, False), (16, False), (10_000, True)])
def test_a_device_that_is_lost_costs_no_note(bundle: Bundle, lives: int, whole_blocks: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whenever it fails (loading, first block, mid-block): the same answers as onnxruntime alone, and one line."""
    expected = StreamingEngine(bundle, OrtBackend())
    engine = StreamingEngine(bundle, SpareBackend(FailingDevice(lives, whole_blocks), OrtBackend))
    with caplog.at_level(logging.WARNING):
        for block in guitar(5, engine.spec.block_frames):
            assert np.array_equal(engine.generate(block, EngineControls()), expected.generate(block, EngineControls()))
    said = [record.getMessage() for record in caplog.records if record.name == "engines.spare"]
    assert said == ["engine: failing failed (an illegal memory access was encountered); onnxruntime goes on"]

"""The runner of whole blocks, on a make-believe GPU: see tests/tensorrt/pretend_gpu.py for what that shows and what it does not."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backend import Array, BlockRunner, Graph
from engines.bundle import Bundle
from engines.engine import EngineControls
from engines.lmdm.config import Regime
from engines.lmdm.sampler import Solver
from engines.lmdm.stream import StreamingEngine
from engines.ort import OrtBackend, OrtGraph
from tests.engines.conftest import Packed
from tests.engines.test_stream import guitar

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: its constants are used")

from engines.tensorrt import api
from engines.tensorrt.sidecar import Target

api.use(Target.RTX)

from engines.tensorrt.cuda import KERNELS, Cuda, Letter  # noqa: E402
from engines.tensorrt.run import Plan, PlanBlockRunner  # noqa: E402
from tests.tensorrt.pretend_gpu import PretendEngine, PretendGpu, kernels_on_the_cpu  # noqa: E402

CLOSE = 1e-5  # of the largest value: one fused sum against several


class PretendBackend:
    """Plans on the make-believe GPU, as PlanBackend has them on a real one."""

    name = "pretend"

    def __init__(self, kernels: ctypes.CDLL, capture: bool) -> None:
        self.gpu = PretendGpu(kernels)
        self.cuda = Cuda(self.gpu, self.gpu if capture else None)
        self.names = iter(("encode", "prompt", "step", "decode", "first", "commit"))

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        graph = OrtBackend().load(onnx, weights)
        assert isinstance(graph, OrtGraph)
        names = [node.name for node in graph.session.get_inputs()]
        kind = "first" if "pending" in names else "step" if "noisy" in names else "other"
        return Plan(self.cuda, PretendEngine(self.gpu, graph.session, kind))

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        return PlanBlockRunner(self.cuda, {name: plan for name, plan in graphs.items() if isinstance(plan, Plan)})


@pytest.fixture(scope="module", name="kernels")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_the_cpu(tmp_path_factory.mktemp("kernels"))


def pair(bundle: Bundle, kernels: ctypes.CDLL, capture: bool = True, **facts: Any) -> tuple[StreamingEngine, StreamingEngine]:
    """The same engine step by step, and in whole blocks."""
    engines = StreamingEngine(bundle, OrtBackend()), StreamingEngine(bundle, PretendBackend(kernels, capture))
    for engine in engines:
        engine.facts = replace(engine.facts, **facts)
        engine.reset(5)
    return engines


def assert_same(ours: StreamingEngine, theirs: StreamingEngine) -> None:
    assert ours.state.pending is not None and theirs.state.pending is not None
    for mine, yours in ((ours.state.pending, theirs.state.pending), (ours.state.cache.keys, theirs.state.cache.keys)):
        assert np.abs(mine - yours).max() <= CLOSE * np.abs(mine).max()
    assert np.array_equal(ours.state.cache.bias, theirs.state.cache.bias)


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("solver", list(Solver), ids=lambda solver: solver.value)
@pytest.mark.parametrize("regime", list(Regime), ids=lambda regime: regime.value)
def test_a_whole_block_is_the_same_as_step_by_step(
    packed: Packed, kernels: ctypes.CDLL, regime: Regime, solver: Solver, guidance: float
) -> None:
    """Blocks, a jam, a prefill, other words, other steps, a restore and a reset: the device's copy of the context follows all of it."""
    plain, whole = pair(packed(regime, guidance)[0], kernels, solver=solver)
    blocks = guitar(12, plain.spec.block_frames)
    wishes = [EngineControls(prompt=prompt, steps=steps) for prompt, steps in ((0, 0), (0, 0), (1, 0), (1, 1), (0, 5))]
    wishes.append(EngineControls(jam=True))
    for block, controls in zip(blocks, wishes, strict=False):
        for engine in (plain, whole):
            engine.generate(block, controls)
        assert_same(plain, whole)
    saved = [engine.save() for engine in (plain, whole)]
    for engine in (plain, whole):
        engine.prefill(blocks[6])
        engine.generate(blocks[7], EngineControls())
    assert_same(plain, whole)
    for engine, state in zip((plain, whole), saved, strict=True):
        engine.restore(state)
        engine.generate(blocks[8], EngineControls())
    assert_same(plain, whole)
    for engine in (plain, whole):
        engine.reset(6)
        engine.generate(blocks[9], EngineControls())
    assert_same(plain, whole)


def test_a_captured_block_equals_a_plain_one(packed: Packed, kernels: ctypes.CDLL) -> None:
    captured = pair(packed(Regime.BLOCK_CAUSAL)[0], kernels, capture=True)[1]
    plain = pair(packed(Regime.BLOCK_CAUSAL)[0], kernels, capture=False)[1]
    for block in guitar(6, plain.spec.block_frames):
        assert np.array_equal(captured.generate(block, EngineControls()), plain.generate(block, EngineControls()))
    assert "launch" in calls(captured) and "launch" not in calls(plain)


def calls(engine: StreamingEngine) -> list[str]:
    runner = engine.runner
    assert isinstance(runner, PlanBlockRunner) and isinstance(runner.cuda.driver, PretendGpu)
    return runner.cuda.driver.calls


def denoising(engine: StreamingEngine, block: Array, controls: EngineControls) -> list[str]:
    """What was called between the plans before and after the denoising."""
    calls(engine).clear()
    engine.generate(block, controls)
    called = calls(engine)
    first_wait = called.index("wait")  # encode's
    return called[first_wait + 1 : called.index("wait", first_wait + 1) + 1]


def test_the_order_of_calls(packed: Packed, kernels: ctypes.CDLL) -> None:
    """Once everything is allocated: one letter, K plans with the sampler between them, one wait; nothing is allocated again."""
    engine = pair(packed(Regime.BLOCK_CAUSAL)[0], kernels, capture=False)[1]
    blocks = guitar(5, engine.spec.block_frames)
    for block, steps in zip(blocks, (3, 1, 3), strict=False):
        engine.generate(block, EngineControls(steps=steps))
    rows = ["first", "commit", "commit", "mix"]
    end = ["fetch", "fetch", "fetch", "wait"]
    assert denoising(engine, blocks[3], EngineControls(steps=3)) == ["send", "copy", *rows, "step", "mix", "step", "mix", *end]
    assert denoising(engine, blocks[4], EngineControls(steps=1)) == ["send", "copy", *rows, *end]
    assert "alloc" not in calls(engine)


def test_a_captured_block_is_one_launch(packed: Packed, kernels: ctypes.CDLL) -> None:
    engine = pair(packed(Regime.BLOCK_CAUSAL)[0], kernels, capture=True)[1]
    blocks = guitar(5, engine.spec.block_frames)
    for block in blocks[:4]:
        engine.generate(block, EngineControls())
    assert denoising(engine, blocks[4], EngineControls()) == ["launch", "wait"]


def test_a_letter_that_is_too_small_is_an_error(kernels: ctypes.CDLL) -> None:
    gpu = PretendGpu(kernels)
    letter = Letter(Cuda(gpu, None), 1024)
    again = np.ones(64, np.float32)
    assert letter.put(again) == letter.put(again)
    with pytest.raises(Exception, match="more than the 1024 bytes"):
        letter.put(np.zeros(256, np.float32))


def test_kernels_ptx_is_of_kernels_cl(tmp_path: Path) -> None:
    """The committed machine-independent code is what clang makes of the source; skipped where that very clang is not installed."""
    clang = shutil.which("clang-14")
    if clang is None:
        pytest.skip("clang-14 is not installed: it made kernels.ptx")
    flags = ["-x", "cl", "-O2", "-target", "nvptx64-nvidia-cuda", "-S"]
    flags += [part for option in ("-target-feature", "+ptx64", "-target-cpu", "sm_75") for part in ("-Xclang", option)]
    subprocess.run([clang, *flags, "-o", tmp_path / "k.ptx", KERNELS.with_suffix(".cl")], check=True)
    assert (tmp_path / "k.ptx").read_bytes() == KERNELS.read_bytes()

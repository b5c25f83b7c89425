"""One suite for every runtime: each graph against the golden vectors of torch, and a streamed set against the reference backend.

Runtimes that are not here are skipped by name and reason; onnxruntime, and OpenVINO where `make test` installed it, are always here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.backend import Backend, BackendError, Weights
from engines.backends import RUNTIMES, Need, open_backend
from engines.bundle import Bundle
from engines.engine import EngineControls
from engines.golden import Golden, draw
from engines.lmdm.config import Regime
from engines.lmdm.stream import StreamingEngine
from engines.prove import GOLDEN_FLOAT16, GOLDEN_FLOAT32, HALF_PRECISION, REPLAY_FLOAT16, REPLAY_FLOAT32, play, replay
from engines.race import phrase
from engines.torch_backend import TorchBackend
from tests.engines.conftest import Packed
from tests.engines.test_stream import guitar

KINDS = pytest.mark.parametrize(
    ("regime", "guidance"),
    [
        pytest.param(Regime.BLOCK_CAUSAL, 1.0, id="block-causal"),
        pytest.param(Regime.ENC_DEC, 1.0, id="enc-dec"),
        pytest.param(Regime.BLOCK_CAUSAL, 3.0, id="guided"),
    ],
)
BACKENDS = pytest.mark.parametrize("name", list(RUNTIMES))
BLOCKS = 24


def backend_or_skip(name: str, bundle: Bundle) -> Backend:
    try:
        return open_backend(name, Need(bundle))
    except BackendError as error:
        pytest.skip(f"{name}: {error}")


@KINDS
@BACKENDS
def test_every_graph_gives_the_golden_vectors(packed: Packed, name: str, regime: Regime, guidance: float) -> None:
    bundle = packed(regime, guidance)[0]
    backend, golden, weights = backend_or_skip(name, bundle), Golden.of(bundle), Weights.of(bundle)
    assert golden is not None
    tolerance = GOLDEN_FLOAT16 if name in HALF_PRECISION else GOLDEN_FLOAT32
    for graph in golden.graphs:
        found = backend.load(bundle.read(f"{graph}.onnx"), weights.for_graph(graph))(golden.inputs(graph))
        for output, difference in golden.differences(graph, found).items():
            assert difference <= tolerance, f"{graph}.{output}: {difference:.1e}"


@KINDS
@BACKENDS
def test_a_streamed_set_is_the_reference_backends(packed: Packed, name: str, regime: Regime, guidance: float) -> None:
    """Closed loop: what a block leaves behind is what the next one sees, with prefills and other words in between."""
    bundle = packed(regime, guidance)[0]
    engine = StreamingEngine(bundle, backend_or_skip(name, bundle))
    tolerance = REPLAY_FLOAT16 if name in HALF_PRECISION else REPLAY_FLOAT32
    result = replay(engine, reference(bundle), BLOCKS, tolerance)
    assert result.passed, result.detail


@BACKENDS
def test_a_block_sounds_the_same(packed: Packed, name: str) -> None:
    bundle = packed(Regime.BLOCK_CAUSAL)[0]
    engine = StreamingEngine(bundle, backend_or_skip(name, bundle))
    for one in (engine, reference(bundle)):
        one.reset(3)
    for block in guitar(2, engine.spec.block_frames):
        ours, theirs = (one.generate(block, EngineControls(steps=1)) for one in (engine, reference(bundle)))
        assert np.sqrt(np.mean((ours - theirs) ** 2)) <= 1e-2 * np.sqrt(np.mean(theirs**2))


OPENED: dict[Path, StreamingEngine] = {}


def reference(bundle: Bundle) -> StreamingEngine:
    """The engine on torch, opened once for each bundle."""
    if bundle.path not in OPENED:
        OPENED[bundle.path] = StreamingEngine(bundle, TorchBackend())
    return OPENED[bundle.path]


def test_another_answer_is_noticed(packed: Packed) -> None:
    """The suite is no rubber stamp: a set from another seed, and an output that is off by a thousandth, fail."""
    bundle = packed(Regime.BLOCK_CAUSAL)[0]
    golden, weights = Golden.of(bundle), Weights.of(bundle)
    assert golden is not None
    outputs = open_backend("onnxruntime", Need(bundle)).load(bundle.read("step.onnx"), weights.for_graph("step"))(golden.inputs("step"))
    off = [outputs[0] * np.float32(1.001)]
    assert max(golden.differences("step", off).values()) > GOLDEN_FLOAT32
    one, other = (StreamingEngine.open(bundle) for _ in range(2))
    other.reset(7)
    assert not np.allclose(play(one, 0), play(other, 0), rtol=0.1)


def test_golden_inputs_are_the_same_everywhere() -> None:
    """Drawn from hashes, not from a library's generator; these numbers were made when the rule was."""
    drawn = draw("noisy/step", (2, 3))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, [[-2.0806394, 1.4213805, -0.58217537], [0.48609701, 0.9312973, 0.091097765]], rtol=1e-6)
    many = draw("v", (100_000,))
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02
    assert not np.array_equal(many[:6].reshape(2, 3), drawn)


def test_a_set_goes_on_changing() -> None:
    assert not np.array_equal(phrase(0, 4_096, 44_100), phrase(40, 4_096, 44_100))

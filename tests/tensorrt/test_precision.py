"""float16 explicit in the graphs: what is rounded and what is not, that a CPU really rounds, and that it costs no accuracy that matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper

from engines.backend import Weights
from engines.bundle import Bundle
from engines.export import parity, streamed
from engines.export.precision import PRODUCTS, Style, graphs_of, half, half_graphs, half_products
from engines.golden import Golden
from engines.lmdm.config import HIDDEN
from engines.ort import OrtBackend

GUITAR = Path(__file__).parents[2] / "appliance" / "samples" / "guit_em9.flac"
# What the ONNX parser of TensorRT 10.1 documents as supported, the last such list that is public before 10.3 (docs/operators.md of
# onnx/onnx-tensorrt, branch 10.1-GA; opsets 9 to 20).
KNOWN = set((Path(__file__).parents[1] / "data" / "tensorrt_10_operators.txt").read_text().split())


def product(style: Style | None) -> bytes:
    """x (1, 4) times a stored float16 matrix, all 1 + 2^-10, as a bundle's graphs have it."""
    weights = numpy_helper.from_array(np.full((4, 4), 1 + 2**-10, np.float16), "stored")
    nodes = [helper.make_node("Cast", ["stored"], ["w"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return (model if style is None else half(model, style)).SerializeToString()


def test_a_cpu_rounds_as_a_gpu_does() -> None:
    """Input and result are rounded to float16, the sum is not. ONNX Runtime would leave the casts of a compiler's graph out."""
    x = np.full((1, 4), 1 + 2**-9 + 2**-13, np.float32)
    exact, found = (OrtBackend().load(product(style), {})({"x": x})[0] for style in (None, Style.ROUNDED))
    expected = np.float16(4 * np.float64(np.float16(x[0, 0])) * (1 + 2**-10))
    assert np.all(found == np.float32(expected)) and np.all(found != exact)


def test_stored_weights_are_taken_as_they_are() -> None:
    """For a compiler: no cast to float32 and back around a weight."""
    model = onnx.ModelProto.FromString(product(Style.HALF))
    assert [node.op_type for node in model.graph.node] == ["Cast", "MatMul", "Cast"]
    assert "stored" in model.graph.node[1].input


@pytest.mark.parametrize("name", ["first", "step", "commit", "prompt"])
def test_every_product_with_weights_is_float16_and_attentions_own_are_not(reference: Bundle, name: str) -> None:
    model = onnx.ModelProto.FromString(graphs_of(reference)[name])
    chosen = {node.output[0] for node in half_products(model)}
    kept = [node for node in model.graph.node if node.op_type in PRODUCTS and node.output[0] not in chosen]
    attentions = sum(node.op_type == "Softmax" for node in model.graph.node)
    assert chosen and len(kept) == 2 * attentions
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {node.output[0] for node in model.graph.node if set(node.input) <= weights}
    assert not any(weights & set(node.input) for node in kept)


def test_the_decoders_network_is_float16_and_its_transforms_are_not(reference: Bundle) -> None:
    """Rewritten products are all upstream of the magnitudes; DFTs have constants that float16 does not hold, pitches none."""
    model = onnx.ModelProto.FromString(graphs_of(reference)["decode"])
    chosen = {node.output[0] for node in half_products(model)}
    kept = [node for node in model.graph.node if node.op_type in PRODUCTS and node.output[0] not in chosen]
    assert chosen and len(kept) >= 8
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in ("Cast", "Identity")}
    for node in kept:
        kinds = [stored[casts.get(name, name)] for name in node.input if casts.get(name, name) in stored]
        assert TensorProto.FLOAT in kinds or not kinds, node.name


def test_encode_stays_float32(reference: Bundle) -> None:
    assert "encode" not in half_graphs(graphs_of(reference))


@pytest.mark.parametrize("style", list(Style))
def test_inputs_and_outputs_stay_as_they_are(tiny: Bundle, style: Style) -> None:
    for name, data in graphs_of(tiny).items():
        before, after = onnx.ModelProto.FromString(data), onnx.ModelProto.FromString(half_graphs({name: data}, style)[name])
        assert list(before.graph.input) == list(after.graph.input) and list(before.graph.output) == list(after.graph.output)


@pytest.mark.parametrize("which", ["tiny", "reference"])
def test_graphs_are_of_a_kind_that_tensorrt_10_reads(which: str, request: pytest.FixtureRequest) -> None:
    """Opset and operators, in float32 and float16, for the oldest parser that a supported device has."""
    graphs = graphs_of(request.getfixturevalue(which))
    for data in [*graphs.values(), *half_graphs(graphs).values()]:
        model = onnx.ModelProto.FromString(data)
        assert [(entry.domain, entry.version <= 20) for entry in model.opset_import] == [("", True)]
        assert {node.op_type for node in model.graph.node} <= KNOWN
        assert not model.functions and all(a.type != onnx.AttributeProto.GRAPH for node in model.graph.node for a in node.attribute)


def test_hidden_rows_stay_hidden_in_float16(tiny: Bundle) -> None:
    """The bias that hides rows is beyond float16's range: with nothing to see but itself, a block still gives numbers."""
    golden, weights = Golden.of(tiny), Weights.of(tiny)
    assert golden is not None
    inputs = golden.inputs("step")
    inputs["cache_bias"] = np.full_like(inputs["cache_bias"], HIDDEN)
    inputs["cache_values"] = np.full_like(inputs["cache_values"], 1e4)
    wide, narrow = (
        OrtBackend().load(data, weights.for_graph("step"))(inputs)[0]
        for data in (graphs_of(tiny)["step"], half_graphs({"step": graphs_of(tiny)["step"]}, Style.ROUNDED)["step"])
    )
    assert np.isfinite(narrow).all() and np.abs(wide - narrow).max() < 2e-2 * np.abs(wide).max()


@pytest.mark.parametrize("which", ["tiny", "reference"])
def test_parity_with_torch_in_every_precision(which: str, request: pytest.FixtureRequest) -> None:
    bundle = request.getfixturevalue(which)
    if Golden.of(bundle) is None:
        pytest.skip("the engine was packed without golden vectors")
    found = list(parity.differences(bundle))
    assert {one.precision for one in found} == set(parity.TOLERANCE)
    assert [one for one in found if not one.fits()] == []


def test_float16_holds_over_100_streamed_blocks(reference: Bundle, tmp_path: Path) -> None:
    guitar, _ = soundfile.read(GUITAR, dtype="float32", always_2d=True)
    found = list(streamed.compare(reference, guitar.mean(1), 100, tmp_path))
    assert max(one.samples for one in found) < streamed.TOLERANCE  # measured: 1.3e-2
    assert max(one.latents for one in found) < streamed.TOLERANCE  # measured: 6e-4, and no trend

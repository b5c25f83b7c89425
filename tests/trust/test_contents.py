"""What the door knows without a runtime holds together with what makes engines: shapes, tensors, graphs, packing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from onnx import TensorProto, helper

from engines.bundle import REFERENCE, Bundle, BundleError
from engines.contents import check_contents
from engines.export.graphs import MAX_STEPS, model_graphs
from engines.lmdm.config import PRESETS, Regime
from engines.lmdm.model import LMDM
from engines.lmdm.shapes import graph_inputs
from engines.tensors import pack_tensors, read_header
from tests.trust.toy import toy_files, write_toy


@pytest.mark.parametrize("preset", ["tiny", "reference"])
@pytest.mark.parametrize("regime", Regime)
@pytest.mark.parametrize("ways", [1, 2])
def test_the_shapes_of_graphs_are_those_that_are_exported(preset: str, regime: Regime, ways: int) -> None:
    config = replace(PRESETS[preset], regime=regime)
    with torch.device("meta"):
        model = LMDM(config)
    made = {spec.name: {name: tuple(value.shape) for name, value in spec.inputs.items()} for spec in model_graphs(model, ways)}
    assert made == graph_inputs(config, MAX_STEPS, ways)


def test_the_shipped_engine_is_in_order() -> None:
    check_contents(Bundle.open(REFERENCE))


def test_safetensors_reads_what_is_packed_and_the_other_way_round() -> None:
    draw = np.random.default_rng(1)
    arrays = {
        "odd": draw.standard_normal((3, 5)).astype(np.float16),
        "wide": draw.standard_normal((4, 64)).astype(np.float32),
        "whole": np.arange(7, dtype=np.int64),
        "scalar": np.array(2.5, np.float32),
        "none": np.zeros((0, 4), np.float32),
        "é": np.arange(5, dtype=np.uint8),
    }
    packed = pack_tensors(arrays)
    theirs = safetensors.numpy.load(packed)
    for data, found in ((packed, theirs), (safetensors.numpy.save(arrays), arrays)):
        table = read_header(data, len(data))
        assert set(table) == set(found) == set(arrays)
        assert all(np.array_equal(one.view(data), found[name]) and one.dtype == found[name].dtype for name, one in table.items())
    assert read_header(packed, len(packed))["wide"].offset % 64 == 0 and pack_tensors(dict(reversed(arrays.items()))) == packed


def test_graphs_and_safetensors_share_one_copy(tmp_path: Path) -> None:
    """ONNX's own reader finds a graph's tensors by their external data, safetensors by their names: the same bytes."""
    files = toy_files()
    (tmp_path / "weights.safetensors").write_bytes(files["weights.safetensors"])
    (tmp_path / "step.onnx").write_bytes(files["step.onnx"])
    model = onnx.load(tmp_path / "step.onnx")
    named = safetensors.numpy.load(files["weights.safetensors"])
    large = [tensor for tensor in model.graph.initializer if tensor.name in named]
    assert large and all(np.array_equal(onnx.numpy_helper.to_array(tensor), named[tensor.name]) for tensor in large)


def edited(files: dict[str, bytes], edit: Callable[[onnx.ModelProto], None]) -> dict[str, bytes]:
    model = onnx.load_from_string(files["step.onnx"])
    edit(model)
    return {**files, "step.onnx": model.SerializeToString()}


def _constant(model: onnx.ModelProto, value: Any) -> None:
    next(one for one in model.graph.initializer if one.name == "b").raw_data = np.full(64, value, np.float32).tobytes()


def _external(model: onnx.ModelProto, key: str, value: str) -> None:
    tensor = next(one for one in model.graph.initializer if one.external_data)
    next(one for one in tensor.external_data if one.key == key).value = value


def _node(model: onnx.ModelProto, operator: str, **more: Any) -> None:
    model.graph.node.append(helper.make_node(operator, ["y"], ["z"], **more))


def _if(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model.graph.node.append(helper.make_node("Neg", ["y"], ["z"], then_branch=branch))


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "an operator": (lambda m: _node(m, "StringNormalizer"), "uses the operator 'StringNormalizer'"),
    "a domain": (lambda m: _node(m, "Gelu", domain="com.microsoft"), "uses the operator 'com.microsoft.Gelu'"),
    "a subgraph": (_if, "has a field 6 in an attribute"),
    "a function": (lambda m: m.functions.add(name="f", domain="d"), "has a field 25 in the model"),
    "an opset": (lambda m: m.opset_import.__getitem__(0).__setattr__("version", 21), "is of opset 21"),
    "another file": (lambda m: _external(m, "location", "../../etc/passwd"), "wants the bytes of"),
    "beyond the end": (lambda m: _external(m, "offset", "999999"), "which is not so in weights.safetensors"),
    "a length": (lambda m: _external(m, "length", "4096"), "which is not so in weights.safetensors"),
    "no number": (lambda m: _external(m, "offset", "-64"), "does not say where its bytes are"),
    "not a number": (lambda m: _constant(m, np.nan), "not finite"),
    "infinity": (lambda m: _constant(m, -np.inf), "not finite"),
    "too few bytes": (lambda m: m.graph.initializer.__getitem__(-1).dims.append(9), "whose shape needs"),
    "a free shape": (lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_param", "n"), "a field 2 in a dimension"),
    "a huge shape": (lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 1 << 40), "too large or not fixed"),
    "strings": (lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.STRING), "of type 8"),
    "a computed shape": (lambda m: m.graph.node[-2].input.__setitem__(1, "sum"), "whose shape is not fixed"),
    "out of order": (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "before anything has computed it"),
    "twice": (lambda m: m.graph.node[-1].output.__setitem__(0, "sum"), "computes 'sum' twice"),
    "nothing computed": (lambda m: m.graph.output[0].__setattr__("name", "nowhere"), "that nothing computes"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_is_refused(case: str, tmp_path: Path) -> None:
    edit, says = GRAPHS[case]
    with pytest.raises(BundleError, match=r"step\.onnx in it ") as caught:
        check_contents(write_toy(tmp_path / "x.ghost", files=edited(toy_files(), edit)))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def _header(files: dict[str, bytes], edit: Callable[[dict[str, Any]], None]) -> bytes:
    data = files["weights.safetensors"]
    held = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + held])
    edit(table)
    text = json.dumps(table).encode().ljust(held)
    return len(text).to_bytes(8, "little") + text + data[8 + held :]


TENSORS: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "a type": (lambda f: _header(f, lambda t: t["state"].__setitem__("dtype", "F64")), "of a type that is unknown"),
    "a shape": (lambda f: _header(f, lambda t: t["state"].__setitem__("shape", [3, 3])), "whose shape needs 36 bytes"),
    "below zero": (lambda f: _header(f, lambda t: t["state"].__setitem__("shape", [-2, -3])), "a shape or place that is none"),
    "an overlap": (lambda f: _header(f, lambda t: t["state"].__setitem__("data_offsets", [0, 24])), "a hole or an overlap"),
    "a hole": (lambda f: f["weights.safetensors"] + bytes(8), "but its tensors end at"),
    "a long header": (lambda f: (1 << 40).to_bytes(8, "little") + f["weights.safetensors"][8:], "has a header of"),
    "nothing": (lambda f: b"", "is cut short"),
    "not a number": (lambda f: f["weights.safetensors"][:-4] + np.float32(np.nan).tobytes(), "not finite"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_weights_are_refused(case: str, tmp_path: Path) -> None:
    edit, says = TENSORS[case]
    files = toy_files()
    with pytest.raises(BundleError, match=r"weights\.safetensors in it ") as caught:
        check_contents(write_toy(tmp_path / "x.ghost", files={**files, "weights.safetensors": edit(files)}))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_its_graphs_do_not_fit_is_refused(tmp_path: Path) -> None:
    """The shipped engine says that it has a cache of another size, or a prompt more: nobody asks for that memory, or that prompt."""
    from engines.bundle import write_bundle

    good = Bundle.open(REFERENCE)
    files = {entry.path: good.read(entry.path) for entry in good.manifest.files}
    head = good.manifest.head
    wrong: dict[str, dict[str, Any]] = {
        "with other inputs": {"model": {**head["model"], "config": {**head["model"]["config"], "context_blocks": 60_000}}},
        "sizes that make no sense": {"model": {**head["model"], "config": {**head["model"]["config"], "width": 1 << 40}}},
        "lists a prompt 48": {"engine": {**head["engine"], "prompts": [*head["engine"]["prompts"], "kazoo"]}},
        "in a way that is unknown": {"model": {**head["model"], "solver": "kazoo"}},
        "'encode'": {"model": {**head["model"], "history_frames": 1 << 20}},
    }
    for says, change in wrong.items():
        write_bundle(tmp_path / "x.ghost", {**head, **change}, files)
        with pytest.raises(BundleError, match=says):
            check_contents(Bundle.open(tmp_path / "x.ghost"))

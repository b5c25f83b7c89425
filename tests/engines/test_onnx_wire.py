"""Weights put back into a graph: the same tensors as the onnx package finds, and nothing else changed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.onnx_wire import external_names, with_weights


def model_with_external(names: list[str], shape: tuple[int, ...]) -> onnx.ModelProto:
    node = helper.make_node("Add", [names[0], "small"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    external = []
    for name in names:
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="weights.bin")
        external.append(tensor)
    small = numpy_helper.from_array(np.float32([2.0]), "small")
    return helper.make_model(helper.make_graph([node], "g", [], [output], [*external, small]))


@pytest.mark.parametrize("rows", [1, 40, 5_000])  # lengths of one, two and three bytes
def test_every_external_tensor_gets_its_bytes(rows: int) -> None:
    names, shape = ["a", "b"], (rows, 8)
    weights = {name: np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, name in enumerate(names)}
    model = model_with_external(names, shape)
    assert external_names(model.SerializeToString()) == names
    filled = onnx.load_model_from_string(with_weights(model.SerializeToString(), weights))
    onnx.checker.check_model(filled)
    for tensor in filled.graph.initializer:
        if tensor.name in weights:
            assert np.array_equal(numpy_helper.to_array(tensor), weights[tensor.name])
    for whole in (model, filled):
        del whole.graph.initializer[:2]
    assert filled == model


def test_a_tensor_without_bytes_is_named() -> None:
    with pytest.raises(KeyError, match="b"):
        with_weights(model_with_external(["a", "b"], (2, 2)).SerializeToString(), {"a": np.zeros((2, 2), np.float32)})

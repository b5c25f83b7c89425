"""Whether a graph may be given to a runtime: known operators only, fixed shapes, and every tensor where it says it is.

A runtime is a large program that was not written to meet graphs from strangers. What it gets has been looked at here before: nothing that
runs other graphs, reads other files or makes arrays of any size. Runs in: any process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.graph import BOOL, FLOAT, FLOAT16, INT32, INT64, UINT8, GraphError, GraphFacts, Held, Node, Value
from engines.manifest import WEIGHTS_FILE
from engines.tensors import MAX_RANK, Tensor

_OPSET_18 = """
    Abs Add And Cast Clip Concat Conv ConvTranspose Cos Div Equal Erf Exp Expand Floor Gather Gemm Greater GreaterOrEqual
    Identity LayerNormalization LeakyRelu Less LessOrEqual Log MatMul Max Min Mul Neg Not Or Pad Pow Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceSum Relu Reshape Sigmoid Sign Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh TopK
    Transpose Unsqueeze Where
"""
OPERATORS = {18: frozenset(_OPSET_18.split())}  # opset -> what may be used of it
TYPES: dict[int, np.dtype[Any]] = {
    FLOAT: np.dtype("<f4"),
    FLOAT16: np.dtype("<f2"),
    INT64: np.dtype("<i8"),
    INT32: np.dtype("<i4"),
    UINT8: np.dtype("u1"),
    BOOL: np.dtype("?"),
}
SHAPED_BY = {"Expand": 1, "Reshape": 1, "Pad": 1, "TopK": 1}  # operators whose output's size is a value: which input has it
MAX_NODES, MAX_ELEMENTS = 20_000, 1 << 27


def check_graph(facts: GraphFacts, weights: Mapping[str, Tensor]) -> None:
    """Raises GraphError, which says what is wrong without saying with which graph."""
    if facts.opset not in OPERATORS:
        raise GraphError(f"is of opset {facts.opset}; this Ghostnote knows {', '.join(map(str, OPERATORS))}")
    if len(facts.nodes) > MAX_NODES or not facts.outputs:
        raise GraphError(f"has {len(facts.nodes)} nodes and {len(facts.outputs)} outputs")
    for value in facts.inputs + facts.outputs:
        _check_value(value)
    for one in facts.held:
        _check_held(one, weights)
    shapes = {one.name: one for one in facts.held if one.kind == INT64}
    known = {value.name for value in facts.inputs} | {one.name for one in facts.held}
    if len(known) != len(facts.inputs) + len(facts.held):
        raise GraphError("gives two tensors the same name")
    for node in facts.nodes:
        _check_node(node, known, shapes, OPERATORS[facts.opset])
    for value in facts.outputs:
        if value.name not in known:
            raise GraphError(f"has an output {value.name!r} that nothing computes")


def _check_value(value: Value) -> None:
    if value.kind not in TYPES:
        raise GraphError(f"has an input or output {value.name!r} of type {value.kind}, which is not used here")
    if len(value.shape) > MAX_RANK or not all(0 <= size <= MAX_ELEMENTS for size in value.shape) or math.prod(value.shape) > MAX_ELEMENTS:
        raise GraphError(f"has an input or output {value.name!r} of shape {value.shape}, which is too large or not fixed")


def _check_held(one: Held, weights: Mapping[str, Tensor]) -> None:
    if one.kind not in TYPES:
        raise GraphError(f"has a tensor {one.name!r} of type {one.kind}, which is not used here")
    if len(one.shape) > MAX_RANK or not all(0 <= size <= MAX_ELEMENTS for size in one.shape) or math.prod(one.shape) > MAX_ELEMENTS:
        raise GraphError(f"has a tensor {one.name!r} of shape {one.shape}, which is too large")
    size = math.prod(one.shape) * TYPES[one.kind].itemsize
    if isinstance(one.data, bytes):
        if len(one.data) != size:
            raise GraphError(f"has a tensor {one.name!r} of {len(one.data)} bytes whose shape needs {size}")
        if TYPES[one.kind].kind == "f" and not np.isfinite(np.frombuffer(one.data, TYPES[one.kind])).all():
            raise GraphError(f"has a tensor {one.name!r} that holds a number which is not finite")
        return
    if one.data.location != WEIGHTS_FILE:
        raise GraphError(f"wants the bytes of {one.name!r} from {one.data.location!r}; only {WEIGHTS_FILE} is allowed")
    there = weights.get(one.name)
    said = (TYPES[one.kind], one.shape, one.data.offset, one.data.length)
    if there is None or said != (there.dtype, there.shape, there.offset, there.size):
        raise GraphError(f"wants the tensor {one.name!r}, which is not so in {WEIGHTS_FILE}")


def _check_node(node: Node, known: set[str], shapes: Mapping[str, Held], operators: frozenset[str]) -> None:
    if node.domain not in ("", "ai.onnx") or node.operator not in operators:
        name = f"{node.domain}.{node.operator}".lstrip(".")
        raise GraphError(f"uses the operator {name!r}, which is not allowed in an engine")
    for name in node.inputs:
        if name and name not in known:
            raise GraphError(f"reads {name[:80]!r} before anything has computed it")
    if node.operator in SHAPED_BY:
        _check_shape(node, shapes)
    for name in node.outputs:
        if name in known:
            raise GraphError(f"computes {name[:80]!r} twice")
        if name:
            known.add(name)


def _check_shape(node: Node, shapes: Mapping[str, Held]) -> None:
    at = SHAPED_BY[node.operator]
    held = shapes.get(node.inputs[at]) if at < len(node.inputs) else None
    if held is None or not isinstance(held.data, bytes):
        raise GraphError(f"has a {node.operator} whose shape is not fixed")
    sizes = [abs(int(one)) for one in np.frombuffer(held.data, np.int64)]
    if len(sizes) > 2 * MAX_RANK or math.prod(max(1, size) for size in sizes) > MAX_ELEMENTS:
        raise GraphError(f"has a {node.operator} to {sizes[:8]}, which is too large")

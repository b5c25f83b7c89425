"""Weights put back into an ONNX graph, on the level of its bytes: for runtimes that take one buffer and no table of tensors.

A bundle's graphs name their large tensors and leave the bytes to a shared file. A device has no `onnx` package, and what is to be
done is small: walk ModelProto.graph.initializer, and where a tensor is external, give it its bytes. Field numbers are those of
onnx.proto. Runs in: the worker process, the compiler's process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.protobuf import fields_of, message

MODEL_GRAPH, GRAPH_INITIALIZER = 7, 5
TENSOR_NAME, TENSOR_RAW_DATA, TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 8, 9, 13, 14


def with_weights(onnx: bytes, weights: Mapping[str, NDArray[Any]]) -> bytes:
    """The graph `onnx` with every external tensor's bytes inside. Raises KeyError for a tensor that `weights` lacks."""
    parts: list[bytes] = []
    for one in fields_of(memoryview(onnx)):
        parts.append(message(MODEL_GRAPH, _graph(one.body, weights)) if one.number == MODEL_GRAPH else bytes(one.raw))
    return b"".join(parts)


def external_names(onnx: bytes) -> list[str]:
    """The tensors whose bytes `onnx` leaves to the file of weights."""
    graphs = (one.body for one in fields_of(memoryview(onnx)) if one.number == MODEL_GRAPH)
    tensors = (one.body for graph in graphs for one in fields_of(graph) if one.number == GRAPH_INITIALIZER)
    held = (list(fields_of(tensor)) for tensor in tensors)
    return [
        next(one.text() for one in parts if one.number == TENSOR_NAME)
        for parts in held
        if any(one.number == TENSOR_EXTERNAL_DATA for one in parts)
    ]


def _graph(graph: memoryview, weights: Mapping[str, NDArray[Any]]) -> bytes:
    parts: list[bytes] = []
    for one in fields_of(graph):
        parts.append(message(GRAPH_INITIALIZER, _tensor(one.body, weights)) if one.number == GRAPH_INITIALIZER else bytes(one.raw))
    return b"".join(parts)


def _tensor(tensor: memoryview, weights: Mapping[str, NDArray[Any]]) -> bytes:
    held = list(fields_of(tensor))
    if not any(one.number == TENSOR_EXTERNAL_DATA for one in held):
        return bytes(tensor)
    name = next(one.text() for one in held if one.number == TENSOR_NAME)
    kept = b"".join(bytes(one.raw) for one in held if one.number not in (TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION))
    return kept + message(TENSOR_RAW_DATA, np.ascontiguousarray(weights[name]).tobytes())

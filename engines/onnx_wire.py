"""Weights put back into an ONNX graph, on the level of its bytes: for runtimes that take one buffer and no table of tensors.

A bundle's graphs name their large tensors and leave the bytes to a shared file. A device has no `onnx` package, and what is to be
done is small: walk ModelProto.graph.initializer, and where a tensor is external, give it its bytes. Field numbers are those of
onnx.proto. Runs in: the worker process, the compiler's process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL_GRAPH, GRAPH_INITIALIZER = 7, 5
TENSOR_NAME, TENSOR_RAW_DATA, TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 8, 9, 13, 14
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def with_weights(onnx: bytes, weights: Mapping[str, NDArray[Any]]) -> bytes:
    """The graph `onnx` with every external tensor's bytes inside. Raises KeyError for a tensor that `weights` lacks."""
    parts: list[bytes] = []
    for number, raw, body in _fields(memoryview(onnx)):
        parts.append(_message(number, _graph(body, weights)) if number == MODEL_GRAPH else bytes(raw))
    return b"".join(parts)


def _graph(graph: memoryview, weights: Mapping[str, NDArray[Any]]) -> bytes:
    parts: list[bytes] = []
    for number, raw, body in _fields(graph):
        parts.append(_message(number, _tensor(body, weights)) if number == GRAPH_INITIALIZER else bytes(raw))
    return b"".join(parts)


def _tensor(tensor: memoryview, weights: Mapping[str, NDArray[Any]]) -> bytes:
    held = list(_fields(tensor))
    if not any(number == TENSOR_EXTERNAL_DATA for number, _, _ in held):
        return bytes(tensor)
    name = next(bytes(body).decode() for number, _, body in held if number == TENSOR_NAME)
    kept = b"".join(bytes(raw) for number, raw, _ in held if number not in (TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION))
    return kept + _message(TENSOR_RAW_DATA, np.ascontiguousarray(weights[name]).tobytes())


def _message(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | LENGTH) + _varint(len(body)) + body


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, the whole field as it stands, and its content, for each field of a message."""
    at = 0
    while at < len(data):
        begin = at
        key, at = _read_varint(data, at)
        kind, content = key & 7, at
        if kind == VARINT:
            _, at = _read_varint(data, at)
        elif kind == LENGTH:
            size, content = _read_varint(data, at)
            at = content + size
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"not an ONNX graph: wire type {kind} at byte {begin}")
        yield key >> 3, data[begin:at], data[content:at]


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])

"""An ONNX graph as facts: what goes in and out, which tensors it holds, which operators it names. Read without the onnx package.

Stricter than ONNX: a field that engines have no use for, or one that stands twice where it may stand once, is refused, so that no two
readers can see two graphs in one file. Field numbers are those of onnx.proto. Runs in: any process.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from engines.protobuf import LENGTH, VARINT, Field, ProtobufError, fields_of, read_varint

FLOAT, INT32, INT64, BOOL, FLOAT16, UINT8 = 1, 6, 7, 9, 10, 2
MODEL_FIELDS, MODEL_ONCE = {1, 2, 3, 4, 5, 6, 7, 8, 14}, {1, 5, 7, 8}
GRAPH_FIELDS = {1, 2, 5, 10, 11, 12, 13, 16}
NODE_FIELDS, NODE_ONCE = {1, 2, 3, 4, 5, 6, 7, 9}, {3, 4, 7}
ATTRIBUTE_FIELDS, ATTRIBUTE_ONCE = {1, 2, 3, 4, 7, 8, 13, 20}, {1, 2, 3, 4, 20}
TENSOR_FIELDS, TENSOR_ONCE = {1, 2, 8, 9, 12, 13, 14, 16}, {2, 8, 9, 14}
VALUE_FIELDS, VALUE_ONCE = {1, 2, 3, 4}, {1, 2}
_EXTERNAL = 1
_EXTERNAL_KEYS = {"location", "offset", "length"}


class GraphError(ValueError):
    """What is wrong with a graph, without saying which graph."""


@dataclass(frozen=True)
class External:
    """Where the bytes of a tensor are."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True)
class Held:
    """A tensor that a graph brings along, or says where it is."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: bytes | External


@dataclass(frozen=True)
class Value:
    """An input or output."""

    name: str
    kind: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Node:
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class GraphFacts:
    opset: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    held: tuple[Held, ...]
    nodes: tuple[Node, ...]


def read_graph(onnx: bytes) -> GraphFacts:
    """Raises GraphError."""
    try:
        model = _message(memoryview(onnx), "the model", MODEL_FIELDS, MODEL_ONCE)
        opset = _opset(_only(model, 8, "opset").body)
        graph = _message(_only(model, 7, "graph").body, "the graph", GRAPH_FIELDS, set())
        return GraphFacts(
            opset,
            tuple(_value(one.body) for one in graph if one.number == 11),
            tuple(_value(one.body) for one in graph if one.number == 12),
            tuple(_held(one.body) for one in graph if one.number == 5),
            tuple(_node(one.body) for one in graph if one.number == 1),
        )
    except (ProtobufError, UnicodeDecodeError) as wrong:
        raise GraphError(f"is no ONNX graph ({wrong})") from None


def _message(data: memoryview, what: str, known: Collection[int], once: Collection[int]) -> list[Field]:
    found, seen = [], set()
    for one in fields_of(data):
        if one.number not in known:
            raise GraphError(f"has a field {one.number} in {what} that engines do not use")
        if one.number in once and one.number in seen:
            raise GraphError(f"has the field {one.number} of {what} twice")
        seen.add(one.number)
        found.append(one)
    return found


def _only(fields: list[Field], number: int, what: str) -> Field:
    found = next((one for one in fields if one.number == number and one.kind == LENGTH), None)
    if found is None:
        raise GraphError(f"has no {what}")
    return found


def _text(fields: list[Field], number: int) -> str:
    found = next((one.text() for one in fields if one.number == number), "")
    if not found.isprintable() or len(found) > 400:
        raise GraphError(f"has a name that can't be shown: {found[:40]!a}")
    return found


def _whole(fields: list[Field], number: int) -> int:
    return next((one.signed() for one in fields if one.number == number and one.kind == VARINT), 0)


def _wholes(fields: list[Field], number: int) -> tuple[int, ...]:
    """Repeated whole numbers, one by one or packed."""
    found: list[int] = []
    for one in (one for one in fields if one.number == number):
        if one.kind == VARINT:
            found.append(one.signed())
            continue
        at = 0
        while at < len(one.body):
            value, at = read_varint(one.body, at)
            found.append(value)
    return tuple(found)


def _opset(data: memoryview) -> int:
    fields = _message(data, "the opset", {1, 2}, {1, 2})
    if _text(fields, 1) not in ("", "ai.onnx"):
        raise GraphError(f"uses operators of {_text(fields, 1)!r}")
    return _whole(fields, 2)


def _value(data: memoryview) -> Value:
    fields = _message(data, "an input or output", VALUE_FIELDS, VALUE_ONCE)
    kind = _message(_only(fields, 2, "type of an input").body, "a type", {1, 6}, {1})
    tensor = _message(_only(kind, 1, "tensor type").body, "a tensor type", {1, 2}, {1, 2})
    shape = fields_of(_only(tensor, 2, "shape of an input").body)
    sizes = tuple(_whole(_message(one.body, "a dimension", {1, 3}, {1}), 1) for one in shape)
    return Value(_text(fields, 1), _whole(tensor, 1), sizes)


def _node(data: memoryview) -> Node:
    fields = _message(data, "a node", NODE_FIELDS, NODE_ONCE)
    for one in fields:
        if one.number == 5:
            _message(one.body, "an attribute", ATTRIBUTE_FIELDS, ATTRIBUTE_ONCE)
    inputs, outputs = (tuple(one.text() for one in fields if one.number == number) for number in (1, 2))
    return Node(_text(fields, 4), _text(fields, 7), inputs, outputs)


def _held(data: memoryview) -> Held:
    fields = _message(data, "a tensor", TENSOR_FIELDS, TENSOR_ONCE)
    name, kind, shape = _text(fields, 8), _whole(fields, 2), _wholes(fields, 1)
    raw, external = ([one for one in fields if one.number == number] for number in (9, 13))
    if _whole(fields, 14) != _EXTERNAL:
        if external or len(raw) != 1:
            raise GraphError(f"has a tensor {name!r} without its bytes")
        return Held(name, kind, shape, bytes(raw[0].body))
    if raw:
        raise GraphError(f"has a tensor {name!r} with its bytes in two places")
    return Held(name, kind, shape, _external(name, external))


def _external(name: str, entries: list[Field]) -> External:
    said: dict[str, str] = {}
    for entry in entries:
        fields = _message(entry.body, "external data", {1, 2}, {1, 2})
        said[_text(fields, 1)] = _text(fields, 2)
    numbers = [said.get(key, "") for key in ("offset", "length")]
    if set(said) != _EXTERNAL_KEYS or len(entries) != len(said) or not all(re.fullmatch("[0-9]{1,15}", one) for one in numbers):
        raise GraphError(f"has a tensor {name!r} that does not say where its bytes are")
    return External(said["location"], int(numbers[0]), int(numbers[1]))

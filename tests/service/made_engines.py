"""Engines for the container, good and bad: the shipped one with another name, and with what makes it bad sewn into its graphs.

Every one of them is a bundle that passes all checks at the door, signed by a key that the container's owner trusts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.bundle import REFERENCE, Bundle, write_bundle
from engines.signing import SecretKey

KEY = SecretKey(b"nspawned", bytes(range(7, 39)))  # not secret, and trusted nowhere else
LOUD = 0.8  # of full scale: above this, the fragile engine breaks; the recording that a soak plays is softer
SLOW_SIDE, SLOW_PRODUCTS = 2_048, 3  # matrix products of this size: a second or more on one core
HUGE_BYTES = 1 << 38


@dataclass(frozen=True)
class Change:
    """What makes it different from the shipped one."""

    files: Mapping[str, bytes]
    facts: Mapping[str, object]


def made(path: Path, name: str, number: int, change: Change | None = None) -> str:
    """Write it to `path`. Returns its digest."""
    bundle, change = Bundle.open(REFERENCE), change or Change({}, {})
    files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files} | dict(change.files)
    engine = {**bundle.manifest.facts["engine"], "name": name}
    facts = {**bundle.manifest.head, "name": name, "number": number, "engine": engine, **change.facts}
    write_bundle(path, facts, files)
    unsigned = Bundle.open(path)
    write_bundle(path, facts, files, KEY.sign(unsigned.manifest_bytes, f"{name} {number}"))
    return unsigned.digest


def slow() -> Change:
    """The decoder multiplies large matrices, and adds nothing of it to what it says."""
    model, output = _graph("decode.onnx")
    side = numpy_helper.from_array(np.array([SLOW_SIDE, SLOW_SIDE], np.int64), "slow_shape")
    one = _scalar(model, output, "slow_mean")
    nodes = [helper.make_node("Expand", [one, "slow_shape"], ["slow_0"])]
    for turn in range(SLOW_PRODUCTS):
        nodes.append(helper.make_node("MatMul", [f"slow_{turn}", "slow_0"], [f"slow_{turn + 1}"]))
    nodes += _nothing_of(f"slow_{SLOW_PRODUCTS}", "slow")
    return Change({"decode.onnx": _sewn(model, output, [side], nodes, "slow_nothing")}, {})


def fragile() -> Change:
    """The encoder looks up the loudest sample in a table that ends at LOUD: a runtime that is given more fails."""
    model, output = _graph("encode.onnx")
    rate = numpy_helper.from_array(np.array([1 / LOUD], np.float32), "fragile_rate")
    table = numpy_helper.from_array(np.zeros(1, np.float32), "fragile_table")
    nodes = [
        helper.make_node("Abs", [model.graph.input[0].name], ["fragile_abs"]),
        helper.make_node("ReduceMax", ["fragile_abs"], ["fragile_peak"], keepdims=0),
        helper.make_node("Mul", ["fragile_peak", "fragile_rate"], ["fragile_scaled"]),
        helper.make_node("Floor", ["fragile_scaled"], ["fragile_floor"]),
        helper.make_node("Cast", ["fragile_floor"], ["fragile_index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["fragile_table", "fragile_index"], ["fragile_found"]),
        *_nothing_of("fragile_found", "fragile"),
    ]
    return Change({"encode.onnx": _sewn(model, output, [rate, table], nodes, "fragile_nothing")}, {})


def wrong_golden() -> Change:
    """Its golden vectors are not what its graphs give."""
    golden = json.loads(Bundle.open(REFERENCE).read("golden.json"))
    for graph in golden.values():
        for facts in graph["outputs"].values():
            facts["values"] = [value + 0.5 for value in facts["values"]]
    return Change({"golden.json": json.dumps(golden).encode()}, {})


def huge() -> Change:
    """It says that it needs more memory than there is."""
    return Change({}, {"memory_bytes": HUGE_BYTES})


def _graph(name: str) -> tuple[onnx.ModelProto, str]:
    """The graph, and its first output."""
    model = onnx.load_from_string(Bundle.open(REFERENCE).read(name))
    return model, model.graph.output[0].name


def _scalar(model: onnx.ModelProto, output: str, name: str) -> str:
    """A number that depends on what is computed, so that no compiler takes it away: the mean of the output as it was."""
    model.graph.node.extend([helper.make_node("ReduceMean", [f"{output}_whole"], [name], keepdims=0)])
    return name


def _nothing_of(value: str, prefix: str) -> list[onnx.NodeProto]:
    """Zero, whatever `value` is: its smallest absolute value times nothing."""
    return [
        helper.make_node("ReduceMean", [value], [f"{prefix}_of"], keepdims=0),
        helper.make_node("Clip", [f"{prefix}_of", f"{prefix}_zero", f"{prefix}_zero"], [f"{prefix}_nothing"]),
    ]


def _sewn(model: onnx.ModelProto, output: str, held: list[onnx.TensorProto], nodes: list[onnx.NodeProto], nothing: str) -> bytes:
    """The graph with these nodes at its end; its first output is as before, plus nothing."""
    for node in model.graph.node:
        node.input[:] = [f"{output}_whole" if name == output else name for name in node.input]
        node.output[:] = [f"{output}_whole" if name == output else name for name in node.output]
    prefix = nothing.removesuffix("_nothing")
    zero = numpy_helper.from_array(np.array(0, np.float32), f"{prefix}_zero")
    model.graph.initializer.extend([*held, zero])
    model.graph.node.extend([*nodes, helper.make_node("Add", [f"{output}_whole", nothing], [output])])
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())

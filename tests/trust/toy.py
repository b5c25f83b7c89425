"""A bundle of a few kilobytes with one of everything: two graphs on shared weights, golden values, presets, a licence, a signature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.backend import Weights
from engines.bundle import Bundle, write_bundle
from engines.engine import EngineSpec
from engines.export.onnx import SharedWeights
from engines.golden import Golden
from engines.manifest import head
from engines.ort import OrtBackend
from engines.signing import SecretKey
from engines.tensors import pack_tensors
from tests.trust.keys import KEY

SPEC = EngineSpec("toy", 44_100, 16_384, 0, ("choir", "organ"), 2, 4)
PRESETS = [{"name": "dark", "sound": {"prompt": "organ", "tone": 0.2, "mix": 1}}]
LICENCES = [{"covers": "all of it", "name": "MIT", "file": "licences/mit.txt"}]


def graph(name: str, rows: int = 4) -> onnx.ModelProto:
    """x (rows, 16) -> y = erf(x W + b), reshaped: W is large enough to be shared, b stays inside."""
    draw = np.random.default_rng(7)
    held = {
        "w": (draw.standard_normal((16, 64)) * 0.2).astype(np.float16).astype(np.float32),
        "b": draw.standard_normal(64).astype(np.float32),
        "shape": np.array([rows * 4, 16], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["shaped"]),
        helper.make_node("LeakyRelu", ["shaped"], ["y"], alpha=0.5),
    ]
    x, y = (helper.make_tensor_value_info(*one) for one in (("x", TensorProto.FLOAT, [rows, 16]), ("y", TensorProto.FLOAT, [rows * 4, 16])))
    made = helper.make_graph(nodes, name, [x], [y], [numpy_helper.from_array(value, key) for key, value in held.items()])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="toy")


def toy_files() -> dict[str, bytes]:
    shared = SharedWeights()
    shared.add("state", np.zeros((2, 3), np.float32))
    for name, rows in (("step", 4), ("other", 2)):
        shared.take(name, graph(name, rows))
    files = shared.files()
    files["prompts.safetensors"] = pack_tensors({f"prompt/{i}/pooled": np.full((1, 5), i, np.float16) for i in (-1, 0, 1)})
    files["licences/mit.txt"] = b"Do as you like.\n"
    files["presets.json"] = json.dumps(PRESETS).encode()
    files["golden.json"] = json.dumps(_golden(files)).encode()
    return files


def _golden(files: dict[str, bytes]) -> dict[str, Any]:
    weights = Weights.of_files(files)
    x = {name: {"rule": "normal", "shape": [rows, 16], "scale": 0.5} for name, rows in (("step", 4), ("other", 2))}
    facts: dict[str, Any] = {name: {"inputs": {"x": rule}, "outputs": {}} for name, rule in x.items()}
    golden = Golden(facts, weights)
    for name, one in facts.items():
        (y,) = OrtBackend().load(files[f"{name}.onnx"], weights.for_graph(name))(golden.inputs(name))
        values, at = y.reshape(-1).astype(np.float64), [0, 5, 31]
        rms, largest = float(np.sqrt(np.mean(values**2))), float(np.abs(values).max())
        kept = {"size": values.size, "at": at, "values": values[at].tolist(), "rms": rms, "largest": largest, "compared": True}
        one["outputs"]["y"] = kept
    return facts


def toy_manifest(**changes: Any) -> dict[str, Any]:
    return head("blank", SPEC, number=3, licences=LICENCES, **changes)


def write_toy(path: Path, key: SecretKey | None = KEY, files: dict[str, bytes] | None = None, **changes: Any) -> Bundle:
    """Signed by `key`, whatever is in it."""
    files = toy_files() if files is None else files
    write_bundle(path, toy_manifest(**changes), files)
    if key is not None:
        write_bundle(path, toy_manifest(**changes), files, key.sign(Bundle.open(path).manifest_bytes, "toy"))
    return Bundle.open(path)

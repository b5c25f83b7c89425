"""PyTorch modules -> ONNX graphs that share one file of weights.

Opset 18 (TensorRT 10.3 parses up to 20), static shapes. A tensor is stored once, however many graphs use it, and as float16
where float16 holds it exactly: parameters are rounded before they are exported, so what runs is what is stored.
Runs in: export.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from engines.backend import WEIGHTS_FILE, WEIGHTS_INDEX
from engines.export.graphs import GraphSpec

OPSET = 18
ALIGN = 64
SMALLEST_SHARED_BYTES = 1024


@torch.no_grad()
def round_parameters(module: nn.Module) -> None:
    """Round every parameter to the nearest float16, in place."""
    for parameter in module.parameters():
        parameter.copy_(parameter.half().float())


def quiet_exporter() -> None:
    """The exporter announces every optional package that it does not find; that is of no use to anyone here."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def to_onnx(spec: GraphSpec) -> onnx.ModelProto:
    """Trace one graph; names of inputs and outputs as in the spec."""
    quiet_exporter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            spec.module.eval(), tuple(spec.inputs.values()), input_names=list(spec.inputs), output_names=list(spec.outputs),
            opset_version=OPSET, dynamo=True, verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    model.metadata_props.clear()
    for node in model.graph.node:
        node.metadata_props.clear()
        node.doc_string = ""
    return model


@dataclass
class SharedWeights:
    """Collects the large tensors of several graphs into one file."""

    data: bytearray = field(default_factory=bytearray)
    tensors: dict[str, list[Any]] = field(default_factory=dict)
    graphs: dict[str, list[str]] = field(default_factory=dict)
    arrays: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray) -> None:
        """Store an array that the engine asks for by name."""
        self.arrays[name] = self._store(array)

    def take(self, name: str, model: onnx.ModelProto) -> onnx.ModelProto:
        """Move the initializers of graph `name` out; float16 ones come back through a Cast. Changes `model`."""
        used: list[str] = []
        kept, casts = [], []
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.nbytes < SMALLEST_SHARED_BYTES:
                kept.append(tensor)
                continue
            with np.errstate(over="ignore"):  # what does not fit is not exact either
                narrow = array.astype(np.float16) if array.dtype == np.float32 else array
            exact = array.dtype == np.float32 and np.array_equal(narrow.astype(np.float32), array)
            stored = self._store(narrow if exact else array)
            if stored not in used:
                used.append(stored)
                kept.append(self._reference(stored))
            if exact:
                casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
            else:
                casts.append(helper.make_node("Identity", [stored], [tensor.name]))
        nodes = [*casts, *model.graph.node]
        del model.graph.initializer[:], model.graph.node[:], model.graph.value_info[:]
        model.graph.initializer.extend(kept)
        model.graph.node.extend(nodes)
        self.graphs[name] = used
        return model

    def _store(self, array: np.ndarray) -> str:
        raw = np.ascontiguousarray(array).tobytes()
        name = "w" + hashlib.sha256(repr((array.dtype.str, array.shape)).encode() + raw).hexdigest()[:16]
        if name not in self.tensors:
            self.data.extend(bytes(-len(self.data) % ALIGN))
            self.tensors[name] = [array.dtype.str, list(array.shape), len(self.data)]
            self.data.extend(raw)
        return name

    def _reference(self, name: str) -> TensorProto:
        dtype, shape, offset = self.tensors[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        tensor = TensorProto(name=name, dims=shape, data_type=kind, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        return tensor

    def files(self) -> dict[str, bytes]:
        index = json.dumps({"tensors": self.tensors, "graphs": self.graphs, "arrays": self.arrays}, sort_keys=True).encode()
        return {WEIGHTS_FILE: bytes(self.data), WEIGHTS_INDEX: index}

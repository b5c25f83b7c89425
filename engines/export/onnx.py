"""PyTorch modules -> ONNX graphs that share one safetensors file of weights.

Opset 18 (TensorRT 10.3 parses up to 20), static shapes. A tensor is stored once, however many graphs use it, and as float16
where float16 holds it exactly: parameters are rounded before they are exported, so what runs is what is stored.
Runs in: export.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from engines.export.graphs import GraphSpec
from engines.manifest import GRAPH_SUFFIX, WEIGHTS_FILE
from engines.tensors import layout, pack_tensors

OPSET = 18
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

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    graphs: dict[str, onnx.ModelProto] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray) -> None:
        """Store an array that the engine asks for by name."""
        self.arrays[name] = array

    def take(self, name: str, model: onnx.ModelProto) -> None:
        """Move the initializers of graph `name` out; float16 ones come back through a Cast. Changes `model`."""
        used: set[str] = set()
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
                used.add(stored)
                kind = helper.np_dtype_to_tensor_dtype(self.arrays[stored].dtype)
                external = TensorProto.EXTERNAL
                kept.append(TensorProto(name=stored, dims=array.shape, data_type=kind, data_location=external))
            if exact:
                casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
            else:
                casts.append(helper.make_node("Identity", [stored], [tensor.name]))
        nodes = [*casts, *model.graph.node]
        del model.graph.initializer[:], model.graph.node[:], model.graph.value_info[:]
        model.graph.initializer.extend(kept)
        model.graph.node.extend(nodes)
        self.graphs[name] = model

    def _store(self, array: np.ndarray) -> str:
        raw = np.ascontiguousarray(array).tobytes()
        name = "w" + hashlib.sha256(repr((array.dtype.str, array.shape)).encode() + raw).hexdigest()[:16]
        self.arrays.setdefault(name, array)
        return name

    def files(self) -> dict[str, bytes]:
        """The file of weights, and every graph with its tensors' places in it."""
        places = {one.name: one for one in layout(self.arrays)[1]}
        found = {WEIGHTS_FILE: pack_tensors(self.arrays)}
        for name, model in self.graphs.items():
            for tensor in model.graph.initializer:
                if tensor.data_location == TensorProto.EXTERNAL:
                    place = places[tensor.name]
                    del tensor.external_data[:]
                    for key, value in (("location", WEIGHTS_FILE), ("offset", str(place.offset)), ("length", str(place.size))):
                        tensor.external_data.add(key=key, value=value)
            found[name + GRAPH_SUFFIX] = model.SerializeToString(deterministic=True)
        return found

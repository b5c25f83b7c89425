"""The reference backend: PyTorch interprets a bundle's ONNX graphs, node by node, on the CPU or with CUDA.

It shares no kernel with the other runtimes and fuses nothing, so where they agree with it they are right. It takes what the bundle
holds, not the code that made it: any bundle, whatever model it was exported from. Slow, and needs `ghostnote[train]` (torch, onnx).

Runs in: parity tests, `ghostnote check`, `ghostnote bench`; the worker process only where the configuration names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, helper, load_model_from_string, numpy_helper
from torch import Tensor

from engines.backend import Array, BackendError, BlockRunner, Graph

Attributes = dict[str, Any]
Operator = Callable[[list[Any], Attributes], Any]


def _whole(x: Tensor) -> list[int]:
    """Integers that a node takes as an input: shapes, axes, bounds."""
    return [int(value) for value in x.flatten().tolist()]


def _optional(inputs: list[Any], index: int) -> Any:
    return inputs[index] if index < len(inputs) else None


def _slice(inputs: list[Any], _: Attributes) -> Tensor:
    x, starts, ends = inputs[0], _whole(inputs[1]), _whole(inputs[2])
    axes = _whole(inputs[3]) if _optional(inputs, 3) is not None else list(range(len(starts)))
    strides = _whole(inputs[4]) if _optional(inputs, 4) is not None else [1] * len(starts)
    index = [slice(None)] * x.dim()
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        if stride < 1:
            raise BackendError("the torch backend does not know Slice with a negative step")
        index[axis] = slice(start, end, stride)
    return x[tuple(index)]


def _reshape(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, shape = inputs[0], _whole(inputs[1])
    if not attributes.get("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


def _squeeze(inputs: list[Any], _: Attributes) -> Tensor:
    return inputs[0].squeeze() if _optional(inputs, 1) is None else inputs[0].squeeze(tuple(_whole(inputs[1])))


def _unsqueeze(inputs: list[Any], _: Attributes) -> Tensor:
    x, axes = inputs[0], _whole(inputs[1])
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _split(inputs: list[Any], attributes: Attributes) -> tuple[Tensor, ...]:
    x, axis = inputs[0], attributes.get("axis", 0)
    if _optional(inputs, 1) is not None:
        return torch.split(x, _whole(inputs[1]), axis)
    return torch.split(x, -(-x.shape[axis] // attributes["num_outputs"]), axis)


def _gather(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, index = inputs
    axis = attributes.get("axis", 0) % x.dim()
    index = index.to(x.device) % x.shape[axis]
    return torch.index_select(x, axis, index.flatten()).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _layer_norm(inputs: list[Any], attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", -1) % inputs[0].dim()
    return F.layer_norm(inputs[0], inputs[0].shape[axis:], inputs[1], _optional(inputs, 2), attributes.get("epsilon", 1e-5))


def _conv(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    dims = weight.dim() - 2
    pads = attributes.get("pads", [0] * 2 * dims)
    x = F.pad(x, [pad for i in reversed(range(dims)) for pad in (pads[i], pads[dims + i])])
    ones = [1] * dims
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    return convolve(x, weight, _optional(inputs, 2), strides, 0, dilations, attributes.get("group", 1))


def _conv_transpose(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    dims = weight.dim() - 2
    pads, ones = attributes.get("pads", [0] * 2 * dims), [1] * dims
    if pads[:dims] != pads[dims:]:
        raise BackendError("the torch backend does not know ConvTranspose with uneven pads")
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    strides, more = attributes.get("strides", ones), attributes.get("output_padding", [0] * dims)
    dilations = attributes.get("dilations", ones)
    return convolve(x, weight, _optional(inputs, 2), strides, pads[:dims], more, attributes.get("group", 1), dilations)


def _pad(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, pads = inputs[0], _whole(inputs[1])
    mode = attributes.get("mode", b"constant").decode()
    if mode != "constant" or _optional(inputs, 3) is not None:
        raise BackendError(f"the torch backend does not know Pad in mode {mode!r}, or by axes")
    value = 0.0 if _optional(inputs, 2) is None else float(inputs[2])
    rank = x.dim()
    return F.pad(x, [pad for i in reversed(range(rank)) for pad in (pads[i], pads[rank + i])], value=value)


def _gemm(inputs: list[Any], attributes: Attributes) -> Tensor:
    a = inputs[0].T if attributes.get("transA", 0) else inputs[0]
    b = inputs[1].T if attributes.get("transB", 0) else inputs[1]
    y = attributes.get("alpha", 1.0) * (a @ b)
    return y if _optional(inputs, 2) is None else y + attributes.get("beta", 1.0) * inputs[2]


def _clip(inputs: list[Any], _: Attributes) -> Tensor:
    low, high = _optional(inputs, 1), _optional(inputs, 2)
    return torch.clamp(inputs[0], None if low is None else float(low), None if high is None else float(high))


def _reduce(reduce: Callable[..., Tensor]) -> Operator:
    def run(inputs: list[Any], attributes: Attributes) -> Tensor:
        x, axes = inputs[0], _optional(inputs, 1)
        if axes is None and attributes.get("noop_with_empty_axes", 0):
            return x
        where = list(range(x.dim())) if axes is None else _whole(axes)
        return reduce(x, where, keepdim=bool(attributes.get("keepdims", 1)))

    return run


def _top_k(inputs: list[Any], attributes: Attributes) -> tuple[Tensor, Tensor]:
    (count,) = _whole(inputs[1])
    found = torch.topk(inputs[0], count, attributes.get("axis", -1), bool(attributes.get("largest", 1)))
    return found.values, found.indices


def _cast(inputs: list[Any], attributes: Attributes) -> Tensor:
    return inputs[0].to(torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(attributes["to"]))).dtype)


def _plain(function: Callable[..., Any]) -> Operator:
    """An operator without attributes that torch has by the same meaning."""
    return lambda inputs, _: function(*inputs)


OPERATORS: dict[str, Operator] = {
    "Add": _plain(torch.add), "Sub": _plain(torch.sub), "Mul": _plain(torch.mul), "Div": _plain(torch.div), "Pow": _plain(torch.pow),
    "MatMul": _plain(torch.matmul), "Neg": _plain(torch.neg), "Abs": _plain(torch.abs), "Sqrt": _plain(torch.sqrt),
    "Reciprocal": _plain(torch.reciprocal), "Exp": _plain(torch.exp), "Log": _plain(torch.log), "Sin": _plain(torch.sin),
    "Cos": _plain(torch.cos), "Tanh": _plain(torch.tanh), "Sigmoid": _plain(torch.sigmoid), "Erf": _plain(torch.erf),
    "Max": _plain(torch.maximum), "Min": _plain(torch.minimum), "And": _plain(torch.logical_and), "Or": _plain(torch.logical_or),
    "Not": _plain(torch.logical_not), "Equal": _plain(torch.eq), "Greater": _plain(torch.gt), "GreaterOrEqual": _plain(torch.ge),
    "Less": _plain(torch.lt), "LessOrEqual": _plain(torch.le), "Where": _plain(torch.where), "Identity": lambda i, _: i[0],
    "Relu": _plain(torch.relu), "Round": _plain(torch.round), "Floor": _plain(torch.floor),
    "Gelu": lambda i, a: F.gelu(i[0], approximate=a.get("approximate", b"none").decode()),
    "Softmax": lambda i, a: torch.softmax(i[0], a.get("axis", -1)),
    "Transpose": lambda i, a: i[0].permute(a.get("perm", list(reversed(range(i[0].dim()))))),
    "Concat": lambda i, a: torch.cat(i, a["axis"]),
    "Expand": lambda i, _: i[0] * torch.ones(_whole(i[1]), dtype=i[0].dtype, device=i[0].device),
    "Tile": lambda i, _: i[0].repeat(_whole(i[1])),
    "Shape": lambda i, _: torch.tensor(i[0].shape),
    "Reshape": _reshape, "Slice": _slice, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Split": _split, "Gather": _gather,
    "LayerNormalization": _layer_norm, "Conv": _conv, "ConvTranspose": _conv_transpose, "Pad": _pad, "Gemm": _gemm, "Clip": _clip,
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum), "ReduceMax": _reduce(torch.amax), "TopK": _top_k, "Cast": _cast,
}  # fmt: skip


class Node:
    """One node, ready to run."""

    def __init__(self, proto: NodeProto) -> None:
        if proto.op_type not in OPERATORS:
            raise BackendError(f"the torch backend does not know the operator {proto.op_type}: use another backend for this engine")
        self.kind, self.inputs, self.outputs = proto.op_type, list(proto.input), list(proto.output)
        self.attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}

    def run(self, values: dict[str, Tensor]) -> None:
        found = OPERATORS[self.kind]([values[name] if name else None for name in self.inputs], self.attributes)
        for name, value in zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=False):
            values[name] = value


class TorchGraph:
    """Nodes in order. What depends on no input was computed when the graph was loaded."""

    def __init__(self, model: ModelProto, constants: dict[str, Tensor], device: torch.device) -> None:
        self.device, self.outputs = device, [output.name for output in model.graph.output]
        self.constants, self.nodes = constants, []
        for proto in model.graph.node:
            if proto.op_type == "Constant":
                (value,) = proto.attribute
                self.constants[proto.output[0]] = self._place(np.asarray(numpy_helper.to_array(value.t)))
                continue
            node = Node(proto)
            if all(not name or name in self.constants for name in node.inputs):
                node.run(self.constants)
            else:
                self.nodes.append(node)

    def _place(self, array: Array) -> Tensor:
        return place(array, self.device)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        values = {**self.constants, **{name: self._place(value) for name, value in inputs.items()}}
        for node in self.nodes:
            node.run(values)
        return [values[name].cpu().numpy().copy() for name in self.outputs]


def place(array: Array, device: torch.device) -> Tensor:
    """On the device; shapes and indices stay on the CPU, where they are read."""
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(device) if tensor.is_floating_point() else tensor


class TorchBackend:
    """Raises BackendError where CUDA is asked for and torch has none."""

    def __init__(self, threads: int = 1, cuda: bool = False) -> None:
        if cuda and not torch.cuda.is_available():
            build = "is built without CUDA" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda} but finds no GPU"
            raise BackendError(f"the installed torch {torch.__version__} {build}: install a CUDA build of it")
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32 here
        self.device = torch.device("cuda" if cuda else "cpu")
        self.name = "torch-cuda" if cuda else "torch"

    @torch.inference_mode()
    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        model = load_model_from_string(onnx)
        constants = {name: place(array, self.device) for name, array in weights.items()}
        for tensor in model.graph.initializer:
            if tensor.name not in constants:
                constants[tensor.name] = place(numpy_helper.to_array(tensor), self.device)
        return TorchGraph(model, constants, self.device)

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        return None

"""What a graph needs on the GPU, from its network definition alone: no plan is loaded, so no GPU is needed.

Weights are what layers read that does not depend on an input: the compiler folds what is computed from constants alone. Activations are
the most that is alive at once when layers run in the order of the definition, nothing fused and nothing in place: a bound from above
for what a runtime allocates. Runs in: the compiler's process.
"""

from __future__ import annotations

import math
from typing import cast

import tensorrt as trt

WIDTHS = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT32": 4, "INT64": 8, "INT8": 1, "UINT8": 1, "BOOL": 1}


def measure(network: trt.INetworkDefinition) -> dict[str, int]:
    """Bytes of weights, inputs, outputs and activations."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    folded: dict[str, int] = {}  # tensors that depend on no input
    working = []
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        if all(tensor.name in folded for tensor in _read(layer)):
            folded |= {tensor.name: _bytes(tensor) for tensor in _made(layer)}
        else:
            working.append(layer)
    held = {tensor.name for layer in working for tensor in _read(layer)} & folded.keys()
    weights = sum(folded[name] for name in held) + sum(_kernel_bytes(layer) for layer in working)
    fixed = folded.keys() | {tensor.name for tensor in [*inputs, *outputs]}
    return {
        "weights": weights, "inputs": sum(map(_bytes, inputs)), "outputs": sum(map(_bytes, outputs)),
        "activations": _most_alive(working, fixed),
    }  # fmt: skip


def _most_alive(layers: list[trt.ILayer], fixed: set[str]) -> int:
    """The most bytes of tensors, other than `fixed` ones, between the layer that makes them and the last that reads them."""
    last_read = {tensor.name: index for index, layer in enumerate(layers) for tensor in _read(layer)}
    alive: dict[str, int] = {}
    most = 0
    for index, layer in enumerate(layers):
        alive |= {tensor.name: _bytes(tensor) for tensor in _made(layer) if tensor.name not in fixed}
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_read.get(name, -1) > index}
    return most


def _read(layer: trt.ILayer) -> list[trt.ITensor]:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    return [tensor for tensor in tensors if tensor is not None]


def _made(layer: trt.ILayer) -> list[trt.ITensor]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _kernel_bytes(layer: trt.ILayer) -> int:
    """Weights that a convolution holds itself instead of getting them from a constant."""
    if layer.type not in (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION):
        return 0
    layer.__class__ = trt.IConvolutionLayer if layer.type == trt.LayerType.CONVOLUTION else trt.IDeconvolutionLayer
    convolution = cast("trt.IConvolutionLayer", layer)
    return sum(int(getattr(held, "nbytes", 0)) for held in (convolution.kernel, convolution.bias))


def _bytes(tensor: trt.ITensor) -> int:
    return math.prod(tensor.shape) * WIDTHS[tensor.dtype.name]

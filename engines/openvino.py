"""OpenVINO on the CPU: an optional backend (`pip install 'ghostnote[openvino]'`).

Computes in float32: left to itself it takes bfloat16 or float16 where a CPU offers it. One stream, so that a block is never split.
Runs in: the worker process.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino

from engines.backend import Array, BlockRunner, Graph
from engines.onnx_wire import with_weights


class OpenVinoGraph:
    """A compiled model with one request; outputs are copied, for the request's own are overwritten by the next call."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.request = compiled.create_infer_request()
        self.outputs = len(compiled.outputs)

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        self.request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()}, share_inputs=True)
        return [np.array(self.request.get_output_tensor(i).data) for i in range(self.outputs)]


class OpenVinoBackend:
    name = "openvino"

    def __init__(self, threads: int = 1) -> None:
        self.core = openvino.Core()
        self.options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
        }

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        model = self.core.read_model(with_weights(onnx, weights))
        return OpenVinoGraph(self.core.compile_model(model, "CPU", self.options))

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        return None

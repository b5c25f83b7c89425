"""ONNX Runtime: the default backend, on the CPU.

One thread and no spinning: a waiting thread that spins costs three times the CPU and starves the audio process. Runs in: the
worker process.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime

from engines.backend import Array, Graph


class OrtGraph:
    """An ONNX Runtime session; outputs come in the graph's own order."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        outputs: list[Array] = self.session.run(None, dict(inputs))
        return outputs


class OrtBackend:
    name = "onnxruntime"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
        return OrtGraph(onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"]))

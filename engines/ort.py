"""ONNX Runtime: the default backend, on the CPU; on a GPU where onnxruntime-gpu is installed and finds one.

One thread and no spinning: a waiting thread that spins costs three times the CPU and starves the audio process. Runs in: the
worker process.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import onnxruntime

from engines.backend import Array, BackendError, BlockRunner, Graph


class Provider(Enum):
    """Where ONNX Runtime computes, by its own name of the place."""

    CPU = "CPUExecutionProvider"
    CUDA = "CUDAExecutionProvider"
    TENSORRT = "TensorrtExecutionProvider"


FLOAT32: dict[Provider, dict[str, str]] = {  # left to themselves, they compute in something narrower
    Provider.CPU: {},
    Provider.CUDA: {"use_tf32": "0"},
    Provider.TENSORRT: {"trt_fp16_enable": "0"},
}


class OrtGraph:
    """An ONNX Runtime session; outputs come in the graph's own order."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        outputs: list[Array] = self.session.run(None, dict(inputs))
        return outputs


class OrtBackend:
    """Raises BackendError where the provider is not there."""

    def __init__(self, threads: int = 1, provider: Provider = Provider.CPU) -> None:
        self.threads, self.provider = threads, provider
        self.name = "onnxruntime" if provider is Provider.CPU else f"onnxruntime-{provider.name.lower()}"
        offered = onnxruntime.get_available_providers()
        if provider.value not in offered:
            short = ", ".join(one.removesuffix("ExecutionProvider") for one in offered)
            raise BackendError(f"the installed onnxruntime offers {short} only: pip install onnxruntime-gpu")

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
        session = onnxruntime.InferenceSession(onnx, options, providers=[(self.provider.value, FLOAT32[self.provider])])
        if self.provider.value not in session.get_providers():  # it falls back to the CPU by itself, and says nothing
            raise BackendError(f"onnxruntime could not start {self.provider.value}: its CUDA libraries do not load on this machine")
        return OrtGraph(session)

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        return None

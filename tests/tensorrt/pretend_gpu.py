"""A make-believe GPU: device memory is a numpy array, a plan is an ONNX Runtime session, the kernels are kernels.cl compiled for the CPU.

It shows that our calls come in a right order and that the arithmetic around the plans is right. It does not show that TensorRT or CUDA
would agree: nothing here is NVIDIA's. Like a GPU it does nothing until somebody waits: host memory that is used again too early, or a
wait too few, gives wrong numbers.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorrt_rtx as trt

from engines.tensorrt.cuda import KERNELS

BYTES = 192 << 20
HANDLE = 77
PREAMBLE = """
#define kernel
#define global
#define INDEX pretend_index
static int pretend_index;
#include "kernels.cl"
void mix_all(int threads, float *x, float *v, float *u, float *n, float *w, int size) {
    for (pretend_index = 0; pretend_index < threads; pretend_index++) mix(x, v, u, n, w, size);
}
void commit_all(int threads, float *ring, float *rows, int *first, int heads, int new_rows, int ring_rows, int width) {
    for (pretend_index = 0; pretend_index < threads; pretend_index++) commit(ring, rows, first, heads, new_rows, ring_rows, width);
}
"""


def kernels_on_the_cpu(folder: Path) -> ctypes.CDLL:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to compile the kernels for the CPU")
    (folder / "kernels.c").write_text(PREAMBLE)
    library = folder / "kernels.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", f"-I{KERNELS.parent}", "-o", library, folder / "kernels.c"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


class PretendStream:
    handle = HANDLE

    def __init__(self, gpu: PretendGpu) -> None:
        self.gpu = gpu

    def synchronize(self) -> None:
        assert self.gpu.captured is None, "waited while a graph was being captured"
        self.gpu.calls.append("wait")
        for work in self.gpu.queue:
            work()
        self.gpu.queue.clear()


class PretendEvent:
    def __init__(self, gpu: PretendGpu) -> None:
        self.gpu, self.happened = gpu, False

    def record(self, stream: PretendStream) -> None:
        self.gpu.enqueue("", lambda: setattr(self, "happened", True))

    def time_till(self, other: PretendEvent) -> float:
        assert self.happened and other.happened
        return 1.0


class PretendFunction:
    def __init__(self, gpu: PretendGpu, name: str) -> None:
        self.gpu, self.name, self.kinds = gpu, name, ""

    def prepare(self, kinds: str) -> None:
        self.kinds = kinds

    def prepared_async_call(self, grid: tuple[int, int], block: tuple[int, int, int], stream: PretendStream, *values: int) -> None:
        assert len(values) == len(self.kinds)
        base = self.gpu.memory.ctypes.data
        given = [ctypes.c_void_p(base + v) if kind == "P" else ctypes.c_int(v) for kind, v in zip(self.kinds, values, strict=True)]
        run = getattr(self.gpu.kernels, f"{self.name}_all")
        self.gpu.enqueue(self.name, lambda: run(ctypes.c_int(grid[0] * block[0]), *given))


class PretendModule:
    def __init__(self, gpu: PretendGpu) -> None:
        self.gpu = gpu

    def get_function(self, name: str) -> PretendFunction:
        return PretendFunction(self.gpu, name)


class PretendContext:
    def push(self) -> None: ...


class PretendDevice:
    def retain_primary_context(self) -> PretendContext:
        return PretendContext()


class PretendGpu:
    """What engines.tensorrt.cuda uses of pycuda.driver, and its Capture."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self.kernels, self.memory, self.used = kernels, np.zeros(BYTES, np.uint8), 4096
        self.queue: list[Callable[[], Any]] = []
        self.captured: list[tuple[str, Callable[[], Any]]] | None = None
        self.calls: list[str] = []

    def enqueue(self, name: str, work: Callable[[], Any]) -> None:
        if self.captured is not None:
            self.captured.append((name, work))
            return
        if name:
            self.calls.append(name)
        self.queue.append(work)

    def init(self) -> None: ...

    def Device(self, index: int) -> PretendDevice:  # noqa: N802
        return PretendDevice()

    def Stream(self) -> PretendStream:  # noqa: N802
        return PretendStream(self)

    def Event(self) -> PretendEvent:  # noqa: N802
        return PretendEvent(self)

    def module_from_buffer(self, ptx: bytes) -> PretendModule:
        assert b".entry mix" in ptx and b".entry commit" in ptx
        return PretendModule(self)

    def mem_alloc(self, size: int) -> int:
        self.calls.append("alloc")
        at, self.used = self.used, self.used + -(-size // 256) * 256
        assert self.used <= BYTES
        return at

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.zeros(shape, dtype)

    def mem_get_info(self) -> tuple[int, int]:
        return BYTES - self.used, BYTES

    def at(self, address: int, like: np.ndarray) -> np.ndarray:
        return self.memory[address : address + like.nbytes].view(like.dtype).reshape(like.shape)

    def memcpy_htod_async(self, address: int, host: np.ndarray, stream: PretendStream) -> None:
        self.enqueue("send", lambda: np.copyto(self.at(address, host), host))

    def memcpy_dtoh_async(self, host: np.ndarray, address: int, stream: PretendStream) -> None:
        self.enqueue("fetch", lambda: np.copyto(host, self.at(address, host)))

    def memcpy_dtod_async(self, to: int, address: int, size: int, stream: PretendStream) -> None:
        self.enqueue("copy", lambda: np.copyto(self.memory[to : to + size], self.memory[address : address + size]))

    def record(self, handle: int, enqueue: Callable[[], None]) -> Any:
        self.captured = []
        enqueue()
        graph, self.captured = self.captured, None
        return graph

    def launch(self, graph: Any, handle: int) -> None:
        self.calls.append("launch")
        self.queue.extend(work for _, work in graph)


class PretendEngine:
    """What engines.tensorrt.run uses of ICudaEngine and IExecutionContext, over a session of ONNX Runtime."""

    def __init__(self, gpu: PretendGpu, session: onnxruntime.InferenceSession, name: str) -> None:
        self.gpu, self.session, self.name = gpu, session, name
        self.inputs = {node.name: tuple(node.shape) for node in session.get_inputs()}
        self.shapes = {**self.inputs, **{node.name: tuple(node.shape) for node in session.get_outputs()}}
        self.num_io_tensors = len(self.shapes)
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> trt.TensorIOMode:
        return trt.TensorIOMode.INPUT if name in self.inputs else trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> trt.DataType:
        return trt.DataType.FLOAT

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(cuda_graph_strategy=None)

    def create_execution_context(self, config: SimpleNamespace | None = None) -> PretendEngine:
        assert config is None or config.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self

    def is_stream_capturable(self, handle: int) -> bool:
        return handle == HANDLE

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address >= 4096, name
        self.addresses[name] = address

    def execute_async_v3(self, handle: int) -> bool:
        assert handle == HANDLE
        addresses = dict(self.addresses)
        self.gpu.enqueue(self.name, lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        view = lambda name: self.gpu.at(addresses[name], np.empty(self.shapes[name], np.float32))  # noqa: E731
        outputs = self.session.run(None, {name: view(name) for name in self.inputs})
        for node, value in zip(self.session.get_outputs(), outputs, strict=True):
            np.copyto(view(node.name), value)

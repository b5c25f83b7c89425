"""One GPU through pycuda: its primary context, one stream, memory that is allocated once, and the capture of what is enqueued.

Never run on a GPU so far: the call order is tested on a make-believe driver, the kernels on the CPU and with NVIDIA's assembler.
Runs in: the worker process, one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.backend import Array, BackendError
from engines.tensorrt.driver import probe

if TYPE_CHECKING:
    import pycuda.driver as pycuda_driver

KERNELS = Path(__file__).with_name("kernels.ptx")
THREADS_PER_BLOCK = 128  # of a kernel; nothing to do with a block of music
ALIGN_BYTES = 256


class Capture(Protocol):
    """Records what is enqueued on a stream, to be launched again as one."""

    def record(self, stream_handle: int, enqueue: Callable[[], None]) -> Any: ...

    def launch(self, graph: Any, stream_handle: int) -> None: ...


class BindingsCapture:
    """CUDA graphs through cuda-bindings: pycuda has none. The stream is pycuda's, known by its handle."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self.driver = driver

    def record(self, stream_handle: int, enqueue: Callable[[], None]) -> Any:
        cuda = self.driver
        stream = cuda.CUstream(stream_handle)
        self._done(cuda.cuStreamBeginCapture(stream, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            enqueue()
        finally:
            ended = cuda.cuStreamEndCapture(stream)
        (graph,) = self._done(ended)
        (ready,) = self._done(cuda.cuGraphInstantiate(graph, 0))
        self._done(cuda.cuGraphDestroy(graph))
        return ready

    def launch(self, graph: Any, stream_handle: int) -> None:
        self._done(self.driver.cuGraphLaunch(graph, self.driver.CUstream(stream_handle)))

    def _done(self, answer: Sequence[Any]) -> Sequence[Any]:
        code, *values = answer
        if code != self.driver.CUresult.CUDA_SUCCESS:
            raise BackendError(f"CUDA graph: {code.name}")
        return values


class Memory:
    """An array on the device with a pinned twin on the host."""

    def __init__(self, host: Array, address: int) -> None:
        self.host, self.address = host, address


class Cuda:
    """`driver` is pycuda.driver. Everything is enqueued on one stream; `wait` is the only place that waits."""

    def __init__(self, driver: Any, capture: Capture | None) -> None:
        self.driver, self.capture = driver, capture
        driver.init()
        self.context: pycuda_driver.Context = driver.Device(0).retain_primary_context()
        self.context.push()
        self.stream: pycuda_driver.Stream = driver.Stream()
        self.allocated_bytes = 0
        self._held: list[Any] = []
        module: pycuda_driver.Module = driver.module_from_buffer(KERNELS.read_bytes())
        self._mix, self._commit = module.get_function("mix"), module.get_function("commit")
        self._mix.prepare("PPPPPi")
        self._commit.prepare("PPPiiii")

    @classmethod
    def open(cls) -> Cuda:
        """Raises BackendError where there is no GPU or no pycuda."""
        probe()
        if find_spec("pycuda") is None:
            raise BackendError("pycuda is not installed: pip install 'ghostnote[cuda]' (it is built against the CUDA toolkit)")
        import pycuda.driver

        capture = BindingsCapture() if find_spec("cuda") and find_spec("cuda.bindings") else None
        return cls(pycuda.driver, capture)

    @property
    def handle(self) -> int:
        return int(self.stream.handle)

    def device_bytes(self, size: int) -> int:
        """Address of `size` new bytes, kept until the process ends."""
        held = self.driver.mem_alloc(max(size, 1))
        self._held.append(held)
        self.allocated_bytes += size
        return int(held)

    def memory(self, shape: Sequence[int], dtype: Any = np.float32) -> Memory:
        host = self.driver.pagelocked_empty(tuple(shape), np.dtype(dtype))
        return Memory(host, self.device_bytes(host.nbytes))

    def send(self, address: int, host: Array) -> None:
        """`host` must be pinned and stay as it is until the next `wait`."""
        self.driver.memcpy_htod_async(address, host, self.stream)

    def fetch(self, host: Array, address: int) -> None:
        self.driver.memcpy_dtoh_async(host, address, self.stream)

    def copy(self, to: int, address: int, size: int) -> None:
        self.driver.memcpy_dtod_async(to, address, size, self.stream)

    def mix(self, x: int, v: int, unled: int, noise: int, weights: int, size: int) -> None:
        """kernels.cl: x = weights . (x, v, unled, noise)."""
        self._mix.prepared_async_call(_grid(size), (THREADS_PER_BLOCK, 1, 1), self.stream, x, v, unled, noise, weights, size)

    def commit(self, ring: int, rows: int, first: int, shape: tuple[int, int, int, int]) -> None:
        """kernels.cl: new rows into the ring; shape is (heads, new rows, ring rows, width)."""
        grid = _grid(shape[0] * shape[1] * shape[3])
        self._commit.prepared_async_call(grid, (THREADS_PER_BLOCK, 1, 1), self.stream, ring, rows, first, *shape)

    def event(self) -> pycuda_driver.Event:
        return self.driver.Event()

    def free_bytes(self) -> int:
        return int(self.driver.mem_get_info()[0])

    def wait(self) -> None:
        self.stream.synchronize()


def _grid(size: int) -> tuple[int, int]:
    return (-(-size // THREADS_PER_BLOCK), 1)


class Letter:
    """All small arrays that a block takes, packed into one pinned buffer: one copy to the device instead of dozens."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.memory = cuda.memory((size,), np.uint8)
        self.used = 0
        self._at: dict[int, int] = {}
        self._kept: list[Array] = []

    def clear(self) -> None:
        self.used = 0
        self._at.clear()
        self._kept.clear()

    def put(self, array: Array, dtype: Any = np.float32) -> int:
        """Its address on the device; an array that is in already is not put in twice."""
        if id(array) in self._at:
            return self._at[id(array)]
        end = self.used + array.size * np.dtype(dtype).itemsize
        if end > self.memory.host.nbytes:
            raise BackendError(f"a block's inputs take more than the {self.memory.host.nbytes} bytes that were set aside for them")
        self.memory.host[self.used : end].view(dtype)[:] = array.reshape(-1)
        address = self._at[id(array)] = self.memory.address + self.used
        self._kept.append(array)  # so that no other array gets its id
        self.used = -(-end // ALIGN_BYTES) * ALIGN_BYTES
        return address

    @property
    def written(self) -> NDArray[np.uint8]:
        return self.memory.host[: self.used]

"""Plans on a GPU: each graph as a plan, and the denoising of a whole block without a stop.

A block's passes are enqueued one behind the other on one stream: the host packs one letter with all that is new (levels, positions,
sketch, noise), sends it, and waits once, for the clean block. The context's keys and values lie on the GPU as a ring with fixed
addresses; a plan's new rows are put into it in place. The sampler's arithmetic is a kernel of four multiplications, once or twice a
step. As addresses never change, a block can be captured as a CUDA graph the second time that it looks the same, and be launched as one
from then on.

Never run on a GPU so far: tested on a make-believe one. `ghostnote check --gpu` compares all of it, on a real one, with onnxruntime.
Runs in: the worker process; imported only after `engines.tensorrt.api.use`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

from engines.backend import Array, BackendError, BlockJob, BlockResult, BlockRunner, Graph, Pass
from engines.tensorrt.cuda import ALIGN_BYTES, Cuda, Letter, Memory

CACHED = ("cache_keys", "cache_values")  # inputs that are the ring; `first` gives `keys` and `values` for it
MOST_STEPS = 16  # of one block


class Plan:
    """One loaded plan: bindings by name, in the order of the graph. Is a Graph, with memory of its own, when it is called."""

    def __init__(self, cuda: Cuda, engine: trt.ICudaEngine) -> None:
        self.cuda, self.engine = cuda, engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if is_input[name]]
        self.outputs = [name for name in names if not is_input[name]]
        self.shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        self.dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self.execution_context = _execution_context(engine, cuda.capture is None)
        self._memory: dict[str, Memory] = {}

    def enqueue(self, addresses: Mapping[str, int]) -> None:
        """Run on the stream with every binding at its address."""
        for name in (*self.inputs, *self.outputs):
            self.execution_context.set_tensor_address(name, addresses[name])
        if not self.execution_context.execute_async_v3(self.cuda.handle):
            raise BackendError("TensorRT refuses to run a plan (execute_async_v3): compile it again with `ghostnote engine compile`")

    def capturable(self) -> bool:
        ask = getattr(self.execution_context, "is_stream_capturable", None)  # not in TensorRT 10
        return ask is None or bool(ask(self.cuda.handle))

    def nbytes(self, name: str) -> int:
        return math.prod(self.shapes[name]) * self.dtypes[name].itemsize

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        if not self._memory:
            self._memory = {name: self.cuda.memory(self.shapes[name], self.dtypes[name]) for name in (*self.inputs, *self.outputs)}
        for name in self.inputs:
            memory = self._memory[name]
            memory.host[...] = inputs[name]
            self.cuda.send(memory.address, memory.host)
        self.enqueue({name: memory.address for name, memory in self._memory.items()})
        for name in self.outputs:
            self.cuda.fetch(self._memory[name].host, self._memory[name].address)
        self.cuda.wait()
        return [np.array(self._memory[name].host) for name in self.outputs]


def _execution_context(engine: trt.ICudaEngine, capture_by_itself: bool) -> trt.IExecutionContext:
    """TensorRT for RTX can capture each plan by itself: second best, for where we can't capture the block."""
    if capture_by_itself and trt.__name__ == "tensorrt_rtx":
        from engines.tensorrt.rtx_context import capturing_context

        made = capturing_context(engine)
    else:
        made = engine.create_execution_context()
    if made is None:
        raise BackendError("TensorRT has no memory for a plan's activations: end what else uses the GPU")
    return made


class PlanBackend:
    """Plans that were found to match this machine, by the hash of the graph that each stands for."""

    name = "tensorrt"

    def __init__(self, plans: Mapping[str, Path], cuda: Cuda) -> None:
        self.plans, self.cuda = plans, cuda
        self.logger = trt.Logger(trt.Logger.ERROR)
        self.runtime = trt.Runtime(self.logger)

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        path = self.plans.get(hashlib.sha256(onnx).hexdigest())
        if path is None:
            raise BackendError("a graph of this engine has no plan; run: ghostnote engine compile")
        engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BackendError(f"TensorRT does not load the plan {path}; run: ghostnote engine compile --anew")
        return Plan(self.cuda, engine)

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        plans = {name: plan for name, plan in graphs.items() if isinstance(plan, Plan)}
        return PlanBlockRunner(self.cuda, plans) if "step" in plans else None


@dataclass(frozen=True)
class Placed:
    """One pass with all its addresses."""

    plan: Plan
    addresses: tuple[tuple[str, int], ...]
    commits: bool
    mixes: tuple[int, ...]  # addresses of weights
    noise: int


@dataclass(frozen=True)
class Program:
    """A block as the stream sees it. Equal programs enqueue the very same work, so one capture serves them all."""

    letter_bytes: int
    noise: int
    passes: tuple[Placed, ...]
    first_row: int  # address


@dataclass(frozen=True)
class BlockTimes:
    """What the GPU's own clock says of a block; single steps are known only where the block is not one graph."""

    block_ms: float
    steps_ms: tuple[float, ...]


class PlanBlockRunner:
    """See engines.backend.BlockRunner."""

    def __init__(self, cuda: Cuda, plans: Mapping[str, Plan]) -> None:
        self.cuda, self.plans = cuda, plans
        step = plans["step"]
        self.x = cuda.memory(step.shapes["noisy"])
        v_bytes = step.nbytes(step.outputs[0])
        self.v = tuple(cuda.device_bytes(v_bytes) for _ in range(2))  # passes take turns: a solver may look back at the last one's
        self.to_last_way = v_bytes - self.x.host.nbytes  # the velocity without words, where a plan gives both
        self.ring = tuple(cuda.memory(step.shapes[name]) for name in CACHED)
        first = plans.get("first")
        self.rows = tuple(cuda.memory(first.shapes[name]) for name in ("keys", "values")) if first else ()
        self.letter = Letter(cuda, MOST_STEPS * max(_letter_bytes(plan) for plan in plans.values() if "noisy" in plan.inputs))
        self.events = [cuda.event() for _ in range(MOST_STEPS + 2)]
        self.edition = -1  # of the ring; no engine's ring has this one
        self.capture = cuda.capture is not None and all(plan.capturable() for plan in plans.values())
        self.times = BlockTimes(0.0, ())
        self._steady: dict[tuple[str, int], tuple[Memory, Array]] = {}
        self._seen: dict[Program, Any] = {}  # None: once, plainly; else its captured graph

    def denoise(self, job: BlockJob) -> BlockResult:
        self._match_ring(job)
        program = self._place(job)
        graph = self._captured(program)
        began, ended = self.events[0], self.events[-1]
        began.record(self.cuda.stream)
        if graph is None:
            self._enqueue(program, timed=True)
        else:
            assert self.cuda.capture is not None
            self.cuda.capture.launch(graph, self.cuda.handle)
        ended.record(self.cuda.stream)
        self.cuda.wait()
        steps = () if graph is not None else self._step_times(len(job.passes))
        self.times = BlockTimes(began.time_till(ended), steps)
        commits = any(one.commits for one in job.passes)
        self.edition = -1 if commits else job.ring.edition  # until the engine says that it `holds` the same
        return BlockResult(np.array(self.x.host), (np.array(self.rows[0].host), np.array(self.rows[1].host)) if commits else None)

    def holds(self, edition: int) -> None:
        self.edition = edition

    def _match_ring(self, job: BlockJob) -> None:
        """Send the whole context where the device's copy is another one: at the start, after a prefill, a reset, a restore."""
        if self.edition != job.ring.edition:
            for memory, array in zip(self.ring, (job.ring.keys, job.ring.values), strict=True):
                memory.host[...] = array
                self.cuda.send(memory.address, memory.host)

    def _place(self, job: BlockJob) -> Program:
        """Write the letter, and give every binding of every pass its address."""
        self.letter.clear()
        counts: dict[str, list[Array]] = {}
        noise = self.letter.put(job.noise)
        passes = tuple(self._placed(one, self.v[k % 2], noise, counts) for k, one in enumerate(job.passes))
        first_row = self.letter.put(np.array([job.first_row]), np.int32)
        return Program(self.letter.used, noise, passes, first_row)

    def _placed(self, one: Pass, v: int, noise: int, counts: dict[str, list[Array]]) -> Placed:
        plan = self.plans[one.graph]
        at = {"noisy": self.x.address, CACHED[0]: self.ring[0].address, CACHED[1]: self.ring[1].address, plan.outputs[0]: v}
        at |= {name: self.letter.put(array, plan.dtypes[name]) for name, array in one.fresh.items()}
        at |= {name: self._steady_address(name, array, counts.setdefault(name, [])) for name, array in one.steady.items()}
        if one.commits:
            at |= {"keys": self.rows[0].address, "values": self.rows[1].address}
        addresses = tuple((name, at[name]) for name in (*plan.inputs, *plan.outputs))
        mixes = tuple(self.letter.put(np.array(weights)) for weights in one.mixes)
        return Placed(plan, addresses, one.commits, mixes, noise if one.noise is None else self.letter.put(one.noise))

    def _steady_address(self, name: str, array: Array, used: list[Array]) -> int:
        """The n-th distinct array of that name in a block has a place of its own, and is sent only when it is another one."""
        if all(array is not other for other in used):
            used.append(array)
        slot = (name, next(i for i, other in enumerate(used) if other is array))
        memory, held = self._steady.get(slot) or (self.cuda.memory(array.shape), None)
        if held is not array:
            memory.host[...] = array
            self.cuda.send(memory.address, memory.host)
            self._steady[slot] = (memory, array)
        return memory.address

    def _captured(self, program: Program) -> Any:
        """The program's graph: captured when it comes for the second time, for the first may still compile. None: go plainly."""
        if not self.capture or self.cuda.capture is None:
            return None
        if program not in self._seen:
            self._seen[program] = None
        elif self._seen[program] is None:
            self._seen[program] = self.cuda.capture.record(self.cuda.handle, lambda: self._enqueue(program, timed=False))
        return self._seen[program]

    def _enqueue(self, program: Program, timed: bool) -> None:
        """All of a block, without waiting for anything."""
        cuda, size = self.cuda, self.x.host.size
        cuda.send(self.letter.memory.address, self.letter.memory.host[: program.letter_bytes])
        cuda.copy(self.x.address, program.noise, self.x.host.nbytes)
        for i, one in enumerate(program.passes):
            one.plan.enqueue(dict(one.addresses))
            if one.commits:
                self._commit(program.first_row)
            for back, weights in enumerate(one.mixes):
                v = self.v[(i - back) % 2]
                cuda.mix(self.x.address, v, v + self.to_last_way, one.noise, weights, size)
            if timed:
                self.events[i + 1].record(cuda.stream)
        for memory in (self.x, *self.rows):
            cuda.fetch(memory.host, memory.address)

    def _commit(self, first_row: int) -> None:
        layers, _, heads, ring_rows, width = self.ring[0].host.shape
        for ring, rows in zip(self.ring, self.rows, strict=True):
            self.cuda.commit(ring.address, rows.address, first_row, (layers * heads, rows.host.shape[3], ring_rows, width))

    def _step_times(self, steps: int) -> tuple[float, ...]:
        marks = self.events[: steps + 1]
        return tuple(a.time_till(b) for a, b in pairwise(marks))


def _letter_bytes(plan: Plan) -> int:
    """At most what one pass puts into the letter, with weights and fresh noise."""
    inputs = (name for name in plan.inputs if name not in CACHED)
    return sum(-(-plan.nbytes(name) // ALIGN_BYTES) * ALIGN_BYTES for name in inputs) + 4 * ALIGN_BYTES

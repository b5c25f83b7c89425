"""Training in several processes: who draws what, where gradients meet, in which precision; and what a run would cost.

    torchrun --standalone --nproc-per-node 8 -m engines.train.pretrain --data build/data --codec build/codec.pt --out build/lmdm.pt

A step is made of *draws*: small batches, each of which follows from its own number alone. Two draws computed by one process,
or one each by two processes, are the same arithmetic: their gradients are added, then every process takes the same step. So
nothing but time depends on how many processes there are. Gradients are summed after the backward pass and not during it, which
costs milliseconds on one machine and keeps the model an ordinary module.

Runs in: training.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # before `join`: its default arguments keep the group there is, with threads that abort the exit
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

T = TypeVar("T")
CPU = torch.device("cpu")
WAIT = timedelta(hours=2)  # the others wait while the first process validates


class Precision(str, Enum):
    """Of the forward and backward pass; weights, averages and the optimiser are always float32."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True)
class World:
    """The processes that train together, and this one's place among them. The default is one process on the CPU."""

    rank: int = 0
    size: int = 1
    accumulate: int = 1  # draws per step and process
    precision: Precision = Precision.BF16
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this process writes checkpoints and speaks."""
        return self.rank == 0

    @property
    def draws_per_step(self) -> int:
        return self.size * self.accumulate

    def draws(self, step: int) -> range:
        """Numbers of the draws that this process computes in `step`."""
        start = step * self.draws_per_step + self.rank * self.accumulate
        return range(start, start + self.accumulate)

    def autocast(self) -> torch.autocast:
        """No cast is kept: one that was made without gradient would be used, and cut the graph, where there is one (see arc.play)."""
        return torch.autocast(self.device.type, torch.bfloat16, self.precision is Precision.BF16, cache_enabled=False)

    def here(self, thing: T) -> T:
        """A tensor, or a dataclass of tensors, on this process's device."""
        if isinstance(thing, Tensor):
            return thing.to(self.device)
        if is_dataclass(thing) and not isinstance(thing, type):
            moved = {field.name: self.here(getattr(thing, field.name)) for field in fields(thing) if field.init}
            return replace(thing, **moved)
        return thing

    def backward(self, loss: Tensor) -> float:
        """Add one draw's part of the step's gradients -> its part of the step's mean loss."""
        part = loss / self.draws_per_step
        part.backward()
        return float(part.detach())

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every process ends up with the sum of all processes' gradients."""
        if self.size > 1:
            waiting = [dist.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
            for work in waiting:
                assert work is not None
                work.wait()

    def add_up(self, value: float) -> float:
        """The sum of `value` over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def same_start(self, module: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.size > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)

    def say(self, facts: dict[str, Any]) -> None:
        """Print one line of JSON, once for all processes."""
        if self.first:
            print(json.dumps(facts), flush=True)

    def meet(self) -> None:
        """Wait for the others, and for the accelerator to have done what it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.size > 1:
            dist.barrier()


ALONE = World()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every training command takes."""
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", type=Precision, choices=tuple(Precision), default=Precision.BF16)
    parser.add_argument("--accumulate", type=int, default=1, help="batches per step and process")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would cost, from a few steps on random data")


def join(args: argparse.Namespace) -> World:
    """Find the other processes that torchrun started, if it did."""
    torch.set_num_threads(args.threads)
    rank, size, local = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = torch.device(args.device, local) if args.device == "cuda" else CPU
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
    return World(rank, size, args.accumulate, args.precision, device)


def leave(world: World) -> None:
    if world.size > 1:
        dist.destroy_process_group()


def peak_gigabytes(world: World) -> float:
    """The most memory that this process has held: of its device, or of the machine."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def operations() -> FlopCounterMode:
    """Counts floating-point operations; torch's own table lacks attention on the CPU."""
    aten = torch.ops.aten
    forward, backward = aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention_for_cpu_backward
    attention = {
        forward: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        backward: lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v),
    }
    return FlopCounterMode(display=False, custom_mapping=attention)


def dry_run(world: World, train_step: Callable[[], object], steps: int, latents_per_draw: int, counted: int = 3) -> dict[str, float]:
    """Take a few steps -> what `steps` of them would cost: time on this machine, memory of one process, arithmetic anywhere.

    The first step is where the optimiser's state is made and operations are counted; it is left out of the time.
    """
    with operations() as counter:
        train_step()
    world.meet()
    started = time.perf_counter()
    for _ in range(counted):
        train_step()
    world.meet()
    seconds = (time.perf_counter() - started) / counted
    latents = latents_per_draw * world.draws_per_step
    return {
        "processes": world.size,
        "seconds per step": round(seconds, 3),
        "latents per step": latents,
        "latents per second": round(latents / seconds, 1),
        "TFLOP per step": round(counter.get_total_flops() * world.size / 1e12, 4),
        "peak GB per process": round(peak_gigabytes(world), 2),
        "hours": round(seconds * steps / 3600, 2),
    }

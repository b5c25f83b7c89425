"""Compile a bundle's graphs into TensorRT plans, each in a process of its own, and keep them with their sidecars in the cache.

    python -m engines.tensorrt.compile BUNDLE --target rtx --cc SM86,SM89,SM120        what `ghostnote engine compile` runs

For RTX this works on any machine, ahead of time; for a Jetson, on the Jetson. A plan that matches its sidecar is kept, a stale one is
built anew. The weights are put into the graph in a temporary file, for that is what every parser reads.

Runs in: a process that plays nothing; nothing of TensorRT is called in it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engines.backend import BackendError, Weights
from engines.bundle import Bundle, BundleError, locate
from engines.onnx_wire import with_weights
from engines.tensorrt import api, driver
from engines.tensorrt.sidecar import (
    EXPORT_REVISION,
    GRAPH_SUFFIX,
    SCHEMA,
    Binding,
    Device,
    PlanFiles,
    Precision,
    Sidecar,
    Target,
    hash_of,
    matches,
    plans_for,
)

RTX_CAPABILITIES = ("SM86", "SM89", "SM120")  # laptops of 2021, 2023 and 2025
MB = 1 << 20
BAD_INPUT = 2


@dataclass(frozen=True)
class Order:
    """What is to be compiled, and how."""

    target: Target
    precision: Precision = Precision.FP16
    capabilities: tuple[str, ...] = RTX_CAPABILITIES  # for RTX; a Jetson compiles for itself
    optimization_level: int = 3  # TensorRT's own default; 1 has helped where a version crashed on a new GPU
    memory_limit_bytes: int = 6144 * MB
    time_limit_s: float = 3600.0  # for one graph: a compiler that ran out of memory may hang
    anew: bool = False  # compile what matches, too

    def flags(self) -> dict[str, Any]:
        return {"strongly_typed": True, "optimization_level": self.optimization_level, "profiling_verbosity": "detailed"}


@dataclass(frozen=True)
class Outcome:
    """One graph, compiled or found to be up to date."""

    files: PlanFiles
    sidecar: Sidecar
    seconds: float
    reason: str  # why it was compiled; "" if it was not


def compile_bundle(bundle: Bundle, order: Order, root: Path | None = None) -> list[Outcome]:
    """Bring the plans of every graph of `bundle` up to date. Raises BackendError or BundleError at the first that can't be."""
    device = this_device(order.target)
    weights, plans = Weights.of(bundle), plans_for(bundle, order.target, order.precision, root)
    return [_bring_up_to_date(bundle, weights, files, order, device) for files in plans.values()]


def this_device(target: Target) -> Device:
    """The compiler, and the machine as far as plans of this target depend on it. Raises BackendError."""
    if target is Target.RTX:
        return Device(api.use(target))
    gpu = driver.probe()
    return Device(api.use(target), gpu.compute_capability, gpu.driver, gpu.power_mode)


def _bring_up_to_date(bundle: Bundle, weights: Weights, files: PlanFiles, order: Order, device: Device) -> Outcome:
    reason = _why(files, order, device)
    if not reason:
        return Outcome(files, Sidecar.read(files.sidecar), 0.0, "")
    began = time.monotonic()
    files.plan.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=files.plan.parent, prefix="building-") as folder:
        onnx, plan = Path(folder, "graph.onnx"), Path(folder, "plan")
        onnx.write_bytes(with_weights(bundle.read(files.source), weights.for_graph(files.source.removesuffix(GRAPH_SUFFIX))))
        answer = _build(files.graph, order, onnx, plan)
        sidecar = _sidecar(files, order, device, answer, hash_of(plan))
        files.store(plan, sidecar)
    return Outcome(files, sidecar, time.monotonic() - began, reason)


def _why(files: PlanFiles, order: Order, device: Device) -> str:
    """Why the plan must be compiled, or "" if it need not be."""
    fits, reason = matches(files, device)
    if not fits:
        return reason
    made = Sidecar.read(files.sidecar)
    if order.target is Target.RTX and set(made.compute_capabilities) != set(order.capabilities):
        return f"it was compiled for {' '.join(made.compute_capabilities)}"
    if dict(made.flags) != order.flags():
        return "it was compiled with other flags"
    return "asked for" if order.anew else ""


def _build(graph: str, order: Order, onnx: Path, plan: Path) -> Mapping[str, Any]:
    """Run the compiler's process on one graph -> what it answers. Raises BackendError with one line."""
    job = {
        "graph": graph, "onnx": str(onnx), "plan": str(plan), "target": order.target.value, "capabilities": order.capabilities,
        "optimization_level": order.optimization_level, "memory_limit_bytes": order.memory_limit_bytes,
    }  # fmt: skip
    command = [sys.executable, "-m", "engines.tensorrt.child"]
    bound = f"its memory was bound to {order.memory_limit_bytes // MB} MB (--memory-mb)"
    try:
        done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, timeout=order.time_limit_s)
    except subprocess.TimeoutExpired:
        raise BackendError(f"{graph}: the compiler was not done after {order.time_limit_s:.0f} s (--minutes); {bound}") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BackendError(f"{graph}: the compiler ended with {name}; {bound}, and --level 1 avoids some of its faults")
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise BackendError(f"{graph}: the compiler ended with exit code {done.returncode} and no answer; {bound}") from None
    if "error" in answer:
        raise BackendError(f"{graph}: {answer['error']}")
    return answer


def _sidecar(files: PlanFiles, order: Order, device: Device, answer: Mapping[str, Any], plan_sha256: str) -> Sidecar:
    ahead = order.target is Target.RTX
    return Sidecar(
        schema=SCHEMA,
        graph=files.graph,
        target=files.target.value,
        precision=files.precision.value,
        export_revision=EXPORT_REVISION,
        onnx_sha256=files.onnx_sha256,
        weights_sha256=files.weights_sha256,
        compiler=order.target.compiler,
        compiler_version=answer["version"],
        compute_capabilities=order.capabilities if ahead else (device.compute_capability,),
        driver=device.driver,
        power_mode=device.power_mode,
        flags=order.flags(),
        bindings=tuple(Binding(**{**one, "shape": tuple(one["shape"])}) for one in answer["bindings"]),
        memory_bytes=answer["memory_bytes"],
        plan_sha256=plan_sha256,
    )


def gpu_memory_bytes(outcomes: Sequence[Outcome]) -> int:
    """What an engine takes at most: every plan with its own weights, buffers and activations, nothing shared; CUDA itself not counted."""
    return sum(sum(outcome.sidecar.memory_bytes.values()) for outcome in outcomes)


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    table = Table("graph", "plan MB", "weights", "in and out", "activations", "compiled", title="plans, and GPU memory in MB")
    for one in outcomes:
        held = one.sidecar.memory_bytes
        parts = (one.files.plan.stat().st_size, held["weights"], held["inputs"] + held["outputs"], held["activations"])
        state = f"{one.seconds:.1f} s: {one.reason}" if one.reason else "up to date"
        table.add_row(one.files.graph, *(f"{part / 1e6:.1f}" for part in parts), state)
    console.print(table)
    first = outcomes[0].sidecar
    console.print(
        f"{first.compiler} {first.compiler_version}, {first.precision}, {' '.join(first.compute_capabilities)}; "
        f"{gpu_memory_bytes(outcomes) / 1e6:.0f} MB of GPU memory at most; in {outcomes[0].files.plan.parent}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("ghostnote engine compile", description="Compile a bundle's graphs into TensorRT plans.")
    top.add_argument("bundle", metavar="BUNDLE", nargs="?", default="reference", help='a bundle; "reference" is the default')
    top.add_argument("--target", type=Target, choices=list(Target), default=Target.RTX, metavar="rtx|jetson")
    top.add_argument("--cc", type=_capabilities, default=RTX_CAPABILITIES, metavar="SM86,SM89,SM120", help="GPUs, for --target rtx")
    top.add_argument("--precision", type=Precision, choices=list(Precision), default=Precision.FP16, metavar="fp16|fp32")
    top.add_argument("--level", type=int, choices=range(6), default=3, help="TensorRT's builder optimization level (default: 3)")
    top.add_argument("--memory-mb", type=int, default=6144, help="what the compiler may take of this machine's memory (default: 6144)")
    top.add_argument("--minutes", type=float, default=60, help="what the compiler may take for one graph (default: 60)")
    top.add_argument("--cache", type=Path, metavar="DIR", help="where plans are kept, instead of the user's cache folder")
    top.add_argument("--anew", action="store_true", help="compile even what is up to date")
    return top


def _capabilities(text: str) -> tuple[str, ...]:
    return tuple(part.strip().upper() for part in text.split(",") if part.strip())


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    order = Order(args.target, args.precision, args.cc, args.level, args.memory_mb * MB, 60 * args.minutes, args.anew)
    try:
        outcomes = compile_bundle(Bundle.open(locate(args.bundle)), order, args.cache)
    except (BackendError, BundleError) as error:
        print(f"ghostnote: {error}", file=sys.stderr)
        return BAD_INPUT
    show(outcomes, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`ghostnote check --gpu`: a GPU proves itself before anyone plays on it. Compiles, compares, replays, soaks; one table of PASS and FAIL.

Ready to run unattended on the first GPU that it meets, with or without TensorRT: every runtime that can compute there is proved by
itself, in a process of its own, so that one which crashes is a line in the table. Exit code 0: all that is there passed; 1: something
failed; 3: no GPU, or nothing that could use it. Runs in: the main process, which imports no runtime.
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from engines.backends import RUNTIMES
from engines.bundle import locate

NO_GPU = 3
ENDINGS = (0, 1, NO_GPU)  # of engines.prove, when it has said all that it had to say
PARTS = {  # what a runtime on a GPU is made of, in the order of preference
    "tensorrt-rtx": "TensorRT for RTX: pip install 'ghostnote[rtx]'",
    "tensorrt": "TensorRT of a Jetson: comes with JetPack",
    "pycuda": "runs plans: pip install 'ghostnote[cuda]'",
    "cuda-bindings": "captures a block as one CUDA graph: pip install 'ghostnote[cuda]'",
    "onnxruntime-gpu": "instead of TensorRT: pip install onnxruntime-gpu",
    "torch": "instead of TensorRT, and slower: a CUDA build of torch",
}
VERDICTS = {True: "[green]PASS[/]", False: "[bold red]FAIL[/]", None: "[dim]-[/]"}


@dataclass(frozen=True)
class Line:
    """One row of the table; `passed` is None where there is nothing to judge."""

    backend: str
    what: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Trial:
    """How thoroughly."""

    engine: str = "reference"
    blocks: int = 200
    soak_seconds: float = 60.0
    graphs_only: bool = False  # nothing but the golden vectors


def gpu_check(console: Console, trial: Trial) -> int:
    gpu = ask_driver()
    if "missing" in gpu:
        _say(console, [Line("driver", "GPU", False, gpu["missing"]), *parts()], "no GPU can be used here")
        return NO_GPU
    facts = gpu["gpu"]
    says = f"{facts['name']}, {facts['compute_capability']}, driver {facts['driver']}, {facts['memory_bytes'] / 1e9:.1f} GB"
    found = [Line("driver", "GPU", True, says)]
    proved: set[str] = set()
    for line in lines(facts, trial):
        found.append(line)
        console.print(f"{line.backend}: {line.what}: {line.detail}", highlight=False, markup=False, soft_wrap=True)
        if line.passed is not None:
            proved.add(line.backend)
    if not proved:
        _say(console, [*found, *parts()], "there is a GPU, but nothing that could use it")
        return NO_GPU
    failed = any(line.passed is False for line in found)
    _say(console, found, "FAIL: do not play on this GPU" if failed else f"PASS: {', '.join(sorted(proved))}; `auto` takes the fastest")
    return int(failed)


def lines(facts: dict[str, Any], trial: Trial) -> Iterator[Line]:
    """Compile, then prove every runtime that computes on a GPU."""
    compiled = compile_plans(facts, trial)
    yield compiled
    for name, runtime in RUNTIMES.items():
        if runtime.on_gpu and not (name == "tensorrt" and not compiled.passed):
            yield from prove(name, trial)


def ask_driver() -> dict[str, Any]:
    """In a process of its own: a driver that is half there may end whoever asks."""
    done = subprocess.run([sys.executable, "-m", "engines.tensorrt.driver"], capture_output=True, text=True)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"missing": f"the NVIDIA driver takes down whoever asks it ({_ending(done.returncode)}): install it anew"}
    return answer


def parts() -> list[Line]:
    """What is installed of all that can use a GPU, and how to get the rest."""
    return [Line("installed", name, None, _version(name) or f"missing; {use}") for name, use in PARTS.items()]


def compile_plans(facts: dict[str, Any], trial: Trial) -> Line:
    """Passed is None where there is no compiler: then TensorRT is left out, and that is no failure."""
    compiler, target = ("tensorrt", "jetson") if facts["jetson"] else ("tensorrt-rtx", "rtx")
    if not _version(compiler):
        return Line("tensorrt", "compile", None, f"{compiler} is missing; {PARTS[compiler]}")
    command = [sys.executable, "-m", "engines.tensorrt.compile", str(locate(trial.engine)), "--target", target]
    if target == "rtx":
        command += ["--cc", facts["compute_capability"]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return Line("tensorrt", "compile", True, f"plans for {facts['compute_capability']} are up to date")
    said = (done.stderr.strip().splitlines() or [_ending(done.returncode)])[-1]
    return Line("tensorrt", "compile", False, said.removeprefix("ghostnote: "))


def prove(backend: str, trial: Trial) -> Iterator[Line]:
    """engines.prove, line by line as it comes."""
    command = [sys.executable, "-m", "engines.prove", str(locate(trial.engine)), "--backend", backend]
    command += ["--blocks", str(trial.blocks), "--soak-seconds", str(trial.soak_seconds)]
    command += ["--graphs-only"] if trial.graphs_only else []
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith("{"):
                said = json.loads(text)
                yield Line(backend, "needs", None, said["missing"]) if "missing" in said else Line(backend, **said)
        code = process.wait()
        errors.seek(0)
        last = ([line for line in errors.read().splitlines() if line.strip()] or ["nothing said"])[-1]
    if code not in ENDINGS:
        yield Line(backend, "ended", False, f"{_ending(code)}: {last}")


def _ending(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _say(console: Console, found: list[Line], verdict: str) -> None:
    table = Table("backend", "what", "", "found", title="check --gpu", title_justify="left")
    for line in found:
        table.add_row(line.backend, line.what, VERDICTS[line.passed], line.detail.replace("[", r"\["))
    console.print(table)
    console.print(verdict, highlight=False, markup=False)

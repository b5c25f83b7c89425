"""One build in a process of its own: at low priority and within a bound of memory, so that a pedal that plays meanwhile goes on.

A job comes as JSON on stdin, the answer goes as JSON to stdout, the progress bar to stderr. A compiler that crashes ends this process and
nothing else. Runs in: the compiler's process, started by engines.tensorrt.compile.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engines.backend import BackendError
from engines.tensorrt import api
from engines.tensorrt.sidecar import Target

NICENESS = 10
COLUMNS = (TextColumn("{task.description:>8}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.fields[phase]}"))


def bind_memory(limit_bytes: int) -> None:
    """Bound what this process may allocate. Not its address space: CUDA reserves far more of that than it uses."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes if hard < 0 else min(limit_bytes, hard), hard))


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Build what `job` says; the plan goes to the file that it names."""
    target = Target(job["target"])
    version = api.use(target)
    from engines.tensorrt import builder

    settings = builder.Settings(target, tuple(job["capabilities"]), job["optimization_level"])
    with Progress(*COLUMNS, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(job["graph"], total=1.0, phase="")
        built = builder.build(Path(job["onnx"]), settings, lambda share, phase: bar.update(task, completed=share, phase=phase[:40]))
    Path(job["plan"]).write_bytes(built.plan)
    return {"version": version, "bindings": [asdict(one) for one in built.bindings], "memory_bytes": built.memory_bytes}


def main() -> None:
    job = json.load(sys.stdin)
    os.nice(NICENESS)
    bind_memory(job["memory_limit_bytes"])
    try:
        answer = work(job)
    except BackendError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": "it ran out of memory"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

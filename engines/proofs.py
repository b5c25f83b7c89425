"""What has been proved on this machine: which runtime gave a bundle's golden vectors, and what a block took.

One small file per bundle beside the plans. A proof holds for one version of the runtime, one CPU and one GPU with its driver; on any
other it counts for nothing. Runs in: `ghostnote bench`, `ghostnote check` (write), the worker process (reads, once).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.bundle import Bundle
from engines.tensorrt.driver import DriverError, probe
from engines.tensorrt.sidecar import bundle_key
from engines.tensorrt.sidecar import cache_root as cache_root

WORTH_IT = 0.9  # another runtime than the default must take less than this share of its time
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch", "tensorrt-rtx", "tensorrt")


@dataclass(frozen=True)
class Proof:
    """One backend compared and timed."""

    backend: str
    block_ms: float  # median
    packages: str  # versions of all runtimes that were there
    machine: str


def packages() -> str:
    """The runtimes here with their versions: any change of them voids a proof."""
    return " ".join(f"{name}={version}" for name in PACKAGES if (version := _version(name)))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cpu() -> str:
    """Its model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine() -> str:
    """CPU, and GPU with its driver."""
    try:
        gpu = probe()
        return f"{cpu()}; {gpu.name}, driver {gpu.driver}, {gpu.power_mode}"
    except DriverError:
        return cpu()


def record(bundle: Bundle, block_ms: dict[str, float]) -> None:
    """Add what one run has found to be right, with medians of that run; what it did not look at stays as it is."""
    made = [Proof(name, ms, packages(), machine()) for name, ms in block_ms.items()]
    kept = [proof for proof in _read(bundle) if proof.backend not in block_ms]
    path = _path(bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps([asdict(proof) for proof in (*kept, *made)], indent=1) + "\n")
    os.replace(partial, path)


def proved(bundle: Bundle, names: Iterable[str]) -> Proof | None:
    """The fastest of `names` that is proved here and now; the default is kept unless another is clearly faster. None: nothing is."""
    here = {proof.backend: proof for proof in _read(bundle)}
    if not here:
        return None
    versions, this = packages(), machine()
    valid = [here[name] for name in names if name in here and (here[name].packages, here[name].machine) == (versions, this)]
    if not valid:
        return None
    default, fastest = valid[0], min(valid, key=lambda proof: proof.block_ms)
    return fastest if fastest.block_ms < WORTH_IT * default.block_ms else default


def _path(bundle: Bundle) -> Path:
    return cache_root() / "proofs" / f"{bundle_key(bundle)}.json"


def _read(bundle: Bundle) -> list[Proof]:
    """Nothing where nothing readable is: a proof is made anew more easily than it is mended."""
    try:
        return [Proof(**one) for one in json.loads(_path(bundle).read_text())]
    except (OSError, ValueError, TypeError):
        return []

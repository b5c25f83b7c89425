"""Compiled plans on disk: where they live, and the sidecar beside each that says what it was made from and for.

A plan is a program for one compiler version, GPU and driver, so that a file exists says nothing: `matches` compares its sidecar with the
bundle and with the machine, and gives the reason where they differ. A plan that does not match is compiled anew, never loaded.

    <cache>/plans/<hash of the bundle>/<target>-<precision>/step.plan
                                                            step.json     the sidecar

A plan's bindings have the names, shapes and types of the bundle's ONNX graph in every precision: float16 stays inside. A bundle holds
the float16 forms of its graphs in `fp16/`, on the same weights; a graph without one (it would be wrong in float16) is compiled in
float32. `plans_for` lists the pairs of a bundle, made or not; nothing of TensorRT is imported here.

Runs in: the compiler's process, the worker process, `ghostnote check`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from engines.bundle import Bundle, BundleError
from engines.manifest import GRAPH_SUFFIX as GRAPH_SUFFIX
from engines.manifest import WEIGHTS_FILE

SCHEMA = 1
EXPORT_REVISION = 1  # raised whenever the same bundle and compiler would give another plan than before
HALF_FOLDER = "fp16/"  # where a bundle keeps the float16 forms of its graphs


class Target(str, Enum):
    """What a plan is for, which is also who compiles it."""

    RTX = "rtx"  # TensorRT for RTX: ahead of time, for several GPUs at once, on any machine
    JETSON = "jetson"  # TensorRT of JetPack: on the device, for that device

    @property
    def compiler(self) -> str:
        """The Python module."""
        return "tensorrt_rtx" if self is Target.RTX else "tensorrt"


class Precision(str, Enum):
    """What the matrix products of a graph are computed in; all else is float32 in both."""

    FP16 = "fp16"
    FP32 = "fp32"


@dataclass(frozen=True)
class Binding:
    """One input or output of a plan."""

    name: str
    is_input: bool
    dtype: str  # numpy's name: "float32"
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Device:
    """A machine that compiles or loads plans. "" is "not known", as when a plan is compiled where no GPU is."""

    compiler_version: str
    compute_capability: str = ""  # "SM89"
    driver: str = ""  # "570.86"
    power_mode: str = ""  # of a Jetson


@dataclass(frozen=True)
class Sidecar:
    """What a plan was made from, by whom and for which machine."""

    schema: int
    graph: str
    target: str
    precision: str
    export_revision: int
    onnx_sha256: str  # of the bundle's graph
    weights_sha256: str  # of the weights that the bundle's graphs share
    compiler: str  # "tensorrt_rtx" or "tensorrt"
    compiler_version: str
    compute_capabilities: tuple[str, ...]
    driver: str  # of the machine that compiled it; "" where there was none
    power_mode: str
    flags: Mapping[str, Any]
    bindings: tuple[Binding, ...]
    memory_bytes: Mapping[str, int]  # weights, inputs, outputs, activations: from the network definition
    plan_sha256: str

    def write(self, path: Path) -> None:
        partial = path.with_name(path.name + ".part")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(partial, path)

    @classmethod
    def read(cls, path: Path) -> Sidecar:
        """Raises ValueError if there is no readable sidecar of this schema."""
        try:
            facts = json.loads(path.read_bytes())
            if facts["schema"] != SCHEMA:
                raise ValueError(f"its sidecar has schema {facts['schema']!r}, this Ghostnote reads {SCHEMA}")
            facts["bindings"] = tuple(Binding(b["name"], b["is_input"], b["dtype"], tuple(b["shape"])) for b in facts["bindings"])
            facts["compute_capabilities"] = tuple(facts["compute_capabilities"])
            return cls(**facts)
        except OSError as error:
            raise ValueError(f"its sidecar can't be read ({error.strerror})") from None
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"its sidecar is damaged ({error!r})") from None


@dataclass(frozen=True)
class PlanFiles:
    """Where the plan of one graph and its sidecar are, or are to be."""

    graph: str
    target: Target
    precision: Precision
    source: str  # the graph's file in the bundle
    onnx_sha256: str
    weights_sha256: str
    plan: Path
    sidecar: Path

    def store(self, built: Path, sidecar: Sidecar) -> None:
        """Move a plan that was built on the same file system into place. Sidecar last: a plan without one does not match."""
        self.sidecar.unlink(missing_ok=True)
        os.replace(built, self.plan)
        sidecar.write(self.sidecar)


def cache_root() -> Path:
    """systemd's CacheDirectory= where a service runs, else the user's cache folder."""
    folder = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if folder:
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ghostnote"


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def graph_names(bundle: Bundle) -> list[str]:
    """The graphs of a bundle; forms of them in folders are not graphs of their own."""
    paths = [entry.path for entry in bundle.manifest.files]
    return [path.removesuffix(GRAPH_SUFFIX) for path in paths if path.endswith(GRAPH_SUFFIX) and "/" not in path]


def bundle_key(bundle: Bundle) -> str:
    """A short hash of all that a bundle holds, from its manifest alone."""
    return bundle.digest[:16]


def plans_for(bundle: Bundle, target: Target, precision: Precision = Precision.FP16, root: Path | None = None) -> dict[str, PlanFiles]:
    """Graph name -> where its plan belongs, for every graph of the bundle, whether compiled or not. Raises BundleError."""
    folder = (root or cache_root()) / "plans" / bundle_key(bundle) / f"{target.value}-{precision.value}"
    hashes = {entry.path: entry.sha256 for entry in bundle.manifest.files}
    if precision is Precision.FP16 and not any(path.startswith(HALF_FOLDER) for path in hashes):
        raise BundleError(f"{bundle.path}: was packed without float16 graphs; pack it again, or compile it with --precision fp32")
    plans = {}
    for name in graph_names(bundle):
        form = HALF_FOLDER + name + GRAPH_SUFFIX
        source = form if precision is Precision.FP16 and form in hashes else name + GRAPH_SUFFIX
        at = (folder / f"{name}.plan", folder / f"{name}.json")
        plans[name] = PlanFiles(name, target, precision, source, hashes[source], hashes.get(WEIGHTS_FILE, ""), *at)
    return plans


def matches(files: PlanFiles, device: Device) -> tuple[bool, str]:
    """Whether the plan may be loaded on `device`; if not, why. What `device` does not know is not compared."""
    if not files.plan.is_file():
        return False, "it has not been compiled"
    try:
        made = Sidecar.read(files.sidecar)
    except ValueError as error:
        return False, str(error)
    wanted: list[tuple[str, object, object]] = [
        ("graph", made.graph, files.graph),
        ("target", made.target, files.target.value),
        ("precision", made.precision, files.precision.value),
        ("export revision", made.export_revision, EXPORT_REVISION),
        ("ONNX graph", made.onnx_sha256, files.onnx_sha256),
        ("weights", made.weights_sha256, files.weights_sha256),
        (f"{files.target.compiler} version", made.compiler_version, device.compiler_version),
        *((what, mine, yours) for what, mine, yours in _of_machine(made, device) if mine and yours),
    ]
    for what, mine, yours in wanted:
        if mine != yours:
            return False, f"it was compiled for {what} {_short(mine)}, this is {_short(yours)}"
    if device.compute_capability and device.compute_capability not in made.compute_capabilities:
        return False, f"it was compiled for {' '.join(made.compute_capabilities)}, this GPU is {device.compute_capability}"
    if hash_of(files.plan) != made.plan_sha256:
        return False, "it is not the plan that its sidecar describes (its hash is wrong)"
    return True, "it matches"


def _of_machine(made: Sidecar, device: Device) -> list[tuple[str, str, str]]:
    """What a plan compiled on a device depends on, and one compiled ahead of time does not know."""
    return [("driver", made.driver, device.driver), ("power mode", made.power_mode, device.power_mode)]


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text or "none"

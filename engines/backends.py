"""Which runtime computes an engine here: the one that was asked for, else the fastest that has been proved on this machine.

A runtime is *proved* for a bundle on a machine when `ghostnote bench` or `ghostnote check` has compared it there with the bundle's golden
vectors and timed it (engines/proofs.py keeps that). Without such a proof `auto` is onnxruntime on the CPU, which the parity suite holds
and which is always there. What can't be opened falls back to that too, with one line that says why.

Runs in: the worker process, `ghostnote bench`, `ghostnote check`. Runtimes are imported when they are opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engines.backend import Backend, BackendError
from engines.bundle import Bundle
from engines.proofs import proved
from engines.spare import SpareBackend

AUTO, DEFAULT = "auto", "onnxruntime"


@dataclass(frozen=True)
class Need:
    """What a backend is opened for."""

    bundle: Bundle
    threads: int = 1


def _onnxruntime(need: Need) -> Backend:
    from engines.ort import OrtBackend

    return OrtBackend(need.threads)


def _onnxruntime_cuda(need: Need) -> Backend:
    from engines.ort import OrtBackend, Provider

    return OrtBackend(need.threads, Provider.CUDA)


def _onnxruntime_tensorrt(need: Need) -> Backend:
    from engines.ort import OrtBackend, Provider

    return OrtBackend(need.threads, Provider.TENSORRT)


def _openvino(need: Need) -> Backend:
    from engines.openvino import OpenVinoBackend

    return OpenVinoBackend(need.threads)


def _tensorrt(need: Need) -> Backend:
    from engines.tensorrt.open import open_plans

    return open_plans(need.bundle)


def _torch(need: Need) -> Backend:
    from engines.torch_backend import TorchBackend

    return TorchBackend(need.threads)


def _torch_cuda(need: Need) -> Backend:
    from engines.torch_backend import TorchBackend

    return TorchBackend(need.threads, cuda=True)


@dataclass(frozen=True)
class Runtime:
    """A backend by name."""

    open: Callable[[Need], Backend]
    install: str  # what to do where its package is missing
    on_gpu: bool = False


RUNTIMES = {
    "onnxruntime": Runtime(_onnxruntime, "pip install onnxruntime"),
    "openvino": Runtime(_openvino, "pip install 'ghostnote[openvino]'"),
    "tensorrt": Runtime(_tensorrt, "pip install 'ghostnote[rtx]', or JetPack on a Jetson", on_gpu=True),
    "onnxruntime-cuda": Runtime(_onnxruntime_cuda, "pip install onnxruntime-gpu", on_gpu=True),
    "onnxruntime-tensorrt": Runtime(_onnxruntime_tensorrt, "pip install onnxruntime-gpu", on_gpu=True),
    "torch": Runtime(_torch, "pip install 'ghostnote[train]'"),
    "torch-cuda": Runtime(_torch_cuda, "pip install 'ghostnote[train]' with a CUDA build of torch", on_gpu=True),
}


def open_backend(name: str, need: Need) -> Backend:
    """Raises BackendError with what is missing and what to do."""
    runtime = RUNTIMES[name]
    try:
        return runtime.open(need)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        what = f"the Python package {error.name!r} is not installed" if missing else f"does not load ({error})"
        raise BackendError(f"{what}: {runtime.install}") from None


@dataclass(frozen=True)
class Choice:
    """The backend, and one line on which it is and why."""

    backend: Backend
    says: str


def choose(name: str, need: Need) -> Choice:
    """The backend `name` ("auto" among them) for a bundle here, or onnxruntime where it can't be had. Raises BackendError only for that."""
    if name != AUTO:
        return _or_default(name, need, "as configured")
    fastest = proved(need.bundle, tuple(RUNTIMES))
    if fastest is None or fastest.backend == DEFAULT:
        nothing = "nothing faster is proved on this machine" if fastest else "nothing has been timed on this machine: run `ghostnote bench`"
        return Choice(open_backend(DEFAULT, need), f"{DEFAULT} ({nothing})")
    return _or_default(fastest.backend, need, f"the fastest proved on this machine, {fastest.block_ms:.1f} ms a block")


def _or_default(name: str, need: Need, why: str) -> Choice:
    if name == DEFAULT:
        return Choice(open_backend(DEFAULT, need), f"{name} ({why})")
    try:
        return Choice(SpareBackend(open_backend(name, need), lambda: open_backend(DEFAULT, need)), f"{name} ({why})")
    except BackendError as error:
        return Choice(open_backend(DEFAULT, need), f"{DEFAULT}, because {name} can't be used: {error}")

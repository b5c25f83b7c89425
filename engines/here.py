"""What would compute a bundle on this machine: backend, versions, GPU. As JSON, from a process of its own.

    python -m engines.here --backend auto BUNDLE     {"backend": .., "runtime": .., "gpu": .., "cpu": ..}

No runtime is opened: `auto` is answered from what has been proved. Without a bundle it is about an engine that needs no runtime.
Runs in: `ghostnote certify`, and whoever checks a certificate.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterator

from engines.backends import AUTO, DEFAULT, RUNTIMES
from engines.bundle import Bundle
from engines.proofs import cpu, proved
from engines.tensorrt.driver import DriverError, probe

PACKAGES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt-rtx", "tensorrt", "pycuda", "cuda-bindings", "onnxruntime"),
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "onnxruntime-tensorrt": ("onnxruntime-gpu", "tensorrt"),
    "torch": ("torch",),
    "torch-cuda": ("torch",),
}


def backend_for(wish: str, bundle: Bundle) -> str:
    """The name behind `auto`; it may still fail to open."""
    if wish != AUTO:
        return wish
    fastest = proved(bundle, tuple(RUNTIMES))
    return fastest.backend if fastest else DEFAULT


def versions(backend: str) -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for name in ("numpy", *PACKAGES.get(backend, ())):
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def gpu_for(backend: str) -> str:
    """Empty where the backend does not use one, or there is none."""
    if backend not in RUNTIMES or not RUNTIMES[backend].on_gpu:
        return ""
    try:
        gpu = probe()
    except DriverError:
        return ""
    return f"{gpu.name}, driver {gpu.driver}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What would compute a bundle here, as JSON.")
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--backend", choices=(AUTO, *RUNTIMES), default=AUTO)
    args = parser.parse_args()
    backend = backend_for(args.backend, Bundle.open(args.bundle)) if args.bundle else "none"
    print(json.dumps({"backend": backend, "runtime": ", ".join(versions(backend)), "gpu": gpu_for(backend), "cpu": cpu()}))


if __name__ == "__main__":
    main()

"""Which TensorRT this process uses. Both products have the same Python API under two names; after `use`, `import tensorrt` is the one.

Modules that call the API say `import tensorrt as trt`, and import after `use`: so one source is checked by mypy against the stubs of
every supported version. Runs in: the compiler's process, the worker process.
"""

from __future__ import annotations

import importlib
import sys

from engines.backend import BackendError
from engines.tensorrt.sidecar import Target

HINTS = {
    Target.RTX: "pip install 'ghostnote[rtx]'",
    Target.JETSON: "it comes with JetPack (apt install python3-libnvinfer), for the system's own Python",
}


def use(target: Target) -> str:
    """Bind `tensorrt` in this process to the product of `target` -> its version. Raises BackendError. One product per process."""
    try:
        module = importlib.import_module(target.compiler)
    except ImportError as error:
        name = target.compiler
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = "is not installed" if missing else f"does not load ({str(error).splitlines()[0]})"
        raise BackendError(f"the Python module {name} {why}: {HINTS[target]}") from None
    if sys.modules.setdefault("tensorrt", module) is not module:
        raise BackendError(f"this process uses another TensorRT already: {target.compiler} needs a process of its own")
    return str(module.__version__)

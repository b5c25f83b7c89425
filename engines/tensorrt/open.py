"""A bundle's plans as a backend, if this machine has all that they take; else one line that says what is missing.

Asked in the order in which things can be missing: driver and GPU, TensorRT, plans that match, pycuda. Nothing of TensorRT is called
before the driver has answered. Runs in: the worker process, `ghostnote check`.
"""

from __future__ import annotations

from engines.backend import Backend, BackendError
from engines.bundle import Bundle
from engines.tensorrt import api
from engines.tensorrt.driver import Gpu, probe
from engines.tensorrt.sidecar import GRAPH_SUFFIX, Device, PlanFiles, Precision, Target, matches, plans_for


def matching_plans(bundle: Bundle, gpu: Gpu, precision: Precision = Precision.FP16) -> dict[str, PlanFiles]:
    """Graph -> its plan, all of which may be loaded here. Raises BackendError with the first that may not."""
    target = Target.JETSON if gpu.jetson else Target.RTX
    device = Device(api.use(target), gpu.compute_capability, gpu.driver, gpu.power_mode)
    plans = plans_for(bundle, target, precision)
    for name, files in plans.items():
        good, reason = matches(files, device)
        if not good:
            raise BackendError(f"the plan of {name!r} can't be loaded: {reason}; run: ghostnote engine compile --target {target.value}")
    return plans


def open_plans(bundle: Bundle, precision: Precision = Precision.FP16) -> Backend:
    """Raises BackendError."""
    plans = matching_plans(bundle, probe(), precision)
    from engines.tensorrt.cuda import Cuda
    from engines.tensorrt.run import PlanBackend

    hashes = {entry.path: entry.sha256 for entry in bundle.manifest.files}
    return PlanBackend({hashes[name + GRAPH_SUFFIX]: files.plan for name, files in plans.items()}, Cuda.open())

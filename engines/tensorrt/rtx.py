"""What only TensorRT for RTX has: one plan for several GPU architectures, aimed at without a GPU. Runs in: the compiler's process."""

from __future__ import annotations

from collections.abc import Sequence

import tensorrt_rtx as trt

from engines.backend import BackendError


def aim(config: trt.IBuilderConfig, capabilities: Sequence[str]) -> None:
    """Compile for these compute capabilities ("SM89"). Raises BackendError for one that this version does not know."""
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        if name not in known or not config.set_compute_capability(known[name], index):
            offered = " ".join(sorted((one for one in known if one.startswith("SM")), key=lambda one: int(one[2:])))
            raise BackendError(f"TensorRT for RTX {trt.__version__} does not compile for {name}; it knows {offered}")

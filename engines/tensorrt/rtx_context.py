"""What only TensorRT for RTX has at run time: a plan that captures itself as a CUDA graph. Runs in: the worker process."""

from __future__ import annotations

import tensorrt_rtx as trt


def capturing_context(engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
    """An execution context that records its work on first use and launches it as one from then on."""
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)

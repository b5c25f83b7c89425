"""The compiler's process: one ONNX graph in, one plan out, strongly typed. Imported only after `engines.tensorrt.api.use`.

Nothing in TensorRT raises when a build fails: the parser keeps a list, the error recorder is told, and the result is None. All three
end here as one BackendError. Runs in: the compiler's process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsInt

import tensorrt as trt

from engines.backend import BackendError
from engines.tensorrt import memory
from engines.tensorrt.sidecar import Binding, Target

NUMPY_NAMES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}

Advance = Callable[[float, str], None]  # share of the build that is done, name of the phase


@dataclass(frozen=True)
class Settings:
    """Everything that changes what is built, apart from the graph."""

    target: Target
    capabilities: tuple[str, ...]  # for RTX; elsewhere the device's own
    optimization_level: int


@dataclass(frozen=True)
class Built:
    plan: bytes
    bindings: tuple[Binding, ...]
    memory_bytes: dict[str, int]


class Complaints(trt.IErrorRecorder):
    """Keeps what TensorRT reports. The first is the cause; what follows are its consequences."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[trt.ErrorCodeTRT, str]] = []

    def num_errors(self) -> int:
        return len(self.kept)

    def get_error_code(self, arg0: SupportsInt) -> trt.ErrorCodeTRT:
        return self.kept[int(arg0)][0]

    def get_error_desc(self, arg0: SupportsInt) -> str:
        return self.kept[int(arg0)][1]

    def has_overflowed(self) -> bool:
        return False

    def clear(self) -> None:
        self.kept.clear()

    def report_error(self, arg0: trt.ErrorCodeTRT, arg1: str) -> bool:
        self.kept.append((arg0, arg1))
        return True


class Quiet(trt.ILogger):
    """TensorRT's log, of which only errors are kept: not all of them reach the error recorder."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(msg)


class Progress(trt.IProgressMonitor):
    """Phases nest: what a phase's step is worth of the whole follows from the step that holds it."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()
        self.advance = advance
        self.phases: dict[str, tuple[float, float, int]] = {}  # where it starts, what it is worth, how many steps
        self.last = 0.0

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt) -> None:
        start, worth = 0.0, 1.0
        if parent_phase in self.phases:
            begin, whole, steps = self.phases[parent_phase]
            start, worth = max(self.last, begin), whole / max(1, steps)
        self.phases[phase_name] = (start, worth, int(num_steps))

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        start, worth, steps = self.phases[phase_name]
        self._at(start + worth * (int(step) + 1) / max(1, steps), phase_name)
        return True

    def phase_finish(self, phase_name: str) -> None:
        start, worth, _ = self.phases.pop(phase_name)
        self._at(start + worth, phase_name)

    def _at(self, share: float, phase: str) -> None:
        self.last = max(self.last, min(share, 1.0))
        self.advance(self.last, phase)


def build(onnx: Path, settings: Settings, advance: Advance) -> Built:
    """Compile the self-contained ONNX graph in the file `onnx`. Raises BackendError.

    TensorRT's objects tell their listeners even when they are destroyed, so listeners live in a frame of their own around them.
    """
    logger, complaints, progress = Quiet(), Complaints(), Progress(advance)
    try:
        return _build(onnx, settings, logger, complaints, progress)
    except _FailedError as failed:
        told = complaints.kept[0][1] if complaints.kept else next(iter(logger.errors), "TensorRT gives no reason")
        raise BackendError(f"{failed}: {' '.join(told.split())}") from None


class _FailedError(Exception):
    """What could not be done; the listeners know why."""


def _build(onnx: Path, settings: Settings, logger: Quiet, complaints: Complaints, progress: Progress) -> Built:
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        # The description alone may be no more than "false".
        causes = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        logger.errors[:0] = causes
        raise _FailedError("TensorRT can't read the graph")
    builder.error_recorder = complaints  # not before there is a parser: TensorRT for RTX 1.7 then crashes when the network is destroyed
    config = _config(builder, settings)
    config.progress_monitor = progress
    needs, ends = memory.measure(network), bindings(network)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _FailedError("TensorRT could not build the graph")
    return Built(bytes(plan), ends, needs)


def _config(builder: trt.Builder, settings: Settings) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = settings.optimization_level
    if settings.target is Target.RTX:
        from engines.tensorrt import rtx

        rtx.aim(config, settings.capabilities)
    return config


def bindings(network: trt.INetworkDefinition) -> tuple[Binding, ...]:
    """Inputs, then outputs, in the graph's order."""
    inputs = [(network.get_input(index), True) for index in range(network.num_inputs)]
    outputs = [(network.get_output(index), False) for index in range(network.num_outputs)]
    return tuple(Binding(t.name, is_input, NUMPY_NAMES[t.dtype.name], tuple(t.shape)) for t, is_input in [*inputs, *outputs])

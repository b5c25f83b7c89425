"""A backend that never fails: what goes wrong on a GPU is said in one line, and the CPU goes on with the very same engine.

The engine's state lives in its own arrays, so nothing is lost but the time that the CPU needs to load its graphs; the plain delay plays
meanwhile. Once failed, a device is left alone until the engine is opened again. Runs in: the worker process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from engines.backend import Array, Backend, BlockJob, BlockResult, BlockRunner, Graph

log = logging.getLogger(__name__)


class SpareBackend:
    """`main` as long as it works, then what `open_spare` opens."""

    def __init__(self, main: Backend, open_spare: Callable[[], Backend]) -> None:
        self.main, self.open_spare, self.name = main, open_spare, main.name
        self.spare: Backend | None = None

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        return SpareGraph(self, onnx, weights)

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        loaded = {name: graph.main for name, graph in graphs.items() if isinstance(graph, SpareGraph) and graph.main is not None}
        try:
            runner = self.main.block_runner(loaded) if self.spare is None else None
        except Exception as error:
            self.fail(error)
            return None
        return None if runner is None else SpareRunner(self, runner)

    def fail(self, error: Exception) -> Backend:
        """Say so once, and open the other."""
        if self.spare is None:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.spare = self.open_spare()
            self.name = self.spare.name
            log.warning("engine: %s failed (%s); %s goes on", self.main.name, reason, self.spare.name)
        return self.spare


class SpareGraph:
    """A graph that is loaded by the other backend when it is first needed there."""

    def __init__(self, backend: SpareBackend, onnx: bytes, weights: Mapping[str, Array]) -> None:
        self.backend, self.onnx, self.weights = backend, onnx, weights
        self.main: Graph | None = None
        self.spare: Graph | None = None
        if backend.spare is None:
            try:
                self.main = backend.main.load(onnx, weights)
            except Exception as error:
                backend.fail(error)

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        if self.backend.spare is None and self.main is not None:
            try:
                return self.main(inputs)
            except Exception as error:
                self.backend.fail(error)
        if self.spare is None:
            assert self.backend.spare is not None
            self.spare, self.main = self.backend.spare.load(self.onnx, self.weights), None
        return self.spare(inputs)


class SpareRunner:
    """A runner of blocks that gives up for good after its first failure: the engine then goes step by step."""

    def __init__(self, backend: SpareBackend, runner: BlockRunner) -> None:
        self.backend, self.runner = backend, runner

    def denoise(self, job: BlockJob) -> BlockResult | None:
        if self.backend.spare is not None:
            return None
        try:
            return self.runner.denoise(job)
        except Exception as error:
            self.backend.fail(error)
            return None

    def holds(self, edition: int) -> None:
        self.runner.holds(edition)

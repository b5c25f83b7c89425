"""What runs an engine's graphs. An engine asks by graph name and knows nothing of the runtime behind it.

A runtime that can keep a whole block on its device offers a BlockRunner beside its graphs; the engine then hands it the block as
one BlockJob instead of step after step. What a runner holds on the device is a copy: the engine's own arrays stay the truth, so a
runner may fail at any moment and nothing is lost.

Runs in: the worker process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from engines.bundle import Bundle
from engines.manifest import GRAPH_SUFFIX, PROMPTS_FILE, WEIGHTS_FILE, Role
from engines.onnx_wire import external_names
from engines.tensors import read_header

Array = NDArray[Any]

_HELD = (Role.WEIGHTS, Role.PROMPTS, Role.GRAPH)


class BackendError(Exception):
    """A runtime that can't be used here: one line that says what is missing or went wrong, and what to do."""


class Graph(Protocol):
    """One static graph: named arrays in, arrays out in the order in which the graph declares them."""

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]: ...


class Backend(Protocol):
    """A runtime on a device."""

    name: str

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        """Compile one graph; `weights` are its external tensors by name."""

    def block_runner(self, graphs: Mapping[str, Graph]) -> BlockRunner | None:
        """Something that denoises whole blocks with these loaded graphs, if this runtime has it."""


@dataclass(frozen=True)
class Pass:
    """One denoising step: a graph gives the velocity, (G, N, C), one or two ways, and x becomes weights . (x, first way, last way, noise)
    by the first of the mixes; then by the second, if there is one, with what the pass before gave. `noisy` and the cached keys and values
    are added by whoever runs it."""

    graph: str
    fresh: Mapping[str, Array]  # inputs that are new in every block
    steady: Mapping[str, Array]  # inputs that stay the same arrays until the player changes something
    commits: bool  # whether it gives keys and values for the ring's `rows`
    mixes: tuple[tuple[float, float, float, float], ...]  # weights of x, v, v without words, fresh noise
    noise: Array | None


@dataclass(frozen=True)
class Ring:
    """The cached context as the engine keeps it; `edition` is another number whenever it holds something else."""

    keys: Array  # (L, 1, H, P, E)
    values: Array
    edition: int


@dataclass(frozen=True)
class BlockJob:
    """All that the denoising of one block takes: no question is open between its passes."""

    noise: Array  # (1, N, C)
    passes: tuple[Pass, ...]
    ring: Ring
    first_row: int  # where keys and values that are committed go


@dataclass(frozen=True)
class BlockResult:
    clean: Array  # (1, N, C)
    committed: tuple[Array, Array] | None  # keys and values (L, 1, H, N, E) of the block before, if the job commits it


class BlockRunner(Protocol):
    """Denoises a block without asking back between steps."""

    def denoise(self, job: BlockJob) -> BlockResult | None:
        """The clean block, or None: the engine then goes step by step."""

    def holds(self, edition: int) -> None:
        """The engine has put what was committed into its own ring, which is this edition now: so is the device's copy."""


@dataclass(frozen=True)
class Weights:
    """The tensors that a bundle's graphs share, and those that its engine asks for by name."""

    tensors: Mapping[str, Array]  # views, no copies
    graphs: Mapping[str, Sequence[str]]  # graph -> its external tensors

    @classmethod
    def of(cls, bundle: Bundle) -> Weights:
        """Raises BundleError."""
        return cls.of_files({entry.path: bundle.read(entry.path) for entry in bundle.manifest.files if entry.role in _HELD})

    @classmethod
    def of_files(cls, files: Mapping[str, bytes]) -> Weights:
        """Of a bundle's files, before there is a bundle."""
        data = [files[name] for name in (WEIGHTS_FILE, PROMPTS_FILE) if name in files]
        tensors = {name: one.view(file) for file in data for name, one in read_header(file, len(file)).items()}
        graphs = {name: external_names(file) for name, file in files.items() if name.endswith(GRAPH_SUFFIX)}
        return cls(tensors, {name.removesuffix(GRAPH_SUFFIX): names for name, names in graphs.items()})

    def for_graph(self, graph: str) -> dict[str, Array]:
        """Name -> array for every external tensor of `graph`."""
        return {name: self.tensors[name] for name in self.graphs[graph]}

    def array(self, name: str) -> Array:
        """An array that the engine itself needs (initial state, prompts), by the name that the packer gave it."""
        return self.tensors[name]

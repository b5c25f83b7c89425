"""Parity of a bundle's graphs with float32 torch, in every precision that is shipped, on a CPU.

    python -m engines.export.parity BUNDLE

Two comparisons. With the golden vectors, which are what torch gave when the bundle was packed: a few dozen values of each output. And of
the float16 form, rounding as a GPU would (engines/export/precision.py), with the float32 graph: all values. Differences are relative to
the output's largest value, or absolute where that is below 1. Exit code 1 where one is beyond its tolerance.

Runs in: export, tests. Needs onnx, not torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from engines.backend import Array, Weights
from engines.bundle import Bundle, BundleError
from engines.export.precision import Style, graphs_of, half_graphs
from engines.golden import Golden
from engines.ort import OrtBackend
from engines.tensorrt.sidecar import Precision

TOLERANCE = {Precision.FP32: 1e-4, Precision.FP16: 2e-2}


@dataclass(frozen=True)
class Difference:
    """One output of one graph; nan where nothing was compared."""

    graph: str
    output: str
    precision: Precision
    from_torch: float
    from_fp32: float

    def fits(self) -> bool:
        return all(not value > TOLERANCE[self.precision] for value in (self.from_torch, self.from_fp32))


def differences(bundle: Bundle) -> Iterator[Difference]:
    """Every compared output of every graph, in float32 and, where the graph has such a form, in float16."""
    golden = Golden.of(bundle)
    if golden is None:
        raise BundleError(f"{bundle.path}: was packed without golden vectors; pack it again")
    weights, backend, graphs = Weights.of(bundle), OrtBackend(), graphs_of(bundle)
    rounded = half_graphs(graphs, Style.ROUNDED)
    for name, data in graphs.items():
        inputs = golden.inputs(name)
        wide = backend.load(data, weights.for_graph(name))(inputs)
        for output, value in golden.differences(name, wide).items():
            yield Difference(name, output, Precision.FP32, value, float("nan"))
        if name in rounded:
            narrow = backend.load(rounded[name], weights.for_graph(name))(inputs)
            apart = dict(zip(golden.graphs[name]["outputs"], map(_apart, wide, narrow), strict=True))
            for output, value in golden.differences(name, narrow).items():
                yield Difference(name, output, Precision.FP16, value, apart[output])


def _apart(wide: Array, narrow: Array) -> float:
    return float(np.abs(wide - narrow).max() / max(1.0, float(np.abs(wide).max())))


def show(found: list[Difference], console: Console) -> None:
    table = Table("graph", "output", "precision", "from torch", "from float32", "", title="parity")
    for one in found:
        values = (f"{value:.1e}" if value == value else "" for value in (one.from_torch, one.from_fp32))
        table.add_row(one.graph, one.output, one.precision.value, *values, "" if one.fits() else f"over {TOLERANCE[one.precision]:.0e}")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare every graph of a bundle with torch, in every shipped precision.")
    parser.add_argument("bundle", type=Path)
    found = list(differences(Bundle.open(parser.parse_args().bundle)))
    show(found, Console())
    return 0 if all(one.fits() for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())

"""float16 said explicitly in a graph: which tensors are rounded is decided here, and not by the compiler that gets the graph.

One rule. A matrix product or convolution runs in float16 if its weights were rounded to float16 when the bundle was packed. It accumulates
in float32 on every GPU that matters. Everything between such products stays float32: attention's own two products, whose rounding guidance
makes twice as large, layer norms, softmax, rotary angles, activation functions, the residual stream, and attention biases (-1e9 is
beyond float16). Products with float32 constants stay float32 as well, which is all of the DFTs, filterbanks and phase arithmetic, and
so does the graph `encode`, whose kernels are DFTs in all but name. Inputs and outputs keep their names, shapes and types.

A CPU has no use for such a graph: ONNX Runtime drops casts around products that it has no float16 kernel for, and computes in float32.
`Style.ROUNDED` writes the same roundings around float32 products, which every runtime keeps, so that a CPU gives the numbers that a
GPU gives (up to the order of sums).

    python -m engines.export.precision BUNDLE --style rounded --out build/rounded.ghost     to be evaluated like any bundle
    python -m engines.export.precision BUNDLE --style half --out build/engine.ghost         for a bundle packed without float16 graphs

Runs in: export, evaluation, tests. Needs onnx, not torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, helper

from engines.bundle import Bundle, write_bundle
from engines.tensorrt.sidecar import GRAPH_SUFFIX, HALF_FOLDER, graph_names

LISTENING = ("encode",)  # graphs that stay float32 as a whole
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
MOVES = ("Identity", "Transpose", "Slice", "Reshape", "Concat", "Squeeze", "Unsqueeze", "Gather", "Split")  # values stay what they are


class Style(Enum):
    HALF = "half"  # float16 products, for compilers
    ROUNDED = "rounded"  # float32 products of float16 values, for CPUs


def half(model: onnx.ModelProto, style: Style = Style.HALF) -> onnx.ModelProto:
    """A copy of `model` with its products in float16."""
    done = onnx.ModelProto()
    done.CopyFrom(model)
    nodes = _Rewriter(done.graph, style).rewrite()
    del done.graph.node[:], done.graph.value_info[:]
    done.graph.node.extend(nodes)
    return done


def half_graphs(graphs: Mapping[str, bytes], style: Style = Style.HALF) -> dict[str, bytes]:
    """Graph name -> its float16 form, for those graphs that have one."""
    wanted = {name: onnx.ModelProto.FromString(data) for name, data in graphs.items() if name not in LISTENING}
    return {name: half(model, style).SerializeToString(deterministic=True) for name, model in wanted.items()}


def half_products(model: onnx.ModelProto) -> list[NodeProto]:
    """Which nodes of a float32 graph `half` rewrites."""
    facts = _Facts.of(model.graph)
    return [node for node in model.graph.node if facts.is_half(node)]


@dataclass
class _Facts:
    """What is known of the tensors of a graph: which are constant, and which hold float16 values exactly."""

    constant: set[str] = field(default_factory=set)
    exact: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> _Facts:
        facts = cls({i.name for i in graph.initializer}, {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT16})
        for node in graph.node:
            names = [name for name in node.input if name]
            if facts.constant.issuperset(names):
                facts.constant.update(node.output)
                if _widens(node, facts) or (node.op_type in MOVES and names[0] in facts.exact):
                    facts.exact.update(node.output)
        return facts

    def is_half(self, node: NodeProto) -> bool:
        if node.op_type not in PRODUCTS:
            return False
        constants = [name for name in node.input[:2] if name in self.constant]
        return bool(constants) and all(name in self.exact for name in constants)


def _widens(node: NodeProto, facts: _Facts) -> bool:
    to = next((a.i for a in node.attribute if a.name == "to"), 0)
    return node.op_type == "Cast" and node.input[0] in facts.exact and to in (TensorProto.FLOAT, TensorProto.FLOAT16)


class _Rewriter:
    """Puts casts around the products of one graph."""

    def __init__(self, graph: onnx.GraphProto, style: Style) -> None:
        self.graph, self.style, self.facts = graph, style, _Facts.of(graph)
        self.narrow = {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT16}
        self.halves: dict[str, str] = {}  # float32 tensor -> the same as the products take it
        self.nodes: list[NodeProto] = []

    def rewrite(self) -> list[NodeProto]:
        for node in self.graph.node:
            if _widens(node, self.facts) and node.input[0] in self.narrow and self.style is Style.HALF:
                self.halves[node.output[0]] = node.input[0]  # stored as float16: taken as it is stored
            if self.facts.is_half(node):
                self._product(node)
            else:
                self.nodes.append(node)
        return _without_unread(self.nodes, [output.name for output in self.graph.output])

    def _product(self, node: NodeProto) -> None:
        taken = NodeProto()
        taken.CopyFrom(node)
        del taken.input[:], taken.output[:]
        taken.input.extend(self._rounded(name) if name else "" for name in node.input)
        inner = f"{node.output[0]}.product"
        taken.output.append(inner)
        self.nodes.append(taken)
        if self.style is Style.ROUNDED:
            inner = self._cast(inner, f"{inner}.fp16", TensorProto.FLOAT16)
        self._cast(inner, node.output[0], TensorProto.FLOAT)

    def _rounded(self, name: str) -> str:
        if name not in self.halves:
            if self.style is Style.ROUNDED and name in self.facts.exact:
                self.halves[name] = name
            else:
                narrow = self._cast(name, f"{name}.fp16", TensorProto.FLOAT16)
                wide = self.style is Style.ROUNDED
                self.halves[name] = self._cast(narrow, f"{name}.rounded", TensorProto.FLOAT) if wide else narrow
        return self.halves[name]

    def _cast(self, source: str, target: str, to: int) -> str:
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to))
        return target


def _without_unread(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Drop nodes whose results nobody reads: casts of weights that are now taken as stored."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]


def graphs_of(bundle: Bundle) -> dict[str, bytes]:
    """The float32 graphs of a bundle."""
    return {name: bundle.read(name + GRAPH_SUFFIX) for name in graph_names(bundle)}


def with_half_graphs(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A bundle's files and the float16 forms of its graphs beside them, on the same weights."""
    graphs = {path.removesuffix(GRAPH_SUFFIX): data for path, data in files.items() if path.endswith(GRAPH_SUFFIX) and "/" not in path}
    return {**files, **{HALF_FOLDER + name + GRAPH_SUFFIX: data for name, data in half_graphs(graphs).items()}}


def rewrite(bundle: Bundle, style: Style, out: Path) -> Bundle:
    """`bundle` again: HALF has float16 graphs beside its own, for compilers; ROUNDED plays with their roundings on any CPU."""
    files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    if style is Style.HALF:
        files = with_half_graphs(files)
    else:
        files |= {name + GRAPH_SUFFIX: data for name, data in half_graphs(graphs_of(bundle), style).items()}
    write_bundle(out, bundle.manifest.head, files)
    return Bundle.open(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a bundle again, with float16 graphs added or with its own rounding like them.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--style", choices=[style.value for style in Style], required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(rewrite(Bundle.open(args.bundle), Style(args.style), args.out).path)


if __name__ == "__main__":
    main()

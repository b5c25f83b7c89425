"""Whether what is in a bundle may be given to an engine: weights that are numbers, graphs of known operators, shapes that fit each other.

`check_contents` reads a piece at a time, so that a bundle of two gigabytes is checked in the memory of a small one; and everything is
hashed before anything is parsed. Runs in: any process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np

from engines.bundle import Bundle, BundleError
from engines.container import CHUNK_BYTES
from engines.graph import FLOAT, GraphError, GraphFacts, Value, read_graph
from engines.graph_check import check_graph
from engines.lmdm import sampler
from engines.lmdm.config import ModelConfig, Regime
from engines.lmdm.shapes import graph_inputs
from engines.manifest import GOLDEN_FILE, GRAPH_SUFFIX, PRESETS_FILE, PROMPTS_FILE, WEIGHTS_FILE, Role
from engines.tensors import Tensor, TensorError, check_finite, header_bytes, read_header

Found = TypeVar("Found")
Table = Mapping[str, Tensor]
MAX_SIZE, MAX_PRESETS = 1 << 16, 128
_RULES = {"normal": {"rule", "shape", "scale"}, "zeros": {"rule", "shape"}, "array": {"rule", "array"}}
_KEPT = {"size", "at", "values", "rms", "largest", "compared"}


class ContentError(ValueError):
    """What is wrong in a bundle, without saying in which."""


def check_contents(bundle: Bundle) -> None:
    """Raises BundleError, one line, for the first thing that is wrong; what is right has been read as a whole."""
    bundle.verify()
    tables = {name: _named(bundle, name, partial(_tensors, bundle, name)) for name in (WEIGHTS_FILE, PROMPTS_FILE)}
    weights = tables[WEIGHTS_FILE]
    graphs = {}
    for path, role in ((entry.path, entry.role) for entry in bundle.manifest.files):
        if role is Role.GRAPH:
            graphs[path.removesuffix(GRAPH_SUFFIX)] = _named(bundle, path, partial(_graph, bundle, path, weights))
        if role is Role.LICENCE:
            _named(bundle, path, partial(_check_licence, bundle, path))
    if bundle.has(GOLDEN_FILE):
        _named(bundle, GOLDEN_FILE, lambda: _check_golden(bundle.json(GOLDEN_FILE), graphs, weights))
    if bundle.has(PRESETS_FILE):
        _named(bundle, PRESETS_FILE, lambda: _check_presets(bundle.json(PRESETS_FILE)))
    if bundle.manifest.kind == "lmdm":
        _named(bundle, "manifest.json", lambda: _check_lmdm(bundle, graphs, tables))


def _named(bundle: Bundle, name: str, check: Callable[[], Found]) -> Found:
    try:
        return check()
    except (ContentError, TensorError, GraphError) as wrong:
        raise BundleError(f"{bundle.path}: {name} in it {wrong}; do not use this bundle") from None


def _tensors(bundle: Bundle, name: str) -> Table:
    if not bundle.has(name):
        return {}
    size = bundle.entry(name).size
    held = header_bytes(bundle.part(name, 0, min(8, size)), size)
    table = read_header(bundle.part(name, 0, held), size)
    for tensor in table.values():
        for at in range(0, tensor.size, CHUNK_BYTES):
            piece = bundle.part(name, tensor.offset + at, min(CHUNK_BYTES, tensor.size - at))
            check_finite(tensor, np.frombuffer(piece, tensor.dtype))
    return table


def _graph(bundle: Bundle, path: str, weights: Table) -> GraphFacts:
    facts = read_graph(bundle.read(path))
    check_graph(facts, weights)
    return facts


def _check_licence(bundle: Bundle, path: str) -> None:
    try:
        text = bundle.read(path).decode()
    except UnicodeDecodeError:
        raise ContentError("is no text") from None
    if not all(one.isprintable() or one in "\n\t\f" for one in text):
        raise ContentError("is no plain text")


def _check_golden(golden: Any, graphs: Mapping[str, GraphFacts], weights: Table) -> None:
    _require(isinstance(golden, dict) and set(golden) <= set(graphs), "names graphs that are not there")
    for name, facts in golden.items():
        _require(isinstance(facts, dict) and set(facts) == {"inputs", "outputs"}, f"says of {name!r} more or less than inputs and outputs")
        given, kept = facts["inputs"], facts["outputs"]
        _require(isinstance(given, dict) and isinstance(kept, dict), f"says of {name!r} what is no table")
        _require(set(given) == {one.name for one in graphs[name].inputs}, f"does not give {name!r} what it takes")
        _require(list(kept) == [one.name for one in graphs[name].outputs], f"does not have the outputs of {name!r}")
        for value in graphs[name].inputs:
            _check_rule(f"{name}.{value.name}", given[value.name], value, weights)
        for value in graphs[name].outputs:
            _check_kept(f"{name}.{value.name}", kept[value.name], math.prod(value.shape))


def _check_rule(where: str, facts: Any, value: Value, weights: Table) -> None:
    known = isinstance(facts, dict) and isinstance(facts.get("rule"), str) and _RULES.get(facts["rule"]) == set(facts)
    _require(known and value.kind == FLOAT, f"has no known rule for {where!r}")
    if facts["rule"] == "array":
        tensor = weights.get(facts["array"]) if isinstance(facts["array"], str) else None
        shape = None if tensor is None else list(tensor.shape)
    else:
        shape = facts["shape"]
    _require(shape == list(value.shape), f"has another shape for {where!r} than the graph")
    _require(_number(facts.get("scale", 1.0)), f"has no scale for {where!r}")


def _check_kept(where: str, facts: Any, size: int) -> None:
    _require(isinstance(facts, dict) and set(facts) == _KEPT, f"says more or less of {where!r} than is known here")
    at, values = facts["at"], facts["values"]
    _require(isinstance(at, list) and isinstance(values, list) and len(at) == len(values) <= 4096, f"has no values for {where!r}")
    _require(facts["size"] == size and all(type(one) is int and 0 <= one < size for one in at), f"looks for {where!r} where nothing is")
    _require(all(map(_number, (*values, facts["rms"], facts["largest"]))), f"has values for {where!r} that are no numbers")
    _require(type(facts["compared"]) is bool, f"does not say whether {where!r} is compared")


def _check_presets(presets: Any) -> None:
    _require(isinstance(presets, list) and len(presets) <= MAX_PRESETS, f"is no list of at most {MAX_PRESETS}")
    for one in presets:
        known = isinstance(one, dict) and set(one) == {"name", "sound"} and isinstance(one["sound"], dict)
        _require(known, "holds something else than presets")
        _require(isinstance(one["name"], str) and 0 < len(one["name"]) <= 60, "holds a preset without a name")
        fits = all(_number(value) or (isinstance(value, str) and len(value) <= 200) for value in one["sound"].values())
        _require(fits, "holds a preset with a value that is neither number nor words")


def _check_lmdm(bundle: Bundle, graphs: Mapping[str, GraphFacts], tables: Mapping[str, Table]) -> None:
    spec, said = bundle.manifest.spec, bundle.manifest.facts.get("model")
    model: dict[str, Any] = said if isinstance(said, dict) else {}
    _require(isinstance(model.get("config"), dict), "does not describe its model")
    config = _config(model["config"])
    known = model.get("spacing") in list(sampler.Spacing) and model.get("solver", sampler.Solver.EULER) in list(sampler.Solver)
    _require(known, "is denoised in a way that is unknown here")
    guidance = model.get("guidance", math.nan)
    _require(_number(guidance), "has no guidance that makes sense")
    expected = dict(graph_inputs(config, spec.max_steps, sampler.ways(float(guidance))))
    history = model.get("history_frames", -1)
    _require(type(history) is int and 0 <= history <= 1 << 22, "has no history that makes sense")
    expected["encode"] = {"audio": (1, history + spec.block_frames)}
    states = model.get("decoder_state", 0)
    _require(isinstance(states, list) and len(states) <= 64 and all(isinstance(one, str) for one in states), "has no decoder's state")
    weights = tables[WEIGHTS_FILE]
    _require(all(f"decoder/{one}" in weights for one in states), f"lists a decoder's state that is not in {WEIGHTS_FILE}")
    shapes = {one: weights[f"decoder/{one}"].shape for one in states}
    expected["decode"] = {"latents": (1, config.block_latents, config.latent_channels), **shapes}
    _require("inv_freq" in weights and weights["inv_freq"].shape == (config.rotary_width // 2,), f"has no angles in {WEIGHTS_FILE}")
    for name, inputs in expected.items():
        _require(name in graphs, f"has no graph {name!r}")
        found = {value.name: value.shape for value in graphs[name].inputs}
        _require(found == inputs, f"describes a graph {name!r} with other inputs than it has")
        _require(all(value.kind == FLOAT for value in graphs[name].inputs + graphs[name].outputs), f"has a graph {name!r} of other numbers")
    for prompt in range(-1, len(spec.prompts)):
        for part, shape in (("states", (1, config.text_tokens, config.text_channels)), ("pooled", (1, config.text_channels))):
            one = tables[PROMPTS_FILE].get(f"prompt/{prompt}/{part}")
            _require(one is not None and one.shape == shape, f"lists a prompt {prompt} that is not so in {PROMPTS_FILE}")


def _config(facts: Mapping[str, Any]) -> ModelConfig:
    sizes = {name: value for name, value in facts.items() if name not in ("regime", "partner", "skip")}
    _require(all(type(value) is int and 0 <= value <= MAX_SIZE for value in sizes.values()), "has a model of sizes that make no sense")
    try:
        config = ModelConfig(**sizes, partner=bool(facts["partner"]), regime=Regime(facts["regime"]), skip=bool(facts.get("skip", False)))
    except (KeyError, TypeError, ValueError):
        raise ContentError("describes a model that is unknown here") from None
    _require(min(config.width, config.layers, config.heads, config.block_latents, config.context_blocks) > 0, "has a model without a size")
    return config


def _number(value: Any) -> bool:
    return type(value) in (int, float, bool) and math.isfinite(value)


def _require(good: bool, wrong: str) -> None:
    if not good:
        raise ContentError(wrong)

"""Small real bundles, packed with random weights: the reference codec's shapes around a very small LMDM."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Protocol
from unittest import mock

import onnx
import pytest
import torch

from engines.bundle import Bundle, write_bundle
from engines.export import package
from engines.export.graphs import GraphSpec
from engines.export.onnx import to_onnx
from engines.export.package import Recipe, build_files, manifest_of
from engines.lmdm import codec, config, sampler, text
from engines.lmdm.config import ModelConfig, Regime
from engines.lmdm.decoder import SpectrumNet
from engines.lmdm.model import LMDM
from engines.lmdm.sampler import Spacing
from tests.lmdm.conftest import lively

SMALL = ModelConfig(
    64, 2, 2, text.CHANNELS, text.TOKENS, codec.LATENT_CHANNELS, context_blocks=3, sketch_channels=config.SKETCH_CHANNELS, partner=True,
    skip=True,
)
Parity = dict[str, dict[str, float]]


class Packed(Protocol):
    """Gives a bundle, the model in it, and how far its graphs are from torch."""

    def __call__(self, regime: Regime, guidance: float = 1.0) -> tuple[Bundle, LMDM, Parity]: ...


def random_prompt(seed: int) -> text.Prompt:
    states = torch.randn(text.TOKENS, text.CHANNELS, generator=torch.Generator().manual_seed(seed)) * 0.3
    return text.Prompt(states, states.mean(0))


@cache
def small_codec() -> SpectrumNet:
    torch.manual_seed(3)
    net = SpectrumNet().eval()
    for pca in (net.encoder.mel, net.encoder.low):
        pca.fit(torch.randn(3000, len(pca.mean)) @ torch.randn(len(pca.mean), len(pca.mean)) * 0.03)
    return net


CODEC_GRAPHS: dict[str, onnx.ModelProto] = {}  # by name; all these bundles have the same codec, half of all that there is to export


def exported(spec: GraphSpec) -> onnx.ModelProto:
    if spec.name not in ("encode", "decode"):
        return to_onnx(spec)
    if spec.name not in CODEC_GRAPHS:
        CODEC_GRAPHS[spec.name] = to_onnx(spec)
    graph = onnx.ModelProto()
    graph.CopyFrom(CODEC_GRAPHS[spec.name])
    return graph


def pack_small(folder: Path, regime: Regime, guidance: float) -> tuple[Bundle, LMDM, Parity]:
    model, net = lively(replace(SMALL, regime=regime), seed=4), small_codec()
    with mock.patch.object(package, "to_onnx", exported):
        files, parity = build_files(model, net, [random_prompt(1), random_prompt(2)], sampler.ways(guidance))
    path = folder / f"{regime.value}-{guidance}.ghost"
    recipe = Recipe("small", "1", "2026-01-01", 3, Spacing.EVEN, guidance, True)
    write_bundle(path, manifest_of(recipe, model, parity, ["first", "second"]), files)
    return Bundle.open(path), model, parity


@pytest.fixture(scope="session", name="packed")
def _packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Packs each kind once, when first asked for."""
    folder = tmp_path_factory.mktemp("bundles")
    kept = cache(partial(pack_small, folder))
    return lambda regime, guidance=1.0: kept(regime, guidance)


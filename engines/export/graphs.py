"""The graphs of an LMDM bundle: each an nn.Module with fixed shapes, named inputs and named outputs.

    encode   what was heard -> latents, sketch                     once per block
    prompt   words -> text keys and values, global tokens          once per prompt
    first    [pending clean block | target] -> v, keys, values     first denoising step, commits the block before (block-causal)
    step     target -> v, (G, N, C)                                every further step
    commit   a clean block -> keys, values                         when a block is heard but not answered (block-causal)
    context  all clean blocks -> keys, values                      once per block (enc-dec)
    decode   latents -> audio                                      once per block

Caches are plain inputs, new keys and values plain outputs, positions come in as cos and sin. An engine with guidance asks for the
velocity two ways in one pass, as it is told and with no words, so that the weights are read once. Shapes as in model.py; P cached
latents, N latents per block, G ways (1 or 2). Runs in: export.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engines.lmdm import codec, visibility
from engines.lmdm.config import ModelConfig, Regime
from engines.lmdm.decoder import Decoder, DecoderState
from engines.lmdm.listen import HISTORY_FRAMES, Listen
from engines.lmdm.model import LMDM

MAX_STEPS = 8


@dataclass
class GraphSpec:
    """One graph: the module, example inputs by name (their shapes are the graph's), output names."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class Prompt(nn.Module):
    def __init__(self, model: LMDM) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, pooled: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = self.model.text(states)
        return keys, values, self.model.global_tokens(times, pooled)


class _Denoise(nn.Module):
    """Shared by `first` and `step`: the bias of cached rows, beside the fixed visibility among the rows of this pass; and what all ways
    have in common, once for each. But noisy latents stay single: OpenVINO 2026.4 gives nonsense where a convolution reads a tensor
    that was joined to itself."""

    own: Tensor

    def __init__(self, model: LMDM, visible: Tensor, ways: int) -> None:
        super().__init__()
        self.model, self.ways = model, ways
        self.register_buffer("own", visibility.as_bias(visible), persistent=False)

    def bias(self, cache_bias: Tensor) -> Tensor:
        return torch.cat([cache_bias[None].expand(self.own.shape[0], -1), self.own], 1)

    def each(self, x: Tensor, axis: int = 0) -> Tensor:
        """What is 1 long there becomes as long as there are ways."""
        return x if self.ways == 1 else torch.cat([x] * self.ways, axis)

    def past(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.each(keys, 1), self.each(values, 1)


class First(_Denoise):
    def forward(
        self, pending: Tensor, pending_partner: Tensor, noisy: Tensor, sketch_rows: Tensor, partner: Tensor, told: Tensor, cos: Tensor,
        sin: Tensor, cache_bias: Tensor, cache_keys: Tensor, cache_values: Tensor, text_keys: Tensor, text_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        clean = self.each(self.model.clean_tokens(pending, pending_partner))
        targets = self.model.target_tokens(noisy, sketch_rows, partner)
        past, text = self.past(cache_keys, cache_values), (text_keys, text_values)
        v, (keys, values) = self.model(clean, noisy, targets, told, (cos, sin), self.bias(cache_bias), past, text)
        return v, keys[:, :1], values[:, :1]


class Step(_Denoise):
    def forward(
        self, noisy: Tensor, sketch_rows: Tensor, partner: Tensor, told: Tensor, cos: Tensor, sin: Tensor,
        cache_bias: Tensor, cache_keys: Tensor, cache_values: Tensor, text_keys: Tensor, text_values: Tensor,
    ) -> Tensor:
        targets = self.model.target_tokens(noisy, sketch_rows, partner)
        past, text = self.past(cache_keys, cache_values), (text_keys, text_values)
        v, _ = self.model(targets[:, :0], noisy, targets, told, (cos, sin), self.bias(cache_bias), past, text)
        return v


class Commit(nn.Module):
    def __init__(self, model: LMDM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, clean: Tensor, partner: Tensor, cos: Tensor, sin: Tensor, cache_bias: Tensor, cache_keys: Tensor, cache_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows = torch.zeros(clean.shape[1], clean.shape[1])
        bias = torch.cat([cache_bias[None].expand(clean.shape[1], -1), rows], 1)
        return self.model.commit(self.model.clean_tokens(clean, partner), (cos, sin), bias, (cache_keys, cache_values))


class Context(nn.Module):
    def __init__(self, model: LMDM) -> None:
        super().__init__()
        self.model = model

    def forward(self, clean: Tensor, partner: Tensor, cos: Tensor, sin: Tensor, cache_bias: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.commit(self.model.clean_tokens(clean, partner), (cos, sin), cache_bias[None], None)


def model_graphs(model: LMDM, ways: int = 1) -> list[GraphSpec]:
    """The graphs of one LMDM, for its regime; `ways` is 2 for an engine with guidance (see above)."""
    c = model.config
    n, past, channels = c.block_latents, c.context_latents, c.latent_channels
    draw = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    rotation = lambda rows: {"cos": randn(rows, c.rotary_width), "sin": randn(rows, c.rotary_width)}  # noqa: E731
    cache_shape = (c.layers, 1, c.heads, past, c.head_width)
    text_shape = (c.layers, ways, c.heads, c.text_tokens, c.head_width)
    cache = {"cache_bias": torch.zeros(past), "cache_keys": randn(*cache_shape), "cache_values": randn(*cache_shape)}
    text = {"text_keys": randn(*text_shape), "text_values": randn(*text_shape)}
    target = {
        "noisy": randn(1, n, channels), "sketch_rows": randn(ways, n, c.sketch_channels + 1),
        "partner": randn(ways, n, channels + 1), "told": randn(ways, 1, c.width),
    }
    clean, played = randn(1, n, channels), randn(1, n, channels + 1)
    prompt = {"states": randn(1, c.text_tokens, c.text_channels), "pooled": randn(1, c.text_channels), "times": torch.rand(MAX_STEPS)}
    alone = torch.ones(n + 1, n + 1, dtype=torch.bool)
    specs = [
        GraphSpec("prompt", Prompt(model), prompt, ("text_keys", "text_values", "told")),
        GraphSpec("step", Step(model, alone, ways), {**target, **rotation(n + 1), **cache, **text}, ("v",)),
    ]
    if c.regime is Regime.ENC_DEC:
        held = {"clean": randn(1, past, channels), "partner": randn(1, past, channels + 1)}
        window = {**held, **rotation(past), "cache_bias": torch.zeros(past)}
        return [*specs, GraphSpec("context", Context(model), window, ("keys", "values"))]
    fused = {"pending": clean, "pending_partner": played, **target, **rotation(2 * n + 1), **cache, **text}
    return [
        *specs,
        GraphSpec("first", First(model, visibility.fused(c), ways), fused, ("v", "keys", "values")),
        GraphSpec("commit", Commit(model), {"clean": clean, "partner": played, **rotation(n), **cache}, ("keys", "values")),
    ]


def codec_graphs(encoder: codec.Encoder, decoder: Decoder, config: ModelConfig) -> list[GraphSpec]:
    """Encode and decode for the model's block."""
    n = config.block_latents
    audio = torch.randn(1, HISTORY_FRAMES + n * codec.LATENT_FRAMES, generator=torch.Generator().manual_seed(0)) * 0.1
    heard = {"audio": audio}
    state = decoder.initial_state()
    latents = torch.randn(1, n, codec.LATENT_CHANNELS, generator=torch.Generator().manual_seed(1))
    names = DecoderState._fields
    carried = {"latents": latents, **dict(zip(names, state, strict=True))}
    return [
        GraphSpec("encode", Listen(encoder), heard, ("latents", "sketch")),
        GraphSpec("decode", decoder, carried, ("samples", *(f"{name}_next" for name in names))),
    ]

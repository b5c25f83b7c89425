"""The Live Music Diffusion Model: a diffusion transformer whose context keys and values can be cached block by block.

Source: arXiv 2605.22717. The layout (names, shapes, order of operations) is that of Stable Audio Open Small's DiT, so its
checkpoints load by key; what an LMDM adds is one bias-free layer through which clean latents enter (`to_input_add_embed`) and
one for the sketch. Read from top to bottom: rotary positions, attention, layer, model.

Three kinds of token. A *clean* token is a latent of the context: it carries no noise level and no text, so its keys and values
never change. A *target* token is a noisy latent of the block being made. The *global* token carries noise level and pooled
text; only its own target block sees it, and it sits one position before the window that this block sees.

Shapes: B batch, T token, D width, H head, E head width, L layer, S text token, C latent channel, P past (cached) token.
Runs in: training and export; the device runs the exported graphs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.lmdm.config import ModelConfig

Rotation = tuple[Tensor, Tensor]  # cos, sin: each (T, rotary width)
KeyValues = tuple[Tensor, Tensor]  # keys, values: each (L, B, H, T, E)
Rows = tuple[Tensor, Tensor]  # keys, values of one layer: each (B, H, T, E)


class LayerNorm(nn.Module):
    """Layer norm with a gain; `beta` is a zero buffer that checkpoints carry."""

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta, 1e-5)


class RotaryPositions(nn.Module):
    """Rotary embedding (Su et al., 2021). Angles are computed in float64: position 230,000 is a three-hour set."""

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10_000.0 ** -(torch.arange(0, width, 2) / width))

    def forward(self, positions: Tensor) -> Rotation:
        """Absolute positions (T,), any integers -> cos and sin, each (T, width) float32."""
        angles = positions.to(self.inv_freq.device).double()[:, None] * self.inv_freq.double()
        angles = torch.cat([angles, angles], -1)
        return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the leading channels of (B, H, T, E) by halves: channel i with channel i + width / 2."""
    cos, sin = rotation
    width = cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    low, high = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-high, low], -1) * sin, rest], -1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention with layer norm on queries and keys."""

    def __init__(self, config: ModelConfig, cross: bool) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        if cross:
            self.to_q = nn.Linear(width, width, bias=False)
            self.to_kv = nn.Linear(width, 2 * width, bias=False)
        else:
            self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.q_norm = nn.LayerNorm(config.head_width, eps=1e-6)
        self.k_norm = nn.LayerNorm(config.head_width, eps=1e-6)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, E)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        return self.to_out(F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), bias).transpose(1, 2).flatten(-2))

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention: text (B, S, D) -> keys and values (B, H, S, E)."""
        k, v = self.to_kv(text).chunk(2, -1)
        return self.k_norm(self.split(k)), self.split(v)

    def queries_keys_values(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self.split(part) for part in self.to_qkv(x).chunk(3, -1))
        return rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation), v

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Cross-attention of (B, T, D) to precomputed text; no mask, no positions."""
        return self.attend(self.q_norm(self.split(self.to_q(x))), keys, values, None)


class GatedLinear(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.silu(gate)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020), four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(GatedLinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class Layer(nn.Module):
    """Pre-norm: self-attention over past and present tokens, cross-attention to text, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = LayerNorm(config.width)
        self.self_attn = Attention(config, cross=False)
        self.cross_attend_norm = LayerNorm(config.width)
        self.cross_attn = Attention(config, cross=True)
        self.ff_norm = LayerNorm(config.width)
        self.ff = FeedForward(config.width)

    def forward(
        self, x: Tensor, rotation: Rotation, bias: Tensor | None, past: Rows | None, text: Rows, clean: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> (B, T, D) and this layer's own keys and values (B, H, T, E).

        The first `clean` tokens get no text: attending to the null prompt adds exactly zero, so it is left out.
        """
        q, k, v = self.self_attn.queries_keys_values(self.pre_norm(x), rotation)
        keys, values = (k, v) if past is None else (torch.cat([past[0].to(k.dtype), k], 2), torch.cat([past[1].to(v.dtype), v], 2))
        x = x + self.self_attn.attend(q, keys, values, bias)
        if clean < x.shape[1]:
            told = x[:, clean:] + self.cross_attn(self.cross_attend_norm(x[:, clean:]), *text)
            x = torch.cat([x[:, :clean], told], 1) if clean else told
        return x + self.ff(self.ff_norm(x)), k, v


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.project_in = nn.Linear(config.latent_channels, config.width, bias=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.project_out = nn.Linear(config.width, config.latent_channels, bias=False)
        self.rotary_pos_emb = RotaryPositions(config.rotary_width)

    def forward(
        self, x: Tensor, rotation: Rotation, bias: Tensor | None, past: KeyValues | None, text: KeyValues, clean: int
    ) -> tuple[Tensor, KeyValues]:
        """Tokens (B, T, D), past (L, B, H, P, E) -> hidden (B, T, D), own keys and values (L, B, H, T, E).

        bias: (T, P + T) or broadcastable to (B, H, T, P + T), added to the attention logits.
        """
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            old = None if past is None else (past[0][i], past[1][i])
            x, k, v = layer(x, rotation, bias, old, (text[0][i], text[1][i]), clean)
            keys.append(k)
            values.append(v)
        return x, (torch.stack(keys), torch.stack(values))


class TimestepFeatures(nn.Module):
    """[cos, sin](2 pi t w) with fixed random w; always float32: in fp16 the angle would be off by 0.1 rad."""

    weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(width // 2, 1) * 16)

    def forward(self, t: Tensor) -> Tensor:
        """Noise levels (B,) in [0, 1] -> (B, width)."""
        angle = 2 * math.pi * t.to(self.weight.device).float()[:, None] * self.weight.float().T
        return torch.cat([angle.cos(), angle.sin()], -1)


class LMDM(nn.Module):
    """The model's parts as a caller combines them: tokens in, `transformer`, velocity out.

    Velocity is that of rectified flow: x_t = (1 - t) x0 + t noise, v = noise - x0, so x0 = x_t - t v.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.latent_channels
        self.timestep_features = TimestepFeatures(256)
        self.to_timestep_embed = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.to_cond_embed = _embed(config.text_channels, width)
        self.to_global_embed = _embed(config.text_channels, width)
        self.to_input_add_embed = nn.Linear(config.input_add_channels, width, bias=False)
        if config.sketch_channels:
            self.to_sketch_embed = nn.Linear(config.sketch_channels + 1, width, bias=False)
        self.preprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        if config.skip:
            self.to_skip = nn.Linear(width, channels)
        self.transformer = Transformer(config)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """As the base model starts: every residual branch, and both 1x1 convolutions, add nothing."""
        for layer in self.transformer.layers:
            assert isinstance(layer, Layer)
            for branch in (layer.self_attn.to_out, layer.cross_attn.to_out, layer.ff.ff[2]):
                nn.init.zeros_(branch.weight)
        nn.init.zeros_(self.preprocess_conv.weight)
        nn.init.zeros_(self.postprocess_conv.weight)
        if self.config.skip:
            nn.init.zeros_(self.to_skip.weight)
            nn.init.zeros_(self.to_skip.bias)

    def text(self, states: Tensor) -> KeyValues:
        """Text token states (B, S, text channels), pad rows zero -> keys and values (L, B, H, S, E), once per prompt."""
        told = self.to_cond_embed(states)
        pairs = [layer.cross_attn.keys_values(told) for layer in self.transformer.layers]
        return torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])

    def global_tokens(self, t: Tensor, pooled: Tensor) -> Tensor:
        """Noise levels (B,) and pooled text (B or 1, text channels) -> (B, D)."""
        return self.to_global_embed(pooled) + self.to_timestep_embed(self.timestep_features(t))

    def clean_tokens(self, clean: Tensor, partner: Tensor | None = None) -> Tensor:
        """Clean latents (B, T, C) and what the partner played (B, T, 1 + C; see target_tokens) -> (B, T, D).

        No noise level, no text: their keys and values can be cached.
        """
        mask = torch.ones_like(clean[..., :1])
        tokens = F.linear(torch.cat([mask, clean], -1), self.to_input_add_embed.weight[:, : clean.shape[-1] + 1])
        return tokens if partner is None else tokens + self.partner_embed(partner)

    def partner_embed(self, partner: Tensor) -> Tensor:
        """(B, T, 1 + C) -> (B, T, D)"""
        return F.linear(partner, self.to_input_add_embed.weight[:, self.config.latent_channels + 1 :])

    def target_tokens(self, noisy: Tensor, sketch: Tensor | None = None, partner: Tensor | None = None) -> Tensor:
        """Noisy latents (B, T, C) with what is known about the target -> (B, T, D).

        sketch (B, T, 1 + sketch channels) and partner (B, T, 1 + C) start with a presence channel: 0 where nothing is known (and
        then all of the row is zero), so that "unknown" is not mistaken for silence. A sketch's presence is 1 minus how far the
        answer may stray from it; a partner's is 1 / (1 + lag) for rows that were played `lag` blocks before this token.
        """
        mixed = self.preprocess_conv(noisy.transpose(1, 2)).transpose(1, 2) + noisy
        tokens = self.transformer.project_in(mixed)
        if sketch is not None:
            tokens = tokens + self.to_sketch_embed(sketch)
        if partner is not None:
            tokens = tokens + self.partner_embed(partner)
        return tokens

    def velocity(self, hidden: Tensor, noisy: Tensor, global_tokens: Tensor) -> Tensor:
        """Hidden states of target tokens (B, T, D), their noisy latents (B, T, C), global tokens (B, n, D) of n blocks -> v (B, T, C).

        Most of the velocity of a channel that nothing else tells much about is its own noisy value, times what only the level decides.
        With `skip` that goes past the transformer, whose width is then there for what there is to say.
        """
        v = self.transformer.project_out(hidden)
        v = self.postprocess_conv(v.transpose(1, 2)).transpose(1, 2) + v
        if not self.config.skip:
            return v
        blocks = noisy.unflatten(1, (global_tokens.shape[1], -1))
        return v + (blocks * self.to_skip(global_tokens)[:, :, None]).flatten(1, 2)

    def forward(
        self,
        clean: Tensor,
        noisy: Tensor,
        targets: Tensor,
        global_tokens: Tensor,
        rotation: Rotation,
        bias: Tensor | None,
        past: KeyValues | None,
        text: KeyValues,
    ) -> tuple[Tensor, KeyValues]:
        """One pass over [clean | target | global] tokens -> v of the targets, keys and values of the clean tokens. `noisy` are the latents
        that the target tokens were made of.

        This one function is training (n clean and n target blocks, n global tokens), the first denoising step of a block
        (the pending clean block fused in) and every further step (no clean tokens).
        """
        tokens = torch.cat([clean, targets, global_tokens], 1)
        n, m = clean.shape[1], targets.shape[1]
        hidden, (keys, values) = self.transformer(tokens, rotation, bias, past, text, clean=n)
        return self.velocity(hidden[:, n : n + m], noisy, global_tokens), (keys[..., :n, :], values[..., :n, :])

    def commit(self, clean: Tensor, rotation: Rotation, bias: Tensor | None, past: KeyValues | None) -> KeyValues:
        """Clean tokens (B, T, D) -> their keys and values (L, B, H, T, E), without making anything."""
        x, keys, values = clean, [], []
        *body, last = self.transformer.layers
        for i, layer in enumerate(body):
            old = None if past is None else (past[0][i], past[1][i])
            x, k, v = layer(x, rotation, bias, old, (x, x), clean=x.shape[1])
            keys.append(k)
            values.append(v)
        _, k, v = last.self_attn.queries_keys_values(last.pre_norm(x), rotation)  # nothing reads the last layer's output
        return torch.stack([*keys, k]), torch.stack([*values, v])


def _embed(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, width, bias=False), nn.SiLU(), nn.Linear(width, width, bias=False))

"""The engine that plays: one LMDM, streamed block by block over its cached context. numpy and a backend, no torch.

A block in order: encode what was heard -> denoise K times -> decode. The clean result is committed to the context by the *next*
block's first step, fused with it, which saves a pass. The context is a ring of W blocks: attention does not care
about order, positions are absolute and keys are stored rotated, so a new block overwrites the oldest and nothing else moves.

Shapes: N latents per block, C latent channel, P cached latents (W N), L layer, H head, E head width.
Runs in: the worker process, or alone (evaluation, tests); one thread.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backend import Backend, Weights
from engines.bundle import Bundle
from engines.engine import Audio, EngineControls, Stamp, no_stamp
from engines.lmdm import sampler
from engines.lmdm.config import HIDDEN, ModelConfig, Regime

Array = NDArray[np.float32]

KNEE = 0.8  # magnitude up to which the answer is left as it is
NULL_PROMPT = -1  # the index of no words at all, which guidance steers away from


def soften(audio: Audio) -> Audio:
    """Bend what is beyond KNEE so that it stays below full scale: a loud attack may be answered louder than a converter can play."""
    size = np.abs(audio)
    bent = KNEE + (1 - KNEE) * np.tanh((size - KNEE) / (1 - KNEE))
    return np.where(size > KNEE, np.copysign(bent, audio), audio).astype(np.float32)


class Rotary:
    """cos and sin of absolute positions, from float64 angles."""

    def __init__(self, inv_freq: Array) -> None:
        self.inv_freq = inv_freq.astype(np.float64)

    def __call__(self, positions: NDArray[np.int64]) -> dict[str, Array]:
        angles = positions[:, None] * self.inv_freq
        angles = np.concatenate([angles, angles], 1)
        return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


@dataclass
class Cache:
    """Keys and values of the last W clean blocks, as a ring; `bias` hides rows that hold nothing."""

    keys: Array  # (L, 1, H, P, E)
    values: Array
    bias: Array  # (P,)

    @classmethod
    def empty(cls, config: ModelConfig) -> Cache:
        shape = (config.layers, 1, config.heads, config.context_latents, config.head_width)
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.full(config.context_latents, HIDDEN, np.float32))

    def inputs(self) -> dict[str, Array]:
        return {"cache_bias": self.bias, "cache_keys": self.keys, "cache_values": self.values}

    def store(self, rows: slice, keys: Array, values: Array) -> None:
        self.keys[..., rows, :] = keys
        self.values[..., rows, :] = values
        self.bias[rows] = 0


@dataclass
class StreamState:
    """Everything that one block leaves behind for the next; a deep copy of it is a save, putting it back a restore."""

    cache: Cache
    window: Array  # (1, P, C) the clean blocks themselves, enc-dec only; a ring with the same rows as the cache
    heard: Audio  # the last samples of the input, which the next block's analysis windows reach back to
    decoder: dict[str, Array]
    pending: Array | None = None  # (1, N, C) clean, not committed yet
    block: int = 0  # index of the next block; positions and noise follow from it
    seed: int = 0


@dataclass(frozen=True)
class Told:
    """A prompt, as the graphs take it."""

    text: dict[str, Array]
    levels: dict[int, Array]  # steps -> (steps, 1, 1, D) global tokens, one per noise level


@dataclass(frozen=True)
class LmdmFacts:
    """What a bundle's manifest says of its LMDM, beside the EngineSpec."""

    config: ModelConfig
    spacing: sampler.Spacing
    ping_pong: bool  # fresh noise between steps, for post-trained models; Euler steps where not
    guidance: float  # classifier-free guidance towards the words; 1 is none and costs nothing
    use_partner: bool  # whether the target is also told the latents that were heard, beside their sketch
    history_frames: int  # samples of input that the analysis reaches back to
    decoder_state: tuple[str, ...]  # names of the decode graph's state, in order

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> LmdmFacts:
        config = ModelConfig(**{**facts["config"], "regime": Regime(facts["config"]["regime"])})
        state = tuple(facts["decoder_state"])
        spacing, guidance = sampler.Spacing(facts["spacing"]), float(facts["guidance"])
        ping_pong, partner = bool(facts.get("ping_pong", False)), bool(facts["use_partner"])
        return cls(config, spacing, ping_pong, guidance, partner, int(facts["history_frames"]), state)


class StreamingEngine:
    """See engines.engine.Engine."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.facts = LmdmFacts.of(bundle.manifest.facts["model"])
        self.spec, self.config = bundle.manifest.spec, self.facts.config
        causal = self.config.regime is Regime.BLOCK_CAUSAL
        names = ["encode", "prompt", "step", "decode", *(("first", "commit") if causal else ("context",))]
        self.weights = Weights.of(bundle)
        self.graphs = {name: backend.load(bundle.read(f"{name}.onnx"), self.weights.for_graph(name)) for name in names}
        self.rotary = Rotary(self.weights.array("inv_freq"))
        self._told: dict[int, Told] = {}
        self.reset(0)

    @classmethod
    def open(cls, bundle: Bundle, threads: int = 1) -> StreamingEngine:
        """The engine on the CPU, by ONNX Runtime."""
        from engines.ort import OrtBackend

        return cls(bundle, OrtBackend(threads))

    def reset(self, seed: int) -> None:
        config = self.config
        self.state = StreamState(
            Cache.empty(config),
            np.zeros((1, config.context_latents, config.latent_channels), np.float32),
            np.zeros(self.facts.history_frames, np.float32),
            {name: self.weights.array(f"decoder/{name}") for name in self.facts.decoder_state},
            seed=seed,
        )

    def save(self) -> StreamState:
        return copy.deepcopy(self.state)

    def restore(self, state: StreamState) -> None:
        self.state = copy.deepcopy(state)

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        latents, sketch = self._hear(block)
        stamp("encoded")
        steps = min(controls.steps or self.spec.steps, self.spec.max_steps)
        clean = self._denoise(self._target(latents, sketch), self.told(controls.prompt), steps, stamp)
        self.state.pending = clean
        self.state.block += 1
        samples = soften(self._decode(clean))
        stamp("decoded")
        return samples

    def prefill(self, block: Audio) -> None:
        latents, _ = self._hear(block)
        self._commit_pending()
        self.state.pending = latents
        self.state.block += 1

    def told(self, prompt: int) -> Told:
        """Run the prompt graph once per prompt and keep the result."""
        if prompt not in self._told:
            levels = {}
            text: dict[str, Array] = {}
            states, pooled = (self.weights.array(f"prompt/{prompt}/{part}").astype(np.float32) for part in ("states", "pooled"))
            for steps in range(1, self.spec.max_steps + 1):
                times = np.zeros(self.spec.max_steps, np.float32)
                times[:steps] = sampler.schedule(steps, self.facts.spacing)[:-1]
                keys, values, told = self.graphs["prompt"]({"states": states, "pooled": pooled, "times": times})
                text = {"text_keys": keys, "text_values": values}
                levels[steps] = told[:steps, None, None]
            self._told[prompt] = Told(text, levels)
        return self._told[prompt]

    def _hear(self, block: Audio) -> tuple[Array, Array]:
        """Analyse one block of input -> latents (1, N, C), sketch (1, N, S)."""
        audio = np.concatenate([self.state.heard, block])
        self.state.heard = audio[-self.facts.history_frames :]
        latents, sketch = self.graphs["encode"]({"audio": audio[None]})
        return latents, sketch

    def _target(self, latents: Array, sketch: Array) -> dict[str, Array]:
        """What is known about the block to make, with presence channels."""
        here = np.ones((1, self.config.block_latents, 1), np.float32)
        partner = np.concatenate([here, latents], 2)
        return {"sketch_rows": np.concatenate([here, sketch], 2), "partner": partner if self.facts.use_partner else np.zeros_like(partner)}

    def _denoise(self, target: dict[str, Array], told: Told, steps: int, stamp: Stamp) -> Array:
        """Noise -> one clean block (1, N, C)."""
        state, times = self.state, sampler.schedule(steps, self.facts.spacing)
        shape = (self.config.block_latents, self.config.latent_channels)
        x = sampler.block_noise(state.seed, state.block, 0, shape)[None]
        if self.config.regime is Regime.ENC_DEC:
            self._commit_pending()
        for step, level in enumerate(told.levels[steps]):
            inputs = {"noisy": x, **target, "told": level, **told.text}
            v = self._step(inputs) if state.pending is None else self._first(inputs, state.pending)
            if self.facts.guidance != 1:
                null = self.told(NULL_PROMPT)
                v_null = self._step({**inputs, "told": null.levels[steps][step], **null.text})
                v = sampler.guide(v, v_null, np.float32(self.facts.guidance))
            t, t_next = np.float32(times[step]), np.float32(times[step + 1])
            fresh = sampler.block_noise(state.seed, state.block, step + 1, shape) if self.facts.ping_pong else None
            x = sampler.euler(x, v, t, t_next) if fresh is None else sampler.ping_pong(x, v, t, t_next, fresh)
            stamp("step")
        return x

    def _own_positions(self) -> NDArray[np.int64]:
        """Of the target's latents and its global token."""
        n, block = self.config.block_latents, self.state.block
        return np.append(np.arange(block * n, (block + 1) * n), self.config.global_position(block))

    def _pending_positions(self) -> NDArray[np.int64]:
        n, block = self.config.block_latents, self.state.block
        return np.arange((block - 1) * n, block * n)

    def _pending_rows(self) -> slice:
        """The ring's rows for the pending block: those of the oldest one."""
        n = self.config.block_latents
        at = (self.state.block - 1) % self.config.context_blocks * n
        return slice(at, at + n)

    def _step(self, inputs: dict[str, Array]) -> Array:
        v: Array = self.graphs["step"]({**inputs, **self.rotary(self._own_positions()), **self.state.cache.inputs()})[0]
        return v

    def _first(self, inputs: dict[str, Array], pending: Array) -> Array:
        """The first step of a block, with the block before committed on the way."""
        cache, rows = self.state.cache, self._pending_rows()
        cache.bias[rows] = HIDDEN  # the oldest block leaves the window now
        positions = np.concatenate([self._pending_positions(), self._own_positions()])
        v: Array
        v, keys, values = self.graphs["first"]({"pending": pending, **inputs, **self.rotary(positions), **cache.inputs()})
        cache.store(rows, keys, values)
        self.state.pending = None
        return v

    def _commit_pending(self) -> None:
        """Put the pending block into the context without making anything."""
        if self.state.pending is None:
            return
        cache, rows = self.state.cache, self._pending_rows()
        if self.config.regime is Regime.ENC_DEC:
            self.state.window[:, rows] = self.state.pending
            cache.bias[rows] = 0
            inputs = {"clean": self.state.window, **self.rotary(self._window_positions()), "cache_bias": cache.bias}
            cache.keys, cache.values = self.graphs["context"](inputs)
        else:
            cache.bias[rows] = HIDDEN
            inputs = {"clean": self.state.pending, **self.rotary(self._pending_positions()), **cache.inputs()}
            cache.store(rows, *self.graphs["commit"](inputs))
        self.state.pending = None

    def _window_positions(self) -> NDArray[np.int64]:
        """Enc-dec: the absolute position of every row of the ring."""
        held = self.config.context_latents
        newest = self.state.block * self.config.block_latents  # the first position that the window does not hold
        rows = np.arange(held)
        return newest - 1 - (newest - 1 - rows) % held

    def _decode(self, clean: Array) -> Audio:
        outputs = self.graphs["decode"]({"latents": clean, **self.state.decoder})
        self.state.decoder = dict(zip(self.state.decoder, outputs[1:], strict=True))
        return outputs[0]

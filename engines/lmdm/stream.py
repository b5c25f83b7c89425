"""The engine that plays: one LMDM, streamed block by block over its cached context. numpy and a backend, no torch.

A block in order: encode what was heard -> denoise K times -> decode. The clean result is committed to the context by the *next*
block's first step, fused with it, which saves a pass. The context is a ring of W blocks: attention does not care
about order, positions are absolute and keys are stored rotated, so a new block overwrites the oldest and nothing else moves.

Shapes: N latents per block, C latent channel, P cached latents (W N), L layer, H head, E head width, G ways in which a step asks for the
velocity: as the model is told, and in an engine with guidance also as it would be without words, in the same pass.
Runs in: the worker process, or alone (evaluation, tests); one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backend import Backend, BlockJob, Pass, Ring, Weights
from engines.bundle import Bundle
from engines.engine import JAM_BLOCKS, Audio, EngineControls, EngineState, Stamp, no_stamp
from engines.lmdm import block as whole
from engines.lmdm import sampler
from engines.lmdm.cache import Cache, Rotary
from engines.lmdm.config import HIDDEN, LOUDNESS_VALUES, PEAKS, ROWS_PER_LATENT, ModelConfig, Regime, sketch_peaks, sketched
from engines.lmdm.state import Heard, StreamState
from engines.lmdm.words import NULL_PROMPT, Mix, Told, Vocabulary
from engines.prompts import PromptShelf

Array = NDArray[np.float32]

KEPT_BLOCKS = 3  # of the context, when the words change: old sound must not outvote them
KNEE = 0.8  # magnitude up to which the answer is left as it is
SILENT_DBFS, REST_BLOCKS = -72.0, 3  # so many blocks of no more than that are a rest, which is answered by one


def soften(audio: Audio) -> Audio:
    """Bend what is beyond KNEE so that it stays below full scale: a loud attack may be answered louder than a converter can play."""
    size = np.abs(audio)
    bent = KNEE + (1 - KNEE) * np.tanh((size - KNEE) / (1 - KNEE))
    return np.where(size > KNEE, np.copysign(bent, audio), audio).astype(np.float32)


def stray(sketch: Array, share: float) -> Array:
    """Keep the strongest peaks of every constant-Q row of a sketch (1, N, S), the fewer the larger `share`; at 1 nothing at all."""
    peaks = sketch_peaks(share)
    if peaks == PEAKS:
        return sketch
    rows = sketch[..., : -LOUDNESS_VALUES].reshape(*sketch.shape[:2], ROWS_PER_LATENT, -1)
    threshold = np.partition(rows, -max(peaks, 1), -1)[..., -max(peaks, 1), None]
    kept = np.where(rows >= threshold, rows, 0).reshape(*sketch.shape[:2], -1)
    return np.concatenate([kept, sketch[..., -LOUDNESS_VALUES:]], -1) * np.float32(peaks > 0)


@dataclass(frozen=True)
class Known:
    """What the model is told about one block beside the words, with presence channels."""

    sketch_rows: Array  # (1, N, 1 + S)
    partner: Array  # (1, N, 1 + C)

    def inputs(self, ways: int) -> dict[str, Array]:
        """For the graphs. What guidance steers away from knows this much: a follower all, one who jams nothing of the partner."""
        follows = self.sketch_rows[..., :1] > 0
        partners = [self.partner, self.partner * follows]
        return {"sketch_rows": np.repeat(self.sketch_rows, ways, 0), "partner": np.concatenate(partners[:ways])}


@dataclass(frozen=True)
class LmdmFacts:
    """What a bundle's manifest says of its LMDM, beside the EngineSpec."""

    config: ModelConfig
    spacing: sampler.Spacing
    solver: sampler.Solver
    guidance: float  # classifier-free guidance towards words and partner; 1 is none and costs nothing
    use_partner: bool  # whether the target is also told the latents that were heard, beside their sketch
    history_frames: int  # samples of input that the analysis reaches back to
    decoder_state: tuple[str, ...]  # names of the decode graph's state, in order
    regression: bool  # a baseline that was trained without noise, and starts from none

    @property
    def ways(self) -> int:
        return sampler.ways(self.guidance)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> LmdmFacts:
        config = ModelConfig(**{**facts["config"], "regime": Regime(facts["config"]["regime"])})
        state = tuple(facts["decoder_state"])
        spacing, guidance = sampler.Spacing(facts["spacing"]), float(facts["guidance"])
        older = sampler.Solver.PING_PONG if facts.get("ping_pong") else sampler.Solver.EULER  # what bundles said before they had a solver
        solver, partner = sampler.Solver(facts.get("solver", older)), bool(facts["use_partner"])
        regression = bool(facts.get("regression", False))
        return cls(config, spacing, solver, guidance, partner, int(facts["history_frames"]), state, regression)


class StreamingEngine:
    """See engines.engine.Engine."""

    def __init__(self, bundle: Bundle, backend: Backend, shelf: PromptShelf = PromptShelf()) -> None:  # noqa: B008
        self.facts = LmdmFacts.of(bundle.manifest.facts["model"])
        spec, self.config = bundle.manifest.spec, self.facts.config
        causal = self.config.regime is Regime.BLOCK_CAUSAL
        names = ["encode", "prompt", "step", "decode", *(("first", "commit") if causal else ("context",))]
        self.weights = Weights.of(bundle)
        self.graphs = {name: backend.load(bundle.read(f"{name}.onnx"), self.weights.for_graph(name)) for name in names}
        self.runner, self.runs_on, self._backend = backend.block_runner(self.graphs), backend.name, backend
        spacing, ways = self.facts.spacing, self.facts.ways
        self.vocabulary = Vocabulary(self.graphs["prompt"], self.weights, spec, self.config, spacing, ways, shelf)
        self.spec = replace(spec, prompts=self.vocabulary.words)
        self.rotary = Rotary(self.weights.array("inv_freq"))
        self.jam_lag_blocks = JAM_BLOCKS
        self.reset(0)

    @classmethod
    def open(
        cls, bundle: Bundle, threads: int = 1, backend: str = "onnxruntime", shelf: PromptShelf = PromptShelf()  # noqa: B008
    ) -> StreamingEngine:
        """The engine on the runtime of that name, "auto" among them (engines.backends)."""
        from engines.backends import Need, choose

        choice = choose(backend, Need(bundle, threads))
        engine = cls(bundle, choice.backend, shelf)
        engine.runs_on = choice.says
        return engine

    def reset(self, seed: int) -> None:
        config = self.config
        self.state = StreamState(
            Cache.empty(config),
            np.zeros((1, config.context_latents, config.latent_channels), np.float32),
            np.zeros((1, config.context_latents, config.latent_channels + 1), np.float32),
            np.zeros(self.facts.history_frames, np.float32),
            [],
            {name: self.weights.array(f"decoder/{name}") for name in self.facts.decoder_state},
            seed=seed,
        )

    @property
    def backend(self) -> str:
        return self._backend.name

    def save(self) -> EngineState:
        return self.state.save(self.config)

    def restore(self, state: EngineState) -> None:
        self.state = StreamState.restored(state)

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        heard = self._hear(block, controls.freeze)
        known = self._known(heard, controls)
        stamp("encoded")
        steps = min(controls.steps or self.spec.steps, self.spec.max_steps)
        clean = self._denoise(known, self._listen(controls, steps), steps, stamp)
        self._leave(heard.latents if self._rests(heard, controls) else clean, known.partner)
        samples = soften(self._decode())
        stamp("decoded")
        return samples

    def prefill(self, block: Audio) -> None:
        heard = self._hear(block, freeze=False)
        self._commit_pending()
        self._leave(heard.latents, self._known(heard, EngineControls()).partner)

    def _listen(self, controls: EngineControls, steps: int) -> Told:
        """What the words are now. When others weigh most than did before, old sound is dropped."""
        mix = Mix.of(controls)
        if self.state.words not in (mix.strongest, NULL_PROMPT):
            self._forget(KEPT_BLOCKS)
        self.state.words = mix.strongest
        return self.vocabulary.mixed(mix, steps)

    def _forget(self, blocks: int) -> None:
        """Hide all of the context but the newest `blocks` blocks."""
        n, held = self.config.block_latents, self.config.context_blocks
        newest = self.state.block - (self.state.pending is not None)  # the first block that is not in the cache
        kept = {(newest - age) % held for age in range(1, blocks + 1)}
        for row in set(range(held)) - kept:
            self.state.cache.bias[row * n : (row + 1) * n] = HIDDEN

    def _hear(self, block: Audio, freeze: bool) -> Heard:
        """Analyse one block of input. While frozen, what was heard before goes round instead."""
        audio = np.concatenate([self.state.audio, block])
        self.state.audio = audio[-self.facts.history_frames :]
        loop, held = self.state.loop, self.config.context_blocks
        if freeze and loop:
            return loop[self.state.block % len(loop)]
        latents, sketch = self.graphs["encode"]({"audio": audio[None]})
        heard = Heard(latents, sketch)
        if len(loop) < held:
            loop.append(heard)
        else:
            loop[self.state.block % held] = heard
        return heard

    def _rests(self, heard: Heard, controls: EngineControls) -> bool:
        """One who follows has heard nothing for a while: silence is the answer, and what the context holds, not the model's faint idea
        of it. It is denoised all the same, so that a rest takes as long as music."""
        if controls.jam or controls.freeze or controls.stray == 1:
            return False
        loop, held = self.state.loop, self.config.context_blocks
        newest = loop[-REST_BLOCKS:] if len(loop) < held else [loop[(self.state.block - age) % held] for age in range(REST_BLOCKS)]
        return max(float(one.sketch[..., -LOUDNESS_VALUES:].max()) for one in (heard, *newest)) < sketched(SILENT_DBFS)

    def _known(self, heard: Heard, controls: EngineControls) -> Known:
        """A jamming partner is heard as a partner and leaves no sketch; a player who is followed leaves both, unless we may stray."""
        here = np.ones((1, self.config.block_latents, 1), np.float32)
        lag = self.jam_lag_blocks if controls.jam else 0
        partner = np.concatenate([here / (1 + lag), heard.latents], 2)
        if not (controls.jam or (self.facts.use_partner and controls.stray == 0)):
            partner = np.zeros_like(partner)
        sketch = np.concatenate([here * (1 - controls.stray), stray(heard.sketch, controls.stray)], 2)
        return Known(np.zeros_like(sketch) if controls.jam else sketch, partner)

    def _denoise(self, known: Known, told: Told, steps: int, stamp: Stamp) -> Array:
        """Noise -> one clean block (1, N, C)."""
        state, before, solver = self.state, None, sampler.steps(sampler.schedule(steps, self.facts.spacing), self.facts.solver)
        shape = (self.config.block_latents, self.config.latent_channels)
        x = sampler.block_noise(state.seed, state.block, 0, shape)[None] * np.float32(not self.facts.regression)
        if self.config.regime is Regime.ENC_DEC:
            self._commit_pending()
        target = known.inputs(self.facts.ways)
        if (clean := self._denoise_at_once(x, target, told, solver)) is not None:
            for _ in range(steps):
                stamp("step")
            return clean
        for k, (step, level) in enumerate(zip(solver, told.levels, strict=True)):
            inputs = {"noisy": x, **target, "told": level, **told.text}
            v = self._step(inputs) if state.pending is None else self._first(inputs, state.pending)
            if self.facts.ways == 2:
                v = sampler.guide(v[:1], v[1:], np.float32(self.facts.guidance))
            fresh = sampler.block_noise(state.seed, state.block, k + 1, shape) if step.noise else None
            x, before = step(x, v, before, fresh), v
            stamp("step")
        return x

    def _leave(self, clean: Array, partner: Array) -> None:
        """A finished block waits to be committed by the next one."""
        self.state.pending, self.state.pending_partner = clean, partner
        self.state.block += 1

    def _denoise_at_once(self, x: Array, target: dict[str, Array], told: Told, solver: list[sampler.Step]) -> Array | None:
        """The same by the backend's own runner of blocks; None if there is none, or it can't."""
        if self.runner is None:
            return None
        cache, rows = self.state.cache, self._pending_rows()
        job = BlockJob(x, self._passes(target, told, solver), Ring(cache.keys, cache.values, cache.edition), rows.start)
        result = self.runner.denoise(job)
        if result is None:
            return None
        if result.committed:
            cache.store(rows, *result.committed)
            self.state.pending = None
            self.runner.holds(cache.edition)
        return result.clean

    def _passes(self, target: dict[str, Array], told: Told, solver: list[sampler.Step]) -> tuple[Pass, ...]:
        state, cache, rows = self.state, self.state.cache, self._pending_rows()
        shape = (self.config.block_latents, self.config.latent_channels)
        step, first = {**target, **self.rotary(self._own_positions()), "cache_bias": cache.bias}, None
        if state.pending is not None and state.pending_partner is not None:
            positions = np.concatenate([self._pending_positions(), self._own_positions()])
            played = {"pending": state.pending, "pending_partner": state.pending_partner}
            first = {**played, **target, **self.rotary(positions), "cache_bias": cache.bias_with(rows, HIDDEN)}
            step["cache_bias"] = cache.bias_with(rows, 0)
        noise = [sampler.block_noise(state.seed, state.block, k + 1, shape) if one.noise else None for k, one in enumerate(solver)]
        return whole.passes(first, step, told, whole.Steps(solver, self.facts.guidance, noise))

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
        assert self.state.pending_partner is not None
        played = {"pending": pending, "pending_partner": self.state.pending_partner}
        v, keys, values = self.graphs["first"]({**played, **inputs, **self.rotary(positions), **cache.inputs()})
        cache.store(rows, keys, values)
        self.state.pending = None
        return v

    def _commit_pending(self) -> None:
        """Put the pending block into the context without making anything."""
        if self.state.pending is None or self.state.pending_partner is None:
            return
        cache, rows = self.state.cache, self._pending_rows()
        if self.config.regime is Regime.ENC_DEC:
            self.state.window[:, rows], self.state.window_partner[:, rows] = self.state.pending, self.state.pending_partner
            cache.bias[rows] = 0
            clean = {"clean": self.state.window, "partner": self.state.window_partner}
            inputs = {**clean, **self.rotary(self._window_positions()), "cache_bias": cache.bias}
            cache.replace(*self.graphs["context"](inputs))
        else:
            cache.bias[rows] = HIDDEN
            clean = {"clean": self.state.pending, "partner": self.state.pending_partner}
            inputs = {**clean, **self.rotary(self._pending_positions()), **cache.inputs()}
            cache.store(rows, *self.graphs["commit"](inputs))
        self.state.pending = None

    def _window_positions(self) -> NDArray[np.int64]:
        """Enc-dec: the absolute position of every row of the ring."""
        held = self.config.context_latents
        newest = self.state.block * self.config.block_latents  # the first position that the window does not hold
        rows = np.arange(held)
        return newest - 1 - (newest - 1 - rows) % held

    def _decode(self) -> Audio:
        assert self.state.pending is not None
        outputs = self.graphs["decode"]({"latents": self.state.pending, **self.state.decoder})
        self.state.decoder = dict(zip(self.state.decoder, outputs[1:], strict=True))
        return outputs[0]

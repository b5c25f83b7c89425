"""What an engine can be told: the prompts of its bundle, then the player's own, and mixtures of two.

Text keys and values are computed once per prompt, global tokens once per prompt and number of steps. Shapes as in model.py; S text
token, X text channel. Runs in: the worker process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.backend import Weights
from engines.engine import EngineControls, EngineSpec
from engines.lmdm import sampler
from engines.lmdm.config import ModelConfig
from engines.prompts import PromptShelf

Array = NDArray[np.float32]
Graph = Callable[[Mapping[str, Array]], list[Array]]

NULL_PROMPT = -1  # the index of no words at all, which guidance steers away from
MORPH_GRAIN = 32  # steps that a morph is rounded to, so that a knob at rest costs nothing


@dataclass(frozen=True)
class Told:
    """Words, as the graphs take them: alone, or (G = 2) with no words beside them, for guidance to steer away from."""

    text: dict[str, Array]  # keys and values, each (L, G, H, S, E)
    levels: Array  # (steps, G, 1, D) global tokens, one per noise level

    def beside(self, other: Told) -> Told:
        text = {name: np.concatenate([array, other.text[name]], 1) for name, array in self.text.items()}
        return Told(text, np.concatenate([self.levels, other.levels], 1))


@dataclass(frozen=True)
class Mix:
    """Two prompts and the weight of the second."""

    first: int
    second: int
    weight: float

    @classmethod
    def of(cls, controls: EngineControls) -> Mix:
        weight = round(controls.morph * MORPH_GRAIN) / MORPH_GRAIN
        second = controls.second_prompt if weight else controls.prompt
        return cls(controls.prompt if weight < 1 else second, second, weight)

    @property
    def strongest(self) -> int:
        return self.second if self.weight > 0.5 else self.first


class Vocabulary:
    """All prompts of one engine; `words` are their texts, in the order of their indices."""

    def __init__(
        self, graph: Graph, weights: Weights, spec: EngineSpec, config: ModelConfig, spacing: sampler.Spacing, ways: int, shelf: PromptShelf
    ) -> None:
        self.graph, self.weights, self._own = graph, weights, len(spec.prompts)
        self.max_steps, self.spacing, self.ways = spec.max_steps, spacing, ways
        self.shelf = shelf.fitting(config.text_tokens, config.text_channels)
        self.words = spec.prompts + self.shelf.words
        self._told: dict[tuple[int, int], Told] = {}
        self._nothing: dict[int, Told] = {}  # no words at all, by the number of steps
        self._mixed: tuple[tuple[Mix, int] | None, Told] = (None, Told({}, np.zeros(0, np.float32)))

    def told(self, prompt: int, steps: int) -> Told:
        """One prompt, for a block of so many steps; kept."""
        if (prompt, steps) not in self._told:
            found = self._tell(*self._embedding(prompt), steps)
            same = next((told.text for (other, _), told in self._told.items() if other == prompt), found.text)
            self._told[prompt, steps] = Told(same, found.levels)
        return self._told[prompt, steps]

    def mixed(self, mix: Mix, steps: int) -> Told:
        """Two prompts mixed by weight (arXiv 2605.22717: embeddings are mixed per block); the last mixture is kept."""
        if mix.first == mix.second:
            return self.told(mix.first, steps)
        if self._mixed[0] != (mix, steps):
            pairs = zip(self._embedding(mix.first), self._embedding(mix.second), strict=True)
            states, pooled = (((1 - mix.weight) * first + mix.weight * second).astype(np.float32) for first, second in pairs)
            self._mixed = (mix, steps), self._tell(states, pooled, steps)
        return self._mixed[1]

    def _embedding(self, prompt: int) -> tuple[Array, Array]:
        """Token states (1, S, X) and their mean (1, X)."""
        if prompt >= self._own:
            stored = self.shelf.prompts[prompt - self._own]
            return stored.states.astype(np.float32), stored.pooled.astype(np.float32)
        states, pooled = (self.weights.array(f"prompt/{prompt}/{part}").astype(np.float32) for part in ("states", "pooled"))
        return states, pooled

    def _tell(self, states: Array, pooled: Array, steps: int) -> Told:
        words = self._alone(states, pooled, steps)
        if self.ways == 1:
            return words
        if steps not in self._nothing:
            self._nothing[steps] = self._alone(*self._embedding(NULL_PROMPT), steps)
        return words.beside(self._nothing[steps])

    def _alone(self, states: Array, pooled: Array, steps: int) -> Told:
        times = np.zeros(self.max_steps, np.float32)
        times[:steps] = sampler.schedule(steps, self.spacing)[:-1]
        keys, values, told = self.graph({"states": states, "pooled": pooled, "times": times})
        return Told({"text_keys": keys, "text_values": values}, told[:steps, None, None])

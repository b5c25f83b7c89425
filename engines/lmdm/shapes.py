"""Which graphs an LMDM needs, and what goes into each of them: known from its configuration, without torch and before a runtime sees them.

A config that says more than its graphs take would make a worker ask for any amount of memory. tests/engines/test_contents.py holds this
together with engines/export/graphs.py. Runs in: any process.
"""

from __future__ import annotations

from collections.abc import Mapping

from engines.lmdm.config import ModelConfig, Regime

Shapes = dict[str, tuple[int, ...]]


def graph_inputs(c: ModelConfig, max_steps: int, ways: int) -> Mapping[str, Shapes]:
    """Graph -> input -> shape, of all but `encode` and `decode`, which are the codec's. `ways`: see engines/export/graphs.py."""
    n, past, channels = c.block_latents, c.context_latents, c.latent_channels
    cache_shape, text_shape = (c.layers, 1, c.heads, past, c.head_width), (c.layers, ways, c.heads, c.text_tokens, c.head_width)
    cache: Shapes = {"cache_bias": (past,), "cache_keys": cache_shape, "cache_values": cache_shape}
    text: Shapes = {"text_keys": text_shape, "text_values": text_shape}
    target: Shapes = {
        "noisy": (1, n, channels),
        "sketch_rows": (ways, n, c.sketch_channels + 1),
        "partner": (ways, n, channels + 1),
        "told": (ways, 1, c.width),
    }
    graphs: dict[str, Shapes] = {
        "prompt": {"states": (1, c.text_tokens, c.text_channels), "pooled": (1, c.text_channels), "times": (max_steps,)},
        "step": {**target, **_rotation(c, n + 1), **cache, **text},
    }
    if c.regime is Regime.ENC_DEC:
        held: Shapes = {"clean": (1, past, channels), "partner": (1, past, channels + 1)}
        return {**graphs, "context": {**held, **_rotation(c, past), "cache_bias": (past,)}}
    clean: Shapes = {"pending": (1, n, channels), "pending_partner": (1, n, channels + 1)}
    graphs["first"] = {**clean, **target, **_rotation(c, 2 * n + 1), **cache, **text}
    graphs["commit"] = {"clean": (1, n, channels), "partner": (1, n, channels + 1), **_rotation(c, n), **cache}
    return graphs


def _rotation(c: ModelConfig, rows: int) -> Shapes:
    return {"cos": (rows, c.rotary_width), "sin": (rows, c.rotary_width)}

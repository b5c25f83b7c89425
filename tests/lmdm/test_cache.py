"""Cached equals uncached, training's pass equals streaming's, the future has no influence: the claims that define the model."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from engines.lmdm import sampler, visibility
from engines.lmdm.config import Regime
from engines.lmdm.model import LMDM
from engines.lmdm.rollout import Conditions, Sampling, rollout, seeded_noise
from engines.lmdm.sampler import Solver, Spacing

TOLERANCE = 1e-5
BLOCKS = 50


def conditions(model: LMDM, blocks: int, batch: int = 1) -> Conditions:
    c = model.config
    draw = torch.Generator().manual_seed(5)
    sketch = torch.randn(batch, blocks * c.block_latents, c.sketch_channels + 1, generator=draw)
    partner = torch.randn(batch, blocks * c.block_latents, c.latent_channels + 1, generator=draw)
    sketch[..., 0] = partner[..., 0] = 1
    states = torch.randn(batch, c.text_tokens, c.text_channels, generator=draw)
    return Conditions(states, torch.randn(batch, c.text_channels, generator=draw), sketch, partner)


def uncached_velocity(model: LMDM, told: Conditions, made: Tensor, noisy: Tensor, block: int, t: float) -> Tensor:
    """One pass without any cache over everything that the target may see, at absolute positions."""
    c = model.config
    n = c.block_latents
    first = max(0, block - c.context_blocks) if c.regime is Regime.ENC_DEC else 0
    clean = made[:, first * n : block * n]
    latents = torch.arange(clean.shape[1]) + first * n
    own = torch.arange(n) + block * n
    rotation = model.transformer.rotary_pos_emb(torch.cat([latents, own, torch.tensor([c.global_position(block)])]))
    at, rows = torch.cat([latents // n, torch.full((n + 1,), block)]), clean.shape[1]
    age = at[:, None] - at[None]
    if c.regime is Regime.ENC_DEC:
        visible = torch.ones_like(age, dtype=torch.bool)
    else:
        visible = (age >= 0) & (age < c.context_blocks)
        visible[rows:, :rows] = (age[rows:, :rows] > 0) & (age[rows:, :rows] <= c.context_blocks)
    visible[:rows, rows:] = False
    assert told.partner is not None
    context = model.clean_tokens(clean, told.partner[:, first * n : block * n])
    targets = model.target_tokens(noisy, *told.block(model, block))
    told_token = model.global_tokens(torch.tensor([t]), told.pooled)[:, None]
    v, _ = model(context, noisy, targets, told_token, rotation, visibility.as_bias(visible), None, model.text(told.states))
    return v


@torch.no_grad()
def test_cached_equals_uncached_over_50_blocks(model: LMDM) -> None:
    told, noise, times = conditions(model, BLOCKS), seeded_noise(1, 1, model), sampler.schedule(2, Spacing.LOG_SNR)
    cached = rollout(model, told, BLOCKS, Sampling(times), noise)
    made = cached[:, :0]
    for block in range(BLOCKS):
        x = noise(block, 0)
        for t, t_next in pairwise(times):
            x = x - (t - t_next) * uncached_velocity(model, told, made, x, block, t)
        made = torch.cat([made, x], 1)
    torch.testing.assert_close(made, cached, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [3, 5, 9])
def test_training_pass_equals_rollout(model: LMDM, blocks: int) -> None:
    """One training pass (all blocks side by side; enc-dec: the last one) makes what a rollout makes one block after the other."""
    n, t = model.config.block_latents, 1.0
    seen = visibility.trained(model.config, blocks)
    clean, targets = slice(seen.clean * n), slice(-seen.targets * n, None)
    told, noise = conditions(model, seen.blocks), seeded_noise(2, 1, model)
    assert told.sketch is not None and told.partner is not None
    made = rollout(model, told, seen.blocks, Sampling([t, 0.0]), noise)
    noisy = torch.cat([noise(block, 0) for block in range(seen.blocks)], 1)[:, targets]
    levels = model.global_tokens(torch.full((seen.targets,), t), told.pooled.expand(seen.targets, -1))[None]
    context = model.clean_tokens(made[:, clean], told.partner[:, clean])
    wanted = model.target_tokens(noisy, told.sketch[:, targets], told.partner[:, targets])
    rotation = model.transformer.rotary_pos_emb(seen.positions)
    v, _ = model(context, noisy, wanted, levels, rotation, visibility.as_bias(seen.visible), None, model.text(told.states))
    torch.testing.assert_close(noisy - t * v, made[:, targets], atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_a_shifted_stream_is_the_same_stream(causal: LMDM) -> None:
    """Only differences of positions matter, three hours in as at the start."""
    c = causal.config
    torch.manual_seed(0)
    tokens = torch.randn(1, 2 * c.block_latents, c.width)

    def keys_at(first: int) -> Tensor:
        rotation = causal.transformer.rotary_pos_emb(torch.arange(len(tokens[0])) + first)
        text = causal.text(torch.zeros(1, c.text_tokens, c.text_channels))
        hidden, _ = causal.transformer(tokens, rotation, None, None, text, clean=len(tokens[0]))
        return hidden

    torch.testing.assert_close(keys_at(230_000), keys_at(0), atol=2 * TOLERANCE, rtol=0)


def test_the_future_has_no_influence(model: LMDM) -> None:
    """The gradient of block b with respect to what is heard in later blocks is exactly zero; to its own block it is not."""
    blocks, n = 4, model.config.block_latents
    told = conditions(model, blocks)
    assert told.sketch is not None
    told.sketch.requires_grad_(True)
    made = rollout(model, told, blocks, Sampling(sampler.schedule(2, Spacing.LOG_SNR)), seeded_noise(3, 1, model))
    (gradient,) = torch.autograd.grad(made[:, n : 2 * n].sum(), told.sketch)
    assert gradient[:, 2 * n :].abs().max() == 0
    assert gradient[:, n : 2 * n].abs().max() > 0
    assert gradient[:, :n].abs().max() > 0  # through the context


@torch.no_grad()
def test_text_never_reaches_the_context(causal: LMDM) -> None:
    """So a prompt change leaves the cache as it is."""
    c = causal.config
    clean = causal.clean_tokens(torch.randn(1, c.block_latents, c.latent_channels))
    rotation = causal.transformer.rotary_pos_emb(torch.arange(c.block_latents))
    null = causal.text(torch.zeros(1, c.text_tokens, c.text_channels))
    _, (keys, _) = causal.transformer(clean, rotation, None, None, null, clean=0)  # told the null prompt
    skipped, _ = causal.commit(clean, rotation, None, None)
    torch.testing.assert_close(skipped, keys, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spacing", list(Spacing))
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_schedule_ends_are_exact(steps: int, spacing: Spacing) -> None:
    times = sampler.schedule(steps, spacing)
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert len(times) == steps + 1
    assert all(a > b for a, b in pairwise(times))


@pytest.mark.parametrize("spacing", list(Spacing))
@torch.no_grad()
def test_samplers_recover_the_clean_latents_from_a_true_velocity(spacing: Spacing) -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 8), torch.randn(2, 8)
    for count in (1, 3):
        for solver in Solver:
            x, before, times = noise, None, sampler.schedule(count, spacing)
            for t, step in zip(times, sampler.steps(times, solver), strict=False):
                v = (x - clean) / t
                x, before = step(x, v, before, noise), v
            torch.testing.assert_close(x, clean, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [(Solver.EULER, 1), (Solver.MULTISTEP, 2)])
def test_half_as_long_steps_are_off_by_a_power_of_two(solver: Solver, order: int) -> None:
    """dx / dt = x, from 1 back to 0: exp(-1). Twice the steps divide the error by 2 to the power of the solver's order."""
    errors = []
    for count in (20, 40):
        x, before, times = 1.0, None, sampler.schedule(count, Spacing.EVEN)
        for step in sampler.steps(times, solver):
            x, before = step(x, x, before, None), x
        errors.append(abs(x - math.exp(-1)))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("solver", list(Solver))
def test_a_mix_of_both_ways_is_a_guided_step(solver: Solver) -> None:
    draw = torch.Generator().manual_seed(0)
    x, v, v_null, before, before_null, noise = torch.randn(6, 5, generator=draw)
    for step in sampler.steps(sampler.schedule(3, Spacing.LOG_SNR), solver):
        mixed = x
        for weights, ways in zip(step.mixes(2.5), ((v, v_null), (before, before_null)), strict=False):
            mixed = sum(weight * part for weight, part in zip(weights, (mixed, *ways, noise), strict=True))
        led = step(x, sampler.guide(v, v_null, 2.5), sampler.guide(before, before_null, 2.5), noise)
        torch.testing.assert_close(mixed, led, atol=1e-6, rtol=0)


def test_guidance_of_one_is_none() -> None:
    v, null = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(sampler.guide(v, null, 1.0), v)

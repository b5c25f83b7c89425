"""What a training example is told, and what is kept from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.lmdm import visibility  # noqa: E402
from engines.lmdm.config import PRESETS, Regime  # noqa: E402
from engines.lmdm.sketch import CHANNELS, PEAKS  # noqa: E402
from engines.train.packing import Drops, Told, context, pack  # noqa: E402
from engines.train.pairs import Batch  # noqa: E402

BLOCKS, PER_BLOCK, COUNT = 4, 8, 400
LENGTH = BLOCKS * PER_BLOCK


def batch(jam: bool, lag: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(0)
    latents = lambda value: torch.full((COUNT, LENGTH, 5), value)  # noqa: E731
    sketch = torch.rand(COUNT, LENGTH, CHANNELS, generator=draw)
    return Batch(
        latents(1.0), latents(2.0), latents(3.0), torch.full((COUNT,), lag), torch.full((COUNT,), jam),
        sketch, torch.ones(COUNT, 16, 7), torch.ones(COUNT, 7),
    )


def told(jam: bool, lag: int = 0) -> Told:
    return Told.draw(batch(jam, lag), Drops(), PER_BLOCK, torch.Generator().manual_seed(1))


def test_a_partner_is_known_only_beside_a_whole_sketch_or_none() -> None:
    following = told(jam=False)
    presence, partner = following.sketch[:, 0, 0], following.partner[:, 0, 0]
    assert set(partner.tolist()) == {0.0, 1.0}
    assert (presence[partner > 0] == 1).all()
    assert 0.03 < (presence == 0).float().mean() < 0.15
    assert 0.08 < ((presence > 0) & (presence < 1)).float().mean() < 0.25


def test_what_is_absent_is_zero_throughout() -> None:
    for one in (told(jam=False), told(jam=True, lag=PER_BLOCK)):
        for rows in (one.sketch, one.partner):
            gone = rows[:, 0, 0] == 0
            assert gone.any()
            assert not rows[gone].any()


def test_straying_keeps_fewer_peaks_the_farther_it_goes() -> None:
    following = told(jam=False).sketch
    peaks = (following[:, 0, 1:65] > 0).sum(1)
    presence = following[:, 0, 0]
    assert (peaks[presence == 1] == PEAKS).all()
    part = (presence > 0) & (presence < 1)
    assert (peaks[part] <= PEAKS).all()
    assert (peaks[part] == torch.ceil(PEAKS * presence[part] - 1e-6)).all()


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_jamming_has_no_sketch_and_says_how_late_its_partner_is(lag: int) -> None:
    jam = told(jam=True, lag=lag * PER_BLOCK)
    assert not jam.sketch.any()
    known = jam.partner[:, 0, 0][jam.partner[:, 0, 0] > 0]
    assert len(known) > 0.8 * COUNT
    torch.testing.assert_close(known, torch.full_like(known, 1 / (1 + lag)))


def test_the_context_may_be_of_before_but_only_its_beginning() -> None:
    clean = context(batch(jam=False), Drops(context_noise=0.0, heard_context=0.0), BLOCKS, PER_BLOCK, torch.Generator().manual_seed(2))
    first, last = clean[:, 0, 0], clean[:, -1, 0]
    assert set(first.tolist()) == {1.0, 2.0}
    assert 0.2 < (first == 2).float().mean() < 0.4
    assert ((last == 2) <= (first == 2)).all()
    assert not (context(batch(jam=True), Drops(context_noise=0.0), BLOCKS, PER_BLOCK, torch.Generator()) == 3).any()


def test_the_context_may_be_what_the_model_itself_made() -> None:
    drops = Drops(context_noise=0.0, before=0.5, heard_context=0.0)
    one = batch(jam=False)
    own = replace(one, own=torch.full_like(one.target, 9.0))
    from_target, from_own = (context(which, drops, BLOCKS, PER_BLOCK, torch.Generator().manual_seed(2)) for which in (one, own))
    assert ((from_target == 1) == (from_own == 9)).all()
    assert (from_own == 2).any(), "what sounded before the words changed is still there"


def test_regression_has_no_noise_and_aims_at_the_clean_latents() -> None:
    config = PRESETS["tiny"]
    seen = visibility.trained(config, BLOCKS)
    one, keep = batch(jam=False), BLOCKS * config.block_latents
    short = replace(one, **{name: getattr(one, name)[:, :keep] for name in ("target", "before", "heard", "sketch")})
    packed = pack(short, Drops(), seen, config.block_latents, torch.Generator().manual_seed(3), regression=True)
    assert not packed.noisy.any()
    torch.testing.assert_close(packed.velocity, -short.target)
    assert (packed.times == 1).all()


@pytest.mark.parametrize("regime", list(Regime))
def test_a_pass_is_what_its_regime_can_see(regime: Regime) -> None:
    """Block-causal, all blocks are made at once; enc-dec, where context sees forward, only the last one, and nothing of it is context."""
    config = replace(PRESETS["tiny"], regime=regime)
    one, keep = batch(jam=False), BLOCKS * config.block_latents
    short = replace(one, **{name: getattr(one, name)[:, :keep] for name in ("target", "before", "heard", "sketch")})
    packed = pack(short, Drops(), visibility.trained(config, BLOCKS), config.block_latents, torch.Generator().manual_seed(3))
    latents = packed.clean.shape[1] // config.block_latents, packed.noisy.shape[1] // config.block_latents
    assert latents == ((BLOCKS, BLOCKS) if regime is Regime.BLOCK_CAUSAL else (BLOCKS - 1, 1))
    assert packed.sketch.shape[1] == packed.noisy.shape[1] == packed.velocity.shape[1]
    assert packed.times.shape == (COUNT, latents[1])
    assert packed.bias.shape[-1] == packed.clean.shape[1] + packed.noisy.shape[1] + latents[1]

"""A pupil learns to say at once what its teacher says with guidance (arXiv 2210.03142)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.lmdm import visibility  # noqa: E402
from engines.lmdm.config import Regime  # noqa: E402
from engines.lmdm.rollout import Conditions, Sampling, rollout, seeded_noise  # noqa: E402
from engines.train.distributed import Precision, World  # noqa: E402
from engines.train.imagined import Imagined  # noqa: E402
from engines.train.packing import Packed  # noqa: E402
from engines.train.pretrain import Recipe, Teacher, Trainer  # noqa: E402
from tests.lmdm.conftest import lively  # noqa: E402
from tests.train.runs import SMALL  # noqa: E402

BLOCKS, ROWS, SCALE = 6, 4, 3.0


def conditions(length: int) -> Conditions:
    """Two who follow a sketch and a partner, two who jam."""
    draw = torch.Generator().manual_seed(5)
    some = lambda *shape: torch.randn(ROWS, *shape, generator=draw)  # noqa: E731
    sketch, partner = some(length, SMALL.sketch_channels + 1), some(length, SMALL.latent_channels + 1)
    sketch[..., 0], partner[..., 0] = 1, 1
    sketch[ROWS // 2 :] = 0
    return Conditions(some(SMALL.text_tokens, SMALL.text_channels), some(SMALL.text_channels), sketch, partner)


@torch.no_grad()
@pytest.mark.parametrize("regime", list(Regime))
def test_what_is_taught_is_what_a_guided_stream_says(regime: Regime) -> None:
    """All blocks at once, with the same context beside both ways, against a rollout that makes one block after the other."""
    model = lively(replace(SMALL, regime=regime))
    n, seen = SMALL.block_latents, visibility.trained(model.config, BLOCKS)
    past, rows = slice(seen.clean * n), slice(-seen.targets * n, None)
    told, noise = conditions(seen.blocks * n), seeded_noise(2, ROWS, model)
    made = rollout(model, told, seen.blocks, Sampling([1.0, 0.0], guidance=SCALE), noise)
    noisy = torch.cat([noise(block, 0) for block in range(seen.blocks)], 1)[:, rows]
    packed = Packed(
        made[:, past], told.partner[:, past], noisy, torch.zeros_like(noisy), torch.ones(ROWS, seen.targets),
        told.sketch[:, rows], told.partner[:, rows], told.states, told.pooled, visibility.as_bias(seen.visible)[None, None],
    )  # fmt: skip
    taught = Teacher(model, SCALE).teach(packed, model.transformer.rotary_pos_emb(seen.positions))
    expected = noisy - made[:, rows]
    torch.testing.assert_close(taught.velocity, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_a_pupil_comes_to_say_it_without_guidance(tmp_path: Path) -> None:
    """On examples that it has not learnt from, most of what guidance adds is learnt; the teacher stays as it is."""
    recipe = Recipe(400, batch=4, blocks=BLOCKS, learning_rate=2e-3, warm_up_steps=10, own_context=0.0, ema=0.9)
    teacher, world = Teacher(lively(SMALL), SCALE), World(precision=Precision.FP32)
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    trainer = Trainer(lively(SMALL), recipe, Imagined(SMALL), tmp_path / "pupil.pt", world, teacher)
    unseen = range(10_000, 10_008)
    with torch.no_grad():
        start = sum(float(trainer.loss(draw)) for draw in unseen)
        for _ in range(recipe.steps):
            with torch.enable_grad():
                trainer.train_step()
        end = sum(float(trainer.loss(draw)) for draw in unseen)
    assert end < 0.5 * start
    torch.testing.assert_close(before, teacher.model.state_dict(), atol=0, rtol=0)

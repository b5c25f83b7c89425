"""What a training window holds: who is heard, and what of the answer is heard again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.lmdm import codec  # noqa: E402
from engines.train.corpus import MEL, ROW, Part, Score  # noqa: E402
from engines.train.pairs import ECHOES, Choice, Pairs, louder, silence, together  # noqa: E402

LATENTS, LENGTH = 160, 16
GUITAR, TARGET = 0, 1
rng = np.random.default_rng(0)


def rows() -> torch.Tensor:
    """Features of some sound, (1, LATENTS, ROW)."""
    magnitude = torch.from_numpy(rng.uniform(0.01, 1.0, (1, LATENTS, ROW))).float()
    return torch.cat([codec.normalise_mel(magnitude[..., MEL]), magnitude[..., MEL.stop :]], -1)


@pytest.fixture(name="pairs", scope="module")
def _pairs() -> Pairs:
    parts = (Part("guitar", 27, "fluid"), Part("target", 48, "fluid"))
    stored = torch.cat([rows(), rows()]).numpy().astype(np.float16)
    return Pairs([Score("one", parts, stored, (), 0.0, Path("nowhere"))], codec.Encoder(), repeat_share=1.0)


def power(some: torch.Tensor) -> torch.Tensor:
    mel = codec.denormalise_mel(some[..., MEL]) - codec.MEL_FLOOR
    return torch.cat([mel, some[..., MEL.stop :]], -1).double() ** 2


def test_of_two_sounds_the_powers_add() -> None:
    one, other = rows(), rows()
    torch.testing.assert_close(power(together(one, other)), power(one) + power(other), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(together(one, silence(1, LATENTS)), one, rtol=1e-4, atol=1e-4)


def test_what_is_fed_back_is_heard_and_asked_for(pairs: Pairs) -> None:
    """Beside the guitar, and in the target: the target a repeat earlier, the one before that, each fainter than the last."""
    choice = Choice(0, GUITAR, TARGET, TARGET, at=100, repeats=0.7, repeat=20)
    at = lambda part, latent: torch.from_numpy(pairs.scores[0].rows[part, latent : latent + LENGTH]).float()[None]  # noqa: E731
    echoes = sum(0.7 ** (2 * turn) * power(at(TARGET, 100 - 20 * turn)) for turn in range(1, ECHOES + 1))
    seen: list[torch.Tensor] = []
    pairs.latents = lambda some: seen.append(some) or some[..., : codec.LATENT_CHANNELS]  # type: ignore[method-assign, func-returns-value]
    pairs.window(np.random.default_rng(0), [choice], LENGTH, vary=False)
    target, _, heard = seen
    torch.testing.assert_close(power(target), power(at(TARGET, 100)) + echoes, rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(power(heard), power(at(GUITAR, 100)) + echoes, rtol=1e-2, atol=1e-5)


def test_windows_leave_room_for_what_is_fed_back(pairs: Pairs) -> None:
    drawn = [pairs.draw(np.random.default_rng(seed), LENGTH, 8) for seed in range(50)]
    assert all(0.3 <= one.repeats <= 0.85 and one.at >= ECHOES * one.repeat > 0 for one in drawn)


def test_a_louder_sound_is_louder_throughout() -> None:
    one = rows()
    torch.testing.assert_close(power(louder(one, torch.tensor([2.0]))), 4 * power(one), rtol=1e-3, atol=1e-6)

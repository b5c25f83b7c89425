"""The rules of ARC-Forcing, one by one on the tiny preset; then the whole of it on toy music."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.lmdm import sampler
from engines.lmdm.config import PRESETS, Regime
from engines.lmdm.model import LMDM
from engines.lmdm.rollout import Conditions, Context, Sampling, denoise_block, rollout, seeded_noise, velocity
from engines.lmdm.sampler import Solver, Spacing
from engines.train import arc, checkpoint
from engines.train.arc import Corpus, Recipe, Stage, Trainer, play
from engines.train.discriminator import Discriminator
from engines.train.distributed import Precision, World
from engines.train.imagined import Imagined
from engines.train.judging import Contrast, Example, Judged, Noised, behind, rolled_heard, rolled_words, untold
from tests.lmdm.conftest import lively
from tests.train.runs import SMALL
from tests.train.toy import Toy

TINY = PRESETS["tiny"]
N = TINY.block_latents
FP32 = World(precision=Precision.FP32)
SHORT = Recipe(steps=3, backbone_steps=2, head_steps=2, blocks=3, past_blocks=2, depth=0.5)
COUNTS = [3, 1, 2, 4]


@pytest.fixture(name="model", params=list(Regime), ids=lambda regime: regime.value)
def _model(request: pytest.FixtureRequest) -> LMDM:
    return lively(replace(TINY, regime=request.param))


@pytest.fixture(name="causal")
def _causal() -> LMDM:
    return lively(TINY)


@pytest.fixture(name="example")
def _example() -> Example:
    """Six blocks; two examples in four heard a partner."""
    example = Toy(TINY).example(0, 6)
    assert example.told.partner is not None
    example.told.partner[:2] = torch.randn(example.told.partner[:2].shape, generator=torch.Generator().manual_seed(0))
    example.told.partner[:2, :, 0] = 1
    return example


def played(model: LMDM, example: Example, past: int = 2) -> Tensor:
    return play(model, example.told, example.past[:, : past * N], COUNTS, seeded_noise(1, 4, model))


# --- rollouts


@pytest.mark.parametrize("count", [1, 2, 4])
@torch.no_grad()
def test_a_rollout_is_a_stream(model: LMDM, example: Example, count: int) -> None:
    noise = seeded_noise(1, 4, model)
    streamed = rollout(model, example.told, 6, Sampling(sampler.schedule(count, Spacing.LOG_SNR), solver=Solver.PING_PONG), noise)
    assert torch.equal(play(model, example.told, example.past[:, :0], [count] * 6, noise), streamed)


@torch.no_grad()
def test_every_block_uses_the_schedule_of_its_own_step_count(model: LMDM, example: Example) -> None:
    """And goes on from recorded blocks as from its own."""
    context, noise, made = Context(model), seeded_noise(1, 4, model), []
    for block in range(6):
        if block < 2:
            x = example.past[:, block * N : (block + 1) * N]
        else:
            times = sampler.schedule(COUNTS[block - 2], Spacing.LOG_SNR)
            x = denoise_block(model, example.told, context, block, Sampling(times, solver=Solver.PING_PONG), noise)
            made.append(x)
        context.commit(x, example.told.block(model, block)[1], block)
    assert torch.equal(played(model, example), torch.cat(made, 1))


def test_step_counts_are_drawn_per_block(causal: LMDM, tmp_path: Path) -> None:
    trainer = Trainer(causal, replace(SHORT, blocks=12, denoising_steps=(1, 2, 8)), Toy(TINY, rows=1), tmp_path / "arc.pt", FP32)
    windows = [trainer.window(draw) for draw in range(6)]
    assert {count for _, counts in windows for count in counts} == {1, 2, 8}
    assert all(len(set(counts)) > 1 for _, counts in windows)
    assert {example.real.shape[1] // N - 12 for example, _ in windows} == {0, 1, 2}  # blocks of the past


# --- where gradients stop


def test_a_block_teaches_through_itself_alone(model: LMDM, example: Example) -> None:
    """What was heard beside other blocks, before or after, has exactly no influence on a block's gradient."""
    told = example.told
    assert told.sketch is not None and told.partner is not None
    rows = (told.sketch.requires_grad_(True), told.partner.requires_grad_(True))
    made = played(model, example)
    gradients = torch.autograd.grad(made[:, N : 2 * N].sum(), rows)
    own = slice(3 * N, 4 * N)  # two blocks of the past, then this is the second
    for gradient in gradients:
        assert gradient[:, own].abs().min(2).values.max() > 0
        assert gradient[:, : own.start].abs().max() == 0
        assert gradient[:, own.stop :].abs().max() == 0


def test_gradient_is_that_of_each_last_step(model: LMDM, example: Example) -> None:
    """Parameter gradients equal those of the last steps, computed one by one from a rollout without any gradient."""
    target = torch.randn(4, 4 * N, TINY.latent_channels, generator=torch.Generator().manual_seed(2))
    (played(model, example) * target).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    context, noise = Context(model), seeded_noise(1, 4, model)
    for block in range(6):
        with torch.no_grad():
            x = example.past[:, block * N : (block + 1) * N]
            if block >= 2:
                times = sampler.schedule(COUNTS[block - 2], Spacing.LOG_SNR)
                before_last = denoise_block(model, example.told, context, block, Sampling(times[:-1], solver=Solver.PING_PONG), noise)
                x = before_last - times[-2] * velocity(model, example.told, context, block, before_last, times[-2])
        if block >= 2:
            v = velocity(model, example.told, context, block, before_last, times[-2])
            at = slice((block - 2) * N, (block - 1) * N)
            ((before_last - times[-2] * v) * target[:, at]).sum().backward()
        with torch.no_grad():
            context.commit(x, example.told.block(model, block)[1], block)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_context_latents_teach_nothing(causal: LMDM, example: Example) -> None:
    """The layer through which clean latents enter gets a gradient of exactly zero; its columns for the partner do not."""
    played(causal, example).sum().backward()
    gradient = causal.to_input_add_embed.weight.grad
    assert gradient is not None
    assert gradient[:, : TINY.latent_channels + 1].abs().max() == 0
    assert gradient[:, TINY.latent_channels + 1 :].abs().max() > 0


def test_bfloat16_cuts_no_gradient(causal: LMDM, example: Example) -> None:
    """A cast made without gradient must not be used where there is one."""
    found = []
    for precision in (Precision.FP32, Precision.BF16):
        causal.zero_grad()
        with World(precision=precision).autocast():
            loss = (played(causal, example) - example.real[:, -4 * N :]).pow(2).mean()
        loss.backward()
        found.append({name: p.grad.flatten().clone() for name, p in causal.named_parameters() if p.grad is not None})
    full, half = found
    assert set(full) == set(half)
    for name, gradient in full.items():
        if gradient.norm() > 1e-3:
            assert torch.cosine_similarity(gradient, half[name], dim=0) > 0.9, name


# --- the discriminator


def test_only_generated_positions_are_scored(causal: LMDM, example: Example) -> None:
    """The head gets the states of the last latents; the global token, which stands behind them, is not among them."""
    judge, generated = Discriminator(causal, 1), 4 * N
    given = []
    judge.head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    t = torch.full((4,), 0.5)
    scores = judge(example.real, t, example.told, generated)
    assert scores.shape == (4, generated)
    length = example.real.shape[1]
    rotation = causal.transformer.rotary_pos_emb(torch.cat([torch.arange(length), torch.tensor([-1])]))
    told = causal.global_tokens(t, example.told.pooled)[:, None]
    tokens = torch.cat([causal.target_tokens(example.real, example.told.sketch, example.told.partner), told], 1)
    keys, values = causal.text(example.told.states)
    states, _, _ = causal.transformer.layers[0](tokens, rotation, None, None, (keys[0], values[0]), 0)
    torch.testing.assert_close(given[0], states[:, length - generated : length])


def test_the_discriminator_is_a_copy_and_starts_neutral(causal: LMDM, example: Example) -> None:
    judge = Discriminator(causal, 1)
    assert not {p.data_ptr() for p in judge.parameters()} & {p.data_ptr() for p in causal.parameters()}
    assert judge(example.real, torch.full((4,), 0.5), example.told, N).abs().max() == 0
    assert [SHORT.layers(2), replace(SHORT, depth=0.75).layers(16), replace(SHORT, depth=0.75).layers(5)] == [1, 12, 4]


def test_real_and_made_are_noised_alike(example: Example) -> None:
    """Same past, same noise, same level: what differs is what was made, scaled by the level, and nothing else."""
    fake = torch.randn(4, 4 * N, TINY.latent_channels)
    judged = Judged.draw(example, fake, 1.0, torch.Generator().manual_seed(3))
    difference = judged.real - judged.fake
    assert difference[:, : 2 * N].abs().max() == 0
    expected = (1 - judged.t)[:, None, None] * (example.real[:, -4 * N :] - fake)
    torch.testing.assert_close(difference[:, 2 * N :], expected, atol=1e-6, rtol=0)
    again = Noised.draw(example.real, torch.Generator().manual_seed(3))
    torch.testing.assert_close(judged.real, again.window(example.real), atol=0, rtol=0)
    assert len(set(judged.t.tolist())) == 4


def test_prompts_are_rolled_from_a_copy(example: Example) -> None:
    told = example.told
    told.states[1], told.pooled[1] = 0, 0  # not told
    told.states[3], told.pooled[3] = told.states[2], told.pooled[2]  # the same words
    states, pooled = told.states.clone(), told.pooled.clone()
    rolled, counts = rolled_words(told)
    assert torch.equal(rolled.states, torch.cat([states[-1:], states[:-1]]))
    assert torch.equal(rolled.pooled, torch.cat([pooled[-1:], pooled[:-1]]))
    rolled.states.fill_(0)
    rolled.pooled.fill_(0)
    assert torch.equal(told.states, states) and torch.equal(told.pooled, pooled)
    assert rolled.sketch is told.sketch
    assert counts.tolist() == [1, 0, 0, 0]


def test_what_was_heard_is_rolled_from_a_copy(example: Example) -> None:
    told = example.told
    assert told.sketch is not None and told.partner is not None
    told.sketch[3] = 0  # example 3 hears nothing
    sketch = told.sketch.clone()
    rolled, counts = rolled_heard(told)
    assert rolled.sketch is not None
    assert torch.equal(rolled.sketch, torch.cat([sketch[-1:], sketch[:-1]]))
    rolled.sketch.fill_(0)
    assert torch.equal(told.sketch, sketch)
    assert rolled.states is told.states
    assert counts.tolist() == [0, 1, 1, 0]
    one = Conditions(told.states[:1], told.pooled[:1], told.sketch[:1], told.partner[:1])
    assert rolled_heard(one)[1].tolist() == rolled_words(one)[1].tolist() == [0]


def test_the_discriminator_may_be_left_untold(example: Example) -> None:
    told = untold(example.told, torch.tensor([1.0, 0, 0, 1]))
    assert told.sketch is not None and told.partner is not None and example.told.sketch is not None
    assert torch.equal(told.sketch[0], example.told.sketch[0])
    assert told.sketch[1:3].abs().max() == 0
    assert told.partner[1:3].abs().max() == 0
    assert torch.equal(told.pooled, example.told.pooled)


def test_each_side_wants_the_opposite() -> None:
    """Generator: softplus(real - fake) falls as the made scores rise. Discriminator: softplus(fake - real), the other way round."""
    real, fake = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    (generator,) = torch.autograd.grad(behind(real, fake).mean(), fake)
    (discriminator,) = torch.autograd.grad(behind(fake, real).mean(), fake)
    assert (generator < 0).all() and (discriminator > 0).all()
    torch.testing.assert_close(behind(real + 2, fake), torch.nn.functional.softplus(torch.full((2,), 2.0)))


def test_made_music_gets_no_gradient_from_the_discriminators_loss(causal: LMDM, example: Example) -> None:
    judge = Discriminator(causal, 1)
    fake = torch.randn(4, 4 * N, TINY.latent_channels, requires_grad=True)
    judged = Judged.draw(example, fake, 1.0, torch.Generator().manual_seed(0))
    loss, _ = judged.discriminator_loss(judge, Contrast())
    loss.backward()
    assert fake.grad is None
    assert judge.head.score.weight.grad is not None


# --- what a rollout is told


def test_conditions_are_dropped_once_per_rollout() -> None:
    """An example either knows its words, its sketch and its partner at every position, or at none."""
    source = Corpus(Imagined(SMALL), replace(SHORT, batch=16), SMALL.block_latents)
    told = [source.example(draw, 5).told for draw in range(4)]
    for rows in ([t.sketch for t in told], [t.partner for t in told]):
        presence = torch.cat(rows)[..., 0]  # type: ignore[arg-type]
        assert (presence == presence[:, :1]).all()
        assert {bool(known) for known in presence[:, 0] > 0} == {True, False}
    worded = torch.cat([t.pooled for t in told]).abs().sum(1) > 0
    assert torch.equal(worded, torch.cat([t.states for t in told]).abs().sum((1, 2)) > 0)
    assert {bool(known) for known in worded} == {True, False}
    assert torch.equal(source.example(2, 5).real, source.example(2, 5).real)


# --- the whole


def moved(trainer: Trainer, steps: int) -> dict[str, bool]:
    """Which parts changed over some steps."""
    upper = [p for layer in trainer.judge.base.transformer.layers[trainer.judge.depth :] for p in layer.parameters()]
    lower = list(trainer.judge.base.transformer.layers[: trainer.judge.depth].parameters())
    parts = {"generator": list(trainer.model.parameters()), "lower": lower, "upper": upper, "head": list(trainer.judge.head.parameters())}
    before = {name: [p.detach().clone() for p in part] for name, part in parts.items()}
    for _ in range(steps):
        trainer.train_step()
    return {name: any(not torch.equal(a, b) for a, b in zip(before[name], part, strict=True)) for name, part in parts.items()}


def test_stages_move_what_they_should(causal: LMDM, tmp_path: Path) -> None:
    trainer = Trainer(causal, SHORT, Toy(TINY), tmp_path / "arc.pt", FP32)
    average = {name: value.clone() for name, value in trainer.average.items()}
    assert moved(trainer, 2) == {"generator": False, "lower": True, "upper": True, "head": False}
    assert moved(trainer, 2) == {"generator": False, "lower": False, "upper": False, "head": True}
    assert all(torch.equal(average[name], value) for name, value in trainer.average.items())
    assert moved(trainer, 2) == {"generator": True, "lower": True, "upper": False, "head": True}
    assert any(not torch.equal(average[name], value) for name, value in trainer.average.items())
    assert [SHORT.stage(step) for step in (1, 2, 3, 4)] == [Stage.BACKBONE, Stage.HEAD, Stage.HEAD, Stage.ADVERSARIAL]


def state_after(out: Path, stops: tuple[int, ...]) -> dict[str, object]:
    """A run that was stopped, and gone on with by a new process, at each of `stops` steps."""
    for stop in stops:
        trainer = Trainer(lively(TINY), SHORT, Toy(TINY), out, FP32)
        trainer.resume()
        while trainer.step < stop:
            trainer.train_step()
        trainer.save()
    return checkpoint.load(out)


def test_an_interrupted_run_is_an_unbroken_one(tmp_path: Path) -> None:
    whole, parts = state_after(tmp_path / "whole.pt", (7,)), state_after(tmp_path / "parts.pt", (1, 3, 5, 7))
    for name in ("model", "average", "judge", "optimiser", "judge_optimiser", "step"):
        torch.testing.assert_close(whole[name], parts[name], atol=0, rtol=0)


def test_two_draws_are_accumulated(tmp_path: Path) -> None:
    """What two processes compute, one computes; see test_distributed for the processes."""
    trainer = Trainer(lively(TINY), replace(SHORT, backbone_steps=0, head_steps=0), Toy(TINY), tmp_path / "arc.pt", World(accumulate=2))
    found = trainer.train_step()
    assert set(found) == {"generator", "pretraining", "discriminator", "told apart"}
    assert all(np.isfinite(value) for value in found.values())


def test_nothing_stays_behind_on_the_cpu() -> None:
    """On the meta device, which refuses to work with tensors of any other: what can be checked without a GPU."""
    world, model = World(precision=Precision.FP32, device=torch.device("meta")), LMDM(TINY).to("meta")
    example = world.here(Toy(TINY).example(0, 6))
    noise = seeded_noise(0, 4, LMDM(TINY))
    fake = play(model, example.told, example.past[:, : 2 * N], COUNTS, lambda block, step: world.here(noise(block, step)))
    judge = Discriminator(model, 1).to("meta")
    judged = Judged.draw(example, fake, 1.0, torch.Generator().manual_seed(0))
    (judged.generator_loss(judge) + judged.discriminator_loss(judge, Contrast())[0]).backward()
    assert fake.device.type == "meta"


def pretrained(toy: Toy, steps: int) -> LMDM:
    torch.manual_seed(0)
    model = LMDM(toy.config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimiser.zero_grad()
        toy.pretraining_loss(model, step, FP32).backward()
        optimiser.step()
    return model


@torch.no_grad()
def one_step_error(model: LMDM, toy: Toy) -> float:
    """Mean squared distance of a one-step rollout from what was recorded, on music that was not trained on."""
    far = toy.example(10_000, 12)
    made = rollout(model, far.told, 12, Sampling(sampler.schedule(1, Spacing.LOG_SNR), solver=Solver.PING_PONG), seeded_noise(5, 4, model))
    return float((made - far.real).pow(2).mean())


def test_a_short_run_on_toy_music(tmp_path: Path) -> None:
    """The discriminator's loss falls, it tells made from recorded; the generator moves, and is none the worse for it."""
    toy = Toy(TINY)
    model = pretrained(toy, 120)
    before, weights = one_step_error(model, toy), [p.detach().clone() for p in model.parameters()]
    recipe = Recipe(
        steps=12, backbone_steps=40, head_steps=30, blocks=4, past_blocks=2, denoising_steps=(1, 2), backbone_rate=3e-3, head_rate=3e-3,
        generator_rate=1e-4, discriminator_rate=3e-4, ema=0.8, keep_pretraining=0, contrast_words=0, contrast_heard=0,
    )
    trainer = Trainer(model, recipe, toy, tmp_path / "arc.pt", FP32)
    losses = [trainer.train_step() for _ in range(recipe.total_steps)]
    judging = losses[60:70]
    assert losses[40]["discriminator"] == pytest.approx(np.log(2), abs=1e-4)  # a neutral start
    assert np.mean([found["discriminator"] for found in judging]) < 0.66
    assert np.mean([found["told apart"] for found in judging]) > 0.6
    assert any(not torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    after = LMDM(TINY)
    after.load_state_dict(trainer.average)
    assert one_step_error(after, toy) < 1.1 * before


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run needs only a pretrained model; a run saves what a bundle is packed from, and goes on where it stopped."""
    start = Trainer(lively(SMALL), SHORT, Corpus(Imagined(SMALL), SHORT, SMALL.block_latents), tmp_path / "lmdm.pt", FP32)
    start.save()
    numbers = ["--steps", "2", "--backbone-steps", "1", "--head-steps", "1", "--blocks", "3", "--batch", "2", "--precision", "fp32"]
    files = ["--model", str(tmp_path / "lmdm.pt"), "--out", str(tmp_path / "arc.pt"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["arc", *files, *numbers, "--dry-run"])
    arc.main()
    assert json.loads(capsys.readouterr().out)["latents per second"] > 0
    assert not (tmp_path / "arc.pt").exists()
    monkeypatch.setattr(arc, "open_scores", lambda folder, split: [])
    monkeypatch.setattr(arc, "load_encoder", lambda path: None)
    monkeypatch.setattr(arc, "Pairs", lambda scores, encoder: Imagined(SMALL))
    monkeypatch.setattr(sys, "argv", ["arc", *files, *numbers])
    arc.main()
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["stage"] for line in said] == ["backbone", "head", "adversarial"]
    assert checkpoint.load_model(tmp_path / "arc.pt").config == SMALL
    assert not [a for a, b in pairwise([line["step"] for line in said]) if a >= b]

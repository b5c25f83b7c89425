"""Stage 1: train an LMDM by flow matching on packed [clean | target] blocks (arXiv 2605.22717, fine-tuning stage).

    python -m engines.train.pretrain --data build/data --codec build/codec.pt --out build/lmdm.pt --steps 4800

Each of the n blocks of a window is a target with its own noise level, beside a clean copy that later blocks see: what a target sees
here is exactly what it sees when streaming. Resumes from `--out`; random draws follow from the step, so a resumed run goes
on as an unbroken one. Runs in: training. Shapes as in model.py.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from engines.lmdm import codec, sampler, visibility
from engines.lmdm.config import HIDDEN, PRESETS
from engines.lmdm.model import LMDM
from engines.lmdm.rollout import Conditions, Sampling, rollout, seeded_noise
from engines.train import checkpoint
from engines.train.instruments import TARGETS
from engines.train.pairs import Batch, Pairs, load_scores


@dataclass(frozen=True)
class Recipe:
    """Everything about a run that is not the model or the data."""

    steps: int
    batch: int = 8
    blocks: int = 16
    learning_rate: float = 7e-4
    warm_up_steps: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    drop_text: float = 0.08
    drop_sketch: float = 0.08
    drop_partner: float = 0.5
    drop_context: float = 0.1  # all of it
    drop_oldest: float = 0.25  # a random number of the oldest blocks
    heard_context: float = 0.04  # per block: the context holds what was heard (prefill) instead of what was made
    context_noise: float = 0.2  # largest noise on clean latents: the model must live with its own mistakes
    seed: int = 0


@dataclass
class Packed:
    """One training example, ready for LMDM.forward."""

    clean: Tensor
    noisy: Tensor
    velocity: Tensor
    times: Tensor  # (B, n)
    sketch: Tensor
    partner: Tensor
    states: Tensor
    pooled: Tensor
    bias: Tensor


def present(rows: Tensor, keep: Tensor) -> Tensor:
    """Put the presence channel before rows (B, T, F); dropped samples become zero throughout. keep: (B,) of 0 or 1."""
    return torch.cat([torch.ones_like(rows[..., :1]), rows], -1) * keep[:, None, None]


def noise_levels(rng: torch.Generator, shape: tuple[int, int]) -> Tensor:
    """Logit-normal, a little towards noise; one in eight is pure noise, where every block starts."""
    t = torch.sigmoid(torch.randn(shape, generator=rng) * 1.3 + 0.4)
    return torch.where(torch.rand(shape, generator=rng) < 0.12, torch.ones_like(t), t)


def pack(batch: Batch, recipe: Recipe, visible: Tensor, per_block: int, rng: torch.Generator) -> Packed:
    """Noise, drop and mask a batch."""
    count, blocks = len(batch.target), recipe.blocks
    chance = lambda *shape: torch.rand(*shape, generator=rng)  # noqa: E731
    spread = lambda per: per.repeat_interleave(per_block, 1)[..., None]  # noqa: E731
    heard = spread(chance(count, blocks) < recipe.heard_context)
    clean = torch.where(heard, batch.heard, batch.target)
    clean = clean + chance(count, 1, 1) * recipe.context_noise * torch.randn(clean.shape, generator=rng)
    times = noise_levels(rng, (count, blocks))
    noise = torch.randn(batch.target.shape, generator=rng)
    t = spread(times)
    fate = chance(count)
    oldest = torch.where(fate < recipe.drop_oldest, (chance(count) * blocks).long(), torch.zeros(count, dtype=torch.long))
    oldest = torch.where(fate > 1 - recipe.drop_context, torch.full_like(oldest, blocks), oldest)
    kept = visibility.block_of(blocks, per_block)[None] >= oldest[:, None]  # (B, clean tokens)
    bias = visibility.as_bias(visible).repeat(count, 1, 1)
    bias[:, :, : kept.shape[1]].masked_fill_(~kept[:, None], HIDDEN)
    told = (chance(count) >= recipe.drop_text).float()
    return Packed(
        clean, (1 - t) * batch.target + t * noise, noise - batch.target, times,
        present(batch.sketch, (chance(count) >= recipe.drop_sketch).float()),
        present(batch.heard, (chance(count) >= recipe.drop_partner).float()),
        batch.states * told[:, None, None], batch.pooled * told[:, None], bias[:, None],
    )


def loss_of(model: LMDM, packed: Packed, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared velocity error over all target latents."""
    count, blocks = packed.times.shape
    pooled = packed.pooled.repeat_interleave(blocks, 0)
    told = model.global_tokens(packed.times.reshape(-1), pooled).unflatten(0, (count, blocks))
    targets = model.target_tokens(packed.noisy, packed.sketch, packed.partner)
    v, _ = model(model.clean_tokens(packed.clean), targets, told, rotation, packed.bias, None, model.text(packed.states))
    return (v.float() - packed.velocity).pow(2).mean()


@torch.no_grad()
def validate(model: LMDM, pairs: Pairs, blocks: int = 40, steps: int = 4) -> dict[str, float]:
    """Roll out one window per target instrument of held-out scores: log-mel error and level against the true target."""
    length = blocks * model.config.block_latents
    choices = [(i % len(pairs.scores), pairs.guitars[i % len(pairs.scores)][i % 3], t, 40) for i, t in enumerate(TARGETS)]
    batch = pairs.window(np.random.default_rng(0), choices, length, vary=False)
    found = {}
    for name, keep in (("sketch", 0.0), ("sketch+heard", 1.0)):
        sketch, heard = present(batch.sketch, torch.ones(len(choices))), present(batch.heard, torch.full((len(choices),), keep))
        conditions = Conditions(batch.states, batch.pooled, sketch, heard)
        with torch.autocast("cpu", torch.bfloat16):
            sampling = Sampling(sampler.schedule(steps, sampler.Spacing.EVEN))
            made = rollout(model, conditions, blocks, sampling, seeded_noise(0, len(choices), model))
        difference = pairs.encoder.mel_of(made.float()) - pairs.encoder.mel_of(batch.target)
        found[f"{name} dB"] = round(float(difference.abs().mean()) * codec.DB_PER_UNIT, 2)
        found[f"{name} level"] = round(float(difference.mean()) * codec.DB_PER_UNIT, 2)
    return found


class Trainer:
    """Model, average, optimiser and where the run stands."""

    def __init__(self, model: LMDM, recipe: Recipe, pairs: Pairs, out: Path) -> None:
        self.model, self.recipe, self.pairs, self.out = model, recipe, pairs, out
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        decay = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
        self.step = 0
        self.visible = visibility.packed(model.config, recipe.blocks)
        self.rotation = model.transformer.rotary_pos_emb(visibility.packed_positions(model.config, recipe.blocks))

    def resume(self) -> None:
        if self.out.exists():
            state = checkpoint.load(self.out)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step = state["average"], int(state["step"])

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "average": self.average, "optimiser": self.optimiser.state_dict(), "step": self.step}
        checkpoint.save(self.out, {**state, "recipe": json.dumps(asdict(self.recipe)), "config": json.dumps(asdict(self.model.config))})

    def train_step(self) -> float:
        recipe, step = self.recipe, self.step
        falling = 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / recipe.steps)))
        rate = min(1, (step + 1) / recipe.warm_up_steps) * falling
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate
        per_block = self.model.config.block_latents
        batch = self.pairs.batch(np.random.default_rng([recipe.seed, step]), recipe.batch, recipe.blocks * per_block)
        packed = pack(batch, recipe, self.visible, per_block, torch.Generator().manual_seed(recipe.seed * 1_000_003 + step))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(self.model, packed, self.rotation)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(recipe.ema, (step + 1) / (step + 10))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)
        return float(loss.detach())

    def averaged(self) -> LMDM:
        model = LMDM(self.model.config)
        model.load_state_dict(self.average)
        return model.eval()


def run(trainer: Trainer, held_out: Pairs, every: int = 500) -> None:
    """Train to the end of the recipe; every `every` steps validate, save and print one line of JSON."""
    columns = (TextColumn("pretrain"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
    losses: list[float] = []
    started = time.time()
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=trainer.recipe.steps, completed=trainer.step, loss=float("nan"))
        while trainer.step < trainer.recipe.steps:
            losses.append(trainer.train_step())
            progress.update(bar, completed=trainer.step, loss=float(np.mean(losses[-50:])))
            if trainer.step % every == 0 or trainer.step == trainer.recipe.steps:
                trainer.save()
                minutes, loss = round((time.time() - started) / 60, 1), round(float(np.mean(losses[-every:])), 4)
                facts = {"step": trainer.step, "minutes": minutes, "loss": loss}
                print(json.dumps({**facts, **validate(trainer.averaged(), held_out)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain an LMDM on the rendered corpus.")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--codec", type=Path, default=Path("build/codec.pt"))
    parser.add_argument("--out", type=Path, default=Path("build/lmdm.pt"))
    parser.add_argument("--preset", choices=tuple(PRESETS), default="reference")
    parser.add_argument("--steps", type=int, default=4800)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    encoder = codec.Encoder()
    net = checkpoint.load(args.codec)["net"]
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in net.items() if name.startswith("encoder.")})
    recipe = Recipe(args.steps)
    trainer = Trainer(LMDM(PRESETS[args.preset]), recipe, Pairs(load_scores(args.data, "train"), encoder), args.out)
    trainer.resume()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(json.dumps({"parameters": parameters, "scores": len(trainer.pairs.scores), "from step": trainer.step}))
    run(trainer, Pairs(load_scores(args.data, "val"), encoder), args.every)


if __name__ == "__main__":
    main()

"""Stage 1: train an LMDM by flow matching on packed [clean | target] blocks (arXiv 2605.22717, fine-tuning stage).

    python -m engines.train.pretrain --data build/data --codec build/codec.pt --out build/lmdm.pt --steps 4800

Each of the n blocks of a window is a target with its own noise level, beside a clean copy that later blocks see: what a target sees
here is exactly what it sees when streaming. Resumes from `--out`; random draws follow from the step, so a resumed run goes
on as an unbroken one. Under torchrun, in several processes (see distributed). Runs in: training. Shapes as in model.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from engines.lmdm import codec, sampler, visibility
from engines.lmdm.config import PRESETS, Regime
from engines.lmdm.model import LMDM
from engines.lmdm.rollout import Conditions, Sampling, rollout, seeded_noise
from engines.sao.checkpoint import init_from
from engines.sao.config import CheckpointError
from engines.sao.latents import LatentPairs, latent_error
from engines.train import checkpoint, distributed
from engines.train.codec import TRAINED
from engines.train.corpus import open_scores
from engines.train.distributed import ALONE, World
from engines.train.imagined import Imagined
from engines.train.instruments import TARGETS
from engines.train.packing import Drops, Packed, pack, present
from engines.train.pairs import Batch, Choice, Pairs

FINE_TUNING_RATE = 5e-5  # learning rate for a model that knows its notes already: the paper's


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
    cool_down: float = 0.25  # last share of the steps, over which the learning rate falls; before, a run may be made longer
    regression: bool = False  # the baseline of the same size: no noise, one step
    own_context: float = 0.25  # share of batches whose context is what the model itself makes, from `own_from` on
    own_from: int = 3000  # step at which what it makes is worth learning from
    own_steps: int = 2  # denoising steps of that
    drops: Drops = field(default_factory=Drops)
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step: warm up, hold, fall in a straight line to a twentieth."""
        falling = min(1.0, (1 - step / self.steps) / self.cool_down)
        return self.learning_rate * min(1, (step + 1) / self.warm_up_steps) * max(0.05, falling)


def played(model: LMDM, batch: Batch, recipe: Recipe, seed: int, world: World) -> Batch:
    """The same batch with a context that the model has made itself: it must learn to go on from its own mistakes, not from what no
    stream will ever hold (Self-Forcing, arXiv 2506.08009; here without gradient, beside the recorded target)."""
    steps, amount = (1, 0.0) if recipe.regression else (recipe.own_steps, 1.0)
    follow = (~batch.jam).float()
    told = world.here(Conditions(batch.states, batch.pooled, present(batch.sketch, follow), present(batch.heard, 1 - follow)))
    sampling, blocks = Sampling(sampler.schedule(steps, sampler.Spacing.EVEN)), batch.target.shape[1] // model.config.block_latents
    noise = seeded_noise(seed, len(batch.target), model)
    with torch.no_grad(), world.autocast():
        own = rollout(model, told, blocks, sampling, lambda block, step: amount * world.here(noise(block, step)))
    return replace(batch, own=own.float().cpu())


def loss_of(model: LMDM, packed: Packed, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared velocity error over all target latents."""
    count, blocks = packed.times.shape
    pooled = packed.pooled.repeat_interleave(blocks, 0)
    told = model.global_tokens(packed.times.reshape(-1), pooled).unflatten(0, (count, blocks))
    targets = model.target_tokens(packed.noisy, packed.sketch, packed.partner[:, -packed.noisy.shape[1] :])
    clean = model.clean_tokens(packed.clean, packed.partner[:, : packed.clean.shape[1]])
    v, _ = model(clean, packed.noisy, targets, told, rotation, packed.bias, None, model.text(packed.states))
    return (v.float() - packed.velocity).pow(2).mean()


@torch.no_grad()
def validate(model: LMDM, pairs: Pairs, blocks: int = 40, steps: int = 4) -> dict[str, float]:
    """Roll out one window per target instrument of held-out scores: log-mel error and level against the true target."""
    length = blocks * model.config.block_latents
    choices = []
    for i, program in enumerate(TARGETS):
        score = pairs.scores[pairs.following[i % len(pairs.following)]]
        guitars, (target,) = score.indices("guitar"), score.indices("target", program)
        choices.append(Choice(pairs.scores.index(score), guitars[i % len(guitars)], target, target, 40))
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

    def __init__(self, model: LMDM, recipe: Recipe, pairs: Pairs | Imagined, out: Path, world: World = ALONE) -> None:
        self.model, self.recipe, self.pairs, self.out, self.world = model.to(world.device), recipe, pairs, out, world
        world.same_start(model)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        decay = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
        self.step = 0
        self.seen = visibility.trained(model.config, recipe.blocks)
        self.rotation = model.transformer.rotary_pos_emb(self.seen.positions.to(world.device))

    def resume(self) -> None:
        if self.out.exists():
            state = checkpoint.load(self.out)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average = {name: self.world.here(value) for name, value in state["average"].items()}
            self.step = int(state["step"])

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "average": self.average, "optimiser": self.optimiser.state_dict(), "step": self.step}
        checkpoint.save(self.out, {**state, "recipe": json.dumps(asdict(self.recipe)), "config": json.dumps(asdict(self.model.config))})

    def loss(self, draw: int) -> Tensor:
        """Of one batch, which follows from its number."""
        recipe, per_block = self.recipe, self.model.config.block_latents
        batch = self.pairs.batch(np.random.default_rng([recipe.seed, draw]), recipe.batch, self.seen.blocks * per_block, per_block)
        if self.step >= recipe.own_from and np.random.default_rng([recipe.seed, draw, 1]).random() < recipe.own_context:
            batch = played(self.model, batch, recipe, draw, self.world)
        chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + draw)
        packed = pack(batch, recipe.drops, self.seen, per_block, chance, recipe.regression)
        with self.world.autocast():
            return loss_of(self.model, self.world.here(packed), self.rotation)

    def train_step(self) -> float:
        recipe, step, world = self.recipe, self.step, self.world
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        self.optimiser.zero_grad()
        loss = sum(world.backward(self.loss(draw)) for draw in world.draws(step))
        world.add_up_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(recipe.ema, (step + 1) / (step + 10))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)
        return world.add_up(loss)

    def averaged(self) -> LMDM:
        model = LMDM(self.model.config)
        model.load_state_dict(self.average)
        return model.eval()


def report(trainer: Trainer, held_out: Pairs, facts: dict[str, float]) -> None:
    """Save, validate and print one line of JSON, if this is the first process; the others wait."""
    if trainer.world.first:
        trainer.save()
        judge = latent_error if isinstance(held_out, LatentPairs) else validate
        print(json.dumps({**facts, **judge(trainer.averaged(), held_out)}), flush=True)
    trainer.world.meet()


def run(trainer: Trainer, held_out: Pairs, every: int = 500) -> None:
    """Train to the end of the recipe; every `every` steps report."""
    columns = (TextColumn("pretrain"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
    losses: list[float] = []
    started = time.time()
    with Progress(*columns, disable=not trainer.world.first) as progress:
        bar = progress.add_task("", total=trainer.recipe.steps, completed=trainer.step, loss=float("nan"))
        while trainer.step < trainer.recipe.steps:
            losses.append(trainer.train_step())
            progress.update(bar, completed=trainer.step, loss=float(np.mean(losses[-50:])))
            if trainer.step % every == 0 or trainer.step == trainer.recipe.steps:
                minutes, loss = round((time.time() - started) / 60, 1), round(float(np.mean(losses[-every:])), 4)
                report(trainer, held_out, {"step": trainer.step, "minutes": minutes, "loss": loss})


def load_encoder(path: Path) -> codec.Encoder:
    """The encoder of a codec checkpoint."""
    encoder = codec.Encoder()
    net = checkpoint.load(path)["net"]
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in net.items() if name.startswith("encoder.")})
    return encoder


def start(args: argparse.Namespace) -> LMDM:
    """A new model, or one that goes on from another run's average, or Stable Audio Open Small on its way to become one."""
    config = replace(PRESETS[args.preset], regime=Regime(args.regime))
    if args.init_from:
        return init_from(args.init_from, config)
    model = LMDM(config)
    if args.start_from:
        model.load_state_dict(checkpoint.load(args.start_from)["average"])
    return model


def corpora(args: argparse.Namespace) -> tuple[Pairs, Pairs]:
    """Pairs to train on and pairs held out, as the model's codec hears them."""
    if args.init_from:
        return LatentPairs(args.data, TRAINED), LatentPairs(args.data, ("val",))
    encoder = load_encoder(args.codec)
    trained = [score for split in TRAINED for score in open_scores(args.data, split)]
    return Pairs(trained, encoder), Pairs(open_scores(args.data, "val"), encoder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain an LMDM on the rendered corpus.")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--codec", type=Path, default=Path("build/codec.pt"))
    parser.add_argument("--out", type=Path, default=Path("build/lmdm.pt"))
    parser.add_argument("--preset", choices=tuple(PRESETS), default="reference")
    parser.add_argument("--init-from", type=Path, metavar="CHECKPOINT", help="fine-tune Stable Audio Open Small; sizes are its own")
    parser.add_argument("--start-from", type=Path, metavar="CHECKPOINT", help="begin with the weights of another run of this program")
    parser.add_argument("--regime", choices=[regime.value for regime in Regime], default=Regime.BLOCK_CAUSAL.value)
    parser.add_argument("--steps", type=int, default=4800)
    parser.add_argument("--batch", type=int, default=8, help="windows per batch")
    parser.add_argument("--learning-rate", type=float, help="at its highest (default: 7e-4, or the paper's for Stable Audio Open Small)")
    parser.add_argument("--cool-down", type=float, default=Recipe.cool_down, help="last share of the steps: the rate falls")
    parser.add_argument("--regression", action="store_true", help="train the baseline instead: no noise, one step")
    parser.add_argument("--own-context", type=float, default=Recipe.own_context, help="share of batches with a context of the model's own")
    parser.add_argument("--every", type=int, default=500)
    distributed.add_arguments(parser)
    args = parser.parse_args()
    try:
        train(args)
    except CheckpointError as error:
        sys.exit(str(error))


def train(args: argparse.Namespace) -> None:
    world = distributed.join(args)
    torch.manual_seed(0)
    rate = args.learning_rate or (FINE_TUNING_RATE if args.init_from else Recipe.learning_rate)
    own_context = 0.0 if args.init_from else args.own_context  # a corpus of latents has no such contexts
    own_from = 0 if args.start_from else Recipe.own_from
    model = start(args)
    recipe = Recipe(
        args.steps, args.batch, learning_rate=rate, cool_down=args.cool_down, regression=args.regression, own_context=own_context,
        own_from=own_from,
    )  # fmt: skip
    facts = {"parameters": sum(p.numel() for p in model.parameters())}
    if args.dry_run:
        trainer = Trainer(model, recipe, Imagined(model.config), args.out, world)
        cost = distributed.dry_run(world, trainer.train_step, recipe.steps, recipe.batch * recipe.blocks * model.config.block_latents)
        world.say({**facts, **cost})
    else:
        pairs, held_out = corpora(args)
        trainer = Trainer(model, recipe, pairs, args.out, world)
        trainer.resume()
        world.say({**facts, "scores": len(pairs.scores), "from step": trainer.step})
        run(trainer, held_out, args.every)
    distributed.leave(world)


if __name__ == "__main__":
    main()

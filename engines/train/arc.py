"""Stage 2, ARC-Forcing: an LMDM learns from its own rollouts to need few steps and not to drift (arXiv 2605.22717, post-training).

    python -m engines.train.arc --model build/lmdm.pt --data build/data --codec build/codec.pt --out build/arc.pt

The model plays several blocks as it would on stage, from its own cache; a discriminator compares what it made with what was recorded,
both told the same. Three stages in one run: the discriminator learns to denoise whole windows, then its head learns to judge, then
generator and discriminator take turns. Resumes from `--out`, exactly; random draws follow from the step.

The rules, each with a test: the number of denoising steps k is drawn per block and the k-step schedule is used; gradient flows
through the last step of each block and nowhere else, so a block that became context teaches nothing; real and made windows get the
same noise at the same level; only generated positions are scored; prompts for the contrast are rolled from a copy; what a rollout
is told is drawn once.

The paper saw that adversarial training can loosen the grip of a sketch. Three settings work against that (see Recipe): the
discriminator also learns to tell music from music of *another* player's sketch, part of the pretraining loss is kept, and the
discriminator may be left untold.

Shapes: B batch, T latent of the window, G generated latent, C latent channel. Runs in: training.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from engines.lmdm import sampler, visibility
from engines.lmdm.model import LMDM
from engines.lmdm.rollout import Conditions, Context, Noise, Sampling, denoise_block, seeded_noise, velocity
from engines.lmdm.sampler import Solver, Spacing
from engines.sao.latents import LatentPairs
from engines.train import checkpoint, distributed
from engines.train.codec import TRAINED
from engines.train.corpus import open_scores
from engines.train.discriminator import Discriminator
from engines.train.distributed import ALONE, World
from engines.train.imagined import Imagined
from engines.train.judging import Contrast, Example, Judged, Noised
from engines.train.packing import Drops, Told, pack
from engines.train.pairs import Pairs
from engines.train.pretrain import load_encoder, loss_of


class Stage(str, Enum):
    BACKBONE = "backbone"  # the discriminator's layers learn to denoise whole windows
    HEAD = "head"  # its head learns to judge; nothing else moves
    ADVERSARIAL = "adversarial"


@dataclass(frozen=True)
class Recipe:
    """Everything about a run that is not the model or the data."""

    steps: int = 2000  # of the adversarial stage
    backbone_steps: int = 500
    head_steps: int = 200
    batch: int = 8
    blocks: int = 12  # generated in a rollout
    past_blocks: int = 4  # at most so many recorded blocks before them; their number is drawn per rollout
    denoising_steps: tuple[int, ...] = (1, 2, 3, 4)  # drawn per block: all that will be played with
    depth: float = 0.75  # share of the base model's layers that the discriminator uses
    backbone_rate: float = 1e-4
    head_rate: float = 1e-3
    generator_rate: float = 1e-5
    discriminator_rate: float = 1e-5
    weight_decay: float = 0.01
    ema: float = 0.995
    contrast_words: float = 1.0
    contrast_heard: float = 1.0  # keeps the grip of the sketch
    keep_pretraining: float = 0.2  # weight of the pretraining loss for the generator; keeps the grip of all conditions
    tell_heard: float = 1.0  # share of examples in which the discriminator is told what was heard; 0: it judges sound and words only
    drops: Drops = field(default_factory=Drops)
    seed: int = 0

    @property
    def total_steps(self) -> int:
        return self.backbone_steps + self.head_steps + self.steps

    @property
    def contrast(self) -> Contrast:
        return Contrast(self.contrast_words, self.contrast_heard)

    def stage(self, step: int) -> Stage:
        if step < self.backbone_steps:
            return Stage.BACKBONE
        return Stage.HEAD if step < self.backbone_steps + self.head_steps else Stage.ADVERSARIAL

    def layers(self, of: int) -> int:
        """How many of a base model's layers the discriminator uses."""
        return max(1, round(self.depth * of))


class Random(Enum):
    """What random numbers are for. They follow from this, the seed and the draw, so that nothing else need be remembered."""

    EXAMPLE, PRETRAINING, WINDOW, NOISE, BACKBONE, GENERATOR, DISCRIMINATOR = range(7)

    def number(self, seed: int, draw: int) -> int:
        return int(np.random.SeedSequence([seed, self.value, draw]).generate_state(1, np.uint64)[0])

    def numpy(self, seed: int, draw: int) -> np.random.Generator:
        return np.random.default_rng(self.number(seed, draw))

    def torch(self, seed: int, draw: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.number(seed, draw))


class Source(Protocol):
    """Where examples come from; each follows from the number of its draw."""

    def example(self, draw: int, blocks: int) -> Example: ...

    def pretraining_loss(self, model: LMDM, draw: int, world: World) -> Tensor: ...


@dataclass(frozen=True)
class Corpus:
    """Examples from training pairs."""

    pairs: Pairs | Imagined
    recipe: Recipe
    per_block: int

    def example(self, draw: int, blocks: int) -> Example:
        drops, seed = self.recipe.drops, self.recipe.seed
        batch = self.pairs.batch(Random.EXAMPLE.numpy(seed, draw), self.recipe.batch, blocks * self.per_block, self.per_block)
        chance = Random.EXAMPLE.torch(seed, draw)
        told = Told.draw(batch, drops, self.per_block, chance)
        count = len(batch.target)
        worded = (torch.rand(count, generator=chance) >= drops.text).float()
        changed = torch.rand(count, 1, 1, generator=chance) < drops.before
        words = Conditions(batch.states * worded[:, None, None], batch.pooled * worded[:, None], told.sketch, told.partner)
        return Example(batch.target, torch.where(changed, batch.before, batch.target), words)

    def pretraining_loss(self, model: LMDM, draw: int, world: World) -> Tensor:
        seen, seed = visibility.trained(model.config, self.recipe.blocks + self.recipe.past_blocks), self.recipe.seed
        batch = self.pairs.batch(Random.PRETRAINING.numpy(seed, draw), self.recipe.batch, seen.blocks * self.per_block, self.per_block)
        chance = Random.PRETRAINING.torch(seed, draw)
        packed = pack(batch, self.recipe.drops, seen, self.per_block, chance)
        return loss_of(model, world.here(packed), model.transformer.rotary_pos_emb(seen.positions))


def play(model: LMDM, told: Conditions, past: Tensor, step_counts: list[int], noise: Noise) -> Tensor:
    """Go on from recorded blocks (B, P, C), one block for each of `step_counts` -> (B, G, C), as a stream would.

    Gradient reaches the last denoising step of each block only: not its earlier steps, not the context.
    """
    context, n, made = Context(model), model.config.block_latents, []

    @torch.no_grad()
    def commit(clean: Tensor, block: int) -> None:
        context.commit(clean.detach(), told.block(model, block)[1], block)

    first = past.shape[1] // n
    for block in range(first):
        commit(past[:, block * n : (block + 1) * n], block)
    for block, count in enumerate(step_counts, first):
        times = sampler.schedule(count, Spacing.LOG_SNR)
        with torch.no_grad():
            x = denoise_block(model, told, context, block, Sampling(times[:-1], Solver.PING_PONG), noise)
        x = x - times[-2] * velocity(model, told, context, block, x, times[-2])
        commit(x, block)
        made.append(x)
    return torch.cat(made, 1)


class Trainer:
    """Generator, its average, discriminator, two optimisers and where the run stands."""

    def __init__(self, model: LMDM, recipe: Recipe, source: Source, out: Path, world: World = ALONE) -> None:
        self.model, self.recipe, self.source, self.out, self.world = model.to(world.device), recipe, source, out, world
        self.judge = Discriminator(model, recipe.layers(model.config.layers)).to(world.device)
        for module in (self.model, self.judge):
            world.same_start(module)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        options = {"betas": (0.0, 0.99), "weight_decay": recipe.weight_decay}  # no momentum: the other side moves too
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.generator_rate, **options)
        self.judge_optimiser = torch.optim.AdamW([{"params": part.parameters()} for part in (self.judge.base, self.judge.head)], **options)
        self.step = 0

    def resume(self) -> None:
        if self.out.exists():
            state = checkpoint.load(self.out)
            self.model.load_state_dict(state["model"])
            self.judge.load_state_dict(state["judge"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.judge_optimiser.load_state_dict(state["judge_optimiser"])
            self.average = {name: self.world.here(value) for name, value in state["average"].items()}
            self.step = int(state["step"])

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(), "average": self.average, "judge": self.judge.state_dict(),
            "optimiser": self.optimiser.state_dict(), "judge_optimiser": self.judge_optimiser.state_dict(), "step": self.step,
        }
        checkpoint.save(self.out, {**state, "recipe": json.dumps(asdict(self.recipe)), "config": json.dumps(asdict(self.model.config))})

    def rng(self, purpose: Random, draw: int) -> torch.Generator:
        return purpose.torch(self.recipe.seed, draw)

    def window(self, draw: int) -> tuple[Example, list[int]]:
        """An example, and how many denoising steps each of its generated blocks takes."""
        recipe = self.recipe
        numbers = Random.WINDOW.numpy(recipe.seed, draw)
        past = int(numbers.integers(recipe.past_blocks + 1))
        steps = [int(count) for count in numbers.choice(recipe.denoising_steps, recipe.blocks)]
        return self.world.here(self.source.example(draw, past + recipe.blocks)), steps

    def made(self, example: Example, steps: list[int], draw: int) -> Tensor:
        """What the generator makes of an example (B, G, C)."""
        count, generated = len(example.real), len(steps) * self.model.config.block_latents
        draw_noise = seeded_noise(Random.NOISE.number(self.recipe.seed, draw), count, self.model)
        noise = lambda block, step: self.world.here(draw_noise(block, step))  # noqa: E731
        with self.world.autocast():
            return play(self.model, example.told, example.past[:, :-generated], steps, noise)

    def backbone_step(self, draws: range) -> dict[str, float]:
        """The discriminator learns to denoise recorded windows, as long as those that it will judge."""
        loss = 0.0
        for draw in draws:
            example, _ = self.window(draw)
            noised = Noised.draw(example.real, self.rng(Random.BACKBONE, draw))
            with self.world.autocast():
                v = self.judge.velocity(noised.window(example.real), noised.t, example.told)
            loss += self.world.backward((v - (noised.noise - example.real)).pow(2).mean())
        self.take_step(self.judge, self.judge_optimiser)
        return {"denoising": loss}

    def generator_step(self, draws: range) -> tuple[list[Example], list[Tensor], dict[str, float]]:
        """Play, be judged, take a step -> what was played, for the discriminator."""
        examples, fakes, found = [], [], {"generator": 0.0, "pretraining": 0.0}
        self.judge.requires_grad_(False)
        for draw in draws:
            example, steps = self.window(draw)
            fake = self.made(example, steps, draw)
            with self.world.autocast():
                judged = Judged.draw(example, fake, self.recipe.tell_heard, self.rng(Random.GENERATOR, draw))
                adversarial = judged.generator_loss(self.judge)
            found["generator"] += self.world.backward(adversarial)
            if self.recipe.keep_pretraining:
                with self.world.autocast():
                    kept = self.source.pretraining_loss(self.model, draw, self.world)
                found["pretraining"] += self.world.backward(self.recipe.keep_pretraining * kept) / self.recipe.keep_pretraining
            examples.append(example)
            fakes.append(fake.detach())
        self.take_step(self.model, self.optimiser)
        return examples, fakes, found

    def judge_step(self, examples: list[Example], fakes: list[Tensor], draws: range, head_only: bool) -> dict[str, float]:
        found = {"discriminator": 0.0, "told apart": 0.0}
        self.judge.head.requires_grad_(True)
        self.judge.base.requires_grad_(not head_only)
        for example, fake, draw in zip(examples, fakes, draws, strict=True):
            with self.world.autocast():
                judged = Judged.draw(example, fake, self.recipe.tell_heard, self.rng(Random.DISCRIMINATOR, draw))
                loss, apart = judged.discriminator_loss(self.judge, self.recipe.contrast)
            found["discriminator"] += self.world.backward(loss)
            found["told apart"] += float(apart) / self.world.draws_per_step
        self.take_step(self.judge, self.judge_optimiser)
        return found

    def take_step(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """With the gradients of all processes; parameters without one stay as they are."""
        parameters = [p for p in module.parameters() if p.grad is not None]
        self.world.add_up_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    def set_rates(self, stage: Stage) -> None:
        recipe = self.recipe
        rates = {Stage.BACKBONE: (recipe.backbone_rate, 0.0), Stage.HEAD: (0.0, recipe.head_rate)}
        both = rates.get(stage, (recipe.discriminator_rate, recipe.discriminator_rate))
        for group, rate in zip(self.judge_optimiser.param_groups, both, strict=True):
            group["lr"] = rate

    def train_step(self) -> dict[str, float]:
        stage, draws = self.recipe.stage(self.step), self.world.draws(self.step)
        self.set_rates(stage)
        if stage is Stage.BACKBONE:
            self.judge.base.requires_grad_(True)
            found = self.backbone_step(draws)
        elif stage is Stage.HEAD:
            windows = [self.window(draw) for draw in draws]
            with torch.no_grad():
                fakes = [self.made(*window, draw) for window, draw in zip(windows, draws, strict=True)]
            found = self.judge_step([example for example, _ in windows], fakes, draws, head_only=True)
        else:
            examples, fakes, found = self.generator_step(draws)
            self.follow()
            found |= self.judge_step(examples, fakes, draws, head_only=False)
        self.step += 1
        return {name: self.world.add_up(value) for name, value in found.items()}

    def follow(self) -> None:
        """The average follows the generator."""
        count = self.step - self.recipe.backbone_steps - self.recipe.head_steps + 1
        keep = min(self.recipe.ema, (count + 1) / (count + 10))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)


def run(trainer: Trainer, every: int) -> None:
    """Train to the end of the recipe; every `every` steps, and at each stage's end, save and say the mean losses since."""
    columns = (TextColumn("arc: {task.fields[stage]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    recipe, started, losses = trainer.recipe, time.time(), []
    with Progress(*columns, disable=not trainer.world.first) as progress:
        bar = progress.add_task("", total=recipe.total_steps, completed=trainer.step, stage="")
        while trainer.step < recipe.total_steps:
            stage = recipe.stage(trainer.step)
            losses.append(trainer.train_step())
            progress.update(bar, completed=trainer.step, stage=stage.value)
            ends = trainer.step == recipe.total_steps or recipe.stage(trainer.step) is not stage
            if trainer.step % every == 0 or ends:
                if trainer.world.first:
                    trainer.save()
                trainer.world.meet()
                means = {name: round(float(np.mean([found[name] for found in losses])), 4) for name in losses[-1]}
                trainer.world.say({"step": trainer.step, "stage": stage.value, "minutes": round((time.time() - started) / 60, 1), **means})
                losses.clear()


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Every number of the recipe, by its name."""
    for part in fields(Recipe):
        if isinstance(part.default, (int, float)):
            parser.add_argument(f"--{part.name.replace('_', '-')}", type=type(part.default), default=part.default)
    parser.add_argument("--denoising-steps", type=int, nargs="+", default=Recipe.denoising_steps, help="drawn per block")


def recipe_from(args: argparse.Namespace) -> Recipe:
    numbers = {part.name: getattr(args, part.name) for part in fields(Recipe) if isinstance(part.default, (int, float))}
    return Recipe(**numbers, denoising_steps=tuple(args.denoising_steps))


def main() -> None:
    parser = argparse.ArgumentParser(description="Post-train an LMDM by ARC-Forcing.")
    parser.add_argument("--model", type=Path, default=Path("build/lmdm.pt"), help="checkpoint of the pretrained model")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--codec", type=Path, default=Path("build/codec.pt"))
    parser.add_argument("--oobleck", action="store_true", help="the corpus as latents of Stable Audio Open (engines.sao.latents)")
    parser.add_argument("--out", type=Path, default=Path("build/arc.pt"))
    parser.add_argument("--every", type=int, default=100)
    recipe_arguments(parser)
    distributed.add_arguments(parser)
    args = parser.parse_args()
    world, recipe = distributed.join(args), recipe_from(args)
    torch.manual_seed(0)
    model = checkpoint.load_model(args.model)
    per_block = model.config.block_latents
    if args.dry_run:
        recipe = replace(recipe, backbone_steps=0, head_steps=0)
        trainer = Trainer(model, recipe, Corpus(Imagined(model.config), recipe, per_block), args.out, world)
        world.say(distributed.dry_run(world, trainer.train_step, recipe.steps, recipe.batch * recipe.blocks * per_block))
    else:
        pairs = LatentPairs(args.data, TRAINED) if args.oobleck else Pairs(
            [score for split in TRAINED for score in open_scores(args.data, split)], load_encoder(args.codec)
        )
        trainer = Trainer(model, recipe, Corpus(pairs, recipe, per_block), args.out, world)
        trainer.resume()
        run(trainer, args.every)
    distributed.leave(world)


if __name__ == "__main__":
    main()

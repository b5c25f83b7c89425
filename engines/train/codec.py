"""Fit the codec: the two PCAs of the encoder in one pass, then the decoder's network.

    python -m engines.train.codec --data build/data --out build/codec.pt

The network learns magnitudes and phase advances of real spectra from (noised) latents, and in the last fifth of its steps also from what
is heard of them: neighbouring frames that disagree take from each other, which only what comes out shows. There is no discriminator.
Runs in: training; resumes from `--out`.
"""

from __future__ import annotations

import argparse
import math
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engines.lmdm import codec, sketch
from engines.lmdm.decoder import SOUNDING, Decoder, Neighbourhoods, SpectrumNet
from engines.train import checkpoint
from engines.train.corpus import CQT, MEL, ROW, open_scores

REAL_GUITAR = Path("/usr/share/games/fretsonfire/data/songs/sectoid")  # Debian fretsonfire-songs-sectoid, MIT-style licence
CLIP_FRAMES = 49_152
BATCH = 8
LEARNING_RATE, FINE_TUNING_RATE, LAST_RATE = 1e-3, 4e-4, 0.25  # the last as a share of the highest
KEEP = 0.998  # of the mean of weights, a step: its tones are purer than those of the last weights
WARM_UP_FRAMES = codec.STACK  # the first spectra of a clip see no history: not scored
LATENT_NOISE = 0.05
TONES = 0.35  # share of clips that are synthetic tones
LOUD_BINS = 0.5  # phase errors weigh as the magnitude to this power
TRUST = 2.0  # see Trainer.finished
NEARLY = 0.01  # radians by which a turn may be off before that counts in full: what makes tones beat is small
INDECISION = 0.1  # share of a neighbourhood's power that has to agree on a turn before that counts as one
TRAINED = ("train", "jam")
BLOCK_LATENTS = 8
WINDOWS = (512, 2048, 8192)  # of the spectra by which sound is compared: for attacks; the codec's own; for what is beside partials
SOUND_FRAMES = 2 * codec.HISTORY_FRAMES  # samples at the start of a clip by which sound is not compared: it comes from nothing


@dataclass
class Excerpts:
    """Audio to train the decoder on; clips are drawn with a random gain, speed, and now and then a synthetic tone."""

    pieces: list[NDArray[np.int16]]
    rng: np.random.Generator

    @classmethod
    def load(cls, folder: Path, seed: int) -> Excerpts:
        pieces = [piece for split in TRAINED for score in open_scores(folder, split) for piece in score.stored()]
        stems = [(soundfile.read(p, dtype="float32", always_2d=True)[0].mean(1) * 32767) for p in sorted(REAL_GUITAR.glob("*/guitar.ogg"))]
        pieces += [stem[: len(stem) * 3 // 4].astype(np.int16) for stem in stems for _ in range(3)]  # last quarter is held out
        return cls(pieces, np.random.default_rng(seed))

    def batch(self, count: int, frames: int) -> Tensor:
        return torch.from_numpy(np.stack([self._clip(frames) for _ in range(count)]))

    def _clip(self, frames: int) -> NDArray[np.float32]:
        if self.rng.random() < TONES:
            return sum(self._tone(frames) for _ in range(self.rng.choice((1, 1, 1, 2, 3))))
        speed = self.rng.uniform(0.93, 1.075) if self.rng.random() < 0.6 else 1.0
        length = int(frames * speed) + 3
        for _ in range(4):
            piece = self.pieces[self.rng.integers(len(self.pieces))]
            at = self.rng.integers(0, len(piece) - length)
            clip = piece[at : at + length].astype(np.float32) / 32767
            if np.mean(clip**2) > 1e-5:
                break
        clip = np.interp(np.arange(frames) * speed, np.arange(length), clip) if speed != 1.0 else clip[:frames]
        return (clip * 10 ** (self.rng.uniform(-10, 4) / 20)).astype(np.float32)

    def _tone(self, frames: int) -> NDArray[np.float32]:
        """A steady harmonic tone at any pitch: rendered music is always in tune, guitars are not."""
        t = np.arange(frames) / codec.SAMPLE_RATE
        hz = 55 * 2 ** self.rng.uniform(0, 4.5)
        order = np.arange(1, 1 + self.rng.integers(1, 24))
        order = order[order * hz < 16_000]
        phase = self.rng.uniform(0, 2 * np.pi, len(order))
        tone = (np.cos(2 * np.pi * hz * order[:, None] * t + phase[:, None]) / order[:, None] ** self.rng.uniform(0.5, 2)).sum(0)
        return (tone * np.exp(-t * self.rng.uniform(0, 3)) * self.rng.uniform(0.02, 0.2)).astype(np.float32)


def every(folder: Path, step: int, scores: int = 40) -> Tensor:
    """Every `step`-th row of features of the first scores that are trained on, (examples, 644): plenty for a PCA."""
    rows = [score.rows[:, ::step].reshape(-1, ROW) for split in TRAINED for score in open_scores(folder, split)[:scores]]
    return torch.from_numpy(np.concatenate(rows)).float()


def fit_encoder(encoder: codec.Encoder, rows: Tensor) -> tuple[float, float]:
    """Fit both PCAs to rows of features (examples, 644); returns the shares of variance kept."""
    cqt = rows[:, CQT].unflatten(1, (sketch.PER_LATENT, sketch.BINS))
    return encoder.mel.fit(rows[:, MEL]), encoder.low.fit(codec.normalise_low(cqt)[:, 0])


class SpectrumLoss:
    """Distance between a predicted and a true spectrum: log-magnitude, how that changes from frame to frame (a held tone must not waver at
    the rate of the latents), spectral convergence, log-mel, and how the phase turns: of each bin by itself, and of its neighbourhood as
    the decoder uses it, which should be of one mind."""

    def __init__(self, encoder: codec.Encoder) -> None:
        self.spectrum, self.bank, self.sketch = encoder.log_mel.spectrum, encoder.log_mel.filterbank, sketch.Sketch()
        self.neighbourhoods = Neighbourhoods()
        self.centre = torch.complex(self.neighbourhoods.cos, -self.neighbourhoods.sin)

    def target(self, audio: Tensor) -> Tensor:
        """Clips (B, N) -> complex spectra (B, F, 1025)."""
        return torch.complex(*self.spectrum(torch.nn.functional.pad(audio, (codec.HISTORY_FRAMES, 0))))

    def __call__(self, log_magnitude: Tensor, advance: Tensor, target: Tensor) -> tuple[Tensor, dict[str, float]]:
        turned = (target[:, 1:] * target[:, :-1].conj())[:, WARM_UP_FRAMES - 1 :]
        turned = turned / (turned.abs() + 1e-9)
        wanted = torch.view_as_real(turned * self.centre).movedim(-1, 2)
        true = target.abs()[:, WARM_UP_FRAMES:]
        log_magnitude, advance = log_magnitude[:, WARM_UP_FRAMES:], advance[:, WARM_UP_FRAMES:]
        made = torch.exp(log_magnitude.clamp(max=7))
        log = (torch.log(true + 1e-2) - torch.log(made + 1e-2)).abs().mean()
        convergence = ((true - made).norm(dim=(1, 2)) / (true.norm(dim=(1, 2)) + 0.1)).mean()
        mel = (torch.log(true @ self.bank + codec.MEL_FLOOR) - torch.log(made @ self.bank + codec.MEL_FLOOR)).abs().mean()
        weight = (true + 1e-3) ** LOUD_BINS
        weight = weight / weight.mean(dim=(1, 2), keepdim=True)
        phase = (weight * ((advance - wanted) ** 2).sum(2)).mean()
        re, im, power = self.neighbourhoods(made.detach(), advance)
        length = torch.sqrt(re * re + im * im + 1e-24) + INDECISION * power
        turn = (weight * torch.sqrt((re / length - turned.real) ** 2 + (im / length - turned.imag) ** 2 + NEARLY**2)).mean()
        wavers = torch.log(made + 1e-2).diff(dim=1) - torch.log(true + 1e-2).diff(dim=1)
        motion = (weight[:, 1:] * wavers.abs()).mean()
        loss = 2 * log + convergence + 3 * mel + phase + turn + motion
        parts = {"log": log, "convergence": convergence, "mel": mel, "phase": phase, "turn": turn, "motion": motion}
        return loss, {name: round(float(value.detach()), 3) for name, value in parts.items()}


class Learning(Decoder):
    """The decoder, with slopes that training can use: a bin's phase is what Griffin-Lim makes it, but moves as if that did nothing."""

    def _griffin_lim(self, re: Tensor, im: Tensor, magnitudes: Tensor, played: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.stack([re, im]) / magnitudes
        with torch.no_grad():
            after = torch.stack(super()._griffin_lim(re, im, magnitudes, played)) / magnitudes
        turned = magnitudes * (before + (after - before).detach())
        return turned[0], turned[1]


class SoundLoss:
    """Distance between clips and what the decoder makes of the network's word for them, block by block as it plays: log-mel, and log
    magnitude and spectral convergence for each of WINDOWS."""

    def __init__(self, net: SpectrumNet) -> None:
        self.decoder, self.log_mel = Learning(net, BLOCK_LATENTS), net.encoder.log_mel
        self.windows = {size: torch.hann_window(size) for size in WINDOWS}

    def __call__(self, said: tuple[Tensor, Tensor, Tensor], audio: Tensor, seed: int) -> tuple[Tensor, dict[str, float]]:
        """`said`: log-magnitude, advance and tones, as the network gives them."""
        played = torch.stack([self._play(*one, seed) for one in zip(*said, strict=True)])
        heard = slice(SOUND_FRAMES, audio.shape[1] - codec.HISTORY_FRAMES)
        made, true = played[:, heard.start + codec.HISTORY_FRAMES :][:, : heard.stop - heard.start], audio[:, heard]
        whole = made.shape[1] // codec.LATENT_FRAMES * codec.LATENT_FRAMES - codec.LATENT_FRAMES
        mel = (self.log_mel(made[:, : codec.HISTORY_FRAMES + whole]) - self.log_mel(true[:, : codec.HISTORY_FRAMES + whole])).abs().mean()
        distances = [self._distance(made, true, size) for size in WINDOWS]
        log, convergence = (sum(part) / len(WINDOWS) for part in zip(*distances, strict=True))
        parts = {"heard mel": mel, "heard log": log, "heard convergence": convergence}
        return 6 * mel + log + convergence, {name: round(float(value.detach()), 3) for name, value in parts.items()}

    def _play(self, log_magnitude: Tensor, advance: Tensor, tones: Tensor, seed: int) -> Tensor:
        """(F, 1025), (F, 2, 1025) and (T, 2, 34) -> (512 F,) samples"""
        sounding, samples, frames = list(self.decoder.initial_state(seed)[SOUNDING]), [], self.decoder.frames
        for block in zip(log_magnitude.split(frames), advance.split(frames), tones.split(BLOCK_LATENTS), strict=True):
            piece, *sounding[:] = self.decoder.sound(*block, *sounding)
            samples.append(piece)
        return torch.cat(samples)

    def _distance(self, made: Tensor, true: Tensor, size: int) -> tuple[Tensor, Tensor]:
        a, b = (
            torch.stft(audio, size, size // 4, window=self.windows[size], center=False, return_complex=True).abs() / (size / 2048) ** 0.5
            for audio in (made, true)
        )
        return (torch.log(a + 1e-2) - torch.log(b + 1e-2)).abs().mean(), ((a - b).norm(dim=(1, 2)) / (b.norm(dim=(1, 2)) + 0.1)).mean()


@torch.no_grad()
def trust(net: SpectrumNet, times: float) -> None:
    """Weigh what the constant-Q peaks tell `times` as much."""
    net.trust.weight *= times
    net.trust.bias *= times


@dataclass(frozen=True)
class Recipe:
    """How the decoder is trained; a run follows from this."""

    steps: int
    learning_rate: float  # at its highest
    sound: float  # last share of the steps, which learn from what is heard, too

    def rate(self, step: int) -> float:
        falling = LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1, (step + 1) / 100) * falling


class Trainer:
    """The network, the mean of its weights, which is what counts, optimiser (AdamW) and where the run stands."""

    def __init__(self, net: SpectrumNet, excerpts: Excerpts, recipe: Recipe, out: Path) -> None:
        self.net, self.excerpts, self.recipe, self.out = net, excerpts, recipe, out
        self.mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(KEEP))
        self.optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.loss_of, self.sound_loss_of = SpectrumLoss(net.encoder), SoundLoss(net)
        self.rows = net.histories(BATCH)
        self.step = 0

    def resume(self) -> None:
        if self.out.exists():
            state = checkpoint.load(self.out)
            self.net.load_state_dict(state["learning"])
            self.mean.load_state_dict(state["mean"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = int(state["step"])

    def save(self) -> None:
        state = {"learning": self.net.state_dict(), "mean": self.mean.state_dict(), "optimiser": self.optimiser.state_dict()}
        checkpoint.save(self.out, {"net": self.finished().state_dict(), **state, "step": self.step})

    def finished(self) -> SpectrumNet:
        """What a codec is made of. Constant-Q peaks are trusted more than training does, which asks for the mean of all that may be: held
        low notes come out in tune (6 cents off at worst become 3), others as they were."""
        net = deepcopy(self.mean.module)
        assert isinstance(net, SpectrumNet)
        trust(net, TRUST)
        return net

    def train_step(self) -> dict[str, float]:
        """Returns the parts of its loss."""
        step = self.step
        self.optimiser.param_groups[0]["lr"] = self.recipe.rate(step)
        self.excerpts.rng = np.random.default_rng([1, step])  # so that a resumed run sees what an unbroken one would
        torch.manual_seed(step)
        audio = self.excerpts.batch(BATCH, CLIP_FRAMES)
        latents, target = self.latents(audio)
        with torch.autocast("cpu", torch.bfloat16):
            log_magnitude, advance, tones, *_ = self.net(latents, *self.rows)
        loss, parts = self.loss_of(log_magnitude, advance, target)
        if step >= (1 - self.recipe.sound) * self.recipe.steps:
            sound_loss, more = self.sound_loss_of((log_magnitude, advance, tones), audio, step)
            loss, parts = loss + sound_loss, parts | more
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimiser.step()
        self.mean.update_parameters(self.net)
        self.step += 1
        return parts

    @torch.no_grad()
    def latents(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, N) -> noised latents (B, T, C), spectra (B, F, 1025)"""
        target = self.loss_of.target(audio)
        mel = codec.normalise_mel(target.abs() @ self.loss_of.bank).unflatten(1, (-1, codec.STACK)).flatten(-2)
        cqt, _ = self.loss_of.sketch.magnitudes(torch.nn.functional.pad(audio, (sketch.HISTORY_FRAMES, 0)))
        latents = self.net.encoder.project(mel, cqt)
        return latents + LATENT_NOISE * torch.randn_like(latents) * self.net.encoder.deviation, target


def run(trainer: Trainer, every: int = 200) -> None:
    """Train to the end of the recipe; every `every` steps, a checkpoint."""
    columns = (TextColumn("decoder"), BarColumn(), TextColumn("{task.completed}/{task.total} {task.fields[parts]}"), TimeRemainingColumn())
    steps = trainer.recipe.steps
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=steps, completed=trainer.step, parts="")
        while trainer.step < steps:
            parts = trainer.train_step()
            progress.update(bar, completed=trainer.step, parts=parts)
            if trainer.step % every == 0 or trainer.step == steps:
                trainer.save()
                print(f"step {trainer.step}  {parts}  {time.process_time():.0f} CPU s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the codec.")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--out", type=Path, default=Path("build/codec.pt"))
    parser.add_argument("--start-from", type=Path, metavar="CHECKPOINT", help="train the decoder of a finished codec on; its latents stay")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--sound", type=float, default=0.2, help="last share of the steps, which learn from what is heard, too")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = SpectrumNet()
    if args.start_from:
        net.load_state_dict(checkpoint.load(args.start_from)["net"])
        trust(net, 1 / TRUST)
    elif not args.out.exists():
        mel, low = fit_encoder(net.encoder, every(args.data, 23))
        print(f"the PCAs keep {mel:.2%} of the variance of log-mel and {low:.2%} of that of low constant-Q")
    rate = FINE_TUNING_RATE if args.start_from else LEARNING_RATE
    trainer = Trainer(net, Excerpts.load(args.data, 0), Recipe(args.steps, rate, args.sound), args.out)
    trainer.resume()
    run(trainer)


if __name__ == "__main__":
    main()

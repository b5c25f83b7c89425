"""A judge of timbre: which instrument plays, told from one second of log-mel.

A small network on window statistics, trained on the true renderings of the training split. It never sees an engine's output, and
its accuracy on true renderings of unseen scores says how far it can be trusted. It has its own PCA, fitted to the same corpus, so
that it judges every engine alike.

Shapes: B window, T latent, M stacked log-mel (512). Runs in: evaluation, offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.lmdm import codec
from engines.train import checkpoint
from engines.train.codec import TRAINED, every
from engines.train.corpus import MEL, open_scores
from engines.train.instruments import INSTRUMENTS, name_of

CHANNELS = 64  # of the judge's own PCA, whatever the codec of an engine has
WINDOW_LATENTS = 21  # 0.98 s
WINDOW_FRAMES = WINDOW_LATENTS * codec.LATENT_FRAMES
PIECE_FRAMES = 64 * codec.LATENT_FRAMES
CLASSES = (*INSTRUMENTS, "guitar")
GUITAR = len(INSTRUMENTS)
QUIET = 2e-3  # mean mel magnitude below which a window holds too little to judge
GAINS_DB = (-8.0, 0.0, 6.0)  # each part is also shown quieter or louder, so that level is no clue
TRAINING_STEPS, BATCH = 2500, 256


def called(index: int) -> str:
    """The name of a class."""
    return "guitar" if index == GUITAR else name_of(tuple(INSTRUMENTS)[index])


def magnitudes(mel: Tensor) -> Tensor:
    return (codec.denormalise_mel(mel) - codec.MEL_FLOOR).clamp(min=0)


def cut(rows: Tensor) -> Tensor:
    """(T, D) -> windows (B, 21, D); what is left over is dropped."""
    count = len(rows) // WINDOW_LATENTS
    return rows[: count * WINDOW_LATENTS].unflatten(0, (count, WINDOW_LATENTS))


def loud(mel: Tensor) -> Tensor:
    """Which windows (B,) of stacked log-mel (T, 512) hold enough sound to be judged."""
    return magnitudes(cut(mel)).mean((1, 2)) > QUIET


class Judge(nn.Module):
    """Window statistics of latents -> one of the instruments that can be asked for, or "guitar"."""

    centre: Tensor
    spread: Tensor
    mean_mel: Tensor  # (classes, 512) mean log-mel of each class's training parts

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram, self.pca = codec.LogMel(), codec.Pca(codec.STACK * codec.MELS, CHANNELS)
        features = 3 * CHANNELS
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("mean_mel", torch.zeros(len(CLASSES), codec.STACK * codec.MELS))
        self.layers = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, len(CLASSES)))

    def features(self, mel: Tensor) -> Tensor:
        """Stacked log-mel (T, 512) -> mean, deviation and mean change of the latents in each window, (B, 192)."""
        z = cut(self.pca(mel))
        return torch.cat([z.mean(1), z.std(1), z.diff(dim=1).abs().mean(1)], 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers((features - self.centre) / self.spread)

    @torch.inference_mode()
    def hear(self, mel: Tensor) -> Tensor:
        """Stacked log-mel (T, 512) -> class of each window (B,)."""
        return self(self.features(mel)).argmax(1)

    def verdicts(self, mel: Tensor, program: int, truth: Tensor) -> Tensor:
        """In which of the windows in which `truth` is loud the asked instrument is heard in `mel`, (B,) bool."""
        active, classes = loud(truth), self.hear(mel)
        count = min(len(active), len(classes))
        return (classes[:count] == CLASSES.index(program))[active[:count]]

    @torch.inference_mode()
    def embed(self, mel: Tensor) -> Tensor:
        """Stacked log-mel (T, 512) -> what the judge makes of each window before it decides (B, 64)."""
        return self.layers[:2]((self.features(mel) - self.centre) / self.spread)

    @torch.inference_mode()
    def log_mel(self, audio: NDArray[np.float32]) -> Tensor:
        """(N,) samples at 44.1 kHz -> stacked log-mel (T, 512); what is left over is dropped. In pieces, to save memory."""
        count = len(audio) // codec.LATENT_FRAMES * codec.LATENT_FRAMES
        padded = torch.from_numpy(np.concatenate([np.zeros(codec.HISTORY_FRAMES, np.float32), audio[:count]]))[None]
        pieces = [padded[:, start : start + codec.HISTORY_FRAMES + PIECE_FRAMES] for start in range(0, count, PIECE_FRAMES)]
        return torch.cat([self.spectrogram(piece)[0] for piece in pieces])


def parts(folder: Path, split: str) -> Iterator[tuple[int, Tensor]]:
    """Every rendered part of a split: its class and its stacked log-mel (T, 512)."""
    for score in open_scores(folder, split):
        for index, part in enumerate(score.parts):
            label = GUITAR if part.role == "guitar" else CLASSES.index(part.program)
            yield label, torch.from_numpy(score.mel(index).astype(np.float32))


def examples(judge: Judge, folder: Path, split: str, gains_db: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Features (B, 192) and classes (B,) of the loud windows of a split, each part at the next of `gains_db`."""
    features, classes = [], []
    for index, (label, mel) in enumerate(parts(folder, split)):
        keep = loud(mel)
        gain = 10 ** (gains_db[index % len(gains_db)] / 20)
        rows = judge.features(codec.normalise_mel(magnitudes(mel) * gain))[keep]
        features.append(rows)
        classes.append(torch.full((len(rows),), label))
    if not features:
        return torch.zeros(0, len(judge.centre)), torch.zeros(0, dtype=torch.long)
    return torch.cat(features), torch.cat(classes)


@torch.no_grad()
def _fit_statistics(judge: Judge, folder: Path, features: Tensor) -> None:
    judge.centre.copy_(features.mean(0))
    judge.spread.copy_(features.std(0) + 1e-3)
    counts = torch.zeros(len(CLASSES), 1)
    for split in TRAINED:
        for label, mel in parts(folder, split):
            judge.mean_mel[label] += mel.mean(0)
            counts[label] += 1
    judge.mean_mel /= counts.clamp(min=1)


def train(folder: Path, seed: int = 0) -> tuple[Judge, float]:
    """A judge for the corpus in `folder`, and its accuracy on the true renderings of the `val` split."""
    torch.manual_seed(seed)
    judge = Judge()
    judge.pca.fit(every(folder, 23)[:, MEL])
    with torch.no_grad():
        features, classes = (torch.cat(both) for both in zip(*(examples(judge, folder, s, GAINS_DB) for s in TRAINED), strict=True))
    _fit_statistics(judge, folder, features)
    weights = 1.0 / torch.bincount(classes, minlength=len(CLASSES)).clamp(min=1)[classes]
    optimiser = torch.optim.Adam(judge.layers.parameters(), 2e-3, weight_decay=1e-4)
    for _ in range(TRAINING_STEPS):
        batch = torch.multinomial(weights, BATCH, replacement=True)
        loss = F.cross_entropy(judge(features[batch]), classes[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    judge.eval()
    return judge, accuracy(judge, folder, "val")


@torch.inference_mode()
def accuracy(judge: Judge, folder: Path, split: str) -> float:
    """How often the judge is right about the true renderings of a split."""
    features, classes = examples(judge, folder, split, (0.0,))
    return float((judge(features).argmax(1) == classes).float().mean()) if len(classes) else float("nan")


def open_judge(folder: Path, kept: Path, seed: int = 0) -> tuple[Judge, float]:
    """The judge kept in the file `kept`, or a new one that is then kept there."""
    if kept.exists():
        state = checkpoint.load(kept)
        judge = Judge()
        judge.load_state_dict(state["judge"])
        return judge.eval(), float(state["accuracy"])
    judge, right = train(folder, seed)
    checkpoint.save(kept, {"judge": judge.state_dict(), "accuracy": right})
    return judge, right

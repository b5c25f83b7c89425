"""The corpus as Stable Audio Open hears it: Oobleck latents and T5 words, for fine-tuning.

    python -m engines.sao.latents --checkpoint FOLDER/model.safetensors --text T5_FOLDER --out build/sao-data
    python -m engines.train.pretrain --init-from FOLDER/model.safetensors --preset sao_small --data build/sao-data

Scores are rendered as engines.train.data renders them, from the same seeds; beside each lies `NAME.latents.npy`, float16 (parts, T, C), and
beside all of them `prompts.npz`. Sketches are those of the corpus: they depend on the sound alone. Levels are not varied in training,
because a latent of this codec can't be made louder.

Shapes as in engines.train.pairs. Runs in: fine-tuning, offline; a GPU encodes the corpus in minutes, a CPU core in a day.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from engines.lmdm import codec
from engines.lmdm.model import LMDM
from engines.lmdm.rollout import Conditions, Sampling, rollout, seeded_noise
from engines.lmdm.sampler import Spacing, schedule
from engines.lmdm.text import Prompt
from engines.sao.checkpoint import load_codec
from engines.sao.conditioner import Conditioner
from engines.sao.config import CheckpointError
from engines.sao.oobleck import Autoencoder
from engines.sao.streaming import encode_stream
from engines.train.corpus import LOUDNESS, Score, open_scores
from engines.train.data import SPLITS, render_score
from engines.train.instruments import COMPANIONS, TARGETS, training_phrases
from engines.train.packing import present
from engines.train.pairs import TEMPLATES, Batch, Choice, Pairs, magnitudes

PROMPTS_FILE = "prompts.npz"
EVERY_PART = 99  # more than a score has
PIECE_LATENTS = 64

Latents = NDArray[np.float16]


@torch.no_grad()
def encode_audio(oobleck: Autoencoder, audio: NDArray[np.float32], device: torch.device) -> Latents:
    """Mono audio (N,) -> latents (T, C), piece by piece."""
    frames = oobleck.config.latent_frames
    whole = torch.from_numpy(audio[: len(audio) // frames * frames]).to(device)
    stream = encode_stream(oobleck)
    pieces = whole.expand(1, oobleck.config.audio_channels, -1).split(PIECE_LATENTS * frames, -1)
    made = torch.cat([*(stream.push(piece) for piece in pieces), stream.finish()], -1)
    found: Latents = made[0].T.half().cpu().numpy()
    return found


def latents_path(score: Score) -> Path:
    return score.folder / f"{score.name}.latents.npy"


def encode_score(oobleck: Autoencoder, score: Score, device: torch.device) -> None:
    """Latents of every part; the audio goes, and with it what it took on disk."""
    audio = score.audio()
    np.save(latents_path(score), np.stack([encode_audio(oobleck, audio[i], device) for i in range(len(score.parts))]))
    (score.folder / f"{score.name}.audio.npy").unlink()


def write_prompts(folder: Path, conditioner: Conditioner) -> None:
    """Everything that training may say, by program: states (phrases, S, X) and pooled (phrases, X)."""
    arrays = {}
    for program, templates in [*((p, TEMPLATES[1:]) for p in TARGETS), *((p, ("{}",)) for p in COMPANIONS)]:
        prompts = [conditioner.prompt(t.format(words)) for words in training_phrases(program) for t in templates]
        arrays[f"{program}/states"] = torch.stack([p.states for p in prompts]).half().numpy()
        arrays[f"{program}/pooled"] = torch.stack([p.pooled for p in prompts]).half().numpy()
    np.savez(folder / PROMPTS_FILE, **arrays)


def prepare(folder: Path, checkpoint: Path, text: Path | None, device: torch.device) -> None:
    """Render, encode and embed; what is there already is kept."""
    oobleck = load_codec(checkpoint).to(device)
    if oobleck.config.latent_frames != codec.LATENT_FRAMES:
        raise CheckpointError(f"{checkpoint} has {oobleck.config.latent_frames} frames per latent, a sketch {codec.LATENT_FRAMES}")
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder, Conditioner(checkpoint, text))
    for split in SPLITS:
        for index in track(range(split.scores), description=split.name):
            score = Score.open(folder / f"{render_score(replace(split, kept=EVERY_PART), index, folder)}.json")
            if not latents_path(score).exists():
                encode_score(oobleck, score, device)


def read_prompts(folder: Path) -> dict[int, list[Prompt]]:
    """What may be said for each program."""
    with np.load(folder / PROMPTS_FILE) as arrays:
        programs = {int(name.split("/")[0]) for name in arrays.files}
        told = {p: [torch.from_numpy(arrays[f"{p}/{kind}"]).float() for kind in ("states", "pooled")] for p in programs}
    return {p: [Prompt(*prompt) for prompt in zip(*both, strict=True)] for p, both in told.items()}


class LatentPairs(Pairs):
    """Draws as Pairs does, from latents that were encoded before."""

    def __init__(self, folder: Path, splits: Iterable[str], jam_share: float = 0.25) -> None:
        scores = [score for split in splits for score in open_scores(folder, split) if latents_path(score).exists()]
        if not scores or not (folder / PROMPTS_FILE).exists():
            make = f"python -m engines.sao.latents --out {folder}"
            raise CheckpointError(f"{folder} holds no latents of Stable Audio Open: make them with `{make}`")
        self.encoded = [np.load(latents_path(score), mmap_mode="r") for score in scores]
        heard = [replace(score, rows=score.rows[:, : len(latents[0])]) for score, latents in zip(scores, self.encoded, strict=True)]
        super().__init__(heard, codec.Encoder(), jam_share, repeat_share=0.0)  # what is fed back was never encoded
        self.prompts = read_prompts(folder)

    def window(self, rng: np.random.Generator, choices: Sequence[Choice], length: int, vary: bool) -> Batch:
        rows = self._rows(choices, "heard", length)
        programs = [self.scores[c.score].parts[c.target].program for c in choices]
        prompts = [self.prompts[p][rng.integers(len(self.prompts[p])) if vary else 0] for p in programs]
        return Batch(
            self._latents(choices, "target", length), self._latents(choices, "before", length), self._latents(choices, "heard", length),
            torch.tensor([c.lag for c in choices]),
            torch.tensor([self.scores[c.score].parts[c.target].role == "companion" for c in choices]),
            self.sketch.thin(magnitudes(rows), rows[..., LOUDNESS]),
            torch.stack([p.states for p in prompts]), torch.stack([p.pooled for p in prompts]),
        )  # fmt: skip

    def _latents(self, choices: Sequence[Choice], which: str, length: int) -> Tensor:
        found = []
        for c in choices:
            at = c.at - (c.lag if which == "heard" else 0)
            found.append(self.encoded[c.score][getattr(c, which), at : at + length])
        return torch.from_numpy(np.stack(found)).float()


@torch.no_grad()
def latent_error(model: LMDM, pairs: LatentPairs, blocks: int = 8, count: int = 8, steps: int = 4) -> dict[str, float]:
    """Roll out windows of held-out scores after their sketches: error of the latents, relative to their size."""
    n = model.config.block_latents
    batch = pairs.batch(np.random.default_rng(0), count, blocks * n, n)
    conditions = Conditions(batch.states, batch.pooled, present(batch.sketch, torch.ones(count)))
    made = rollout(model, conditions, blocks, Sampling(schedule(steps, Spacing.EVEN)), seeded_noise(0, count, model))
    return {"latent error": round(float((made - batch.target).pow(2).mean().sqrt() / batch.target.pow(2).mean().sqrt()), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the corpus and encode it with Stable Audio Open's autoencoder and text encoder.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="folder of the T5 encoder, where the local model cache does not have it")
    parser.add_argument("--out", type=Path, default=Path("build/sao-data"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    try:
        prepare(args.out, args.checkpoint, args.text, torch.device(args.device))
    except CheckpointError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

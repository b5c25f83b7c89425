"""An audition: an engine is played block by block as a pedal plays it, and what it answers is judged.

Every evaluation goes through here, so that all of them play and judge alike. Shapes: T latent, B window. Runs in: evaluation.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engines.engine import Engine, EngineControls, LoopGuard
from engines.train import clips, metrics, timbre
from engines.train.instruments import INSTRUMENTS, TARGETS, held_out_phrases, name_of
from engines.train.notes import Activations, NoteDetector, note_f
from engines.train.report import Row

Samples = NDArray[np.float32]
Wishes = Callable[[int], EngineControls]  # block -> what the player wants

REPEAT_BLOCKS = 2  # how much later the engine hears its answer again when repeats feed it back, beside the lag of its codec


def echoes(audio: Samples, frames: int, repeats: float) -> Samples:
    """`audio` and its echoes: what an answer should become that is heard again `frames` later, `repeats` times as loud."""
    rows = np.pad(audio, (0, -len(audio) % frames)).reshape(-1, frames)
    for index in range(1, len(rows)):
        rows[index] += np.float32(repeats) * rows[index - 1]
    return rows.reshape(-1)[: len(audio)]


@dataclass
class Player:
    """Feeds an engine as the worker does, with no pedal around it, and takes the time of every block."""

    engine: Engine
    steps: int
    seed: int
    block_ms: list[float] = field(default_factory=list)  # CPU time

    @property
    def repeat_frames(self) -> int:
        """How much later than itself the music of an answer is heard again."""
        return REPEAT_BLOCKS * self.engine.spec.block_frames + self.engine.spec.codec_delay_frames

    def prompts(self) -> dict[int, int]:
        """Instrument -> index of the prompt that asks for it by name. An engine that knows none is asked for all, by prompt 0."""
        known = {p: self.engine.spec.prompts.index(name_of(p)) for p in INSTRUMENTS if name_of(p) in self.engine.spec.prompts}
        return known or dict.fromkeys(TARGETS, 0)

    def targets(self) -> dict[int, int]:
        """The same for those only that a guitar can become."""
        return {program: prompt for program, prompt in self.prompts().items() if program in TARGETS}

    def unseen_wordings(self) -> dict[int, list[int]]:
        """The same for the phrases that were held out from training, as far as the engine has them."""
        prompts = self.engine.spec.prompts
        wordings = {p: [prompts.index(words) for words in held_out_phrases(p) if words in prompts] for p in TARGETS}
        return {p: found for p, found in wordings.items() if found}

    def answer(self, heard: Samples, prompt: int) -> Samples:
        """The engine's answer to all of `heard`, aligned to it to the sample."""
        return self.play(heard, lambda block: EngineControls(prompt))

    def play(self, heard: Samples, wishes: Wishes, repeats: float = 0.0) -> Samples:
        """The same with changing wishes. With `repeats`, the engine also hears its own answer, REPEAT_BLOCKS late, as a pedal sends it."""
        spec = self.engine.spec
        guard = LoopGuard(spec.block_frames, spec.sample_rate)
        self.engine.reset(self.seed)
        blocks = math.ceil((len(heard) + spec.codec_delay_frames) / spec.block_frames)
        padded = np.zeros(blocks * spec.block_frames, np.float32)
        padded[: len(heard)] = heard
        wet: list[Samples] = []
        back = deque([np.zeros(spec.block_frames, np.float32)] * REPEAT_BLOCKS)  # what will be sent to the engine again
        for index, block in enumerate(padded.reshape(blocks, spec.block_frames)):
            block = block + back.popleft()
            began = time.process_time_ns()
            wet.append(self.engine.generate(block, replace(wishes(index), steps=self.steps)))
            self.block_ms.append((time.process_time_ns() - began) / 1e6)
            guard.follow(block, wet[-1])
            back.append(np.float32(repeats * guard.share) * wet[-1])
        return np.concatenate(wet)[spec.codec_delay_frames :][: len(heard)]


@dataclass(frozen=True)
class Heard:
    """A signal, as the judges hear it."""

    mel: Tensor  # (T, 512)
    notes: Activations | None  # none for a signal that exists as a spectrum only


@dataclass(frozen=True)
class Ears:
    """The two judges."""

    judge: timbre.Judge
    detector: NoteDetector

    def hear(self, audio: Samples) -> Heard:
        return Heard(self.judge.log_mel(audio), self.notes(audio))

    def notes(self, audio: Samples) -> Activations:
        return self.detector.notes(audio, clips.SAMPLE_RATE)

    def follows(self, played: Heard, heard: Heard) -> float:
        """Note-F of two signals; NaN where one has no notes to tell."""
        return math.nan if played.notes is None or heard.notes is None else note_f(played.notes, heard.notes)

    def timbre(self, mel: Tensor, program: int, truth: Tensor) -> float:
        """Share of the windows in which `truth` is loud in which the asked instrument is heard; NaN where it never is."""
        return float(self.judge.verdicts(mel, program, truth).float().mean())

    def embed(self, mel: Tensor, truth: Tensor) -> NDArray[np.float64]:
        """What the judge makes of the windows in which `truth` is loud, (B, 64)."""
        loud = timbre.loud(truth)
        windows = self.judge.embed(mel)[: len(loud)]
        rows: NDArray[np.float64] = windows[loud[: len(windows)]].double().numpy()
        return rows


@dataclass(frozen=True)
class Case:
    """One guitar part, the instrument asked for, and what it should have become."""

    split: str
    score: str
    guitar: int
    program: int
    player: Heard
    truth: Heard

    @classmethod
    def of(cls, ears: Ears, split: str, score: clips.Score, turn: int, program: int) -> Case:
        guitar = score.guitar(turn)
        return cls(split, score.name, guitar, program, ears.hear(score.inputs[guitar]), ears.hear(score.targets[program]))

    def row(self, ears: Ears, system: str, heard: Heard) -> Row:
        return Row(
            self.split, self.score, name_of(self.program), name_of(self.guitar), system,
            note_player=ears.follows(self.player, heard),
            note_target=ears.follows(self.truth, heard),
            timbre=ears.timbre(heard.mel, self.program, self.truth.mel),
            mel_db=metrics.mel_error_db(heard.mel, self.truth.mel),
        )

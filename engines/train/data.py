"""Render the training corpus: procedural scores, played by guitars, target instruments and bands, as features on disk.

    python -m engines.train.data --out build/data

Parts of one score that are played by different instruments are aligned to the sample. engines/train/corpus.py says what is stored.
Everything follows from seeds; `manifest.json` records them with sources and licences.

Split by score, never by time: `train` and `jam` are trained on, `val` and `jamval` are new scores on the same banks, `cross` new
scores on a bank that is never trained on (and that nothing shipped derives from).
Runs in: training, offline; needs Debian's fluidsynth and the soundfont packages named in BANKS.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mido
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy import signal

from engines.lmdm import codec, sketch
from engines.train.band import GUITAR, compose_band
from engines.train.corpus import Part, write_score
from engines.train.instruments import COMPANIONS, DRUMS, GUITARS, TARGETS
from engines.train.scores import Note, compose
from engines.train.workers import pool

RMS = 0.1  # every rendering is brought to this level; renderings of one score keep their own dynamics
WHEEL_PER_CENT = 8192 / 200  # of the pitch wheel, which reaches two semitones


@dataclass(frozen=True)
class Bank:
    """A soundfont: where Debian puts it, in which package, under which licence."""

    path: str
    package: str
    licence: str


_FOLDER = "/usr/share/sounds/sf2"
BANKS = {
    "fluid": Bank(f"{_FOLDER}/FluidR3_GM.sf2", "fluid-soundfont-gm", "MIT"),
    "musescore": Bank(f"{_FOLDER}/MuseScore_General_Full.sf2", "musescore-general-soundfont-lossless", "MIT, parts PD/CC0"),
    "timgm": Bank(f"{_FOLDER}/TimGM6mb.sf2", "timgm6mb-soundfont", "GPL-2, only listened to in evaluation"),
}
TRAINED_BANKS = ("fluid", "musescore")


@dataclass(frozen=True)
class Split:
    """Which scores make up one part of the corpus."""

    name: str
    first_seed: int
    scores: int
    seconds: float
    guitars: int  # renderings of the player's part per score, each by another guitar
    kept: int  # parts per score whose audio is kept
    band: bool = False  # a band plays, instead of target instruments in turn
    bank: str = ""  # of all parts; "": guitars from all trained banks, other instruments from their own


SPLITS = (
    Split("train", 0, 150, 48.0, 3, 2),
    Split("jam", 5000, 80, 60.0, 2, 1, band=True),
    Split("val", 9000, 8, 45.0, 4, 99),
    Split("jamval", 9200, 6, 60.0, 2, 99, band=True),
    Split("cross", 9500, 4, 45.0, 4, 99, bank="timgm"),
)
AUDIO_SECONDS = {"train": 24.0, "jam": 24.0}  # of a kept part; all of it where not named


@dataclass(frozen=True)
class Player:
    """How a guitar part is detuned and dirtied; inputs only, all others play plain, in the tuning of the score."""

    bend: int  # pitch wheel, -8192..8191 = +-2 semitones
    vibrato: int  # modulation wheel
    drive: float  # gain before tanh; 0 is clean
    tilt_db: float  # treble against bass
    cabinet_hz: float  # low-pass of a loudspeaker; 0 is none
    noise: float  # hum and hiss, rms

    @staticmethod
    def plain(tuning_cents: float) -> Player:
        return Player(round(tuning_cents * WHEEL_PER_CENT), 0, 0.0, 0.0, 0.0, 0.0)

    @staticmethod
    def draw(rng: random.Random, tuning_cents: float) -> Player:
        if rng.random() < 0.3:
            return Player.plain(tuning_cents)
        return Player(
            bend=round(rng.gauss(tuning_cents, 10) * WHEEL_PER_CENT),
            vibrato=rng.choice((0, 0, 20, 60)),
            drive=rng.choice((0.0, 0.0, 3.0, 8.0, 20.0, 60.0)),
            tilt_db=rng.uniform(-6, 6),
            cabinet_hz=rng.choice((0.0, 0.0, 2500.0, 4000.0, 6000.0)),
            noise=rng.choice((0.0, 1e-4, 6e-4, 2e-3)),
        )


def write_midi(notes: list[Note], program: int, player: Player, path: Path) -> None:
    """One channel, 960 ticks per second."""
    drums = {"channel": 9} if program == DRUMS else {}
    file = mido.MidiFile(ticks_per_beat=480)
    events = [(n.start_seconds, mido.Message("note_on", note=n.pitch, velocity=n.velocity, **drums)) for n in notes]
    events += [(n.start_seconds + n.length_seconds, mido.Message("note_off", note=n.pitch, velocity=0, **drums)) for n in notes]
    events.sort(key=lambda e: (e[0], e[1].type == "note_on"))
    setup = [
        mido.Message("program_change", program=program % DRUMS, **drums),
        mido.Message("pitchwheel", pitch=0 if drums else player.bend, **drums),
        mido.Message("control_change", control=1, value=player.vibrato, **drums),
    ]
    track_, last = mido.MidiTrack(setup), 0
    for seconds, message in events:
        tick = round(seconds * 960)
        track_.append(message.copy(time=tick - last))
        last = tick
    track_.append(mido.MetaMessage("end_of_track", time=960))
    file.tracks.append(track_)
    file.save(path)


def play(notes: list[Note], program: int, player: Player, bank: Bank, seconds: float, noise_seed: int) -> NDArray[np.float32]:
    """Render one part with fluidsynth to mono float32, brought to RMS, with the player's amplifier applied."""
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder, "part.mid"), Path(folder, "part.wav")
        write_midi(notes, program, player, midi)
        options = ["-niq", "-R", "0", "-C", "0", "-r", str(codec.SAMPLE_RATE), "-g", "0.5", "-O", "s16", "-T", "wav"]
        subprocess.run(
            ["fluidsynth", *options, "-F", str(wav), bank.path, str(midi)],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        stereo, _ = soundfile.read(wav, dtype="float32", always_2d=True)
    audio = np.zeros(int(seconds * codec.SAMPLE_RATE) // codec.LATENT_FRAMES * codec.LATENT_FRAMES, np.float32)
    mono = stereo.mean(1)[: len(audio)]
    audio[: len(mono)] = mono
    return level(amplify(level(audio), player, noise_seed))


def play_plain(notes: list[Note], program: int, seconds: float) -> NDArray[np.float32] | None:
    """What a target instrument makes of notes, in tune; None where its soundfont is not installed."""
    bank = BANKS[TARGETS[program].bank]
    return play(notes, program, Player.plain(0.0), bank, seconds, 0) if Path(bank.path).exists() else None


def level(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale to RMS, but never beyond full scale."""
    gain = RMS / np.sqrt(np.mean(audio**2) + 1e-12)
    return (audio * min(gain, 0.99 / (np.abs(audio).max() + 1e-9))).astype(np.float32)


def amplify(audio: NDArray[np.float32], player: Player, seed: int) -> NDArray[np.float32]:
    """Drive, tone, cabinet and noise."""
    if player.noise:
        hiss = np.random.default_rng(seed).standard_normal(len(audio))
        hum = np.sin(2 * np.pi * 50 / codec.SAMPLE_RATE * np.arange(len(audio)))
        audio = audio + player.noise * (hiss + hum)
    if player.drive:
        audio = np.tanh(audio * player.drive) / player.drive**0.7
    if player.tilt_db:
        low = signal.sosfilt(signal.butter(1, 800, fs=codec.SAMPLE_RATE, output="sos"), audio)
        audio = low + (audio - low) * 10 ** (player.tilt_db / 20)
    if player.cabinet_hz:
        audio = signal.sosfilt(signal.butter(3, player.cabinet_hz, fs=codec.SAMPLE_RATE, output="sos"), audio)
    return audio.astype(np.float32)


class Features:
    """Audio -> rows of one part (T, 644). Long audio goes through in pieces of 64 latents, which the framing makes exact."""

    def __init__(self) -> None:
        self.log_mel, self.sketch = codec.LogMel(), sketch.Sketch()

    @torch.inference_mode()
    def of(self, audio: NDArray[np.float32]) -> NDArray[np.float16]:
        history = sketch.HISTORY_FRAMES
        padded = torch.from_numpy(np.concatenate([np.zeros(history, np.float32), audio]))[None]
        piece, parts = 64 * codec.LATENT_FRAMES, []
        for start in range(0, len(audio), piece):
            x = padded[:, start : start + history + piece]
            cqt, loudness = self.sketch.magnitudes(x)
            mel = self.log_mel(x[:, history - codec.HISTORY_FRAMES :])
            parts.append(torch.cat([mel, cqt.unflatten(1, (-1, sketch.PER_LATENT)).flatten(-2), loudness], -1)[0].half().numpy())
        return np.concatenate(parts)


def cast(split: Split, rng: random.Random) -> list[Part]:
    """Who plays a score."""
    banks = (split.bank,) if split.bank else TRAINED_BANKS
    guitars = rng.sample([(program, bank) for program in GUITARS for bank in banks], split.guitars)
    role, others = ("companion", COMPANIONS) if split.band else ("target", TARGETS)
    parts = [Part("guitar", program, bank) for program, bank in guitars]
    return parts + [Part(role, program, split.bank or instrument.bank) for program, instrument in others.items()]


def render_score(split: Split, index: int, folder: Path) -> str:
    """Render one score with all its players, extract features and write them; returns its name."""
    torch.set_num_threads(1)
    name, seed = f"{split.name}{index:04d}", split.first_seed + index
    if (folder / f"{name}.json").exists():
        return name
    rng, features = random.Random(f"players {seed}"), Features()
    band = compose_band(seed, split.seconds) if split.band else {}
    alone = band[GUITAR] if split.band else compose(seed, split.seconds)
    tuning_cents = rng.choice((0.0, 0.0, rng.uniform(-50, 50)))
    parts = cast(split, rng)
    kept = set(rng.sample(range(len(parts)), min(split.kept, len(parts))))
    rows, audio = [], {}
    for i, part in enumerate(parts):
        player = Player.draw(rng, tuning_cents) if part.role == "guitar" else Player.plain(tuning_cents)
        notes = band[part.program] if part.role == "companion" else alone
        played = play(notes, part.program, player, BANKS[part.bank], split.seconds, seed)
        rows.append(features.of(played))
        if i in kept:
            audio[i] = played[: int(AUDIO_SECONDS.get(split.name, split.seconds) * codec.SAMPLE_RATE)]
    write_score(folder, name, parts, tuning_cents, np.stack(rows), audio)
    return name


def render(folder: Path, workers: int, splits: Sequence[Split]) -> None:
    """Render splits (finished scores are kept) and write the manifest."""
    missing = [b for b in BANKS.values() if not Path(b.path).exists()]
    if missing:
        sys.exit(f"soundfont {missing[0].path} is missing: run `apt install {' '.join(b.package for b in missing)} fluidsynth`")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"splits": [asdict(s) for s in splits], "banks": {k: asdict(b) for k, b in BANKS.items()}, "rms": RMS}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    with pool(workers) as processes:
        for split in sorted(splits, key=lambda s: s.scores):
            jobs = [processes.submit(render_score, split, i, folder) for i in range(split.scores)]
            for job in track(jobs, description=f"rendering {split.name}"):
                job.result()


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the training corpus.")
    parser.add_argument("--out", type=Path, default=Path("build/data"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scores", type=int, default=max(split.scores for split in SPLITS), help="at most so many of each split")
    args = parser.parse_args()
    render(args.out, args.workers, [replace(split, scores=min(split.scores, args.scores)) for split in SPLITS])


if __name__ == "__main__":
    main()

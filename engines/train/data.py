"""Render the training corpus: procedural scores, played by guitars and by target instruments, as features on disk.

    python -m engines.train.data --out build/data

One `.npz` per score holds, for every program, stacked log-mel (T, 512) float16, and for guitars also constant-Q magnitudes
(2T, 64) and loudness (T, 4); parts played by different programs are aligned to the sample. A few scores keep excerpts of their
audio, which the decoder trains on. Everything follows from seeds; `manifest.json` records them with sources and licences.

Split by score, never by time: `train`, `val` (same bank, new scores), `cross` (new scores on a bank that is never trained on).
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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import mido
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy import signal

from engines.lmdm import codec, sketch
from engines.train.instruments import GUITARS, TARGETS
from engines.train.scores import Note, compose

RMS = 0.1  # every rendering is brought to this level; renderings of one score keep their own dynamics


@dataclass(frozen=True)
class Bank:
    """A soundfont: where Debian puts it, in which package, under which licence."""

    path: str
    package: str
    licence: str


BANKS = {
    "fluid": Bank("/usr/share/sounds/sf2/FluidR3_GM.sf2", "fluid-soundfont-gm", "MIT"),
    "musescore": Bank("/usr/share/sounds/sf3/MuseScore_General_Full.sf3", "musescore-general-soundfont", "MIT, parts PD/CC0"),
}


@dataclass(frozen=True)
class Split:
    """Which scores make up one part of the corpus."""

    name: str
    bank: str
    first_seed: int
    scores: int
    seconds: float
    guitars: int  # per score, drawn from the seven
    audio_parts: int  # parts per score whose audio is kept for the decoder


SPLITS = (
    Split("train", "fluid", 0, 120, 75.0, 3, 3),
    Split("val", "fluid", 9000, 6, 45.0, 4, 14),
    Split("cross", "musescore", 9500, 3, 45.0, 4, 14),
)
AUDIO_SECONDS = 30.0


@dataclass(frozen=True)
class Player:
    """How a guitar part is detuned and dirtied; inputs only, targets are always played plain."""

    bend: int  # pitch wheel, -8192..8191 = +-2 semitones
    vibrato: int  # modulation wheel
    drive: float  # gain before tanh; 0 is clean
    tilt_db: float  # treble against bass
    cabinet_hz: float  # low-pass of a loudspeaker; 0 is none
    noise: float  # hum and hiss, rms

    @staticmethod
    def draw(rng: random.Random) -> Player:
        if rng.random() < 0.35:
            return Player(0, 0, 0.0, 0.0, 0.0, 0.0)
        return Player(
            bend=round(rng.gauss(0, 400)),  # standard deviation: 10 cents
            vibrato=rng.choice((0, 0, 20, 60)),
            drive=rng.choice((0.0, 0.0, 3.0, 8.0, 20.0)),
            tilt_db=rng.uniform(-6, 6),
            cabinet_hz=rng.choice((0.0, 0.0, 4000.0, 6000.0)),
            noise=rng.choice((0.0, 1e-4, 6e-4)),
        )


def write_midi(notes: list[Note], program: int, player: Player, path: Path) -> None:
    """One channel, 960 ticks per second."""
    file = mido.MidiFile(ticks_per_beat=480)
    events = [(n.start_seconds, mido.Message("note_on", note=n.pitch, velocity=n.velocity)) for n in notes]
    events += [(n.start_seconds + n.length_seconds, mido.Message("note_off", note=n.pitch, velocity=0)) for n in notes]
    events.sort(key=lambda e: (e[0], e[1].type == "note_on"))
    setup = [
        mido.Message("program_change", program=program),
        mido.Message("pitchwheel", pitch=player.bend),
        mido.Message("control_change", control=1, value=player.vibrato),
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
    """Audio -> arrays for one part. Long audio goes through in pieces of 64 latents, which the framing makes exact."""

    def __init__(self) -> None:
        self.encoder, self.sketch = codec.Encoder(), sketch.Sketch()

    @torch.inference_mode()
    def of(self, audio: NDArray[np.float32], with_sketch: bool) -> dict[str, NDArray[np.float16]]:
        history = sketch.HISTORY_FRAMES
        padded = torch.from_numpy(np.concatenate([np.zeros(history, np.float32), audio]))[None]
        piece, parts = 64 * codec.LATENT_FRAMES, []
        for start in range(0, len(audio), piece):
            x = padded[:, start : start + history + piece]
            row = [self.encoder.log_mel(x[:, history - codec.HISTORY_FRAMES :])]
            row += self.sketch.magnitudes(x) if with_sketch else ()
            parts.append([r[0].half().numpy() for r in row])
        names = ("mel", "cqt", "loudness") if with_sketch else ("mel",)
        return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def render_score(split: Split, index: int, folder: Path) -> str:
    """Render one score with all its players, extract features and write them; returns the file name."""
    torch.set_num_threads(1)
    path = folder / f"{split.name}{index:04d}.npz"
    if path.exists():
        return path.name
    seed = split.first_seed + index
    rng = random.Random(f"players {seed}")
    notes, features = compose(seed, split.seconds), Features()
    programs = rng.sample(list(GUITARS), split.guitars) + list(TARGETS)
    kept = set(rng.sample(programs, split.audio_parts))
    arrays: dict[str, NDArray[np.generic]] = {}
    for program in programs:
        guitar = program in GUITARS
        player = Player.draw(rng) if guitar else Player(0, 0, 0.0, 0.0, 0.0, 0.0)
        audio = play(notes, program, player, BANKS[split.bank], split.seconds, seed)
        for name, array in features.of(audio, with_sketch=guitar).items():
            arrays[f"{name}_{program}"] = array
        if program in kept:
            excerpt = audio[: int(AUDIO_SECONDS * codec.SAMPLE_RATE)]
            arrays[f"audio_{program}"] = (excerpt * 32767).astype(np.int16)
    scratch = path.with_suffix(".part")
    with scratch.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(scratch, path)
    return path.name


def render(folder: Path, workers: int) -> None:
    """Render all splits (finished scores are kept) and write the manifest."""
    missing = [b for b in BANKS.values() if not Path(b.path).exists()]
    if missing:
        sys.exit(f"soundfont {missing[0].path} is missing: run `apt install {' '.join(b.package for b in missing)} fluidsynth`")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"splits": [asdict(s) for s in SPLITS], "banks": {k: asdict(b) for k, b in BANKS.items()}, "rms": RMS}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    with ProcessPoolExecutor(workers) as pool:
        for split in sorted(SPLITS, key=lambda s: s.scores):
            jobs = [pool.submit(render_score, split, i, folder) for i in range(split.scores)]
            for job in track(jobs, description=f"rendering {split.name}"):
                job.result()


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the training corpus.")
    parser.add_argument("--out", type=Path, default=Path("build/data"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    render(args.out, args.workers)


if __name__ == "__main__":
    main()

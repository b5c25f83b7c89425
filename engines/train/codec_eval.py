"""Evaluate the codec alone: sounds that it never trained on, and steady tones, to latents and back as a pedal streams them.

    python -m engines.train.codec_eval --codec build/codec.pt --data build/data --out docs/evaluation

Writes codec.md, codec.json and codec.png. Everything follows from the corpus; one thread. Runs in: evaluation, offline.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from engines.lmdm import codec, decoder
from engines.train import clips, codec_check, metrics, tones
from engines.train.instruments import COMPANIONS, TARGETS, name_of
from engines.train.notes import NoteDetector, note_f
from engines.train.pretrain import load_encoder
from engines.train.tables import Goal, bounds, goal_table, number, rounded, table
from engines.train.timbre import Judge
from engines.train.tones import Tone

Samples = NDArray[np.float32]

SECONDS = 12.0
PICTURED, LOW_HZ, LONG_WINDOW = 3, 700, 16_384
MEASURES = ("mel_db", "projection_db", "note_f", "untuned_note_f", "rough_db", "hop_db", "edge")
HEADS = ("log-mel dB", "projection alone", "note-F", "untuned note-F", "rough dB", "hop dB", "edge")


@dataclass(frozen=True)
class Trip:
    """One sound, to latents and back."""

    sound: str
    kind: str  # "instrument", "guitar", "another bank", "real clean guitar", "real distorted guitar"
    mel_db: float
    projection_db: float  # what of that the latents leave out, whoever decodes them
    note_f: float  # NaN where nothing is pitched
    untuned_note_f: float  # by a judge who is not told how the score is tuned
    rough_db: float
    hop_db: float
    edge: float


@dataclass
class CodecEvaluation:
    """Everything that was measured."""

    command: str
    trips: list[Trip] = field(default_factory=list)
    tones: list[Tone] = field(default_factory=list)
    realtime_factor: float = math.nan  # CPU seconds per second of sound, both ways, torch on one thread

    def mean(self, measure: str, kinds: Iterable[str] = ()) -> metrics.Interval:
        chosen = [trip for trip in self.trips if not kinds or trip.kind in kinds]
        values = {trip.sound: [getattr(trip, measure)] for trip in chosen if not math.isnan(getattr(trip, measure))}
        return metrics.interval(values)


@dataclass(frozen=True)
class Sound:
    """One held-out sound."""

    name: str
    kind: str  # as in Trip
    audio: Samples
    tuning_cents: float = 0.0  # against concert pitch; of a recording it is not known

    @property
    def pitched(self) -> bool:
        return "drum" not in self.name

    @classmethod
    def of(cls, score: clips.Score, program: int, kind: str) -> Sound:
        name, audio = name_of(program).removesuffix(" accompaniment"), (score.inputs | score.targets)[program]
        return cls(f"{name} ({score.name})", kind, audio, score.tuning_cents)


def sounds(data: Path) -> Iterable[Sound]:
    """Every instrument once, guitars, another bank, real guitars."""
    scores, band, cross = (clips.scores(data, split, 12, SECONDS) for split in ("val", "jamval", "cross"))
    for index, program in enumerate(TARGETS):
        yield Sound.of(scores[index % len(scores)], program, "instrument")
    for index, program in enumerate(COMPANIONS):
        yield Sound.of(band[index % len(band)], program, "instrument")
    for index, score in enumerate(scores[:6]):
        yield Sound.of(score, score.guitar(index), "guitar")
    for index, score in enumerate(cross):
        yield Sound.of(score, score.guitar(index), "another bank")
        yield Sound.of(score, tuple(TARGETS)[3 * index % len(TARGETS)], "another bank")
    for clip in clips.real_guitars(SECONDS):
        yield Sound(clip.name, f"real {clip.kind} guitar", clip.audio)


def note_fs(detector: NoteDetector, sound: Sound, made: Samples) -> tuple[float, float]:
    """note-F of what came back, by a judge who is told the tuning and by one who is not."""
    if not sound.pitched:
        return math.nan, math.nan
    told, untold = (
        note_f(*(detector.notes(audio, codec.SAMPLE_RATE, cents) for audio in (sound.audio, made))) for cents in (sound.tuning_cents, 0.0)
    )
    return told, untold


def evaluate(path: Path, data: Path, command: str) -> tuple[CodecEvaluation, dict[str, tuple[Samples, Samples]]]:
    """Every sound and every tone through the codec in the checkpoint `path`; and the sounds by name, each with what came back."""
    trip, encoder, detector, judge = codec_check.RoundTrip.of_checkpoint(path), load_encoder(path), NoteDetector.open(), Judge()
    result, played, spent, heard = CodecEvaluation(command), {}, 0.0, 0.0
    for sound in track(list(sounds(data)), description="codec"):
        audio, began = sound.audio, time.process_time()
        played[sound.name] = audio, (made := trip(audio))
        spent, heard = spent + time.process_time() - began, heard + len(audio) / codec.SAMPLE_RATE
        mel, (rough, hop) = judge.log_mel(audio), codec_check.rough_and_hop_db(audio, made)
        result.trips.append(Trip(
            sound.name, sound.kind,
            metrics.mel_error_db(judge.log_mel(made), mel), metrics.mel_error_db(encoder.mel.back(encoder.mel(mel)), mel),
            *note_fs(detector, sound, made), rough, hop, codec_check.edge(audio, made, trip.delay_frames, trip.block_frames),
        ))
    result.tones = tones.measure(trip)
    result.realtime_factor = spent / heard
    return result, played


def goals(result: CodecEvaluation) -> list[Goal]:
    """What is asked of the codec, and what was measured."""
    means = {measure: result.mean(measure).mean for measure in MEASURES}
    look_ahead_ms = 1000 * decoder.DELAY_FRAMES / codec.SAMPLE_RATE
    return [
        Goal.at_most("log-mel error", 2.0, means["mel_db"], "dB"),
        Goal.at_least("note-F", 0.90, means["note_f"]),
        Goal.at_least("note-F, real clean guitar", 0.85, result.mean("note_f", ("real clean guitar",)).mean),
        Goal.at_least("steady tones: harmonic to other, worst", 25.0, min(tone.harmonic_to_other_db for tone in result.tones), "dB"),
        Goal.at_most("steady tones: off pitch, worst", 5.0, max(abs(tone.cents) for tone in result.tones), "cents"),
        Goal.at_most("line at the hop rate", 1.0, means["hop_db"], "dB"),
        Goal.at_most("flux at block edges", 1.05, means["edge"]),
        Goal.at_most("look-ahead", 50.0, look_ahead_ms, "ms"),
        Goal.at_most("CPU seconds per second of sound", 0.06, result.realtime_factor),
    ]


def kinds(result: CodecEvaluation) -> str:
    names = list(dict.fromkeys(trip.kind for trip in result.trips))
    chosen: Mapping[str, tuple[str, ...]] = {f"**all {len(result.trips)}**": (), **{name: (name,) for name in names}}
    rows = [[name, *(bounds(result.mean(measure, which)) for measure in MEASURES)] for name, which in chosen.items()]
    return table(("", *HEADS), rows)


def markdown(result: CodecEvaluation) -> str:
    each = [[t.sound, t.kind, *(number(getattr(t, measure)) for measure in MEASURES)] for t in result.trips]
    pitched = [[f"{t.hz:.1f} Hz", number(t.harmonic_to_other_db, 1), f"{t.cents:+.1f}"] for t in result.tones]
    sections = (
        ("What is asked of it", goal_table(goals(result))),
        ("By kind", kinds(result)),
        ("Steady tones", table(("pitch", "harmonic to other, dB", "off pitch, cents"), pitched)),
        ("The sounds whose notes come back worst", "![above the originals, below what came back, up to 700 Hz](codec.png)\n"),
        ("Each sound", table(("sound", "kind", *HEADS), each)),
        ("How it was measured", METHOD),
    )
    return f"# The codec alone\n\n`{result.command}`\n" + "".join(f"\n## {title}\n\n{body}" for title, body in sections)


def worst(result: CodecEvaluation) -> list[Trip]:
    """The sounds whose notes come back worst."""
    return sorted((one for one in result.trips if not math.isnan(one.note_f)), key=lambda one: one.note_f)[:PICTURED]


def picture(shown: Sequence[Trip], played: Mapping[str, tuple[Samples, Samples]], path: Path) -> None:
    """Where low notes lie: the originals above, what came back of each below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    above = [(one.sound, played[one.sound][0]) for one in shown]
    below = [(f"came back: note-F {one.note_f:.2f}", played[one.sound][1]) for one in shown]
    for axes, (title, audio) in zip(figure.subplots(2, len(shown)).flat, (*above, *below), strict=True):
        extent = (0, len(audio) / codec.SAMPLE_RATE, 0, LOW_HZ)
        axes.imshow(low_db(audio), origin="lower", aspect="auto", extent=extent, vmin=-60, vmax=0, cmap="magma")
        axes.set(title=title, xlabel="seconds", ylabel="Hz")
    figure.savefig(path, dpi=54)


def low_db(audio: Samples) -> NDArray[np.float64]:
    """Spectrogram (hertz up, seconds across) of windows long enough to tell low notes apart, against its own loudest place."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, LONG_WINDOW)[:: LONG_WINDOW // 8]
    power = np.abs(np.fft.rfft(frames * np.hanning(LONG_WINDOW)))[:, : round(LOW_HZ * LONG_WINDOW / codec.SAMPLE_RATE)] ** 2
    return np.asarray(10 * np.log10(power.T / power.max() + 1e-9))


METHOD = """\
- Sounds are held out: unseen scores (*another bank* also by a soundfont that nothing trained on), and recordings of real guitars. Of the
  recordings the decoder has heard one while training, "Feelings, picked clean".
- **projection alone**: how far from the original the log-mel is that the latents state, before anything is decoded.
- **note-F**: frame-wise F-measure of the notes that basic-pitch hears in the original and in what came back. It knows semitones of
  concert pitch alone, and a third of the scores are not tuned to it, by up to 50 cents. So it is told how a score is tuned: both sounds are
  resampled to concert pitch before it hears them. **untuned note-F**: without that. How recordings are tuned is not known.
- **rough**: energy of 20-150 Hz modulation against the original's; + is buzz. **hop**: the line at the hop rate (86.13 Hz) and its double
  against their surroundings, against the original's. **edge**: spectral flux at block seams over that elsewhere, against the original's,
  where that is not silent.
- **Steady tones**: ten partials falling by 6 dB per octave, judged over 1.5 s after a 1.5 s attack. Off pitch is the mean over partials,
  weighted by amplitude.
- Brackets: 95 % bootstrap interval over sounds.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engines.train.codec_eval", description="Evaluate the codec alone.")
    parser.add_argument("--codec", type=Path, default=Path("build/codec.pt"))
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/evaluation"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result, played = evaluate(args.codec, args.data, f"{parser.prog} --codec {args.codec} --data {args.data} --out {args.out}")
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {**asdict(result), "goals": [asdict(goal) for goal in goals(result)]}
    (args.out / "codec.json").write_text(json.dumps(rounded(facts), indent=1) + "\n")
    (args.out / "codec.md").write_text(markdown(result))
    picture(worst(result), played, args.out / "codec.png")
    print(goal_table(goals(result)))


if __name__ == "__main__":
    main()

"""Procedural scores: the music that training pairs are rendered from.

A score is what a guitarist could play: arpeggios, strums, melodies, riffs, double stops and held chords over short
chord progressions, in every key, in five modes, 50-180 bpm, in 3 to 7 beats, down to a dropped low C (C2, 65 Hz).
The same score is later played by a guitar (the input) and by every target instrument (the output).

Runs in: training, offline. Pure Python, no audio; a seed gives the same score on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LOWEST_PITCH = 36  # C2, a guitar in drop C
HIGHEST_PITCH = 88  # E6, 24th fret

MODES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
PROGRESSIONS: tuple[tuple[int, ...], ...] = (
    (0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (1, 4, 0, 0), (0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 6, 3, 0),
)
ARPEGGIOS: tuple[tuple[int, ...], ...] = ((0, 2, 3, 4, 3, 2), (0, 1, 2, 3, 4, 5), (0, 3, 2, 4, 1, 3), (5, 4, 3, 2, 1, 0))
STRUMS: tuple[tuple[int, ...], ...] = ((1, 0, 1, 1, 0, 1), (1, 0, 0, 1, 0, 0), (1, 1, 1, 1, 1, 1), (1, 0, 0, 0, 0, 0))
CHORD_DEGREES = (0, 4, 7, 9, 11, 14)  # an open voicing: root, fifth, octave, tenth, twelfth, fifteenth


@dataclass(frozen=True)
class Note:
    """One note: start and length in seconds, MIDI pitch, MIDI velocity 1-127."""

    start_seconds: float
    length_seconds: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Phrase:
    """The musical facts that a run of bars shares."""

    beat_seconds: float
    beats: int
    root: int
    scale: tuple[int, ...]
    legato: float
    loudness: int

    def pitch(self, degree: int) -> int:
        octave, step = divmod(degree, len(self.scale))
        pitch = self.root + 12 * octave + self.scale[step]
        while pitch > HIGHEST_PITCH:
            pitch -= 12
        return pitch

    def note(self, rng: random.Random, start: float, length: float, degree: int) -> Note:
        velocity = min(120, max(25, round(rng.gauss(self.loudness, 9))))
        return Note(max(0.0, start + rng.gauss(0, 0.006)), length * self.legato * rng.uniform(0.8, 1.2), self.pitch(degree), velocity)


def arpeggio(rng: random.Random, phrase: Phrase, start: float, degree: int) -> Iterator[Note]:
    pattern = rng.choice(ARPEGGIOS)
    step = phrase.beat_seconds / rng.choice((2, 2, 3))
    for i in range(round(phrase.beats * phrase.beat_seconds / step)):
        yield phrase.note(rng, start + i * step, step * 2, degree + CHORD_DEGREES[pattern[i % len(pattern)]])


def strum(rng: random.Random, phrase: Phrase, start: float, degree: int) -> Iterator[Note]:
    pattern = rng.choice(STRUMS)
    step = phrase.beat_seconds / 2
    voices = CHORD_DEGREES[: rng.choice((3, 4, 5))]
    for i in range(phrase.beats * 2):
        if pattern[i % len(pattern)]:
            spread = rng.uniform(0.004, 0.02)
            for j, voice in enumerate(voices if rng.random() < 0.6 else voices[::-1]):
                yield phrase.note(rng, start + i * step + j * spread, step * 1.5, degree + voice)


def held_chord(rng: random.Random, phrase: Phrase, start: float, degree: int) -> Iterator[Note]:
    for voice in rng.sample(CHORD_DEGREES[1:], rng.choice((2, 3, 4))):
        yield phrase.note(rng, start, phrase.beats * phrase.beat_seconds, degree + voice)


def _line(
    rng: random.Random, phrase: Phrase, start: float, low: int, high: int, lengths: tuple[float, ...]
) -> Iterator[tuple[float, float, int]]:
    """Start, length and degree of the notes of one bar: a walk between two degrees, with rests."""
    beat, degree = 0.0, rng.randint(low, high)
    while beat < phrase.beats:
        length = rng.choice(lengths)
        if rng.random() > 0.12:
            yield start + beat * phrase.beat_seconds, length * phrase.beat_seconds, degree
        degree = min(high, max(low, degree + rng.choice((-3, -2, -1, -1, 0, 1, 1, 2, 3))))
        beat += length


def melody(rng: random.Random, phrase: Phrase, start: float, degree: int) -> Iterator[Note]:
    for at, length, step in _line(rng, phrase, start, degree + 5, degree + 21, (0.25, 0.5, 0.5, 1, 1, 1.5, 2)):
        yield phrase.note(rng, at, length, step)


def double_stop(rng: random.Random, phrase: Phrase, start: float, degree: int) -> Iterator[Note]:
    interval = rng.choice((2, 4, 5))
    for at, length, step in _line(rng, phrase, start, degree + 4, degree + 16, (0.5, 1, 1, 2)):
        yield phrase.note(rng, at, length, step)
        yield phrase.note(rng, at, length, step + interval)


def riff(rng: random.Random, phrase: Phrase, start: float, degree: int) -> Iterator[Note]:
    power = rng.random() < 0.5
    for at, length, step in _line(rng, phrase, start, degree, degree + 8, (0.25, 0.5, 0.5, 0.5, 1)):
        yield phrase.note(rng, at, length, step)
        if power:
            yield phrase.note(rng, at, length, step + 4)


STYLES: tuple[Callable[[random.Random, Phrase, float, int], Iterator[Note]], ...] = (
    arpeggio, strum, melody, melody, riff, double_stop, held_chord,
)


def compose(seed: int, seconds: float) -> list[Note]:
    """A score of `seconds` seconds: phrases of 2-4 bars, each with its own key, tempo, metre, style and loudness."""
    rng = random.Random(seed)
    notes: list[Note] = []
    at = 0.3
    while at < seconds - 2:
        phrase = Phrase(
            beat_seconds=60 / rng.uniform(50, 180),
            beats=rng.choice((3, 4, 4, 5, 6, 7)),
            root=rng.randint(LOWEST_PITCH, LOWEST_PITCH + 11),
            scale=MODES[rng.choice(tuple(MODES))],
            legato=rng.choice((0.25, 0.5, 0.9, 1.0, 1.3)),
            loudness=rng.choice((45, 60, 75, 90, 105)),
        )
        style, progression = rng.choice(STYLES), rng.choice(PROGRESSIONS)
        for bar in range(rng.choice((2, 3, 4))):
            notes += style(rng, phrase, at, progression[bar % 4])
            at += phrase.beats * phrase.beat_seconds
            if at > seconds - 2:
                break
        if rng.random() < 0.4:
            at += rng.uniform(0.3, 1.8)
    return [n for n in notes if n.start_seconds + n.length_seconds < seconds]

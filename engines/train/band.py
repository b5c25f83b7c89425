"""Procedural scores for a band: the music that jamming is learnt from.

A guitar (rhythm or lead), a bass, drums, keys and a saxophone play one chord loop together for some bars, then the next. Every part
keeps its pattern for as long as a loop lasts, so that what comes next can be told from what was heard.

Runs in: training, offline. Pure Python, no audio; a seed gives the same score on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from engines.train.instruments import DRUMS
from engines.train.scores import LOWEST_PITCH, MODES, PROGRESSIONS, Note, Phrase, arpeggio, double_stop, melody, strum

KICK, SNARE, CLOSED_HAT, OPEN_HAT, RIDE = 36, 38, 42, 46, 51
GUITAR = -1  # the player's own part
BASS, KEYS, SAXOPHONE = 33, 4, 65
PLAYING = (arpeggio, strum, strum, melody, double_stop)


@dataclass(frozen=True)
class Groove:
    """What the rhythm section keeps up through one loop; steps are eighth notes of a bar."""

    kicks: tuple[int, ...]
    snares: tuple[int, ...]
    cymbal: int
    cymbal_step: int
    bass_steps: tuple[int, ...]
    bass_degrees: tuple[int, ...]
    keys_steps: tuple[int, ...]

    @staticmethod
    def draw(rng: random.Random, steps: int) -> Groove:
        middle = steps // 2
        return Groove(
            kicks=(0, *sorted(rng.sample(range(1, steps), rng.choice((0, 1, 2))))),
            snares=rng.choice(((middle,), tuple(range(2, steps, 4)), (steps - 2,))),
            cymbal=rng.choice((CLOSED_HAT, CLOSED_HAT, RIDE, OPEN_HAT)),
            cymbal_step=rng.choice((1, 2, 2)),
            bass_steps=(0, *sorted(rng.sample(range(1, steps), rng.choice((1, 2, 3))))),
            bass_degrees=tuple(rng.choice((0, 0, 4, 7)) for _ in range(4)),
            keys_steps=rng.choice(((0,), (0, middle), (1, middle + 1), tuple(range(0, steps, 2)))),
        )


def drums(rng: random.Random, phrase: Phrase, groove: Groove, start: float) -> Iterator[Note]:
    step = phrase.beat_seconds / 2
    for i in range(phrase.beats * 2):
        struck = [KICK] * (i in groove.kicks) + [SNARE] * (i in groove.snares) + [groove.cymbal] * (i % groove.cymbal_step == 0)
        for pitch in struck:
            velocity = min(120, max(25, round(rng.gauss(phrase.loudness, 7))))
            yield Note(start + i * step + abs(rng.gauss(0, 0.003)), step * 0.8, pitch, velocity)


def bass(rng: random.Random, phrase: Phrase, groove: Groove, start: float, degree: int) -> Iterator[Note]:
    step = phrase.beat_seconds / 2
    ends = (*groove.bass_steps[1:], phrase.beats * 2)
    for i, (at, end) in enumerate(zip(groove.bass_steps, ends, strict=True)):
        note = phrase.note(rng, start + at * step, (end - at) * step * 0.8, degree + groove.bass_degrees[i] * (i > 0))
        low = note.pitch - 12 if note.pitch >= LOWEST_PITCH + 4 else note.pitch
        yield Note(note.start_seconds, note.length_seconds, low, note.velocity)


def keys(rng: random.Random, phrase: Phrase, groove: Groove, start: float, degree: int) -> Iterator[Note]:
    step = phrase.beat_seconds / 2
    ends = (*groove.keys_steps[1:], phrase.beats * 2)
    for at, end in zip(groove.keys_steps, ends, strict=True):
        for voice in (7, 9, 11):
            yield phrase.note(rng, start + at * step, (end - at) * step * 0.8, degree + voice)


def saxophone(rng: random.Random, phrase: Phrase, motif: tuple[tuple[int, int], ...], start: float, degree: int) -> Iterator[Note]:
    step = phrase.beat_seconds / 2
    for at, offset in motif:
        if at < phrase.beats * 2:
            yield phrase.note(rng, start + at * step, step * 1.6, degree + 14 + offset)


def compose_band(seed: int, seconds: float) -> dict[int, list[Note]]:
    """Parts by program (GUITAR for the player's): loops of four bars, each heard two to four times, until `seconds` are full."""
    rng = random.Random(f"band {seed}")
    parts: dict[int, list[Note]] = {GUITAR: [], BASS: [], KEYS: [], SAXOPHONE: [], DRUMS: []}
    at = 0.2
    while at < seconds - 4:
        phrase = Phrase(
            60 / rng.uniform(60, 170), rng.choice((3, 4, 4, 4, 6)), rng.randint(LOWEST_PITCH, LOWEST_PITCH + 11),
            MODES[rng.choice(tuple(MODES))], rng.choice((0.5, 0.9, 1.0)), rng.choice((70, 85, 100)),
        )
        at = _loop(rng, phrase, parts, at, seconds - 2)
    return {program: [n for n in notes if n.start_seconds + n.length_seconds < seconds] for program, notes in parts.items()}


def _loop(rng: random.Random, phrase: Phrase, parts: dict[int, list[Note]], at: float, end: float) -> float:
    """One chord loop, repeated; returns when it stopped."""
    groove, progression = Groove.draw(rng, phrase.beats * 2), rng.choice(PROGRESSIONS)
    playing, pattern_seed = rng.choice(PLAYING), rng.random()
    motif = tuple((rng.randrange(phrase.beats * 2), rng.choice((0, 1, 2, 4, 5))) for _ in range(rng.choice((2, 3, 4))))
    for bar in range(4 * rng.choice((2, 3, 4))):
        if at > end:
            break
        degree = progression[bar % 4]
        pattern = random.Random(f"{pattern_seed} {bar % 4}")  # the guitar comes round to what it played, like any rhythm guitar
        parts[GUITAR] += playing(pattern, phrase, at, degree)
        parts[BASS] += bass(rng, phrase, groove, at, degree)
        parts[KEYS] += keys(rng, phrase, groove, at, degree)
        parts[SAXOPHONE] += saxophone(rng, phrase, motif, at, degree) if bar % 4 in (1, 3) else ()
        parts[DRUMS] += drums(rng, phrase, groove, at)
        at += phrase.beats * phrase.beat_seconds
    return at

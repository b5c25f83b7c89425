"""Who plays what: guitars (inputs), target instruments (outputs) and the words that ask for them.

Programs are General MIDI numbers, counted from 0. The first phrase of each instrument is its name in presets and tables; the
last one is never trained on, so that an unseen wording can be tested.
"""

from __future__ import annotations

GUITARS: dict[int, str] = {
    24: "nylon guitar", 25: "steel guitar", 26: "jazz guitar", 27: "clean electric guitar", 28: "muted electric guitar",
    29: "overdriven guitar", 30: "distortion guitar",
}

PHRASES: dict[int, tuple[str, ...]] = {
    48: ("string ensemble", "warm orchestral strings", "a lush string section", "violins and cellos", "a bowed orchestra"),
    52: ("choir", "a choir singing aah", "human voices", "a vocal ensemble", "people singing together"),
    73: ("flute", "a concert flute", "soft breathy flute", "solo flute", "an airy wooden flute"),
    89: ("warm pad", "a warm synth pad", "soft analog synthesizer pad", "ambient synth pad", "a mellow synthesizer"),
    19: ("church organ", "a pipe organ", "cathedral organ", "big church pipe organ", "an organ in a cathedral"),
    11: ("vibraphone", "soft vibraphone", "jazz vibes", "mallets on a vibraphone", "a mellow vibraphone with mallets"),
    46: ("harp", "an orchestral harp", "plucked harp", "concert harp", "gentle harp strings plucked"),
    61: ("brass section", "a big brass section", "trumpets and trombones", "bold orchestral brass", "a horn section playing"),
    0: ("grand piano", "acoustic piano", "a concert grand piano", "solo piano", "piano keys"),
    71: ("clarinet", "a solo clarinet", "woody clarinet", "classical clarinet", "a clarinet in an orchestra"),
}
TARGETS: tuple[int, ...] = tuple(PHRASES)


def name_of(program: int) -> str:
    """The instrument's name, as presets and tables show it."""
    return PHRASES[program][0] if program in PHRASES else GUITARS[program]


def training_phrases(program: int) -> tuple[str, ...]:
    return PHRASES[program][:-1]


def held_out_phrase(program: int) -> str:
    return PHRASES[program][-1]

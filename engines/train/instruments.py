"""Who plays what: guitars (inputs), target instruments (outputs) and the words that ask for them.

Programs are General MIDI numbers, counted from 0; a drum kit is DRUMS. The first phrase of each instrument is its name in presets and
tables; the last two are never trained on, so that unseen wordings can be tested.

A *target* plays the guitar's own notes (generative delay); a *companion* plays its own part beside a guitar (jamming).
"""

from __future__ import annotations

from dataclasses import dataclass

DRUMS = 128  # General MIDI's channel 10, which has no program number of its own
HELD_OUT = 2

GUITARS: dict[int, str] = {
    24: "nylon guitar", 25: "steel guitar", 26: "jazz guitar", 27: "clean electric guitar", 28: "muted electric guitar",
    29: "overdriven guitar", 30: "distortion guitar",
}


@dataclass(frozen=True)
class Instrument:
    """A sound that can be asked for."""

    bank: str  # of engines.train.data.BANKS: whose rendering is trained on
    phrases: tuple[str, ...]


TARGETS: dict[int, Instrument] = {
    48: Instrument("fluid", (
        "string ensemble",
        "bowed strings", "a string quartet", "cellos and basses", "lush strings", "an orchestra's strings", "romantic violins",
        "violin section", "strings holding long notes",
        "warm orchestral strings", "a lush string section", "violins and cellos", "a string orchestra", "strings",
        "sweeping film strings", "a chamber string group", "slow legato strings", "violins, violas and cellos together",
        "a bowed orchestra", "a big section of violins",
    )),
    52: Instrument("fluid", (
        "choir",
        "oohs and aahs", "sung vowels", "a gospel choir", "choral voices", "women and men singing", "a boys' choir", "wordless singing",
        "a heavenly choir",
        "a choir singing aah", "human voices", "a vocal ensemble", "singers", "a church choir", "voices singing a chord",
        "a chorus of singers", "a mixed choir", "angelic voices", "people singing together", "a group of vocalists",
    )),
    73: Instrument("fluid", (
        "flute",
        "a flute solo", "light airy flute", "flutes", "a baroque flute", "a breathy flute", "a flute player",
        "a woodwind whistle of a flute", "a high silver flute",
        "a concert flute", "soft breathy flute", "solo flute", "a silver flute", "a flautist", "a gentle flute melody",
        "orchestral flute", "a wooden transverse flute", "flute playing alone", "an airy wooden flute", "a breathy woodwind flute",
    )),
    89: Instrument("fluid", (
        "warm pad",
        "a pad", "synth pad", "warm analog strings pad", "a soft synth background", "lush electronic chords",
        "a slowly swelling synthesizer", "an ambient drone", "a smooth synth carpet",
        "a warm synth pad", "soft analog synthesizer pad", "ambient synth pad", "a synthesizer pad", "slow warm synth chords",
        "a soft electronic pad", "an evolving ambient pad", "analog pad", "a dreamy synthesizer background", "a mellow synthesizer",
        "a soft ambient synth",
    )),
    19: Instrument("fluid", (
        "church organ",
        "church organ chords", "an organist in a church", "a loud pipe organ", "organ pipes", "a cathedral's pipe organ",
        "sacred organ music", "organ in a stone church", "toccata on an organ",
        "a pipe organ", "cathedral organ", "big church pipe organ", "organ", "a baroque organ", "a majestic organ",
        "the great organ of a church", "pipe organ with full registers", "an old church organ", "an organ in a cathedral",
        "a huge pipe organ",
    )),
    11: Instrument("fluid", (
        "vibraphone",
        "vibraphone notes", "vibes player", "a vibraphonist", "a metallophone with motor", "jazzy vibraphone", "shimmering vibraphone",
        "bars of metal ringing", "soft mallets on metal bars",
        "soft vibraphone", "jazz vibes", "mallets on a vibraphone", "vibes", "a ringing vibraphone", "a jazz vibraphone solo",
        "metal bars struck with mallets", "vibraphone with soft mallets", "a cool jazz vibraphone",
        "a mellow vibraphone with mallets", "struck vibraphone bars",
    )),
    46: Instrument("musescore", (
        "harp",
        "harp strings", "a harp being plucked", "soft harp arpeggios", "an angel's harp", "a harp player", "a lever harp",
        "harp in a salon", "a flowing harp",
        "an orchestral harp", "plucked harp", "concert harp", "a harpist", "a celtic harp", "rippling harp notes", "a gentle harp",
        "harp glissandi", "a harp in an orchestra", "gentle harp strings plucked", "a golden concert harp",
    )),
    61: Instrument("musescore", (
        "brass section",
        "horns", "trombones and trumpets", "a brass ensemble", "orchestral brass chords", "a fanfare", "a bright brass section",
        "big band horns", "tubas, trombones and trumpets",
        "a big brass section", "trumpets and trombones", "bold orchestral brass", "brass", "a brass band", "fanfare brass",
        "horns and trumpets", "a powerful brass ensemble", "loud trumpets and horns", "a horn section playing", "brass players together",
    )),
    0: Instrument("musescore", (
        "grand piano",
        "a grand piano", "piano chords", "a steinway", "a mellow piano", "hammered piano strings", "a pianist at a grand",
        "gentle piano", "concert piano",
        "acoustic piano", "a concert grand piano", "solo piano", "piano", "a pianist playing", "a classical piano",
        "an upright piano", "a bright grand piano", "soft piano playing", "piano keys", "a concert pianist",
    )),
    71: Instrument("musescore", (
        "clarinet",
        "clarinet solo", "a clarinet player", "a smooth clarinet", "a reedy clarinet", "an orchestral clarinet", "a jazz clarinet",
        "low clarinet notes", "a klezmer clarinet",
        "a solo clarinet", "woody clarinet", "classical clarinet", "a clarinettist", "a b flat clarinet", "a mellow clarinet",
        "a lyrical clarinet melody", "clarinet alone", "a dark clarinet tone", "a clarinet in an orchestra", "a warm woody clarinet",
    )),
    10: Instrument("musescore", (
        "music box",
        "a musical box", "music box tune", "a music box playing", "a wound-up music box", "small bright music box",
        "a music box for a child", "a ballerina's music box", "tines of a music box",
        "a music box", "a tiny music box", "a wind-up music box", "an old musical box", "a toy music box",
        "tinkling music box", "a delicate music box lullaby", "a mechanical music box", "music box melody",
        "a child's music box", "a clockwork musical box",
    )),
    81: Instrument("fluid", (
        "saw lead",
        "synth lead", "a saw wave lead", "a piercing synth solo", "an analog lead synth", "a sawtooth wave", "a raw saw synthesizer",
        "a loud electronic lead", "bright buzzing synth",
        "a sawtooth synth lead", "a bright synth lead", "a buzzing saw wave synthesizer", "lead synth",
        "an eighties synth lead", "a fat sawtooth lead", "a trance lead", "a monophonic lead synthesizer",
        "saw synth", "a sharp sawtooth synthesizer",
        "a screaming synth lead",
    )),
}

COMPANIONS: dict[int, Instrument] = {
    33: Instrument("fluid", (
        "bass guitar accompaniment", "a bass player joins in", "backing bass guitar", "accompany me on bass", "a bass line under me",
        "play along on electric bass", "a groove on the bass guitar",
    )),
    DRUMS: Instrument("musescore", (
        "drum kit accompaniment", "a drummer joins in", "backing drums", "accompany me on drums", "a drum groove under me",
        "play along on the drum kit", "a beat from a drummer",
    )),
    4: Instrument("musescore", (
        "electric piano accompaniment", "an electric piano player joins in", "backing electric piano chords",
        "accompany me on electric piano", "rhodes chords under me", "play along on electric piano", "comping on a rhodes",
    )),
    65: Instrument("fluid", (
        "saxophone accompaniment", "a saxophone player joins in", "backing saxophone", "accompany me on saxophone", "a sax line beside me",
        "play along on alto saxophone", "an answer from a saxophone",
    )),
}

INSTRUMENTS: dict[int, Instrument] = {**TARGETS, **COMPANIONS}


def name_of(program: int) -> str:
    """The instrument's name, as presets and tables show it."""
    return INSTRUMENTS[program].phrases[0] if program in INSTRUMENTS else GUITARS[program]


def training_phrases(program: int) -> tuple[str, ...]:
    return INSTRUMENTS[program].phrases[:-HELD_OUT]


def held_out_phrases(program: int) -> tuple[str, ...]:
    return INSTRUMENTS[program].phrases[-HELD_OUT:]

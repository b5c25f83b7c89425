"""Presets: sounds that are kept, four to a bank, each in a TOML file of its own.

    presets/01-2.toml       bank 1, slot 2: place "1.2", MIDI program 1

Each file is replaced as a whole (appliance/storage.py), so a power cut loses at most the change that was being made. A file that
can't be read is set aside under another name and named in one line; the others are not touched by that.

Runs in: the main process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance.config import MAX_DELAY_MS
from appliance.rules import ConfigError, check_names, choice, number, read_table, read_toml, switch, text, whole
from appliance.storage import DISK, Disk, remove_file, replace_file, set_aside
from appliance.tempo import Subdivision

BANKS, SLOTS = 32, 4
PROGRAMS = BANKS * SLOTS  # as many as MIDI has numbers for
_WORDS = "the words of a prompt"


@dataclass(frozen=True)
class Sound:
    """What a preset keeps. Prompts are kept as words: an engine that does not know them plays on with what it has."""

    prompt: str = text("", _WORDS)
    second_prompt: str = text("", _WORDS)
    delay_ms: float = number(0.0, 0.0, MAX_DELAY_MS + 1_000)  # the rings hold a little more than can be asked for
    subdivision: str = choice(Subdivision.QUARTER.label, *(one.label for one in Subdivision))
    mix: float = number(0.5, 0.0, 1.0)
    repeats: float = number(0.0, 0.0, 0.95)
    level: float = number(1.0, 0.0, 2.0)
    tone: float = number(0.5, 0.0, 1.0)
    morph: float = number(0.0, 0.0, 1.0)
    stray: float = number(0.0, 0.0, 1.0)
    jam: bool = switch(False)
    steps: int = whole(0, 0, 16)


@dataclass(frozen=True)
class _Title:
    name: str = text("", "what the preset is called")


@dataclass(frozen=True, order=True)
class Place:
    """Bank and slot, both from 1 on."""

    bank: int
    slot: int

    def __str__(self) -> str:
        return f"{self.bank}.{self.slot}"

    @property
    def program(self) -> int:
        """The number that a MIDI program change has for it."""
        return (self.bank - 1) * SLOTS + self.slot - 1

    @classmethod
    def of_program(cls, program: int) -> Place:
        """Raises ConfigError."""
        if not 0 <= program < PROGRAMS:
            raise ConfigError(f"there is no preset {program}: programs go from 0 to {PROGRAMS - 1}")
        return cls(program // SLOTS + 1, program % SLOTS + 1)

    @classmethod
    def parse(cls, wish: str) -> Place | None:
        """`2.3` as bank 2, slot 3; None where it is no place."""
        match = re.fullmatch(r"(\d{1,2})\.(\d)", wish.strip())
        if not match:
            return None
        bank, slot = int(match[1]), int(match[2])
        if not (1 <= bank <= BANKS and 1 <= slot <= SLOTS):
            raise ConfigError(f"there is no place {wish}: banks go from 1 to {BANKS}, and slots from 1 to {SLOTS}")
        return cls(bank, slot)


@dataclass(frozen=True)
class Preset:
    name: str
    sound: Sound = field(default_factory=Sound)


def to_toml(tables: dict[str, dict[str, Any]]) -> str:
    """Tables of texts, numbers and switches. (JSON's strings are TOML's, but for one control character.)"""
    lines: list[str] = []
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), ""]
    return "\n".join(lines).replace("\x7f", "\\u007f")


def checked_name(name: str) -> str:
    """A name that can be shown and found again. Raises ConfigError."""
    name = " ".join(name.split())
    if not (0 < len(name) <= 60 and name.isprintable()) or Place.parse(name) or name.isdecimal():
        raise ConfigError(f"a preset can't be called {name!r}: use 1 to 60 letters that are not a number or a place")
    return name


class PresetStore:
    """The presets of one folder. What an operator can get wrong is raised as ConfigError; a disk that fails as OSError."""

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        """Raises OSError."""
        self.folder, self.disk = folder / "presets", disk
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, place: Place) -> Path:
        return self.folder / f"{place.bank:02d}-{place.slot}.toml"

    def places(self) -> list[Place]:
        """Where there is something, in order."""
        matches = (re.fullmatch(r"(\d\d)-(\d)\.toml", path.name) for path in self.folder.iterdir())
        found = [Place(int(match[1]), int(match[2])) for match in matches if match]
        return sorted(place for place in found if 1 <= place.bank <= BANKS and 1 <= place.slot <= SLOTS)

    def load(self, place: Place) -> Preset:
        """A file that can't be read is set aside."""
        path = self.path(place)
        try:
            return parse_preset(path.read_text("utf-8"), path.name)
        except FileNotFoundError:
            raise ConfigError(f"there is no preset in {place}; {self._known()}") from None
        except (ConfigError, UnicodeDecodeError) as error:
            aside = set_aside(path, self.disk)
            raise ConfigError(f"preset {place} is damaged and set aside as {aside}: {error}") from None

    def load_all(self) -> tuple[dict[Place, Preset], list[str]]:
        """All that can be read, and a line for each that can't."""
        presets, lines = {}, []
        for place in self.places():
            try:
                presets[place] = self.load(place)
            except ConfigError as error:
                lines.append(str(error))
        return presets, lines

    def save(self, place: Place, preset: Preset) -> None:
        replace_file(self.path(place), preset_text(preset), self.disk)

    def rename(self, place: Place, name: str) -> None:
        self.save(place, replace(self.load(place), name=checked_name(name)))

    def delete(self, place: Place) -> None:
        try:
            remove_file(self.path(place), self.disk)
        except FileNotFoundError:
            raise ConfigError(f"there is no preset in {place}; {self._known()}") from None

    def find(self, wish: str) -> Place:
        """A place, a program number, or the name of a preset."""
        place = Place.parse(wish)
        if place:
            return place
        if wish.strip().isdecimal():
            return Place.of_program(int(wish))
        names = {place: preset.name.casefold() for place, preset in self.load_all()[0].items()}
        for place, name in names.items():
            if name == " ".join(wish.split()).casefold():
                return place
        raise ConfigError(f"no preset is called {wish!r}; {self._known()}")

    def _known(self) -> str:
        places = self.places()
        return f"there are {', '.join(map(str, places))}" if places else "none has been saved yet"


def step(places: Iterable[Place], current: Place, by: int) -> Place | None:
    """The next (1) or previous (-1) preset of the same bank, going round; None where the bank has no other."""
    slots = sorted(place for place in places if place.bank == current.bank and place != current)
    beyond = [place for place in slots if (place > current) == (by > 0)]
    row = beyond or slots
    return None if not row else row[0] if by > 0 else row[-1]


def step_bank(places: Iterable[Place], current: Place, by: int) -> Place | None:
    """The same slot in the next or previous bank that has anything, else the first one there."""
    places = list(places)
    banks = sorted({place.bank for place in places} - {current.bank})
    beyond = [bank for bank in banks if (bank > current.bank) == (by > 0)]
    row = beyond or banks
    return enter_bank(places, row[0] if by > 0 else row[-1], current.slot) if row else None


def enter_bank(places: Iterable[Place], bank: int, slot: int) -> Place | None:
    """This slot of a bank if it holds something, else the bank's first one."""
    there = sorted(place for place in places if place.bank == bank)
    return next((place for place in there if place.slot == slot), there[0] if there else None)


def preset_text(preset: Preset) -> str:
    return to_toml({"preset": {"name": preset.name}, "sound": asdict(preset.sound)})


def parse_preset(source: str, origin: str) -> Preset:
    """Raises ConfigError."""
    tree = read_toml(source, origin)
    check_names(origin, "table", tree, ["preset", "sound"], lambda name: f"[{name}]")
    name = read_table(origin, "preset", _Title, tree.get("preset", {})).name
    if not name:
        raise ConfigError(f"{origin}: has no [preset] name")
    return Preset(name, read_table(origin, "sound", Sound, tree.get("sound", {})))

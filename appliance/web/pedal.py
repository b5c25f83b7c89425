"""The pedal as the page knows it: what its sockets answer, and the files that it keeps. Nothing is written here but by the pedal itself.

    status.sock     what it says of itself          orders.sock     what it is asked to do
    presets/*.toml, engines/, flights/*.flight      read only

Everything raises PedalError (one line) or StatusError, and may wait for a disk or for the pedal: call it on a thread.

Runs in: `ghostnote web`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.orders import OrderError, lines, send
from appliance.presets import Place, PresetStore, Sound, checked_name, parse_preset
from appliance.rules import ConfigError, read_table, rules_of
from appliance.status import fetch_text
from appliance.store import FACTORY
from appliance.web.engines import DIGEST, Engines

FLIGHT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\.flight")


class PedalError(Exception):
    """The pedal does not do it, or is not there: one line."""


class Pedal:
    """The one whose `folder` this is: [storage] folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.engines = folder, Engines(folder / "engines")

    def status(self) -> bytes:
        """What it says of itself, as it says it: JSON in one line."""
        return fetch_text()

    # Presets

    def presets(self) -> list[dict[str, Any]]:
        """All that can be read, and a line for each that can't. What is damaged is set aside by the pedal, not here."""
        if not (self.folder / "presets").is_dir():
            return []
        store = PresetStore(self.folder)
        return [self._preset(store, place) for place in store.places()]

    def _preset(self, store: PresetStore, place: Place) -> dict[str, Any]:
        path = store.path(place)
        try:
            preset = parse_preset(path.read_text("utf-8"), path.name)
        except (ConfigError, OSError, UnicodeDecodeError) as error:
            return {"place": str(place), "line": str(error)}
        return {"place": str(place), "name": preset.name, "sound": asdict(preset.sound)}

    def load_preset(self, place: str) -> str:
        return _order("load-preset", preset=_place(place))

    def save_preset(self, place: str, wish: Mapping[str, Any]) -> str:
        """`wish` is a name, and a sound: of all that a preset keeps only what is given, the rest as it sounds now."""
        try:
            name, sound = checked_name(str(wish.get("name", ""))), wish.get("sound", {})
            read_table("the preset", "sound", Sound, sound)
        except ConfigError as error:
            raise PedalError(str(error)) from None
        return _order("save-preset", place=_place(place), name=name, sound=dict(sound))

    # Engines

    def activate(self, digest: str) -> str:
        """Begins; `task` tells the rest."""
        if not DIGEST.fullmatch(digest) and digest != FACTORY:
            raise PedalError("that is the digest of no engine")
        return _order("activate", digest=digest)

    def roll_back(self) -> str:
        return _order("rollback")

    def task(self) -> dict[str, Any]:
        """How far the last of both is: its line, whether it is `finished`, whether it has `failed`."""
        return _ordered("engine-task")

    # The flight recorder

    def flights(self) -> list[dict[str, Any]]:
        """Newest first."""
        known = sorted(filter(_is_flight, self._flights.glob("*.flight")), key=lambda path: path.name, reverse=True)
        return [{"name": path.name, "bytes": path.stat().st_size} for path in known]

    def flight(self, name: str) -> Path:
        path = self._flights / name
        if not _is_flight(path) or path.name != name:
            raise PedalError("there is no such flight")
        return path

    def save_flight(self) -> str:
        return _order("save-flight")

    @property
    def _flights(self) -> Path:
        return self.folder / "flights"


def _is_flight(path: Path) -> bool:
    return bool(FLIGHT.fullmatch(path.name)) and not path.is_symlink() and path.is_file()


def preset_rules() -> dict[str, Any]:
    """What a form needs to know of each key of a sound: its range or its choices."""
    rules = rules_of(Sound).items()
    return {name: {"low": rule.low, "high": rule.high, "options": rule.options, "kind": rule.kinds[-1].__name__} for name, rule in rules}


def _place(wish: str) -> str:
    try:
        place = Place.parse(wish)
    except ConfigError as error:
        raise PedalError(str(error)) from None
    if place is None:
        raise PedalError(f"{wish[:20]!r} is no place: write bank and slot, such as 1.2")
    return str(place)


def _order(order: str, **words: Any) -> str:
    """What the pedal answers, as one line."""
    return "; ".join(lines(_ordered(order, **words)))


def _ordered(order: str, **words: Any) -> dict[str, Any]:
    try:
        return send(order, **words)
    except OrderError as error:
        raise PedalError(str(error)) from None

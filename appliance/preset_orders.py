"""What somebody who is not at the board may ask of the presets: to play one, or to keep one that was written elsewhere.

    {"order": "load-preset", "preset": "1.2"}                                   a place, program number or name
    {"order": "save-preset", "place": "1.2", "name": "Choir", "sound": {"mix": 0.4}}     what `sound` leaves out is as it sounds now

Runs in: the main process, which is the only one that writes presets while it plays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from appliance.playing import Playing
from appliance.presets import Place, Preset, Sound, checked_name
from appliance.rules import ConfigError, read_table

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def preset_orders(playing: Playing) -> dict[str, Handler]:
    """Handlers by the name of the order. They raise ConfigError and OSError."""
    return {
        "load-preset": lambda order: {"line": playing.choose(_text(order, "preset"))},
        "save-preset": lambda order: {"line": playing.edit(*_written(order, playing.player.sound()))},
    }


def _written(order: Mapping[str, Any], now: Sound) -> tuple[Place, Preset]:
    wish = _text(order, "place")
    place, given = Place.parse(wish), order.get("sound", {})
    if place is None:
        raise ConfigError(f"{wish[:20]!r} is no place: write bank and slot, such as 1.2")
    if not isinstance(given, Mapping):
        raise ConfigError("sound is no table of what a preset keeps")
    sound: Sound = read_table("save-preset", "sound", Sound, {**asdict(now), **given})
    return place, Preset(checked_name(_text(order, "name")), sound)


def _text(order: Mapping[str, Any], key: str) -> str:
    found = order.get(key)
    if not isinstance(found, str):
        raise ConfigError(f"{order.get('order', 'the order')} needs {key!r}, a text")
    return found

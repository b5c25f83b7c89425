"""What somebody who is not at the board may ask of the presets: to play one, or to keep one that was written elsewhere.

    {"order": "load-preset", "preset": "1.2"}                                   a place, program number or name
    {"order": "save-preset", "place": "1.2", "name": "Choir", "sound": {"mix": 0.4}}     what `sound` leaves out is as it sounds now

Runs in: the main process, which is the only one that writes presets while it plays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from appliance.orders import Answer, Handler, OrderError, Request, word
from appliance.playing import Playing
from appliance.presets import Place, Preset, Sound, checked_name
from appliance.rules import ConfigError, read_table


def preset_orders(playing: Playing) -> dict[str, Handler]:
    """Handlers by the name of the order."""

    def load(order: Request) -> Answer:
        wish = word(order, "preset")
        return _done(lambda: playing.choose(wish))

    def save(order: Request) -> Answer:
        return _done(lambda: playing.edit(*_written(order, playing.player.sound())))

    return {"load-preset": load, "save-preset": save}


def _done(do: Callable[[], str]) -> Answer:
    try:
        return {"line": do()}
    except (ConfigError, OSError) as error:
        raise OrderError(str(error)) from None


def _written(order: Request, now: Sound) -> tuple[Place, Preset]:
    wish = word(order, "place")
    place, given = Place.parse(wish), order.get("sound", {})
    if place is None:
        raise ConfigError(f"{wish[:20]!r} is no place: write bank and slot, such as 1.2")
    if not isinstance(given, Mapping):
        raise ConfigError("sound is no table of what a preset keeps")
    sound: Sound = read_table("save-preset", "sound", Sound, {**asdict(now), **given})
    return place, Preset(checked_name(word(order, "name")), sound)

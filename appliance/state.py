"""The last state: where every knob and switch stood, so that a pedal whose plug was pulled begins where it ended.

Written at most once a second, off the audio path and off the tick of the main process, and only when something has changed.

Runs in: the main process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from appliance.presets import Place, Sound, to_toml
from appliance.rules import ConfigError, check_names, read_table, read_toml, switch, text
from appliance.storage import DISK, Disk, Writer, set_aside

EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Stand:
    """How the pedal stands apart from its sound."""

    preset: str = text("1.1", "the place of a preset")
    bypass: bool = switch(False)
    kill_dry: bool = switch(False)
    trails: bool = switch(True)


@dataclass(frozen=True)
class State:
    stand: Stand = field(default_factory=Stand)
    sound: Sound = field(default_factory=Sound)


def state_path(folder: Path) -> Path:
    return folder / "state.toml"


def state_text(state: State) -> str:
    return to_toml({"stand": asdict(state.stand), "sound": asdict(state.sound)})


def parse_state(source: str, origin: str) -> State:
    """Raises ConfigError."""
    tree = read_toml(source, origin)
    check_names(origin, "table", tree, ["stand", "sound"], lambda name: f"[{name}]")
    if set(tree) != {"stand", "sound"}:
        raise ConfigError(f"{origin}: is not whole")
    stand, sound = read_table(origin, "stand", Stand, tree["stand"]), read_table(origin, "sound", Sound, tree["sound"])
    if Place.parse(stand.preset) is None:
        raise ConfigError(f"{origin}: [stand] preset = {stand.preset!r} is no place such as 1.2")
    return State(stand, sound)


def load_state(folder: Path, disk: Disk = DISK) -> State | None:
    """None where there is none yet. Raises ConfigError for a damaged one, which is set aside, and OSError."""
    path = state_path(folder)
    try:
        return parse_state(path.read_text("utf-8"), path.name)
    except FileNotFoundError:
        return None
    except (ConfigError, UnicodeDecodeError) as error:
        aside = set_aside(path, disk)
        raise ConfigError(f"the last state is damaged and set aside as {aside}: {error}") from None


class StateKeeper:
    """`note` as often as you like."""

    def __init__(self, folder: Path, writer: Writer) -> None:
        self._path, self._writer = state_path(folder), writer
        self._written: State | None = None
        self._written_at = -EVERY_SECONDS

    def note(self, now_seconds: float, state: Callable[[], State], last: bool = False) -> None:
        """Hand the state to the writer if it has changed, at most once a second; `last`: there will be no later call."""
        if now_seconds - self._written_at < EVERY_SECONDS and not last:
            return
        self._written_at = now_seconds
        current = state()
        if current != self._written:
            self._written = current
            self._writer.replace(self._path, state_text(current))

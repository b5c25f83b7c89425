"""`ghostnote preset list|save|load|rename|delete`: presets from a shell, also while the pedal plays.

What the pedal plays now is its last state, which is at most a second old. `load` writes that state, so it is for a pedal that does not
run; one that runs is told by a footswitch, MIDI or a script.

Runs in: the main process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from rich.console import Console
from rich.table import Table

from appliance.config import Config, ConfigError, load_config
from appliance.presets import Place, Preset, PresetStore, checked_name
from appliance.state import State, load_state, state_path, state_text
from appliance.storage import FolderLock, replace_file, state_folder

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Result = TypeVar("Result")


def add_preset(commands: Commands, out: Console) -> None:
    """The command, for the parser of `ghostnote`."""
    one = commands.add_parser("preset", help="list, save, load, rename and delete presets")
    actions = one.add_subparsers(required=True, metavar="ACTION")
    _add(actions, out, "list", "all presets").set_defaults(act=lambda do, a: do.show())
    save = _add(actions, out, "save", "keep what was played last in a place")
    save.add_argument("place", metavar="PLACE", help="bank and slot, such as 1.2")
    save.add_argument("--name", default="", metavar="TEXT", help="default: the prompt's words")
    save.set_defaults(act=lambda do, a: do.save(a.place, a.name))
    load = _add(actions, out, "load", "the pedal begins with this preset the next time")
    rename, delete = _add(actions, out, "rename", "give a preset another name"), _add(actions, out, "delete", "delete a preset")
    for action in (load, rename, delete):
        action.add_argument("preset", metavar="PRESET", help="its place, program number or name")
    rename.add_argument("name", metavar="NAME")
    load.set_defaults(act=lambda do, a: do.load(a.preset))
    rename.set_defaults(act=lambda do, a: do.rename(a.preset, a.name))
    delete.set_defaults(act=lambda do, a: do.delete(a.preset))


def _add(actions: Commands, out: Console, name: str, says: str) -> argparse.ArgumentParser:
    one = actions.add_parser(name, help=says)
    one.add_argument("--config", type=Path, metavar="FILE", help="the pedal's configuration, if its [storage] folder is set")

    def run(arguments: argparse.Namespace) -> int:
        config = load_config(arguments.config) if arguments.config else Config()
        arguments.act(PresetCommands(config, out), arguments)
        return 0

    one.set_defaults(command=run)
    return one


class PresetCommands:
    """Raises ConfigError for whatever can't be done."""

    def __init__(self, config: Config, out: Console) -> None:
        self.out, self.folder = out, state_folder(config.storage.folder)
        self.store = self._on_disk(lambda: PresetStore(self.folder))

    def show(self) -> None:
        presets, lines = self._on_disk(self.store.load_all)
        table = Table(title=str(self.store.folder), title_justify="left", box=None)
        for title in ("place", "program", "name", "prompt", "delay", "mix"):
            table.add_column(title, style="dim" if title == "program" else "")
        for place, preset in presets.items():
            sound = preset.sound
            table.add_row(str(place), str(place.program), preset.name, sound.prompt, f"{sound.delay_ms:.0f} ms", f"{sound.mix:.2f}")
        self.out.print(table if presets else f"no presets in {self.store.folder}", highlight=False)
        for line in lines:
            self._say(line)

    def save(self, place: str, name: str) -> None:
        """The last state becomes a preset."""
        where, state = self._place(place), self._on_disk(lambda: load_state(self.folder))
        if state is None:
            raise ConfigError(f"nothing has been played yet with {self.folder}: there is no sound to save")
        preset = Preset(checked_name(name or state.sound.prompt or f"preset {where}"), state.sound)
        self._on_disk(lambda: self.store.save(where, preset))
        self._say(f"saved as preset {where} {preset.name}")

    def load(self, wish: str) -> None:
        """The pedal begins with this preset the next time."""
        where = self.store.find(wish)
        preset, lock = self._on_disk(lambda: self.store.load(where)), self._lock(where)
        state = self._on_disk(lambda: load_state(self.folder)) or State()
        state = State(replace(state.stand, preset=str(where)), preset.sound)
        self._on_disk(lambda: replace_file(state_path(self.folder), state_text(state)))
        lock.release()
        self._say(f"the pedal begins with preset {where} {preset.name}")

    def rename(self, wish: str, name: str) -> None:
        where = self.store.find(wish)
        self._on_disk(lambda: self.store.rename(where, name))
        self._say(f"preset {where} is called {self.store.load(where).name}")

    def delete(self, wish: str) -> None:
        where = self.store.find(wish)
        self._on_disk(lambda: self.store.delete(where))
        self._say(f"preset {where} is deleted")

    def _say(self, line: str) -> None:
        self.out.print(line, highlight=False, markup=False, soft_wrap=True)

    def _place(self, wish: str) -> Place:
        place = Place.parse(wish)
        if place is None:
            raise ConfigError(f"{wish!r} is no place: write bank and slot, such as 1.2")
        return place

    def _lock(self, where: Place) -> FolderLock:
        try:
            return self._on_disk(lambda: FolderLock(self.folder))
        except BlockingIOError:
            raise ConfigError(f"the pedal is playing: choose preset {where} with a switch or MIDI program {where.program}") from None

    def _on_disk(self, do: Callable[[], Result]) -> Result:
        try:
            return do()
        except BlockingIOError:
            raise
        except OSError as error:
            path = Path(str(error.filename or self.folder))
            raise ConfigError(f"{path} can't be used ({error.strerror}): set [storage] folder, or run as the pedal's user") from None

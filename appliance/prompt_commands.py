"""`ghostnote prompt add|list|remove`: words of the player's own, beside those that an engine's bundle brings along.

Words become an embedding once, where the text encoder is installed; a pedal reads only the file, so a prompt may be written on a
laptop and copied over. A pedal that runs knows a new prompt from its next start on.

Runs in: the main process; the encoder in a process of its own, because what plays imports no torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from appliance.config import Config, ConfigError, load_config
from appliance.preset_commands import Commands
from appliance.storage import state_folder
from engines.prompts import PromptShelf, file_name


def prompt_folder(config: Config) -> Path:
    """Where the player's own prompts are kept: beside the presets."""
    return state_folder(config.storage.folder) / "prompts"


def add_prompt(commands: Commands, out: Console) -> None:
    """The command, for the parser of `ghostnote`."""
    one = commands.add_parser("prompt", help="add, list and remove prompts of your own")
    actions = one.add_subparsers(required=True, metavar="ACTION")
    for name, says, act in (("add", "write words down", _add), ("remove", "forget them", _remove), ("list", "all of yours", _list)):
        action = actions.add_parser(name, help=says)
        action.add_argument("--config", type=Path, metavar="FILE", help="the pedal's configuration, if its [storage] folder is set")
        if name != "list":
            action.add_argument("words", metavar="WORDS", nargs="+")

        def run(arguments: argparse.Namespace, act=act) -> int:  # type: ignore[no-untyped-def]
            folder = prompt_folder(load_config(arguments.config) if arguments.config else Config())
            act(folder, " ".join(getattr(arguments, "words", ())), out)
            return 0

        action.set_defaults(command=run)


def _add(folder: Path, words: str, out: Console) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engines.lmdm.author", words, "--folder", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError((done.stderr.strip().splitlines() or ["the text encoder failed"])[-1])
    out.print(f"{words!r} can be asked for from the next start on ({done.stdout.strip()})", highlight=False, soft_wrap=True)


def _remove(folder: Path, words: str, out: Console) -> None:
    path = folder / file_name(words)
    if not path.exists():
        known = ", ".join(PromptShelf.open(folder).words) or "none"
        raise ConfigError(f"no prompt {words!r} is kept in {folder}; there are: {known}")
    path.unlink()
    out.print(f"{words!r} is forgotten", highlight=False)


def _list(folder: Path, words: str, out: Console) -> None:
    for one in PromptShelf.open(folder).words:
        out.print(one, highlight=False)

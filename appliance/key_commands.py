"""`ghostnote key new|trust|list|forget`: who may make engines for this pedal.

A pair of keys is minisign's: the secret one stays with whoever makes engines, and never comes near a pedal; the public one is put into the
pedal's folder of keys by its owner, which is the only thing that makes it trusted.

Runs in: the main process, at commands.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from rich.console import Console

from appliance.config import Config, load_config
from appliance.preset_commands import Commands
from appliance.trust import SUFFIX, KeyFileError, TrustedKey, keys_folder, read_public_key, trusted_keys
from engines.signing import PublicKey, SecretKey, SigningError, needs_password

SECRET_SUFFIX = ".key"


def add_key(commands: Commands, out: Console) -> None:
    """The command, for the parser of `ghostnote`."""
    one = commands.add_parser("key", help="who may make engines for this pedal")
    actions = one.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser("new", help="a pair of keys, to sign engines of your own with")
    new.add_argument("name", type=Path, metavar="NAME", help=f"writes NAME{SECRET_SUFFIX}, which you keep to yourself, and NAME{SUFFIX}")
    new.add_argument("--no-password", action="store_true", help="whoever can read the secret key can sign with it")
    new.set_defaults(command=lambda a: _new(a.name, a.no_password, out))
    wishes = (("trust", "take engines that it has signed", "FILE"), ("forget", "no longer", "KEY"), ("list", "all of them", ""))
    for name, says, wants in wishes:
        action = actions.add_parser(name, help=says)
        action.add_argument("--config", type=Path, metavar="FILE", help="the pedal's configuration, if its [engine] keys are set")
        if wants:
            action.add_argument("key", metavar=wants)

        def run(arguments: argparse.Namespace, act=_ACTIONS[name]) -> int:  # type: ignore[no-untyped-def]
            folder = keys_folder(load_config(arguments.config) if arguments.config else Config())
            try:
                act(folder, getattr(arguments, "key", ""), out)
            except OSError as error:
                raise KeyFileError(f"{error.filename or folder}: {error.strerror}; the folder of keys is its owner's (sudo)") from None
            return 0

        action.set_defaults(command=run)


def read_secret_key(path: Path) -> SecretKey:
    """Asks for its password where it has one. Raises KeyFileError."""
    try:
        text = path.read_text()
        return SecretKey.parse(text, ask_password(f"Password of {path}: ") if needs_password(text) else None)
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: no key can be read there ({getattr(error, 'strerror', 'no text')})") from None
    except SigningError as wrong:
        raise KeyFileError(f"{path}: {wrong}") from None


def ask_password(question: str) -> str:
    """From a person, or the next line of a pipe."""
    return getpass.getpass(question) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _new(name: Path, no_password: bool, out: Console) -> int:
    secret_path, public_path = name.with_name(name.name + SECRET_SUFFIX), name.with_name(name.name + SUFFIX)
    for path in (secret_path, public_path):
        if path.exists():
            raise KeyFileError(f"{path} is there already; a key is never written over: choose another name")
    password = None if no_password else _new_password()
    key = SecretKey.new()
    try:
        _write(secret_path, key.text(password), 0o600)
        _write(public_path, key.public.text(), 0o644)
    except OSError as error:
        raise KeyFileError(f"{error.filename}: can't be written ({error.strerror})") from None
    _say(out, f"key {key.public.name}: sign with {secret_path}, and keep it to yourself; give away {public_path}")
    return 0


def _new_password() -> str:
    password = ask_password("Password for the secret key: ")
    if not password:
        raise KeyFileError("a secret key without a password has to be asked for: --no-password")
    if ask_password("Once more: ") != password:
        raise KeyFileError("the two passwords differ; nothing was written")
    return password


def _write(path: Path, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)


def _trust(folder: Path, wish: str, out: Console) -> None:
    key = read_public_key(Path(wish))
    if any(one.key.key_id == key.key_id and one.key.key != key.key for one in trusted_keys(folder)):
        raise KeyFileError(f"{wish}: another key of the same id {key.name} is trusted already; forget that one first")
    path = folder / f"{key.name}{SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write(path, PublicKey(key.key_id, key.key, _comment(key)).text(), 0o644)
    _say(out, f"engines signed by key {key.name} are taken from now on ({path})")


def _comment(key: PublicKey) -> str:
    return key.comment if key.comment.isprintable() else ""


def _forget(folder: Path, wish: str, out: Console) -> None:
    found = [one for one in trusted_keys(folder) if wish.upper().zfill(16) == one.key.name or wish in (one.path.name, one.path.stem)]
    if not found:
        known = ", ".join(one.key.name for one in trusted_keys(folder)) or "none"
        raise KeyFileError(f"no key {wish!r} is trusted in {folder}; there are: {known}")
    for one in found:
        one.path.unlink()
        _say(out, f"engines signed by key {one.key.name} are no longer taken")


def _list(folder: Path, wish: str, out: Console) -> None:
    found: list[TrustedKey] = trusted_keys(folder)
    for one in found:
        _say(out, f"{one.key.name}  {one.path}  {one.key.comment}")
    if not found:
        _say(out, f"no key is trusted: {folder} holds none")


def _say(out: Console, line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


_ACTIONS = {"trust": _trust, "forget": _forget, "list": _list}

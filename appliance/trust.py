"""Which bundles this pedal takes: those that a key of its owner has signed, and nothing of them is used before all of them is checked.

Keys are files in one folder that belongs to whoever owns the pedal: `/etc/ghostnote/keys` where Ghostnote was installed as a service, the
user's own configuration folder elsewhere. The engine that the package brings along is not looked up there: who can change it can change
the program that would check it.

Runs in: the main process, at commands, before a bundle enters the store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.config import Config
from engines.bundle import Bundle, BundleError
from engines.manifest import Manifest

SYSTEM_KEYS = Path("/etc/ghostnote/keys")


@dataclass(frozen=True)
class Admitted:
    """A bundle that may be used."""

    digest: str
    manifest: Manifest
    key_id: str | None  # of the key that signed it; None: nobody has


def keys_folder(config: Config) -> Path:
    """Where the keys are whose bundles are trusted."""
    if config.engine.keys:
        return Path(config.engine.keys).expanduser()
    if SYSTEM_KEYS.is_dir():
        return SYSTEM_KEYS
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ghostnote" / "keys"


def admit(path: Path | str, keys: Path, allow_unsigned: bool = False) -> Admitted:
    """Check who signed the bundle at `path` and every byte of it. Raises BundleError, one line, before anything of it is used.

    `keys` is a folder as `keys_folder` gives it. `allow_unsigned` is the consent of somebody who stands before the pedal.
    """
    bundle = Bundle.open(path)
    if not allow_unsigned:
        raise BundleError(f"{path}: nobody has signed it; sign it (ghostnote engine sign), or hold a switch and say --allow-unsigned")
    for entry in bundle.manifest.files:
        bundle.read(entry.path)
    return Admitted(bundle.digest, bundle.manifest, None)

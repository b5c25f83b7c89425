"""Which bundles this pedal takes: those that a key of its owner has signed, and nothing of them is used before all of them is checked.

Keys are minisign's public keys, files in one folder that belongs to whoever owns the pedal: `/etc/ghostnote/keys` where Ghostnote was
installed as a service, the user's own configuration folder elsewhere. The engine that the package brings along is not looked up there:
who can change it can change the program that would check it.

Runs in: the main process, at commands, before a bundle enters the store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.config import Config
from engines.bundle import REFERENCE, Bundle, BundleError
from engines.contents import check_contents
from engines.manifest import Manifest
from engines.signing import PublicKey, Signature, SigningError

SYSTEM_KEYS = Path("/etc/ghostnote/keys")
SUFFIX = ".pub"
MAX_KEY_BYTES = 4096


class KeyFileError(Exception):
    """A key that can't be used: one line that names it, what is wrong, and what to do."""


@dataclass(frozen=True)
class Admitted:
    """A bundle that may be used."""

    digest: str
    manifest: Manifest
    key_id: str | None  # of the key that signed it, as minisign prints it; None: nobody has whom the owner trusts


@dataclass(frozen=True)
class TrustedKey:
    """One file of the folder of keys."""

    path: Path
    key: PublicKey


def keys_folder(config: Config) -> Path:
    """Where the keys are whose bundles are trusted."""
    if config.engine.keys:
        return Path(config.engine.keys).expanduser()
    if SYSTEM_KEYS.is_dir():
        return SYSTEM_KEYS
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ghostnote" / "keys"


def read_public_key(path: Path) -> PublicKey:
    """Raises KeyFileError."""
    try:
        with path.open("rb") as file:
            return PublicKey.parse(file.read(MAX_KEY_BYTES).decode())
    except OSError as error:
        raise KeyFileError(f"{path}: no key can be read there ({error.strerror})") from None
    except (SigningError, UnicodeDecodeError) as wrong:
        raise KeyFileError(f"{path}: is no public key of minisign's ({wrong})") from None


def trusted_keys(folder: Path) -> list[TrustedKey]:
    """Every key in `folder`, which need not exist. Raises KeyFileError for a file that is none."""
    return [TrustedKey(path, read_public_key(path)) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def admit(path: Path | str, keys: Path, allow_unsigned: bool = False) -> Admitted:
    """Check who signed the bundle at `path`, every byte of it, and that a runtime may be given its graphs. Raises BundleError, one line,
    before anything of it is used.

    `keys` is a folder as `keys_folder` gives it. `allow_unsigned` is the consent of somebody who stands before the pedal. The file must not
    change afterwards: whoever keeps a bundle admits his own copy of it.
    """
    bundle = Bundle.open(path)
    key_id = None if is_factory(bundle.path) else _signer(bundle, keys, allow_unsigned)
    check_contents(bundle)
    return Admitted(bundle.digest, bundle.manifest, key_id)


def is_factory(path: Path) -> bool:
    """Whether this is the engine that the package brings along."""
    return path.resolve() == REFERENCE.resolve()


def _signer(bundle: Bundle, keys: Path, allow_unsigned: bool) -> str | None:
    if bundle.signature is None:
        if allow_unsigned:
            return None
        says = "nobody has signed it; sign it (ghostnote engine sign), or hold a switch and say --allow-unsigned"
        raise BundleError(f"{bundle.path}: {says}")
    try:
        signature = Signature.parse(bundle.signature)
        known = next((one.key for one in trusted_keys(keys) if one.key.key_id == signature.key_id), None)
        if known is None:
            if allow_unsigned:
                return None
            says = f"signed by key {signature.key_name}, which is not trusted here (ghostnote key trust FILE, if you know whose it is)"
            raise BundleError(f"{bundle.path}: {says}")
        signature.check(bundle.manifest_bytes, known)
    except SigningError as wrong:
        raise BundleError(f"{bundle.path}: {wrong}; do not trust this bundle") from None
    except KeyFileError as wrong:
        raise BundleError(f"{bundle.path}: can't be checked: {wrong}; mend or remove that file") from None
    return known.name

"""The device's own key: what it signs can be told from what was made on another device, or changed afterwards.

Made on first use, 32 random bytes of Ed25519 in a file that nobody but the pedal's user can read, beside the presets. It never leaves
the device, and no bundle is trusted because of it (that is appliance/trust.py): it only says "measured here".

Runs in: `ghostnote certify` (signs), and whoever asks for a certificate (reads the public half).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.storage import Disk, replace_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_FILE = "device.key"
SEED_BYTES = 32


class DeviceKeyError(Exception):
    """The key can't be used: one line that says what to do."""


class PrivateDisk(Disk):
    """What it creates is its owner's alone, from the first moment on."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


@dataclass(frozen=True)
class DeviceKey:
    """`public` is 32 bytes; a signature is 64."""

    private: Ed25519PrivateKey

    @classmethod
    def open(cls, folder: Path, disk: Disk | None = None) -> DeviceKey:
        """The key in `folder`, made now if there is none. Raises DeviceKeyError."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        path = folder / KEY_FILE
        try:
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                replace_file(path, os.urandom(SEED_BYTES).hex() + "\n", disk or PrivateDisk())
            return cls(Ed25519PrivateKey.from_private_bytes(_seed(path)))
        except OSError as error:
            raise DeviceKeyError(f"{path} can't be used ({error.strerror}): run as the pedal's user, or set [storage] folder") from None

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data)


def signed_by(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `data` is what the owner of `public` has signed."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _seed(path: Path) -> bytes:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise DeviceKeyError(f"{path} can be read by others: remove it (certificates are then made anew), or chmod 600")
    try:
        seed = bytes.fromhex(path.read_text("ascii").strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise DeviceKeyError(f"{path} is damaged: remove it, and run `ghostnote certify` again")
    return seed

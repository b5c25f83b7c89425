"""Signatures and keys in minisign's format, so that the stock tool checks what is signed here, and signs what is checked here.

    public key   untrusted comment, base64(algorithm 2, key id 8, Ed25519 key 32)
    secret key   untrusted comment, base64(algorithm 2, kdf 2, checksum 2, salt 32, opslimit 8, memlimit 8, key id 8, secret 64, check 32)
    signature    untrusted comment, base64(algorithm 2, key id 8, Ed25519 signature 64), trusted comment, base64(signature of both)

Algorithm `ED` signs the BLAKE2b-512 hash of a file, `Ed` the file itself; a key is always `Ed`. A secret key with a password is xored, from
the key id on, with what scrypt makes of the password. Runs in: any process; signing only where somebody signs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREHASHED, LEGACY, SCRYPT, NO_KDF, BLAKE2 = b"ED", b"Ed", b"Sc", b"\0\0", b"B2"
UNTRUSTED, TRUSTED = "untrusted comment: ", "trusted comment: "
MAX_COMMENT = 1024
OPSLIMIT, MEMLIMIT = 33_554_432, 1 << 30  # libsodium's SENSITIVE, as minisign takes: a second and a gigabyte for each guess
_SECRET = struct.Struct("<2s2s2s32sQQ104s")


class SigningError(Exception):
    """A key or signature that can't be used: what is wrong, and what to do."""


def key_name(key_id: bytes) -> str:
    """A key id as minisign prints it."""
    return f"{int.from_bytes(key_id, 'little'):016X}"


@dataclass(frozen=True)
class PublicKey:
    """Whose signatures may be trusted."""

    key_id: bytes
    key: bytes
    comment: str = ""

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Raises SigningError."""
        comment, raw = _two_lines(text, 42, "public key")
        if raw[:2] != LEGACY:
            raise SigningError("is no minisign public key (its algorithm is unknown)")
        return cls(raw[2:10], raw[10:], comment)

    @property
    def name(self) -> str:
        return key_name(self.key_id)

    def text(self) -> str:
        comment = self.comment or f"minisign public key {self.name}"
        return f"{UNTRUSTED}{comment}\n{_base64(LEGACY + self.key_id + self.key)}\n"


@dataclass(frozen=True)
class Signature:
    """A signature as it was parsed; whether it is right, `check` says."""

    algorithm: bytes
    key_id: bytes
    signature: bytes
    comment: str  # the trusted one
    of_comment: bytes

    @classmethod
    def parse(cls, data: bytes) -> Signature:
        """Raises SigningError."""
        lines = _lines(data, 4, "signature")
        if not (lines[0].startswith(UNTRUSTED) and lines[2].startswith(TRUSTED)):
            raise SigningError("its signature is not one of minisign's")
        raw, of_comment = _unbase64(lines[1], 74), _unbase64(lines[3], 64)
        if raw[:2] not in (PREHASHED, LEGACY):
            raise SigningError("its signature is of an unknown kind")
        return cls(raw[:2], raw[2:10], raw[10:], lines[2].removeprefix(TRUSTED), of_comment)

    @property
    def key_name(self) -> str:
        return key_name(self.key_id)

    def check(self, data: bytes, key: PublicKey) -> None:
        """Raises SigningError."""
        if key.key_id != self.key_id:
            raise SigningError(f"its signature is of key {self.key_name}, not of {key.name}")
        verifier = Ed25519PublicKey.from_public_bytes(key.key)
        signed = hashlib.blake2b(data).digest() if self.algorithm == PREHASHED else data
        try:
            verifier.verify(self.signature, signed)
            verifier.verify(self.of_comment, self.signature + self.comment.encode())
        except InvalidSignature:
            raise SigningError(f"its signature is not that of key {key.name}: it was changed, or signed by somebody else") from None


@dataclass(frozen=True)
class SecretKey:
    """What signs. Never stored in a bundle, a store or on a pedal."""

    key_id: bytes
    seed: bytes

    @classmethod
    def new(cls) -> SecretKey:
        return cls(os.urandom(8), os.urandom(32))

    @classmethod
    def parse(cls, text: str, password: str | None = None) -> SecretKey:
        """Raises SigningError; `password` is needed where `needs_password` says so."""
        _, raw = _two_lines(text, _SECRET.size, "secret key")
        algorithm, kdf, checksum, salt, opslimit, memlimit, held = _SECRET.unpack(raw)
        if algorithm != LEGACY or kdf not in (SCRYPT, NO_KDF) or checksum != BLAKE2:
            raise SigningError("is no minisign secret key (its algorithms are unknown)")
        if kdf == SCRYPT:
            if password is None:
                raise SigningError("has a password, which was not given")
            held = _xor(held, _scrypt(password, salt, opslimit, memlimit))
        key_id, secret, check = held[:8], held[8:72], held[72:]
        unchecked = kdf == NO_KDF and not any(check)  # as minisign writes keys without a password
        if not unchecked and _checksum(key_id, secret) != check:
            raise SigningError("does not open with this password" if kdf == SCRYPT else "is damaged")
        key = cls(key_id, secret[:32])
        if key.public.key != secret[32:]:
            raise SigningError("is damaged: its two halves do not belong together")
        return key

    @property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public(self) -> PublicKey:
        raw = self._private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return PublicKey(self.key_id, raw)

    def text(self, password: str | None, opslimit: int = OPSLIMIT, memlimit: int = MEMLIMIT) -> str:
        """The file of this key; without a password, whoever can read it can sign."""
        public = self.public
        secret = self.seed + public.key
        if password is None:
            raw = _SECRET.pack(LEGACY, NO_KDF, BLAKE2, bytes(32), 0, 0, self.key_id + secret + bytes(32))
            return f"{UNTRUSTED}minisign secret key {public.name}\n{_base64(raw)}\n"
        salt, held = os.urandom(32), self.key_id + secret + _checksum(self.key_id, secret)
        held = _xor(held, _scrypt(password, salt, opslimit, memlimit))
        raw = _SECRET.pack(LEGACY, SCRYPT, BLAKE2, salt, opslimit, memlimit, held)
        return f"{UNTRUSTED}minisign encrypted secret key\n{_base64(raw)}\n"

    def sign(self, data: bytes, comment: str) -> bytes:
        """A signature file. The same data and comment always give the same bytes."""
        assert comment.isprintable() and len(comment) <= MAX_COMMENT
        signature = self._private.sign(hashlib.blake2b(data).digest())
        of_comment = self._private.sign(signature + comment.encode())
        said = f"{UNTRUSTED}signature from minisign secret key {self.public.name}"
        return f"{said}\n{_base64(PREHASHED + self.key_id + signature)}\n{TRUSTED}{comment}\n{_base64(of_comment)}\n".encode()


def needs_password(text: str) -> bool:
    """Whether the secret key of this text is locked. Raises SigningError."""
    return _two_lines(text, _SECRET.size, "secret key")[1][2:4] == SCRYPT


def _lines(data: bytes, count: int, what: str) -> list[str]:
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        lines = []
    if len(lines) != count + 1 or lines[-1] or not all(map(_is_line, lines)):
        raise SigningError(f"its {what} is not one of minisign's (it has {count} lines of text)")
    return lines


def _is_line(text: str) -> bool:
    """minisign's own comments have tabs in them."""
    return text.replace("\t", "").isprintable() and len(text) <= MAX_COMMENT


def _two_lines(text: str, size: int, what: str) -> tuple[str, bytes]:
    """Comment and content; a key may have been pasted without its last newline, or with Windows' line ends."""
    lines = _lines(text.strip().replace("\r\n", "\n").encode() + b"\n", 2, what)
    if not lines[0].startswith(UNTRUSTED):
        raise SigningError(f"is no minisign {what}: it does not begin with {UNTRUSTED!r}")
    return lines[0].removeprefix(UNTRUSTED), _unbase64(lines[1], size)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str, size: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != size or _base64(data) != text:  # other letters may stand for the same bytes: only one spelling is taken
        raise SigningError("its key or signature is damaged")
    return data


def _checksum(key_id: bytes, secret: bytes) -> bytes:
    return hashlib.blake2b(LEGACY + key_id + secret, digest_size=32).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _scrypt(password: str, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    """104 bytes, by libsodium's crypto_pwhash_scryptsalsa208sha256."""
    if memlimit > MEMLIMIT or opslimit > 4 * OPSLIMIT:
        raise SigningError("asks for more memory or time than minisign ever does")
    n, r, p = _scrypt_costs(max(opslimit, 32_768), memlimit)
    try:
        return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=(1 << 31) - 1, dklen=104)
    except (ValueError, MemoryError) as error:
        raise SigningError(f"needs {memlimit >> 20} MB of memory to be opened ({error})") from None


def _scrypt_costs(opslimit: int, memlimit: int) -> tuple[int, int, int]:
    """N, r and p from libsodium's two limits, as it picks them."""
    r = 8
    by_memory = opslimit >= memlimit // 32
    most = memlimit // (r * 128) if by_memory else opslimit // (r * 4)
    log = next((log for log in range(1, 63) if 1 << log > most // 2), 63)
    p = min((opslimit // 4) // (1 << log), 0x3FFFFFFF) // r if by_memory else 1
    return 1 << log, r, max(p, 1)

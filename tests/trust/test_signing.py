"""minisign's formats against the stock tool, both ways, and everything that is no signature refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.signing import MEMLIMIT, PublicKey, SecretKey, Signature, SigningError, needs_password

needs_minisign = pytest.mark.skipif(not shutil.which("minisign"), reason="minisign is not installed (apt: minisign)")
QUICK = (32_768, 1 << 20)  # so little work for scrypt that tests need not wait; any reader takes the limits from the file
KEY = SecretKey(bytes(range(8)), bytes(range(32)))
DATA = b"a manifest\n"


def minisign(*arguments: str | Path, password: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["minisign", *map(str, arguments)], input=password, capture_output=True, text=True, timeout=120)


def available_memory() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


@needs_minisign
@pytest.mark.parametrize("prehashed", [True, False])
def test_what_minisign_signs_is_verified_here(tmp_path: Path, prehashed: bool) -> None:
    made = minisign("-G", "-W", "-p", tmp_path / "k.pub", "-s", tmp_path / "k.key")
    assert made.returncode == 0, made.stderr
    (tmp_path / "m").write_bytes(DATA)
    signed = minisign("-S", *([] if prehashed else ["-l"]), "-s", tmp_path / "k.key", "-m", tmp_path / "m", "-t", "for you, née ü")
    assert signed.returncode == 0, signed.stderr
    signature = Signature.parse((tmp_path / "m.minisig").read_bytes())
    public = PublicKey.parse((tmp_path / "k.pub").read_text())
    assert signature.key_id == public.key_id and signature.comment == "for you, née ü"
    assert signature.algorithm == (b"ED" if prehashed else b"Ed")
    signature.check(DATA, public)
    for wrong in (DATA + b" ", b""):
        with pytest.raises(SigningError, match="changed, or signed by somebody else"):
            signature.check(wrong, public)
    key = SecretKey.parse((tmp_path / "k.key").read_text())
    assert key.public.key == public.key and f"{int(public.name, 16):X}" in (tmp_path / "k.pub").read_text()  # without zeros in front


@needs_minisign
@pytest.mark.parametrize("password", [None, "", "one for the road"])
def test_minisign_takes_our_keys_and_signatures(tmp_path: Path, password: str | None) -> None:
    (tmp_path / "m").write_bytes(DATA)
    (tmp_path / "k.pub").write_text(KEY.public.text())
    (tmp_path / "k.key").write_text(KEY.text(password, *QUICK))
    (tmp_path / "m.minisig").write_bytes(KEY.sign(DATA, "by us"))
    checked = minisign("-V", "-p", tmp_path / "k.pub", "-m", tmp_path / "m")
    assert checked.returncode == 0 and "Trusted comment: by us" in checked.stdout, checked.stderr
    signed = minisign("-S", "-s", tmp_path / "k.key", "-m", tmp_path / "m", "-x", tmp_path / "theirs", password=f"{password or ''}\n")
    assert signed.returncode == 0, signed.stderr
    Signature.parse((tmp_path / "theirs").read_bytes()).check(DATA, KEY.public)
    (tmp_path / "m").write_bytes(DATA + b"\n")
    assert minisign("-V", "-p", tmp_path / "k.pub", "-m", tmp_path / "m").returncode != 0


@needs_minisign
@pytest.mark.slow
def test_a_key_that_minisign_locked_opens_here(tmp_path: Path) -> None:
    """With the limits that the stock tool takes: a gigabyte of memory."""
    if available_memory() < MEMLIMIT * 3 // 2:
        pytest.skip("less than 1.5 GB of memory is free")
    made = minisign("-G", "-p", tmp_path / "k.pub", "-s", tmp_path / "k.key", password="secret\nsecret\n")
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "k.key").read_text()
    assert needs_password(text)
    assert SecretKey.parse(text, "secret").public.key == PublicKey.parse((tmp_path / "k.pub").read_text()).key


def test_locked_keys_open_with_their_password_only() -> None:
    text = KEY.text("right", *QUICK)
    assert SecretKey.parse(text, "right") == KEY and needs_password(text)
    assert SecretKey.parse(KEY.text(None)) == KEY and not needs_password(KEY.text(None))
    with pytest.raises(SigningError, match="does not open with this password"):
        SecretKey.parse(text, "wrong")
    with pytest.raises(SigningError, match="has a password"):
        SecretKey.parse(text)
    with pytest.raises(SigningError, match="more memory or time"):
        SecretKey.parse(_with_memlimit(text, 1 << 40), "right")


def _with_memlimit(text: str, memlimit: int) -> str:
    import base64

    first, second, _ = text.split("\n")
    raw = base64.b64decode(second)
    return f"{first}\n{base64.b64encode(raw[:46] + memlimit.to_bytes(8, 'little') + raw[54:]).decode()}\n"


def test_signing_twice_gives_the_same_bytes() -> None:
    assert KEY.sign(DATA, "x") == KEY.sign(DATA, "x") != KEY.sign(DATA, "y")


def test_every_signed_bit_counts() -> None:
    """Of the untrusted comment none does; of the rest, any flipped bit is refused."""
    good = KEY.sign(DATA, "by us")
    begin = good.index(b"\n") + 1
    for at in range(begin, len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            with pytest.raises(SigningError):
                Signature.parse(bytes(bad)).check(DATA, KEY.public)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_noise_is_no_key_and_no_signature(data: bytes) -> None:
    for parse in (Signature.parse, lambda raw: PublicKey.parse(raw.decode("latin1")), lambda raw: SecretKey.parse(raw.decode("latin1"))):
        with pytest.raises(SigningError):
            parse(data)

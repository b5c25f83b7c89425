"""Engines of a few hundred bytes, which open and verify and can't play: for everything that has to do with engines as files."""

from __future__ import annotations

from pathlib import Path

from appliance.objects import Origin
from appliance.store import Store
from engines.bundle import Bundle, write_bundle
from engines.engine import EngineSpec
from engines.manifest import head

KEY = "0123456789ABCDEF"
SIGNED = Origin("shell", KEY, True, "2026-01-01T00:00:00+00:00")
UNSIGNED = Origin("inbox", None, False, "2026-01-01T00:00:00+00:00")


def tiny(path: Path, name: str = "tiny", number: int = 1, size: int = 100) -> Path:
    """A bundle at `path`: what is in it follows from name, number and size."""
    spec = EngineSpec(name, 44_100, 16_384, 0, ("nothing",), 1, 1)
    facts = head("blank", spec, number=number, release=str(number))
    write_bundle(path, facts, {"golden.json": b'{"x": "' + bytes(65 + (number + at) % 26 for at in range(size)) + b'"}'})
    return path


def digest_of(path: Path) -> str:
    return Bundle.open(path).digest


def flash(store: Store, path: Path, origin: Origin = SIGNED) -> str:
    """As `ghostnote engine flash` does, but for who has signed it."""
    with path.open("rb") as source, store.receive(source, path.stat().st_size) as copy:
        bundle = Bundle.open(copy)
        bundle.verify()
        store.add(copy, bundle.digest, origin)
    return bundle.digest

"""The engines on the pedal, as its store has them, each with its certificate. Read only: what changes is asked of the pedal.

Runs in: `ghostnote web`, on a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.certificate import CertificateError, read
from engines.bundle import REFERENCE, Bundle, BundleError

DIGEST = re.compile(r"[0-9a-f]{64}")
LINKS = ("current", "previous")


class Engines:
    """Those of one store: the `engines` folder of [storage] folder. The factory's engine is the package's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[Path, int], dict[str, Any]] = {}  # by path and age: a bundle in the store never changes

    def all(self) -> list[dict[str, Any]]:
        """What plays first, then what played before, then by name."""
        engines = [self._engine(path) for path in self._paths()]
        order = {"current": 0, "previous": 1}
        return sorted(engines, key=lambda one: (min((order.get(slot, 2) for slot in one["slots"]), default=2), one["name"], -one["number"]))

    def picture(self, digest: str) -> Path | None:
        """Of its certificate."""
        path = self.folder / "certificates" / f"{digest}.png"
        return path if DIGEST.fullmatch(digest) and path.is_file() else None

    def _paths(self) -> Iterator[Path]:
        yield REFERENCE
        yield from self.folder.glob("objects/*/engine.ghost")

    def _engine(self, path: Path) -> dict[str, Any]:
        facts = self._facts(path)
        return {**facts, "slots": self._slots(path, facts["digest"]), "certificate": self._certificate(facts["digest"])}

    def _facts(self, path: Path) -> dict[str, Any]:
        key = path, path.stat().st_mtime_ns
        if key not in self._known:
            try:
                bundle = Bundle.open(path)
                facts = {"digest": bundle.digest, "name": bundle.manifest.name, "number": bundle.manifest.number}
            except BundleError as error:
                facts = {"digest": path.parent.name, "name": str(error), "number": 0}
            self._known[key] = facts
        return self._known[key]

    def _slots(self, path: Path, digest: str) -> list[str]:
        links = [name for name in LINKS if self._linked(name) == digest]
        return [*links, "factory"] if path == REFERENCE else links

    def _linked(self, name: str) -> str:
        link = self.folder / name
        return link.readlink().name if link.is_symlink() else ""

    def _certificate(self, digest: str) -> dict[str, Any]:
        path = self.folder / "certificates" / f"{digest}.json"
        if not path.exists():
            return {"line": "no certificate on this device", "picture": False}
        try:
            certificate = read(path)
        except CertificateError as error:
            return {"line": str(error), "picture": False}
        work, slack = certificate.measured.block_work, certificate.measured.block_slack
        spread = f"99 % of the blocks took at most {work['p99'] / 1000:.0f} ms, the least slack was {slack['worst'] / 1000:.0f} ms"
        why = f" ({'; '.join(certificate.reasons)})" if certificate.reasons else ""
        return {"line": f"{certificate.verdict}{why}: {spread}, {certificate.made[:10]}", "picture": self.picture(digest) is not None}

"""The engines on the pedal, as its store has them, each with its certificate. Read only: what changes is asked of the pedal.

Runs in: `ghostnote web`, on a thread.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from appliance.certificate import CertificateError, read
from appliance.store import CURRENT, FACTORY, PREVIOUS, Held, Store
from engines.bundle import Bundle

DIGEST = re.compile(r"[0-9a-f]{64}")
AGREE = "before it plays, somebody at the pedal must hold a footswitch"


class Engines:
    """Those of one store: the `engines` folder of [storage] folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder)

    def all(self) -> list[dict[str, Any]]:
        """What plays first, then what played before, then by name."""
        order = {CURRENT: 0, PREVIOUS: 1}
        found = [self._factory(), *map(self._held, self.store.engines())]
        return sorted(found, key=lambda one: (min((order.get(slot, 2) for slot in one["slots"]), default=2), one["name"], -one["number"]))

    def arrived(self, digest: str) -> str | None:
        """A line on an engine that the store has taken; None where it has not."""
        found = [held for held in self.store.engines() if held.digest == digest]
        return f"{found[0]} is on the pedal" + ("" if found[0].origin.consent else f"; {AGREE}") if found else None

    def picture(self, digest: str) -> Path | None:
        """Of its certificate."""
        path = self.folder / "certificates" / f"{digest}.png"
        return path if DIGEST.fullmatch(digest) and path.is_file() else None

    def _held(self, held: Held) -> dict[str, Any]:
        notes = [f"taken back: {held.failed}"] if held.failed else []
        notes += [] if held.origin.consent else [AGREE]
        return self._described(held.digest, held.manifest, list(held.slots), held.origin.key, notes)

    def _factory(self) -> dict[str, Any]:
        bundle = Bundle.open(self.store.factory)
        slots = [FACTORY] if self.store.link(CURRENT) else [CURRENT, FACTORY]
        return self._described(bundle.digest, bundle.manifest, slots, None, [])

    def _described(self, digest: str, manifest: Any, slots: list[str], key: str | None, notes: list[str]) -> dict[str, Any]:
        return {
            "digest": digest,
            "name": manifest.name,
            "number": manifest.number,
            "slots": slots,
            "key": key,
            "notes": notes,
            "certificate": self._certificate(digest),
            "picture": self.picture(digest) is not None,
        }

    def _certificate(self, digest: str) -> str:
        path = self.folder / "certificates" / f"{digest}.json"
        if not path.exists():
            return "no certificate on this device"
        try:
            certificate = read(path)
        except CertificateError as error:
            return str(error)
        work, slack = certificate.measured.block_work, certificate.measured.block_slack
        spread = f"99 % of the blocks took at most {work['p99'] / 1000:.0f} ms, the least slack was {slack['worst'] / 1000:.0f} ms"
        why = f" ({'; '.join(certificate.reasons)})" if certificate.reasons else ""
        return f"{certificate.verdict}{why}: {spread}, {certificate.made[:10]}"

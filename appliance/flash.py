"""From a file, or a stream, into the store: copied to this disk, made durable, read back, and only then checked and given a name.

What is checked is the copy: nobody can change it between the check and its use. Reading it back from the disk is the same as checking it.

Runs in: `ghostnote engine flash`, the inbox's process.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from appliance.objects import Origin, Share
from appliance.store import Held, Store
from appliance.trust import admit
from engines.bundle import BundleError


def taken_in(
    store: Store,
    source: BinaryIO,
    keys: Path,
    *,
    origin: Origin,
    called: str,
    allow_unsigned: bool = False,
    size: int = 0,
    share: Share = lambda done: None,
) -> tuple[Held, bool]:
    """The engine, and whether it is new here. `called` is what the operator knows it as. Raises BundleError, StoreError, and nothing has
    changed."""
    with store.receive(source, size, share) as copy:
        try:
            admitted = admit(copy, keys, allow_unsigned)
        except BundleError as error:
            raise BundleError(str(error).replace(str(copy), called)) from None
        new = store.add(copy, admitted.digest, replace(origin, key=admitted.key_id))
    return store.held(admitted.digest), new

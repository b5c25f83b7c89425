"""Two pairs of keys that never change: the pedal's owner trusts the first. Not secret, and trusted nowhere else."""

from __future__ import annotations

from engines.signing import SecretKey

KEY = SecretKey(b"ghostkey", bytes(range(32)))
STRANGER = SecretKey(b"stranger", bytes(range(1, 33)))

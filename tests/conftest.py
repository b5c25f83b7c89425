"""What every test may count on: repeatable property tests, and threads that do not spin while they wait."""

from __future__ import annotations

import os

for name, value in {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "MPLBACKEND": "Agg"}.items():
    os.environ.setdefault(name, value)

from hypothesis import settings  # noqa: E402

settings.register_profile("ghostnote", derandomize=True, deadline=None, database=None)
settings.load_profile("ghostnote")

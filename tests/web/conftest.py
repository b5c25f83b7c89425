"""The page needs packages that a pedal without one does not have."""

from __future__ import annotations

import pytest

for module, package in (("starlette", "starlette"), ("uvicorn", "uvicorn")):
    pytest.importorskip(module, reason=f"{package} is not installed (pip install 'ghostnote[web]')")

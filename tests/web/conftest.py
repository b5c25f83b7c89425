"""The page needs packages that a pedal without one does not have."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True, scope="session")
def packages() -> None:
    for name in ("starlette", "uvicorn"):
        if not find_spec(name):
            pytest.skip(f"{name} is not installed (pip install 'ghostnote[web]')")

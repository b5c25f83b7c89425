"""Bundles to compile: a tiny one with random weights, and the engine that is shipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from engines.bundle import REFERENCE, Bundle
from engines.export.blank import write_blank
from engines.export.precision import Style, rewrite
from engines.tensorrt.sidecar import HALF_FOLDER

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed (make test installs it where PyPI offers it)")


@pytest.fixture(scope="session", name="tiny")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_blank("tiny", tmp_path_factory.mktemp("tiny") / "tiny.ghost")


@pytest.fixture(scope="session", name="reference")
def _reference(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped engine; its float16 graphs are added if it was packed before there were any."""
    bundle = Bundle.open(REFERENCE)
    if any(entry.path.startswith(HALF_FOLDER) for entry in bundle.manifest.files):
        return bundle
    return rewrite(bundle, Style.HALF, Path(tmp_path_factory.mktemp("reference"), "reference.ghost"))

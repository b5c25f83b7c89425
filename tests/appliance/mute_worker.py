"""A worker whose engine answers what is no audio. Runs in: the worker process, in its place; see tests/appliance/test_takeover.py."""

from __future__ import annotations

import sys

import numpy as np

from appliance import worker
from engines.echo import EchoEngine
from engines.engine import Audio, EngineControls, Stamp, no_stamp


def generate(self: EchoEngine, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
    return np.full(len(block), np.nan, np.float32)


if __name__ == "__main__":
    EchoEngine.generate = generate  # type: ignore[method-assign]
    sys.exit(worker.main(sys.argv[1:]))

"""How much memory a process needs that plays an engine: measured once, when it is packed, and written into its manifest.

    python -m engines.export.footprint BUNDLE      the most that this process ever had resident, in bytes

A device with little memory asks the manifest before it loads an engine beside the one that plays. Runs in: export, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from engines.bundle import open_engine
from engines.engine import EngineControls

GRAIN_BYTES = 16 << 20  # rounded up to so much: what is measured differs a little from run to run
BLOCKS = 4


def measure(bundle: Path) -> int:
    """Bytes, rounded up."""
    command = [sys.executable, "-m", "engines.export.footprint", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return -(-int(done.stdout.split()[-1]) // GRAIN_BYTES) * GRAIN_BYTES


def main() -> None:
    engine = open_engine(sys.argv[1])
    block = np.random.default_rng(0).normal(0, 0.1, engine.spec.block_frames).astype(np.float32)
    for _ in range(BLOCKS):
        engine.generate(block, EngineControls())
        engine.prefill(block)
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main()

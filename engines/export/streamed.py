"""Does float16 hold in a stream? One engine in float32 and with a GPU's float16 roundings, the same guitar, block after block.

    python -m engines.export.streamed BUNDLE --audio appliance/samples/guit_em9.flac --blocks 100

Two questions, each block. *Same state*: both start from the float32 engine's state; how far apart are the samples? *Own state*: each goes
on from what it made itself; how far apart are the latents, which is what feeds back, and the spectra? Samples of the two streams are not
compared there: the decoder integrates its phase, and where a phase goes over a minute depends on the last bit in any precision.
Differences are root mean square over root mean square. Exit code 1 beyond the tolerance.

Runs in: export, tests. Needs onnx, not torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

from engines.bundle import Bundle
from engines.engine import Audio, EngineControls
from engines.export.precision import Style, rewrite
from engines.lmdm.stream import StreamingEngine

TOLERANCE = 2e-2
QUIET = 1e-3  # a block below this level counts as if it had it
WINDOW_FRAMES = 2048


@dataclass(frozen=True)
class BlockDifference:
    """float16 against float32 in one block, each relative."""

    samples: float  # from the same state
    latents: float  # from its own
    spectra: float


def compare(bundle: Bundle, guitar: Audio, blocks: int, folder: Path) -> Iterator[BlockDifference]:
    """Play `blocks` blocks of `guitar`, over and over; `folder` holds the rounding bundle meanwhile."""
    wide = StreamingEngine.open(bundle)
    narrow, probe = (StreamingEngine.open(rewrite(bundle, Style.ROUNDED, folder / "rounded.ghost")) for _ in range(2))
    frames = wide.spec.block_frames
    endless = np.resize(guitar, blocks * frames).astype(np.float32)
    for index in range(blocks):
        block, controls = endless[index * frames :][:frames], EngineControls()
        probe.restore(wide.save())
        expected, same, own = (engine.generate(block, controls) for engine in (wide, probe, narrow))
        assert wide.state.pending is not None and narrow.state.pending is not None
        yield BlockDifference(
            _relative(expected, same, QUIET),
            _relative(wide.state.pending, narrow.state.pending, QUIET),
            _relative(_spectra(expected), _spectra(own), QUIET * WINDOW_FRAMES**0.5),
        )


def _spectra(audio: Audio) -> Audio:
    """(N,) samples -> magnitudes of windows that do not overlap."""
    windows = audio[: len(audio) // WINDOW_FRAMES * WINDOW_FRAMES].reshape(-1, WINDOW_FRAMES) * np.hanning(WINDOW_FRAMES)
    magnitudes: Audio = np.abs(np.fft.rfft(windows)).astype(np.float32)
    return magnitudes


def _relative(expected: Audio, found: Audio, least: float) -> float:
    return float(np.sqrt(np.mean((expected - found) ** 2)) / max(least, float(np.sqrt(np.mean(expected**2)))))


def main() -> int:
    parser = argparse.ArgumentParser(description="float16 against float32 over streamed blocks, on a CPU.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=100)
    args = parser.parse_args()
    guitar, _ = soundfile.read(args.audio, dtype="float32", always_2d=True)
    with tempfile.TemporaryDirectory() as folder:
        blocks = compare(Bundle.open(args.bundle), guitar.mean(1), args.blocks, Path(folder))
        found = list(track(blocks, "blocks", total=args.blocks, console=Console(stderr=True)))
    for name in ("samples", "latents", "spectra"):
        values = [getattr(one, name) for one in found]
        print(f"{name}: worst {max(values):.1e}, median {np.median(values):.1e} of {len(values)} blocks")
    return 0 if max(max(one.samples, one.latents) for one in found) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

"""The engine of last resort: its answer is what it heard. Needs no weights; tests and a first wiring check use it.

Runs in: the worker process.
"""

from __future__ import annotations

from engines.engine import Audio, EngineControls, EngineSpec, EngineState, Stamp, no_stamp


class EchoEngine:
    """Gives every block back unchanged, at the delay that the appliance asks for."""

    runs_on = backend = ""

    def __init__(self, sample_rate: int = 44_100, block_frames: int = 16_384) -> None:
        self.spec = EngineSpec("echo", sample_rate, block_frames, 0, ("echo",), 0, 0)

    def reset(self, seed: int) -> None:
        pass

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        stamp("encoded")
        stamp("decoded")
        return block.copy()

    def prefill(self, block: Audio) -> None:
        pass

    def save(self) -> EngineState:
        return EngineState({}, {})

    def restore(self, state: EngineState) -> None:
        pass

"""A recording through the pedal without waiting for anyone: the audio loop and the worker take turns in one process.

The same code as on stage, with a clock that follows the position: no block is ever late, and the same seed gives the same bits.

Runs in: a process of its own, with the runtime that its engine needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from appliance.audio import AudioLoop
from appliance.config import Config
from appliance.controls import Control, Controls
from appliance.fit import Fit
from appliance.player import Player
from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters
from appliance.worker import Worker
from engines.bundle import open_engine
from hw.audio import Frames, PortError
from hw.file_audio import FileOptions, FilePort

TAIL_SECONDS = 0.5  # kept beyond the last answer
SUBTYPES = {".wav": "PCM_24", ".flac": "PCM_24", ".ogg": "VORBIS"}


@dataclass(frozen=True)
class Rendered:
    """Dry, wet bus and output over the same frames, the tail included."""

    dry: Frames
    wet: Frames
    out: Frames
    prompt: str
    delay_frames: int
    memory: SharedMemory


def channels_of(path: Path) -> int:
    """Channels of a recording, 1 or 2. What can't be read is left to `load_audio` to refuse."""
    try:
        return 2 if soundfile.info(path).channels == 2 else 1
    except (soundfile.SoundFileError, OSError, TypeError):
        return 1


def render(config: Config, guitar: Frames, on_progress: Callable[[float], None] = lambda share: None) -> Rendered:
    """`guitar` (frames, channels) through the engine and the mixer of `config`."""
    engine = open_engine(config.engine.bundle, config.engine.threads)
    fit = Fit.of(config, engine.spec)
    layout = fit.layout
    memory = SharedMemory.create(layout)
    controls, counters = Controls(memory.controls), Counters(memory.counters)
    player = Player(controls, fit)
    player.start(config)
    controls.set(Control.RUNNING, 1)
    delay_frames = int(controls.get(Control.DELAY_FRAMES))
    options = FileOptions(paced=False, tail_seconds=delay_frames / layout.sample_rate + TAIL_SECONDS)
    port = FilePort(guitar, config.audio.format(), options)

    def clock() -> int:
        return counters.get(Counter.POSITION) * 1_000_000_000 // layout.sample_rate

    loop = AudioLoop(port, memory, wet=fit.wet, clock=clock)
    worker = Worker(engine, memory, config.engine.seed, clock)
    tracks = _take_turns(loop, worker, len(guitar) + round(options.tail_seconds * layout.sample_rate), on_progress)
    memory.close()
    return Rendered(*tracks, player.prompt, delay_frames, memory)


def _take_turns(loop: AudioLoop, worker: Worker, frames: int, on_progress: Callable[[float], None]) -> tuple[Frames, Frames, Frames]:
    padded = frames + loop.period_frames  # the last period may reach beyond the end
    dry, out = np.zeros((padded, loop.dry.shape[1]), np.float32), np.zeros((padded, loop.out.shape[1]), np.float32)
    wet = np.zeros(padded, np.float32)
    begin = loop.position
    while loop.turn():
        end = loop.position
        dry[begin:end], wet[begin:end], out[begin:end] = loop.dry, loop.mixer.bus.out, loop.out
        while (start := worker.pending()) is not None:
            worker.turn(start)
            on_progress(end / frames)
        begin = end
    return dry[:frames], wet[:frames], out[:frames]


def check_target(path: Path) -> str:
    """The subtype to write at `path`. Raises PortError if it can't be written as named."""
    if path.suffix.lower() not in SUBTYPES:
        raise PortError(f"{path}: name a file that ends in {', '.join(SUBTYPES)}")
    if not path.parent.is_dir():
        raise PortError(f"{path}: its folder does not exist; create it first")
    return SUBTYPES[path.suffix.lower()]


def write_audio(path: Path, samples: Frames, rate_hz: int, subtype: str = "") -> None:
    """Raises PortError."""
    try:
        soundfile.write(path, samples, rate_hz, subtype or check_target(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise PortError(f"{path} can't be written ({error}); name a file in a folder that is yours") from None

"""`ghostnote demo`: a real guitar recording through the real pedal, in real time, and everything that it leaves behind.

Writes dry.wav, wet.wav (what the engine adds, as heard), out.wav (what the amp gets), report.json and report.png.

Runs in: the main process.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from appliance.config import Config, ConfigError
from appliance.fit import Fit
from appliance.main import RunOptions, Supervisor
from appliance.picture import PictureError, draw
from appliance.recorder import TRACKS, recorded
from appliance.render import TAIL_SECONDS, write_audio
from appliance.report import Report, ledger_rows, summary
from appliance.stats import Counter
from engines.bundle import read_spec
from hw.audio import Frames
from hw.file_audio import FileOptions, file_address, load_audio

SAMPLES = Path(__file__).parent / "samples"
CLIPS = ("guit_em9", "guit_harmonics", "guit_e_slide", "guit_e_fifths")
GAP_SECONDS = 0.3
PERIODS = 16  # a queue of 46 ms: nobody plays along, and a desktop has other things to do


@dataclass(frozen=True)
class DemoJob:
    """What the command line says."""

    input: Path | None  # None: the shipped clips
    seconds: float | None  # None: all of it
    prompt: str
    out: Path
    engine: str
    mix: float = 0.5


def shipped_guitar(rate_hz: int) -> Frames:
    """The shipped clips, one after the other."""
    gap = np.zeros((round(GAP_SECONDS * rate_hz), 1), np.float32)
    parts = [part for clip in CLIPS for part in (load_audio(SAMPLES / f"{clip}.flac", rate_hz, 1), gap)]
    return np.concatenate(parts[:-1])


def prepare(job: DemoJob) -> tuple[Config, Frames]:
    """The configuration, but for the port, and the guitar. Raises what an operator must know."""
    spec = read_spec(job.engine)
    defaults = Config()
    config = replace(
        defaults,
        audio=replace(defaults.audio, rate_hz=spec.sample_rate, periods=PERIODS, sample_format="FLOAT"),
        engine=replace(defaults.engine, bundle=job.engine, prompt=job.prompt),
        controls=replace(defaults.controls, mix=job.mix),
    )
    guitar = load_audio(job.input, spec.sample_rate, 1) if job.input else shipped_guitar(spec.sample_rate)
    if job.seconds is not None:
        guitar = guitar[: max(spec.block_frames, round(job.seconds * spec.sample_rate))]
    return config, guitar


def demo(job: DemoJob, console: Console) -> Report:
    """Play it, write everything into `job.out`, and say where."""
    config, guitar = prepare(job)
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{job.out}: no folder can be made there ({error.strerror}); name another with --out") from None
    with tempfile.TemporaryDirectory(prefix="ghostnote-") as folder:
        report, pedal, tracks = _play(config, guitar, Path(folder), console)
    for track in TRACKS:
        write_audio(job.out / f"{track}.wav", tracks[track], report.sample_rate, "PCM_16")
    report.write(job.out / "report.json")
    console.print(summary(report, f"Demo, {report.seconds:.1f} s"))
    try:
        draw(job.out / "report.png", report, tracks["dry"], tracks["wet"], ledger_rows(pedal.memory))
    except PictureError as why:
        console.print(f"  {why}", style="yellow", markup=False)
    console.print(f"  listen to {job.out / 'wet.wav'} and {job.out / 'out.wav'}", highlight=False, markup=False, soft_wrap=True)
    return report


def _play(config: Config, guitar: Frames, folder: Path, console: Console) -> tuple[Report, Supervisor, dict[str, Frames]]:
    """Real processes, paced in real time, the engine ready before the first frame."""
    rate = config.audio.rate_hz
    write_audio(folder / "guitar.wav", guitar, rate, "FLOAT")
    fit = Fit.of(config, read_spec(config.engine.bundle))
    tail = fit.delay_frames(config.controls.delay_ms) / rate + TAIL_SECONDS
    frames = len(guitar) + round(tail * rate)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task("loading the engine", total=None, state="")

        def show(pedal: Supervisor) -> None:
            late = pedal.counters.get(Counter.LATE_BLOCKS)
            progress.update(task, completed=pedal.seconds, state=f"{late} late")

        config = replace(config, audio=replace(config.audio, port=file_address(folder / "guitar.wav", FileOptions(tail_seconds=tail))))
        options = RunOptions(wait_for_engine=True, record=folder, record_frames=frames + config.audio.period_frames, on_tick=show)
        pedal = Supervisor(config, options)
        progress.update(task, total=frames / rate, description=f"“{pedal.player.prompt}”")
        report = pedal.run()
    played = min(frames, pedal.counters.get(Counter.POSITION))
    return report, pedal, {track: np.array(recorded(folder, track, played)) for track in TRACKS}

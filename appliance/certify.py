"""The soak behind a deadline certificate: the real pedal, once more, with rings, audio process and worker of its own, at real pacing.

    compile if needed -> golden vectors -> N minutes of guitar and of control changes under a stated disturbance -> verdict -> signature

The guitar is the shipped recording, in a loop, from a paced `file:` port, or what the sound card hears. Priority, niceness, cores,
period and budget are the configuration's; the delay is the shortest, and no steps are shed: what is measured is the engine, not the
governor's help.
While the pedal plays, the soak runs too, with less priority than the pedal; its figures are then worse than the truth, never better.

Runs in: the main process of `ghostnote certify`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from appliance.certificate import FAIL, PASS, Certificate, Disturbance
from appliance.conditions import conditions_now
from appliance.config import Config, ControlsConfig
from appliance.demo import shipped_guitar
from appliance.disturbance import disturbed
from appliance.fit import Fit
from appliance.gpu_check import Line, Trial, ask_driver, compile_plans, prove
from appliance.main import RunOptions, Supervisor
from appliance.render import write_audio
from appliance.report import Report
from appliance.shared import LEDGER
from appliance.soaked import MARGIN, Findings, least_slack_ms, measured, reasons
from appliance.stats import Ledger, Rows
from appliance.status import StatusError, fetch
from appliance.vitals import MachineVitals, Vitals
from engines.backends import AUTO, RUNTIMES
from engines.bundle import ECHO, locate, read_manifest, read_spec
from engines.engine import EngineSpec
from hw.file_audio import FileOptions, file_address

CHANGE_SECONDS = 4.0  # between two things that the player does
LOOK_SECONDS = 1.0  # between two looks at ledger and sensors
DECIDED_NS = 1_000_000_000  # so long after it was due, a block that is not there counts as never answered
BESIDE_NICER = 5  # so much nicer than the playing pedal's engine is that of a soak
FLIGHT_MINUTES = 1.0  # recorded as ever, as much for each block, in less memory
MEMORY = Path("/dev/shm")  # as a runtime folder is
PROOF_BLOCKS, PROOF_SECONDS = 40, 5.0


@dataclass(frozen=True)
class SoakJob:
    """What is to be certified, and how thoroughly."""

    config: Config  # of the pedal: an engine is certified for how it will be played
    address: str
    minutes: float
    disturbance: Disturbance
    on_card: bool = False  # the sound card instead of a recording
    folder: Path = Path(".")  # where the disturbance writes: the pedal's own disk


@dataclass
class Course:
    """What is noted while a soak runs."""

    rows: list[Rows] = field(default_factory=list)
    machine: list[tuple[float, MachineVitals]] = field(default_factory=list)  # seconds of music, sensors

    def all_rows(self) -> Rows:
        return np.concatenate([np.empty(0, LEDGER), *self.rows])


Show = Callable[[float, Rows], None]  # seconds of music, and the rows that have just been decided


class Soak:
    """`follow` at every tick of the supervisor."""

    def __init__(self, seconds: float, show: Show, vitals: Vitals | None = None) -> None:
        self.seconds, self.show, self.vitals = seconds, show, vitals or Vitals()
        self.course, self.enough = Course(), False
        self._next_start, self._looked_at = 0, 0.0

    def follow(self, pedal: Supervisor) -> None:
        if pedal.seconds >= self.seconds:
            self.enough = True
            pedal.stop()
        now = time.monotonic()
        if self.enough or now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._look(pedal)

    def _look(self, pedal: Supervisor) -> None:
        ledger = Ledger(pedal.memory.ledger, pedal.memory.layout.block_frames)
        rows = ledger.blocks(self._next_start)
        known = (rows["written"] > 0) | (rows["due"] + DECIDED_NS < time.monotonic_ns())
        decided = rows[: len(rows) if known.all() else int(np.argmin(known))]  # in order: who comes behind an open one waits for it
        if len(decided):
            self._next_start = int(decided["start"][-1]) + 1
            self.course.rows.append(decided)
        self.course.machine.append((pedal.seconds, self.vitals.machine()))
        self.show(pedal.seconds, decided)


def golden_lines(address: str, backend: str) -> Iterator[Line]:
    """Every graph against the bundle's golden vectors, on the backend that will play it."""
    if address != ECHO:
        yield from prove(backend, Trial(address, graphs_only=True))


def ready_gpu(config: Config, address: str) -> Iterator[Line]:
    """Plans and a proof for a bundle that this machine's GPU has not met; nothing where there is none."""
    wish = config.engine.backend
    if address == ECHO or not (wish == AUTO or RUNTIMES[wish].on_gpu):
        return
    gpu = ask_driver()
    if "missing" in gpu:
        return
    compiled = compile_plans(gpu["gpu"], Trial(address))
    yield compiled
    if compiled.passed and wish == AUTO:
        yield from prove("tensorrt", Trial(address, PROOF_BLOCKS, PROOF_SECONDS))


def another_plays() -> bool:
    """Whether a pedal plays on this machine."""
    try:
        fetch()
    except StatusError:
        return False
    return True


def soak_config(job: SoakJob, spec: EngineSpec, folder: Path, beside: bool) -> Config:
    """As configured, but for what belongs to the pedal that plays, and what would hide how late the engine is."""
    config, realtime = job.config, job.config.realtime
    (folder / "player.txt").write_text("\n".join(script(spec, 60 * job.minutes)) + "\n")
    if not job.on_card:
        write_audio(folder / "guitar.wav", shipped_guitar(spec.sample_rate), spec.sample_rate, "FLOAT")
        address = file_address(folder / "guitar.wav", FileOptions(loop=True))
        config = replace(config, audio=replace(config.audio, port=address))
    if beside:
        priority = max(1, realtime.priority - 1) if realtime.priority else 0
        realtime = replace(realtime, priority=priority, worker_nice=min(19, realtime.worker_nice + BESIDE_NICER))
    return replace(
        config,
        engine=replace(config.engine, bundle=job.address, prompt="", second_prompt=""),
        board=replace(config.board, port=f"script:{folder / 'player.txt'}"),
        controls=ControlsConfig(),
        storage=replace(config.storage, folder=str(folder), restore=False),
        realtime=realtime,
        flight=replace(config.flight, minutes=min(FLIGHT_MINUTES, config.flight.minutes), misses=False),
        monitor=replace(config.monitor, governor=False, status=False, prometheus="", misses_mb=0.0),
    )


def script(spec: EngineSpec, seconds: float) -> Iterator[str]:
    """Everything that makes an engine take another path, over and over."""
    acts = ("morph 0.5", "stray 0.7", "freeze on", "freeze off", "jam on", "stray 0", "jam off", "morph 0")
    for number in range(int(seconds / CHANGE_SECONDS)):
        turn, act = divmod(number, len(acts) + 1)
        doing = acts[act - 1] if act else f"prompt {turn % len(spec.prompts)}"
        yield f"{CHANGE_SECONDS * (number + 0.5):.1f} {doing}"


@contextmanager
def runtime_in(folder: Path) -> Iterator[None]:
    """What a pedal keeps while it runs, its flight recorder's ring among it, lies in `folder`: the playing pedal has its own."""
    before = os.environ.get("RUNTIME_DIRECTORY")
    os.environ["RUNTIME_DIRECTORY"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["RUNTIME_DIRECTORY"]
        else:
            os.environ["RUNTIME_DIRECTORY"] = before


def soak(job: SoakJob, beside: bool, show: Show) -> tuple[Report, Supervisor, Soak]:
    """Play it. Raises what keeps a pedal from starting; KeyboardInterrupt if it was told to stop."""
    spec = read_spec(job.address)
    with tempfile.TemporaryDirectory(prefix="ghostnote-certify-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        folder, watch = Path(name), Soak(60 * job.minutes, show)
        with runtime_in(folder):
            options = RunOptions(wait_for_engine=True, remember=True, on_tick=watch.follow)
            pedal = Supervisor(soak_config(job, spec, folder, beside), options)
            with disturbed(job.disturbance, job.folder):
                report = pedal.run()
    if not watch.enough:
        raise KeyboardInterrupt
    return report, pedal, watch


def certify(job: SoakJob, show: Show, say: Callable[[Line], None]) -> Certificate:
    """All of it, but for the signature."""
    spec, made = read_spec(job.address), datetime.now(timezone.utc).isoformat(timespec="seconds")
    Fit.of(job.config, spec)  # what does not go together is said before minutes have passed
    prepared = _said(ready_gpu(job.config, job.address), say)
    conditions = conditions_now(job.config, job.address)
    golden = _said(golden_lines(job.address, conditions.backend), say)
    beside = another_plays()
    report, pedal, watch = soak(job, beside, show)
    found = Findings(
        spec,
        job.config,
        conditions,
        report,
        rows=watch.course.all_rows(),
        machine=watch.course.machine,
        prepared=prepared,
        golden=golden,
        promised_bytes=promised_bytes(job.address),
        afterwards=conditions_now(job.config, job.address),
    )
    figures = measured(found, pedal.observer.monitor)
    why = tuple(reasons(found, figures))
    return Certificate(
        name=spec.name,
        made=made,
        minutes=job.minutes,
        verdict=FAIL if why else PASS,
        reasons=why,
        remarks=tuple(remarks(job, found, beside)),
        conditions=conditions,
        disturbance=job.disturbance,
        margin=MARGIN,
        least_slack_ms=least_slack_ms(job.config),
        golden=tuple(f"{line.what}: {line.detail}" for line in golden),
        measured=figures,
    )


def promised_bytes(address: str) -> int:
    """What the bundle says that a process takes with it; 0: nothing."""
    return 0 if address == ECHO else int(read_manifest(locate(address)).facts.get("memory_bytes", 0))


def _said(lines: Iterator[Line], say: Callable[[Line], None]) -> list[Line]:
    found = []
    for line in lines:
        say(line)
        found.append(line)
    return found


def remarks(job: SoakJob, found: Findings, beside: bool) -> Iterator[str]:
    """What to know when reading the figures."""
    report, machine = found.report, found.machine
    yield f"played on {job.config.audio.port}" if job.on_card else "played from a recording at real pacing: no sound card was part of it"
    if beside:
        yield "the pedal was playing, with priority over this soak: the figures are worse than without it"
    if len(found.rows) < 1000:
        yield f"p99.9 is the worst of {len(found.rows)} blocks"
    if report.xruns:
        yield f"audio's own queue ran dry {report.xruns} times: [audio] periods and period_frames decide that, not the engine"
    stolen_ns = machine[-1][1].steal_ns - machine[0][1].steal_ns if machine else 0
    if stolen_ns > 0:
        yield f"a virtual machine: its host kept {stolen_ns / 1e9:.1f} s of processor time for others"
    yield from report.notes

"""The configuration: one TOML file, one frozen dataclass tree. Every key has a default, a type and a range; nothing else is accepted.

An operator's mistake ends in ConfigError: one line that names the file, the key, the value and what is allowed. The commented
example is deploy/ghostnote.toml.

Runs in: the main process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from appliance.rules import ConfigError, check_names, choice, number, read_table, read_toml, switch, text, whole
from appliance.tempo import Subdivision
from engines.backends import RUNTIMES
from hw.audio import SAMPLE_FORMATS, AudioFormat

__all__ = ["MAX_DELAY_MS", "Config", "ConfigError", "ControlsConfig", "load_config", "parse_config"]

MAX_DELAY_MS = 6_000.0


@dataclass(frozen=True)
class AudioConfig:
    """The sound card."""

    port: str = text("alsa:default", "alsa:DEVICE or file:PATH")
    rate_hz: int = whole(44_100, 8_000, 192_000)
    period_frames: int = whole(128, 16, 4_096)
    periods: int = whole(3, 2, 16)
    in_channels: int = whole(1, 1, 2)
    out_channels: int = whole(1, 1, 2)
    sample_format: str = choice("S16", *SAMPLE_FORMATS)

    def format(self) -> AudioFormat:
        return AudioFormat(self.rate_hz, self.period_frames, self.periods, self.in_channels, self.out_channels, self.sample_format)


@dataclass(frozen=True)
class EngineConfig:
    """What answers the guitar."""

    bundle: str = text("reference", '"current" (what the store says), "reference", "echo" or the path of a bundle')
    keys: str = text("", "a folder of public keys that bundles are trusted by; empty is /etc/ghostnote/keys, or the user's own")
    prompt: str = text("", "one of the engine's prompts, or its number; empty is the first")
    second_prompt: str = text("", "what morph leads to: a prompt or its number; empty is the first")
    steps: int = whole(0, 0, 16)  # denoising steps per block; 0: the engine's own choice
    backend: str = choice("auto", "auto", *RUNTIMES)  # what computes; auto: the fastest that is proved on this machine
    threads: int = whole(1, 1, 16)
    budget_ms: float = number(0.0, 0.0, 2_000.0)  # what the engine may take for a block; 0: half a block
    seed: int = whole(0, 0, 2**31 - 1)


@dataclass(frozen=True)
class BoardConfig:
    """Footswitches and knobs."""

    port: str = text("none", "serial:DEVICE, midi:, keys, script:PATH or none; several with commas")


@dataclass(frozen=True)
class ControlsConfig:
    """Where knobs and switches stand before anyone touches them."""

    mix: float = number(0.5, 0.0, 1.0)
    delay_ms: float = number(0.0, 0.0, MAX_DELAY_MS)  # from playing to answer; 0, or less than the engine's minimum: that minimum
    repeats: float = number(0.0, 0.0, 0.95)
    level: float = number(1.0, 0.0, 2.0)
    tone: float = number(0.5, 0.0, 1.0)  # of the answer and its repeats: dark .. as it is .. thin
    morph: float = number(0.0, 0.0, 1.0)  # from the prompt to the second prompt
    stray: float = number(0.0, 0.0, 1.0)  # 0: follows what is played .. 1: plays freely
    freeze: bool = switch(False)
    jam: bool = switch(False)
    kill_dry: bool = switch(False)
    bypass: bool = switch(False)
    trails: bool = switch(True)
    subdivision: str = choice(Subdivision.QUARTER.label, *(one.label for one in Subdivision))


@dataclass(frozen=True)
class SwitchesConfig:
    """What footswitches mean; each list from left to right, words of appliance/surface.py."""

    press: str = text("bypass tap next_preset jam", "one action per switch")
    hold: str = text("tuner freeze none none", "one action per switch")
    double: str = text("none none none none", "one action per switch")
    chords: str = text("next_bank save_new", "what the first two switches do together, and what the third and fourth")
    hold_ms: float = number(500.0, 200.0, 3_000.0)
    double_ms: float = number(300.0, 100.0, 1_000.0)
    chord_ms: float = number(80.0, 20.0, 300.0)


@dataclass(frozen=True)
class KnobsConfig:
    """What knobs and the expression pedal move."""

    pots: str = text("mix time repeats morph stray tone", "one control per knob, left to right")
    expression: str = text("none", "none, or a control and its range, such as `morph 0 1`")
    soft_takeover: bool = switch(True)  # a knob takes hold of a value when it passes it


@dataclass(frozen=True)
class TunerConfig:
    """The tuner on the dry signal."""

    mute: bool = switch(True)
    reference_hz: float = number(440.0, 400.0, 480.0)  # of the A above middle C


@dataclass(frozen=True)
class StorageConfig:
    """What is kept over a power cut: presets and the last state."""

    folder: str = text("", "a folder; empty is the service's own, or the user's")
    restore: bool = switch(True)  # begin with the last state instead of [controls] and the prompts of [engine]


@dataclass(frozen=True)
class RealtimeConfig:
    """What is asked of the operating system; what it does not permit is said once and done without."""

    priority: int = whole(70, 0, 99)  # SCHED_FIFO priority of the audio process; 0: no real-time scheduling
    audio_core: int = whole(-1, -1, 1_023)  # -1: any core
    worker_core: int = whole(-1, -1, 1_023)
    worker_nice: int = whole(-10, -20, 19)  # before all that has no deadline
    lock_memory: bool = switch(True)


@dataclass(frozen=True)
class MonitorConfig:
    """Budgets, what is done before a deadline is missed, and what is written down after it was."""

    governor: bool = switch(True)  # shed denoising steps before a block is late
    least_steps: int = whole(1, 1, 16)
    reserve: float = number(0.2, 0.0, 0.8)  # share of the time until an answer is due that the governor keeps free
    slack_ms: float = number(10.0, 0.0, 2_000.0)  # a block that leaves less is over budget
    period_late_us: int = whole(0, 0, 1_000_000)  # 0: half of what the card queues
    period_work_us: int = whole(0, 0, 1_000_000)  # 0: half a period
    celsius: float = number(85.0, 20.0, 125.0)
    misses_mb: float = number(4.0, 0.0, 1_000.0)  # for the record of missed deadlines; 0: none
    status: bool = switch(True)  # answer `ghostnote status`
    prometheus: str = text("", "a file that ends in .prom; empty is none")


@dataclass(frozen=True)
class WebConfig:
    """The local web page (`ghostnote web`), which is a service of its own and not started by default."""

    port: int = whole(8_730, 1, 65_535)
    interface: str = text("", "the network interface of the pedal's own hotspot; empty: this machine only")
    names: str = text("", "names that the page may be asked for by, besides its address")
    upload_mb: float = number(512.0, 1.0, 4_096.0)  # the largest bundle that is taken


@dataclass(frozen=True)
class FlightConfig:
    """The flight recorder: what the engine was given, so that any block can be made again."""

    minutes: float = number(10.0, 0.0, 60.0)  # of the past, in the runtime folder; 0: nothing is recorded
    misses: bool = switch(True)  # save what is recorded after a missed deadline
    files: int = whole(8, 1, 1_000)  # flights that are kept; the oldest go ...
    megabytes: float = number(500.0, 1.0, 100_000.0)  # ... also when all together are larger


@dataclass(frozen=True)
class StoreConfig:
    """Engines that are flashed: the trial of a new one, and who must agree to it."""

    healthy_minutes: float = number(5.0, 0.05, 1_440.0)  # on time, in all, and a new engine is good
    late_blocks: int = whole(3, 0, 10_000)  # that it may have meanwhile; one more, and the engine before it plays again
    ready_seconds: float = number(120.0, 5.0, 3_600.0)  # in which it must be ready
    consent_seconds: float = number(60.0, 5.0, 600.0)  # so long the pedal waits for somebody to hold the switch
    inbox: bool = switch(True)  # take in what is laid into engines/inbox


@dataclass(frozen=True)
class Config:
    """The whole tree; its fields are the tables of the TOML file."""

    audio: AudioConfig = field(default_factory=AudioConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    board: BoardConfig = field(default_factory=BoardConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    switches: SwitchesConfig = field(default_factory=SwitchesConfig)
    knobs: KnobsConfig = field(default_factory=KnobsConfig)
    tuner: TunerConfig = field(default_factory=TunerConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    realtime: RealtimeConfig = field(default_factory=RealtimeConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    flight: FlightConfig = field(default_factory=FlightConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    web: WebConfig = field(default_factory=WebConfig)


TABLES: dict[str, type] = {
    "audio": AudioConfig,
    "engine": EngineConfig,
    "board": BoardConfig,
    "controls": ControlsConfig,
    "switches": SwitchesConfig,
    "knobs": KnobsConfig,
    "tuner": TunerConfig,
    "storage": StorageConfig,
    "realtime": RealtimeConfig,
    "monitor": MonitorConfig,
    "flight": FlightConfig,
    "store": StoreConfig,
    "web": WebConfig,
}


def load_config(path: Path | str) -> Config:
    """Read the file at `path`. Raises ConfigError."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: no configuration can be read there ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file; write the configuration as TOML") from None
    return parse_config(text, str(path))


def parse_config(text: str, origin: str) -> Config:
    """`text` as TOML; `origin` names it in errors. Raises ConfigError."""
    tree = read_toml(text, origin)
    check_names(origin, "table", tree, list(TABLES), lambda name: f"[{name}]")
    return Config(**{name: read_table(origin, name, kind, tree.get(name, {})) for name, kind in TABLES.items()})

"""The configuration: one TOML file, one frozen dataclass tree. Every key has a default, a type and a range; nothing else is accepted.

An operator's mistake ends in ConfigError: one line that names the file, the key, the value and what is allowed. The commented
example is deploy/ghostnote.toml.

Runs in: the main process.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from appliance.tempo import Subdivision
from hw.audio import SAMPLE_FORMATS, AudioFormat

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_DELAY_MS = 6_000.0


class ConfigError(Exception):
    """A configuration that can't be used: one line that says what is wrong and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """What one key allows."""

    kinds: tuple[type, ...]
    says: str  # completes "must be ..."
    low: float = 0.0
    high: float = 0.0
    options: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        if type(value) not in self.kinds:
            return False
        if isinstance(value, str):
            return not self.options or value in self.options
        return isinstance(value, bool) or (isinstance(value, (int, float)) and self.low <= value <= self.high)


def _whole(default: int, low: int, high: int) -> Any:
    return field(default=default, metadata={"rule": Rule((int,), f"a whole number from {low} to {high}", low, high)})


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"rule": Rule((int, float), f"a number from {low:g} to {high:g}", low, high)})


def _switch(default: bool) -> Any:
    return field(default=default, metadata={"rule": Rule((bool,), "true or false")})


def _text(default: str, says: str) -> Any:
    return field(default=default, metadata={"rule": Rule((str,), f"a text: {says}")})


def _choice(default: str, *options: str) -> Any:
    return field(default=default, metadata={"rule": Rule((str,), "one of " + ", ".join(map(repr, options)), options=options)})


@dataclass(frozen=True)
class AudioConfig:
    """The sound card."""

    port: str = _text("alsa:default", "alsa:DEVICE or file:PATH")
    rate_hz: int = _whole(44_100, 8_000, 192_000)
    period_frames: int = _whole(128, 16, 4_096)
    periods: int = _whole(3, 2, 16)
    in_channels: int = _whole(1, 1, 2)
    out_channels: int = _whole(1, 1, 2)
    sample_format: str = _choice("S16", *SAMPLE_FORMATS)

    def format(self) -> AudioFormat:
        return AudioFormat(self.rate_hz, self.period_frames, self.periods, self.in_channels, self.out_channels, self.sample_format)


@dataclass(frozen=True)
class EngineConfig:
    """What answers the guitar."""

    bundle: str = _text("reference", '"reference", "echo" or the path of a bundle')
    prompt: str = _text("", "one of the engine's prompts, or its number; empty is the first")
    second_prompt: str = _text("", "what morph leads to: a prompt or its number; empty is the first")
    steps: int = _whole(0, 0, 16)  # denoising steps per block; 0: the engine's own choice
    threads: int = _whole(1, 1, 16)
    budget_ms: float = _number(0.0, 0.0, 2_000.0)  # what the engine may take for a block; 0: half a block
    seed: int = _whole(0, 0, 2**31 - 1)


@dataclass(frozen=True)
class BoardConfig:
    """Footswitches and knobs."""

    port: str = _text("none", "script:PATH or none")


@dataclass(frozen=True)
class ControlsConfig:
    """Where knobs and switches stand before anyone touches them."""

    mix: float = _number(0.5, 0.0, 1.0)
    delay_ms: float = _number(0.0, 0.0, MAX_DELAY_MS)  # from playing to answer; 0, or less than the engine's minimum: that minimum
    repeats: float = _number(0.0, 0.0, 0.95)
    level: float = _number(1.0, 0.0, 2.0)
    morph: float = _number(0.0, 0.0, 1.0)  # from the prompt to the second prompt
    stray: float = _number(0.0, 0.0, 1.0)  # 0: follows what is played .. 1: plays freely
    freeze: bool = _switch(False)
    jam: bool = _switch(False)
    kill_dry: bool = _switch(False)
    bypass: bool = _switch(False)
    trails: bool = _switch(True)
    subdivision: str = _choice(Subdivision.QUARTER.label, *(one.label for one in Subdivision))


@dataclass(frozen=True)
class RealtimeConfig:
    """What is asked of the operating system; what it does not permit is said once and done without."""

    priority: int = _whole(70, 0, 99)  # SCHED_FIFO priority of the audio process; 0: no real-time scheduling
    audio_core: int = _whole(-1, -1, 1_023)  # -1: any core
    worker_core: int = _whole(-1, -1, 1_023)
    worker_nice: int = _whole(-10, -20, 19)  # before all that has no deadline
    lock_memory: bool = _switch(True)


@dataclass(frozen=True)
class Config:
    """The whole tree; its fields are the tables of the TOML file."""

    audio: AudioConfig = field(default_factory=AudioConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    board: BoardConfig = field(default_factory=BoardConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    realtime: RealtimeConfig = field(default_factory=RealtimeConfig)


TABLES: dict[str, type] = {
    "audio": AudioConfig,
    "engine": EngineConfig,
    "board": BoardConfig,
    "controls": ControlsConfig,
    "realtime": RealtimeConfig,
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
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: is not TOML: {error}") from None
    _check_names(origin, "table", tree, list(TABLES), lambda name: f"[{name}]")
    return Config(**{name: _table(origin, name, kind, tree.get(name, {})) for name, kind in TABLES.items()})


def _table(origin: str, table: str, kind: type, values: object) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{origin}: {table} = {values!r} must be a table: write [{table}] and its keys below")
    rules: dict[str, Rule] = {one.name: one.metadata["rule"] for one in fields(kind)}
    _check_names(origin, f"key in [{table}]", values, list(rules), lambda name: name)
    for key, value in values.items():
        if not rules[key].accepts(value):
            raise ConfigError(f"{origin}: [{table}] {key} = {_toml(value)} is not allowed: must be {rules[key].says}")
    return kind(**{key: float(value) if float in rules[key].kinds else value for key, value in values.items()})


def _check_names(origin: str, what: str, given: Mapping[str, object], known: list[str], show: Any) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {show(near[0])}?" if near else f"allowed: {', '.join(map(show, known))}"
            raise ConfigError(f"{origin}: unknown {what}: {show(name)}; {hint}")


def _toml(value: object) -> str:
    """As it stands in the file, near enough to be found."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)

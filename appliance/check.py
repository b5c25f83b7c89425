"""`ghostnote check`: what this machine can do, in one table, each line with what to do about it.

Runs in: the main process. A runtime is tried in a process of its own: main never imports one.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rich.console import Console
from rich.table import Table

from appliance.config import Config, ConfigError, load_config
from appliance.fit import Fit
from appliance.store import address_of
from engines.bundle import BundleError, locate, read_spec, verify
from engines.engine import EngineSpec

OLDEST_PYTHON = (3, 10)
NEEDED = ("numpy", "soundfile", "soxr", "rich")
OPTIONAL = {
    "matplotlib": "the demo's picture: pip install 'ghostnote[demo]'",
    "pyalsaaudio": "a sound card: pip install 'ghostnote[device]'",
}
RUNTIME_PROGRAM = "import onnxruntime as r; print(r.__version__, *r.get_available_providers())"
WANTED_MEMLOCK_BYTES = 256 << 20


class Verdict(Enum):
    """FAIL: nothing plays. LESS: something is missing that a stage needs, but recordings can be played."""

    OK = "[green]ok[/]"
    LESS = "[yellow]less[/]"
    FAIL = "[bold red]fail[/]"


@dataclass(frozen=True)
class Finding:
    what: str
    verdict: Verdict
    detail: str


def check(console: Console, config_path: Path | None = None, engine: str = "reference") -> int:
    """Print the table. 0 if an engine can play here, else 1."""
    found = list(findings(config_path, engine))
    table = Table(box=None, header_style="bold", padding=(0, 2))
    for title in ("what", "", "found"):
        table.add_column(title)
    for one in found:
        table.add_row(one.what, one.verdict.value, one.detail.replace("[", r"\["))
    console.print(table)
    return int(any(one.verdict is Verdict.FAIL for one in found))


def findings(config_path: Path | None, engine: str) -> Iterator[Finding]:
    yield python()
    yield from packages()
    yield runtime()
    yield shared_memory()
    yield realtime()
    yield locked_memory()
    yield sound_cards()
    config = Config()
    if config_path:
        finding, config = configuration(config_path)
        yield finding
        engine = address_of(config)
    yield from bundle(engine, config if config_path else None)


def python() -> Finding:
    version = sys.version.split()[0]
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", Verdict.FAIL, f"{version}: 3.10 or newer is needed")
    return Finding("Python", Verdict.OK, f"{version}, {len(os.sched_getaffinity(0))} cores")


def packages() -> Iterator[Finding]:
    for name in NEEDED:
        version = _version(name)
        yield Finding(name, Verdict.OK, version) if version else Finding(name, Verdict.FAIL, f"missing: pip install {name}")
    for name, use in OPTIONAL.items():
        version = _version(name)
        yield Finding(name, Verdict.OK, version) if version else Finding(name, Verdict.LESS, f"missing; needed for {use}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def runtime() -> Finding:
    done = subprocess.run([sys.executable, "-c", RUNTIME_PROGRAM], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding("onnxruntime", Verdict.FAIL, f"does not load ({reason}): pip install onnxruntime")
    version, *providers = done.stdout.split()
    return Finding("onnxruntime", Verdict.OK, f"{version} on {', '.join(one.removesuffix('ExecutionProvider') for one in providers)}")


def shared_memory() -> Finding:
    try:
        for fd in (os.memfd_create("ghostnote-check"), os.eventfd(0)):
            os.close(fd)
    except OSError as error:
        return Finding("shared memory", Verdict.FAIL, f"{error.strerror}: Linux with memfd and eventfd is needed")
    return Finding("shared memory", Verdict.OK, "memfd and eventfd")


def realtime() -> Finding:
    """Tried, not guessed: in a child, so that nothing of it stays."""
    program = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    if done.returncode == 0:
        return Finding("real-time scheduling", Verdict.OK, "SCHED_FIFO is permitted")
    return Finding("real-time scheduling", Verdict.LESS, f"not permitted (limit {limit}): add 'rtprio 90' to limits.conf for your user")


def locked_memory() -> Finding:
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if soft in (-1, resource.RLIM_INFINITY) or soft >= WANTED_MEMLOCK_BYTES or os.geteuid() == 0:
        return Finding("locked memory", Verdict.OK, "as much as needed")
    return Finding("locked memory", Verdict.LESS, f"only {soft >> 10} KB: add 'memlock unlimited' to limits.conf for your user")


def sound_cards(path: Path = Path("/proc/asound/cards")) -> Finding:
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if "[" in line]
    except OSError:
        lines = []
    if not lines:
        return Finding("sound cards", Verdict.LESS, "none: recordings can be played, a guitar can not")
    return Finding("sound cards", Verdict.OK, "; ".join(lines))


def configuration(path: Path) -> tuple[Finding, Config]:
    try:
        return Finding("configuration", Verdict.OK, str(path)), load_config(path)
    except ConfigError as error:
        return Finding("configuration", Verdict.FAIL, str(error)), Config()


def bundle(engine: str, config: Config | None) -> Iterator[Finding]:
    """Every byte of the bundle against its hash, and whether the configuration goes with it."""

    def tried(what: str, check: Callable[[], str]) -> Finding:
        try:
            return Finding(what, Verdict.OK, check())
        except (BundleError, ConfigError) as error:
            return Finding(what, Verdict.FAIL, str(error))

    def integrity() -> str:
        if engine != "echo":
            verify(locate(engine))
        return described(read_spec(engine))

    yield tried("engine", integrity)
    if config:
        yield tried("engine and configuration", lambda: _fits(config, engine))


def _fits(config: Config, engine: str) -> str:
    fit = Fit.of(config, read_spec(engine))
    shortest_ms = 1000 * fit.delays.shortest_frames / fit.layout.sample_rate
    return f"go together; shortest delay {shortest_ms:.0f} ms"


def described(spec: EngineSpec) -> str:
    block_ms = 1000 * spec.block_frames / spec.sample_rate
    return f"{spec.name}: {len(spec.prompts)} prompts, {spec.steps} steps, blocks of {block_ms:.0f} ms at {spec.sample_rate} Hz"

"""What a deadline certificate depends on, asked of this machine now: versions, backend, GPU, CPU, kernel, power, clocks, what is granted.

    certified(config, "engine.ghost")              the certificate by which it may go live now; raises CertificateError
    conditions_now(config, "engine.ghost")

Both take about a second: two questions are asked in processes of their own.

What a machine does not tell is "none", never guessed: a virtual machine has no governor and no clocks. `root` is where /sys lies, so that a
folder can stand in for another machine.

Runs in: `ghostnote certify`, and whoever asks `appliance.certificate.check`; never in audio or worker.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from appliance.certificate import Certificate, CertificateError, Conditions, certificates_folder, check
from appliance.child import REPO
from appliance.config import Config
from appliance.device_key import DeviceKey
from appliance.storage import state_folder
from appliance.vitals import GPUS
from engines.bundle import ECHO, digest_of, locate, read_spec

NONE = "none"
PLAYING_CODE = ("appliance", "engines", "engines/lmdm", "engines/tensorrt", "hw")  # folders of the code that a block goes through
ASK_BACKEND = "engines.here"
ASK_REALTIME = "appliance.granted"


@dataclass(frozen=True)
class Granted:
    """What the operating system permits a pedal that this user starts here."""

    realtime: str
    niceness: int


def steps_of(config: Config, address: str) -> int:
    """Denoising steps that are played with."""
    return config.engine.steps or read_spec(address).steps


def conditions_now(config: Config, address: str, root: Path = Path("/")) -> Conditions:
    """Of the engine at `address` played as `config` says. Raises BundleError, CertificateError."""
    computes, granted = _computes(config, address), granted_here(config)
    audio, engine, realtime = config.audio, config.engine, config.realtime
    return Conditions(
        engine=digest_of(address),
        ghostnote=version(),
        backend=computes["backend"],
        runtime=computes["runtime"],
        gpu=computes["gpu"] or NONE,
        cpu=computes["cpu"],
        kernel=platform.release(),
        power=_first_line(root / "var/lib/nvpmodel/status") or NONE,
        governor=governors(root),
        clocks=clock_limits(root),
        rate=audio.rate_hz,
        period=audio.period_frames,
        periods=audio.periods,
        cores=f"audio {_core(realtime.audio_core)}, engine {_core(realtime.worker_core)} of {_ranges(os.sched_getaffinity(0))}",
        threads=engine.threads,
        realtime=granted.realtime,
        niceness=granted.niceness,
        steps=steps_of(config, address),
        budget=engine.budget_ms,
    )


def certified(config: Config, address: str) -> Certificate:
    """The certificate by which the engine at `address` may go live on this device now. Raises CertificateError, BundleError."""
    key = DeviceKey.open(state_folder(config.storage.folder))
    return check(certificates_folder(config.storage.folder), digest_of(address), conditions_now(config, address), key.public)


@cache  # of the code that this process began with
def version() -> str:
    """Of Ghostnote: the package's, and a hash of the code that plays, which a clone may have changed since."""
    try:
        number = importlib.metadata.version("ghostnote")
    except importlib.metadata.PackageNotFoundError:
        number = "0"
    code = hashlib.sha256()
    for path in sorted(path for folder in PLAYING_CODE for path in (REPO / folder).glob("*.py")):
        code.update(path.read_bytes())
    return f"{number}+{code.hexdigest()[:8]}"


def _computes(config: Config, address: str) -> dict[str, str]:
    bundle = [] if address == ECHO else [str(locate(address))]
    return dict(_ask(ASK_BACKEND, "--backend", config.engine.backend, *bundle))


def granted_here(config: Config) -> Granted:
    wanted = config.realtime
    asked = _ask(ASK_REALTIME, str(wanted.priority), str(wanted.worker_nice), str(int(wanted.lock_memory)))
    return Granted(**asked)


def _ask(module: str, *arguments: str) -> Any:
    """One JSON object from a process of its own: a driver may take down whoever asks it, and what is granted would stay."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=environment)
    try:
        return json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CertificateError(f"{module} does not answer ({said}): try `ghostnote check`") from None


def governors(root: Path) -> str:
    """Of the CPU's clock, on all cores."""
    return _all(_first_line(path) for path in root.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_governor"))


def clock_limits(root: Path) -> str:
    """MHz between which the clocks may move: of the CPU's clusters, then of a Jetson's GPU."""
    cpu = (_limits(policy, "scaling_min_freq", "scaling_max_freq", 1e3) for policy in root.glob("sys/devices/system/cpu/cpufreq/policy*"))
    gpu = (
        _limits(device, "min_freq", "max_freq", 1e6)
        for device in root.glob("sys/class/devfreq/*")
        if any(gpu in device.name for gpu in GPUS)
    )
    found = [_all(cpu), _all(gpu)]
    return ", GPU ".join(one for one in found if one != NONE) or NONE


def _limits(folder: Path, least: str, most: str, per_mhz: float) -> str:
    values = [_first_line(folder / name) for name in (least, most)]
    return "-".join(f"{float(value) / per_mhz:.0f}" for value in values) if all(value.isdecimal() for value in values) else ""


def _all(values: Iterable[str]) -> str:
    return "/".join(sorted({value for value in values if value})) or NONE


def _first_line(path: Path) -> str:
    try:
        return (path.read_text().splitlines() or [""])[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _core(configured: int) -> str:
    return "any" if configured < 0 else str(configured)


def _ranges(cores: set[int]) -> str:
    """0-2,5 of {0, 1, 2, 5}."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)

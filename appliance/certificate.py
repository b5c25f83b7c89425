"""A deadline certificate: what a soak on this very device has measured of one engine, under which conditions, signed by the device.

    certificate = check(folder, digest, conditions_now(...), key.public)      raises CertificateError: none, FAIL, or what voids it

    <storage>/engines/certificates/<digest>.json     {"certificate": {...}, "key": hex, "signature": hex}

Signed is the canonical JSON of "certificate" (sorted names, no spaces), so the file may be indented for people. A certificate holds for
its conditions only: when one of them has changed, it says nothing any more, and says so.

Runs in: `ghostnote certify` (writes), activation of an engine (checks).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from appliance.device_key import DeviceKey, signed_by
from appliance.storage import DISK, Disk, replace_file, state_folder

SCHEMA = 1
LARGEST_BYTES = 4 << 20
RUN = "run `ghostnote certify`"
PASS, FAIL = "PASS", "FAIL"
Numbers = Mapping[str, int]
Bins = tuple[tuple[int, int], ...]  # (least duration of a bin in microseconds, how many were in it), empty bins left out
Kind = TypeVar("Kind")


class CertificateError(Exception):
    """The engine may not go live: one line that says why, and what to do."""


@dataclass(frozen=True)
class Conditions:
    """What a certificate holds for: a change of any of them voids it. Names are what a person calls them."""

    engine: str  # digest of the bundle
    ghostnote: str  # version, and a hash of the code that plays
    backend: str
    runtime: str  # versions of what computes
    gpu: str  # and its driver; "none"
    cpu: str
    kernel: str
    power: str  # mode of a Jetson; "none"
    governor: str  # of the CPU's clock; "none": the machine does not tell
    clocks: str  # limits, MHz; "none"
    rate: int  # Hz
    period: int  # frames
    periods: int
    cores: str  # of audio and engine, of those that are allowed
    threads: int
    realtime: str  # what was granted of it
    niceness: int  # of the engine's process, as granted
    steps: int
    budget: float  # ms that the engine has at the shortest delay; 0: half a block

    def changes(self, now: Conditions) -> list[str]:
        """What is different now, each as a person would say it."""
        pairs = ((one.name, getattr(self, one.name), getattr(now, one.name)) for one in fields(self))
        return [f"{name} changed {_short(name, then)} -> {_short(name, is_now)}" for name, then, is_now in pairs if then != is_now]


def _short(name: str, value: Any) -> Any:
    return value[:12] if name == "engine" else value or "none"


@dataclass(frozen=True)
class Disturbance:
    """What the machine had to do beside: numbers of processes."""

    name: str
    copiers: int  # that copy memory, at normal priority
    writers: int  # that write to the disk and wait until it is there, at normal priority
    spinners: int  # that only compute
    spinner_niceness: int

    def __str__(self) -> str:
        if self == NO_DISTURBANCE:
            return "none"
        parts = f"{self.copiers} copying memory, {self.writers} writing files, {self.spinners} computing at nice {self.spinner_niceness}"
        return f"{self.name}: {parts}"


NO_DISTURBANCE = Disturbance("none", 0, 0, 0, 0)


@dataclass(frozen=True)
class Measured:
    """What the soak has found. Microseconds where the name says nothing else."""

    seconds: float  # of music
    blocks: int
    answered: int
    late: int  # not answered, or too late
    causes: Mapping[str, int]  # why, as far as the monitor could tell
    allowance_us: int  # what the engine has for a block at the shortest delay
    block_work: Numbers  # count, p50, p99, p999, worst
    block_late: Numbers
    block_slack: Numbers
    block_answered: Numbers  # from the moment when it was whole to its answer
    period_work: Numbers
    period_slack: Numbers
    xruns: int
    silent_frames: int
    step_us: int | None  # one denoising step, median; None: this engine has none, or does not tell
    steps_allowed: int
    resident_mb: Mapping[str, float]  # peaks of main, audio and engine
    celsius: float | None  # the highest; None: the machine does not tell
    clock_mhz: tuple[float, float] | None  # lowest and highest of the fastest core
    throttles: int
    startup_seconds: float
    answered_bins: Bins
    slack_bins: Bins
    course: tuple[tuple[float, float, float | None], ...]  # seconds, least slack in ms up to there, degrees


@dataclass(frozen=True)
class Certificate:
    """A soak's result, and what it holds for."""

    name: str  # of the engine
    made: str  # UTC
    minutes: float  # asked for
    verdict: str  # PASS or FAIL
    reasons: tuple[str, ...]  # of a FAIL
    remarks: tuple[str, ...]  # what to know when reading it
    conditions: Conditions
    disturbance: Disturbance
    margin: float  # by how much of itself p99.9 is taken to be larger when the steps allowed are counted
    least_slack_ms: float  # budget: a block must leave so much
    golden: tuple[str, ...]  # what was compared with the golden vectors
    measured: Measured
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        return self.verdict == PASS

    def __str__(self) -> str:
        """One line."""
        found = self.measured
        slack_ms = found.block_slack["worst"] / 1000
        says = f"{found.blocks} blocks, {found.late} late, least slack {slack_ms:.0f} ms, {found.steps_allowed} steps allowed"
        return f"{self.verdict}: {self.name}, {says}" + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def certificates_folder(storage: str) -> Path:
    """Where they are kept; `storage` is [storage] folder of the configuration."""
    return state_folder(storage) / "engines" / "certificates"


def canonical(certificate: Certificate) -> bytes:
    """The bytes that are signed."""
    return _canonical(asdict(certificate))


def _canonical(facts: Any) -> bytes:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write(path: Path, certificate: Certificate, key: DeviceKey, disk: Disk = DISK) -> None:
    """Signed, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signature = key.sign(canonical(certificate)).hex()
    signed = {"certificate": asdict(certificate), "key": key.public.hex(), "signature": signature}
    replace_file(path, json.dumps(signed, indent=1, ensure_ascii=False, allow_nan=False) + "\n", disk)


def read(path: Path, public_key: bytes | None = None) -> Certificate:
    """The certificate at `path`, if the owner of `public_key` has signed it; None: of the key that it names. Raises CertificateError."""
    signed = _parsed(path)
    facts = signed.get("certificate")
    if not isinstance(facts, dict) or "schema" not in facts:
        raise CertificateError(f"{path}: is not a certificate; {RUN}")
    if facts["schema"] != SCHEMA:
        raise CertificateError(f"{path}: schema {facts['schema']!r} is of another Ghostnote (this one reads {SCHEMA}); {RUN}")
    if not _signed(signed, facts, public_key):
        raise CertificateError(f"{path}: is not what {'its key' if public_key is None else 'this device'} has signed; {RUN}")
    try:
        return _certificate(facts)
    except (KeyError, TypeError, ValueError) as wrong:
        raise CertificateError(f"{path}: is damaged ({wrong}); {RUN}") from None


def check(folder: Path, digest: str, now: Conditions, public_key: bytes) -> Certificate:
    """The certificate by which the engine `digest` may go live under the conditions `now`. Raises CertificateError."""
    path = folder / f"{digest}.json"
    if not path.exists():
        raise CertificateError(f"no certificate for engine {digest[:12]} on this device: {RUN}")
    certificate = read(path, public_key)
    if changes := certificate.conditions.changes(now):
        raise CertificateError(f"void: {'; '.join(changes)}; {RUN}")
    if not certificate.passed:
        raise CertificateError(f"{certificate.name} failed its soak: {'; '.join(certificate.reasons)}")
    return certificate


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise CertificateError(f"{path}: is not a certificate (too large); {RUN}")
        signed = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CertificateError(f"{path}: can't be read ({error.strerror}); {RUN}") from None
    except (ValueError, RecursionError):
        raise CertificateError(f"{path}: is damaged (not JSON); {RUN}") from None
    if not isinstance(signed, dict):
        raise CertificateError(f"{path}: is not a certificate; {RUN}")
    return signed


def _signed(signed: Mapping[str, Any], facts: Any, public_key: bytes | None) -> bool:
    try:
        return signed_by(public_key or bytes.fromhex(signed["key"]), _canonical(facts), bytes.fromhex(signed["signature"]))
    except (KeyError, TypeError, ValueError):
        return False


def _certificate(facts: Mapping[str, Any]) -> Certificate:
    """Exactly the known fields, no more and no fewer."""
    parts = {
        "conditions": _made(Conditions, facts["conditions"]),
        "disturbance": _made(Disturbance, facts["disturbance"]),
        "measured": _made(Measured, facts["measured"]),
    }
    return _made(Certificate, {**facts, **parts})


def _made(kind: type[Kind], facts: Any) -> Kind:
    """JSON knows no tuples: its lists become what they were."""
    if not isinstance(facts, dict):
        raise TypeError(f"{kind.__name__.lower()} is missing")
    return kind(**{name: _frozen(value) for name, value in facts.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value

"""What the running pedal says of itself, as plain values; and the Unix socket at which it says so.

    socket   one connection, one JSON object in a line, end: `ghostnote status` reads it, and so can any script

The file lies in the service's or the user's runtime folder. Nobody gets at the shared memory through it, and there is nothing that could
be said to the pedal.

Runs in: the main process (`snapshot`, `StatusSocket`), and in `ghostnote status` (`fetch`).
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from appliance.histogram import Measure, histogram
from appliance.levels import levels
from appliance.misses import ledger_lines
from appliance.monitor import Monitor
from appliance.stats import Counter, Rows, WorkerCounter, answered, slack_ms

SOCKET_NAME = "status.sock"
SERVICE_FOLDER = Path("/run/ghostnote")
PERCENTS = {"p50": 50.0, "p99": 99.0, "p999": 99.9}
SLACK_BLOCKS = 160  # a minute of the reference engine's
FRESH_SECONDS = 0.2  # whoever asks more often gets the same answer again
PATIENCE_SECONDS = 2.0
END = b"\n"  # without it an answer is a part of one

Snapshot = Mapping[str, Any]


class StatusError(Exception):
    """There is no pedal to ask: one line that says what to do."""


@dataclass(frozen=True)
class Facts:
    """What main knows and the monitor does not."""

    engine: str
    prompt: str
    state: str  # of the engine's slot
    steps: int  # that the player wishes
    delay_ms: float
    audio_restarts: int
    engine_restarts: int
    forced: str = ""  # why it plays without a certificate, if its owner wanted it so
    takeover: str = "idle"  # how far another engine is on its way in the place of this one
    takeover_engine: str = ""
    takeover_reason: str = ""  # why it did not get there
    preset: str = ""  # the place that was chosen last
    prompts: tuple[str, ...] = ()  # that the engine knows
    sound: Mapping[str, Any] = field(default_factory=dict)  # what a preset would keep of now


def snapshot(monitor: Monitor, facts: Facts) -> Snapshot:
    """Everything that `ghostnote status` and the Prometheus file are made of."""
    layout, audio, worker = monitor.layout, monitor.audio, monitor.worker
    rows = monitor.ledger.blocks(audio.get(Counter.POSITION) - SLACK_BLOCKS * layout.block_frames)
    return {
        "pid": os.getpid(),
        **asdict(facts),
        "health": monitor.health.value,
        "seconds": round(audio.get(Counter.POSITION) / layout.sample_rate, 3),
        "step_limit": worker.get(WorkerCounter.STEP_LIMIT),
        "least_slack_ms": monitor.watch.least_slack_ms,
        "audio": {counter.name.lower(): audio.get(counter) for counter in Counter},
        "worker": {counter.name.lower(): worker.get(counter) for counter in WorkerCounter},
        "measures": {measure.name.lower(): spread_us(monitor, measure) for measure in Measure},
        "machine": asdict(monitor.sample.machine),
        "misses": dict(monitor.causes),
        "budgets": asdict(monitor.budgets),
        "breaches": dict(monitor.watch.breaches),
        "blocks": ledger_lines(rows, layout.sample_rate),
        "slack_ms": slack_course(rows, layout.sample_rate),
        "levels": asdict(levels(monitor.memory)),
    }


def slack_course(rows: Rows, sample_rate: int) -> list[tuple[float, float]]:
    """When each answered block began, in seconds, and what it left until it was due."""
    done = answered(rows)
    return list(zip((done["start"] / sample_rate).round(2).tolist(), slack_ms(done).round(1).tolist(), strict=True))


def spread_us(monitor: Monitor, measure: Measure) -> dict[str, int]:
    """How many there were, the extremes and the bad end of them: the low one for a slack, the high one otherwise."""
    counted, falls = histogram(monitor.memory.histograms, measure), measure.name.endswith("SLACK")
    ends = {name: counted.percentile_us(100 - percent if falls else percent) for name, percent in PERCENTS.items()}
    return {"count": counted.count, **ends, "worst": counted.percentile_us(0 if falls else 100)}


def runtime_folder() -> Path:
    """Where the socket lies: the service's folder, else the user's. Raises OSError where another user has been there before."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    own = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(own) / "ghostnote" if own else Path(tempfile.gettempdir()) / f"ghostnote-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(1, f"{folder} belongs to another user")
    return folder


class StatusSocket:
    """`serve` every tick: answers at most one question, waits for nobody."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError, also where another pedal answers at `path`."""
        self.path, self._clock = path, clock
        self._answer, self._answered_at = b"", float("-inf")
        if path.exists() and _answers(path):
            raise FileExistsError(17, "another pedal is running and has it")
        path.unlink(missing_ok=True)  # of one that was killed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        path.chmod(0o666)  # nothing that it says is a secret, and nothing can be said to it
        self._socket.listen(4)

    def serve(self, make: Callable[[], Snapshot]) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return  # nobody asks
        with connection:
            now = self._clock()
            if now - self._answered_at > FRESH_SECONDS:
                self._answer, self._answered_at = json.dumps(make(), ensure_ascii=False).encode() + END, now
            try:
                connection.setblocking(False)
                connection.sendall(self._answer)
            except OSError:
                pass  # who asks and does not listen gets a part

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def fetch(path: Path | None = None) -> Snapshot:
    """Ask the pedal at `path`, or the one that the service or this user runs. Raises StatusError."""
    found: Snapshot = json.loads(fetch_text(path))
    return found


def fetch_text(path: Path | None = None) -> bytes:
    """The same as the pedal says it: JSON in one line. Raises StatusError."""
    paths = [path] if path else [runtime_folder() / SOCKET_NAME, SERVICE_FOLDER / SOCKET_NAME]
    for candidate in paths:
        try:
            if (text := _ask(candidate)).endswith(END):
                return text
        except PermissionError:
            raise StatusError(f"{candidate} is not yours to read: use sudo, or join the group that the service runs in") from None
        except OSError:
            continue
    raise StatusError(f"no pedal answers at {' or '.join(map(str, paths))}: start it with `ghostnote run` or `systemctl start ghostnote`")


def _ask(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(str(path))
        with connection.makefile("rb") as answer:
            return answer.read()

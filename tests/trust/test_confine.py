"""What an engine's process may not do any more: seen from inside of one that tries, and from outside at a real worker."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.confine import MACHINES, ROOMY_BYTES, memory_for
from appliance.controls import Control, Controls
from appliance.shared import Layout, SharedMemory
from appliance.stats import Counters, WorkerCounter
from appliance.worker import WorkerSettings
from engines.bundle import REFERENCE, Bundle

REPO = Path(__file__).parents[2]
TRIES = """
import ctypes, json, os, signal, socket, sys
from pathlib import Path
from appliance.confine import confine, limit_memory
cache, outside, victim, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
refused = confine(cache, gpu=sys.argv[5] == "gpu") + limit_memory(128 << 20)
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
tries = {
    "connect": lambda: socket.create_connection(("127.0.0.1", port)),
    "listen": lambda: socket.socket(socket.AF_INET6).bind(("::1", 0)),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "ring of calls": lambda: call(425, 8, ctypes.create_string_buffer(120)),
    "create": lambda: (outside / "new").write_text("x"),
    "change": lambda: (outside / "kept").write_text("x"),
    "shorten": lambda: os.truncate(outside / "kept", 0),
    "remove": lambda: (outside / "kept").unlink(),
    "folder": lambda: (outside / "sub").mkdir(),
    "link": lambda: (outside / "link").symlink_to("/"),
    "move out": lambda: os.rename(cache / "mine", outside / "mine"),
    "run": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(victim, 0),
    "trace": lambda: call(101 if os.uname().machine == "x86_64" else 117, 16, victim, 0, 0),
    "all memory": lambda: len(bytearray(256 << 20)),
    "some memory": lambda: len(bytearray(32 << 20)),
    "read": lambda: (outside / "kept").read_text(),
    "cache": lambda: (cache / "mine").write_text("x"),
    "null": lambda: Path("/dev/null").write_text("x"),
}
found = {}
if sys.argv[5] == "gpu":
    del tries["run"]  # it may, and nothing would be left here to tell
for name in ["cache", *[name for name in tries if name != "cache"]]:
    try:
        tries[name]()
        found[name] = "done"
    except (OSError, MemoryError) as error:
        found[name] = type(error).__name__
print(json.dumps({"refused": refused, "found": found}))
"""
ALLOWED = {"some memory", "read", "cache", "null"}


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def tried(tmp_path: Path, port: int, gpu: str = "") -> dict[str, str]:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    cache.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    line = [sys.executable, "-c", TRIES, str(cache), str(outside), str(os.getpid()), str(port), gpu]
    done = subprocess.run(line, cwd=REPO, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    if told["refused"]:
        pytest.skip(f"this kernel does not permit: {', '.join(told['refused'])}")
    assert [path.name for path in outside.iterdir()] == ["kept"] and (outside / "kept").read_text() == "as it was"
    found: dict[str, str] = told["found"]
    return found


def landlock_version() -> int:
    from appliance.confine import _LANDLOCK_CREATE, _syscall

    try:
        return _syscall(_LANDLOCK_CREATE, None, 0, 1)
    except OSError:
        return 0


def test_an_engine_computes_and_nothing_else(tmp_path: Path, port: int) -> None:
    found = tried(tmp_path, port)
    if landlock_version() < 6:
        assert found.pop("signal") in ("done", "PermissionError")
    assert {name for name, outcome in found.items() if outcome == "done"} == ALLOWED
    assert found["all memory"] == "MemoryError"


def test_a_gpus_driver_keeps_unix_sockets_and_nothing_beyond_the_machine(tmp_path: Path, port: int) -> None:
    """Seen without a GPU: what its driver would be left with."""
    found = tried(tmp_path, port, "gpu")
    assert {name for name, outcome in found.items() if outcome == "done"} - {"signal"} == ALLOWED | {"unix"}


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A real one with the shipped engine, ready to play."""
    spec = Bundle.open(REFERENCE).manifest.spec
    layout = Layout(spec.sample_rate, 128, spec.block_frames, spec.codec_delay_frames, 4 * spec.block_frames, 1024)
    memory = SharedMemory.create(layout)
    Controls(memory.controls).set(Control.RUNNING, 1)
    settings = WorkerSettings(memory.fd, os.eventfd(0), os.eventfd(0), "reference")
    line = {"cwd": REPO, "text": True, "stdout": subprocess.PIPE}
    with subprocess.Popen(settings.command(), pass_fds=settings.pass_fds, **line) as process:
        os.eventfd_read(settings.answer_fd)
        assert Counters(memory.worker_counters).get(WorkerCounter.READY) == 1
        yield process
        Controls(memory.controls).set(Control.RUNNING, 0)
        os.eventfd_write(settings.doorbell_fd, 1)
        assert process.wait(10) == 0


def test_a_real_worker_is_confined(worker: subprocess.Popen[str]) -> None:
    """With all its threads; and what it may still allocate is less than the manifest's memory, twice, and the room."""
    for task in Path(f"/proc/{worker.pid}/task").iterdir():
        facts = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        assert facts["NoNewPrivs"].strip() == "1" and facts["Seccomp"].strip() == "2"
    limits = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
    most = int(next(line for line in limits if line.startswith("Max data size")).split()[3])
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
    used, manifest = int(facts["VmData"].split()[0]) * 1024, Bundle.open(REFERENCE).manifest
    assert used < 0.8 * most < most < used + memory_for(manifest.memory_bytes, 0, "onnxruntime", False)


def test_what_is_measured_is_bounded_and_what_is_not_has_room() -> None:
    mb = 1 << 20
    assert memory_for(200 * mb, 24 * mb, "onnxruntime", True) == memory_for(200 * mb, 24 * mb, "auto", False) == (400 + 768) * mb
    assert memory_for(0, 24 * mb, "onnxruntime", False) > 4 << 30
    assert memory_for(200 * mb, 24 * mb, "auto", True) == memory_for(200 * mb, 24 * mb, "torch", False) == ROOMY_BYTES


def test_this_machine_is_known() -> None:
    """Numbers of system calls are those of <asm/unistd.h>."""
    assert platform.machine() in MACHINES
    assert MACHINES["x86_64"].socket == 41 and MACHINES["aarch64"].socket == 198
    assert socket.AF_UNIX == 1

"""A sound card for tests: `jackd` on its dummy driver behind ALSA's own jack plugin, and a guitarist and an amp at its other end.

    def test_something(loopback: Loopback) -> None:
        with loopback.guitarist(samples) as guitarist:                 # plays from now on
            loopback.run(sys.executable, "-m", "appliance", ...)       # any program; its card is "alsa:plug:jk" at 44,100 Hz
            heard = guitarist.stop()                                   # what came out of the amp port so far

The same moment has the same index in `samples` and in `heard`, so a lag is a difference of indices.
"""

from __future__ import annotations

import ctypes.util
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

HERE, REPO = Path(__file__).parent, Path(__file__).parents[2]
RATE_HZ, PERIOD_FRAMES = 44_100, 128
ALSA_CONF = Path("/usr/share/alsa/alsa.conf")
ASOUND = f"""
<{ALSA_CONF}>
pcm.jk {{ type jack playback_ports {{ 0 tester:amp }} capture_ports {{ 0 tester:guitar }} }}
"""
Samples = NDArray[np.float32]


def missing_part() -> str | None:
    """What the loopback needs and this machine lacks."""
    if not shutil.which("jackd"):
        return "jackd is not installed (apt install jackd2)"
    if not ctypes.util.find_library("jack"):
        return "libjack is not installed (apt install jackd2)"
    if not any(Path("/usr").glob("lib*/**/alsa-lib/libasound_module_pcm_jack.so")):
        return "ALSA's jack plugin is not installed (apt install libasound2-plugins)"
    for module, package in (("alsaaudio", "pyalsaaudio"), ("jack", "JACK-Client")):
        if not importlib.util.find_spec(module):
            return f"{package} is not installed (pip install 'ghostnote[device,dev]')"
    return None


@dataclass
class Guitarist:
    """A running jack_player.py."""

    process: subprocess.Popen[str]
    record: Path

    def stop(self) -> Samples:
        """End the recording. What was heard from the first sample on."""
        if self.process.poll() is None:
            _, errors = self.process.communicate("stop\n", timeout=10)
            assert self.process.returncode == 0, errors
        return np.fromfile(self.record, np.float32)


class Loopback:
    """A JACK server and the environment in which programs find it as an ALSA card."""

    address = "alsa:plug:jk"

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        self.jackd: subprocess.Popen[bytes] | None = None
        (folder / "asound.conf").write_text(ASOUND)
        self.environment = {**os.environ, "ALSA_CONFIG_PATH": str(folder / "asound.conf"), "PYTHONPATH": str(REPO)}
        self.environment |= {"JACK_DEFAULT_SERVER": server, "JACK_NO_START_SERVER": "1", "JACK_NO_AUDIO_RESERVATION": "1"}

    def start_server(self) -> None:
        """Real-time where that is permitted, otherwise without. Skips the test if neither works."""
        if self._start(["-R", "-P", "85"]) or self._start(["-r"]):
            return
        log = (self.folder / "jackd.log").read_text(errors="replace")
        pytest.skip(f"jackd does not start here: {' / '.join(log.strip().splitlines()[-3:])}")

    def _start(self, realtime: list[str]) -> bool:
        dummy = ["-S", "-d", "dummy", "-r", str(RATE_HZ), "-p", str(PERIOD_FRAMES), "-C", "1", "-P", "1"]
        with (self.folder / "jackd.log").open("wb") as log:
            command = ["jackd", *realtime, "-n", self.server, *dummy]
            jackd = self.jackd = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        probe = f"import jack; jack.Client('probe', servername='{self.server}', no_start_server=True).close()"
        give_up_at = time.monotonic() + 5
        while jackd.poll() is None and time.monotonic() < give_up_at:
            if self.run(sys.executable, "-c", probe).returncode == 0 and jackd.poll() is None:
                return True
        self.stop_server()
        return False

    def stop_server(self) -> None:
        if self.jackd is not None:
            self.jackd.terminate()
            try:
                self.jackd.wait(5)
            except subprocess.TimeoutExpired:
                self.kill_server()

    def kill_server(self) -> None:
        """As a crash would: nobody is told."""
        if self.jackd is not None:
            self.jackd.kill()
            self.jackd.wait()

    @contextmanager
    def guitarist(self, samples: Samples) -> Iterator[Guitarist]:
        """Owns the ports that the card connects to: no program can open the card without one."""
        source, record = self.folder / "guitar.f32", self.folder / "amp.f32"
        samples.astype(np.float32).tofile(source)
        record.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / "jack_player.py"), self.server, str(source), str(record)]
        with self.start(*command) as process:
            try:
                assert process.stdout and process.stdout.readline() == "ready\n", process.communicate()[1]
                yield Guitarist(process, record)
            finally:
                process.kill()

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A program in this environment, with pipes; the caller ends it."""
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, cwd=REPO, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def run(self, *command: str, timeout_seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        """A program in this environment, to its end."""
        return subprocess.run(command, env=self.environment, cwd=REPO, capture_output=True, text=True, timeout=timeout_seconds)


@contextmanager
def start_loopback(folder: Path) -> Iterator[Loopback]:
    """A loopback of one's own. Skips the test, with the reason, where parts are missing."""
    missing = missing_part()
    if missing:
        pytest.skip(f"no loopback: {missing}")
    with _server_name() as name:
        loopback = Loopback(folder, name)
        try:
            loopback.start_server()
            yield loopback
        finally:
            loopback.stop_server()
            for leftover in Path("/dev/shm").glob(f"jack_sem.*_{name}_*"):  # of clients whose server was killed
                leftover.unlink(missing_ok=True)


@contextmanager
def _server_name() -> Iterator[str]:
    """A name that nobody else uses. A server that crashes keeps one of JACK's eight places until another of its name comes, so
    the names are few, and each has a lock."""
    for number in range(4):
        name = f"ghostnote-{os.getuid()}-{number}"
        with (Path(tempfile.gettempdir()) / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield name
            return
    pytest.skip("other tests use every loopback of this machine")


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """One server for all tests; a test that kills its server starts its own with `start_loopback`."""
    with start_loopback(tmp_path_factory.mktemp("loopback")) as running:
        yield running

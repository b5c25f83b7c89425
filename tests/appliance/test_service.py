"""What the service says to systemd and to the journal, on a real socket; and that it says nothing where no systemd listens."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.config import AudioConfig, RealtimeConfig, parse_config
from appliance.controls import Control, Controls
from appliance.journal import JournalHandler, about
from appliance.main import RunOptions, Supervisor
from appliance.minute import MINUTE_SECONDS
from appliance.service import FLOWING_PERIODS, Notifier, Service, Stage
from appliance.shared import Layout, SharedMemory
from appliance.slot import SlotState
from appliance.stats import Counter, Counters, Ledger
from engines.bundle import REFERENCE
from tests.appliance.test_main import guitar

REPO = Path(__file__).parents[2]
BLOCK, DELAY = 16_384, 24_576
LAYOUT = Layout(44_100, 128, BLOCK, 0, 16 * BLOCK, 4_096)


class Manager:
    """systemd's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        lines: list[str] = []
        try:
            while True:
                lines += self._socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    one = Manager(str(tmp_path / "notify") if request.param == "a path" else f"@ghostnote-test-{os.getpid()}")
    yield one
    one.close()


class Playing:
    """What the service looks at of a supervisor, with real shared memory and a clock that the test moves."""

    def __init__(self, manager: Manager, watchdog_seconds: float = 4.0) -> None:
        self.now, self.waits_for_card = 100.0, False
        self.memory = SharedMemory.create(LAYOUT)
        self.controls, self.counters = Controls(self.memory.controls), Counters(self.memory.counters)
        self.controls.set(Control.DELAY_FRAMES, DELAY)
        self.slot, self.player = SimpleNamespace(state=SlotState.STARTING), SimpleNamespace(prompt="choir")
        self.spec, self.playing = SimpleNamespace(name="reference"), SimpleNamespace(certified=True)
        self.config = SimpleNamespace(audio=SimpleNamespace(port="alsa:hw:USB"))
        self.manager = manager
        self.service = Service(Notifier(manager.address), watchdog_seconds, lambda: self.now)

    def turn(self, periods: int, seconds: float = 0.01) -> list[str]:
        """Let audio play so many periods, and time go by. What the service says then."""
        self.counters.add(Counter.PERIODS, periods)
        self.counters.add(Counter.POSITION, periods * LAYOUT.period_frames)
        self.now += seconds
        self.service.tick(self)  # type: ignore[arg-type]
        return self.manager.heard()


def test_ready_only_when_audio_flows(manager: Manager) -> None:
    pedal = Playing(manager)
    assert pedal.turn(0) == ["STATUS=waiting for the sound card alsa:hw:USB"]
    assert pedal.turn(0, 5.0) == []
    assert pedal.turn(FLOWING_PERIODS - 1) == []
    assert pedal.turn(1) == ["READY=1", "WATCHDOG=1", "STATUS=dry sound; engine reference is starting"]
    assert "READY=1" not in pedal.turn(1_000, 1.0)


def test_the_watchdog_is_fed_by_progress_and_by_nothing_else(manager: Manager) -> None:
    pedal = Playing(manager)
    pedal.turn(FLOWING_PERIODS)
    fed = sum(pedal.turn(3).count("WATCHDOG=1") for _ in range(1_000))
    assert fed == pytest.approx(10 / (4.0 / 8), abs=2), "eight times as often as needed, not with every tick"
    assert not any(pedal.turn(0) for _ in range(1_000)), "main is well, audio hangs: systemd hears nothing"
    assert pedal.turn(1) == ["WATCHDOG=1"]


def test_a_start_that_waits_for_its_card_is_given_time_and_one_that_hangs_is_not(manager: Manager) -> None:
    pedal = Playing(manager)
    pedal.turn(0)
    assert not any(pedal.turn(0, 0.1) for _ in range(100))
    pedal.waits_for_card = True
    said = [line for _ in range(100) for line in pedal.turn(0, 0.1)]
    assert set(said) == {"EXTEND_TIMEOUT_USEC=30000000"} and 4 <= len(said) <= 6
    pedal.waits_for_card = False
    assert not any(pedal.turn(0, 0.1) for _ in range(100))


def test_each_stage_is_told_once(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    pedal, stages = Playing(manager), []
    with caplog.at_level(logging.INFO, "ghostnote"):
        pedal.turn(0)
        pedal.turn(FLOWING_PERIODS)
        pedal.turn(DELAY // LAYOUT.period_frames)
        for state in (SlotState.READY, SlotState.ACTIVE, SlotState.ACTIVE, SlotState.DEAD):
            pedal.slot.state = state
            stages += [line for line in pedal.turn(10) if line.startswith("STATUS")]
    ready, dead = (f"STATUS=plain delay; engine reference is {state}" for state in ("ready", "dead"))
    assert stages == [ready, "STATUS=reference plays “choir”", dead]
    told = [record.journal_fields["stage"] for record in caplog.records if record.journal_fields["event"] == "stage"]  # type: ignore[attr-defined]
    assert told == ["waiting", "dry", "delay", "engine", "delay"]
    pedal.slot.state = SlotState.ACTIVE
    pedal.turn(10)
    pedal.spec.name, pedal.playing.certified = "choir", False
    assert pedal.turn(10) == ["STATUS=choir plays “choir”, without a certificate"], "another engine is no other stage"
    assert list(Stage) == [Stage.WAITING, Stage.DRY, Stage.DELAY, Stage.ENGINE]


def test_a_line_a_minute(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    pedal = Playing(manager)
    pedal.turn(FLOWING_PERIODS)
    ledger = Ledger(pedal.memory.ledger, BLOCK)
    for number, slack_ms in enumerate((30, 10, 20)):
        written_ns = int((pedal.now + 20 * number + 1) * 1e9)
        ledger.capture(number * BLOCK, 0, written_ns + slack_ms * 1_000_000)
        ledger.row(number * BLOCK)["written"] = written_ns
    pedal.counters.add(Counter.LATE_BLOCKS, 2)
    pedal.counters.add(Counter.GAPS, 1)
    with caplog.at_level(logging.INFO, "ghostnote"):
        assert not any(line.startswith("STATUS") for line in pedal.turn(1, MINUTE_SECONDS - 0.1))
        status = [line for line in pedal.turn(1, 0.2) if line.startswith("STATUS")]
        pedal.turn(1, MINUTE_SECONDS)
    minutes: list[Any] = [record for record in caplog.records if record.journal_fields["event"] == "minute"]  # type: ignore[attr-defined]
    assert minutes[0].message.startswith("slack at least 10 ms, median 20 ms, 2 late, 1 xruns")
    assert minutes[0].message in status[0]
    facts = minutes[0].journal_fields
    assert (facts["slack_min_ms"], facts["slack_median_ms"], facts["late"], facts["xruns"], facts["stage"]) == (10, 20, 2, 1, "dry")
    assert minutes[1].message.startswith("no block answered, 0 late, 0 xruns"), "each minute by itself"


def test_without_systemd_nothing_is_said(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    service = Service.from_environment({})
    assert not service.supervised
    pedal = Playing(manager)
    pedal.service = service
    with caplog.at_level(logging.INFO):
        assert pedal.turn(1_000) == [] and not caplog.records


def test_a_watchdog_that_is_meant_for_another_process_is_left_alone(manager: Manager) -> None:
    """systemd tells a child's child by WATCHDOG_PID."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}
    pedal = Playing(manager)
    pedal.service = Service.from_environment(environ)
    assert "READY=1" in pedal.turn(FLOWING_PERIODS)
    assert not any(pedal.turn(1) for _ in range(100))


def test_a_line_of_the_journal_has_its_fields() -> None:
    sent: list[tuple[str, dict[str, object]]] = []
    handler = JournalHandler(lambda message, **fields: sent.append((message, fields)))
    log = logging.getLogger("ghostnote.test")
    log.addHandler(handler)
    log.propagate = False
    log.error("the engine ended (%s)", "signal 9", extra=about("engine-died", ending="signal 9", nothing=None))
    log.warning("plain")
    log.removeHandler(handler)
    (message, fields), (_, plain) = sent
    assert message == "the engine ended (signal 9)"
    assert (fields["GHOSTNOTE_EVENT"], fields["GHOSTNOTE_ENDING"], fields["PRIORITY"]) == ("engine-died", "signal 9", "3")
    assert fields["CODE_FUNC"] == "test_a_line_of_the_journal_has_its_fields"
    assert "GHOSTNOTE_NOTHING" not in fields and plain["PRIORITY"] == "4" and "GHOSTNOTE_EVENT" not in plain


@pytest.mark.system
def test_the_command_as_systemd_would_start_it(tmp_path: Path) -> None:
    """The real command with a real socket: ready after the first sound, fed while it plays, silent once audio hangs."""
    manager = Manager(str(tmp_path / "notify"))
    config = tmp_path / "ghostnote.toml"
    address = f"file:{guitar(tmp_path / 'guitar.wav', 30.0)}"
    config.write_text(f'[engine]\nbundle = "echo"\n[audio]\nport = "{address}"\n[realtime]\npriority = 0\nworker_nice = 0\n')
    environment = {**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1600000", "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-m", "appliance", "run", "--config", str(config)], cwd=REPO, env=environment) as main:
        said: list[str] = []
        give_up_at = time.monotonic() + 20
        while "STATUS=echo plays “echo”" not in said and time.monotonic() < give_up_at:
            time.sleep(0.02)
            said += manager.heard()
        main.terminate()
    said += manager.heard()
    assert main.returncode == 0
    assert said[0].startswith("STATUS=waiting") and said.index("READY=1") < said.index("STATUS=echo plays “echo”")
    assert said.count("READY=1") == 1 and said[-2:] == ["STOPPING=1", "STATUS=stopping"]
    manager.close()


@pytest.mark.system
@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference engine is not packed")
def test_a_damaged_engine_does_not_keep_a_service_from_playing(tmp_path: Path) -> None:
    """Dry guitar and plain delay go on; the worker says what is wrong, each time that it is started."""
    bundle = bytearray(REFERENCE.read_bytes())
    bundle[len(bundle) // 2] ^= 1
    (tmp_path / "damaged.ghost").write_bytes(bundle)
    config = parse_config(f'[engine]\nbundle = "{tmp_path / "damaged.ghost"}"\n[storage]\nfolder = "{tmp_path}"', "test")
    audio, realtime = AudioConfig(port=f"file:{guitar(tmp_path / 'guitar.wav', 3.0)}", periods=16), RealtimeConfig(priority=0)
    report = Supervisor(replace(config, audio=audio, realtime=realtime), RunOptions(patient=True)).run()
    assert report.seconds > 2.9 and report.startup_s is None and report.engine_restarts >= 1
    assert report.fallback_frames > 0 and report.silent_frames == 0

"""MIDI: what messages mean, the table, the clock, and real messages through a real JACK server (no ALSA sequencer is needed for that)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.tempo import TapTempo
from hw.board import EXPRESSION, BoardError, ControlEvent, KnobEvent, SwitchEvent, open_board
from hw.midi_map import FACTORY, TARGETS, ClockTaps, MidiMap

rtmidi = pytest.importorskip("rtmidi", reason="python-rtmidi is not installed (pip install 'ghostnote[device]')")


@pytest.mark.parametrize(
    ("cc", "value", "event"),
    [
        (20, 127, ControlEvent(1.0, "mix", 1.0)),
        (22, 127, ControlEvent(1.0, "repeats", 0.95)),
        (7, 127, ControlEvent(1.0, "level", 2.0)),
        (21, 0, ControlEvent(1.0, "time", 0.0)),
        (64, 127, ControlEvent(1.0, "freeze", 1.0)),
        (64, 63, ControlEvent(1.0, "freeze", 0.0)),
        (81, 127, SwitchEvent(1.0, 1, True)),
        (81, 0, SwitchEvent(1.0, 1, False)),
        (11, 127, KnobEvent(1.0, EXPRESSION, 1.0)),
        (84, 127, ControlEvent(1.0, "tap", 1.0)),
        (84, 0, None),
        (99, 127, None),
    ],
)
def test_what_controllers_mean(cc: int, value: int, event: object) -> None:
    assert MidiMap().event(1.0, cc, value) == event


def test_the_table_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "midi.toml"
    assert MidiMap.load(path).cc == FACTORY
    learned = MidiMap().learned(70, "mix")
    assert 20 not in learned.cc and learned.cc[70] == "mix"
    learned.save(path)
    assert MidiMap.load(path) == learned
    assert [one.name for one in tmp_path.iterdir()] == ["midi.toml"]
    assert all(MidiMap().learned(1, target).event(0.0, 1, 127) for target in TARGETS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[cc]\n20 = 'volume'", "target 'volume' is unknown: use one of mix"),
        ("[cc]\n128 = 'mix'", "use 0 to 119"),
        ("cc = 3", "only the table"),
        ("[pc]", "only the table"),
        ("[cc", "can't be read"),
    ],
)
def test_a_table_that_makes_no_sense(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "midi.toml"
    path.write_text(text)
    with pytest.raises(BoardError, match=says):
        MidiMap.load(path)


@pytest.mark.parametrize("address", ["midi:?channel=17", "midi:?map=", "midi:?api=oss", "midi:x?wobble=1"])
def test_an_address_that_makes_no_sense(address: str) -> None:
    with pytest.raises(BoardError, match="makes no sense: use channel, map, api"):
        open_board(address)


def test_clock_becomes_the_tempo_and_then_is_quiet() -> None:
    """With a millisecond of jitter: the beat to half a percent, and no tap while nothing changes."""
    dice, clock, tempo, taps, now = random.Random(1), ClockTaps(), TapTempo(), [], 100.0
    for bpm in (120.0, 121.8, 90.0):
        taps.clear()
        for _ in range(24 * 16):
            now += 60 / bpm / 24
            tap = clock.pulse(now + dice.uniform(0, 0.001))
            if tap is not None:
                taps.append(tap)
                beat = tempo.stamp(tap)
        assert beat == pytest.approx(60 / bpm, rel=0.005)
        assert 4 <= len(taps) <= 3 * ClockTaps.TAPS and taps[-1] < now - 1.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from tests.system.conftest import Loopback, missing_part

    if missing := missing_part():
        pytest.skip(missing)
    loopback = Loopback(tmp_path, f"ghostnote-midi-{time.monotonic_ns()}")
    monkeypatch.setenv("JACK_DEFAULT_SERVER", loopback.server)
    monkeypatch.setenv("JACK_NO_START_SERVER", "1")
    loopback.start_server()
    yield loopback.server
    loopback.stop_server()


def controller() -> Any:
    out = rtmidi.MidiOut(rtmidi.API_UNIX_JACK, "stompbox")
    out.open_virtual_port("out")
    return out


@pytest.mark.system
def test_real_messages_from_an_input_that_comes_and_goes(server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    board, began = open_board(f"midi:stompbox?api=jack&channel=2&map={tmp_path}/midi.toml"), time.monotonic()
    assert "no MIDI input named 'stompbox' is plugged in" in caplog.text

    def events(count: int, seconds: float = 15.0) -> list[object]:
        found: list[object] = []
        end = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < end:
            found += board.poll(time.monotonic() - began)
            time.sleep(0.005)
        return found

    def appears(condition: Callable[[], object]) -> bool:
        end = time.monotonic() + 15
        while not condition() and time.monotonic() < end:
            assert events(1, 0.05) == []
        return bool(condition())

    for _ in range(2):
        out = controller()
        assert appears(lambda: board.inputs)
        sent = time.monotonic() - began
        for message in ([0xB1, 20, 64], [0xB2, 20, 3], [0xC1, 5], [0xB1, 80, 127], [0x91, 60, 100]):
            out.send_message(message)
        mix, preset, switch = events(3)
        assert (mix.control, mix.value) == ("mix", 64 / 127) and abs(mix.seconds - sent) < 0.5
        assert (preset.control, preset.value) == ("preset", 5.0) and switch == SwitchEvent(switch.seconds, 0, True)
        out.close_port()
        out.delete()
        assert appears(lambda: not board.inputs)
    assert caplog.text.count("is here") == 2 and caplog.text.count("is gone") == 2
    board.close()


def test_no_sequencer_is_said_in_one_line() -> None:
    if Path("/dev/snd/seq").exists():
        pytest.skip("this machine has an ALSA sequencer")
    with pytest.raises(BoardError, match="needs ALSA's sequencer, which is not there: run `modprobe snd-seq`"):
        open_board("midi:")


@pytest.mark.system
def test_a_controller_is_learned(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import threading

    from rich.console import Console

    from appliance.board_command import learn

    out, moved = controller(), threading.Event()

    def move() -> None:
        while not moved.wait(0.1):
            out.send_message([0xB0, 33, 12])

    hand = threading.Thread(target=move)
    hand.start()
    try:
        assert learn(f"midi:stompbox?api=jack&map={tmp_path}/midi.toml", "mix", Console()) == 0
    finally:
        moved.set()
        hand.join()
        out.close_port()
    assert "controller 33 is 'mix' now" in capsys.readouterr().out
    assert MidiMap.load(tmp_path / "midi.toml").cc[33] == "mix"
    with pytest.raises(BoardError, match="needs a table to write to"):
        learn("midi:stompbox?api=jack", "mix", Console())
    with pytest.raises(BoardError, match="'volume' is unknown"):
        learn("midi:stompbox?api=jack", "volume", Console())

"""The ALSA port's recovery, stage by stage, on a card that fails on demand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hw import alsa
from hw.alsa import AlsaPort
from hw.audio import AudioFormat, PortError
from tests.hw.scripted_alsa import ScriptedCards

FORMAT = AudioFormat(sample_format="FLOAT", period_frames=64, periods=3)
SILENCE = bytes(64 * 4)


class Rig:
    """A port on a scripted card, turned like the audio loop does."""

    def __init__(self, device: str = "hw:1,0", patience_seconds: float = 10.0) -> None:
        self.cards = ScriptedCards()
        self.port = AlsaPort(device, FORMAT, self.cards, patience_seconds)
        self.into = np.zeros((64, 1), np.float32)

    def turn(self) -> int:
        """One period. Number of the period that was heard, 0 for silence, -1 at the end."""
        if not self.port.read(self.into):
            return -1
        self.port.write(self.into)
        return round(float(self.into[0, 0]) * 1024)

    def turns(self, count: int) -> list[int]:
        return [self.turn() for _ in range(count)]


def test_starts_with_playback_full_and_passes_everything_on() -> None:
    rig = Rig()
    assert rig.turns(4) == [1, 2, 3, 4]
    assert rig.cards.playback.written[:3] == [SILENCE] * 3
    assert [np.frombuffer(data, "<f4")[0] * 1024 for data in rig.cards.playback.written[3:]] == [1, 2, 3, 4]
    assert rig.port.lag_frames == 3 * 64 and rig.port.health == alsa.PortHealth()


def test_capture_xrun_starts_both_ways_again() -> None:
    rig = Rig()
    rig.turns(4)
    rig.cards.capture.faults = ["xrun"]
    rig.cards.playback.written.clear()
    assert rig.turns(3) == [0, 5, 6]
    assert rig.cards.capture.dropped and rig.cards.playback.dropped
    assert rig.cards.playback.written[:3] == [SILENCE] * 3 and len(rig.cards.playback.written) == 5, "as full as at the start"
    assert (rig.port.health.capture_xruns, rig.port.health.reopens) == (1, 0)


def frames_of(written: list[bytes]) -> list[int]:
    return [len(data) // 4 for data in written]


@pytest.mark.parametrize("heard_since_frames", [0, 10, 63])
def test_playback_xrun_refills_and_keeps_the_lag(heard_since_frames: int) -> None:
    rig = Rig()
    rig.turns(4)
    rig.cards.playback.faults = ["xrun"]
    rig.cards.capture.avail_frames = heard_since_frames
    written = rig.cards.playback.written
    written.clear()
    assert rig.turns(2) == [5, 6]
    assert frames_of(written) == [64, 64 - heard_since_frames, 64, 64] and not any(map(any, written[:2]))
    assert np.frombuffer(written[2], "<f4")[0] * 1024 == 5, "the period that found it dry is not lost"
    assert (rig.port.health.playback_xruns, rig.port.health.capture_xruns) == (1, 0)
    assert not rig.cards.capture.dropped, "nor is anything of what comes in"


def test_playback_xrun_with_a_backlog_starts_both_ways_again() -> None:
    rig = Rig()
    rig.turns(4)
    rig.cards.playback.faults = ["xrun"]
    rig.cards.capture.avail_frames = 64
    rig.turn()
    assert rig.cards.capture.dropped and rig.cards.playback.dropped
    rig.cards.playback.written.clear()
    rig.turn()
    assert rig.cards.playback.written[:3] == [SILENCE] * 3


def test_a_false_start_is_no_xrun_and_is_tried_again_but_not_for_ever() -> None:
    """Capture may be so slow to start that playback has run dry before the first period is written."""
    rig = Rig()
    rig.cards.playback.faults = ["", "", "", "xrun"] * (alsa.FALSE_STARTS + 1)
    assert rig.turns(6) == [1, 2, 3, 4, 5, 6]
    assert rig.cards.playback.written.count(SILENCE) == 3 * (alsa.FALSE_STARTS + 1) + 2
    assert rig.port.health == alsa.PortHealth()


def test_a_start_with_another_lag_is_tried_again_then_reported() -> None:
    rig = Rig()
    rig.cards.capture.avail_frames = 64  # a period more than there should be
    rig.turns(100)
    assert rig.port.lag_frames == 4 * 64
    assert rig.cards.playback.written.count(SILENCE) == 3 * (alsa.FALSE_STARTS + 1)
    rig.cards.capture.avail_frames = 5  # what a real card shows: the two ways do not start within the same frame
    rig.cards.capture.faults = ["xrun"]
    rig.turns(10)
    assert rig.port.lag_frames == 3 * 64


def test_close_plays_what_was_written_to_its_end() -> None:
    rig = Rig()
    rig.turns(4)
    rig.port.close()
    assert rig.cards.playback.written[-3:] == [SILENCE] * 3 and rig.cards.playback.closed


def test_playback_that_never_recovers_reopens() -> None:
    rig = Rig()
    rig.turns(4)
    rig.cards.playback.faults = ["xrun", "", "", ""] * 20
    rig.turns(40)
    assert rig.port.health.reopens == 1


def test_one_error_reopens_the_card_by_its_id() -> None:
    rig = Rig("hw:1,0")
    rig.turns(2)
    first = rig.cards.capture
    first.faults = ["error"]
    assert rig.turns(3) == [0, 3, 4]
    assert first.closed and rig.cards.capture is not first
    assert rig.cards.attempts == ["hw:1,0"] * 2 + ["hw:USB,0"] * 2
    assert rig.port.health.reopens == 1 and rig.cards.playback.written[:3] == [SILENCE] * 3


def test_error_while_writing_reopens() -> None:
    rig = Rig()
    rig.turns(2)
    rig.cards.playback.faults = ["error"]
    assert rig.turns(3) == [3, 4, 5]
    assert rig.port.health.reopens == 1


def test_short_read_reopens() -> None:
    rig = Rig()
    rig.turns(2)
    rig.cards.capture.faults = ["short"]
    assert rig.turns(2)[0] == 0
    assert rig.port.health.reopens == 1


def test_many_xruns_in_a_row_reopen() -> None:
    rig = Rig()
    rig.turns(2)
    rig.cards.capture.faults = ["xrun"] * (alsa.QUICK_XRUNS + 1)
    assert rig.turns(alsa.QUICK_XRUNS + 1) == [0] * (alsa.QUICK_XRUNS + 1)
    assert rig.port.health.reopens == 0
    assert rig.turn() > 0
    assert (rig.port.health.capture_xruns, rig.port.health.reopens) == (alsa.QUICK_XRUNS + 1, 1)


def test_rare_xruns_never_reopen() -> None:
    rig = Rig()
    for _ in range(3 * alsa.QUICK_XRUNS):
        rig.turns(alsa.CALM_PERIODS)
        rig.cards.capture.faults = ["xrun"]
        assert rig.turn() == 0
    assert (rig.port.health.capture_xruns, rig.port.health.reopens) == (3 * alsa.QUICK_XRUNS, 0)


def test_a_card_that_hangs_is_reopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alsa, "STALL_MS", 20)
    rig = Rig()
    rig.turns(2)
    rig.cards.capture.hang()
    assert rig.turn() == 0
    assert rig.turn() > 0 and rig.port.health.reopens == 1
    monkeypatch.setattr(alsa, "REOPEN_EVERY_NS", 0)
    rig.cards.playback.hang()
    rig.turn()
    assert rig.turn() > 0 and rig.port.health.reopens == 2


def test_an_unplugged_card_is_silent_in_real_time_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alsa, "REOPEN_EVERY_NS", 20_000_000)
    rig = Rig()
    rig.turns(2)
    rig.cards.present = False
    begun = time.monotonic()
    assert rig.turns(50) == [0] * 50
    assert time.monotonic() - begun >= 48 * 64 / 44_100, "a missing card must not let the loop run free"
    rig.cards.present = True
    assert any(heard > 0 for heard in rig.turns(50))
    assert rig.port.health.reopens == 1


def test_a_card_that_stays_away_ends_the_port() -> None:
    rig = Rig(patience_seconds=0.1)
    rig.turns(2)
    rig.cards.present = False
    heard = []
    while not heard or heard[-1] != -1:
        heard.append(rig.turn())
    assert 10 < len(heard) < 200 and set(heard) == {0, -1}
    assert len(rig.cards.attempts) <= 5, "it is tried four times a second, not every period"
    rig.port.close()


def test_the_first_direction_is_closed_if_the_second_fails() -> None:
    cards = ScriptedCards()
    cards.alters = {"channels": 2}
    with pytest.raises(PortError):
        AlsaPort("hw:1", FORMAT, cards)
    cards.alters = {}
    stereo_out = AudioFormat(sample_format="FLOAT", out_channels=2)
    cards.alters = {"channels": 2}
    with pytest.raises(PortError, match=r"hw:1 \(capture\).*channels 1 \(it gives 2\)"):
        AlsaPort("hw:1", stereo_out, cards)
    assert all(pcm.closed for pcm in cards.opened)


def test_close_is_final_and_may_come_twice() -> None:
    rig = Rig()
    rig.turns(2)
    rig.port.close()
    rig.port.close()
    assert all(pcm.closed for pcm in rig.cards.opened)


class LosesOnce(alsa.GapDetector):
    """Finds a gap in the first period that it is asked about."""

    left = 10  # frames

    def count(self, frames: int, now_ns: int) -> int:
        lost, self.left = self.left, 0
        return lost


@pytest.mark.parametrize(("room_frames", "filled_frames"), [(74, 10), (69, 5), (64, 0), (138, 10)])
def test_a_gap_leaves_the_lag_as_it_was(room_frames: int, filled_frames: int) -> None:
    """Never more than was lost, and nothing if an xrun has mended it since."""
    rig = Rig()
    rig.turns(20)
    rig.port._gaps = LosesOnce(44_100)
    rig.cards.playback.avail_frames = room_frames
    rig.cards.playback.written.clear()
    assert rig.turn() == 21
    assert frames_of(rig.cards.playback.written) == [filled_frames, 64][not filled_frames :]
    assert not any(map(any, rig.cards.playback.written[:-1]))
    assert (rig.port.health.gaps, rig.port.health.gap_frames, rig.port.lag_frames) == (1, 10, 192)


def test_a_gap_of_more_than_a_period() -> None:
    rig = Rig()
    rig.turns(20)
    rig.port._gaps = LosesOnce(44_100)
    rig.port._gaps.left, rig.cards.playback.avail_frames = 70, 64 + 70
    rig.cards.playback.written.clear()
    rig.turn()
    assert frames_of(rig.cards.playback.written) == [64, 6, 64]


def test_a_card_that_fails_while_a_gap_is_mended_is_reopened() -> None:
    rig = Rig()
    rig.turns(20)
    rig.port._gaps = LosesOnce(44_100)
    rig.cards.playback.avail_frames = 74
    rig.cards.playback.faults = ["error"]
    rig.turn()
    assert rig.turns(2)[-1] > 0 and rig.port.health.reopens == 1

"""One engine takes over from the other in the audio loop: what is heard before, between and after, and when the new one fails."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.controls import Control, Turn
from appliance.ring import WetRing
from appliance.shared import SlotFact
from appliance.stats import Counter, Ledger
from tests.appliance.rig import LOST, Array, Rig, Size, largest_step, noise, sine

CLICK = 0.01  # 1 % of full scale
BLOCK, PERIOD = 2048, 128
FRAMES = 40 * BLOCK
TURN_AT = 12 * BLOCK


class TwoEngines(Rig):
    """A rig whose slot 1 has another engine, which has answered every block so far."""

    def __init__(
        self,
        other: Array,
        guitar: Array | None = None,
        first: Array | None = None,
        codec_delays: tuple[int, int] = (0, 0),
        **controls: float,
    ) -> None:
        size = Size(codec_delay_frames=codec_delays[0])
        controls.setdefault("delay_frames", 2 * BLOCK + max(codec_delays) + size.fade_frames)
        super().__init__(noise(FRAMES, 1) if guitar is None else guitar, noise(FRAMES, 2) if first is None else first, size, **controls)
        slot = self.memory.of(1)
        slot.facts[SlotFact.CODEC_DELAY_FRAMES], slot.facts[SlotFact.TAKEN] = codec_delays[1], 1
        self.other, self.second, self.delay_frames = other, WetRing(slot), int(controls["delay_frames"])
        self.second_latencies: dict[int, int | None] = {}
        self._unanswered: list[int] = []
        self._known = 0

    def turn(self, from_frames: int = TURN_AT, slot: int = 1) -> None:
        self.controls.set(Control.TURN, Turn(slot, from_frames).value)

    def _answer(self) -> None:
        super()._answer()
        heard = self.loop.position // BLOCK
        self._unanswered += range(self._known, heard)
        self._known = heard
        for block in list(self._unanswered):
            latency = self.second_latencies.get(block, 0)
            if latency is not LOST and self.loop.position >= (block + 1) * BLOCK + latency:
                self._unanswered.remove(block)
                first = block * BLOCK - self.second.codec_delay
                self.second.write_block(block * BLOCK, np.take(self.other, np.arange(first, first + BLOCK), mode="clip"))

    def music(self, signal: Array, begin: int, end: int) -> Array:
        return np.take(signal, np.arange(begin, end), mode="clip")

    def heard(self, begin: int, end: int) -> Array:
        """The wet bus, by the music that it answers."""
        return self.bus[begin + self.delay_frames : end + self.delay_frames]


def play(rig: TwoEngines, turn_at_period: int = 12 * 16 - 8, periods: int = 36 * 16) -> TwoEngines:
    rig.play(turn_at_period)
    rig.turn()
    rig.play(periods - turn_at_period)
    return rig


def assert_a_mean(rig: TwoEngines, begin: int, end: int) -> None:
    heard, one, other = rig.heard(begin, end), rig.music(rig.engine, begin, end), rig.music(rig.other, begin, end)
    assert np.all(heard >= np.minimum(one, other) - 1e-6) and np.all(heard <= np.maximum(one, other) + 1e-6)


@pytest.mark.parametrize("codec_delays", [(0, 0), (300, 0), (0, 1536), (1536, 300)])
def test_each_moment_of_the_music_is_one_engines(codec_delays: tuple[int, int]) -> None:
    rig = play(TwoEngines(noise(FRAMES, 3), codec_delays=codec_delays))
    end = rig.loop.position - rig.delay_frames
    assert np.array_equal(rig.heard(0, TURN_AT), rig.engine[:TURN_AT])
    assert_a_mean(rig, TURN_AT, TURN_AT + BLOCK)
    over = TURN_AT + BLOCK + PERIOD  # the fade's last period need not begin with a period
    assert np.allclose(rig.heard(TURN_AT + BLOCK, over), rig.other[TURN_AT + BLOCK : over], atol=1e-6)
    assert np.array_equal(rig.heard(over, end), rig.other[over:end])
    assert rig.count(Counter.SLOT) == 1
    assert rig.count(Counter.LATE_BLOCKS) == rig.count(Counter.SILENT_FRAMES) == rig.count(Counter.FALLBACK_FRAMES) == 0


def test_back_and_forth() -> None:
    rig = TwoEngines(noise(FRAMES, 3))
    for number, slot in enumerate((1, 0, 1, 0)):
        rig.play(8 * 16)
        rig.turn((number * 8 + 9) * BLOCK, slot)
    rig.play(6 * 16)
    for number, signal in enumerate((rig.engine, rig.other, rig.engine, rig.other)):
        begin, end = (number * 8 + 2) * BLOCK, (number * 8 + 9) * BLOCK
        assert np.array_equal(rig.heard(begin, end), signal[begin:end]), number
    assert rig.count(Counter.LATE_BLOCKS) == 0 and rig.count(Counter.SLOT) == 0


def test_the_output_is_as_loud_between_as_on_either_side() -> None:
    """Two engines that have nothing in common: the mean is softer, and what goes to the amp is lifted by just that."""
    levels = []
    for seed in range(6):
        rig = TwoEngines(noise(FRAMES, 30 + seed, 0.3), first=noise(FRAMES, 60 + seed, 0.3))
        play(rig)
        out = rig.amp[:, 0]
        begin = TURN_AT + rig.delay_frames
        levels.append([np.mean(out[begin + at : begin + at + 256] ** 2) for at in range(-BLOCK, 2 * BLOCK, 256)])
    level_db = 10 * np.log10(np.mean(levels, axis=0) / np.mean(np.mean(levels, axis=0)[:8]))
    assert np.max(np.abs(level_db)) < 0.5, level_db


def test_what_is_repeated_is_never_lifted() -> None:
    """Both engines give back what they hear: in the middle of the fade the loop's gain is that of the repeats."""
    rig = TwoEngines(sine(FRAMES, 110, 0.3), sine(FRAMES, 110, 0.3), sine(FRAMES, 110, 0.3), repeats=0.95, mix=0.0)
    play(rig)
    sent = rig.memory.input
    assert np.max(np.abs(rig.bus)) <= 0.3 + 1e-6
    assert np.max(np.abs(sent)) <= 0.3 + 0.95 * 0.3 + 1e-5


@given(
    failed=st.lists(st.integers(8, 18), max_size=5),
    revoked_after=st.integers(1, 9 * 16),
    restarts=st.booleans(),
    delays=st.lists(st.integers(3 * BLOCK, 8 * BLOCK), max_size=3),
)
@example(failed=[12], revoked_after=8 * 16, restarts=False, delays=[])
@example(failed=[13], revoked_after=8 * 16, restarts=True, delays=[5 * BLOCK])
@settings(max_examples=25, deadline=None)
def test_whatever_fails_there_is_no_click_and_no_silence(failed: list[int], revoked_after: int, restarts: bool, delays: list[int]) -> None:
    """The new engine loses blocks, main takes its turn back at any moment, audio starts again, the delay time moves: all of it together."""
    rig = TwoEngines(sine(FRAMES, 165), sine(FRAMES, 110), sine(FRAMES, 130))
    rig.second_latencies = dict.fromkeys(failed, LOST)
    rig.play(11 * 16)
    rig.turn()
    rig.play(2 * 16)
    for delay in delays:
        rig.set(delay_frames=delay)
        rig.play(9)
    seam = rig.loop.position
    if restarts:
        rig.start_audio()
    rig.play(revoked_after)
    rig.turn(0, 0)
    rig.play(6 * 16)
    allowed = 1.42 * max(largest_step(signal) for signal in (rig.engine, rig.other, rig.guitar[:, 0])) + CLICK
    heard = np.delete(np.diff(rig.amp[: rig.loop.position, 0]), seam - 1)  # the amp's side of a restart fades in from nothing
    assert np.max(np.abs(heard)) <= allowed
    assert rig.count(Counter.SILENT_FRAMES) == 0
    assert rig.count(Counter.LATE_BLOCKS) <= sum(block > 12 for block in failed), "only blocks that are the new engine's alone"
    end = rig.loop.position - int(rig.controls.get(Control.DELAY_FRAMES))
    assert np.array_equal(rig.bus[rig.loop.position - 512 : rig.loop.position], rig.engine[end - 512 : end])
    rig.close()


def test_a_new_engine_that_is_lost_half_way_leaves_the_old_one() -> None:
    rig = TwoEngines(noise(FRAMES, 3))
    rig.second_latencies = dict.fromkeys(range(12, 40), LOST)
    play(rig)
    end = rig.loop.position - rig.delay_frames
    assert np.array_equal(rig.heard(0, end), rig.engine[:end]) and rig.count(Counter.LATE_BLOCKS) == 0
    assert rig.count(Counter.SLOT) == 0, "main will take the turn back"


def test_an_old_engine_that_is_lost_half_way_does_not_stop_the_new_one() -> None:
    rig = TwoEngines(noise(FRAMES, 3))
    rig.latencies = dict.fromkeys(range(10, 40), LOST)
    play(rig)
    end = rig.loop.position - rig.delay_frames
    assert np.array_equal(rig.heard(10 * BLOCK, TURN_AT), rig.guitar[10 * BLOCK : TURN_AT, 0])
    assert np.array_equal(rig.heard(TURN_AT + BLOCK, end), rig.other[TURN_AT + BLOCK : end])
    assert rig.count(Counter.SILENT_FRAMES) == 0 and rig.count(Counter.SLOT) == 1


def test_an_audio_process_that_starts_again_finds_itself_in_the_middle() -> None:
    whole = play(TwoEngines(noise(FRAMES, 3)))
    rig = TwoEngines(noise(FRAMES, 3))
    rig.play(12 * 16 - 8)
    rig.turn()
    middle = (TURN_AT + rig.delay_frames + BLOCK // 2) // PERIOD
    rig.play(middle - 12 * 16 + 8)
    rig.start_audio()
    rig.play(36 * 16 - middle)
    assert np.allclose(rig.bus, whole.bus, atol=1e-6) and rig.count(Counter.SLOT) == 1


def test_and_after_the_turn_it_knows_whose_it_was() -> None:
    rig = play(TwoEngines(noise(FRAMES, 3)), periods=30 * 16)
    rig.start_audio()
    rig.play(4 * 16)
    end = rig.loop.position - rig.delay_frames
    assert np.array_equal(rig.heard(end - 4 * BLOCK, end), rig.other[end - 4 * BLOCK : end])


def test_a_turn_that_is_no_number_is_none() -> None:
    rig = TwoEngines(noise(FRAMES, 3))
    rig.play(100)
    for value in (float("nan"), -1.0, float("-inf"), float("inf")):
        rig.controls.set(Control.TURN, value)
        rig.play(50)
    end = rig.loop.position - rig.delay_frames
    assert np.array_equal(rig.heard(0, end), rig.engine[:end])


def test_each_slots_blocks_are_due_by_its_own_codec() -> None:
    rig = TwoEngines(noise(FRAMES, 3), codec_delays=(0, 1024))
    rig.memory.of(1).facts[SlotFact.SHORTEST_DELAY_FRAMES] = rig.delay_frames + 700
    rig.play(10 * 16)
    first, second = (Ledger(rig.memory.of(slot).ledger, BLOCK).blocks() for slot in (0, 1))
    assert list(first["start"]) == list(second["start"]) and len(first) == 10
    frames = (second["due"] - first["due"]) * 44_100 / 1e9
    assert np.allclose(frames, 700 - 1024, atol=1), "in the dark as with the delay that it will get"


def test_no_array_is_allocated_while_one_takes_over() -> None:
    rig = TwoEngines(noise(FRAMES, 3), repeats=0.5)
    rig.play(11 * 16)
    rig.turn()
    peaks = []
    for turn in range(12 * 16):
        rig._answer()
        tracemalloc.start()
        rig.loop.turn()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        rig.loop.turn()
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
        if turn == 5:
            rig.set(delay_frames=rig.delay_frames + 999)
    assert rig.count(Counter.SLOT) == 1
    assert np.percentile(peaks, 95) < PERIOD * 4 + 1024, np.percentile(peaks, [50, 95, 100])

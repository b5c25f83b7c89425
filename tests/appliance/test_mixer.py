"""Mix, level, bypass, repeats, delay time and the limiter, driven through the whole audio loop."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.controls import Control
from appliance.gain import Gain
from appliance.mixer import LIMIT_ABOVE, Limiter
from appliance.stats import Counter
from engines.engine import GUARD_SECONDS, LoopGuard
from tests.appliance.rig import LOST, Array, Rig, Size, largest_step, noise, sine

CLICK = 0.01  # 1 % of full scale
FRAMES = 40 * 2048
TURNS = FRAMES // 128


def tones(**controls: float) -> Rig:
    """Guitar and engine as two low tones: any click stands out of them."""
    return Rig(sine(FRAMES, 110), sine(FRAMES, 165), **controls)


def assert_no_click(samples: Array, *parts: Array) -> None:
    assert largest_step(samples) <= max(largest_step(part) for part in parts) + CLICK


# Mix, level and the ways to the output


def test_mix_0_is_bit_exact_up_to_full_scale() -> None:
    guitar = noise(FRAMES, 1, 1.0)
    guitar[5000:5010] = [1.0, -1.0] * 5
    rig = Rig(guitar, sine(FRAMES, 165), mix=0.0, repeats=0.5)
    assert np.array_equal(rig.play(TURNS), guitar)


def test_mix_1_is_wet_only() -> None:
    rig = tones()
    out = rig.play(TURNS)
    assert not out[: rig.shortest_delay_frames].any()
    assert np.array_equal(out[rig.shortest_delay_frames :], rig.engine[: FRAMES - rig.shortest_delay_frames])


@pytest.mark.parametrize("mix", [0.2, 0.5, 0.8])
def test_dry_and_wet_are_mixed_with_equal_power(mix: float) -> None:
    rig = tones(mix=mix)
    out = rig.play(TURNS)
    wet = np.concatenate([np.zeros(rig.shortest_delay_frames, np.float32), rig.engine])[:FRAMES]
    angle = mix * math.pi / 2
    assert np.allclose(out, math.cos(angle) * rig.guitar[:, 0] + math.sin(angle) * wet, atol=1e-6)


def test_level_is_the_gain_of_all() -> None:
    half, whole = tones(mix=0.5, level=0.5), tones(mix=0.5)
    assert np.allclose(2 * half.play(TURNS), whole.play(TURNS), atol=1e-6)


def test_kill_dry_leaves_the_wet() -> None:
    rig, without = tones(mix=0.5, kill_dry=1.0), Rig(sine(FRAMES, 110), sine(FRAMES, 165), mix=0.5)
    dry = math.cos(math.pi / 4) * sine(FRAMES, 110)
    assert np.allclose(rig.play(TURNS), without.play(TURNS) - dry, atol=1e-6)


def test_mono_in_stereo_out() -> None:
    rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2), mix=0.5, out_channels=2)
    rig.play(TURNS)
    assert rig.amp.any() and np.array_equal(rig.amp[:, 0], rig.amp[:, 1])


def test_stereo_keeps_its_sides_and_gets_the_same_wet() -> None:
    guitar = np.stack([noise(FRAMES, 1, 0.3), noise(FRAMES, 2, 0.3)], axis=1)
    rig = Rig(guitar, noise(FRAMES, 3, 0.3), mix=0.5, out_channels=2)
    rig.play(TURNS)
    wet = rig.amp - math.cos(math.pi / 4) * guitar
    assert np.allclose(wet[:, 0], wet[:, 1], atol=1e-6)
    assert np.allclose(rig.loop.send, guitar[-128:].mean(axis=1), atol=1e-6)


def test_stereo_in_mono_out_is_the_mean() -> None:
    guitar = np.stack([noise(FRAMES, 1), noise(FRAMES, 2)], axis=1)
    rig = Rig(guitar, noise(FRAMES, 3), mix=0.0)
    assert np.allclose(rig.play(TURNS), guitar.mean(axis=1), atol=1e-6)


# Bypass


def test_bypass_is_the_dry_signal_bit_by_bit() -> None:
    rig = Rig(noise(FRAMES, 1, 1.0), np.zeros(FRAMES, np.float32), mix=0.7, level=0.5, bypass=1.0)
    assert np.array_equal(rig.play(TURNS), rig.guitar[:, 0])


def test_trails_ring_out() -> None:
    """What was played before the switch is still answered; what is played after it is not."""
    rig = tones(mix=0.5)
    rig.engine = np.zeros(0, np.float32)
    rig.latencies = dict.fromkeys(range(40), LOST)  # the plain delay shows what was sent
    rig.play(200)
    rig.set(bypass=1.0)
    trail = rig.play(TURNS - 200) - rig.guitar[200 * 128 :, 0]
    sent_until = rig.shortest_delay_frames
    assert np.sqrt(np.mean(trail[2048 : sent_until - 1024] ** 2)) > 0.2
    assert np.max(np.abs(trail[sent_until + 1024 :])) < 1e-6


def test_bypass_without_trails_is_silent_at_once_and_forgets_the_repeats() -> None:
    rig = tones(mix=0.5, trails=0.0, repeats=0.9)
    rig.play(200)
    rig.set(bypass=1.0)
    after = rig.play(200)[1024:] - rig.guitar[200 * 128 : 400 * 128, 0][1024:]
    assert not after.any()
    assert not rig.memory.input[(300 * 128) % 32768 : (300 * 128) % 32768 + 1000].any()


# Nothing clicks

jumps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["mix", "level"]), st.floats(0, 1)),
        st.tuples(st.sampled_from(["bypass", "kill_dry", "trails"]), st.sampled_from([0.0, 1.0])),
        st.tuples(st.just("prompt"), st.sampled_from([0.0, 3.0])),
    ),
    min_size=1,
    max_size=12,
)


@given(jumps=jumps, turns=st.integers(1, 40))
@settings(max_examples=40)
def test_no_control_clicks(jumps: list[tuple[str, float]], turns: int) -> None:
    rig = tones(mix=0.5)
    parts = [rig.play(100)]
    for name, value in jumps:
        rig.set(**{name: value})
        parts.append(rig.play(turns))
    parts.append(rig.play(30))
    dry, wet = rig.guitar[:, 0], rig.engine
    assert largest_step(np.concatenate(parts)) <= largest_step(dry) + largest_step(wet) + CLICK  # they may sound side by side
    rig.close()


@given(delays=st.lists(st.integers(4000, 24000), min_size=1, max_size=10), turns=st.integers(1, 30), fails=st.booleans())
@settings(max_examples=40)
def test_a_sweep_of_the_delay_time_does_not_click(delays: list[int], turns: int, fails: bool) -> None:
    rig = tones()
    parts = [rig.play(220, dict.fromkeys(range(12, 15), LOST) if fails else None)]
    for delay_frames in delays:
        rig.set(delay_frames=delay_frames)
        parts.append(rig.play(turns))
    parts.append(rig.play(30))
    assert_no_click(np.concatenate(parts), rig.guitar[:, 0], rig.engine)
    assert rig.count(Counter.SILENT_FRAMES) == 0
    assert rig.loop.mixer.bus._tap.delay_frames == delays[-1] or rig.loop.mixer.bus._next.delay_frames == delays[-1]
    rig.close()


def test_a_delay_longer_than_the_music_so_far_is_no_fault() -> None:
    rig = tones(delay_frames=22_000)
    rig.set(delay_frames=rig.shortest_delay_frames)
    rig.play(100)
    rig.set(delay_frames=22_000)
    out = rig.play(30)
    assert not out[2048:].any() and rig.count(Counter.SILENT_FRAMES) == 0


def test_a_new_delay_time_is_reached_in_1024_frames() -> None:
    rig = tones()
    rig.play(200)
    rig.set(delay_frames=12_000)
    rig.play(8)
    position = rig.loop.position
    out = rig.play(100)
    assert np.array_equal(out, rig.engine[position - 12_000 :][: 100 * 128])


def test_jamming_sounds_two_blocks_late_whatever_the_delay() -> None:
    """By then the music goes on for which the accompaniment was made."""
    jam, plain = tones(jam=1.0, delay_frames=3 * 2048), tones(delay_frames=2 * 2048)
    assert plain.memory.layout.block_frames == 2048
    assert np.array_equal(jam.play(TURNS), plain.play(TURNS))


def test_prompt_is_not_heard_by_the_mixer() -> None:
    left, right = tones(mix=0.5), tones(mix=0.5)
    right.play(100)
    right.set(prompt=5.0, steps=2.0)
    right.play(TURNS - 100)
    left.play(TURNS)
    assert np.array_equal(left.amp, right.amp)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e9])
@pytest.mark.parametrize("control", ["mix", "delay_frames", "repeats", "level", "bypass", "kill_dry", "trails"])
def test_no_value_of_a_control_does_harm(control: str, value: float) -> None:
    rig = tones(mix=0.5)
    rig.play(100)
    rig.set(**{control: value})
    out = rig.play(100)
    assert np.isfinite(out).all() and np.max(np.abs(out)) <= 1.0


# Repeats


def test_repeats_come_back_by_their_share() -> None:
    """A click, alone with the plain delay: each repeat is the last one times `repeats`."""
    guitar = np.zeros(FRAMES, np.float32)
    guitar[1000:1064] = 0.8
    rig = Rig(guitar, guitar, repeats=0.5, delay_frames=6000)
    out = rig.play(TURNS, dict.fromkeys(range(40), LOST))
    heard = [float(out[1032 + n * 6000]) for n in range(1, 6)]
    assert np.allclose(heard, [0.8 * 0.5**n for n in range(5)], atol=1e-6)


@pytest.mark.parametrize("latency", [0, 2500, LOST])
def test_repeats_at_most_stay_bounded_and_fade(latency: int | None) -> None:
    seconds = 6 * 44_100 // 2048 * 2048
    guitar = np.concatenate([sine(seconds, 110, 1.0), np.zeros(12 * 44_100 // 2048 * 2048, np.float32)])
    rig = Rig(guitar, np.zeros(0, np.float32), repeats=1.0, delay_frames=6000)
    rig.echo = 1.0
    out = rig.play(len(guitar) // 128, {b: latency for b in range(1000) if b % 7 < 3})
    assert np.max(np.abs(out)) <= 1.0 and np.max(np.abs(rig.memory.input)) <= 1.0
    tail = out[-6000:]
    assert np.sqrt(np.mean(tail**2)) < 0.5 * np.sqrt(np.mean(out[seconds : seconds + 6000] ** 2))
    assert np.max(np.abs(tail)) < 0.05


@pytest.mark.parametrize(("louder", "repeats"), [(1.5, 0.7), (3.0, 0.7), (1.2, 0.95)])
def test_an_engine_that_answers_louder_than_it_hears_does_not_howl(louder: float, repeats: float) -> None:
    """Without the guard each round would be `louder * repeats` > 1 times the one before, and stay at the limiter's level."""
    seconds, delay = 2 * 44_100 // 2048 * 2048, 6000
    guitar = np.concatenate([sine(seconds, 110, 0.2), np.zeros(6 * 44_100 // 2048 * 2048, np.float32)])
    rig = Rig(guitar, np.zeros(0, np.float32), repeats=repeats, delay_frames=delay)
    rig.echo = louder
    out = rig.play(len(guitar) // 128)
    rounds = np.sqrt(np.mean(out[seconds:][: 20 * delay].reshape(20, delay) ** 2, axis=1))
    assert np.max(np.abs(out)) <= min(1.0, 0.2 * louder / (1 - repeats) + 0.05)
    assert np.all(rounds[11:] < 0.985 * rounds[10:-1])


@given(gains=st.lists(st.floats(0.01, 10), min_size=1, max_size=30), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_what_goes_round_is_never_more_than_was_heard(gains: list[float], seed: int) -> None:
    guard, heard = LoopGuard(256, 44_100), noise(256 * len(gains), seed).reshape(-1, 256)
    energies = np.zeros(2)
    for gain, chunk in zip(gains, heard, strict=True):
        answer = np.float32(gain) * chunk
        guard.follow(chunk, answer)
        energies = energies * math.exp(-256 / 44_100 / GUARD_SECONDS) + [np.sum(chunk**2.0), np.sum(answer**2.0)]
        assert 0 < guard.share <= 1 and guard.share**2 * energies[1] <= energies[0] * (1 + 1e-5)
        assert guard.share == 1 or energies[1] > energies[0] * (1 - 1e-5)
    guard.follow(heard[0], heard[0] * np.float32(np.nan))
    assert guard.share == 1


# Limiter and gains


def test_limiter_is_not_there_below_its_knee() -> None:
    samples = np.linspace(-LIMIT_ABOVE, LIMIT_ABOVE, 256, dtype=np.float32)
    limited = samples.copy()
    limiter = Limiter((256,))
    for _ in range(8):
        assert limiter.process(limited, True) == 0
    assert np.array_equal(limited, samples)


@given(loudest=st.floats(0.1, 30), engaged=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_limiter_never_goes_over_full_scale_nor_steepens(loudest: float, engaged: bool, seed: int) -> None:
    limiter, samples = Limiter((128,)), noise(128 * 12, seed, loudest)
    limited = samples.copy()
    for at in range(0, len(limited), 128):
        limiter.process(limited[at : at + 128], engaged)
    assert np.max(np.abs(limited)) <= 1.0
    assert np.all(np.abs(np.diff(limited)) <= np.abs(np.diff(samples)) + 1 / 1024 + 1e-6)


def test_clipped_frames_are_counted_once_for_both_sides() -> None:
    rig = Rig(np.full(FRAMES, 0.9, np.float32), np.full(FRAMES, 0.9, np.float32), mix=0.5, out_channels=2)
    rig.play(TURNS)
    clipped = rig.count(Counter.CLIPPED_FRAMES)
    assert clipped == FRAMES - rig.shortest_delay_frames
    assert np.max(np.abs(rig.amp)) <= 1.0


@pytest.mark.parametrize("frames", [64, 1000, 8192])
def test_a_gain_takes_its_time(frames: int) -> None:
    gain, ones, out = Gain(frames, 1024), np.ones(frames, np.float32), np.empty(frames, np.float32)
    heard = [np.zeros(1, np.float32)]
    for target in (1.0,) * (4096 // frames + 1) + (0.25,) * (4096 // frames + 1):
        gain.aim(target)
        gain.apply(ones, out)
        heard.append(out.copy())
    line = np.concatenate(heard)
    assert np.max(np.abs(np.diff(line))) <= 1 / 1024 + 1e-6
    assert line[1024] == pytest.approx(1.0) and line[1022] < 1.0
    assert line[-1] == 0.25


# No array is allocated per period


def busy(sides: tuple[int, int]) -> Rig:
    """A period of 8,192 frames, so that one array of it is unmistakable; loud, so that the limiters work."""
    size = Size(period_frames=8192, block_frames=16_384, ring_blocks=8, fade_frames=1024)
    frames = 64 * 8192
    guitar = np.stack([noise(frames, seed, 1.0) for seed in range(sides[0])], axis=1)
    return Rig(guitar, noise(frames, 9, 1.0), size, sides[1], mix=0.5, repeats=0.6, delay_frames=3 * 16_384)


@pytest.mark.parametrize("event", ["steady", "late", "sweep", "bypass", "mix"])
@pytest.mark.parametrize("sides", [(1, 1), (1, 2), (2, 1), (2, 2)], ids=str)
def test_no_array_is_allocated_per_period(event: str, sides: tuple[int, int]) -> None:
    rig = busy(sides)
    rig.play(20)
    peaks = []
    for turn in range(12):
        rig._answer()
        if turn == 4:
            _happen(rig, event)
        tracemalloc.start()
        rig.loop.turn()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        rig.set(**({"delay_frames": 2 * 16_384 + turn * 999.0} if event == "sweep" else {}))
        rig.loop.turn()
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
    assert rig.count(Counter.CLIPPED_FRAMES) > 0
    assert max(peaks) < 8192 * 4 / 8, peaks


def _happen(rig: Rig, event: str) -> None:
    if event == "late":
        rig.wet.blocks[:] = -1
    elif event in ("bypass", "mix"):
        rig.set(**{event: 1.0})


def test_the_allocation_tracker_would_see_an_array() -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = np.empty(8192, np.float32)
    assert tracemalloc.get_traced_memory()[1] - before >= kept.nbytes
    tracemalloc.stop()


def test_controls_are_named() -> None:
    assert Control.MIX == 0 and Control.RUNNING == 15

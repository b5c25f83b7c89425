"""The evaluation's measures, on signals whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.engine import EngineControls, EngineSpec, Stamp, no_stamp  # noqa: E402
from engines.lmdm import codec  # noqa: E402
from engines.train import codec_check, metrics, notes, timbre  # noqa: E402
from engines.train.audition import Player, echoes  # noqa: E402
from engines.train.instruments import GUITARS, TARGETS, name_of  # noqa: E402

RATE_HZ = codec.SAMPLE_RATE


def tone(hz: float, seconds: float, level: float = 0.1, partials: int = 6) -> np.ndarray:
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, partials + 1))
    return (level * np.asarray(wave)).astype(np.float32)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))).astype(np.float32)


@pytest.fixture(scope="module")
def detector() -> notes.NoteDetector:
    try:
        return notes.NoteDetector.open()
    except notes.NotesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def judge() -> timbre.Judge:
    torch.manual_seed(0)
    return timbre.Judge().eval()


class TestNotes:
    def test_windows_overlap_by_thirty_model_frames(self) -> None:
        audio = np.arange(2 * notes.WINDOW_FRAMES, dtype=np.float32)
        rows = notes.windows(audio)
        lead = notes.OVERLAP // 2 * notes.HOP_FRAMES
        assert rows.shape[1:] == (43_844, 1)
        assert not rows[0, :lead].any() and rows[0, lead, 0] == audio[0]
        assert np.array_equal(rows[1, : notes.OVERLAP * notes.HOP_FRAMES], rows[0, -notes.OVERLAP * notes.HOP_FRAMES :])

    @pytest.mark.parametrize("pitch", [52, 69, 81])
    def test_a_tone_is_its_note(self, detector: notes.NoteDetector, pitch: int) -> None:
        heard = detector.notes(tone(440 * 2 ** ((pitch - 69) / 12), 3.0), RATE_HZ)
        assert len(heard) == 3 * 86
        assert heard[40:-40].mean(0).argmax() == pitch - 21

    @pytest.mark.parametrize("cents", [-40.0, 40.0])
    def test_a_note_beside_concert_pitch_is_one_when_that_is_known(self, detector: notes.NoteDetector, cents: float) -> None:
        """As strong as in tune, in frames that are as much shorter or longer."""
        in_tune = detector.notes(tone(220, 3.0), RATE_HZ)[40:-40, 57 - 21].mean()
        beside = tone(220 * 2 ** (cents / 1200), 3.0)
        told, untold = (detector.notes(beside, RATE_HZ, known)[40:-40, 57 - 21].mean() for known in (cents, 0.0))
        assert told == pytest.approx(in_tune, abs=0.005)
        assert untold != pytest.approx(in_tune, abs=0.005)
        assert len(detector.notes(beside, RATE_HZ, cents)) == pytest.approx(3 * 86 * 2 ** (cents / 1200), abs=2)

    def test_notes_are_written_down(self) -> None:
        """Each as long as it sounds; a short pause is bridged, and what is too short is no note."""
        heard = np.zeros((200, notes.PITCHES), np.float32)
        heard[10:60, 40] = heard[63:90, 40] = 0.8
        heard[100:160, 43] = 0.5
        heard[120:122, 50] = 0.9
        seconds = notes.HOP_FRAMES / notes.RATE_HZ
        found = [(n.pitch, round(n.start_seconds / seconds), round(n.length_seconds / seconds)) for n in notes.transcribed(heard)]
        assert found == [(61, 10, 80), (64, 100, 60)]

    def test_silence_has_no_notes(self, detector: notes.NoteDetector) -> None:
        assert (detector.notes(np.zeros(2 * RATE_HZ, np.float32), RATE_HZ) < notes.THRESHOLD).all()

    def test_level_hardly_matters(self, detector: notes.NoteDetector) -> None:
        loud = detector.notes(tone(220, 3.0), RATE_HZ)
        assert notes.note_f(loud, detector.notes(tone(220, 3.0, level=0.02), RATE_HZ)) > 0.9

    def test_note_f(self) -> None:
        a, b = np.zeros((2, 10, 88), np.float32)
        assert notes.note_f(a, b) == 0
        a[:, 40] = 1
        assert notes.note_f(a, a) == 1
        b[:5, 40] = 1
        assert notes.note_f(a, b) == pytest.approx(2 * 5 / 15)
        assert notes.note_f(a, b[:5]) == 1, "the longer signal is cut"


class TestMetrics:
    def test_interval_draws_scores_not_clips(self) -> None:
        many = metrics.interval({"a": [0.0] * 50, "b": [1.0]})
        assert many.mean == 0.5 and many.low == 0 and many.high == 1
        same = metrics.interval({"a": [0.3], "b": [0.3, 0.3]})
        assert (same.low, same.high) == pytest.approx((0.3, 0.3))
        assert math.isnan(metrics.interval({}).mean)

    def test_interval_is_repeatable(self) -> None:
        groups = {str(i): [i / 7] for i in range(7)}
        assert metrics.interval(groups, 3) == metrics.interval(groups, 3)

    def test_gain_is_a_distance_in_db(self, judge: timbre.Judge) -> None:
        audio = noise(3.0)
        loud, quiet = judge.log_mel(audio), judge.log_mel(audio / 2)
        assert metrics.mel_error_db(loud, loud) == 0
        assert metrics.mel_error_db(loud[2:], quiet[2:]) == pytest.approx(6.02, abs=0.1)

    def test_levels(self) -> None:
        assert metrics.level_db(np.zeros(100, np.float32)) == metrics.FLOOR_DB
        assert metrics.level_db(np.ones(100, np.float32)) == pytest.approx(0, abs=1e-6)
        audio = np.concatenate([np.zeros(RATE_HZ, np.float32), np.full(RATE_HZ, 0.1, np.float32)])
        assert metrics.loudest_second_db(audio, RATE_HZ) == pytest.approx(-20, abs=1e-3)

    def test_centroid_follows_brightness(self, judge: timbre.Judge) -> None:
        low, high = (metrics.centroid_hz(judge.log_mel(tone(hz, 2.0, partials=1))[2:]) for hz in (300, 3000))
        assert low == pytest.approx(300, rel=0.35) and high == pytest.approx(3000, rel=0.2)

    def test_minutes_know_level_and_error(self, judge: timbre.Judge) -> None:
        mel = judge.log_mel(np.resize(noise(10.0), 3 * 60 * RATE_HZ))
        rising = mel.clone()
        rising[round(2 * metrics.LATENTS_PER_MINUTE) :] += 3 / codec.DB_PER_UNIT
        steady, risen = metrics.minutes(mel, mel), metrics.minutes(rising, mel)
        assert len(steady) == 3
        assert metrics.drift(steady).worst < 0.1
        assert risen[2].energy_db - risen[0].energy_db == pytest.approx(3, abs=0.1)
        assert risen[2].error_db == pytest.approx(3, abs=0.1) and risen[1].error_db == 0


class TestTimbre:
    def test_pieces_equal_the_whole(self, judge: timbre.Judge) -> None:
        audio = noise(8.0)
        count = len(audio) // codec.LATENT_FRAMES * codec.LATENT_FRAMES
        padded = np.concatenate([np.zeros(codec.HISTORY_FRAMES, np.float32), audio[:count]])
        whole = judge.spectrogram(torch.from_numpy(padded)[None])[0]
        assert torch.allclose(judge.log_mel(audio), whole, atol=1e-5)

    def test_quiet_windows_are_not_judged(self, judge: timbre.Judge) -> None:
        audio = np.concatenate([noise(2.0), np.zeros(3 * RATE_HZ, np.float32)])
        active = timbre.loud(judge.log_mel(audio))
        assert active.tolist() == [True, True, True, False, False] or active.tolist() == [True, True, False, False, False]

    def test_magnitudes_invert_the_scale(self) -> None:
        mel = torch.rand(4, 512)
        assert torch.allclose(timbre.magnitudes(codec.normalise_mel(mel)), mel, atol=1e-5)


class TestCodecCheck:
    def test_modulation_in_the_rough_range_counts(self) -> None:
        audio = tone(440, 4.0)
        t = np.arange(len(audio)) / RATE_HZ
        buzzing = (audio * (1 + 0.5 * np.sin(2 * np.pi * 60 * t))).astype(np.float32)
        rough, _ = codec_check.rough_and_hop_db(audio, buzzing)
        assert rough > 10
        assert codec_check.rough_and_hop_db(audio, audio) == (0, 0)

    def test_modulation_at_the_hop_rate_counts(self) -> None:
        audio = noise(6.0)
        t = np.arange(len(audio)) / RATE_HZ
        hopping = (audio * (1 + 0.5 * np.sin(2 * np.pi * RATE_HZ / codec.HOP_FRAMES * t))).astype(np.float32)
        _, hop = codec_check.rough_and_hop_db(audio, hopping)
        assert hop > 6

    def test_edges_are_seen_where_the_seams_are(self) -> None:
        audio, delay, block = tone(330, 6.0), 1536, codec_check.BLOCK_FRAMES
        cut = audio.copy()
        for seam in range(block - delay, len(audio), block):
            cut[seam:] = np.roll(cut[seam:], 40)  # a jump in phase
        assert codec_check.edge(audio, audio, delay) == 1
        assert codec_check.edge(audio, cut, delay) > 1.5

    def test_silence_neither_adds_nor_hides_an_edge(self) -> None:
        audio, delay, block = tone(330, 12.0), 1536, codec_check.BLOCK_FRAMES
        audio[len(audio) // 3 :] = 0
        cut = audio.copy()
        for seam in range(block - delay, len(audio) // 3, block):
            cut[seam : len(audio) // 3] = np.roll(cut[seam : len(audio) // 3], 40)
        assert codec_check.edge(audio, audio, delay) == 1
        assert codec_check.edge(audio, cut, delay) > 1.5

    def test_round_trip_is_aligned(self) -> None:
        """A codec that only delays by 100 frames gives its input back."""

        def start() -> tuple[codec_check.Encode, codec_check.Decode]:
            held = [np.zeros(100, np.float32)]

            def decode(latents: np.ndarray) -> np.ndarray:
                joined = np.concatenate([held[0], latents])
                held[0] = joined[-100:]
                return joined[:-100]

            return (lambda audio: audio[50:]), decode

        audio = noise(0.3)
        assert np.array_equal(codec_check.RoundTrip(start, 50, 100, 1000)(audio), audio)


class LaggingEngine:
    """Gives back what it heard, `codec_delay_frames` late, as its spec declares."""

    def __init__(self, prompts: tuple[str, ...]) -> None:
        self.spec = EngineSpec("lagging", RATE_HZ, 1000, 300, prompts, 2, 4)
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.held = np.zeros(self.spec.codec_delay_frames, np.float32)

    def generate(self, block: np.ndarray, controls: EngineControls, stamp: Stamp = no_stamp) -> np.ndarray:
        joined = np.concatenate([self.held, block])
        self.held = joined[-len(self.held) :]
        return joined[: len(block)]

    def prefill(self, block: np.ndarray) -> None:
        self.generate(block, EngineControls())


class TestPlayer:
    def test_the_answer_is_aligned_with_the_input(self) -> None:
        player = Player(LaggingEngine(("choir",)), 0, 0)
        for frames in (1, 999, 1000, 2750, 12_345):
            audio = noise(1.0)[:frames]
            assert np.array_equal(player.answer(audio, 0), audio)

    def test_prompts_are_found_by_name(self) -> None:
        player = Player(LaggingEngine(("flute", "choir", "human voices", "people singing together", "a group of vocalists")), 0, 0)
        assert player.prompts() == {52: 1, 73: 0}
        assert player.unseen_wordings() == {52: [3, 4]}

    def test_repeats_are_heard_again(self) -> None:
        audio, lag = noise(0.3), 2 * 1000 + 300
        player = Player(LaggingEngine(("choir",)), 0, 0)
        fed_back = player.play(audio, lambda block: EngineControls(), repeats=0.5)
        assert player.repeat_frames == lag
        assert np.allclose(fed_back, echoes(audio, lag, 0.5), atol=1e-6)
        assert not np.allclose(fed_back[lag:], audio[lag:], atol=0.01)

    def test_echoes_are_what_repeats_should_give(self) -> None:
        click = np.zeros(10, np.float32)
        click[1] = 1
        assert echoes(click, 3, 0.5).tolist() == [0, 1, 0, 0, 0.5, 0, 0, 0.25, 0, 0]

    def test_every_class_has_a_name(self) -> None:
        assert len({name_of(program) for program in (*TARGETS, *GUITARS)}) == len(TARGETS) + len(GUITARS)


def test_the_note_model_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(notes.NotesError, match="pip install --no-deps basic-pitch"):
        notes.model_path()


def test_modules_open_without_a_corpus(tmp_path: Path) -> None:
    from engines.train import clips

    assert clips.scores(tmp_path, "val", 3, 5.0) == []


def test_frechet_distance_is_that_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    same, other = rng.standard_normal((2, 20_000, 3))
    assert metrics.frechet(same, same) == pytest.approx(0, abs=1e-6)
    shifted = 2 * other + np.array([3.0, 0.0, 0.0])
    assert metrics.frechet(shifted, same) == pytest.approx(9 + 3, rel=0.05)  # mean: 3^2; deviation: 3 (2 - 1)^2
    assert np.isnan(metrics.frechet(same[:1], same))


def test_drift_is_a_trend_and_scatter_is_not() -> None:
    steady = [metrics.Minute(0, db, 1000, 2) for db in (0.5, -0.5, 0.5, -0.5, -0.5, 0.5, -0.5, 0.5)]
    assert metrics.drift(steady).worst < 0.01 < 0.4 < metrics.drift(steady).scatter
    rising = metrics.drift([metrics.Minute(0, 0.3 * i, 1000 * 2 ** (0.1 * i), 2) for i in range(10)])
    assert rising.energy == pytest.approx(2.7) and rising.error == pytest.approx(0)
    assert rising.worst == rising.centroid == pytest.approx(20 * np.log10(2**0.9))
    assert math.isnan(metrics.drift(steady[:1]).worst)


def test_what_takes_share_is_what_their_mean_shows() -> None:
    takes = [[metrics.Minute(i, sign + 0.1 * i, 1000 + 10 * sign, 2) for i in range(10)] for sign in (1, -1)]
    mean = metrics.mean_take(takes)
    assert mean == [metrics.Minute(i, pytest.approx(0.1 * i), 1000, 2) for i in range(10)]
    assert metrics.drift(mean).worst == pytest.approx(0.9)


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    before = {str(i): [float(i), i + 1.0] for i in range(8)}
    after = {name: [value + 0.5 + 0.01 * int(name) for value in values] for name, values in before.items()}
    gained = metrics.difference(after, before)
    assert gained.mean == pytest.approx(0.535) and 0.5 < gained.low < gained.high < 0.57
    assert math.isnan(metrics.difference({"0": [1.0]}, before).mean), "one score says nothing of scatter"
    assert metrics.interval(before).high - metrics.interval(before).low > 2


def test_pseudo_values_take_the_bias_of_few_windows_off_a_frechet_distance() -> None:
    rng = np.random.default_rng(0)
    draw = lambda: {str(i): rng.standard_normal((30, 8)) for i in range(6)}  # noqa: E731
    made, wanted = draw(), draw()
    plain = metrics.frechet(np.concatenate([*made.values()]), np.concatenate([*wanted.values()]))
    pseudo = metrics.pseudo_frechet(made, wanted)
    assert set(pseudo) == set(made)
    assert abs(np.mean([*pseudo.values()])) < plain / 2, "both are drawn from one distribution: the true distance is 0"

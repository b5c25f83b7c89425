"""Offline: the same code as on stage, bit by bit the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.config import Config
from appliance.render import TAIL_SECONDS, Rendered, channels_of, check_target, render, write_audio
from appliance.report import Session, collect
from hw.audio import Frames, PortError

DELAY = 24_576


def config(mix: float = 1.0, channels: int = 1, **controls: float) -> Config:
    base = Config()
    return replace(
        base,
        audio=replace(base.audio, in_channels=channels, out_channels=channels),
        engine=replace(base.engine, bundle="echo"),
        controls=replace(base.controls, mix=mix, **controls),
    )


def guitar(frames: int = 70_001, channels: int = 1) -> Frames:
    return np.random.default_rng(3).uniform(-0.4, 0.4, (frames, channels)).astype(np.float32)


def test_the_answer_comes_one_delay_later_and_all_of_it() -> None:
    dry = guitar()
    done = render(config(), dry)
    assert done.delay_frames == DELAY
    assert len(done.out) == len(dry) + round((DELAY / 44_100 + TAIL_SECONDS) * 44_100)
    assert np.array_equal(done.dry[: len(dry)], dry)
    assert np.array_equal(done.wet[DELAY : DELAY + len(dry)], dry[:, 0])
    assert not done.wet[:DELAY].any() and not done.wet[DELAY + len(dry) :].any()
    assert np.allclose(done.out[:, 0], done.wet, atol=1e-7)


def test_mix_zero_is_the_guitar_itself() -> None:
    dry = guitar(40_000, 2)
    done = render(config(0.0, 2), dry)
    assert np.array_equal(done.out[: len(dry)], dry)


def test_nothing_is_late_and_every_block_is_in_the_ledger() -> None:
    done = render(config(repeats=0.5), guitar())
    report = collect(done.memory, Session("echo", done.prompt, done.delay_frames, None, {}))
    assert report.late_blocks == report.silent_frames == report.prefilled_blocks == report.xruns == 0
    assert report.answered_blocks == report.blocks == (70_001 + DELAY + 22_050) // 16_384
    assert report.slack_ms["min"] and report.slack_ms["min"] > 0


def test_the_same_seed_gives_the_same_bits() -> None:
    def once() -> Rendered:
        return render(config(0.5, repeats=0.6, delay_ms=700.0), guitar())

    assert once().out.tobytes() == once().out.tobytes()


def test_progress_reaches_the_end() -> None:
    shares: list[float] = []
    render(config(), guitar(), shares.append)
    assert shares == sorted(shares) and 0.8 < shares[-1] <= 1.0


def test_channels_follow_the_recording(tmp_path: Path) -> None:
    for channels, seen in ((1, 1), (2, 2), (6, 1)):
        soundfile.write(tmp_path / "x.wav", np.zeros((100, channels)), 44_100)
        assert channels_of(tmp_path / "x.wav") == seen
    assert channels_of(tmp_path / "absent.wav") == 1


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "X.WAV"])
def test_targets(tmp_path: Path, name: str) -> None:
    write_audio(tmp_path / name, guitar(5_000, 2), 44_100)
    assert soundfile.info(tmp_path / name).channels == 2


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PortError, match=r"name a file that ends in \.wav"):
        check_target(tmp_path / "x.mp7")
    with pytest.raises(PortError, match="its folder does not exist"):
        check_target(tmp_path / "absent" / "x.wav")
    (tmp_path / "x.wav").mkdir()
    with pytest.raises(PortError, match="can't be written"):
        write_audio(tmp_path / "x.wav", guitar(100), 44_100)

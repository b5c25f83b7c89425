"""The demo with its real processes, on a second and a half of guitar; the picture; the shipped recordings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from appliance.config import ConfigError
from appliance.demo import CLIPS, SAMPLES, DemoJob, demo, prepare, shipped_guitar
from appliance.picture import PictureError, draw, spectrogram_db
from appliance.report import Report, Session, collect, ledger_rows
from appliance.shared import Layout, SharedMemory
from appliance.stats import Ledger
from hw.audio import PortError


def job(out: Path, **changes: Any) -> DemoJob:
    return DemoJob(**{"input": None, "seconds": 1.5, "prompt": "", "out": out, "engine": "echo", **changes})


@pytest.mark.system
def test_the_demo_leaves_everything_behind(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    console = Console(width=120, record=True)
    demo(job(tmp_path / "new" / "folder"), console)
    out = tmp_path / "new" / "folder"
    assert sorted(path.name for path in out.iterdir()) == ["dry.wav", "out.wav", "report.json", "report.png", "wet.wav"]
    tracks = {name: soundfile.read(out / f"{name}.wav")[0] for name in ("dry", "wet", "out")}
    assert len({len(track) for track in tracks.values()}) == 1
    frames, delay = round(1.5 * 44_100), 24_576
    assert np.allclose(tracks["dry"][:frames], shipped_guitar(44_100)[:frames, 0], atol=2e-4)
    assert np.allclose(tracks["wet"][delay : delay + frames], tracks["dry"][:frames], atol=1e-6)
    report = json.loads((out / "report.json").read_text())
    assert report["late_blocks"] == report["silent_frames"] == 0
    assert report["engine"] == report["prompt"] == "echo"
    assert (out / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert "engine ready after" in console.export_text()


def test_the_shipped_guitar_is_what_the_notice_says() -> None:
    guitar = shipped_guitar(44_100)
    assert 20 < len(guitar) / 44_100 < 26
    assert 0.3 < np.abs(guitar).max() <= 1.0
    notice = (SAMPLES / "README.md").read_text()
    for clip in CLIPS:
        assert soundfile.info(SAMPLES / f"{clip}.flac").channels == 1
        assert f"{clip}.flac" in notice
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 700_000


def test_bad_input_is_refused_before_anything_plays(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="does not exist"):
        prepare(job(tmp_path, input=tmp_path / "absent.wav"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no folder can be made there"):
        demo(job(tmp_path / "file" / "out"), Console(quiet=True))


def session(modes: list[str]) -> tuple[Report, SharedMemory]:
    block, ms = 4_410, 1_000_000
    memory = SharedMemory.create(Layout(44_100, 90, block, 0, 8 * block, 1_024))
    ledger = Ledger(memory.ledger, block)
    for number, mode in enumerate(modes):
        captured = (number + 1) * 100 * ms
        ledger.capture(number * block, captured, captured + 50 * ms)
        row = ledger.row(number * block)
        if mode == "heard":
            row["mode"] = 2
        elif mode != "missed":
            row["mode"], row["started"], row["written"] = 1, captured, captured + (20 if mode == "on time" else 80) * ms
    return collect(memory, Session("toy", "choir", 4_410, 1.0, {})), memory


@pytest.mark.parametrize("modes", [[], ["on time"], ["on time", "late", "heard", "missed", "on time"], ["heard"]])
def test_pictures_of_all_kinds_of_sessions(tmp_path: Path, modes: list[str]) -> None:
    pytest.importorskip("matplotlib")
    report, memory = session(modes)
    dry = np.random.default_rng(0).uniform(-0.1, 0.1, (22_050, 2)).astype(np.float32)
    draw(tmp_path / "x.png", report, dry, np.zeros(22_050, np.float32), ledger_rows(memory))
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_without_matplotlib_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report, memory = session(["on time"])
    with pytest.raises(PictureError, match=r"pip install 'ghostnote\[demo\]'"):
        draw(tmp_path / "x.png", report, np.zeros((10, 1), np.float32), np.zeros(10, np.float32), ledger_rows(memory))


def test_a_tone_is_a_line_in_the_spectrogram() -> None:
    tone = np.sin(2 * np.pi * 1_000 * np.arange(44_100) / 44_100).astype(np.float32)
    picture = spectrogram_db(tone, 44_100)
    band = int(picture[:, 40].argmax())
    assert 60 * (12_000 / 60) ** (band / 239) == pytest.approx(1_000, rel=0.02)

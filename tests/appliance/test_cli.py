"""The command line: every mistake of an operator is one line on stderr and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.cli import BAD_INPUT, main
from engines.bundle import write_bundle
from engines.engine import EngineSpec
from engines.manifest import head
from hw.file_audio import file_address

REPO = Path(__file__).parents[2]
TONE = (0.3 * np.sin(np.arange(20_000) / 20)).astype(np.float32)


def wav(path: Path, samples: np.ndarray, rate: int = 44_100, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate, subtype)
    return path


BAD_WAVS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no audio": (lambda path: path.write_bytes(b"not audio at all"), "is not audio"),
    "no bytes": (lambda path: path.write_bytes(b""), "is not audio"),
    "no samples": (lambda path: wav(path, TONE[:0]), "has no samples"),
    "8 bit": (lambda path: wav(path, TONE, subtype="PCM_U8"), "8-bit"),
    "192 kHz": (lambda path: wav(path, TONE, 192_000), "192000 Hz"),
    "6 channels": (lambda path: wav(path, np.zeros((100, 6))), "6 channels"),
    "NaN": (lambda path: wav(path, np.full(100, np.nan)), "not numbers"),
    "absent": (lambda path: None, "does not exist"),
}


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """What went to stderr, which must be a single line (progress bars, which are erased, aside)."""
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip() and "rendering" not in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("case", BAD_WAVS)
def test_a_bad_recording(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, says = BAD_WAVS[case]
    make(tmp_path / "bad.wav")
    for command in (
        ["demo", "--engine", "echo", "--input", str(tmp_path / "bad.wav"), "--out", str(tmp_path / "out")],
        ["render", "--engine", "echo", str(tmp_path / "bad.wav"), str(tmp_path / "out.wav")],
    ):
        assert main(command) == BAD_INPUT
        line = one_line(capfd)
        assert line.startswith("ghostnote: ") and "bad.wav" in line and says in line
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.wav").exists()


def test_a_bad_recording_in_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wav(tmp_path / "bad.wav", np.full(100, np.nan))
    (tmp_path / "x.toml").write_text(f'[engine]\nbundle = "echo"\n[audio]\nport = "{file_address(tmp_path / "bad.wav")}"\n')
    assert main(["run", "--config", str(tmp_path / "x.toml")]) == BAD_INPUT
    assert "not numbers" in one_line(capfd)


@pytest.mark.parametrize("damage", ["text", "truncated", "flipped"])
@pytest.mark.parametrize("command", ["demo", "render", "run", "engine"])
def test_a_bad_bundle(damage: str, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bad.ghost"
    write_bundle(bundle, head("lmdm", EngineSpec("x", 44_100, 16_384, 0, ("a",), 1, 1)), {"step.onnx": b"weights" * 1_000})
    data = {"text": b"text", "truncated": bundle.read_bytes()[:-30], "flipped": bundle.read_bytes().replace(b"weights", b"wEights", 1)}
    bundle.write_bytes(data[damage])
    wav(tmp_path / "in.wav", TONE)
    (tmp_path / "x.toml").write_text(f'[engine]\nbundle = "{bundle}"\n')
    commands = {
        "demo": ["demo", "--engine", str(bundle), "--out", str(tmp_path / "out")],
        "render": ["render", "--engine", str(bundle), str(tmp_path / "in.wav"), str(tmp_path / "out.wav")],
        "run": ["run", "--config", str(tmp_path / "x.toml")],
        "engine": ["engine", "info", str(bundle)],
    }
    assert main(commands[command]) == BAD_INPUT
    assert one_line(capfd).startswith(f"ghostnote: {bundle}: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[audio", "is not TOML"),
        ("[audio]\nperiod_frame = 64", "did you mean period_frames?"),
        ("[controls]\nmix = 2", "must be a number from 0 to 1"),
        ('[engine]\nbundle = "echo"\nprompt = "kazoo"', "'kazoo' is unknown to engine 'echo'"),
        ('[engine]\nbundle = "echo"\n[audio]\nrate_hz = 48000', "plays at 44100"),
        ('[engine]\nbundle = "echo"\n[board]\nport = "teapot"', "board 'teapot' is unknown"),
    ],
)
def test_a_bad_configuration(text: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_text(text)
    assert main(["run", "--config", str(tmp_path / "x.toml")]) == BAD_INPUT
    assert says in one_line(capfd)


@pytest.mark.parametrize("text", ["soon mix 1", "1 volume 2", "1", "1 mix loud"])
def test_a_bad_script(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set.txt").write_text(f"0 mix 0.5\n{text}\n")
    (tmp_path / "x.toml").write_text(f'[engine]\nbundle = "echo"\n[board]\nport = "script:{tmp_path / "set.txt"}"\n')
    assert main(["run", "--config", str(tmp_path / "x.toml")]) == BAD_INPUT
    assert "set.txt, line 2: " in one_line(capfd)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["play"],
        ["demo", "--seconds", "-1"],
        ["demo", "--seconds", "nan"],
        ["demo", "--mix", "2"],
        ["render", "x.wav"],
        ["render", "x.wav", "y.wav", "--steps", "17"],
        ["engine"],
    ],
)
def test_a_bad_command_line(command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == BAD_INPUT


def test_render_writes_what_it_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wav(tmp_path / "in.wav", np.stack([TONE, -TONE], 1), 48_000)
    for name in ("a.wav", "b.wav"):
        assert (
            main(["render", "--engine", "echo", "--mix", "0.5", "--delay-ms", "800", str(tmp_path / "in.wav"), str(tmp_path / name)]) == 0
        )
    assert "“echo”, 800 ms after the guitar" in capfd.readouterr().out.replace("\n", " ")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert soundfile.info(tmp_path / "a.wav").channels == 2


@pytest.mark.system
def test_run_plays_a_recording_and_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wav(tmp_path / "in.wav", TONE)
    address = f"{file_address(tmp_path / 'in.wav')}?out={tmp_path / 'amp.wav'}"
    (tmp_path / "x.toml").write_text(f'[engine]\nbundle = "echo"\n[audio]\nport = "{address}"\n[realtime]\npriority = 0\n')
    assert main(["run", "--config", str(tmp_path / "x.toml"), "--wait-for-engine", "--report", str(tmp_path / "r.json")]) == 0
    assert "Played 0.5 s" in capfd.readouterr().out
    assert (tmp_path / "r.json").exists() and soundfile.info(tmp_path / "amp.wav").frames >= len(TONE)


def test_engine_info(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = EngineSpec("toy", 44_100, 16_384, 0, ("choir [aah]",), 1, 1)
    licences = [{"covers": "all of it", "name": "MIT", "file": "licences/mit.txt"}]
    facts = head("blank", spec, number=7, release="7", licences=licences)
    write_bundle(tmp_path / "toy.ghost", facts, {"licences/mit.txt": b"do as you like"})
    assert main(["engine", "info", str(tmp_path / "toy.ghost")]) == 0
    text = capfd.readouterr().out
    for part in ("toy, release 7", "choir [aah]", "MIT", "licence", "372 ms", "nobody has signed it"):
        assert part in text, part


def test_no_traceback_from_the_real_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "appliance", "engine", "info", "absent.ghost"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == BAD_INPUT
    assert done.stderr == "ghostnote: absent.ghost: no bundle can be read there (No such file or directory)\n"

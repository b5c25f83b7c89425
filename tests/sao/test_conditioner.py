"""What the transformer is told: words by a text encoder from this disk, seconds by the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines.lmdm.config import PRESETS
from engines.sao.conditioner import Conditioner, T5Text
from engines.sao.config import CheckpointError, TextConfig, lmdm_config
from tests.sao.rig import CONFIG, Source, altered, write, write_t5


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    write_t5(folder, channels=24)
    return folder


def test_pad_rows_are_zero_and_long_prompts_are_cut(folder: Path) -> None:
    text = T5Text(TextConfig("t5-base", 64), 24, folder)
    short, long = text("warm cello"), text("a " * 200)
    assert short.shape == long.shape == (64, 24)
    assert not short[3:].any() and short[:3].any(-1).all()  # two words and the end of the sentence
    assert long.any(-1).all()
    assert not torch.equal(short, text("bright flute"))


def test_a_prompt_is_what_the_model_takes(folder: Path, tmp_path: Path) -> None:
    source = Source()
    path = write(tmp_path, source.tensors())
    prompt = Conditioner(path, folder).prompt("warm cello", seconds=11.0)
    config = lmdm_config(source.config, PRESETS["tiny"])
    assert prompt.states.shape == (config.text_tokens, config.text_channels)
    assert torch.equal(prompt.states[-1], prompt.pooled)
    assert torch.equal(prompt.pooled, source.seconds(torch.tensor([11.0]))[0])


def test_an_absent_text_encoder_says_what_to_fetch_and_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for folder, name in ((None, "t5-base"), (tmp_path / "nowhere", "nowhere")):
        with pytest.raises(CheckpointError, match=rf"{name} is not on this disk: run `hf download t5-base` .* into one folder") as caught:
            T5Text(TextConfig("t5-base", 64), 768, folder)
        assert "\n" not in str(caught.value)


def test_a_text_encoder_of_another_width_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="has 24 channels; the checkpoint wants 768"):
        T5Text(TextConfig("t5-base", 64), 768, folder)


def test_a_checkpoint_without_words_is_refused(tmp_path: Path) -> None:
    config = altered("model/diffusion/cross_attention_cond_ids", ["seconds_total"])
    config["model"]["conditioning"]["configs"] = CONFIG["model"]["conditioning"]["configs"][1:]
    with pytest.raises(CheckpointError, match="has no text encoder"):
        Conditioner(write(tmp_path, Source().tensors(), config=config))

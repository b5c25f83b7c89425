"""Prompts of the player's own: what is written is read, and what is no prompt is left out with a line."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from engines.prompts import PromptError, PromptShelf, StoredPrompt, file_name, read_prompt, write_prompt


def prompt(words: str, seed: int = 0) -> StoredPrompt:
    rng = np.random.default_rng(seed)
    return StoredPrompt(words, rng.standard_normal((1, 16, 384)).astype(np.float16), rng.standard_normal((1, 384)).astype(np.float16))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for index, words in enumerate(("A thousand cellos!", "pluie d'été", "雨")):
        path = write_prompt(tmp_path, prompt(words, index))
        found = read_prompt(path)
        assert found.words == words
        assert np.array_equal(found.states, prompt(words, index).states)
    assert file_name("A thousand cellos!") == "a-thousand-cellos.npz"
    assert len(PromptShelf.open(tmp_path).words) == 3


def test_the_same_words_are_written_over(tmp_path: Path) -> None:
    write_prompt(tmp_path, prompt("choir", 1))
    write_prompt(tmp_path, prompt("choir", 2))
    (only,) = PromptShelf.open(tmp_path).prompts
    assert np.array_equal(only.pooled, prompt("choir", 2).pooled)


def damaged() -> dict[str, bytes]:
    return {"empty": b"", "text": b"hello", "zip": b"PK\x03\x04" + bytes(100), "large": bytes(2 << 20)}


@pytest.mark.parametrize("name", list(damaged()))
def test_a_file_that_is_no_prompt_is_left_out_with_a_line(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_prompt(tmp_path, prompt("choir"))
    (tmp_path / "bad.npz").write_bytes(damaged()[name])
    with caplog.at_level(logging.WARNING, "ghostnote"):
        assert PromptShelf.open(tmp_path).words == ("choir",)
    assert len(caplog.records) == 1 and "bad.npz" in caplog.text and "ghostnote prompt add" in caplog.text


UNUSABLE = {"nan": np.full((1, 16, 384), np.nan), "flat": np.zeros((16, 384)), "narrow": np.zeros((1, 16, 100))}


@pytest.mark.parametrize("kind", list(UNUSABLE))
def test_an_embedding_that_no_model_could_take_is_refused(kind: str, tmp_path: Path) -> None:
    states = UNUSABLE[kind]
    path = write_prompt(tmp_path, StoredPrompt("choir", states.astype(np.float16), np.zeros((1, 384), np.float16)))
    with pytest.raises(PromptError, match="no usable embedding"):
        read_prompt(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    with path.open("wb") as file:
        np.savez(file, words=np.array([print], dtype=object))
    with pytest.raises(PromptError):
        read_prompt(path)


def test_no_folder_is_an_empty_shelf(tmp_path: Path) -> None:
    assert PromptShelf.open("").words == ()
    assert PromptShelf.open(tmp_path / "none").words == ()

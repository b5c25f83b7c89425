"""Words of the player's own: prompts that no bundle brought along, as finished embeddings in a folder.

    shelf = PromptShelf.open(folder)               # every NAME.npz in it; a file that is no prompt is left out, with a line
    write_prompt(folder, prompt)                   # where the text encoder is: see engines.lmdm.author

A device has no text encoder: what it reads are token states and their mean, made once when the words were written down. They belong to one
encoder, whose name they carry; an engine that was trained with another must not be told them.

Shapes: S text token, X text channel. Runs in: the main and worker processes (reading), authoring (writing). No torch.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("ghostnote")

SUFFIX = ".npz"
MAX_BYTES = 1 << 20
ENCODER = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class StoredPrompt:
    """One prompt as a model takes it."""

    words: str
    states: NDArray[np.float16]  # (1, S, X), pad rows zero
    pooled: NDArray[np.float16]  # (1, X)
    encoder: str = ENCODER


class PromptError(Exception):
    """A file that is no prompt: one line that names it."""


def file_name(words: str) -> str:
    """Where `words` are kept: letters and digits of theirs, so that a person finds them again."""
    slug = re.sub(r"[^a-z0-9]+", "-", words.casefold()).strip("-")[:60]
    return (slug or "prompt") + SUFFIX


def write_prompt(folder: Path, prompt: StoredPrompt) -> Path:
    """Keep a prompt; one of the same words is replaced. All or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(prompt.words)
    scratch = path.with_suffix(".part")
    with scratch.open("wb") as file:
        np.savez(file, words=np.array(prompt.words), encoder=np.array(prompt.encoder), states=prompt.states, pooled=prompt.pooled)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    return path


def read_prompt(path: Path) -> StoredPrompt:
    """Raises PromptError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PromptError(f"{path} is too large for a prompt; write it again with `ghostnote prompt add`")
        with np.load(path, allow_pickle=False) as arrays:
            words, encoder = str(arrays["words"]), str(arrays["encoder"])
            states, pooled = arrays["states"], arrays["pooled"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PromptError(f"{path} is no prompt ({error}); write it again with `ghostnote prompt add`") from None
    shaped = states.ndim == 3 and pooled.shape == (1, states.shape[2]) and states.shape[0] == 1
    if not (shaped and words and states.dtype == pooled.dtype == np.float16 and np.isfinite(states).all() and np.isfinite(pooled).all()):
        raise PromptError(f"{path} holds no usable embedding; write it again with `ghostnote prompt add`")
    return StoredPrompt(words, states, pooled, encoder)


@dataclass(frozen=True)
class PromptShelf:
    """All prompts of a folder, in order of their files' names."""

    prompts: tuple[StoredPrompt, ...] = ()

    @classmethod
    def open(cls, folder: Path | str) -> PromptShelf:
        """No folder is an empty shelf. What can't be read is left out, and said."""
        found = []
        for path in sorted(Path(folder).glob(f"*{SUFFIX}")) if folder else []:
            try:
                found.append(read_prompt(path))
            except PromptError as error:
                log.warning("%s", error)
        return cls(tuple(found))

    def fitting(self, tokens: int, channels: int) -> PromptShelf:
        """Those that a model which takes (tokens, channels) can be told."""
        return PromptShelf(tuple(p for p in self.prompts if p.states.shape == (1, tokens, channels) and p.encoder == ENCODER))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(prompt.words for prompt in self.prompts)

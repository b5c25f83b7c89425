"""Write a prompt down: words -> embedding, in a folder that a pedal reads (engines.prompts).

    python -m engines.lmdm.author "a thousand cellos" --folder ~/.config/ghostnote/prompts

Runs in: authoring, on a machine with the text encoder (the extra `text`); a pedal needs only the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from engines.prompts import StoredPrompt, write_prompt

MISSING = "the text encoder is not installed here: run `pip install 'ghostnote[text]'`, or write the prompt on a machine that has it"


def stored(words: str) -> StoredPrompt:
    """The embedding of `words`, as training makes it."""
    from engines.lmdm import text

    prompt = text.encode(words)
    return StoredPrompt(words, prompt.states[None].numpy().astype(np.float16), prompt.pooled[None].numpy().astype(np.float16))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engines.lmdm.author", description="Write a prompt down.")
    parser.add_argument("words")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    words = " ".join(args.words.split())
    if not words:
        sys.exit("a prompt needs words")
    try:
        prompt = stored(words)
    except ImportError:
        sys.exit(MISSING)
    print(write_prompt(args.folder, prompt))


if __name__ == "__main__":
    main()

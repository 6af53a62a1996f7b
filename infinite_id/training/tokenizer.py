"""Makes the pocket tokenizer: a byte-level BPE trained on the captions, in CLIP's form.

`python -m infinite_id.training.tokenizer FOLDER` writes the shipped files once more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from infinite_id.training.captions import SLIDE_PROMPTS, caption, draw_description

__all__ = ["main", "make_tokenizer"]

_CAPTIONS = 4000
_MAX_LENGTH = 64  # tokens of an encoded text, start and end included


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Trains the vocabulary on drawn captions and writes it to `folder` as CLIPTokenizer reads it.

    The 256 bytes, alone and at the end of a word, are always in the vocabulary, so that any text
    in any language encodes without an unknown token. Deterministic.

    Args:
        folder: created if missing.
    """
    rng = np.random.default_rng(0)
    texts = [caption(draw_description(rng), rng) for _ in range(_CAPTIONS)] + list(SLIDE_PROMPTS)
    start, end = "<|startoftext|>", "<|endoftext|>"
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    blank = CLIPTokenizer()
    model.normalizer = blank.backend_tokenizer.normalizer
    model.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    model.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2048,
            min_frequency=2,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learned = json.loads(model.to_str())["model"]["merges"]
    merges: list[Any] = [tuple(pair) for pair in learned]
    symbols = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    symbols += [first + second for first, second in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*symbols, start, end]))}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=end,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        model_max_length=_MAX_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the tokenizer; exits with 2 where the folder cannot be one."""
    parser = argparse.ArgumentParser(
        prog="python -m infinite_id.training.tokenizer", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="created if missing")
    folder = parser.parse_args(arguments).folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.exit(2, f"error: folder is {folder}, allowed: one to write to ({error.strerror})\n")
    make_tokenizer(folder)


if __name__ == "__main__":
    main()

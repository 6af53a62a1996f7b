"""How long a prompt is for the networks that read it, before it waits for one."""

from __future__ import annotations

from typing import Any

from infinite_id.config import Preset

__all__ = ["Tokens"]


class Tokens:
    """The tokenizer of a preset's text encoders, which the scorer's agrees with.

    Attributes:
        most: tokens of a text, with begin and end; None where the tokenizer is not on this machine
            (an ingress without the base's files): then the generator alone counts.
    """

    def __init__(self, preset: Preset) -> None:
        self._tokenizer: Any = None
        if preset.base == "pocket":
            from infinite_id.pocket.image_text import load_tokenizer

            self._tokenizer = load_tokenizer()
        else:
            from transformers import CLIPTokenizer

            try:
                self._tokenizer = CLIPTokenizer.from_pretrained(
                    preset.base, subfolder="tokenizer", local_files_only=True
                )
            except (OSError, ValueError):
                self._tokenizer = None
        self.most: int | None = getattr(self._tokenizer, "model_max_length", None)

    def count(self, text: str) -> int | None:
        """Tokens with begin and end; None as `most`."""
        if self._tokenizer is None:
            return None
        return len(self._tokenizer(text, truncation=False).input_ids)

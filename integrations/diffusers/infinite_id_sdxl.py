"""Infinite-ID as a community pipeline of diffusers: SDXL's own, to which people can be given.

pipe = DiffusionPipeline.from_pretrained(BASE, custom_pipeline=THIS_FILE)
pipe.load_infinite_id("sdxl_plus_face")
pipe("a {subject} on the beach", identity="ada.jpg").images[0].save("ada.png")
"""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionXLPipeline

from infinite_id import InfiniteIDPipeline


class InfiniteIDStableDiffusionXLPipeline(StableDiffusionXLPipeline):
    """Without `identity` it is StableDiffusionXLPipeline; with one, InfiniteIDPipeline."""

    infinite_id: InfiniteIDPipeline | None = None

    def load_infinite_id(self, adapter: str, **options: Any) -> InfiniteIDPipeline:
        """Loads identity weights; arguments of `InfiniteIDPipeline.from_pipe`. What it gives back
        makes identities, mixes and groups: `pipe.infinite_id.mix(...)`."""
        self.infinite_id = InfiniteIDPipeline.from_pipe(self, adapter=adapter, **options)
        return self.infinite_id

    def __call__(self, prompt: Any = None, *, identity: Any = None, **values: Any) -> Any:
        """Arguments of `InfiniteIDPipeline.__call__` with an identity, SDXL's without."""
        if identity is None:
            return super().__call__(prompt, **values)
        if self.infinite_id is None:
            raise ValueError("identity is given before load_infinite_id, allowed: after it")
        self.infinite_id.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return self.infinite_id(prompt, identity, **values)

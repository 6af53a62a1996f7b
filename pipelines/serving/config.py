"""Settings of the service. Light: no torch, no ray."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ServiceConfig"]


class ServiceConfig(BaseModel):
    """Models, limits and access; also the arguments of `pipelines.serve:build`.

    Attributes:
        preset: "pocket", "sdxl" ... (`infinite_id.config.PRESETS`).
        methods: entries of METHODS that are offered; the first is the default.
        threads: of torch in the generation replica, on the CPU.
        max_batch: most pictures of one generator call.
        batch_wait_seconds: how long the first request waits for others.
        max_queue: most pictures that wait; more are answered with 503.
        request_timeout_seconds: from acceptance to the picture, else 504.
        max_body_bytes: of a whole request, counted while it is read.
        max_photos, max_photo_pixels, min_photo_side, min_face: of photos, see
            `infinite_id.photos.PhotoLimits` and `infinite_id.faces.find_faces`.
        max_prompt_chars, max_images, max_steps, max_guidance: of one request.
        max_side: largest height or width in pixels; None for twice the preset's.
        identity_ttl_seconds, max_identities: of embedded people kept in memory.
        key_hashes: scrypt hashes of API keys (`pipelines.serving.keys.hash_key`); empty: open,
            which only a loopback address should be.
        requests_per_minute: of one key, or of all callers together without keys; None: any.
        blocked_words: prompts that hold one of them as a whole word are refused.
        audit_path: SQLite file with one row a picture; None for none.
        generator_replicas: most generation replicas on Ray.
        generator_gpus: of one generation replica on Ray.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = "pocket"
    methods: tuple[str, ...] = ("infinite_id", "text_only")
    threads: int = Field(1, ge=1)
    max_batch: int = Field(8, ge=1)
    batch_wait_seconds: float = Field(0.02, ge=0)
    max_queue: int = Field(64, ge=1)
    request_timeout_seconds: float = Field(120.0, gt=0)
    max_body_bytes: int = Field(32 << 20, ge=1024)
    max_photos: int = Field(8, ge=1)
    max_photo_pixels: int = Field(50_000_000, ge=1, le=178_956_970)
    min_photo_side: int = Field(32, ge=1)
    min_face: float = Field(20.0, gt=0)
    max_prompt_chars: int = Field(1000, ge=1)
    max_images: int = Field(8, ge=1)
    max_steps: int = Field(100, ge=1)
    max_guidance: float = Field(30.0, ge=0)
    max_side: int | None = None
    identity_ttl_seconds: float = Field(3600.0, gt=0)
    max_identities: int = Field(1000, ge=1)
    key_hashes: tuple[str, ...] = ()
    requests_per_minute: int | None = Field(None, ge=1)
    blocked_words: tuple[str, ...] = ()
    audit_path: str | None = None
    generator_replicas: int = Field(1, ge=1)
    generator_gpus: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _names_exist(self) -> ServiceConfig:
        from infinite_id.config import preset
        from infinite_id.methods import METHODS

        preset(self.preset)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods are {self.methods}, allowed: at least one, each once")
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"method is {name!r}, allowed: {', '.join(sorted(METHODS))}")
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images is {self.max_images}, allowed: at most max_queue {self.max_queue}"
            )
        return self

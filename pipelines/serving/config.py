"""Settings of the service. Light: no torch, no ray."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from pipelines.serving.keys import KeyRing
from pipelines.serving.words import Blocklist
from pipelines.settings import ModelConfig

__all__ = ["ServiceConfig", "check_places"]

# As browsers write them, and as they are compared: small letters, no default port, no path.
_ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d+)?"
)


class ServiceConfig(ModelConfig):
    """Limits and access, besides the model; also the arguments of `pipelines.serve:build`.

    Height, width, steps and guidance of `ModelConfig` are the defaults of requests.

    Attributes:
        methods: entries of METHODS that are offered; the first is the default.
        metrics: of `eval.metrics.METRICS`, the scores that can be asked for; None: the default ones
            but nsfw. Networks that none of them needs are not loaded.
        threads: of torch in the generation replica, on the CPU.
        max_batch: most pictures of one generator call.
        batch_wait_seconds: how long the first request waits for others.
        max_queue: most pictures that wait; more are answered with 503.
        max_face_queue: most photos and scores that wait for the face and scoring networks;
            likewise.
        request_timeout_seconds: from a request's first byte to its answer: upload, faces,
            pictures and scores, else 504.
        send_timeout_seconds: an answer of which nothing is read for so long is given up; one that
            is read at less than 32 KiB per second, that much later.
        header_timeout_seconds: from a connection's beginning, or its last answer, to the end of the
            next request's headers; then it is closed. Not on Ray Serve.
        upload_idle_seconds: an upload of which nothing comes for so long is given up.
        max_connections: open at the same time, and requests at the same time, in one process. Of
            too many connections the one is closed that has sent no headers for the longest; on
            Ray Serve only requests are bounded.
        max_connections_per_address: of one address that is no loopback address. Not on Ray Serve.
        connections_per_minute: new ones of such an address, after max_connections_per_address at
            once; more are closed before anything of them is read. Not on Ray Serve.
        max_body_bytes: of a whole request, counted while it is read.
        max_inflight_bytes: of the bodies of all requests that are not answered yet, counted as they
            come; more are answered with 503.
        max_photos, max_photo_pixels, min_photo_side, min_face: of photos, see
            `infinite_id.faces.photos.PhotoLimits` and `infinite_id.faces.detection.find_faces`.
        max_prompt_chars, max_images, max_steps, max_guidance, max_identity_scale: of one request.
        max_previews: unfinished pictures of one picture.
        max_side: largest height or width in pixels; None for twice the preset's.
        identity_ttl_seconds, max_identities, max_identity_bytes: of embedded people kept in
            memory; of all ingress replicas together.
        key_hashes: of API keys (`infinite-id serve --new-key` makes both).
        key_file: text file with more of them, one a line; it is read at the start. Without any hash
            the service is open, and refuses to be reached but over a loopback address.
        failures_per_minute: requests of one address without a right key that are answered with
            401; more with 429, and after a second each.
        requests_per_minute: of one key, or of all callers together without keys, over all ingress
            replicas; None: any.
        blocked_words: prompts that hold one of them as a whole word, however it is written
            (`pipelines.serving.words`), are refused.
        safety_check: what sees every picture and preview before it is sent
            (`pipelines.serving.safety`): "open_nsfw", "module:function" of your own, or None.
        safety_threshold: of open_nsfw's probability; a picture at or above it is unsafe.
        unsafe_pictures: "refuse" with 422, or "blur" and say so.
        cors_origins: of pages on other hosts that may call the service; none by default.
        audit_path: SQLite file with one row a picture; None for none.
        ingress_replicas: most ingress replicas on Ray, each with face and scoring networks;
            max_face_queue and max_inflight_bytes are of one.
        generator_replicas: most generation replicas on Ray.
        generator_gpus: of one generation replica on Ray.
        surge_percent: extra replicas on Ray while a new version is rolled out, of those there
            are; where the cluster has no room for them, the new version waits.
    """

    methods: tuple[str, ...] = ("infinite_id", "text_only")
    metrics: tuple[str, ...] | None = Field(None, min_length=1)
    threads: int = Field(1, ge=1)
    max_batch: int = Field(8, ge=1)
    batch_wait_seconds: float = Field(0.02, ge=0)
    max_queue: int = Field(64, ge=1)
    max_face_queue: int = Field(32, ge=1)
    request_timeout_seconds: float = Field(120.0, gt=0)
    send_timeout_seconds: float = Field(30.0, gt=0, le=86_400)
    header_timeout_seconds: float = Field(10.0, gt=0)
    upload_idle_seconds: float = Field(10.0, gt=0)
    max_connections: int = Field(1000, ge=1)
    max_connections_per_address: int = Field(100, ge=1)
    connections_per_minute: int = Field(1200, ge=1)
    max_body_bytes: int = Field(32 << 20, ge=1024)
    max_inflight_bytes: int = Field(256 << 20, ge=1024)
    max_photos: int = Field(8, ge=1)
    max_photo_pixels: int = Field(50_000_000, ge=1, le=178_956_970)
    min_photo_side: int = Field(32, ge=1)
    min_face: float = Field(20.0, gt=0)
    max_prompt_chars: int = Field(1000, ge=1)
    max_images: int = Field(8, ge=1)
    max_previews: int = Field(8, ge=0)
    max_steps: int = Field(100, ge=1)
    max_guidance: float = Field(30.0, ge=0)
    max_identity_scale: float = Field(2.0, ge=0)
    max_side: int | None = None
    identity_ttl_seconds: float = Field(3600.0, gt=0)
    max_identities: int = Field(1000, ge=1)
    max_identity_bytes: int = Field(512 << 20, ge=1)
    key_hashes: tuple[str, ...] = ()
    key_file: str | None = None
    failures_per_minute: int = Field(30, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)
    blocked_words: tuple[str, ...] = ()
    safety_check: str | None = Field("open_nsfw", pattern=r"^(open_nsfw|[\w.]+:\w+)$")
    safety_threshold: float = Field(0.8, gt=0, le=1)
    unsafe_pictures: Literal["refuse", "blur"] = "refuse"
    cors_origins: tuple[str, ...] = ()
    audit_path: str | None = None
    ingress_replicas: int = Field(1, ge=1)
    generator_replicas: int = Field(1, ge=1)
    generator_gpus: float = Field(0.0, ge=0)
    surge_percent: int = Field(0, ge=0, le=100)

    @model_validator(mode="after")
    def _names_exist(self) -> ServiceConfig:
        from infinite_id.methods import METHODS

        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods are {self.methods}, allowed: at least one, each once")
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"method is {name!r}, allowed: {', '.join(sorted(METHODS))}")
        if self.metrics is not None:
            from eval.judges.given import JUDGES
            from eval.metrics import METRICS

            for name in self.metrics:
                if name not in METRICS:
                    raise ValueError(f"metric is {name!r}, allowed: {', '.join(METRICS)}")
                if any(need in JUDGES for need in METRICS[name].needs):
                    raise ValueError(
                        f"metric is {name!r}, which needs a judge of yours, allowed in the "
                        "service: metrics without"
                    )
        for origin in self.cors_origins:
            with_keys = bool(self.key_hashes or self.key_file)
            if _ORIGIN.fullmatch(origin) is None and not (origin == "*" and with_keys):
                raise ValueError(
                    f"cors_origins has {origin!r}, allowed: a scheme, a host in small letters, "
                    "and a port other than the scheme's own, as in https://example.org; or, with "
                    "keys, *"
                )
        KeyRing(self.key_hashes)
        Blocklist(self.blocked_words)
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images is {self.max_images}, allowed: at most max_queue {self.max_queue}"
            )
        if self.max_body_bytes > self.max_inflight_bytes:
            raise ValueError(
                f"max_body_bytes is {self.max_body_bytes}, allowed: at most max_inflight_bytes "
                f"{self.max_inflight_bytes}"
            )
        return self

    @property
    def open(self) -> bool:
        """Whether no key is asked for."""
        return not self.key_hashes and self.key_file is None


def check_places(config: ServiceConfig) -> None:
    """Looks at the files and the module that the settings name, before a model is loaded.

    Raises:
        ValueError: the file of keys or of pictures cannot be used, or the safety check is none.
    """
    from pipelines.serving.audit import AuditLog
    from pipelines.serving.keys import read_hashes
    from pipelines.serving.safety import load_safety_check

    if config.key_file is not None:
        KeyRing(config.key_hashes + read_hashes(config.key_file))
    AuditLog(config.audit_path).close()
    if config.safety_check != "open_nsfw":
        load_safety_check(config)

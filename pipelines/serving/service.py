"""What the endpoints do, without HTTP: checks, requests, pictures, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.groups import group_rows
from eval.json_values import json_value
from eval.metrics import DEFAULT_METRICS
from eval.picture_batch import PictureBatch
from eval.suite import load_suite
from infinite_id.faces.photos import PhotoLimits
from infinite_id.prompts import shipped_styles
from infinite_id.types import GeneratedImage, GenerationRequest, Identity
from pipelines.plan.requests import Text, request_from_row, sample_id
from pipelines.plan.weights import local_preset, local_weights, run_weights
from pipelines.serving.about import MAX_SEED, SIDE_STEP, settings_of
from pipelines.serving.audit import AuditLog
from pipelines.serving.backends import Backend
from pipelines.serving.bodies import GenerateBody, TokensBody
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError, out_of_range
from pipelines.serving.faces import FaceStage
from pipelines.serving.measures import Measures
from pipelines.serving.people import Person
from pipelines.serving.pictures import Pictures
from pipelines.serving.safety import blurred, load_safety_check
from pipelines.serving.state import State
from pipelines.serving.subjects import shares_of, subject_of
from pipelines.serving.tokens import Tokens
from pipelines.serving.words import Blocklist
from pipelines.serving.worker import Deadline, Worker
from pipelines.tables.pictures import decode_image, encode_image

__all__ = ["Order", "People", "Service"]

People = list[dict[str, Any]]
"""Of a picture of a group, what each person's scores are, see `eval.groups.group_rows`."""


@dataclass(frozen=True, slots=True)
class Order:
    """A checked `/v1/generate`: requests with the people that they show."""

    requests: tuple[GenerationRequest, ...]
    people: Mapping[str, Identity]
    style_words: str


class Service:
    """One ingress: face, safety and scoring networks, and where pictures and people are.

    Args:
        config: settings.
        backend: where pictures are made.
        state: where people and rates are kept.
        measures: of this process.
    """

    def __init__(
        self, config: ServiceConfig, backend: Backend, state: State, measures: Measures
    ) -> None:
        self.config, self.backend, self.state = config, backend, state
        self.measures = measures
        self.preset = local_preset(config.family(), config.storage_options)
        self.audit = AuditLog(config.audit_path)
        self.styles = shipped_styles()
        weights = run_weights(self.preset, config.methods)
        self.untrained, self.revisions = weights.untrained, weights.revisions
        self._tokens = Tokens(self.preset)
        self._blocked = Blocklist(config.blocked_words)
        self.limits = PhotoLimits(config.max_photo_pixels, config.min_photo_side)
        self._safety = load_safety_check(config)
        self._faces = FaceStage(self.preset, self.limits, config.min_face)
        scorer = config.scorer
        if scorer is not None:
            scorer = local_weights(scorer, config.storage_options)
        # The safety check has seen a picture before it is scored.
        usual = [name for name in DEFAULT_METRICS if name != "nsfw"]
        self._suite = load_suite(config.metrics or usual, config.preset, scorer=scorer, groups=True)
        self.worker = Worker(config.max_face_queue)
        has_controlnet = self.preset.controlnet is not None
        self._pictures = Pictures(
            self.worker, self.limits, has_controlnet, self.preset.fusion.fusion
        )

    def close(self) -> None:
        """Finishes what waits and lets everything go."""
        self.backend.close()
        self.worker.close()
        self.audit.close()

    async def embed(
        self,
        deadline: Deadline,
        photos: Sequence[bytes],
        face: int | str,
        class_word: str,
        owner: str,
        keep_photos: bool = False,
    ) -> Person:
        """Someone embedded, not yet kept. Raises ServiceError."""
        if not 1 <= len(photos) <= self.config.max_photos:
            raise out_of_range("photos", f"{len(photos)} photos", f"1 to {self.config.max_photos}")
        self.worker.check()
        return await self.worker.run(
            deadline, self._faces.embed, photos, face, class_word, owner, keep_photos
        )

    async def order(
        self, deadline: Deadline, body: GenerateBody, owner: str, inline: Person | None
    ) -> Order:
        """The requests of a body.

        Args:
            deadline: of the request.
            body: as it came.
            owner: of the key.
            inline: the person of `body.photos`.

        Raises:
            ServiceError: 4xx, a value is out of range or unknown; 503 or 504, people cannot be
                asked for.
        """
        ways = (body.identity_id, body.mix, body.group, body.photos)
        if sum(way is not None for way in ways) != 1:
            raise ServiceError(
                422, "who", "Exactly one of identity_id, mix, group and photos must be given."
            )
        text, words = self._text(body)
        subject, people = await subject_of(self.state, deadline, body, owner, inline)
        # With the class word in place: that comes from the caller too.
        prompt = text.prompt(subject.class_word)
        style = body.style or ""
        self.check_tokens("prompt", prompt, style)
        # The style's own fits: what is too long is the caller's.
        self.check_tokens("negative_prompt", text.negative_prompt)
        if self._blocked.finds(prompt):
            raise ServiceError(422, "blocked_prompt", "The prompt is not allowed here.")
        method = self._known("method", body.method or self.config.methods[0], self.config.methods)
        sampler = self.preset.sampler
        guidance = sampler.guidance_scale if body.guidance_scale is None else body.guidance_scale
        steps = body.steps or sampler.num_inference_steps
        _at_most("steps", steps, self.config.max_steps)
        _at_most("guidance_scale", guidance, self.config.max_guidance)
        _at_most("n", body.n, self.config.max_images)
        if body.identity_scale is not None:
            _at_most("identity_scale", body.identity_scale, self.config.max_identity_scale)
        _at_most("previews", body.previews, self.config.max_previews)
        height = self._side("height", body.height, self.preset.height)
        width = self._side("width", body.width, self.preset.width)
        begun, held = await self._pictures.of(deadline, body, method, (height, width), steps)
        row: dict[str, Any] = {
            "identity_id": subject.identity_id,
            "method": method,
            "prompt": prompt,
            "negative_prompt": text.negative_prompt,
            "style": text.style,
            "height": height,
            "width": width,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "mix_parts": list(subject.mix_parts) if subject.mix_parts else None,
            "mix_mode": subject.mix_mode,
            **subject.group_columns,
        }
        # A row of a plan has no scale: it is part of what the picture is of.
        what = subject.digest
        what += "" if body.identity_scale is None else f"*{body.identity_scale:g}"
        what += "" if begun is None else f"|{begun.digest}"
        what += "" if held is None else f"|control:{held.digest}"
        details = self.preset.details is not None
        if body.details and not details:
            message = "This service makes no small face again, allowed: no details."
            raise ServiceError(422, "no_details", message, param="details")
        if details and body.details is False:
            details, what = False, f"{what}|no-details"
        requests = []
        for seed in range(body.seed, body.seed + body.n):
            if seed > MAX_SEED:
                raise out_of_range("seed", str(seed), "0 to 2**63 - 1")
            row["seed"] = seed
            row["sample_id"] = sample_id(row, self.revisions[method], what)
            own: dict[str, Any] = {"init_image": begun, "control_image": held}
            own |= {"identity_scale": body.identity_scale, "details": details}
            requests.append(replace(request_from_row(row), **own))
        return Order(tuple(requests), people, words)

    def count_tokens(self, body: TokensBody) -> dict[str, int | None]:
        """Tokens of a prompt with its style, and the most; None where there is no tokenizer."""
        suffix = ""
        if body.style is not None:
            suffix = self.styles[self._known("style", body.style, list(self.styles))].words
        prompt = Text("api", "", body.prompt, suffix or "", "").prompt("person")
        return {"tokens": self._tokens.count(prompt), "max_tokens": self._tokens.most}

    def check_tokens(self, name: str, text: str, style: str = "") -> None:
        """Raises a ServiceError, 422, where a text is longer than the networks read."""
        count, most = self._tokens.count(text), self._tokens.most
        if count is not None and most is not None and count > most:
            allowed = f"at most {most} with begin and end"
            what = f"{count} tokens long{' with its style' if style else ''}"
            raise out_of_range(name, what, allowed)

    def _text(self, body: GenerateBody) -> tuple[Text, str]:
        for name, value in (("prompt", body.prompt), ("negative_prompt", body.negative_prompt)):
            if value is not None and len(value) > self.config.max_prompt_chars:
                allowed = f"at most {self.config.max_prompt_chars} characters"
                raise out_of_range(name, f"{len(value)} characters long", allowed)
        suffix, negative, name = "", "", body.style or ""
        if body.style is not None:
            style = self.styles[self._known("style", body.style, list(self.styles))]
            suffix, negative = style.words, style.negative_prompt
        if body.negative_prompt is not None:
            negative = body.negative_prompt
        return Text("api", name, body.prompt, suffix, negative), suffix

    def may_show(self, jpeg: bytes) -> bool:
        """Whether the safety check lets a preview pass; runs on `worker`."""
        return self._safety is None or self._safety(decode_image(jpeg))

    def _known(self, what: str, name: str, known: Sequence[str]) -> str:
        if name not in known:
            message = f"The {what} is unknown, allowed: {', '.join(known)}."
            raise ServiceError(422, f"unknown_{what}", message, param=what)
        return name

    def _side(self, name: str, value: int | None, default: int) -> int:
        most = self.config.max_side or 2 * default
        side = default if value is None else value
        if not 4 * SIDE_STEP <= side <= most or side % SIDE_STEP:
            allowed = f"{4 * SIDE_STEP} to {most}, divisible by {SIDE_STEP}"
            raise out_of_range(name, str(side), allowed)
        return side

    def finish(
        self, order: Order, made: Sequence[GeneratedImage], body: GenerateBody, owner: str
    ) -> tuple[list[bytes], list[dict[str, float | None]], list[People], list[bool]]:
        """(encoded, marked files; their scores, and those of each person of a group, empty unless
        asked for; which were blurred for the safety check); runs on `worker`.

        Raises:
            ServiceError: 422, the safety check refuses a picture.
        """
        images = [picture.image for picture in made]
        unsafe = [self._safety is not None and not self._safety(image) for image in images]
        if any(unsafe):
            self.measures.record("unsafe_total", sum(unsafe))
            if self.config.unsafe_pictures == "refuse":
                message = "The safety check refuses the picture: change the prompt or the seed."
                raise ServiceError(422, "unsafe_picture", message)
        scores: list[dict[str, float | None]] = [{} for _ in images]
        people: list[People] = [[] for _ in images]
        if body.scores:
            references, weights = shares_of(order.requests[0], order.people)
            prompts = [request.prompt for request in order.requests]
            batch = self._batch(images, prompts, references, order.style_words, weights)
            scores = self._scores(batch)
            if body.group is not None:
                people = _people_seen(batch, order, made)
        shown = [blurred(i) if bad else i for i, bad in zip(images, unsafe, strict=True)]
        files = [encode_image(image, body.format) for image in shown]
        self.audit.add(owner, order.requests, files)
        return files, scores, people, unsafe

    def score(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str],
        references: Sequence[NDArray[np.uint8]],
        style_words: str = "",
        weights: Sequence[float] | None = None,
    ) -> list[dict[str, float | None]]:
        """The suite's scores by name, None where a picture cannot be scored; runs on `worker`.

        Args:
            images: pictures, uint8 (H, W, 3) RGB.
            prompts: one a picture.
            references: aligned faces of whom all of them show.
            style_words: of all of them.
            weights: shares of the references; None: all count alike.
        """
        return self._scores(self._batch(images, prompts, references, style_words, weights))

    def _batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str],
        references: Sequence[NDArray[np.uint8]],
        style_words: str,
        weights: Sequence[float] | None,
    ) -> PictureBatch:
        count = len(images)
        return self._suite.batch(
            images,
            prompts,
            [list(references)] * count,
            [style_words] * count,
            None if weights is None else [weights] * count,
        )

    def _scores(self, batch: PictureBatch) -> list[dict[str, float | None]]:
        columns = self._suite.measure(batch)
        return [
            {n: float(v[i]) if np.isfinite(v[i]) else None for n, v in columns.items()}
            for i in range(len(batch))
        ]

    def about(self) -> dict[str, Any]:
        """Defaults and limits of requests, and what the scores mean (`about.Settings`)."""
        return settings_of(
            self.config,
            self.preset,
            untrained=self.untrained,
            max_prompt_tokens=self._tokens.most,
            scores=self._suite.metrics,
        )


def _people_seen(batch: PictureBatch, order: Order, made: Sequence[GeneratedImage]) -> list[People]:
    groups = [request.group for request in order.requests]
    faces = [[order.people[one].images for one in group.people] for group in groups if group]
    return json_value(
        [
            group_rows(batch, number, known, picture.regions)
            for number, (known, picture) in enumerate(zip(faces, made, strict=True))
        ]
    )


def _at_most(name: str, value: float, most: float) -> None:
    if value > most:
        raise out_of_range(name, f"{value:g}", f"at most {most:g}")

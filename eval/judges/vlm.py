"""A vision-language model that is asked, by any OpenAI-compatible endpoint.

The two questions are of the kind that OmniContext asks (Wu et al., OmniGen2, 2025): does the
picture follow the prompt, and is the person the one of the reference photo, each from 0 to 10 with
a reason. They are in this project's own words: numbers compare runs that were asked alike (the
model and `QUESTIONS_VERSION`), not published tables. Answers are kept by what was asked, so that
nothing is asked twice.

Pictures, photos and prompts leave this machine for the endpoint: nobody is asked by default.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.packages import cache_folder

__all__ = ["QUESTIONS", "QUESTIONS_VERSION", "VlmJudge"]

logger = logging.getLogger(__name__)

QUESTIONS_VERSION = "1"
QUESTIONS = {
    "prompt": (
        "The first picture was generated from a prompt. Judge only how well it follows the prompt: "
        "scene, clothes, objects, action, style. Do not judge beauty or who the person is.\n"
        "Prompt: {prompt}\n"
    ),
    "subject": (
        "The first picture was generated so that it shows the person of the other pictures, which "
        "are reference photos. Judge only whether it is the same person: shape of the face, eyes, "
        "nose, mouth, age, hair. Pose, expression, clothes, light and style may differ. A picture "
        "without a person is a 0.\n"
    ),
}
_ANSWER = (
    'Answer with one JSON object and nothing else: {"reason": "one sentence", "score": N}, where N '
    "is an integer from 0 (not at all) to 10 (perfectly)."
)
_TRIES, _FIRST_WAIT, _TIMEOUT = 4, 1.0, 120.0
_AGAIN = (408, 409, 429, 500, 502, 503, 504)
_LONGEST_SIDE = 1024


class VlmJudge:
    """Asks a model about pictures.

    Args:
        address: of the endpoint, ending before /chat/completions.
        model: its name there.
        key: sent as a bearer token; empty: none.
        folder: where answers are kept; by default below the project's cache.

    Attributes:
        revision: names the model and the questions.

    Raises:
        ImportError: httpx is missing.
        ValueError: no http address, or no model.
    """

    name = "vision-language model"

    def __init__(
        self, address: str, model: str, key: str = "", *, folder: Path | None = None
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ImportError(
                f"judge vlm needs httpx, which cannot be imported ({error}); install "
                "infinite-id-ray[serve]"
            ) from None
        if not re.match(r"https?://", address):
            raise ValueError(f"judge vlm is {address!r}, allowed: an http or https address")
        if not model:
            raise ValueError("judge vlm has no model, allowed: vlm_model with its name")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=_TIMEOUT)
        self._errors = (httpx.TransportError,)
        self._url = address.rstrip("/") + "/chat/completions"
        self._model = model
        self._folder = folder or cache_folder() / "vlm"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.revision = f"{model}, questions {QUESTIONS_VERSION}"

    def score(
        self,
        question: str,
        image: NDArray[np.uint8],
        prompt: str,
        references: Sequence[NDArray[np.uint8]],
    ) -> float:
        """0 to 10; NaN where the model gave no usable answer, which is logged.

        Args:
            question: of `QUESTIONS`.
            image: uint8 (H, W, 3) RGB.
            prompt: read by "prompt" alone.
            references: uint8 (H, W, 3) RGB each, read by "subject" alone.
        """
        text = QUESTIONS[question].format(prompt=prompt) + _ANSWER
        shown = [image, *(references if question == "subject" else ())]
        pictures = [_png(one) for one in shown]
        name = _digest(self._url, self._model, text, *pictures)
        kept = self._folder / f"{name}.json"
        if kept.is_file():
            return float(json.loads(kept.read_text("utf-8"))["score"])
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for picture in pictures:
            source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            content.append({"type": "image_url", "image_url": {"url": source}})
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
        }
        try:
            answer = self._ask(body)
        except ValueError as error:
            # Neither the prompt nor a picture: logs are read by others.
            logger.warning(
                "the question %s about picture %s has no answer: %s", question, name[:8], error
            )
            return math.nan
        part = kept.with_suffix(f".{time.monotonic_ns()}")
        part.write_text(json.dumps(answer, ensure_ascii=False), "utf-8")
        part.replace(kept)
        return float(answer["score"])

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """{"score", "reason"}.

        Raises:
            ValueError: in a sentence, why there is none.
        """
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_FIRST_WAIT * 2 ** (attempt - 1))
            try:
                response = self._client.post(self._url, json=body)
            except self._errors as error:
                reason = f"the endpoint cannot be reached ({type(error).__name__})"
                continue
            if response.status_code == 200:
                try:
                    return _answer(response.json()["choices"][0]["message"]["content"])
                except (ValueError, KeyError, IndexError, TypeError) as error:
                    reason = f"the answer is not usable ({error})"
                    continue
            reason = f"the endpoint answered {response.status_code}"
            if response.status_code not in _AGAIN:
                break
        raise ValueError(reason)


def _answer(text: Any) -> dict[str, Any]:
    """The JSON object in an answer, whose score is a number from 0 to 10.

    Raises:
        ValueError: there is none.
    """
    found = re.search(r"\{.*\}", text if isinstance(text, str) else "", re.DOTALL)
    if found is None:
        raise ValueError("it holds no JSON object")
    values = json.loads(found.group())
    score = values.get("score")
    # OmniContext's own form is a list of one score.
    if isinstance(score, list) and len(score) == 1:
        (score,) = score
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 10:
        raise ValueError("its score is no number from 0 to 10")
    return {"score": score, "reason": str(values.get("reason", ""))}


def _png(image: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _digest(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(hashlib.sha256(data).digest())
    return whole.hexdigest()

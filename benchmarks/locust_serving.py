"""What one user of the load test does; `benchmarks.serving_load` runs locust with this file.

LOAD='{"endpoint": "/v1/generate", "people": 6, "prompts": 4, "steps": 5}' \\
    locust -f benchmarks/locust_serving.py
"""

from __future__ import annotations

import base64
import json
import os
import random

from locust import HttpUser, task

from benchmarks.serving_load import PROMPTS

__all__ = ["Visitor"]


class Visitor(HttpUser):
    """Takes one of the sample people, then asks for one picture after the other without a pause."""

    _load = json.loads(os.environ["LOAD"])
    _number = 0

    def on_start(self) -> None:
        """The person's id, or their photo where each request carries it."""
        Visitor._number += 1
        samples = self.client.get("/v1/samples").json()
        sample = samples[Visitor._number % self._load["people"]]
        self._photo = base64.b64decode(sample["png"])
        if self._load["endpoint"] == "/v1/generate":
            answer = self.client.post("/v1/identities", data={"sample": sample["name"]})
            self._person = answer.json()["identity_id"]

    @task
    def picture(self) -> None:
        """One picture."""
        prompt = random.choice(PROMPTS[: self._load["prompts"]])
        body = {"prompt": prompt, "steps": self._load["steps"]}
        if self._load["endpoint"] == "/v1/generate":
            own = {"identity_id": self._person, "response": "image"}
            self.client.post("/v1/generate", json=body | own)
        else:
            files = {"image": ("photo.png", self._photo, "image/png")}
            self.client.post("/v1/images/edits", data=body, files=files)

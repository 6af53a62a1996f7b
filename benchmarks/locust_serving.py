"""What one user of the load test does; `benchmarks.serving_load` runs locust with this file.

LOAD='{"people": 6, "prompts": 4, "steps": 5}' locust -f benchmarks/locust_serving.py
"""

from __future__ import annotations

import json
import os
import random

from locust import HttpUser, task

from benchmarks.serving_load import PROMPTS

__all__ = ["Visitor"]


class Visitor(HttpUser):
    """Uploads a person, then asks for one picture after the other without a pause."""

    _load = json.loads(os.environ["LOAD"])
    _number = 0

    def on_start(self) -> None:
        """Uploads one of the sample people."""
        Visitor._number += 1
        names = [row["name"] for row in self.client.get("/v1/samples").json()]
        name = names[Visitor._number % self._load["people"]]
        answer = self.client.post("/v1/identities", data={"sample": name})
        self._person = answer.json()["identity_id"]

    @task
    def picture(self) -> None:
        """One picture."""
        prompts = PROMPTS[: self._load["prompts"]]
        body = {
            "identity_id": self._person,
            "prompt": random.choice(prompts),
            "steps": self._load["steps"],
            "response": "image",
        }
        self.client.post("/v1/generate", json=body)

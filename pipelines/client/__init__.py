"""A client of the HTTP service, in blocking and asyncio form. Light: no torch, no ray.

from pipelines.client import Client

with Client("http://127.0.0.1:8000") as client:
    person = client.add_identity("face.png")
    client.generate("a {subject} on the beach", identity=person).save("pictures")
"""

from pipelines.client.asynchronous import AsyncClient
from pipelines.client.calls import GenerateOptions, Photo
from pipelines.client.results import (
    Event,
    Face,
    Generation,
    Identity,
    Method,
    Picture,
    Preview,
    Queued,
    Sample,
    ScoreInfo,
    Settings,
    Step,
    Style,
)
from pipelines.client.retry import Retry
from pipelines.client.synchronous import Client
from pipelines.serving.errors import ServiceError

__all__ = [
    "Client",
    "AsyncClient",
    "Retry",
    "ServiceError",
    "Identity",
    "Face",
    "Generation",
    "Picture",
    "Event",
    "Queued",
    "Step",
    "Preview",
    "Method",
    "Style",
    "Sample",
    "Settings",
    "ScoreInfo",
    "GenerateOptions",
    "Photo",
]

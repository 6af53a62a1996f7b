"""The service: FastAPI in one process, or a Ray Serve application.

    serve run pipelines.serve:build          # Ray Serve, see cluster/serve.yaml
    infinite-id serve                        # one process, loopback

On Ray the ingress holds face and scoring networks and embedded people on CPUs; generation
replicas scale apart from it. There is one ingress replica, because people live in its memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infinite_id.types import GenerationRequest, Identity
from pipelines.serving.config import ServiceConfig

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

__all__ = ["build", "local_app"]


def local_app(config: ServiceConfig) -> FastAPI:
    """The application with the generators in this process; models load when it starts.

    Raises:
        ValueError: the safety check does not load.
    """
    from pipelines.serving.app import create_app
    from pipelines.serving.backends import LocalBackend, load_batcher
    from pipelines.serving.safety import load_safety_check
    from pipelines.serving.service import Service

    load_safety_check(config.safety_check)
    return create_app(config, lambda: Service(config, LocalBackend(load_batcher(config))))


class Generation:
    """A generation replica: the offline pipeline's generators behind a bounded queue."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from pipelines.serving.backends import load_batcher

        self._batcher = load_batcher(ServiceConfig(**settings))

    async def events(
        self,
        requests: Sequence[GenerationRequest],
        people: Mapping[str, Identity],
        timeout: float,
        previews: int = 0,
    ) -> AsyncIterator[Any]:
        """See `pipelines.serving.batcher.Batcher.events`."""
        async for event in self._batcher.events(requests, people, timeout, previews):
            yield event

    def check_health(self) -> None:
        """Ray Serve replaces a replica where this raises."""
        if not self._batcher.alive:
            raise RuntimeError("the generation thread has ended")


def build(args: Mapping[str, Any] | None = None) -> Application:
    """The Ray Serve application; `args` are `ServiceConfig`'s fields.

    Raises:
        pydantic.ValidationError: an unknown field or a value out of range.
    """
    from ray import serve
    from ray.serve.config import BackpressureConfig

    config = ServiceConfig(**(args or {}))
    settings = config.model_dump()
    deployment: Any = serve.deployment
    generation = deployment(
        Generation,
        name="Generation",
        max_ongoing_requests=config.max_queue + config.max_batch,
        max_queued_requests=config.max_queue,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": config.generator_replicas,
            "target_ongoing_requests": config.max_batch,
        },
        ray_actor_options={
            "num_cpus": 0.5 if config.generator_gpus else config.threads,
            "num_gpus": config.generator_gpus,
        },
        graceful_shutdown_timeout_s=config.request_timeout_seconds,
        max_surge_percent=config.surge_percent,
    ).bind(settings)

    def app() -> FastAPI:
        from pipelines.serving.app import create_app
        from pipelines.serving.backends import RayBackend
        from pipelines.serving.service import Service

        handle = serve.get_deployment_handle("Generation")
        own = ServiceConfig(**settings)
        return create_app(own, lambda: Service(own, RayBackend(handle)))

    @serve.ingress(app)
    class Ingress:
        """Keeps a reference to the deployment that it calls, so that Serve starts that one."""

        def __init__(self, generation: Any) -> None:
            self._generation = generation

    return deployment(
        Ingress,
        name="Ingress",
        num_replicas=1,
        max_ongoing_requests=4 * config.max_queue,
        max_queued_requests=4 * config.max_queue,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=2),
        max_surge_percent=config.surge_percent,
        ray_actor_options={"num_cpus": 0.5},
        graceful_shutdown_timeout_s=config.request_timeout_seconds,
    ).bind(generation)

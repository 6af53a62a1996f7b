"""The service: FastAPI in one process, or a Ray Serve application.

    serve run pipelines.serve:build          # Ray Serve, see cluster/serve.yaml
    infinite-id serve                        # one process, loopback

On Ray the ingress replicas hold face and scoring networks on CPUs, and the generation replicas
scale apart from them. One small replica without networks keeps embedded people and the rates of
keys for all of them.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infinite_id.types import GenerationRequest, Identity
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

__all__ = ["build", "local_app"]

# Each takes well under a millisecond: more wait only while there is no state replica.
_STATE_CALLS = 1000


def local_app(config: ServiceConfig, on_loss: Callable[[str], None] = lambda kind: None) -> FastAPI:
    """The application with the generators in this process; models load when it starts.

    Args:
        config: settings.
        on_loss: told what kind of error took the generators out; nothing brings them back.

    Raises:
        ValueError: the safety check does not load, a key hash is malformed, or the file of them
            cannot be read.
    """
    from pipelines.serving.app import create_app
    from pipelines.serving.backends import LocalBackend, load_batcher
    from pipelines.serving.measures import Measures
    from pipelines.serving.safety import load_safety_check
    from pipelines.serving.service import Service
    from pipelines.serving.state import LocalState

    load_safety_check(config)
    measures = Measures()

    def service() -> Service:
        backend = LocalBackend(load_batcher(config, measures, on_loss))
        return Service(config, backend, LocalState(config, measures), measures)

    return create_app(config, service, measures)


class SharedState:
    """People and rates of all ingress replicas; loads no network."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from pipelines.serving.measures import Measures
        from pipelines.serving.state import LocalState

        own = LocalState(ServiceConfig(**settings), Measures(ray=_in_ray()))
        self._known: dict[str, Callable[..., Any]] = {
            "add": own.people.add,
            "get": own.people.get,
            "photo": own.people.photo,
            "remove": own.people.remove,
            "take": own.rates.take,
        }

    async def ask(self, what: str, *values: Any) -> Any:
        """What `People` or `RateLimit` answers, or its ServiceError: Ray would wrap one that is
        raised.

        Args:
            what: "add", "get", "photo", "remove" or "take".
            values: its arguments.
        """
        try:
            # Arrays come as views of Ray's object store, where kept people would hold their place.
            return self._known[what](*copy.deepcopy(values))
        except ServiceError as error:
            return error


class GenerationDeployment:
    """A generation replica: the offline pipeline's generators behind a bounded queue."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from pipelines.serving.backends import load_batcher
        from pipelines.serving.measures import Measures
        from pipelines.stages.device import torch_device

        config = ServiceConfig(**settings)
        device = torch_device(config.generator_gpus)
        self._batcher = load_batcher(config, Measures(ray=True), device=device)

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
            raise RuntimeError(f"the generators are lost: {self._batcher.lost or 'their thread'}")


def _in_ray() -> bool:
    import sys

    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def check_address(config: ServiceConfig) -> None:
    """Refuses to be open to other machines: Serve's address counts, where Serve has started.

    Raises:
        ValueError: no keys, and Serve listens on an address that is no loopback address.
    """
    from ray.serve.context import _get_global_client

    from pipelines.serving.callers import is_loopback

    # Asked for a client, Serve would start a Ray of its own.
    if not config.open or not _in_ray():
        return
    client = _get_global_client(raise_if_no_controller_running=False)
    host = None if client is None else client.http_config.host
    if host is not None and not is_loopback(host):
        raise ValueError(
            f"http_options.host is {host}, allowed without key_hashes and key_file: 127.0.0.1"
        )


def build(args: Mapping[str, Any] | None = None) -> Application:
    """The Ray Serve application; `args` are `ServiceConfig`'s fields.

    Raises:
        pydantic.ValidationError: an unknown field or a value out of range.
        ValueError: there are no keys, and Serve listens on an address that is no loopback address.
    """
    from ray import serve
    from ray.serve.config import BackpressureConfig

    config = ServiceConfig(**(args or {}))
    check_address(config)
    settings = dict(config)
    deployment: Any = serve.deployment
    generation = deployment(
        GenerationDeployment,
        name="GenerationDeployment",
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
        # One whose GPU fails is found out in seconds.
        health_check_period_s=2,
        max_surge_percent=config.surge_percent,
    ).bind(settings)
    state = deployment(
        SharedState,
        name="SharedState",
        # Two would each know half of the people.
        num_replicas=1,
        max_ongoing_requests=_STATE_CALLS,
        max_queued_requests=_STATE_CALLS,
        # It starts in seconds: so the time without one is short.
        health_check_period_s=2,
        ray_actor_options={"num_cpus": 0.1},
    ).bind(settings)

    def app() -> FastAPI:
        from pipelines.serving.app import create_app
        from pipelines.serving.backends import RayBackend
        from pipelines.serving.measures import Measures
        from pipelines.serving.service import Service
        from pipelines.serving.state import RayState

        own = ServiceConfig(**settings)
        # Again: `serve run` builds the application before it knows where to listen.
        check_address(own)
        measures = Measures(ray=True)
        backend = RayBackend(serve.get_deployment_handle("GenerationDeployment"))
        limited = own.requests_per_minute is not None
        shared = RayState(serve.get_deployment_handle("SharedState"), limited)
        return create_app(own, lambda: Service(own, backend, shared, measures), measures)

    @serve.ingress(app)
    class Ingress:
        """Keeps references to the deployments that it calls, so that Serve starts them."""

        def __init__(self, generation: Any, state: Any) -> None:
            self._called = generation, state

    return deployment(
        Ingress,
        name="Ingress",
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": config.ingress_replicas,
            # More photos than that are refused by one alone.
            "target_ongoing_requests": config.max_face_queue,
        },
        max_ongoing_requests=4 * config.max_queue,
        max_queued_requests=4 * config.max_queue,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=2),
        max_surge_percent=config.surge_percent,
        ray_actor_options={"num_cpus": 0.5},
        graceful_shutdown_timeout_s=config.request_timeout_seconds,
    ).bind(generation, state)

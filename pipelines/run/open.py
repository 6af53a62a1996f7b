"""What every run over manifests is framed by: its folder, its lease, its record, a Ray session."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from infinite_id.attention.installed import check_attention
from infinite_id.config import Preset
from pipelines.plan.made_from import MadeFrom
from pipelines.plan.weights import RunWeights
from pipelines.run.folder import RunFolder, Timings, environment
from pipelines.run.lease import Lease
from pipelines.run.session import cluster_limits, on_this_machine, ray_session
from pipelines.settings import RunConfig
from pipelines.tables.storage import Store

__all__ = ["OpenRun", "open_run"]


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run under way.

    Attributes:
        folder: with its record.
        lease: on the folder; checked after each unit.
        timings: of phases, over all resumes.
        cluster: resources as `ray.cluster_resources()` gives them.
        limits: what it can grow to, see `cluster_limits`.
    """

    folder: RunFolder
    lease: Lease
    timings: Timings
    cluster: Mapping[str, float]
    limits: Mapping[str, float]

    @property
    def store(self) -> Store:
        """The run folder's files."""
        return self.folder.store


@contextlib.contextmanager
def open_run(
    config: RunConfig,
    family: Preset,
    weights: RunWeights,
    *,
    check: Callable[[Mapping[str, float], Mapping[str, float], Store], None],
    made_from: MadeFrom,
    digests: Mapping[str, str] = MappingProxyType({}),
    command: str,
    **values: Any,
) -> Iterator[OpenRun]:
    """Begins or resumes the run of a configuration; a failure inside is recorded.

    A run that is refused has written nothing.

    Args:
        config: of the run.
        family: model family.
        weights: of the run's methods.
        check: called with the cluster, its limits and the run folder before that is written to;
            raises a ValueError where the run cannot be.
        made_from: what decides its rows; a resumed run must have the same.
        digests: of more that must be the same, see `RunFolder.claim`.
        command: the command line, for the record.
        values: more for the record.

    Raises:
        ValueError: wrong input; StorageError (a ValueError): a place that cannot be used.
        RunFailedError: the place failed under the run, or Ray did not start.
    """
    if on_this_machine(config.address):
        # Other machines have packages of their own, which their actors look for.
        check_attention(family.attention)
    folder = RunFolder(config.output, config.storage_options, resume=config.resume)
    timings = Timings(folder.record.get("timings", {}))
    with ray_session(config.address) as cluster:
        limits = cluster_limits(cluster, config.resources, config.address)
        check(cluster, limits, folder.store)
        with Lease(folder.store) as lease:
            made_from.claim(folder.store, folder.record, folder.update)
            with folder.recording(
                timings,
                digests=digests,
                command=command,
                preset=family.name,
                untrained=weights.untrained,
                config=config.record(),
                environment=environment(),
                revisions={"weights": weights.name, **weights.revisions},
                **values,
            ):
                yield OpenRun(folder, lease, timings, cluster, limits)

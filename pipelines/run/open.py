"""What every run over manifests is framed by: its folder, its lease, its record, a Ray session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infinite_id.config import Preset
from pipelines.plan.weights import weights_revision
from pipelines.run.folder import RunFolder, Timings, environment
from pipelines.run.lease import Lease
from pipelines.run.session import ray_session
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
        weights: names the base's and adapter's weights.
        untrained: whether some of them are, so that pictures are noise.
    """

    folder: RunFolder
    lease: Lease
    timings: Timings
    cluster: Mapping[str, float]
    weights: str
    untrained: bool

    @property
    def store(self) -> Store:
        """The run folder's files."""
        return self.folder.store


@contextlib.contextmanager
def open_run(
    config: RunConfig, family: Preset, *, digests: Mapping[str, str], command: str, **values: Any
) -> Iterator[OpenRun]:
    """Begins or resumes the run of a configuration; a failure inside is recorded.

    Args:
        config: of the run.
        family: model family.
        digests: see `RunFolder.claim`.
        command: the command line, for the record.
        values: more for the record.

    Raises:
        ValueError: wrong input; StorageError (a ValueError): a place that cannot be used.
        RunFailedError: the place failed under the run, or Ray did not start.
    """
    folder = RunFolder(config.output, config.storage_options, resume=config.resume)
    weights, untrained = weights_revision(family)
    timings = Timings(folder.record.get("timings", {}))
    with (
        Lease(folder.store) as lease,
        folder.recording(
            timings,
            digests=digests,
            command=command,
            preset=family.name,
            untrained=untrained,
            config=config.record(),
            environment=environment(),
            revisions={"weights": weights},
            **values,
        ),
        ray_session(config.address) as cluster,
    ):
        yield OpenRun(folder, lease, timings, cluster, weights, untrained)

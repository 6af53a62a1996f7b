"""Training: `python jobs/train.py --config FILE [options]`, also by `ray job submit`."""

from __future__ import annotations

from pipelines.run.environment import quiet

quiet()

import contextlib
import dataclasses
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.places import StorageError
from jobs.console import console, progress_display, show_table, user_errors
from jobs.options import (
    Address,
    CheckPeople,
    Config,
    Preset,
    Set,
    StorageOptions,
    TrackingUri,
    set_values,
)
from jobs.options import storage_options as read_options
from jobs.tracking import (
    check_tracking,
    experiment_id,
    experiment_name,
    mlflow_client,
    reason_of,
    tracking_address,
)
from pipelines.tables.storage import Store
from pipelines.training.config import TrainingConfig, load_training_config
from pipelines.training.samples import SAMPLES

__all__ = [
    "train",
]

Optional = str | None


_POLL_SECONDS = 5.0
_EXPERIMENT = "infinite-id-training"


@user_errors("the last checkpoint stays, the same command goes on from it")
def train(
    config: Config = None,
    data: Annotated[
        Optional,
        typer.Option(
            help="Needed, here or in the file: Parquet with identity_id, image, optional caption."
        ),
    ] = None,
    output: Annotated[
        Optional,
        typer.Option(help="Folder of the run, any fsspec address."),
    ] = None,
    preset: Preset = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps in all.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per worker and step.")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray Train workers.")] = None,
    text_active: Annotated[
        bool, typer.Option("--text-active", help="The ablation: text takes part in training.")
    ] = False,
    check_people: CheckPeople = False,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    storage_options: StorageOptions = None,
    override: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count parameters, memory and cost; train nothing.")
    ] = False,
) -> None:
    """Trains an Infinite-ID adapter; run again to resume."""
    options = {
        "data": data or ("none" if dry_run and config is None else None),
        "output": output,
        "preset": preset,
        "steps": steps,
        "batch_size": batch_size,
        "workers": workers,
        "text_active": text_active or None,
        "check_people": check_people or None,
        "tracking_uri": tracking_uri,
        "address": address,
        "storage_options": read_options(storage_options),
    }
    settings = load_training_config(config, **{**options, **set_values(override)})
    if dry_run:
        _show_dry_run(settings)
        return
    tracking = tracking_address(settings.tracking_uri, settings.output)
    check_tracking(tracking, experiment_name(settings.experiment, _EXPERIMENT))
    store = Store(settings.output, settings.storage_options)
    store.check_writable()
    from pipelines.plan.weights import run_weights
    from pipelines.run.lease import Lease
    from pipelines.run.session import ray_session
    from pipelines.training.job import count_photos, pair_warnings, prepare_pairs
    from pipelines.training.job import train as run_training
    from pipelines.training.worker import read_metrics

    count_photos(settings)
    # What is trained stands on the base and the encoders, as text alone does.
    run_weights(settings.family(), ["text_only"], settings.storage_options)
    with (
        Lease(store) as lease,
        ray_session(settings.address),
        _tracked(settings, tracking) as log,
        lease.interrupting(),
    ):
        counts = prepare_pairs(settings, lease.check)
        console.print(f"pairs: {', '.join(f'{key} {n}' for key, n in sorted(counts.items()))}")
        for line in pair_warnings(store):
            console.print(f"warning: {line}", markup=False)
        with progress_display() as show, _watched(store, settings.steps, show, log):
            run_training(settings)
        metrics = read_metrics(store)
        log(metrics)
    show_table("training", ["step", "loss", "pictures_per_second"], metrics[-5:])
    console.print(f"adapter: {store.url}/adapter.safetensors", markup=False)


def _show_dry_run(settings: TrainingConfig) -> None:
    from infinite_id.pocket import weights as pocket_weights
    from infinite_id.training.dry_run import SDXL_UNET, dry_run

    unet = (
        pocket_weights.EDITIONS[pocket_weights.shipped_size()].unet
        if settings.preset == "pocket"
        else SDXL_UNET
    )
    found = dry_run(
        settings.family(),
        unet,
        batch=settings.batch_size * settings.accumulation,
        gpus=settings.workers,
        strategy=settings.strategy,
        precision=settings.precision,
        text_active=settings.text_active,
    )
    rows = [{"figure": name, "value": value} for name, value in dataclasses.asdict(found).items()]
    show_table(
        f"{settings.preset}, {settings.workers} workers, batch {settings.batch_size} each; A100 at "
        "40 % of its peak, 2.00 an hour",
        ["figure", "value"],
        rows,
    )


@contextlib.contextmanager
def _watched(
    store: Store, steps: int, show: Callable[[str, int, int], None], log: Callable[[list], None]
) -> Iterator[None]:
    """Shows and logs what the workers report while they train."""
    from pipelines.training.worker import read_metrics

    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_POLL_SECONDS):
            # A store that stumbles once must not end the display of a run that goes on.
            with contextlib.suppress(ValueError):
                rows = read_metrics(store)
                if rows:
                    show("train", int(rows[-1]["step"]), steps)
                    log(rows)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _tracked(
    settings: TrainingConfig, uri: str | None
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Yields log(rows): sends the rows and sample grids not yet sent. The adapter follows last."""
    tracking = _Tracking(settings, uri)
    try:
        yield tracking.log
    except BaseException:
        tracking.end("FAILED")
        raise
    tracking.send_adapter()
    tracking.end("FINISHED")


class _Tracking:
    """The MLflow run of a training; where MLflow fails, one line says so and nothing is sent any
    more, because the training goes on."""

    def __init__(self, settings: TrainingConfig, uri: str | None) -> None:
        self._settings, self._alive = settings, uri is not None
        self._store = Store(settings.output, settings.storage_options)
        self._sent: set[Any] = set()
        self._attempt(self._begin, uri)

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Sends the rows of `read_metrics` and the sample grids that are not sent yet."""
        self._attempt(self._send, rows)

    def send_adapter(self) -> None:
        """Sends the adapter, where there is one."""
        self._attempt(self._send_adapter)

    def end(self, status: str) -> None:
        """Closes the run as FINISHED or FAILED."""
        self._attempt(self._end, status)

    def _attempt(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._alive:
            return
        try:
            call(*arguments)
        except StorageError:
            raise
        except Exception as error:
            self._alive = False
            console.print(f"MLflow: logging stopped: {reason_of(error)}", markup=False)
            with contextlib.suppress(Exception):
                self._end("FAILED")

    def _begin(self, uri: str) -> None:
        self._client = mlflow_client(uri)
        name = experiment_name(self._settings.experiment, _EXPERIMENT)
        parent = os.environ.get("MLFLOW_RUN_ID")
        run = self._client.create_run(
            experiment_id(self._client, name, uri),
            run_name=self._store.url.rpartition("/")[2],
            tags={"mlflow.parentRunId": parent} if parent else None,
        )
        self._run_id = run.info.run_id
        for key, value in self._settings.record().items():
            self._client.log_param(self._run_id, key, str(value))

    def _send(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["step"] in self._sent:
                continue
            self._sent.add(row["step"])
            for name in ("loss", "pictures_per_second", "gradient_norm"):
                self._client.log_metric(self._run_id, name, row[name], step=row["step"])
        for name in self._store.names(SAMPLES, ".png"):
            if name not in self._sent:
                self._sent.add(name)
                self._send_grid(name)

    def _send_grid(self, name: str) -> None:
        from PIL import Image

        step = int(Path(name).stem.rpartition("-")[2])
        with Image.open(io.BytesIO(self._store.read_bytes(f"{SAMPLES}/{name}"))) as grid:
            self._client.log_image(self._run_id, grid.copy(), key=SAMPLES, step=step)

    def _send_adapter(self) -> None:
        name = "adapter.safetensors"
        if self._store.exists(name):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, name)
                path.write_bytes(self._store.read_bytes(name))
                self._client.log_artifact(self._run_id, str(path))

    def _end(self, status: str) -> None:
        self._client.set_terminated(self._run_id, status)


if __name__ == "__main__":
    typer.run(train)

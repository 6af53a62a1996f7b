"""Chains of stages on a real Ray: how far each is, memory under a slow one, actors that die."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.places import StorageError
from infinite_id.packages import PackageFile, package_file
from jobs.console import RESUME, user_errors
from jobs.train import train
from pipelines.run.units import commit_unit, unit_of
from pipelines.stages.ray_data import stream_units
from pipelines.stages.stage import Stage
from pipelines.tables.storage import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(200)]
_STORE_BYTES = 100_000_000  # of `shared_ray`
_UNIT_BYTES = 2_000_000
_UNITS = 110
_SCHEMA = pa.schema([("unit", pa.int64())])


@pytest.fixture
def session(shared_ray):
    import ray

    return ray


def test_a_cluster_without_an_autoscaler_is_known_by_its_monitor(session):
    from pipelines.run.autoscaler import is_fixed
    from pipelines.run.session import cluster_limits
    from pipelines.settings import Resources

    until = time.monotonic() + 60  # it writes every five seconds
    while not is_fixed():
        assert time.monotonic() < until
        time.sleep(0.2)
    # As another driver of the same cluster sees it, which knows it by its address alone.
    limits = cluster_limits(session.cluster_resources(), Resources(), "10.0.0.1:6379")
    assert limits == {"CPU": 4.0, "GPU": 0.0}


def test_workers_have_their_environment_and_not_the_drivers(session):
    from pipelines.run.environment import WORKER_ENVIRONMENT

    names = list(WORKER_ENVIRONMENT)
    found = session.get(session.remote(lambda: {n: os.environ.get(n) for n in names}).remote())
    assert found == WORKER_ENVIRONMENT


class TellsOfCollection:
    """Units -> whether garbage was collected in the constructor and is now, and what is exempt."""

    def __init__(self, store: Store) -> None:
        self._at_first = gc.isenabled()

    def __call__(self, table: pa.Table) -> pa.Table:
        row = {
            "unit": unit_of(table, "maker"),
            "constructor": self._at_first,
            "now": gc.isenabled(),
            "exempt": gc.get_freeze_count(),
        }
        return pa.Table.from_pylist([row])


def test_no_garbage_is_looked_for_while_an_actor_loads(session, tmp_path):
    store = Store(tmp_path)
    stages = [Stage("maker", TellsOfCollection, {"store": store})]
    (step,) = stream_units(stages, store, "written", range(1))
    (found,) = step.rows.to_pylist()
    assert (found["constructor"], found["now"]) == (False, True)
    assert found["exempt"] > 1000


class Maker:
    """Units -> two megabytes each, at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, table: pa.Table) -> pa.Table:
        unit = unit_of(table, "maker")
        data = np.random.default_rng(unit).bytes(_UNIT_BYTES)
        return pa.table({"unit": [unit], "data": pa.array([data], pa.binary())})


class SlowWriter:
    """Commits each unit, late."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store, self._seconds = store, seconds

    def __call__(self, table: pa.Table) -> pa.Table:
        unit = unit_of(table, "writer")
        time.sleep(self._seconds)
        commit_unit(self._store, "written", unit, [{"unit": unit}], _SCHEMA)
        return pa.table({"unit": [unit]})


class NeverLoads:
    """Dies in its constructor, as a crash in a library's C code would."""

    def __init__(self, store: Store) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RefusesToLoad:
    """Finds in its constructor what a user has to mend."""

    def __init__(self, store: Store) -> None:
        raise ValueError("weights are 'none', allowed: some")


class LacksAPackage:
    """Needs a file of a package that is not installed."""

    def __init__(self, store: Store) -> None:
        package_file(PackageFile("no-such-package", "1.0", "x", "0", "MIT"))


class LoadsLater:
    """Loads what it needs with its first unit."""

    def __init__(self, store: Store) -> None:
        self._loaded = False

    def load(self) -> None:
        self._loaded = True

    def __call__(self, table: pa.Table) -> pa.Table:
        if not self._loaded:
            self.load()
        return table


class NeverLoadsLater(LoadsLater):
    """Dies as it does."""

    def load(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RefusesToLoadLater(LoadsLater):
    """Finds then what a user has to mend."""

    def load(self) -> None:
        raise ValueError("weights are 'none', allowed: some")


class LosesItsDisk(LoadsLater):
    """Works until the place fails."""

    def load(self) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise StorageError("cannot write images/part-000000000.parquet: disk full") from error


class HasAFault(LoadsLater):
    """Raises what nobody foresaw."""

    def load(self) -> None:
        raise KeyError("prompt")


def _stages(store: Store, first: type, seconds: float) -> list[Stage]:
    kwargs = {"store": store}
    return [
        Stage("maker", first, kwargs, num_cpus=0.5),
        Stage("writer", SlowWriter, {**kwargs, "seconds": seconds}, num_cpus=0.5),
    ]


def _object_store() -> tuple[int, int]:
    """Bytes in the object store and bytes ever spilled from it."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    # Named, because another Ray on this machine would be found as well.
    address = ray.get_runtime_context().gcs_address
    stats = get_memory_info_reply(get_state_from_address(address)).store_stats
    return stats.object_store_bytes_used, stats.spilled_bytes_total


def test_a_slow_writer_holds_the_maker_back(session, tmp_path):
    store, used, leads = Store(tmp_path), [], []
    _, spilled_before = _object_store()
    for step in stream_units(_stages(store, Maker, 0.03), store, "written", range(_UNITS)):
        used.append(_object_store())
        leads.append(step.given["maker"] - step.given["writer"])
    assert _UNITS * _UNIT_BYTES > 2 * _STORE_BYTES
    assert len(store.names("written")) == _UNITS
    assert max(spilled for _, spilled in used) == spilled_before
    # Ray Data's own budget is half of the store; units in actors' hands come on top.
    assert max(held for held, _ in used) < 0.75 * _STORE_BYTES
    # Each stage has a figure of its own, and the maker's is ahead.
    assert max(leads) > 1
    assert (step.done, step.given) == (_UNITS, {"maker": _UNITS, "writer": _UNITS})


class TinyMaker:
    """Units -> as they came, at once."""

    def __init__(self, store: Store) -> None:
        pass

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


def test_few_units_wait_between_stages_however_small_they_are(session, tmp_path, monkeypatch):
    """The driver keeps books of each: millions of them would fill it before the store is full."""
    monkeypatch.setattr("pipelines.stages.ray_data._LEAST_WAITING", 10)
    store = Store(tmp_path)
    steps = stream_units(_stages(store, TinyMaker, 0.1), store, "written", range(80))
    leads = [step.given["maker"] - step.given["writer"] for step in steps]
    assert len(store.names("written")) == 80
    # Ten wait, and each of the two actors has some in its hands.
    assert 5 < max(leads) < 20


def test_what_was_committed_before_counts_as_given(session, tmp_path):
    store = Store(tmp_path)
    for unit in (0, 2):
        commit_unit(store, "written", unit, [{"unit": unit}], _SCHEMA)
    steps = list(stream_units(_stages(store, Maker, 0.0), store, "written", range(4)))
    assert [step.done for step in steps] == [3, 4]
    assert 0 < steps[-1].began["maker"] < steps[-1].began["writer"] < time.perf_counter()
    assert steps[-1].given == {"maker": 4, "writer": 4}


@pytest.mark.parametrize(
    ("first", "code", "sentence"),
    [
        (NeverLoads, 1, "failed: stage maker does not start: its process died 3 times while"),
        (NeverLoadsLater, 1, "failed: stage maker does not start: its process died 3 times while"),
        (RefusesToLoad, 2, "error: weights are 'none', allowed: some\n"),
        (RefusesToLoadLater, 2, "error: weights are 'none', allowed: some\n"),
        (LacksAPackage, 2, "error: package no-such-package==1.0 is not installed; install it"),
        (LosesItsDisk, 1, "failed: cannot write images/part-000000000.parquet: disk full; what"),
        (HasAFault, 1, "failed: KeyError: 'prompt'; what is committed stays, --resume goes on"),
    ],
)
def test_an_actor_that_cannot_go_on_ends_the_run_with_a_sentence(
    session, tmp_path, capfd, first, code, sentence
):
    @user_errors(RESUME)
    def run() -> None:
        store = Store(tmp_path)
        list(stream_units(_stages(store, first, 0.0), store, "written", range(4)))

    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == code
    said = capfd.readouterr().err
    assert said.startswith(sentence)
    assert said.count("\n") == 1


def refused(capsys, data, output) -> str:
    """What the training job says, as it ends with exit code 2."""
    with pytest.raises(SystemExit) as left:
        train(data=str(data), output=str(output), batch_size=4, tracking_uri="none")
    assert left.value.code == 2
    return capsys.readouterr().err


def test_photos_without_a_face_end_the_training_with_a_sentence(session, tmp_path, capsys):
    gray = io.BytesIO()
    Image.new("RGB", (64, 64), "gray").save(gray, "PNG")
    images = [gray.getvalue(), b"no picture", gray.getvalue()]
    data = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"identity_id": ["ada", "bob", "ada"], "image": images}), data)
    assert refused(capsys, data, tmp_path / "run") == (
        f"error: no photo of {data} gave a training pair ({{'rejects/no_face': 2, "
        "'rejects/not_an_image': 1, 'people': 2}), allowed: photos with one clear face\n"
    )
    # The next run tries again: other photos may stand there then.
    assert not (tmp_path / "run" / "pairs" / "_done.json").exists()


def test_fewer_pairs_than_a_batch_end_the_training_with_a_sentence(session, tmp_path, capsys):
    store = Store(tmp_path / "run")
    # Those of validation and test are not trained on.
    counts = {"pairs/train": 3, "pairs/test": 9, "people": 2}
    store.write_bytes("pairs/_done.json", json.dumps(counts).encode())
    assert refused(capsys, tmp_path / "photos.parquet", tmp_path / "run") == (
        "error: there are 3 training pairs, allowed: 4 or more (batch_size x workers)\n"
    )

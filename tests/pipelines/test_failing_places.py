"""A place that fails in the middle of a run: one sentence, nothing torn, and a resume that ends."""

from __future__ import annotations

import contextlib
import os

import pytest

s3fs = pytest.importorskip("s3fs")

from moto.server import ThreadedMotoServer  # noqa: E402

from infinite_id.config import preset  # noqa: E402
from jobs.console import RESUME, user_errors  # noqa: E402
from pipelines.run.folder import RunFolder, Timings  # noqa: E402
from pipelines.run.lease import Lease  # noqa: E402
from pipelines.run.units import committed_units, unit_table  # noqa: E402
from pipelines.stages.generation import GenerationActor  # noqa: E402
from pipelines.tables.schemas import IMAGES  # noqa: E402
from tests.full_disk import files_of_at_most  # noqa: E402
from tests.pipelines.conftest import embeddings_table, small_plan  # noqa: E402
from tests.pipelines.fault_proxy import fault_proxy  # noqa: E402

PLAN = small_plan("timed", ["one", "two", "three", "four"], unit_size=3)


@pytest.fixture(scope="module")
def proxy():
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    with fault_proxy(*moto.get_host_and_port()) as found:
        yield found
    moto.stop()


@user_errors(RESUME)
def _run(url: str, options: dict, between=contextlib.nullcontext) -> None:
    """The main job's skeleton in one process; after two units `between` is entered."""
    run = RunFolder(url, options, resume=True)
    if not run.store.exists("embeddings/part-000000000.parquet"):
        run.store.write_table("embeddings/part-000000000.parquet", embeddings_table(3))
    with Lease(run.store), run.recording(Timings({}), digests={"plan": PLAN.digest}):
        actor = GenerationActor(run.store, PLAN, preset("pocket"))
        for unit in (0, 1):
            actor(unit_table([unit]))
        with between():
            for unit in (2, 3):
                actor(unit_table([unit]))


def _check(capsys, url: str, options: dict, between, words: str, heal=lambda: None) -> None:
    with pytest.raises(SystemExit) as ended:
        _run(url, options, between)
    said = [line for line in capsys.readouterr().err.splitlines() if "[transformers]" not in line]
    assert ended.value.code == 1
    assert len(said) == 1
    assert said[0].startswith("failed: cannot ")
    assert words in said[0]
    assert said[0].endswith("what is committed stays, --resume goes on with it")
    heal()
    # The process of a real run is dead by now, and its lease nobody's.
    RunFolder(url, options, resume=True).store.delete("lease.json")
    _run(url, options)
    run = RunFolder(url, options, resume=True)
    assert committed_units(run.store, "images") == {0, 1, 2, 3}
    rows = run.store.read_folder("images", IMAGES)["sample_id"].to_pylist()
    assert sorted(rows) == sorted(
        row["sample_id"] for unit in range(4) for row in PLAN.table(unit).to_pylist()
    )
    assert list(run.store.iter_names("attempts")) == []


def test_a_full_disk(tmp_path, capsys, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    @contextlib.contextmanager
    def between():
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            yield

    _check(capsys, str(tmp_path / "run"), {}, between, "No space left on device")
    assert list((tmp_path / "run").rglob(".writing-*")) == []


def test_a_file_that_the_system_cuts_off(tmp_path, capsys):
    _check(capsys, str(tmp_path / "run"), {}, lambda: files_of_at_most(1024), "File too large")
    assert list((tmp_path / "run").rglob(".writing-*")) == []


@pytest.mark.parametrize(
    ("status", "code"), [(400, "ExpiredToken"), (403, "AccessDenied"), (404, "NoSuchBucket")]
)
def test_a_bucket_that_refuses_from_the_middle_on(capsys, proxy, status, code):
    proxy.faults, proxy.code = [], code
    options = {
        "key": "test",
        "secret": "test",
        "endpoint_url": proxy.url,
        "skip_instance_cache": True,
    }
    name = f"bucket-{code.lower()}"
    s3fs.S3FileSystem(**options).mkdir(name)

    @contextlib.contextmanager
    def between():
        proxy.faults = [status] * 1000
        yield

    def heal() -> None:
        proxy.faults = []

    _check(capsys, f"s3://{name}/run", {"s3": options}, between, f"s3://{name}/run/", heal)

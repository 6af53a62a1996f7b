"""The same job on a cluster through `ray job submit`, and with s3:// on both ends."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from pipelines.tables.manifest import (
    default_prompts,
    default_styles,
    demo_identities,
    write_manifests,
)

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(290)]
OPTIONS = [
    "--methods",
    "timed",
    "--limit",
    "7",
    "--metrics",
    "face_found",
    "--tracking-uri",
    "none",
]


@pytest.fixture(scope="module")
def bucket():
    """An S3 server of this test on a loopback port, its bucket, and the environment to reach it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    options = {
        "key": "test",
        "secret": "test",
        "endpoint_url": environment["AWS_ENDPOINT_URL"],
        "skip_instance_cache": True,
    }
    filesystem = s3fs.S3FileSystem(**options)
    filesystem.mkdir("bucket")
    yield filesystem, environment, options
    server.stop()


def test_manifests_photos_and_results_live_in_a_bucket(bucket):
    filesystem, environment, options = bucket
    identities = demo_identities()
    photo = Path(identities["photos"][0][0]["uri"].as_py())
    filesystem.put(str(photo), "bucket/photos/group.jpg")
    rows = identities.slice(0, 6).to_pylist()
    for row in rows:
        row["photos"] = [{"uri": "s3://bucket/photos/group.jpg", "bytes": None}]
    write_manifests(
        "s3://bucket/manifests",
        identities=identities.from_pylist(rows, schema=identities.schema),
        prompts=default_prompts(),
        styles=default_styles(),
        options={"s3": options},
    )
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "jobs" / "benchmark.py"), "--address", "local", *OPTIONS),
            *("--identities", "s3://bucket/manifests/identities.parquet"),
            *("--output", "s3://bucket/runs/one"),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    filesystem.invalidate_cache()
    assert pq.read_table("bucket/runs/one/images", filesystem=filesystem).num_rows == 7
    assert pq.read_table("bucket/runs/one/scores", filesystem=filesystem).num_rows == 7
    assert filesystem.exists("bucket/runs/one/report/report.html")
    assert json.loads(filesystem.cat("bucket/runs/one/run.json"))["status"] == "done"


def test_a_bucket_that_is_not_there_is_one_sentence(bucket):
    _, environment, _ = bucket
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "jobs" / "benchmark.py"), *OPTIONS),
            *("--output", "s3://no-such-bucket/run"),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: cannot write s3://no-such-bucket/run/")
    assert done.stderr.count("\n") == 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head():
    """A Ray head with its job server, on loopback ports of its own."""
    port, dashboard = _free_port(), _free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    subprocess.run(
        [
            *(RAY, "start", "--head", "--num-cpus=4", "--include-dashboard=true"),
            *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
            *("--node-ip-address=127.0.0.1", f"--temp-dir=/tmp/ray-{port}"),
        ],
        env=environment,
        capture_output=True,
        timeout=90,
        check=True,
    )
    yield f"http://127.0.0.1:{dashboard}", environment
    # `ray stop` would end every cluster of this machine.
    for process in psutil.process_iter(["cmdline"]):
        if f"/ray-{port}" in " ".join(process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                process.kill()


def test_the_job_runs_on_a_cluster_by_job_submission(head, tmp_path):
    address, environment = head
    done = subprocess.run(
        [
            *(RAY, "job", "submit", "--address", address, "--working-dir", "."),
            # The very file that the page names.
            *("--runtime-env", "cluster/runtime_env.yaml", "--"),
            *("python", "jobs/benchmark.py", *OPTIONS, "--output", str(tmp_path / "run")),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert pq.read_table(tmp_path / "run" / "images").num_rows == 7
    assert "7 pictures of 7 people" in done.stdout

"""The same job on a cluster through `ray job submit`, and with s3:// on both ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from pipelines.tables.demo_people import demo_identities
from pipelines.tables.manifest import (
    default_prompts,
    default_styles,
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
    "--set",
    "set_pictures=0",
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


def test_manifests_photos_and_results_live_in_a_bucket(bucket, tmp_path):
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
            # As a user would: MLflow is where it is when nobody says.
            *(sys.executable, "-m", "jobs.cli", "benchmark", "--address", "local", *OPTIONS[:-2]),
            *("--identities", "s3://bucket/manifests/identities.parquet"),
            *("--output", "s3://bucket/runs/one"),
        ],
        cwd=tmp_path,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "COLUMNS": "400"},
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
    # Beside the driver, since there is no place for a SQLite file in a bucket; one line says so.
    database = tmp_path / "runs" / "mlflow.db"
    (told,) = [line for line in done.stdout.splitlines() if "sqlite:///" in line]
    assert told.startswith("MLflow:")
    assert f"sqlite:///{database} on {socket.gethostname()}" in told
    assert "MLFLOW_TRACKING_URI names a server" in told
    with contextlib.closing(sqlite3.connect(database)) as opened:
        runs = opened.execute("SELECT status FROM runs").fetchall()
        logged = dict(opened.execute("SELECT key, value FROM latest_metrics").fetchall())
    # The run, and its one method below it.
    assert runs == [("FINISHED",), ("FINISHED",)]
    assert logged["pictures"] == 7
    assert "face_found" in logged


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


def _autoscaling(port: int) -> dict:
    """Ray's own local provider: a head of 4 CPUs without a GPU, and one machine of a GPU to add.

    `ray.cluster_utils.AutoscalingCluster` reads its template from a file that Ray's wheel has not,
    and stops every Ray of the machine when it starts.
    """
    lists = ("initialization_commands", "setup_commands", "rsync_exclude", "rsync_filter")
    commands = [f"{w}_{c}_commands" for w in ("head", "worker") for c in ("setup", "start_ray")]
    return {
        "cluster_name": "growing",
        "max_workers": 1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "max_workers": 1},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in (*lists, *commands, "cluster_synced_files")},
        "file_mounts_sync_continuously": False,
    }


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head with its job server and an autoscaler, on loopback ports of its own."""
    port, dashboard = _free_port(), _free_port()
    place = tempfile.mkdtemp(prefix="ray-")  # a path of pytest's is too long for its sockets
    autoscaling = tmp_path_factory.mktemp("autoscaler") / "config.json"
    autoscaling.write_text(json.dumps(_autoscaling(port)))
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    try:
        subprocess.run(
            [
                *(RAY, "start", "--head", "--num-cpus=4", "--num-gpus=0"),
                *(f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={place}"),
                *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
                *(f"--dashboard-port={dashboard}", f"--autoscaling-config={autoscaling}"),
            ],
            env=environment,
            capture_output=True,
            timeout=120,
            check=True,
        )
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        # `ray stop` would end every cluster of this machine.
        for process in psutil.process_iter(["cmdline"]):
            if place in " ".join(process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        shutil.rmtree(place, ignore_errors=True)


def _submit(head: tuple[str, dict], folder: Path, *options: str) -> str:
    address, environment = head
    done = subprocess.run(
        [
            *(RAY, "job", "submit", "--address", address, "--working-dir", "."),
            # The very file that the page names.
            *("--runtime-env", "cluster/runtime_env.yaml", "--"),
            *("python", "jobs/benchmark.py", *OPTIONS, *options),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


def test_a_cluster_that_begins_without_a_gpu_takes_the_submitted_job_and_resumes_it(head, tmp_path):
    job = [
        # A folder of the working directory, which Ray unpacks at a path of its content's digest.
        *("--identities", "tests/assets", "--output", str(tmp_path / "run"), "--resume"),
        *("--set", "resources={generation_gpus: 1, wait_seconds: 120}"),
    ]
    said = _submit(head, ROOT, *job)
    assert "waiting for the cluster to grow: 0 of 1 GPUs" in said
    assert "7 pictures of" in said
    images = pq.read_table(tmp_path / "run" / "images")
    assert images.num_rows == 7
    manifest = pq.read_table(tmp_path / "run" / "manifests" / "identities.parquet").to_pylist()
    assert manifest[0]["photos"][0]["uri"] == "tests/assets/person0_0.heic"

    # The next upload has other contents, and with them another path.
    other = tmp_path / "checkout"
    for name in ("jobs", "cluster", "tests/assets"):
        shutil.copytree(ROOT / name, other / name)
    (other / "tests" / "assets" / "notes.txt").write_text("written since")
    said = _submit(head, other, *job)
    assert "waiting for the cluster" not in said
    assert "7 pictures of" in said
    assert pq.read_table(tmp_path / "run" / "images").equals(images)

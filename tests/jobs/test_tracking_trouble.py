"""A tracker that does not do is told before the run; one that fails afterwards costs nobody it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest
import typer

from eval.places import shown
from jobs.benchmark import _finish
from jobs.compare import compare
from jobs.tracking import check_tracking, experiment_name
from pipelines.benchmark import RunSummary
from pipelines.settings import load_config
from tests.jobs.tracked import parents


@contextlib.contextmanager
def server(status: int, body: bytes, kind: str = "text/html"):
    """Answers everything with the same."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            """Nothing."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://me:s3cr3t@127.0.0.1:{running.server_port}"
    running.shutdown()


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, b"no"), (403, b"no"), (404, b"<html>no such page</html>"), (200, b"<html>hi</html>")],
)
def test_a_server_that_does_not_do_is_one_sentence_before_the_run(status, body):
    with server(status, body) as uri, pytest.raises(ValueError, match="does not do") as refused:
        check_tracking(uri, "test")
    assert "\n" not in str(refused.value)
    assert "s3cr3t" not in shown(str(refused.value))


def test_an_experiment_that_is_deleted(database):
    uri = f"sqlite:///{database}"
    client = mlflow.MlflowClient(uri)
    client.delete_experiment(client.create_experiment("test"))
    with pytest.raises(ValueError, match=r"experiment 'test' of .* is deleted, allowed: one that"):
        check_tracking(uri, "test")
    check_tracking(uri, "another")


def test_a_run_id_of_another_store(database, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    for uri in (f"sqlite:///{database}", f"sqlite:///{tmp_path}/new.db"):
        with pytest.raises(ValueError, match=r"MLFLOW_RUN_ID is '0+', which .* does not have"):
            check_tracking(uri, "test")


@pytest.mark.parametrize("content", [b"no database at all, but long enough", "table"])
def test_a_file_that_is_none_of_mlflows(tmp_path, content):
    path = tmp_path / "x.db"
    if content == "table":
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.execute("CREATE TABLE mine (a)")
            file.commit()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tracking store .*x\.db (holds|cannot be read)"):
        check_tracking(f"sqlite:///{path}", "test")


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "runs/mlruns", "postgresql://127.0.0.1:9/x"]
)
def test_no_store_at_all(uri):
    with pytest.raises(ValueError, match=r"allowed: "):
        check_tracking(uri, "test")


def test_the_experiments_name(monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert experiment_name(None) == "infinite-id"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the team")
    assert experiment_name(None) == "of the team"
    assert experiment_name("mine") == "mine"


def summary(url: str) -> RunSummary:
    return RunSummary(url, False, 2, 12, {}, {}, 1.0, 0.5)


def test_a_tracker_that_fails_afterwards_is_a_warning_that_says_how_to_send_it(
    tmp_path, database, finished_run, capsys
):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    uri = f"sqlite:///{database}"
    settings = load_config(
        None, output=str(folder), tracking_uri=uri, set_pictures=0, experiment="test"
    )
    (tmp_path / "mlruns").write_text("a file, where artifacts are to go")
    _finish(summary(str(folder)), settings)
    said = capsys.readouterr().out
    assert "warning: MLflow does not have this run (" in said
    command = f"infinite-id compare --log {folder} --tracking-uri {uri}"
    assert command in said
    assert "Traceback" not in said
    with pytest.raises(typer.Exit) as ended:
        _finish(summary(str(folder)), settings, require_tracking=True)
    assert ended.value.exit_code == 1
    assert parents(uri) == []
    (tmp_path / "mlruns").unlink()
    compare(log=str(folder), tracking_uri=uri)
    assert len(parents(uri, "infinite-id")) == 1

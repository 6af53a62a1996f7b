"""MLflow: where to log, whether that will do, and the run of a finished benchmark.

Results are on disk first. A tracker that does not do is told before anything is loaded; one that
fails afterwards costs nobody a run: `infinite-id compare --log RUN` sends it later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import typer

from eval.places import shown
from jobs.console import console
from pipelines.plan.job import job_folder
from pipelines.tables.storage import Store

__all__ = [
    "check_tracking",
    "experiment_id",
    "experiment_name",
    "mlflow_client",
    "reason_of",
    "send_run",
    "tracked_where",
    "tracking_address",
]

_SQLITE = "sqlite:///"
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_DEFAULT_EXPERIMENT = "infinite-id"
_SECONDS = 10
# Else MLflow's pages open on traces and prompts of language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def tracking_address(uri: str | None, output: str) -> str | None:
    """Where to log.

    Args:
        uri: MLflow's address; "none" for nowhere; None for MLFLOW_TRACKING_URI, and without it a
            SQLite file beside a local output. Beside an output on an object store there is no place
            for one: it is then runs/mlflow.db of this process's working directory.
        output: run folder.

    Returns:
        The address, of a SQLite file always the whole one; None for nowhere.
    """
    if uri == "none":
        return None
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if uri is None:
        store = Store(output)
        folder = Path(store.root).parent if store.is_local else Path("runs")
        return _sqlite_address(folder / "mlflow.db")
    if uri.startswith(_SQLITE) and _sqlite_path(uri).name:
        return _sqlite_address(_sqlite_path(uri))
    return uri


def tracked_where(uri: str, output: str) -> str:
    """The address for a line of output; of a SQLite file that is not beside its run, the machine
    too, and that it goes with a job."""
    if not uri.startswith(_SQLITE) or Store(output).is_local:
        return shown(uri)
    goes = " (it goes with the job's working directory)" if job_folder() else ""
    return f"{shown(uri)} on {socket.gethostname()}{goes}; MLFLOW_TRACKING_URI names a server"


def _sqlite_address(path: Path) -> str:
    # SQLAlchemy reads a question mark and percent signs, and no other character, as a URL's.
    return _SQLITE + str(path.absolute()).replace("%", "%25").replace("?", "%3F")


def _sqlite_path(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0])).absolute()


def experiment_name(given: str | None, default: str = _DEFAULT_EXPERIMENT) -> str:
    """The experiment: as given, else MLFLOW_EXPERIMENT_NAME, else the job's own."""
    return given or os.environ.get("MLFLOW_EXPERIMENT_NAME") or default


def check_tracking(uri: str | None, experiment: str = _DEFAULT_EXPERIMENT) -> None:
    """Asks for the experiment, before anything is loaded; a SQLite file is read without MLflow.

    Raises:
        ValueError: the store does not answer, refuses, is none of MLflow's or of no known kind;
            the experiment is deleted; MLFLOW_RUN_ID names a run that the store does not have.
    """
    if uri is None:
        return
    scheme = urlsplit(uri).scheme.partition("+")[0]
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if uri.startswith(_SQLITE) and _sqlite_path(uri).name:
        stage, known = _look_into_file(uri, experiment, run_id)
    elif scheme in ("http", "https", "databricks", *_PORTS):
        _check_answers(uri, scheme)
        stage, known = _ask(uri, experiment, run_id)
    else:
        raise ValueError(
            f"tracking URI is {uri!r}, allowed: sqlite:///FILE, http(s)://SERVER, a database "
            "address, databricks, or none"
        )
    if stage == "deleted":
        raise ValueError(
            f"experiment {experiment!r} of {uri} is deleted, allowed: one that is not (mlflow "
            "experiments restore, or another name by MLFLOW_EXPERIMENT_NAME)"
        )
    if run_id and not known:
        raise ValueError(
            f"MLFLOW_RUN_ID is {run_id!r}, which {uri} does not have, allowed: a run of that "
            "store, or no MLFLOW_RUN_ID"
        )


def _look_into_file(uri: str, experiment: str, run_id: str | None) -> tuple[str | None, bool]:
    """(lifecycle stage of the experiment, whether the run is there) of a SQLite store."""
    path = _sqlite_path(uri)
    if path.is_dir() or not os.access(path if path.exists() else _there(path.parent), os.W_OK):
        raise ValueError(f"tracking store {uri} cannot be written, allowed: a file in a folder")
    if not path.exists():
        return None, False
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as file:
            names = {row[0] for row in file.execute("SELECT name FROM sqlite_master")}
            if not names:
                return None, False
            if "experiments" not in names:
                raise ValueError(
                    f"tracking store {uri} holds the table {min(names)!r} and none of MLflow's, "
                    "allowed: MLflow's file, or a new one"
                )
            wanted = "SELECT lifecycle_stage FROM experiments WHERE name = ?"
            stages = [row[0] for row in file.execute(wanted, (experiment,))]
            wanted = "SELECT 1 FROM runs WHERE run_uuid = ?"
            return next(iter(stages), None), bool(file.execute(wanted, (run_id,)).fetchall())
    except sqlite3.Error as error:
        raise ValueError(f"tracking store {uri} cannot be read: {error}") from error


def _there(folder: Path) -> Path:
    """The nearest folder above that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _check_answers(uri: str, scheme: str) -> None:
    """MLflow tries a dead address for minutes; a closed port is known at once."""
    parts = urlsplit(uri)
    try:
        if scheme in ("http", "https"):
            bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            with contextlib.suppress(urllib.error.HTTPError):  # it answers; MLflow asks further
                urllib.request.urlopen(f"{bare.rstrip('/')}/health", timeout=5)  # noqa: S310
        elif scheme in _PORTS and parts.hostname:
            port = parts.port or _PORTS[scheme]
            socket.create_connection((parts.hostname, port), timeout=5).close()
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"tracking server {uri} does not answer ({reason}), allowed: a live one, or "
            "--tracking-uri none"
        ) from error


def _ask(uri: str, experiment: str, run_id: str | None) -> tuple[str | None, bool]:
    """As `_look_into_file`, of a server."""
    with _impatient():
        try:
            client = mlflow_client(uri)
            found = client.get_experiment_by_name(experiment)
        except Exception as error:  # clients of servers and databases have errors of their own
            raise ValueError(
                f"tracking server {uri} does not do ({reason_of(error)}), allowed: an MLflow "
                "server, with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or "
                "MLFLOW_TRACKING_TOKEN where it asks for them, or --tracking-uri none"
            ) from error
        try:
            known = bool(run_id) and client.get_run(run_id) is not None
        except Exception:  # whatever it says, the run cannot be had
            known = False
    return (found.lifecycle_stage if found else None), known


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """No retries inside, which take minutes."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_SECONDS),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def mlflow_client(uri: str) -> Any:
    """MLflow's client of a store. It knows no current run, so that MLFLOW_RUN_ID and whatever
    else is under way in this process is left alone."""
    import mlflow

    # It prints tracebacks of what it raises, and a line for each table of a new database.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.CRITICAL)
    client = mlflow.MlflowClient(uri)
    if uri.startswith(_SQLITE):
        # It makes the folder of the address as written, whose percent signs stand for characters.
        made = Path(uri.removeprefix(_SQLITE)).parent
        while "%" in str(made) and made != _sqlite_path(uri).parent:
            try:
                made.rmdir()
            except OSError:
                break
            made = made.parent
    return client


def reason_of(error: BaseException) -> str:
    """The first line of what MLflow raised, without passwords."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shown(lines[0])[:300]


def experiment_id(client: Any, name: str, uri: str) -> str:
    """The experiment's id; a new one of a SQLite file has its artifacts beside it."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if uri.startswith(_SQLITE):
        # The default is ./mlruns of whatever folder the job was started in.
        location = (_sqlite_path(uri).parent / "mlruns").as_uri()
        _sqlite_path(uri).parent.mkdir(parents=True, exist_ok=True)
    return str(client.create_experiment(name, artifact_location=location, tags=_KIND))


def send_run(
    run: str,
    uri: str,
    experiment: str | None,
    options: Mapping[str, Any] | None = None,
    *,
    require: bool = False,
) -> None:
    """Sends a finished run to MLflow and says where it is; a failure is one sentence, not an end.

    Args:
        run: address of the run folder, with its report.
        uri: of `tracking_address`.
        experiment: as configured.
        options: of file systems by scheme.
        require: whether a run that MLflow does not have ends with exit code 1.

    Raises:
        typer.Exit: with `require`.
    """
    from jobs.tracked_run import log_run

    try:
        log_run(run, uri, experiment_name(experiment), options)
    except Exception as error:  # the pictures are made; no fault of MLflow's ends that
        words = ["infinite-id", "compare", "--log", shown(run), "--tracking-uri", shown(uri)]
        if options:
            words += ["--storage-options", "FILE"]
        console.print(
            f"warning: MLflow does not have this run ({reason_of(error)}); what it made stays, "
            f"send it with: {shlex.join(words)}",
            markup=False,
        )
        if require:
            raise typer.Exit(1) from error
        return
    console.print(f"MLflow:   {tracked_where(uri, run)}", markup=False)

"""Progress in a log: a line a stage every ten seconds, and one when it is through."""

from __future__ import annotations

import itertools
import signal
import sys
from types import SimpleNamespace

import pytest
from ray.train import ControllerError, WorkerGroupError

from eval.compare import GateTest
from eval.places import StorageError
from infinite_id.packages import PackageFile, package_file
from infinite_id.training.checkpoints import CheckpointError
from jobs import console
from jobs.compare import _told
from jobs.console import progress_display, user_errors
from pipelines.run.failures import RunFailedError


def test_each_stage_has_lines_of_its_own_and_one_for_its_end(capsys):
    with progress_display() as progress:
        for scores in range(1, 5):
            progress("images", min(2 * scores, 4), 4)
            progress("scores", scores, 4)
    lines = [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["images: 2/4", "scores: 1/4", "images: 4/4", "scores: 4/4"]


def test_the_next_run_of_a_command_has_a_rate_of_its_own(capsys, monkeypatch):
    seconds = itertools.count(1000, 20)
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(seconds)))
    with progress_display() as progress:
        for done in (10, 20, 30):
            progress("images", done, 30)
        for done in (10, 20, 30):
            progress("images", done, 40)
        for done in (10, 20):
            progress("images", done, 40)
    assert capsys.readouterr().out.splitlines() == [
        "images: 10/30",
        "images: 20/30, 0.50 a second, 20 s left",
        "images: 30/30, 0.50 a second",
        "images: 10/40",
        "images: 20/40, 0.50 a second, 40 s left",
        "images: 30/40, 0.50 a second, 20 s left",
        "images: 10/40",
        "images: 20/40, 0.50 a second, 40 s left",
    ]


def ended(capsys, error: BaseException, go_on: str = "") -> tuple[int, str]:
    """(exit code, what was said on stderr) of a command that raises."""

    @user_errors(go_on)
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        command()
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("x is 3, allowed: 4"), 2, "error: x is 3, allowed: 4\n"),
        (StorageError("cannot read s3://b: gone"), 2, "error: cannot read s3://b: gone\n"),
        (RunFailedError("the disk is full"), 1, "failed: the disk is full; GO ON\n"),
        (KeyboardInterrupt(), 130, "interrupted; GO ON\n"),
    ],
)
def test_only_a_command_that_can_go_on_says_so(capsys, error, code, sentence):
    assert ended(capsys, error, "GO ON") == (code, sentence)
    assert ended(capsys, error) == (code, sentence.replace("; GO ON", ""))


def test_sigterm_ends_as_ctrl_c_does(capsys):
    before = signal.getsignal(signal.SIGTERM)
    unwound = []

    @user_errors("GO ON")
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            # What ends already is not ended again.
            signal.raise_signal(signal.SIGTERM)
            unwound.append(True)

    with pytest.raises(SystemExit) as left:
        command()
    assert (left.value.code, capsys.readouterr().err) == (143, "terminated; GO ON\n")
    assert unwound
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ray_says_nothing_while_a_command_is_ended(monkeypatch, number, code):
    worker = SimpleNamespace(_worker_logs_enabled=True)
    monkeypatch.setitem(sys.modules, "ray._private.worker", worker)
    monkeypatch.setitem(sys.modules, "ray", sys.modules.get("ray", SimpleNamespace()))
    # Tests that were started in the background of a shell begin with SIGINT ignored.
    at_first = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(number)

    @user_errors()
    def command() -> None:
        try:
            signal.raise_signal(number)
        finally:
            assert not worker._worker_logs_enabled

    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == code
    assert signal.getsignal(number) is before
    signal.signal(signal.SIGINT, at_first)


def test_a_package_that_is_missing_is_one_sentence(capsys):
    with pytest.raises(RuntimeError) as found:
        package_file(PackageFile("no-such-package", "1.0", "x", "0", "MIT"))
    code, said = ended(capsys, found.value)
    assert code == 2
    assert said.startswith("error: package no-such-package==1.0 is not installed; install it with")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (CheckpointError("checkpoint cannot be read: torn"), 2, "error: checkpoint cannot be read"),
        (StorageError("cannot write s3://b/x: gone"), 1, "failed: cannot write s3://b/x: gone; GO"),
        (KeyError("latents"), 1, "failed: KeyError: 'latents'; GO ON"),
    ],
)
def test_what_ends_a_training_worker_is_named(capsys, error, code, sentence):
    lost = RuntimeError("Connection closed by peer")
    for failures in ({0: error}, {1: lost, 0: error}):
        group = WorkerGroupError("Traceback ...\n  File ...\n", failures)
        for raised in (group, ControllerError(group)):
            found, said = ended(capsys, raised, "GO ON")
            assert found == code
            assert said.startswith(sentence)
            assert said.count("\n") == 1


def test_a_mistake_is_named_before_the_workers_that_lost_their_mate(capsys):
    failures = {0: RuntimeError("Connection closed by peer"), 1: ValueError("share is too small")}
    assert ended(capsys, WorkerGroupError("...", failures)) == (2, "error: share is too small\n")


def test_the_traceback_can_be_seen(capsys, monkeypatch):
    monkeypatch.setenv("INFINITE_ID_TRACEBACK", "1")
    code, said = ended(capsys, ValueError("x is 3, allowed: 4"))
    assert code == 2
    assert said.startswith("Traceback (most recent call last):\n")
    assert "in command" in said
    assert said.endswith("\nerror: x is 3, allowed: 4\n")


def test_what_is_no_known_failure_passes(capsys):
    @user_errors()
    def command() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        command()


def test_sigterm_that_ray_hands_on_as_ctrl_c_is_still_sigterm(capsys):
    @user_errors("GO ON")
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == 143
    assert capsys.readouterr().err == "terminated; GO ON\n"


def test_a_gate_without_an_interval_says_so():
    nan = float("nan")
    few = GateTest("infinite_id", "identity_facenet", 0.02, 0.1, nan, nan, True)
    assert _told(few).endswith("; too few people carry an interval (margin 0.02)")
    alike = GateTest("infinite_id", "identity_facenet", 0.02, 0.1, 0.1, nan, True)
    assert _told(alike).endswith("; no two pairs differ in their change (margin 0.02)")

"""What a job shows: progress with rate and time left, the result table, errors as a sentence."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rich.console import Console

from eval.places import StorageError, shown
from pipelines.run.failures import RunFailedError, is_mistake, root_cause

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["RESUME", "console", "progress_display", "show_table", "user_errors"]

# Paths and names may hold ":cat:".
console = Console(highlight=False, soft_wrap=True, emoji=False)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_LOG_SECONDS = 10.0
_FIGURE = re.compile(r"[-+−±]?\s*(\d.*)?")  # a dash alone is a missing figure
_TRACEBACK = "INFINITE_ID_TRACEBACK"

RESUME = "what is committed stays, --resume goes on with it"
"""How a command goes on that has the option."""

F = TypeVar("F", bound=Callable[..., Any])


def user_errors(go_on: str = "") -> Callable[[F], F]:
    """Turns a user's mistake into one sentence and exit code 2, a failure into exit code 1, Ctrl-C
    into 130 and SIGTERM into 143.

    Other exceptions pass. INFINITE_ID_TRACEBACK=1 shows the traceback above the sentence.

    Args:
        go_on: of a command that can: how it goes on after a failure, and with what.
    """
    rest = f"; {go_on}" if go_on else ""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            came = threading.Event()
            try:
                with _signals(came):
                    return command(*args, **kwargs)
            except KeyboardInterrupt:
                # What waits in Ray's own code gets a plain KeyboardInterrupt for both.
                number = signal.SIGTERM if came.is_set() else signal.SIGINT
                word = "terminated" if came.is_set() else "interrupted"
                _errors.print(f"{word}{rest}", markup=False)
                raise SystemExit(128 + number) from None
            except Exception as error:
                told = _told(error, rest)
                if told is None:
                    raise
                if os.environ.get(_TRACEBACK) == "1":
                    traceback.print_exception(error)
                sentence, code = told
                _errors.print(shown(sentence), markup=False)
                raise SystemExit(code) from None

        return wrapped  # type: ignore[return-value]

    return decorate


@contextlib.contextmanager
def _signals(came: threading.Event) -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does, once: what ends then must not be ended again. Of both Ray
    says nothing.

    Args:
        came: set by the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            came.set()
        if "ray" in sys.modules:
            from pipelines.run.session import end_quietly

            end_quietly()
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, handler)}
    # Ignored in the background of a shell, say, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _told(error: Exception, rest: str) -> tuple[str, int] | None:
    """The sentence and the exit code; None for what is neither a mistake nor a known failure."""
    cause = root_cause(error)
    # What Ray passes on was raised while the run was under way: the place was good before.
    lost_place = cause is not error and isinstance(cause, StorageError)
    if is_mistake(cause) and not lost_place:
        return f"error: {cause}", 2
    if lost_place or isinstance(cause, RunFailedError):
        return f"failed: {cause}{rest}", 1
    if not type(error).__module__.startswith("ray."):
        return None
    lines = str(cause).strip().splitlines()
    return f"failed: {type(cause).__name__}: {lines[-1] if lines else ''}{rest}", 1


class _Restarts:
    """Tells where a phase begins anew, as it does in each run of several in one command."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def __call__(self, phase: str, done: int, total: int) -> bool:
        before, wanted = self._last.get(phase, (done, total))
        self._last[phase] = done, total
        return done < before or total != wanted


class _Lines:
    """Progress as plain lines every ten seconds, for logs."""

    def __init__(self) -> None:
        self._begin: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int]] = {}
        self._restarts = _Restarts()

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._restarts(phase, done, total):
            del self._begin[phase], self._last[phase]
        begin, first = self._begin.setdefault(phase, (now, done))
        when, said = self._last.get(phase, (0.0, -1))
        if done == said or (done < total and now - when < _LOG_SECONDS):
            return
        self._last[phase] = now, done
        rate = (done - first) / (now - begin) if now > begin else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        speed = f", {rate:.2f} a second" if rate > 0 else ""
        print(f"{phase}: {done}/{total}{speed}{left}", flush=True)


@contextlib.contextmanager
def progress_display() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `progress(phase, done, total)`: a bar on a terminal, lines every 10 s in a log."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from jobs.progress_bar import progress_bar

    bar = progress_bar(console)
    tasks: dict[str, TaskID] = {}
    restarts = _Restarts()
    with bar:

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            if restarts(phase, done, total):
                bar.reset(tasks[phase], total=total, completed=done)
            bar.update(tasks[phase], completed=done, total=total)

        yield update


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, folds: int = 0
) -> None:
    """Prints a table; numbers are shown with three digits.

    Args:
        title: above it.
        columns: keys of the rows, in order.
        rows: cells by column.
        folds: number of the column that goes on in the next line on a narrow terminal.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, collapse_padding=True)
    for number, name in enumerate(columns):
        figures = all(_is_figure(row.get(name, "")) for row in rows)
        side: Literal["left", "right"] = "right" if figures else "left"
        table.add_column(name, no_wrap=number != folds, overflow="fold", justify=side)
    for row in rows:
        values = (row.get(name, "") for name in columns)
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)


def _is_figure(value: Any) -> bool:
    return _FIGURE.fullmatch(str(value)) is not None

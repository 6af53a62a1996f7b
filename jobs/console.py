"""What a job shows: progress with rate and time left, the result table, errors as a sentence."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipelines.failures import RunFailedError, root_cause

__all__ = ["console", "progress_display", "show_table", "user_errors"]

console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)
_LOG_SECONDS = 10.0
_FIGURE = re.compile(r"[-+−±]?\s*(\d.*)?")  # a dash alone is a missing figure
_GO_ON = "what is committed stays, --resume goes on with it"

F = TypeVar("F", bound=Callable[..., Any])


def user_errors(command: F) -> F:
    """Turns a user's mistake into one sentence and exit code 2, a failure into exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            _errors.print(f"error: {error}", markup=False)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            _errors.print(f"interrupted: {_GO_ON}")
            raise SystemExit(130) from None
        except RunFailedError as error:
            _errors.print(f"failed: {error}; {_GO_ON}", markup=False)
            raise SystemExit(1) from None
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, ValueError):
                _errors.print(f"error: {cause}", markup=False)
                raise SystemExit(2) from None
            if isinstance(cause, RunFailedError):
                _errors.print(f"failed: {cause}; {_GO_ON}", markup=False)
                raise SystemExit(1) from None
            if not type(error).__module__.startswith("ray."):
                raise
            first = str(cause).strip().splitlines()
            detail = first[-1] if first else ""
            _errors.print(f"failed: {type(cause).__name__}: {detail}; {_GO_ON}", markup=False)
            raise SystemExit(1) from None

    return wrapped  # type: ignore[return-value]


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


class _RateColumn(ProgressColumn):
    """Pictures (or people's units) a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f}/s" if task.speed else "", style="progress.data.speed")


@contextlib.contextmanager
def progress_display() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `progress(phase, done, total)`: a bar on a terminal, lines every 10 s in a log."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    bar = Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
    )
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


def show_table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table; numbers are shown with three digits."""
    table = Table(title=title, title_justify="left", box=SIMPLE, collapse_padding=True)
    for number, name in enumerate(columns):
        figures = all(_is_figure(row.get(name, "")) for row in rows)
        side: Literal["left", "right"] = "right" if figures else "left"
        # On a narrow terminal only the first column, a name, goes on in the next line.
        table.add_column(name, no_wrap=number > 0, overflow="fold", justify=side)
    for row in rows:
        values = (row.get(name, "") for name in columns)
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)


def _is_figure(value: Any) -> bool:
    return _FIGURE.fullmatch(str(value)) is not None

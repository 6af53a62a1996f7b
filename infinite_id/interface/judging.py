"""The judges of `InfiniteIDOutput.scores`: an entry point of an installed package.

A caller's own folder `eval` comes before the judges' package of that name, and what is imported
under it here is to be the caller's. The judges then run in a process that does not see the folder.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["JUDGES", "judges"]

JUDGES = "infinite_id.judges"
"""Entry points of this group load a suite of judges: load(None, preset name) -> suite, whose
`score(images, prompts, references, styles, weights)` gives one float32 (N,) a metric, and whose
`score_groups(images, people, regions)` gives a list with a dictionary a person of each picture."""

# What libraries print goes to stderr, so that stdout holds the answer alone.
_PROGRAM = """
import importlib, os, pickle, sys
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
path, module, attribute, preset, method, arguments = pickle.load(sys.stdin.buffer)
sys.path[:] = path
try:
    suite = getattr(importlib.import_module(module), attribute)(None, preset)
    answer = getattr(suite, method)(*arguments)
except ValueError as error:
    answer = str(error)
pickle.dump(answer, answers)
"""


@lru_cache(maxsize=2)
def judges(preset: str) -> Any:
    """The suite for pictures of a preset.

    Raises:
        ValueError: no judges are installed.
    """
    found = sorted(entry_points(group=JUDGES), key=lambda entry: entry.name)
    if not found:
        raise ValueError(
            f"no judges are installed, allowed: a package with an entry point of {JUDGES}, as "
            "infinite-id-ray has when it is installed by pip"
        )
    entry, family = found[0], "pocket" if preset == "pocket" else "sdxl"
    home = _home(entry)
    return entry.load()(None, family) if home is None else _Apart(entry, family, home)


def _home(entry: EntryPoint) -> Path | None:
    """The folder that holds the judges' package where another one of its name hides it."""
    top = entry.module.partition(".")[0]
    spec = find_spec(top)
    origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    own = Path(__file__).resolve().parents[2]
    package: Any = entry.dist
    files = package.files or []
    listed = {Path(str(package.locate_file(file))).resolve() for file in files}
    if origin == own / top / "__init__.py" or origin in listed:
        return None
    return own if (own / top / "__init__.py").is_file() else Path(str(package.locate_file("")))


class _Apart:
    """The suite in a process of its own, one a call."""

    def __init__(self, entry: EntryPoint, preset: str, home: Path) -> None:
        top = entry.module.partition(".")[0]
        seen = [
            place
            for place in sys.path
            if not any((Path(place) / name).exists() for name in (top, f"{top}.py"))
        ]
        self._told = ([str(home), *seen], entry.module, entry.attr, preset)

    def score(self, *arguments: Sequence[Any]) -> Any:
        """As the suite's; see `_called`."""
        return self._called("score", arguments)

    def score_groups(self, *arguments: Sequence[Any]) -> Any:
        """As the suite's; see `_called`."""
        return self._called("score_groups", arguments)

    def _called(self, method: str, arguments: Sequence[Any]) -> Any:
        """A method's answer.

        Raises:
            ValueError: of the suite.
            RuntimeError: the process failed; its last line.
        """
        done = subprocess.run(  # noqa: S603 -- this Python, and the program above
            [sys.executable, "-P", "-c", _PROGRAM],
            input=pickle.dumps((*self._told, method, arguments)),
            capture_output=True,
            check=False,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"the judges failed: {lines[-1] if lines else done.returncode}")
        answer = pickle.loads(done.stdout)  # noqa: S301 -- of the process that was started here
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer

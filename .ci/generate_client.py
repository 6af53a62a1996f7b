"""Writes `infinite_id/client/synchronous.py` from `asynchronous.py`; `make format` calls it.

With a folder as argument the file is written there, for the test that both agree.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

CLIENT = Path(__file__).resolve().parents[1] / "infinite_id" / "client"
NAMES = {
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "aclose": "close",
    "aiter_lines": "iter_lines",
    "aread": "read",
    "asyncio": "time",
    '""The asyncio client; the blocking one is made from this file.""': (
        '""The blocking client: made from `asynchronous.py` by `make format`, not by hand.""'
    ),
}


def generate(folder: Path) -> None:
    """Writes synchronous.py into `folder`."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "asynchronous.py"
        shutil.copy(CLIENT / "asynchronous.py", source)
        rule = unasync.Rule("asynchronous.py", "synchronous.py", NAMES)
        unasync.unasync_files([str(source)], [rule])
        target = folder / "synchronous.py"
        shutil.copy(source.with_name("synchronous.py"), target)
    root = ["--quiet", "--config", str(CLIENT.parents[1] / "pyproject.toml"), str(target)]
    for command in (["check", "--fix"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, *root], check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else CLIENT)

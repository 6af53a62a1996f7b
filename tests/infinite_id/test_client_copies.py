"""The blocking client is the asyncio client without await."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_blocking_client_is_made_from_the_asyncio_one(tmp_path: Path):
    command = [sys.executable, str(ROOT / ".ci/generate_client.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=120)
    made = (tmp_path / "synchronous.py").read_text()
    kept = (ROOT / "infinite_id/client/synchronous.py").read_text()
    assert made == kept, "make format brings synchronous.py up to date"

"""The job that this driver was submitted as (`ray job submit`), if it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["job_environment", "job_folder"]

# Where Ray tells a driver what it was submitted with.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def job_environment() -> Mapping[str, Any]:
    """Its runtime environment; empty outside a job."""
    try:
        return dict(json.loads(os.environ[_JOB_CONFIG]).get("runtime_env") or {})
    except (KeyError, ValueError):
        return {}


def job_folder() -> Path | None:
    """Its working directory, of which every machine has a copy that its actors run in; the path
    holds a digest of the content, so another upload has another. None outside a job."""
    return Path.cwd() if job_environment().get("working_dir") else None

"""Environment variables of our processes. Light: entry points begin with it."""

from __future__ import annotations

import os

__all__ = ["WORKER_ENVIRONMENT", "quiet"]

WORKER_ENVIRONMENT = {
    # One library thread a worker unless an actor asks for more: actors share the cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
    # By default Ray Data reads the footers of Parquet files, be it one, with 32 processes; each
    # asks for 128 footers at once.
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2",
}


def quiet() -> None:
    """Switches off usage statistics and chatter; for entry points, before other imports."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "DO_NOT_TRACK": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        **WORKER_ENVIRONMENT,
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)

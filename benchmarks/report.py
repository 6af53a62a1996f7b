"""Time and memory of `eval.reports.report.write_report` on a made-up run, in its own process."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.tables.schemas import IMAGES, REQUESTS, scores_schema

__all__ = ["run"]

METRICS = ("face_found", "identity_facenet", "identity_sface", "text_score", "image_score")
# VmHWM and not ru_maxrss, which keeps what the parent used before the new program began.
PROGRAM = """
import sys
from eval.reports.report import write_report
write_report(sys.argv[1])
print(*[line.split()[1] for line in open("/proc/self/status") if "VmHWM" in line])
"""


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Writes a run of random pictures and reports on it.

    Args:
        arguments: people, styles, methods (counts); size (pixels).

    Returns:
        pictures; seconds of the process, imports included; peak_gb of its memory; page_mb.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = _write_run(folder, arguments)
        begin = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, name], check=True, capture_output=True, text=True
        )
        return {
            "pictures": pictures,
            "seconds": time.perf_counter() - begin,
            "peak_gb": int(result.stdout) * 1024 / 1e9,
            "page_mb": (folder / "report/report.html").stat().st_size / 1e6,
        }


def _write_run(folder: Path, arguments: Mapping[str, Any]) -> int:
    rng = np.random.default_rng(0)
    counts = (arguments[name] for name in ("methods", "styles", "people"))
    rows: list[dict[str, Any]] = []
    for method, style, person in itertools.product(*(range(count) for count in counts)):
        size = arguments["size"]
        stream = io.BytesIO()
        # Smooth like a photo: noise at an eighth of the size, scaled up.
        small = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((size, size)).save(stream, "PNG")
        row: dict[str, Any] = {
            "sample_id": f"{len(rows):032x}",
            "identity_id": f"person_{person}",
            "method": f"method_{method}",
            "style": f"style_{style}",
            "prompt_id": "beach",
            "prompt": "a person on the beach",
            "negative_prompt": "",
            "seed": 0,
            "height": size,
            "width": size,
            "num_inference_steps": 30,
            "guidance_scale": 5.0,
            "image": stream.getvalue(),
            "format": "png",
            "seconds": 0.1,
            "model_revision": "none",
        }
        row |= {name: float(rng.normal(0.5, 0.1)) for name in METRICS} | {"face_found": 1.0}
        rows.append(row)
    tables = {"requests": REQUESTS, "images": IMAGES, "scores": scores_schema(METRICS)}
    for name, schema in tables.items():
        (folder / name).mkdir()
        kept = [{field: row.get(field) for field in schema.names} for row in rows]
        table = pa.Table.from_pylist(kept, schema=schema)
        pq.write_table(table, folder / name / "part-0.parquet")
    return len(rows)

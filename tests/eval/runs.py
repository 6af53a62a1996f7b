"""Run folders for tests: written with the pipeline's own schemas, pictures drawn in a few lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.tables import schemas

METRICS = {
    "face_found": {"title": "Face found", "unit": "share", "bounds": [0, 1]},
    "face_count": {"title": "Faces", "unit": "faces", "bounds": [0, None]},
    "identity_facenet": {"title": "Identity (FaceNet)", "unit": "cosine", "bounds": [-1, 1]},
    "text_score": {"title": "Text score", "unit": "cosine", "bounds": [-1, 1]},
}
DIRECTION = {"face_found": True, "identity_facenet": True, "text_score": True, "face_count": None}
METHODS = ("infinite_id", "ip_adapter", "text_only")
STYLES = ("raw_photo", "anime")
PROMPTS = {"beach": "a woman on the beach <b>&", "snow": "a woman in the snow"}


def face_picture(seed: int, size: int = 64) -> bytes:
    """PNG of a drawn face: no person, no network."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    back, skin = rng.integers(30, 220, 3), np.array([200, 160, 130]) + rng.integers(-40, 40, 3)
    picture = np.full((size, size, 3), back, dtype=np.float64)
    picture[(x / 0.28) ** 2 + (y / 0.36) ** 2 < 1] = skin
    for side in (-0.12, 0.12):
        picture[((x - side) / 0.05) ** 2 + ((y + 0.08) / 0.03) ** 2 < 1] = 20
    picture[(x / 0.12) ** 2 + ((y - 0.18) / 0.03) ** 2 < 1] = (150, 40, 40)
    stream = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_run(
    folder: Path,
    *,
    people: int = 3,
    seeds: int = 2,
    methods: tuple[str, ...] = METHODS,
    untrained: bool = False,
    picture=face_picture,
) -> list[dict]:
    """Writes a whole run and returns its samples with their scores.

    Identity similarity is 0.5 + 0.1 * person for infinite_id, 0.2 less for ip_adapter, 0.5 less
    for text_only, plus 0.01 * seed; the last person has no face in anime pictures of text_only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    loss = dict(zip(METHODS, (0.0, 0.2, 0.5), strict=True))
    for method in methods:
        for prompt_id in PROMPTS:
            for style in STYLES:
                for seed in range(seeds):
                    for person in range(people):
                        faceless = (
                            method == "text_only" and style == "anime" and person == people - 1
                        )
                        identity = 0.5 + 0.1 * (person % 4) - loss[method] + 0.01 * seed
                        samples.append(
                            {
                                "sample_id": f"{len(samples):032x}",
                                "identity_id": f"person_{person}",
                                "method": method,
                                "prompt_id": prompt_id,
                                "style": style,
                                "seed": seed,
                                "prompt": f"{PROMPTS[prompt_id]}, {style}",
                                "face_found": float(not faceless),
                                "face_count": float(not faceless),
                                "identity_facenet": np.nan if faceless else identity,
                                "text_score": 0.2 + 0.1 * loss[method] + 0.02 * person,
                            }
                        )
    requests = [
        sample
        | {
            "negative_prompt": "",
            "height": 64,
            "width": 64,
            "num_inference_steps": 30,
            "guidance_scale": 5.0,
        }
        for sample in samples
    ]
    write_table(folder, "requests", requests, schemas.REQUESTS)
    images = [
        sample
        | {
            "image": picture(number),
            "format": "png",
            "height": 64,
            "width": 64,
            "seconds": 0.5,
            "model_revision": f"pocket-1+{sample['method']}",
        }
        for number, sample in enumerate(samples)
    ]
    write_table(folder, "images", images, schemas.IMAGES)
    write_table(folder, "scores", samples, schemas.scores_schema(list(METRICS)))
    embeddings = [
        {
            "identity_id": f"person_{person}",
            "face": [1.0],
            "clip": b"",
            "clip_tokens": 0,
            "clip_width": 0,
            "revision": "r",
            "digest": "d",
            "aligned": [face_picture(1000 + person, 112)],
        }
        for person in range(people)
    ]
    write_table(folder, "embeddings", embeddings, schemas.EMBEDDINGS)
    reject = {"stage": "faces", "key": "group.jpg", "image_id": "group.jpg"}
    reject |= {"reason": "several_faces", "message": "6 faces found, one is allowed"}
    write_table(folder, "rejects", [reject], schemas.REJECTS)
    run = {
        "schema_version": 1,
        "created": "2026-11-24T02:00:00Z",
        "command": "python jobs/benchmark.py",
        "status": "done",
        "preset": "pocket",
        "untrained": untrained,
        "config": {"methods": list(methods)},
        "environment": {"python": "3.11"},
        "revisions": {"base": "pocket-1"},
        "metrics": {
            name: info | {"name": name, "higher_is_better": DIRECTION[name]}
            for name, info in METRICS.items()
        },
        "timings": {"images": {"seconds": 0.5 * len(samples), "rows": len(samples)}},
        "counts": {},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return samples


def write_table(folder: Path, name: str, rows: list[dict], schema: pa.Schema) -> None:
    """One Parquet file; keys that the schema does not have are left out."""
    (folder / name).mkdir(exist_ok=True)
    kept = [{field: row.get(field) for field in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(kept, schema=schema), folder / name / "part-0.parquet")

"""The user's road at SDXL's real sizes on a CPU: check, benchmark, serve and InfiniteIDPipeline.

Every file has the public one's name, keys and shapes, and random weights: pictures are noise, but
what loads, what it takes and how long is real.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.real_size_processes import Watched

__all__ = ["model_settings", "run", "run_file", "write_files"]

_SAMPLES = Path(__file__).parents[1] / "infinite_id" / "assets" / "samples"
_PHOTO = "person-1.png"
_READY_SECONDS = 1800.0
# Digests of smaller files are not remembered, see `infinite_id.packages.file_digest`.
_LARGE = 4 << 20
_WEIGHTS = ("*.safetensors", "*.bin", "*.onnx")


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reckons, writes the files, then walks the road over them.

    Args:
        arguments: scale ("real" or "small": fewer and narrower layers, the same keys); folder of
            the files (None: a temporary one), which takes 13 GB; walk: what to walk, of check,
            benchmark, serve, python, faceid (check and Python with each FaceID file); methods;
            people; size in pixels; steps; dtype; tflops, utilisation, terabytes_per_s: of the card
            that pictures per second are reckoned for.

    Returns:
        `benchmarks.real_size_reckoning.reckoned`; GB and seconds of the files; of each command its
        exit code, seconds, and GB of its largest process and of all together; of each kind of
        Ray's actors the GB of the largest; pictures; seconds until models are loaded; the dtype of
        each network; large files of weights that a process loaded more than once, and files whose
        digest was computed more than once, over all commands.

    Raises:
        ValueError: an unknown scale or step of the walk.
    """
    from benchmarks.real_size_files import REAL, SMALL
    from benchmarks.real_size_reckoning import reckoned

    sizes = {"real": REAL, "small": SMALL}
    steps: dict[str, Callable[..., dict[str, Any]]] = {
        "check": _check,
        "benchmark": _benchmark,
        "serve": _serve,
        "python": _python,
        "faceid": _faceid,
    }
    if arguments["scale"] not in sizes:
        raise ValueError(f"scale is {arguments['scale']!r}, allowed: {', '.join(sizes)}")
    for name in arguments["walk"]:
        if name not in steps:
            raise ValueError(f"walk has {name!r}, allowed: {', '.join(steps)}")
    figures: dict[str, Any] = dict(reckoned(arguments))
    with tempfile.TemporaryDirectory(dir=arguments["folder"]) as temporary:
        folder = Path(temporary)
        begin = time.perf_counter()
        write_files(folder, sizes[arguments["scale"]])
        figures["write_seconds"] = time.perf_counter() - begin
        weights = (file for kind in _WEIGHTS for file in folder.rglob(kind))
        figures["files_gb"] = sum(file.stat().st_size for file in weights) / 1e9
        for name in arguments["walk"]:
            begin = time.perf_counter()
            found = steps[name](folder, arguments)
            found["seconds"] = time.perf_counter() - begin
            print(f"{name}: {json.dumps(found)}", flush=True)
            figures |= {f"{name}_{key}": value for key, value in found.items()}
        figures |= _reads(folder)
    return figures


def write_files(folder: Path, sizes: Any) -> None:
    """Base, CLIP tower, adapters and pack, as their publishers lay them out."""
    from benchmarks.real_size_adapters import PUBLIC_NAMES, AdapterSizes, write_adapter
    from benchmarks.real_size_files import write_pack, write_sdxl_base, write_vit_h

    unet = write_sdxl_base(folder / "base", sizes, filled=True)
    write_vit_h(folder / "clip", sizes=sizes, filled=True)
    layers, wide = sizes.adapter
    for kind, name in PUBLIC_NAMES.items():
        shapes = AdapterSizes(layers=layers, wide=wide)
        write_adapter(folder / name, unet, kind, shapes, filled=True)
    write_pack(folder / "pack" / "buffalo_l", sizes)
    (folder / "reads").mkdir()


def model_settings(
    folder: Path, arguments: Mapping[str, Any], kind: str = "plus_face"
) -> dict[str, Any]:
    """What every command is told of the model: local folders for everything.

    Args:
        folder: of `write_files`.
        arguments: of `run`.
        kind: of the adapter, of `benchmarks.real_size_adapters.PUBLIC_NAMES`.
    """
    from benchmarks.real_size_adapters import PUBLIC_NAMES

    return {
        "preset": f"sdxl_{kind}",
        "base": str(folder / "base"),
        "clip": str(folder / "clip"),
        "faces": str(folder / "pack" / "buffalo_l"),
        "adapter": str(folder / PUBLIC_NAMES[kind]),
        "methods": arguments["methods"],
        "height": arguments["size"],
        "width": arguments["size"],
        "num_inference_steps": arguments["steps"],
        "dtype": arguments["dtype"],
        # The judge of text and image is another gigabyte, and judges noise here.
        "metrics": ["face_found"],
    }


def run_file(folder: Path, arguments: Mapping[str, Any], kind: str = "plus_face") -> str:
    """The configuration of `check` and `benchmark`, with the people's photos beside it; arguments
    as of `model_settings`."""
    people = folder / "people"
    for photo in sorted(_SAMPLES.glob("*.png"))[: arguments["people"]]:
        (people / photo.stem).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, people / photo.stem)
    settings = model_settings(folder, arguments, kind) | {
        "identities": str(people),
        "prompt_ids": _first_prompt(),
        "style_names": ["raw_photo"],
        "resources": {"generation_gpus": 0},
        "tracking_uri": "none",
        "output": str(folder / f"run_{kind}"),
    }
    file = folder / f"run_{kind}.yaml"
    file.write_text(json.dumps(settings))
    return str(file)


def _first_prompt() -> list[str]:
    from pipelines.tables.manifest import default_prompts

    return [default_prompts().to_pylist()[0]["prompt_id"]]


def _check(folder: Path, arguments: Mapping[str, Any], kind: str = "plus_face") -> dict[str, Any]:
    words = ["jobs.cli", "check", run_file(folder, arguments, kind)]
    with Watched(words, folder / "reads") as check:
        return check.ended()


def _benchmark(folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    words = ["jobs.cli", "benchmark", "--config", run_file(folder, arguments)]
    with Watched(words, folder / "reads") as benchmark:
        found = benchmark.ended()
    record = folder / "run_plus_face" / "run.json"
    counts = json.loads(record.read_text())["counts"] if record.exists() else {}
    return found | {"pictures": counts.get("pictures", 0)}


def _serve(folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    from infinite_id.client import Client

    settings = model_settings(folder, arguments) | {
        # It refuses noise now and then.
        "safety_check": None,
        "request_timeout_seconds": _READY_SECONDS,
    }
    file = folder / "serve.yaml"
    file.write_text(json.dumps(settings))
    words = ["jobs.cli", "serve", "--config", str(file), "--port", "0"]
    with Watched(words, folder / "reads") as service:
        line = service.said("ready on ", _READY_SECONDS)
        loaded = service.seconds
        with Client(line.split()[2], timeout=_READY_SECONDS) as client:
            person = client.add_identity(_SAMPLES / _PHOTO)
            begin = time.perf_counter()
            made = client.generate("a {subject} on the beach", identity=person, seed=0)
            taken = time.perf_counter() - begin
        service.terminate()
        found = service.ended()
    return found | {
        "load_seconds": loaded,
        "picture_seconds": taken,
        "pictures": len(made.pictures),
    }


def _faceid(folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"pictures": 0, "exit_codes": 0}
    for kind in ("faceid", "faceid_plusv2"):
        checked = _check(folder, arguments, kind)
        made = _python(folder, arguments, kind)
        found["pictures"] += made.pop("pictures")
        found["exit_codes"] += checked["exit_code"] + made.pop("exit_code")
        found |= {f"{kind}_{name}": value for name, value in made.items()}
    return found


def _python(folder: Path, arguments: Mapping[str, Any], kind: str = "plus_face") -> dict[str, Any]:
    settings = model_settings(folder, arguments, kind) | {"photo": str(_SAMPLES / _PHOTO)}
    file = folder / "python.json"
    file.write_text(json.dumps(settings))
    with Watched(["benchmarks.real_size_python", str(file)], folder / "reads") as python:
        line = python.said("{", _READY_SECONDS)
        found = python.ended()
    return found | json.loads(line)


def _reads(folder: Path) -> dict[str, int]:
    """What each process loaded and digested of the large files here, as
    `benchmarks/reads/sitecustomize.py` wrote it."""
    loads: Counter[tuple[int, str]] = Counter()
    digests: Counter[str] = Counter()
    lines = (line for file in (folder / "reads").iterdir() for line in file.open())
    for read in map(json.loads, lines):
        file = Path(read["file"])
        if not file.is_relative_to(folder.resolve()) or file.stat().st_size < _LARGE:
            continue
        if read["what"] == "load":
            loads[read["process"], read["file"]] += 1
        else:
            digests[read["file"]] += 1
    return {
        "weight_files_loaded": len(loads),
        "weight_files_loaded_twice_in_a_process": _twice(loads.values()),
        "weight_files_digested": len(digests),
        "weight_files_digested_twice": _twice(digests.values()),
    }


def _twice(counts: Any) -> int:
    return sum(count > 1 for count in counts)

"""What only a whole run can say: bounds, variety, copying, class structure, verification.

Measures the features of a run's pictures and of the people's real faces (`eval.set_features`), and
writes `sets.json` beside the tables, from which the report is made. Identity margin and rank-1 are
by every network of identity that the run was scored with; all else is by FaceNet.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from eval.dataset_metrics import (
    class_structure,
    copy_paste_score,
    seed_diversity,
)
from eval.identity import Judge, identity_of_methods
from eval.json_values import json_value
from eval.judges.given import GivenJudges
from eval.judges.networks import FACE_FILES, Need, Networks
from eval.metric import conditions
from eval.run_data import RunData, read_run
from eval.set_features import (
    SEEDS_OF,
    People,
    Pictures,
    choose_pictures,
    pictures_vary,
    read_people,
    read_pictures,
)
from eval.stats import Summary, mean_of_pairs, summarise
from eval.vectors import cosine
from eval.verification import verification

__all__ = ["MAX_PICTURES", "measure_sets"]

MAX_PICTURES = 1000
# Fewer features than this make a distance between distributions noise.
_KERNEL_FROM, _FRECHET_FROM = 50, 2000
_MAX_REAL = 2000

Features = NDArray[np.float32]


def measure_sets(
    run_dir: str | Path,
    preset_name: str = "pocket",
    *,
    max_pictures: int = MAX_PICTURES,
    threads: int = 1,
    options: Mapping[str, Any] | None = None,
    scorer: str | None = None,
    judges: GivenJudges | None = None,
) -> dict[str, Any]:
    """Writes sets.json into a run folder and returns its content.

    Args:
        run_dir: folder or address of a run.
        preset_name: decides the image-text model.
        max_pictures: of a method; >= 1.
        threads: of each onnxruntime network.
        options: of file systems by scheme.
        scorer: folder of an OpenCLIP model in place of the preset's.
        judges: those of the run; of them, the networks of identity whose columns it has.

    Raises:
        ValueError: no run there, or `max_pictures` below 1.
    """
    if max_pictures < 1:
        raise ValueError(f"max_pictures is {max_pictures}, allowed: 1 or more")
    data = read_run(run_dir, options)
    chosen = choose_pictures(data, max_pictures)
    given = judges or GivenJudges()
    needs: list[Need] = ["faces", "facenet"]
    needs += [name for name in FACE_FILES if name in given and f"identity_{name}" in data.metrics]
    if pictures_vary(data, chosen):
        needs.append("image_text")
    networks = Networks(needs, preset_name, threads, scorer=scorer, judges=given)
    pictures = read_pictures(data, networks, chosen)
    targets = _targets(data)
    originals = data.originals()
    wanted = set(data.samples["identity_id"][pictures.rows].tolist())
    wanted |= {person for parts in targets.values() for _, _, person in parts}
    wanted |= {originals[person] for person in wanted if person in originals}
    known = read_people(data, networks, sorted(wanted))
    seen = [
        Judge(
            one.name,
            one.revision,
            pictures.faces[name],
            known[name].used,
            known[name].held_out,
            conditions(f"identity_{name}", networks, preset_name),
        )
        for name, one in networks.face_judges().items()
    ]
    people = known["facenet"]
    model = networks.image_text
    found = {
        "network": f"FaceNet (Inception-ResNet-v1), {networks.facenet.revision}",
        "image_network": "" if model is None else f"{model.name}, {model.revision}",
        "pictures": len(pictures.rows),
        "of_pictures": int(data.samples["has_image"].sum()),
        "bounds": _bounds(people.whole(originals)),
        "identity": identity_of_methods(data, pictures.rows, seen, originals),
        "methods": {
            name: _method(data, pictures, people.whole(originals), name)
            for name in data.names("method")
        },
        "curves": _curves(data, pictures, people, targets),
    }
    found = json_value(found)
    data.folder.write("sets.json", json.dumps(found, indent=1).encode())
    return found


def _bounds(people: People) -> dict[str, Any]:
    """Real photos scored as if a method had made them: of the person, of everybody else.

    Held-out photos are compared with those that conditioned; where nothing was held out, each
    photo with the person's others.
    """
    means = {person: features.mean(axis=0) for person, features in people.used.items()}
    own: list[tuple[str, float]] = []
    for person, features in people.used.items():
        held = people.held_out.get(person)
        if held is not None:
            own += [(person, cosine(one, means[person])) for one in held]
        elif len(features) > 1:
            total = features.sum(axis=0)
            own += [(person, cosine(one, total - one)) for one in features]
    strangers = np.stack(list(means.values())) if means else np.empty((0, 1))
    return {
        "ceiling": asdict(_summary(own)),
        "floor": asdict(mean_of_pairs(strangers)),
        "held_out": bool(people.held_out),
        "people": len(means),
    }


def _summary(pairs: Sequence[tuple[str, float]]) -> Summary:
    return summarise(
        [value for _, value in pairs], np.array([name for name, _ in pairs], dtype=str)
    )


def _method(data: RunData, pictures: Pictures, people: People, name: str) -> dict[str, Any]:
    faces = pictures.faces["facenet"]
    own = data.samples["method"][pictures.rows] == name
    person = data.samples["person"][pictures.rows].astype(str)
    columns = [data.samples[k][pictures.rows[own]].astype(str) for k in SEEDS_OF]
    groups = ["\x1f".join(parts) for parts in zip(*columns, strict=True)]
    person_of = dict(zip(groups, person[own].tolist(), strict=True))
    diversity: dict[str, float] = {}
    if pictures.images is not None and own.any():
        diversity = seed_diversity(pictures.images[own], groups)
    with_face = own & ~np.isnan(faces[:, :1]).any(axis=1)
    # A mix is nobody in particular: between its people it is neither the same nor another.
    asked = data.samples["identity_id"][pictures.rows].astype(str)
    somebody = with_face & ~np.isin(asked, list(data.mixes()))
    features, who = faces[somebody], person[somebody]
    found: dict[str, Any] = {
        "pictures": int(own.sum()),
        "with_face": int(with_face.sum()),
        "seed_diversity": asdict(
            _summary([(person_of[key], value) for key, value in diversity.items()])
        ),
        "class_structure": None,
        "sim_gt": None,
        "sim_ref": None,
        "copy_paste": None,
        "verification": None,
        "kernel_distance": None,
        "frechet_distance": None,
    }
    if len(set(who.tolist())) >= 2:
        found["class_structure"] = asdict(class_structure(features, who.tolist()))
    targets = people.held_out
    rows = [n for n, one in enumerate(who.tolist()) if one in targets]
    if rows:
        own_faces, whose = features[rows], who[rows]
        target = np.stack([targets[name].mean(axis=0) for name in whose])
        reference = np.stack([people.used[name].mean(axis=0) for name in whose])
        scores = copy_paste_score(own_faces, target, reference)
        found["copy_paste"] = asdict(summarise(scores, whose))
        for key, photos in (("sim_gt", target), ("sim_ref", reference)):
            cosines = [cosine(face, photo) for face, photo in zip(own_faces, photos, strict=True)]
            found[key] = asdict(summarise(cosines, whose))
    real = _stacked(targets or people.used)
    if real is not None:
        result = verification(features, who.tolist(), real[1], real[0])
        if result is not None:
            found["verification"] = {**asdict(result), "held_out": bool(targets)}
    found |= _distances(_stacked(people.used), faces[with_face])
    return found


def _distances(real: tuple[list[str], Features] | None, made: Features) -> dict[str, Any]:
    """Between FaceNet features of real and generated faces, on runs that are large enough."""
    if real is None or min(len(real[1]), len(made)) < _KERNEL_FROM:
        return {}
    from eval.distributions import frechet_distance, kernel_distance

    mean, deviation = kernel_distance(real[1], made)
    found: dict[str, Any] = {"kernel_distance": {"mean": mean, "deviation": deviation}}
    if min(len(real[1]), len(made)) >= _FRECHET_FROM:
        size = min(len(real[1]), len(made))
        found["frechet_distance"] = frechet_distance(real[1][:size], made[:size])
    return found


def _stacked(people: Mapping[str, Features]) -> tuple[list[str], Features] | None:
    labels = [name for name, features in people.items() for _ in features][:_MAX_REAL]
    if not labels:
        return None
    return labels, np.concatenate(list(people.values()))[:_MAX_REAL]


def _targets(data: RunData) -> dict[str, list[tuple[str, float, str]]]:
    """identity -> (role, x, person to compare with): the parts of a mix, a variant's original."""
    found: dict[str, list[tuple[str, float, str]]] = {}
    scenario = data.folder.read_json("scenario.json") or {}
    for identity, variant in (scenario.get("variants") or {}).items():
        found[identity] = [("the original photo", float(variant["x"]), variant["of"])]
    requests = data.folder.dataset("requests")
    if requests is None or "mix_parts" not in requests.schema.names:
        return found
    table = requests.to_table(
        columns=["identity_id", "mix_parts", "mix_mode"], filter=pc.field("mix_parts").is_valid()
    )
    for row in table.to_pylist():
        parts = row["mix_parts"]
        if len(parts) == 2 and row["mix_mode"] == "interpolate":
            x = float(parts[1]["weight"])
            found[row["identity_id"]] = [
                (role, x, part["identity_id"]) for role, part in zip("AB", parts, strict=True)
            ]
    return found


def _curves(
    data: RunData,
    pictures: Pictures,
    people: People,
    targets: Mapping[str, list[tuple[str, float, str]]],
) -> list[dict[str, Any]]:
    """Similarity to each target along x: one entry a method, role and x, with people's means."""
    cells: dict[tuple[str, str, float], list[tuple[str, float]]] = defaultdict(list)
    for row, face in zip(pictures.rows.tolist(), pictures.faces["facenet"], strict=True):
        method = data.samples["method"][row]
        for role, x, person in targets.get(data.samples["identity_id"][row], []):
            if person in people.used:
                value = cosine(face, people.used[person].mean(axis=0))
                cells[method, role, x].append((person, value))
    return [
        {
            "method": method,
            "role": role,
            "x": x,
            **asdict(_summary(values)),
            "by_person": _means(values),
        }
        for (method, role, x), values in sorted(cells.items())
    ]


def _means(values: Sequence[tuple[str, float]]) -> dict[str, float]:
    """person -> mean of the values that are numbers."""
    found: dict[str, list[float]] = defaultdict(list)
    for person, value in values:
        if not math.isnan(value):
            found[person].append(value)
    return {person: sum(own) / len(own) for person, own in found.items()}

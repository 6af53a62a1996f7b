"""Kills at random moments: an actor, a node's raylet or the driver of a run, on a real cluster.

Each trial is one run of the main job with the timed generator on three raylets of this machine. A
seeded random number says what is killed with SIGKILL and when; a lost node is replaced, a lost
driver is started again with `resume`, as a supervisor would. Then the run's tables are compared
with those of an undisturbed run, row for row and pixel for pixel.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos_cluster import KINDS, Nodes, Run, cluster

__all__ = ["TABLES", "compare", "run", "trial", "undisturbed"]

TABLES = ("faces", "embeddings", "requests", "images", "scores")
_SUMS = (
    "kills_under_way",
    "rows_lost",
    "rows_doubled",
    "rows_refused",
    "files_torn",
    "runs_unlike_the_undisturbed_one",
    "driver_starts",
    "hangs",
    "runs_failed",
    "generation_actors_killed",
    "generation_batches_lost",
)
_LOOK_SECONDS = 0.02
_LATER_SECONDS = 1.0


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """An undisturbed run, then the trials; kinds of kills take turns.

    Args:
        arguments: trials, seed (of kills); folder: where the undisturbed run and `trials.jsonl`
            are kept, so that a later call goes on with the trials that are left (None: nowhere);
            seconds: after so many no trial is begun in this call (None: all are); and see
            `benchmarks.crowd.crowd_config`.

    Returns:
        trials; kills by kind; over all trials, those of earlier calls included: kills that met a
        run under way, rows lost, doubled and refused, files torn, runs unlike the undisturbed
        one, starts of the driver, hangs, runs that never succeeded; generation batches that were
        begun and had to be generated again, in all and at most for one killed generation actor;
        seconds of an undisturbed and of a disturbed run.
    """
    from benchmarks.crowd import crowd_config
    from pipelines.run.environment import quiet

    quiet()
    begin = time.monotonic()
    most = arguments["seconds"]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_place(arguments["folder"]))
        # Before the nodes start: their workers take the seconds of a batch from the environment.
        config = crowd_config(arguments, folder)
        nodes = stack.enter_context(cluster())
        seconds = undisturbed(nodes, config, folder)
        record = folder / "trials.jsonl"
        done = record.read_text().splitlines() if record.exists() else []
        for number in range(len(done), arguments["trials"]):
            if most is not None and time.monotonic() - begin > most:
                break
            kinds = [KINDS[number % len(KINDS)]]
            rng = random.Random(arguments["seed"] + number)
            name = f"trial-{number}"
            try:
                found = trial(nodes, config, folder, name, kinds, rng)
            except RuntimeError as error:
                none = dict.fromkeys(_SUMS, 0) | {"runs_failed": 1, "seconds": 0.0}
                found = {"name": name, "kinds": kinds, **none, "error": str(error)}
            done.append(json.dumps(found))
            with record.open("a") as file:
                file.write(done[-1] + "\n")
            print(f"trial {number}: {done[-1]}", flush=True)
    return _figures([json.loads(line) for line in done], seconds)


@contextlib.contextmanager
def _place(folder: str | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)


def _figures(trials: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    kinds = Counter(kind for found in trials for kind in found["kinds"])
    return {
        "trials": len(trials),
        **{f"kills_of_{kind}": kinds[kind] for kind in KINDS},
        **{name: sum(found.get(name, 0) for found in trials) for name in _SUMS},
        "most_generation_batches_lost_a_killed_actor": max(
            (f["generation_batches_lost"] / max(f["generation_actors_killed"], 1) for f in trials),
            default=0.0,
        ),
        "seconds_undisturbed": seconds,
        "seconds_disturbed": sum(found["seconds"] for found in trials) / max(len(trials), 1),
    }


def _run(nodes: Nodes, config: Any, folder: Path, name: str) -> Run:
    update = {"address": nodes.address, "output": str(folder / name)}
    return Run(config.model_copy(update=update), folder)


def undisturbed(nodes: Nodes, config: Any, folder: Path) -> float:
    """Makes the run that others are compared with, `folder`/undisturbed, unless it is there.

    Returns:
        its seconds, after the driver's own start.

    Raises:
        ValueError: the one that is there has other pictures, of another version of this program.
    """
    from pipelines.plan.weights import run_weights

    revision = run_weights(config.family(), config.methods).revisions[config.methods[0]]
    record = folder / "undisturbed.json"
    if not record.exists():
        with _run(nodes, config, folder, "undisturbed") as whole:
            whole.wait_for("run.json")
            begin = time.monotonic()
            whole.finish()
            seconds = time.monotonic() - begin
        if whole.starts > 1:
            raise RuntimeError(f"the undisturbed run failed: {whole.words()}")
        record.write_text(json.dumps({"revision": revision, "seconds": seconds}))
    kept = json.loads(record.read_text())
    if kept["revision"] != revision:
        raise ValueError(
            f"folder {folder} holds runs of {kept['revision']}, this program makes {revision}, "
            "allowed: another folder"
        )
    return kept["seconds"]


def trial(
    nodes: Nodes,
    config: Any,
    folder: Path,
    name: str,
    kinds: Sequence[str],
    rng: random.Random,
    share: float = 1.0,
) -> dict[str, Any]:
    """One run with kills at random moments, and what became of it.

    A moment is up to a second after a random number of files are committed: seconds alone would
    miss a run that a quieter machine ends sooner than the undisturbed one.

    Args:
        nodes: of the cluster.
        config: `benchmarks.crowd.crowd_config`, made before the nodes were.
        folder: that holds the undisturbed run.
        name: of the run.
        kinds: what is killed, in turn.
        rng: decides when, and which actor or node.
        share: of the run's files, in (0, 1], before which kills fall.

    Raises:
        RuntimeError: the run did not succeed, however often it was started.
    """
    found: Counter[str] = Counter()
    # What a call that was itself killed left of this trial.
    shutil.rmtree(folder / name, ignore_errors=True)
    with _run(nodes, config, folder, name) as run:
        run.wait_for("run.json")
        begin = time.monotonic()
        files = int(share * _committed(folder / "undisturbed"))
        for wanted in sorted(rng.randrange(files) for _ in kinds):
            while run.alive and _committed(run.output) < wanted:
                time.sleep(_LOOK_SECONDS)
            time.sleep(rng.uniform(0.0, _LATER_SECONDS))
            found["kills_under_way"] += run.alive
            found["generation_actors_killed"] += nodes.kill(kinds[found["kills"]], run, rng)
            found["kills"] += 1
        run.finish()
        taken = time.monotonic() - begin
    found.update(compare(folder / "undisturbed", run.output))
    found.update(driver_starts=run.starts, hangs=run.hangs)
    return {
        "name": name,
        "kinds": list(kinds),
        **{key: found[key] for key in _SUMS},
        "seconds": round(taken, 1),
    }


def _committed(run: Path) -> int:
    """Number of committed files of a run."""
    return sum(len(list((run / name).glob("part-*.parquet"))) for name in TABLES)


def compare(whole: Path, run: Path) -> Counter[str]:
    """What a disturbed run lost, doubled or tore, against an undisturbed one; both on this disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: Counter[str] = Counter()
    equal = True
    for name in TABLES:
        key = {"faces": "image_id", "embeddings": "identity_id"}.get(name, "sample_id")
        tables = []
        for folder in (whole, run):
            parts = []
            for path in sorted((folder / name).glob("part-*.parquet")):
                try:
                    parts.append(pq.read_table(path))
                except (OSError, pa.ArrowInvalid):
                    found["files_torn"] += 1
            tables.append(pa.concat_tables(parts) if parts else pa.table({key: []}))
        keys = [Counter(table[key].to_pylist()) for table in tables]
        found["rows_lost"] += (keys[0] - keys[1]).total()
        found["rows_doubled"] += sum(number - 1 for number in keys[1].values())
        equal = equal and _timeless(tables[0], key) == _timeless(tables[1], key)
    found["runs_unlike_the_undisturbed_one"] += not equal
    found["rows_refused"] += sum(pq.read_table(p).num_rows for p in run.glob("rejects/*.parquet"))
    lost = json.loads((run / "run.json").read_text()).get("lost_tries", {})
    found["generation_batches_lost"] += lost.get("images", 0)
    return found


def _timeless(table: Any, key: str) -> bytes:
    """A table's bytes without its measured seconds; as bytes, NaN equals NaN."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [name for name in table.column_names if name != "seconds"]
    sink = pa.BufferOutputStream()
    pq.write_table(table.select(names).sort_by(key).combine_chunks(), sink)
    return sink.getvalue().to_pybytes()

"""`benchmark --from KIND:FOLDER`: a benchmark of the field, from its layout to its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import yaml

from eval.benchmarks.cases import Benchmark
from eval.benchmarks.multiid import read_multiid, read_multiid_groups
from eval.benchmarks.references import read_references
from eval.judges.networks import FACE_FILES
from jobs.console import console
from pipelines.benchmark import RunSummary, run_benchmark
from pipelines.plan.weights import local_judges, local_weights
from pipelines.settings import BenchmarkConfig, load_config
from pipelines.tables.schemas import GROUPS, IDENTITIES
from pipelines.tables.storage import Store

__all__ = ["KINDS", "run_field_benchmark"]

KINDS: dict[str, Callable[[str], Benchmark]] = {
    "multiid": read_multiid,
    "multiid-groups": read_multiid_groups,
    "references": read_references,
}
"""Name -> reader of a folder."""

Finish = Callable[[RunSummary, BenchmarkConfig], None]
_TAKEN = ("identities", "prompts", "styles", "mixes", "groups")


def run_field_benchmark(
    source: str,
    overrides: Mapping[str, Any],
    finish: Finish,
    *,
    check: Callable[[BenchmarkConfig], None],
    command: str,
    progress: Callable[[str, int, int], None],
) -> None:
    """Reads the benchmark, generates for its cases, measures, and writes its table.

    Args:
        source: "multiid:FOLDER", "multiid-groups:FOLDER" or "references:FOLDER".
        overrides: configuration values of the command line.
        finish: called with the finished run: report and tracking.
        check: called with the configuration before anything is made.
        command: for the record.
        progress: see `pipelines.benchmark.run_benchmark`.

    Raises:
        ValueError: an unknown kind, a folder in no known layout, or input given beside it.
    """
    kind, colon, folder = source.partition(":")
    if kind not in KINDS or not colon:
        allowed = " or ".join(f"{name}:FOLDER" for name in KINDS)
        raise ValueError(f"--from is {source!r}, allowed: {allowed}")
    for name in _TAKEN:
        if overrides.get(name) is not None:
            raise ValueError(f"--{name} is given beside --from, allowed: one of them")
    benchmark = KINDS[kind](folder)
    for note in benchmark.notes:
        console.print(f"{benchmark.name}: {note}", markup=False)
    given = {**overrides, "output": overrides.get("output") or f"runs/{kind}"}
    config = load_config(None, **given)
    config = config.model_copy(update=_inputs(benchmark, config))
    check(config)
    # Its table has their columns, whatever metrics were asked for.
    judges = config.given_judges()
    judges.check({"benchmark": [name for name in (*FACE_FILES, "aesthetic") if name in judges]})
    own = {case.case_id: case.prompt for case in benchmark.cases if case.prompt is not None}
    own |= {group.case_id: group.prompt for group in benchmark.groups}
    summary = run_benchmark(config, command=command, progress=progress, prompts_of=own)
    if benchmark.groups:
        # Their table is the report's section of groups; no picture is of one person.
        finish(summary, config.model_copy(update={"set_pictures": 0}))
        return

    from eval.benchmarks.measure import measure_benchmark, table_markdown

    options = config.storage_options
    found = measure_benchmark(
        config.output,
        benchmark,
        config.preset,
        options=options,
        scorer=None if config.scorer is None else local_weights(config.scorer, options),
        judges=local_judges(judges, options),
    )
    finish(summary, config)
    console.print(table_markdown(found), markup=False)
    console.print(f"table:    {summary.url}/report/benchmark.md and .csv", markup=False)


def _inputs(benchmark: Benchmark, config: BenchmarkConfig) -> dict[str, str]:
    """Manifests beside the run folder; the same in every rerun."""
    store = Store(f"{config.output.rstrip('/')}-inputs", config.storage_options)
    people = [
        {
            **dict.fromkeys(IDENTITIES.names),
            "identity_id": case.case_id,
            "photos": [{"uri": None, "bytes": case.reference}],
        }
        for case in benchmark.cases
    ]
    store.write_table("identities.parquet", pa.Table.from_pylist(people, schema=IDENTITIES))
    prompts = benchmark.prompts or [("own", "{subject}")]
    rows: dict[str, list[dict[str, str]]] = {
        "prompts": [{"prompt_id": key, "text": text} for key, text in prompts],
        # The prompts say all: no words are added.
        "styles": [{"style": "as_written", "suffix": "", "negative_prompt": ""}],
    }
    found = {"identities": f"{store.address}/identities.parquet"}
    for name, values in rows.items():
        store.write_bytes(f"{name}.yaml", yaml.safe_dump(values, allow_unicode=True).encode())
        found[name] = f"{store.address}/{name}.yaml"
    if benchmark.groups:
        groups = [
            {"group_id": one.case_id, "people": list(one.people), "regions": None}
            for one in benchmark.groups
        ]
        store.write_table("groups.parquet", pa.Table.from_pylist(groups, schema=GROUPS))
        found["groups"] = f"{store.address}/groups.parquet"
    return found

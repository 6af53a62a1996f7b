"""`python -m benchmarks.gpu [--minutes 9] [--output FOLDER]`: every GPU figure by one command.

For a machine that is lent for minutes: parts run one after another, the most valuable first, each
in a process of its own with a time limit, and results are written as they come, so that a machine
that is taken away early has given something. Needs torch, diffusers, transformers and PyYAML; no
Ray, no model hub, no network. Weights are random: speed and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Part", "main", "parts"]

_LEAST_SECONDS = 20.0
_FEWER_ROWS = ("guidance_steps=[0.0,0.6]", "identity_steps=[0.1,1.0]")
_MEMORY_GB = (80, 24, 16, 12)


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the whole.

    Attributes:
        name: of its file and of its row in the table.
        seconds: the most that it may take.
        command: after `python -m`; "{json}" becomes the file of its figures.
        note: what the row says beside its figures.
        environment: added to this process's.
    """

    name: str
    seconds: float
    command: tuple[str, ...]
    note: str = ""
    environment: Mapping[str, str] | None = None


def parts(small: bool, pack: Path | None, state: Path) -> Iterator[Part]:
    """The parts in the order of their value.

    Args:
        small: the pocket UNet at 32 px on the CPU, to try the script itself.
        pack: data pack of the pocket model's training; None: no training.
        state: folder of that training.
    """
    counts = "counts=[1,2]" if small else "counts=[1,8,16]"
    common = ["two_stream" if small else "two_stream_sdxl", counts]
    common += (
        ["size=32", "steps=1", "repeats=1", "threads=1"] if small else ["steps=30", "repeats=1"]
    )

    def bench(name: str, seconds: float, *settings: str, note: str = "", **more: Any) -> Part:
        words = ["benchmarks.run", common[0], "--json", "{json}"]
        for setting in [*common[1:], *settings]:
            words += ["--set", setting]
        return Part(name, seconds, tuple(words), note, **more)

    if not small:
        tests = ("pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu")
        yield Part("gpu_tests", 120, tests)
    yield bench("eager", 150, "ways=[two_stream,plain]")
    yield bench("compiled", 240, "ways=[two_stream]", "compile=true", note="torch.compile")
    for profile in ("fast", "faster"):
        yield bench(profile, 90, "ways=[two_stream]", f"profile={profile}", note="its own steps")
    fewer = ["ways=[two_stream]", *_FEWER_ROWS]
    yield bench("fewer_rows", 90, *fewer, note="; ".join(_FEWER_ROWS))
    yield bench("rivals", 150, "ways=[two_pass,two_stream,ip_adapter]")
    for fusion in ("none", "mutual"):
        yield bench(f"fusion_{fusion}", 60, "ways=[two_stream]", f"fusion={fusion}")
    if not small:
        for gigabytes in _MEMORY_GB:
            yield bench(
                f"memory_{gigabytes}_gb",
                60,
                "ways=[two_stream]",
                "counts=[1,4]",
                "steps=2",
                note=f"allocator held to {gigabytes} GB",
                environment={"INFINITE_ID_BENCHMARK_MEMORY_GB": str(gigabytes)},
            )
    if pack is not None:
        words = ["infinite_id.training.pocket", "--data", str(pack), "--state", str(state)]
        yield Part("pocket_training", 1e9, (*words, "--minutes", "{minutes}"), "checkpointed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; 0, 1 where a part failed, 2 after wrong input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder of results")
    parser.add_argument("--pack", type=Path, help="data pack; the pocket model is trained last")
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU")
    given = parser.parse_args(arguments)
    if given.minutes <= 0:
        print(f"error: --minutes is {given.minutes:g}, allowed: above 0", file=sys.stderr)
        return 2
    if given.pack is not None and not given.pack.exists():
        print(f"error: --pack is {given.pack}, which does not exist", file=sys.stderr)
        return 2
    given.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.minutes
    results: list[dict[str, Any]] = []
    for part in parts(given.small, given.pack, given.output / "pocket"):
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            results.append({"part": part.name, "outcome": "not run: no time left", "figures": {}})
        else:
            results.append(_run(part, min(part.seconds, left), given.output))
        _write(results, given.output)
        print(f"{part.name}: {results[-1]['outcome']}", flush=True)
    return 1 if any(result["outcome"].startswith("failed") for result in results) else 0


def _run(part: Part, seconds: float, output: Path) -> dict[str, Any]:
    found = output / f"{part.name}.json"
    found.unlink(missing_ok=True)
    module = part.command[0].partition(".")[0]
    result: dict[str, Any] = {"part": part.name, "note": part.note, "figures": {}}
    if importlib.util.find_spec(module) is None:
        return {**result, "outcome": f"not run: {module} is not installed"}
    values = {"json": str(found), "minutes": f"{(seconds - 15) / 60:.2f}"}
    command = [sys.executable, "-m", *(word.format(**values) for word in part.command)]
    begin = time.monotonic()
    with (output / f"{part.name}.log").open("w") as log:
        try:
            done = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
                env={**os.environ, **(part.environment or {})},
            )
            # 1 of a scenario: a requirement was missed; its figures are there all the same.
            whole = done.returncode == 0 or found.exists()
            outcome = "done" if whole else f"failed: exit code {done.returncode}, see its log"
        except subprocess.TimeoutExpired:
            outcome = f"failed: more than {seconds:.0f} s"
    record = json.loads(found.read_text()) if found.exists() else {}
    return {
        **result,
        "outcome": outcome,
        "seconds": round(time.monotonic() - begin, 1),
        "figures": record.get("figures", {}),
        "verdicts": record.get("verdicts", []),
        "machine": record.get("machine", {}),
    }


def _write(results: Sequence[Mapping[str, Any]], output: Path) -> None:
    (output / "gpu.json").write_text(json.dumps(results, indent=1, default=str))
    machine: Mapping[str, Any] = next((r["machine"] for r in results if r.get("machine")), {})
    lines = ["    python -m benchmarks.gpu", ""]
    lines += [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    lines += ["| part | figure | value |", "|---|---|---|"]
    for result in results:
        name = result["part"] + (f" ({result['note']})" if result.get("note") else "")
        lines.append(f"| {name} | | {result['outcome']} |")
        for figure, value in result["figures"].items():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            lines.append(f"| | {figure} | {shown} |")
        for verdict in result.get("verdicts", []):
            if verdict["holds"] is not None:
                bound = next(k for k in ("at_least", "at_most", "equals") if k in verdict)
                mark = "holds" if verdict["holds"] else "FAILS"
                wanted = f"{verdict['figure']} {bound.replace('_', ' ')} {verdict[bound]}"
                lines.append(f"| | {wanted} | {mark} |")
    (output / "gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())

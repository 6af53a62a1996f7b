"""`python -m benchmarks.run NAME [--json FILE] [--list]`: scenarios and requirements as data.

`benchmarks/scenarios/NAME.yaml` names a module of this package, its arguments, and requirements
on the figures that the module's `run(arguments) -> dict` returns. Figures and verdict are printed;
the exit code is 1 where a requirement fails. Standard library and PyYAML only: a benchmark of the
model runs on a bare machine with torch and diffusers.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from infinite_id.packages import PackageFileError

__all__ = ["check", "load_scenario", "main", "scenario_names"]

_FOLDER = Path(__file__).parent / "scenarios"
_COMPARE = {
    "at_least": lambda value, bound: value >= bound,
    "at_most": lambda value, bound: value <= bound,
    "equals": lambda value, bound: value == bound,
}


def scenario_names() -> list[str]:
    """Names of all scenarios."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_scenario(name: str) -> dict[str, Any]:
    """One scenario: title, module, arguments, requirements.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in scenario_names():
        raise ValueError(f"benchmark is {name!r}, allowed: {', '.join(scenario_names())}")
    return yaml.safe_load((_FOLDER / f"{name}.yaml").read_text("utf-8"))


def check(
    figures: Mapping[str, Any],
    requirements: Sequence[Mapping[str, Any]],
    *,
    part: bool = False,
) -> list[dict]:
    """Each requirement with the value found and whether it holds; None where it was not run.

    Args:
        figures: name -> number, as the benchmark returned them.
        requirements: each {"figure": name, and one of at_least, at_most, equals: bound}.
        part: arguments were overridden, so that a figure may be absent. In a whole scenario an
            absent figure does not hold.
    """
    verdicts = []
    for requirement in requirements:
        name = requirement["figure"]
        kind = next(key for key in _COMPARE if key in requirement)
        value = figures.get(name)
        holds: bool | None = value is not None and bool(_COMPARE[kind](value, requirement[kind]))
        if part and name not in figures:
            holds = None
        verdicts.append({"figure": name, "value": value, kind: requirement[kind], "holds": holds})
    return verdicts


def _arguments(scenario: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """The arguments of a scenario with KEY=VALUE texts over them.

    Raises:
        ValueError: an unknown key, or a value that is no YAML.
    """
    values = dict(scenario.get("arguments", {}))
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in values:
            raise ValueError(f"--set is {pair!r}, allowed keys: {', '.join(values)}")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or error
            raise ValueError(f"--set is {pair!r}, allowed: a value in YAML ({reason})") from None
    return values


def _machine() -> dict[str, Any]:
    found = {
        "platform": platform.platform(terse=True),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found["torch"] = torch.__version__
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one scenario; returns the exit code: 0, 1 (a requirement fails) or 2 (wrong input)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("name", nargs="?", help="scenario")
    parser.add_argument("--json", metavar="FILE", help="write figures and verdicts here")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override an argument"
    )
    given = parser.parse_args(arguments)
    if given.list or given.name is None:
        for name in scenario_names():
            print(f"{name:24} {load_scenario(name)['title']}")
        return 0
    try:
        scenario = load_scenario(given.name)
        values = _arguments(scenario, given.set)
        if given.json and (Path(given.json).is_dir() or not Path(given.json).parent.is_dir()):
            raise ValueError(f"--json is {given.json!r}, allowed: a file in a folder that exists")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record: dict[str, Any] = {"benchmark": given.name, "arguments": values}
    # Both read it when a benchmark imports them: that torchvision is missing, or that a LoRA has
    # nothing for the text encoders, is no news here.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        module = importlib.import_module(f"benchmarks.{scenario['module']}")
        record["figures"] = module.run(values)
    except (PackageFileError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record["verdicts"] = check(
        record["figures"], scenario.get("requirements", []), part=bool(given.set)
    )
    record["machine"] = _machine()
    _show(scenario["title"], record)
    if given.json:
        try:
            Path(given.json).write_text(json.dumps(record, indent=2, default=str))
        except OSError as error:
            print(f"failed: cannot write {given.json}: {error.strerror}", file=sys.stderr)
            return 1
    return 1 if any(verdict["holds"] is False for verdict in record["verdicts"]) else 0


def _show(title: str, record: Mapping[str, Any]) -> None:
    print(f"{record['benchmark']}: {title}")
    print("  " + ", ".join(f"{key} {value}" for key, value in record["machine"].items()))
    for name, value in record["figures"].items():
        print(f"  {name:44} {value:.4g}" if isinstance(value, float) else f"  {name:44} {value}")
    for verdict in record["verdicts"]:
        kind = next(key for key in _COMPARE if key in verdict)
        mark = {True: "holds", False: "FAILS", None: "not run"}[verdict["holds"]]
        print(f"  {mark}: {verdict['figure']} {kind.replace('_', ' ')} {verdict[kind]}")


if __name__ == "__main__":
    sys.exit(main())

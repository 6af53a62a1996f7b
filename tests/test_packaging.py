"""The packages of this repository are the ones that are imported, and light ones stay light."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["infinite_id", "eval", "pipelines", "jobs", "benchmarks"])
def test_packages_come_from_this_repository(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert Path(str(spec.origin)).is_relative_to(ROOT)


@pytest.mark.parametrize(
    "module",
    [
        "infinite_id.types",
        "infinite_id.config",
        "infinite_id.methods",
        "infinite_id.pocket.weights",
        "pipelines.tables.schemas",
        "pipelines.tables.manifest",
        "pipelines.settings",
        "infinite_id.client",
        "jobs.cli",
    ],
)
def test_light_modules_load_neither_torch_nor_ray(module):
    heavy = "('torch', 'ray', 'diffusers', 'transformers', 'mlflow', 'cv2', 'onnxruntime')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_module_of_the_command_is_the_command():
    command = [sys.executable, "-m", "jobs.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert done.stdout.startswith("infinite-id ")


def test_every_entry_point_exists():
    scripts = [
        entry
        for entry in importlib.metadata.entry_points(group="console_scripts")
        if entry.value.startswith("jobs.")
    ]
    assert [entry.name for entry in scripts] == ["infinite-id"]
    assert all(callable(entry.load()) for entry in scripts)


def test_every_package_is_named_for_installation():
    import tomllib

    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    top = ("infinite_id", "eval", "pipelines", "jobs", "benchmarks")
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in top
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert set(named) == found


def test_every_extra_installs_something():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(extras["optional-dependencies"].values())


def test_make_clean_leaves_results_where_they_are(need):
    need("make", shutil.which("make") is not None, "apt-get install make")
    # `make short VENV=...` hands its variables on to every make below it.
    done = subprocess.run(
        ["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
    )  # fmt: skip
    assert ".venv" in done.stdout.split()
    assert "runs" not in done.stdout.split()

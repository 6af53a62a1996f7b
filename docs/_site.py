"""Pages that MkDocs makes from the code: the command line, configurations, tables.

They are generated at each build, so that no default, unit or column is written twice.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

REPOSITORY_LINK = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+((?:infinite_id|jobs|benchmarks|tests|eval|cluster|examples|integrations)/[^)]+)\)"
)
ATTRIBUTE = re.compile(r" {4}([a-z_]+(?:, [a-z_]+)*): (.*)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {
        "reference/command_line.md": command_line(),
        "reference/configuration.md": configuration(),
        "reference/tables.md": tables(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to a file of the repository, which is no part of the site, becomes its path."""
    return REPOSITORY_LINK.sub(r"\1 (`\2`)", markdown)


def command_line() -> str:
    """Every command with its options, as typer documents it."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "jobs.cli", "utils", "docs", "--name", "infinite-id"],
        capture_output=True,
        text=True,
        check=True,
    )
    return "# Command line\n\n" + done.stdout.replace("# `infinite-id`", "## `infinite-id`", 1)


def configuration() -> str:
    """Every configuration file's keys with type, default and meaning."""
    from pipelines.serving.config import ServiceConfig
    from pipelines.settings import BenchmarkConfig, Resources
    from pipelines.synthesis.config import SynthesisConfig
    from pipelines.training.config import TrainingConfig

    shown = [
        ("infinite-id benchmark --config", BenchmarkConfig),
        ("`resources:` of a run", Resources),
        ("infinite-id synthesize --config", SynthesisConfig),
        ("infinite-id train --config", TrainingConfig),
        ("infinite-id serve --config", ServiceConfig),
    ]
    parts = [
        "# Configuration",
        "Files are YAML. Unknown keys are refused. Options override a file.",
    ]
    for title, model in shown:
        parts += [f"## {title}", _model_table(model)]
    return "\n\n".join(parts)


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and its bases say of its attributes."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, section = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition(
            "Attributes:\n"
        )
        names: list[str] = []
        for line in section.splitlines():
            entry = ATTRIBUTE.fullmatch(line)
            if entry:
                names = entry[1].split(", ")
                found |= dict.fromkeys(names, entry[2])
            elif line.startswith(" " * 8):
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
            elif line.strip():
                break
    return found


def _model_table(model: type[BaseModel]) -> str:
    meanings = _meanings(model)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{_short(default)}`"
        kind = _type_name(field.annotation)
        rows.append(f"| `{name}` | {kind} | {shown} | {_cell(meanings.get(name, ''))} |")
    return "\n".join(rows)


def _short(value: Any) -> str:
    text = repr(value)
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    return _cell(text if len(text) < 60 else text[:57] + "...")


def _type_name(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    text = text or re.sub(r"typing\.|pipelines\.settings\.\w+\.", "", str(annotation))
    return f"`{text}`".replace("NoneType", "null").replace("None", "null").replace(" | ", " or ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def tables() -> str:
    """Columns of every table, with types and whether they may be null."""
    from pipelines.tables import schemas

    parts = ["# Tables and columns", "Plain Parquet types: any reader opens them."]
    for name, schema in _schemas(schemas):
        version = schemas.version_of(schema)
        parts += [f"## {name.lower()}", f"Version {version[1]}." if version else ""]
        parts += [_schema_table(schema)]
    return "\n\n".join(parts)


def _schemas(module: Any) -> Iterator[tuple[str, pa.Schema]]:
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, pa.Schema):
            yield name, value


def _schema_table(schema: pa.Schema) -> str:
    rows = ["| column | type | may be null |", "|---|---|---|"]
    rows += [
        f"| `{field.name}` | `{_cell(str(field.type))}` | {'yes' if field.nullable else 'no'} |"
        for field in schema
    ]
    return "\n".join(rows)

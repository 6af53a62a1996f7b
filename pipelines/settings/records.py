"""Records of settings that refuse unknown keys, and how they are read from YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from eval.places import shown

__all__ = ["Strict", "load_settings"]


class Strict(BaseModel):
    """A frozen record of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def record(self) -> dict[str, Any]:
        """The settings for a record that others may read: passwords in addresses are masked, of
        storage options the names are there alone."""
        return _masked(self.model_dump(mode="json"))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return shown(value) if isinstance(value, str) else value


Settings = TypeVar("Settings", bound=Strict)


def load_settings(kind: type[Settings], path: str | None = None, /, **overrides: Any) -> Settings:
    """The configuration of a YAML file with overrides on top; None overrides nothing.

    Args:
        kind: of configuration.
        path: of the file; None for overrides alone.
        overrides: by key.

    Raises:
        ValueError: one sentence with the file, the key, the value received and what is allowed.
    """
    values: dict[str, Any] = {}
    where = "the command line"
    if path is not None:
        where = path
        try:
            loaded = yaml.safe_load(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise ValueError(f"config file {path} does not exist") from None
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"config file {path} cannot be read: {reason}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ValueError(f"config file {path} is a {type(loaded).__name__}, allowed: a mapping")
        values = loaded or {}
    values.update({key: value for key, value in overrides.items() if value is not None})
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {_sentence(kind, error)}") from None
    except TypeError as error:
        raise ValueError(f"{where}: keys must be text ({error})") from None


def _sentence(kind: type[Strict], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        nested = kind.model_fields.get(str(first["loc"][0]))
        models = list(_models(nested.annotation)) if nested is not None else []
        allowed = ", ".join((models or [kind])[0].model_fields)
        return f"unknown key {key!r}, allowed: {allowed}"
    reason = first["msg"].removeprefix("Value error, ")
    # A rule over several keys names them itself, and its input is the whole record.
    if not key:
        return reason
    if key in ("storage_options", "vlm_key"):
        return reason  # its value may be a key or a password
    return f"{key} is {shown(repr(first['input']))}: {reason[0].lower()}{reason[1:]}"


def _models(annotation: Any) -> Iterator[type[Strict]]:
    """The settings records in a field's type, e.g. of list[Requirement]."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)

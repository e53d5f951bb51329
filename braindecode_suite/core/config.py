"""Configs hold data only: frozen pydantic models, read from YAML, changed by ``--set key=value``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from braindecode_suite.core.errors import InputError


class Config(BaseModel):
    """Numbers, strings, lists and nested configs; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoOptions(Config):
    """The options of a dataset that takes none."""


ConfigT = TypeVar("ConfigT", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; anything else in the file is an `InputError`."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(path, expected="a readable YAML file", found=" ".join(str(error).split())) from error
    if not isinstance(data, dict):
        raise InputError(path, expected="a YAML mapping", found=type(data).__name__)
    return data


def apply_settings(data: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return `data` with ``a.b=value`` settings applied; values are read as YAML.

    Examples
    --------
    >>> apply_settings({"train": {"epochs": 3}}, ["train.epochs=5", "seeds=[0, 1]"])
    {'train': {'epochs': 5}, 'seeds': [0, 1]}
    """
    result = _copy(data)
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise InputError("--set", expected="KEY=VALUE", found=repr(setting))
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise InputError("--set", expected=f"{parent!r} to hold further keys", found=repr(child))
            node = child
        node[last] = yaml.safe_load(value)
    return result


def _copy(data: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in data.items()}


def build(cls: type[ConfigT], data: dict[str, Any], where: str | Path = "config") -> ConfigT:
    """Make a config of class `cls`, turning pydantic's report into one line that names key and value.

    Raises
    ------
    InputError
        If a key is unknown, missing or of the wrong type.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top)"
        if first["type"] == "extra_forbidden":
            known = _keys(cls, first["loc"][:-1])
            close = get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.65)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(known)}" if known else ""
            if not close and "dataset_options" in known:
                hint += "; what a dataset takes goes under dataset_options, what a simulated study takes under simulation"
            raise InputError(where, expected="a known config key", found=f"{key!r}", hint=hint) from error
        raise InputError(
            where,
            expected=f"{key}: {first['msg'].removeprefix('Value error, ')}",
            found=repr(first.get("input")),
            hint=_way_out(first["type"], first.get("input")),
        ) from error


def _keys(cls: type[BaseModel], parents: Sequence[int | str]) -> list[str]:
    """Return the keys of the config that lies so deep in another, none where that is no config."""
    for part in parents:
        field = cls.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        cls = field.annotation
    return sorted(cls.model_fields)


def _way_out(kind: str, value: Any) -> str:
    """Return how to write in YAML what was meant."""
    if kind == "string_type" and value is None:
        return 'an empty text is ""'
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "YAML reads it as no text: quote it, '01'"
    if kind in ("tuple_type", "list_type") and not isinstance(value, dict):
        return f"a list is written [{value}]"
    return ""


def build_options(cls: type[ConfigT], options: Mapping[str, Any], dataset: str) -> ConfigT:
    """Make the options of a dataset; an unknown one is an error that lists those there are.

    Parameters
    ----------
    cls : type of Config
    options : mapping
        As the user wrote them under ``dataset_options``.
    dataset : str
        Its name, for the message.

    Raises
    ------
    InputError
        If an option is unknown or its value cannot be.
    """
    where = f"`dataset_options` of {dataset}"
    for name in options:
        if name not in cls.model_fields:
            close = get_close_matches(str(name), cls.model_fields, n=1)
            raise InputError(
                where,
                expected=f"one of {', '.join(sorted(cls.model_fields))}" if cls.model_fields else "none",
                found=repr(name),
                hint=f"did you mean {close[0]!r}?" if close else "",
            )
    return build(cls, dict(options), where)

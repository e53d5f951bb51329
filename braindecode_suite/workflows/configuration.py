"""From names, presets, files and ``--set`` to a workflow's config."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import apply_settings, build, read_yaml
from braindecode_suite.core.errors import InputError
from braindecode_suite.workflows.job import Workflow, WorkflowConfig


def presets(workflow: str) -> dict[str, Path]:
    """Return the presets of a workflow: the files ``configs/<workflow>_<preset>.yaml``.

    Examples
    --------
    >>> sorted(presets("mindeye"))
    ['kandinsky', 'paper', 'tiny']
    """
    folder = Path(str(resources.files("braindecode_suite.workflows"))) / "configs"
    stem = f"{workflow}_"
    return {path.stem.removeprefix(stem): path for path in sorted(folder.glob(f"{stem}*.yaml"))}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, mappings merged key by key.

    Examples
    --------
    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def load_config(
    workflow: type[Workflow], default_preset: str, file: Path | None = None, settings: Sequence[str] = ()
) -> WorkflowConfig:
    """Build the config: a preset, changed by a YAML file, changed by ``KEY=VALUE`` settings.

    Parameters
    ----------
    workflow : class
    default_preset : str
        Where neither `file` nor `settings` names another under ``preset``; empty for ``default``, or the first there is.
    file : Path, optional
    settings : sequence of str
    """
    changes = {} if file is None else read_yaml(file)
    set_only = apply_settings({}, settings)
    known = presets(workflow.name)
    first = "default" if "default" in known else next(iter(known))
    name = str(set_only.get("preset") or changes.get("preset") or default_preset or first)
    check_option("preset", name, known)
    start = {**read_yaml(known[name]), "preset": name}
    from_file = merge(start, changes)
    if file is not None:
        build(workflow.config_class, from_file, file)  # blame the file for its own mistakes
    return build(
        workflow.config_class, apply_settings(from_file, settings), "--set" if settings else known[name]
    )


def config_dict(config: WorkflowConfig) -> dict[str, Any]:
    """Return a config as plain JSON-like data."""
    data = config.model_dump(mode="json")
    if not isinstance(data, dict):
        raise InputError("config", expected="a mapping", found=type(data).__name__)
    return data

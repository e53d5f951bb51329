"""Names that a user types: datasets by name or folder, catalogue entries, and what ``list`` and ``describe`` print."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.protocols import Dataset
from braindecode_suite.core.registry import Registry
from braindecode_suite.datasets import DATASETS
from braindecode_suite.decoders import DECODERS, GENERATORS
from braindecode_suite.encoders import ENCODERS, IMAGE_ENCODERS, TARGETS
from braindecode_suite.workflows import WORKFLOWS
from braindecode_suite.workflows.configuration import presets

CATALOGUES: dict[str, Registry] = {
    "datasets": DATASETS,
    "targets": TARGETS,
    "encoders": ENCODERS,
    "image-encoders": IMAGE_ENCODERS,
    "decoders": DECODERS,
    "generators": GENERATORS,
    "workflows": WORKFLOWS,
}


def find_dataset(name: str, data_dir: Path | None) -> tuple[Dataset, Path | None]:
    """Return the dataset called `name`, or that reads the folder `name`, with the folder of its data.

    A folder with a ``trials.tsv`` is read as ``table``; one with a ``dataset_description.json`` (BIDS) as ``bids-meg`` where its
    participants have raw MEG or EEG and no BOLD, as ``bids-fmri`` otherwise. A folder with the names of THINGS-MEG is read as ``things-meg``.
    """
    if name in DATASETS:
        return DATASETS[name], data_dir
    folder = Path(name)
    if folder.is_dir():
        if (folder / "trials.tsv").is_file() or any(folder.glob("sub-*/trials.tsv")):
            return DATASETS["table"], data_dir or folder
        if DATASETS["things-meg"].subjects(folder):
            return DATASETS["things-meg"], data_dir or folder
        if (folder / "dataset_description.json").is_file():
            return DATASETS["bids-meg" if _has_only_sensors(folder) else "bids-fmri"], data_dir or folder
        raise InputError(
            folder,
            expected="a catalogue name, or a folder with a trials.tsv or a dataset_description.json",
            found="a folder without them",
            hint="see `bds describe table`, `bds describe bids-fmri` and `bds describe bids-meg`",
        )
    if "/" in name:
        raise InputError(
            folder,
            expected="a catalogue name, or a folder with a trials.tsv or a dataset_description.json",
            found="nothing there",
        )
    DATASETS.resolve(name)  # raises, with the nearest name
    raise UnknownName("dataset", expected="a catalogue name", found=repr(name))


def _has_only_sensors(folder: Path) -> bool:
    """Tell whether a BIDS folder holds raw MEG or EEG, and no BOLD of which betas could be made."""

    def there(*names: str) -> bool:
        return any(next(folder.glob(f"sub-*/{s}{name}"), None) for name in names for s in ("", "ses-*/"))

    return there("meg", "eeg") and not there("func") and not (folder / "derivatives" / "fmriprep").is_dir()


def list_catalogue(catalogue: str) -> str:
    """Return the entries of a catalogue, one a line."""
    registry = CATALOGUES[catalogue]
    width = max(map(len, registry), default=0)
    return "\n".join(f"{name:{width}}  {_summary(catalogue, name)}".rstrip() for name in registry)


def describe_entry(name: str) -> str:
    """Return what there is to know of a name, in every catalogue that has it: a card, or a docstring with its presets."""
    found = []
    for catalogue, registry in CATALOGUES.items():
        if name in registry:
            plain = registry.resolve(name)
            shown = (
                _card(registry[plain])
                if catalogue == "datasets"
                else _documentation(catalogue, plain, registry)
            )
            found.append(shown)
    if found:
        return "\n\n".join(found)
    every = sorted(entry for registry in CATALOGUES.values() for entry in registry)
    return Registry("name", dict.fromkeys(every, "")).resolve(name)  # raises, with the nearest name


def _summary(catalogue: str, name: str) -> str:
    entry = CATALOGUES[catalogue][name]
    if catalogue == "datasets":
        return f"{entry.card.title} ({entry.card.modality})"
    text = (inspect.getdoc(entry) or "").strip().splitlines()
    first = text[0] if text else ""
    return f"{first} Presets: {', '.join(presets(name))}." if catalogue == "workflows" else first


def _card(dataset: Dataset) -> str:
    card = dataset.card
    lines = [
        f"{card.name}: {card.title}",
        f"modality   {card.modality}",
        f"size       {card.size}",
        f"protocols  {', '.join(card.protocols)}",
        f"workflow   {card.workflow}, preset {card.preset}",
        f"options    {_options(dataset)}",
        f"terms      {card.terms}",
        *([f"mirror     OpenNeuro {card.openneuro}: `bds fetch {card.name}`"] if card.openneuro else []),
        *([f"source     {card.source}"] if card.source else []),
        f"citation   {card.citation}",
    ]
    if card.simulated:
        lines.append("simulated  results are model recovery, never performance")
    return "\n".join([*lines, "", "expected below --data-dir:", card.tree])


def _options(dataset: Dataset) -> str:
    """Return the dataset's options as ``--set dataset_options.NAME=VALUE`` takes them, with their defaults."""
    fields = dataset.options_class().model_dump(mode="json")
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in fields.items()) or "none"


def _documentation(catalogue: str, name: str, registry: Registry) -> str:
    entry: Any = registry[name]
    lines = [f"{name} ({registry.kind}, {registry.where(name)})", "", inspect.getdoc(entry) or ""]
    names = list(presets(name)) if catalogue == "workflows" else list(getattr(entry, "PRESETS", ()))
    if names:
        lines += ["", f"presets: {', '.join(names)}"]
    if catalogue == "workflows":
        for preset, path in presets(name).items():
            lines += ["", f"--- {preset}", path.read_text(encoding="utf-8").rstrip()]
    return "\n".join(lines)

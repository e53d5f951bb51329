"""The results folder (BIDS derivatives): what a workflow hands over, and how it is put into place whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd

from braindecode_suite import __version__
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside, write_json, write_text
from braindecode_suite.core.score import Score, write_scores
from braindecode_suite.core.sensors import SensorSpace, write_evokeds
from braindecode_suite.core.spaces import Space
from braindecode_suite.workflows.brain_maps import BrainMap, brain_facts, write_maps
from braindecode_suite.workflows.steps import write_arrays

DESCRIPTION = "dataset_description.json"
IGNORED = ("*.html", "desc-*_scores.tsv", "models/", "logs/", "work/", "sub-*/decoding/", ".*")
RETRIEVAL_COLUMNS = [
    "stimulus_id",
    "model",
    "seed",
    "scorer",
    "direction",
    "rank",
    "gallery",
    "top1",
    "top2",
    "top3",
    "top4",
    "top5",
]
IMAGE_COLUMNS = [
    "stimulus_id",
    "control",
    "stage",
    "model",
    "seed",
    "path",
    "pixcorr",
    "ssim",
    "identification",
    "source",
]
ROUTING_COLUMNS = ["model", "seed", "role", "query", "group", "region", "units", "weight", "spread", "change"]
PREDICTION_COLUMNS = ["example", "model", "fold", "run", "stimulus_id", "truth", "predicted"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultImage:
    """One image of the results: the truth, a reconstruction or a control of it.

    Attributes
    ----------
    stimulus_id : str
    control : str
        ``truth`` or one of `core.score.CONTROLS`.
    pixels : array of uint8 of shape (height, width, 3)
    stage : {'', 'low-level', 'final'}
    model, seed : str
        Empty where no model was involved.
    pixcorr, ssim, identification : float or None
        Scores of this image, where they apply.
    source : str
        Of ``nearest-train``: ``study`` or ``generator``.
    """

    stimulus_id: str
    control: str
    pixels: np.ndarray
    stage: str = ""
    model: str = ""
    seed: str = ""
    pixcorr: float | None = None
    ssim: float | None = None
    identification: float | None = None
    source: str = ""

    @property
    def file_name(self) -> str:
        """Name of the PNG: stimulus, control, then what tells it from others of the same."""
        parts = [safe_label(self.stimulus_id), self.control]
        parts += [part for part in (self.model, f"seed-{self.seed}" if self.seed else "") if part]
        return "_".join(parts) + ("_low-level" if self.stage == "low-level" else "") + ".png"


@dataclass(kw_only=True)
class SubjectResults:
    """Everything a workflow hands over for one subject.

    Attributes
    ----------
    scores : list of Score
    facts : dict
        JSON-like: everything textual that the report prints (study, splits, models, methods, notes, ...).
    latents, similarity : dict of str to array
        ``<model>_seed-<k>_<role>_predicted``, ``<role>_true``, ``ids``; ``<model>_seed-<k>_<scorer>``.
    retrieval : list of dict
        Rows of RETRIEVAL_COLUMNS.
    images : list of ResultImage
    predictions : list of dict
        Rows of PREDICTION_COLUMNS: the class of every tested example, true and predicted.
    history : list of dict
        One row a model, seed and epoch.
    routing : list of dict
        Rows of ROUTING_COLUMNS: how much each query of latents looks at each region, on average over test trials.
    maps : dict of str to BrainMap, or to array of shape (units,) or (maps, units)
        A value for every unit, by a BIDS label; written through `space` (`brain_maps.write_maps`).
    evoked : dict of str to array of shape (sensors, times), or (sensors,)
        Responses over the sensors of `space`, by name.
    space : Space or None
    models : dict of str to Path
        File name in the model folder to the file to copy there.
    live : Path or None
        Model folder that `bds stream` takes, copied beside the other.
    model_config : dict
        Content of the model folder's ``config.json``.
    model_card : str
        Content of its ``README.md``.
    """

    scores: list[Score] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    latents: dict[str, np.ndarray] = field(default_factory=dict)
    similarity: dict[str, np.ndarray] = field(default_factory=dict)
    retrieval: list[dict[str, Any]] = field(default_factory=list)
    images: list[ResultImage] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    routing: list[dict[str, Any]] = field(default_factory=list)
    maps: dict[str, BrainMap | np.ndarray] = field(default_factory=dict)
    evoked: dict[str, np.ndarray] = field(default_factory=dict)
    space: Space | None = None
    models: dict[str, Path] = field(default_factory=dict)
    live: Path | None = None
    model_config: dict[str, Any] = field(default_factory=dict)
    model_card: str = ""


def safe_label(text: str) -> str:
    """Return a stimulus id as a part of a file name: letters, digits, dots and hyphens."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in text)


def decoding_dir(output_dir: Path, subject: str) -> Path:
    """Return the folder of one subject's decoding results."""
    return output_dir / f"sub-{subject}" / "decoding"


def result_path(output_dir: Path, subject: str, label: str, suffix: str) -> Path:
    """Return the path of one result file, e.g. suffix ``scores.tsv``."""
    return decoding_dir(output_dir, subject) / f"sub-{subject}_desc-{label}_{suffix}"


def model_dir(output_dir: Path, subject: str, label: str) -> Path:
    """Return the folder of one subject's saved models."""
    return output_dir / "models" / f"sub-{subject}_desc-{label}"


def prepare_output(output_dir: Path, source: Mapping[str, Any] | None = None) -> None:
    """Make the results folder and its BIDS files; a folder that cannot be written is an `InputError`.

    Parameters
    ----------
    output_dir : Path
    source : mapping, optional
        The dataset that is decoded: ``Name`` and, where a name does not say whose recordings they are, ``Identity``: a hash by
        subject (see `core.protocols.FolderDataset`). By default what the folder says already.

    Raises
    ------
    InputError
        If the folder holds results of another dataset, or cannot be written.
    """
    before = read_source(output_dir)
    source = _merge_sources(output_dir, before, before if source is None else source)
    description = output_dir / DESCRIPTION
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / f".write-test-{uuid4().hex}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(
            output_dir, expected="a folder that can be written", found=error.strerror or str(error)
        ) from error
    content = {
        "Name": "Decoded images",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "braindecode_suite", "Version": __version__}],
        "SourceDatasets": [source] if source else [],
    }
    write_json(description, content)
    write_text(output_dir / ".bidsignore", "\n".join(IGNORED) + "\n")


def read_source(output_dir: Path) -> dict[str, Any]:
    """Return what a results folder says of the dataset that it was made of; empty where nothing is said."""
    path = output_dir / DESCRIPTION
    if not path.is_file():
        return {}
    try:
        sources = json.loads(path.read_text(encoding="utf-8")).get("SourceDatasets", [])
        return dict(sources[0]) if sources else {}
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        raise InputError(path, expected="a dataset description (JSON)", found=str(error)) from error


def _merge_sources(output_dir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the dataset; another one than before is an `InputError`.

    Of the subjects known before and now one must be the same: subjects may be added, one may have changed.
    """
    if not before:
        return dict(now)
    path, name = output_dir / DESCRIPTION, now.get("Name")
    if name != before.get("Name"):
        raise InputError(
            path,
            expected=f"results of {name}",
            found=f"results of {before.get('Name')}",
            hint="give each dataset an output folder of its own",
        )
    old, new = before.get("Identity", {}), now.get("Identity", {})
    common = sorted(old.keys() & new.keys())
    if old and new and not any(old[subject] == new[subject] for subject in common):
        raise InputError(
            path,
            expected=f"results of this folder of {name}",
            found=f"results of another one, whose sub-{common[0]} has other recordings"
            if common
            else f"results of another one, of sub-{', sub-'.join(sorted(old))}",
            hint="give each dataset an output folder of its own; if it was corrected since, delete this file",
        )
    identity = {**old, **new}
    return {**before, **now, **({"Identity": identity} if identity else {})}


def stage(results: SubjectResults, staging: Path, subject: str, label: str) -> None:
    """Write everything of one subject below `staging`, in the layout of the results folder."""
    base = decoding_dir(staging, subject)
    base.mkdir(parents=True, exist_ok=True)

    def path(suffix: str) -> Path:
        return result_path(staging, subject, label, suffix)

    write_scores(path("scores.tsv"), results.scores)
    _write_arrays(path("latents.npz"), results.latents)
    _write_arrays(path("similarity.npz"), results.similarity)
    _write_table(path("retrieval.tsv"), results.retrieval, RETRIEVAL_COLUMNS)
    if results.predictions:
        _write_table(path("predictions.tsv"), results.predictions, PREDICTION_COLUMNS)
    history_columns = list(
        dict.fromkeys(["model", "seed", "epoch", *(k for row in results.history for k in row)])
    )
    _write_table(path("history.tsv"), results.history, history_columns)
    if results.routing:
        _write_table(path("routing.tsv"), results.routing, ROUTING_COLUMNS)
    rows = [_write_image(base, label, image) for image in results.images]
    _write_table(path("images.tsv"), rows, IMAGE_COLUMNS)
    write_maps(results.space, results.maps, path)
    if results.evoked and isinstance(results.space, SensorSpace):
        write_evokeds(path("ave.fif"), results.space, results.evoked)
    if results.models:
        folder = model_dir(staging, subject, label)
        folder.mkdir(parents=True)
        for name, source in results.models.items():
            shutil.copyfile(source, folder / name)
        write_json(folder / "config.json", results.model_config)
        write_text(folder / "README.md", results.model_card)
    if results.live is not None:
        shutil.copytree(results.live, model_dir(staging, subject, f"{label}live"))
    brain = {"brain": brain_facts(results.space, results.maps)} if results.maps else {}
    write_json(path("facts.json"), {**results.facts, **brain})


def publish(staging: Path, output_dir: Path, subject: str, label: str) -> None:
    """Move a complete staging folder into place, replacing the earlier results of this subject and workflow only."""
    source, place = decoding_dir(staging, subject), decoding_dir(output_dir, subject)
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob(f"sub-{subject}_desc-{label}_*"):
        if not (source / old.name).exists():
            old.unlink()
    for new in source.glob(f"sub-{subject}_desc-{label}_*"):
        os.replace(new, place / new.name)
    _swap(source / "images" / f"desc-{label}", place / "images" / f"desc-{label}")
    for folder in (label, f"{label}live"):
        _swap(model_dir(staging, subject, folder), model_dir(output_dir, subject, folder))
    report = staging / f"sub-{subject}.html"
    if report.is_file():
        os.replace(report, output_dir / report.name)
    shutil.rmtree(staging)


def _swap(source: Path, place: Path) -> None:
    """Put the folder `source` where `place` was."""
    aside = place.with_name(f".{place.name}-{uuid4().hex}")
    if place.exists():
        os.replace(place, aside)
    if source.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, place)
    if aside.exists():
        shutil.rmtree(aside)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    plain = {name: np.asarray(a, np.str_) if a.dtype == object else a for name, a in arrays.items()}
    write_arrays(path, plain, compress=True)


def _write_table(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    with write_aside(path) as aside:
        pd.DataFrame(rows, columns=columns).to_csv(aside, sep="\t", index=False, float_format="%.6g")


def _write_image(base: Path, label: str, image: ResultImage) -> dict[str, Any]:
    from PIL import Image

    path = base / "images" / f"desc-{label}" / image.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise ValueError(f"two images are called {path.name}")
    pixels = image.pixels[..., 0] if image.pixels.shape[-1] == 1 else image.pixels
    Image.fromarray(pixels).save(path)
    row = {column: getattr(image, column, None) for column in IMAGE_COLUMNS}
    return {**row, "path": str(path.relative_to(base))}

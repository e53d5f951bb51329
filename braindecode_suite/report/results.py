"""Read a results folder back: what is there, what is missing and why. Nothing is computed here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import read_scores, scores_table
from braindecode_suite.report.stat_maps import StatMap, find_maps

TEXT_COLUMNS = [
    "stimulus_id",
    "model",
    "seed",
    "scorer",
    "direction",
    "control",
    "stage",
    "path",
    "source",
    "split",
    "role",
    "top1",
    "top2",
    "top3",
    "top4",
    "top5",
    "fold",
    "repeat",
    "gallery_of",
    "truth",
    "predicted",
    "run",
]


def desc_label(workflow: str) -> str:
    """Return the BIDS ``desc-`` label of a workflow: letters and digits only.

    Examples
    --------
    >>> desc_label("image-prior")
    'imageprior'
    """
    return re.sub(r"[^A-Za-z0-9]", "", workflow)


@dataclass(frozen=True, eq=False, kw_only=True)
class Results:
    """One subject's results of one workflow.

    Attributes
    ----------
    output_dir, folder : Path
        ``OUTPUT_DIR`` and ``OUTPUT_DIR/sub-XX/decoding``.
    subject, workflow : str
    scores : DataFrame
        The score table at all data and of whole epochs, empty if there is none.
    windows : DataFrame
        The rows of the table that are of windows of an epoch.
    first_minutes : DataFrame
        The rows of the table that were trained on the first minutes of the recording.
    facts : dict
        Everything textual; empty if there is none.
    retrieval, images, history, predictions, routing : DataFrame or None
        One row a query, an image file, an epoch, a classified example, a latent query and region.
    mask : Path or None
        NIfTI file.
    evoked : Path or None
        FIF file.
    maps : dict of str to StatMap
        Maps of the brain by their ``stat-`` label, in the order in which they were made.
    """

    output_dir: Path
    folder: Path
    subject: str
    workflow: str
    scores: pd.DataFrame
    facts: Mapping[str, Any]
    windows: pd.DataFrame = field(default_factory=lambda: scores_table([]))
    first_minutes: pd.DataFrame = field(default_factory=lambda: scores_table([]))
    retrieval: pd.DataFrame | None = None
    images: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    predictions: pd.DataFrame | None = None
    routing: pd.DataFrame | None = None
    mask: Path | None = None
    evoked: Path | None = None
    maps: Mapping[str, StatMap] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """Every row of the score table, those of windows and of the first minutes last."""
        parts = [part for part in (self.scores, self.windows, self.first_minutes) if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else self.scores

    @property
    def study(self) -> Mapping[str, Any]:
        """The facts about the recordings."""
        return mapping(self.facts.get("study"))

    @property
    def dataset(self) -> Mapping[str, Any]:
        """The dataset's card."""
        return mapping(self.facts.get("dataset"))

    @property
    def simulated(self) -> bool:
        """Whether the results are model recovery and never performance."""
        return bool(self.facts.get("simulated", self.dataset.get("simulated", False)))

    @property
    def models(self) -> list[str]:
        """Names of the models, the deep one first and the linear baseline last; controls in brackets are left out."""
        listed = [str(mapping(model).get("name", "")) for model in sequence(self.facts.get("models"))]
        scored = [str(name) for name in self.scores["model"] if name]
        names = list(dict.fromkeys(name for name in [*listed, *scored] if name and "(" not in name))
        return sorted(names, key=is_baseline)

    @property
    def primary(self) -> str:
        """The model that the summary is about."""
        return self.models[0] if self.models else ""

    @property
    def baseline(self) -> str:
        """The linear baseline, or an empty string."""
        return next((name for name in self.models if is_baseline(name) and name != self.primary), "")

    @property
    def protocol(self) -> str:
        """The split protocol of the headline: the first one listed."""
        return next(
            (str(mapping(split).get("protocol", "")) for split in sequence(self.facts.get("splits"))), ""
        )

    def reason(self, *words: str) -> str:
        """Return why something is missing: the detail of the skipped or failed step that the first of `words` names, or the next."""
        missed = [
            step
            for step in map(mapping, sequence(self.facts.get("steps")))
            if step.get("status") in ("skipped", "failed")
        ]
        for word in words:
            for step in missed:
                if word in str(step.get("name", "")).lower():
                    detail = str(step.get("detail", "")).strip().rstrip(".")
                    return f"step '{step.get('name')}' {step['status']}" + (f": {detail}." if detail else ".")
        return ""


def is_baseline(name: str) -> bool:
    """Say whether a model is the linear baseline that stands beside the deep one."""
    return name.lower().startswith(("ridge", "linear", "baseline"))


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """Return `value` as a list: itself, one item, or empty."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return value
    return [value]


def read_results(output_dir: Path, subject: str, workflow: str) -> Results:
    """Read one subject's results; parts that were not written are left out.

    Parameters
    ----------
    output_dir : Path
    subject : str
        Label without ``sub-``.
    workflow : str

    Returns
    -------
    Results

    Raises
    ------
    InputError
        If there is nothing at all, or a file cannot be read.
    """
    folder = Path(output_dir) / f"sub-{subject}" / "decoding"
    stem = f"sub-{subject}_desc-{desc_label(workflow)}"
    scores_path, facts_path = folder / f"{stem}_scores.tsv", folder / f"{stem}_facts.json"
    if not scores_path.is_file() and not facts_path.is_file():
        raise InputError(
            folder,
            expected=f"{scores_path.name} or {facts_path.name}",
            found="neither",
            hint="run the participant level first",
        )
    mask, evoked = folder / f"{stem}_mask.nii.gz", folder / f"{stem}_ave.fif"
    facts = read_json(facts_path) if facts_path.is_file() else {}
    table = read_scores(scores_path) if scores_path.is_file() else scores_table([])
    part, window = table["minutes"].notna(), table["time_start"].notna()
    return Results(
        output_dir=Path(output_dir),
        folder=folder,
        subject=subject,
        workflow=workflow,
        scores=table[~part & ~window].reset_index(drop=True),
        windows=table[~part & window].reset_index(drop=True),
        first_minutes=table[part].reset_index(drop=True),
        facts=facts,
        retrieval=read_table(folder / f"{stem}_retrieval.tsv", ("stimulus_id", "rank", "gallery")),
        images=read_table(folder / f"{stem}_images.tsv", ("stimulus_id", "control", "path")),
        history=read_table(folder / f"{stem}_history.tsv", ("epoch",)),
        predictions=read_table(folder / f"{stem}_predictions.tsv", ("model", "truth", "predicted")),
        routing=read_table(folder / f"{stem}_routing.tsv", ("role", "group", "region", "weight")),
        mask=mask if mask.is_file() else None,
        evoked=evoked if evoked.is_file() else None,
        maps=find_maps(folder, stem, read_json, list(mapping(mapping(facts.get("brain")).get("maps")))),
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(path, expected="JSON", found=str(error)) from error
    if not isinstance(found, dict):
        raise InputError(path, expected="a JSON object", found=type(found).__name__)
    return found


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame | None:
    """Read a table with ids and names as text, empty cells as ''; None where there is no file or no row."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    try:
        table = pd.read_csv(
            path, sep="\t", dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""]
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(path, expected="a table with tabs", found=str(error)) from error
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise InputError(path, expected=f"columns {', '.join(required)}", found=f"no {', '.join(missing)}")
    text = [column for column in table.columns if column in TEXT_COLUMNS]
    table[text] = table[text].fillna("")
    return table if len(table) else None


def subjects_of(output_dir: Path, workflow: str) -> tuple[list[str], list[str]]:
    """Return the labels of the subjects with results of this workflow, and of those with a folder but none."""
    label = desc_label(workflow)
    done: list[str] = []
    missing: list[str] = []
    for folder in sorted(Path(output_dir).glob("sub-*")):
        if not folder.is_dir():
            continue
        subject = folder.name.removeprefix("sub-")
        files = [
            folder / "decoding" / f"{folder.name}_desc-{label}_{kind}"
            for kind in ("scores.tsv", "facts.json")
        ]
        (done if any(file.is_file() for file in files) else missing).append(subject)
    return done, missing

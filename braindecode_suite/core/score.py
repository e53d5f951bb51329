"""`Score`: one row of the score table. No bare float reaches a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside

LEVELS = ("single", "mean-signal", "mean-prediction", "mean-prediction-across-subjects")
CONTROLS = (
    "brain",
    "shuffled-test",
    "shuffled-train",
    "null-condition",
    "category-only",
    "nearest-train",
    "true-latent",
    "shuffled-within-class",
    "mean-image",
    "flat-grey",
    "blurred-truth",
    "true-image",
    "motion",
    "reaction-time",
    "eye",
    "reference",
)
FIRST_FIVE = ("shuffled-test", "shuffled-train", "null-condition", "category-only", "nearest-train")
CANDIDATES = ("all", "matched", "within-class", "no-near-duplicates")
STAGES = ("", "low-level", "final")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number with everything needed to trust it; empty (None or '') where a column does not apply.

    Attributes
    ----------
    metric, value : str, float
        Names of DESIGN.md.
    ci_low, ci_high, ci_over : float, float, str
        95 % interval and the unit it was resampled over (image, concept, run, subject).
    chance, p_value, p_correction, ceiling : float, float, str, float
    n, n_repeats, n_subjects, gallery : int
        Scored units; repeats averaged (mean, rounded); subjects; gallery size of a retrieval.
    candidates, level, stage, control : str
    versus : str
        The model or control subtracted; empty for a plain score.
    scorer, model, target, seed, split : str
    minutes : float
        Recording that training and validation rows come from (`core.minutes`); empty for all data.
    """

    subject: str
    metric: str
    value: float
    roi: str = ""
    time_start: float | None = None
    time_stop: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    ci_over: str = ""
    chance: float | None = None
    p_value: float | None = None
    p_correction: str = ""
    ceiling: float | None = None
    n: int | None = None
    n_repeats: float | None = None
    n_subjects: int | None = None
    gallery: int | None = None
    candidates: str = ""
    level: str = ""
    stage: str = ""
    control: str = "brain"
    versus: str = ""
    scorer: str = ""
    model: str = ""
    target: str = ""
    seed: str = ""
    split: str = ""
    minutes: float | None = None

    def __post_init__(self) -> None:
        check_option("control", self.control, CONTROLS)
        check_option("stage", self.stage, STAGES)
        if self.candidates:
            check_option("candidates", self.candidates, CANDIDATES)
        if self.level:
            check_option("level", self.level, LEVELS)


COLUMNS: Sequence[str] = [
    "subject",
    "roi",
    "time_start",
    "time_stop",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "ci_over",
    "chance",
    "p_value",
    "p_correction",
    "ceiling",
    "n",
    "n_repeats",
    "n_subjects",
    "gallery",
    "candidates",
    "level",
    "stage",
    "control",
    "versus",
    "scorer",
    "model",
    "target",
    "seed",
    "split",
    "minutes",
]
assert set(COLUMNS) == {field.name for field in fields(Score)}
OUTCOME: Sequence[str] = [
    "value",
    "ci_low",
    "ci_high",
    "ci_over",
    "chance",
    "p_value",
    "p_correction",
    "ceiling",
    "n",
    "n_repeats",
    "n_subjects",
]
IDENTITY: Sequence[str] = [column for column in COLUMNS if column not in OUTCOME]
"""Columns that say which score a row is; the others say how it came out."""


def scores_table(scores: Iterable[Score]) -> pd.DataFrame:
    """Return scores as a table with the columns of DESIGN.md, in their order."""
    return pd.DataFrame(
        [{column: getattr(score, column) for column in COLUMNS} for score in scores], columns=list(COLUMNS)
    )


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write a score table as TSV, whole or not at all."""
    with write_aside(path) as aside:
        scores_table(scores).to_csv(aside, sep="\t", index=False, float_format="%.6g")


def read_scores(path: Path) -> pd.DataFrame:
    """Read a score table; text columns keep their leading zeros, empty cells become NaN or ''.

    Raises
    ------
    InputError
        If a column is missing.
    """
    text = {name: str for name in COLUMNS if Score.__dataclass_fields__[name].type == "str"}
    table = pd.read_csv(path, sep="\t", dtype=text)
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(
            path, expected=f"the score columns {', '.join(COLUMNS)}", found=f"no {', '.join(missing)}"
        )
    return table.fillna(dict.fromkeys(text, ""))

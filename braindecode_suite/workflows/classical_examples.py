"""A study as examples to classify: labels, runs and what was averaged; and its nuisance columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study

NUISANCE: Mapping[str, tuple[str, ...]] = {
    "motion": (
        "trans_x",
        "trans_y",
        "trans_z",
        "rot_x",
        "rot_y",
        "rot_z",
        "framewise_displacement",
    ),
    "reaction-time": ("reaction_time", "response_time", "rt"),
    "eye": ("pupil_size", "gaze_x", "gaze_y", "eye_x", "eye_y"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What is classified: rows of the study, one by one or averaged.

    Attributes
    ----------
    rows : tuple of int arrays
        Rows of the study behind each example.
    labels : object array of str of shape (examples,)
    run, session, stimulus : array of str of shape (examples,)
    averaged : str
        Column whose stretches were averaged; empty for single trials.
    """

    rows: tuple[np.ndarray, ...]
    labels: np.ndarray
    run: np.ndarray
    session: np.ndarray
    stimulus: np.ndarray
    averaged: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> list[str]:
        """The labels, in order."""
        return sorted(set(self.labels))

    @property
    def repeated_conditions(self) -> bool:
        """Whether the label is all that is known of the stimulus, so that stimuli cannot be told apart within a class."""
        return all(len(set(self.stimulus[self.labels == label])) == 1 for label in self.classes)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of the rows of each example.

        Parameters
        ----------
        values : array of shape (trials, columns)
            All rows of the study.

        Returns
        -------
        array of float64 of shape (examples, columns)
        """
        return np.stack([values[rows].mean(axis=0, dtype=np.float64) for rows in self.rows])

    def inside(self, parts: Sequence[np.ndarray], name: str) -> np.ndarray:
        """Return the examples whose rows all lie in some rows of a split.

        Raises
        ------
        InputError
            If an example has rows on both sides.
        """
        member = np.zeros(1 + max(int(rows.max()) for rows in self.rows), bool)
        for part in parts:
            member[part[part < len(member)]] = True
        share = np.array([member[rows].mean() for rows in self.rows])
        if ((share > 0) & (share < 1)).any():
            raise InputError(
                f"protocol {name!r}",
                expected=f"every stretch of one {self.averaged} on one side of the split",
                found="rows of one on both sides",
                hint="average nothing, or split by run",
            )
        return np.flatnonzero(share == 1)


def make_examples(study: Study, label: str, ignore: Sequence[str], average: str | None) -> Examples:
    """Return the examples of a study.

    Parameters
    ----------
    study : Study
    label : str
        Column of the trials, or of the stimuli's attributes, to decode.
    ignore : sequence of str
        Labels that are no class, such as rest.
    average : str or None
        Column whose stretches of one label within a run are averaged; empty for none; None for ``block`` where there is one.
    """
    trials = study.trials
    labels = _labels(study, label)
    if average is None:
        average = "block" if "block" in trials.columns else ""
    if average and average not in trials.columns:
        raise InputError(
            "`average`",
            expected=f"a column of the trials: {', '.join(map(str, trials.columns))}",
            found=average,
        )
    keys = [trials["session"].astype(str), trials["run"].astype(str), labels]
    keys.append(trials[average].astype(str) if average else np.arange(len(trials)).astype(str))
    found: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(zip(*keys, strict=True)):
        if key[2] and key[2] not in ignore:
            found.setdefault(tuple(map(str, key)), []).append(row)
    if len({key[2] for key in found}) < 2:
        raise InputError(
            f"column {label!r}",
            expected="at least two classes",
            found=", ".join(sorted({key[2] for key in found})) or "none",
        )
    rows = tuple(np.array(rows) for rows in found.values())
    return Examples(
        rows=rows,
        labels=np.array([key[2] for key in found], dtype=object),
        run=np.array([f"{key[0]}/{key[1]}" for key in found]),
        session=np.array([key[0] for key in found]),
        stimulus=np.array([str(study.stimulus_ids[r[0]]) for r in rows]),
        averaged=average,
    )


def nuisance_columns(study: Study, wanted: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """Return the recorded columns of each nuisance (motion, reaction time, eye); those that were not recorded are left out."""
    columns = set(study.trials.columns)
    found = {}
    for name, names in (NUISANCE if wanted is None else wanted).items():
        present = [column for column in names if column in columns and study.trials[column].notna().any()]
        if present:
            found[name] = present
    return found


def grouping(examples: Examples, split: Split) -> np.ndarray:
    """Return what is left out together inside the training part: what the protocol keeps apart outside."""
    if "run" in split.disjoint:
        return examples.run
    if "session" in split.disjoint:
        return examples.session
    return examples.stimulus


def _labels(study: Study, label: str) -> np.ndarray:
    if label in study.trials.columns:
        column = study.trials[label]
    elif (
        study.stimuli is not None
        and study.stimuli.attributes is not None
        and label in study.stimuli.attributes
    ):
        column = study.stimuli.attributes[label].reindex(list(study.stimulus_ids))
    else:
        raise InputError(
            "`label`",
            expected=f"a column of the trials ({', '.join(map(str, study.trials.columns))}) or of the stimuli's attributes",
            found=repr(label),
        )
    return np.asarray(column.fillna("").astype(str).to_numpy(dtype=object))

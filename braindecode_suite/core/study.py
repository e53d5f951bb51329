"""`Study`: one subject's recordings with their stimuli. `Cohort`: rows of several studies, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.noise import noise_ceiling
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.signal import SignalRecipe
from braindecode_suite.core.spaces import Space

TRIAL_COLUMNS = ("stimulus_id", "session", "run", "repeat", "onset")


@runtime_checkable
class Responses(Protocol):
    """Rows on disk or in memory: ``shape``, ``dtype`` and reading of rows by index array or slice."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray: ...


@runtime_checkable
class TunableResponses(Responses, Protocol):
    """Responses with a choice left open that only training rows may make (the haemodynamic response of each voxel)."""

    def tuned(self, trials: pd.DataFrame, train_rows: np.ndarray) -> Responses:
        """Return the same rows with the choice made on `train_rows` only."""
        ...


@runtime_checkable
class Stimuli(Protocol):
    """What was shown, by the dataset's own ids (always ``str``; NSD: the 0-based 73k id).

    ``attributes`` is a table indexed by stimulus id with what is known of each (``category``, ``place``, ``x``, ...), or
    None. ``fingerprint`` names the image files, for cache keys.
    """

    ids: Sequence[str]
    attributes: pd.DataFrame | None
    fingerprint: str

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Return uint8 images of shape (len(ids), height, width, 3)."""
        ...

    def captions(self, stimulus_id: str) -> list[str]:
        """Return the captions of one stimulus, an empty list where there are none."""
        ...

    def distractors(self, stimulus_id: str) -> np.ndarray | None:
        """Return images of shape (n, height, width, 3) matched to one stimulus (same category and place), or None."""
        ...


@runtime_checkable
class DescribedStimuli(Stimuli, Protocol):
    """Stimuli that come with feature vectors of their own; there need be no images, and then `images` is an `InputError`.

    ``vectors`` has an array of shape (ids, features) for each name, in the order of ``ids``.
    """

    vectors: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Noise:
    """Signal-to-noise per unit.

    Attributes
    ----------
    ncsnr : array of shape (units,)
        Standard deviation of the signal over that of the noise, as released (NSD rectifies it at 0).
    source : str
        Where it comes from, and on which trials it was estimated.
    """

    ncsnr: np.ndarray
    source: str

    def ceiling(self, n_repeats: np.ndarray) -> np.ndarray:
        """Return the noise ceiling (share of variance, 0 to 1) per unit: ncsnr^2 / (ncsnr^2 + mean(1 / n)).

        Parameters
        ----------
        n_repeats : array of shape (images,)
            Repeats averaged for each scored image.
        """
        return noise_ceiling(self.ncsnr, n_repeats)


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """One subject: responses, the trials they belong to, the stimuli, the space and what is known of the noise.

    Attributes
    ----------
    dataset, subject : str
        Catalogue name; label without ``sub-``.
    responses : Responses of shape (trials, units), (trials, units, times), or (trials, units) with `lengths` where ragged
        As the dataset releases them, in `unit`; preprocessing is a `Recipe`, see `prepared`.
    trials : DataFrame
        One row a response, in the same order: stimulus_id (str), session, run, repeat (from 1), onset (seconds within the
        run, NaN where unknown), and more; optional `run_seconds`, how long the recording of the row's run lasted.
    stimuli : Stimuli or None
        None for unlabelled recordings.
    space : Space
    unit : str
        Unit of the responses: ``percent signal change``, ``z-score``, ...
    noise : Noise or None
    valid : array of bool of shape (units,) or None
        Units that carry a signal at all (not constant, not empty); None means all. Of all units of the space, whatever a
        recipe keeps.
    recipe : Recipe or None
        Fitted preprocessing applied when rows are read; None means as released.
    signal : SignalRecipe or None
        What the continuous recordings went through before the responses were cut from them; None where that is not known.
    provenance : dict
        Files, versions, terms of use, and ``warnings`` (list of str) for the report. Never read by models.
    """

    dataset: str
    subject: str
    responses: Responses
    trials: pd.DataFrame
    stimuli: Stimuli | None
    space: Space
    unit: str
    noise: Noise | None = None
    valid: np.ndarray | None = None
    recipe: Recipe | None = None
    signal: SignalRecipe | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [column for column in TRIAL_COLUMNS if column not in self.trials.columns]
        if missing:
            raise InputError(
                "`trials`", expected=f"columns {', '.join(TRIAL_COLUMNS)}", found=f"no {', '.join(missing)}"
            )
        if len(self.trials) != len(self.responses):
            raise InputError(
                "`trials`",
                expected=f"{len(self.responses)} rows, one a response",
                found=str(len(self.trials)),
            )

    @property
    def n_units(self) -> int:
        """Number of units (voxels, channels) of a response as released; see `kept` for those that `read` gives."""
        return int(self.responses.shape[1])

    @property
    def kept(self) -> np.ndarray:
        """Units that `read` gives, array of bool of shape (units,): all, unless the recipe keeps some."""
        keep = None if self.recipe is None else self.recipe.keep
        return np.ones(self.n_units, bool) if keep is None else keep

    def in_space(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Return a value for every unit of the space from one for each that `read` gives; others are `fill`.

        Parameters
        ----------
        values : array of shape (kept units,) or (maps, kept units)
        fill : float

        Returns
        -------
        array of float32 of shape (units,) or (maps, units)
        """
        check_shape(
            "values", values[None] if values.ndim == 1 else values, "maps units", units=self.kept.sum()
        )
        whole = np.full((*values.shape[:-1], self.n_units), fill, np.float32)
        whole[..., self.kept] = values
        return whole

    @property
    def stimulus_ids(self) -> np.ndarray:
        """Stimulus id of every trial, an object array of str of shape (trials,)."""
        return self.trials["stimulus_id"].to_numpy(dtype=object)

    def read(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return responses of `rows`, preprocessed by the recipe if there is one.

        Returns
        -------
        array of float32 of shape (rows, units), or (rows, units, times)
            Rows of differing length come as an object array of arrays (units, times); no recipe takes those.
        """
        values = self.responses[rows]
        if values.dtype == object:
            if self.recipe is not None:
                raise InputError(
                    f"{self.dataset} sub-{self.subject}",
                    expected="rows of one length, to be preprocessed by a recipe",
                    found="rows of differing length",
                )
            return values
        values = np.asarray(values, dtype=np.float32)
        if self.recipe is None:
            return values
        return self.recipe.apply(values, self.trials.iloc[rows])

    def prepared(self, recipe: Recipe, train_rows: np.ndarray) -> Study:
        """Return the same study, read through `recipe` fitted on `train_rows` only.

        Responses that are tunable are tuned first, on the same rows.
        """
        responses = self.responses
        if isinstance(responses, TunableResponses):
            responses = responses.tuned(self.trials, train_rows)
        return replace(self, responses=responses, recipe=recipe.fit(responses, self.trials, train_rows))


@dataclass(frozen=True, eq=False)
class Cohort:
    """Rows of several studies that share one stimulus namespace; fitting is always on a cohort, also of one.

    Attributes
    ----------
    studies : tuple of Study
    rows : tuple of int arrays
        Rows of each study, in the order in which predictions will be returned.
    """

    studies: tuple[Study, ...]
    rows: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        if len(self.studies) != len(self.rows) or not self.studies:
            raise InputError(
                "`rows`",
                expected="one array of rows a study",
                found=f"{len(self.rows)} for {len(self.studies)}",
            )

    @classmethod
    def of(cls, study: Study, rows: np.ndarray | None = None) -> Cohort:
        """Return the cohort of one study, with all its rows by default."""
        return cls((study,), (np.arange(len(study.trials)) if rows is None else np.asarray(rows),))

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows)

    def __iter__(self) -> Iterator[tuple[Study, np.ndarray]]:
        return iter(zip(self.studies, self.rows, strict=True))

    @property
    def subjects(self) -> list[str]:
        """Labels of the subjects, in order."""
        return [study.subject for study in self.studies]

    @property
    def stimulus_ids(self) -> np.ndarray:
        """Stimulus id of every row, over all studies in order: object array of str of shape (rows,)."""
        return np.concatenate([study.stimulus_ids[rows] for study, rows in self])

    @property
    def stimuli(self) -> Stimuli:
        """The stimuli all studies share."""
        stimuli = self.studies[0].stimuli
        if stimuli is None:
            raise InputError(f"subject {self.subjects[0]}", expected="stimuli", found="unlabelled recordings")
        return stimuli

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint must match: dataset, subjects and their spaces."""
        return {
            "dataset": self.studies[0].dataset,
            "subjects": self.subjects,
            "spaces": [study.space.describe() for study in self.studies],
        }

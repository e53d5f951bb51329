"""Vectors of stimuli to responses: how well regions are predicted, and which set of vectors explains what.

For a study whose stimuli come with feature vectors (`DescribedStimuli`), with or without images. All vectors together enter a
banded ridge, each set alone a ridge; every stimulus is predicted by models that never saw it, and everything is refitted on
relabelled stimuli. Leave-one-out with responses centred once stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import factorial
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat

from braindecode_suite.core.checks import check_finite, check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import Score
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import DescribedStimuli, Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.learning.leave_one_out import leave_one_out_hat
from braindecode_suite.metrics.bootstrap import bootstrap_mean
from braindecode_suite.metrics.encoding import encoding_r, encoding_r2_split, resampled_r2_split
from braindecode_suite.metrics.encoding_resampling import draw_weights, resampled_r, swapped_r
from braindecode_suite.metrics.identification import two_way_identification
from braindecode_suite.metrics.permutation import (
    MIN_REFITS,
    PermutationTest,
    false_discovery_rate,
    permutation_p,
)
from braindecode_suite.workflows.encode_vectors_fitting import (
    ALPHAS,
    OutOfFold,
    out_of_fold,
    out_of_fold_relabelled,
)
from braindecode_suite.workflows.facts import study_facts
from braindecode_suite.workflows.fitting import study_identity
from braindecode_suite.workflows.job import Job, Permutations, Resamples, WorkflowConfig
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.steps import Arrays, Steps

BANDED = "banded-ridge"
MEAN = "mean over units"
ALL_UNITS = ""
CORRECTION = "fdr-bh over rois"
AT_ONCE = 25
Refits = Annotated[int, Field(ge=MIN_REFITS)]


class EncodeVectorsConfig(WorkflowConfig):
    """Config of the workflow.

    Attributes
    ----------
    features : tuple of str
        Sets of vectors, by default all that the stimuli have; the first one is that of leave-one-out.
    rois : tuple of str
        Regions, by default all.
    leave_one_out : str
        Protocol that is scored beside, with responses centred once over all rows; empty for none.
    leave_one_out_penalty : float
        In units of the mean eigenvalue of the Gram matrix. One for all units and folds: nothing is chosen.
    n_folds : int
        Of the cross-validation inside each training part.
    n_gammas : int
        Weightings of the sets of vectors that are tried.
    n_refits : int
        Relabellings with all folds, penalties and weights refitted.
    n_permutations : int
        Relabellings of leave-one-out, refitted too, and exchanges of two models' predictions.
    n_bootstrap : int
    """

    features: tuple[str, ...] = ()
    rois: tuple[str, ...] = ()
    leave_one_out: str = "loo-centred"
    leave_one_out_penalty: PositiveFloat = 1e-3
    n_folds: Annotated[int, Field(ge=2)] = 5
    n_gammas: Annotated[int, Field(ge=2)] = 10
    n_refits: Refits = MIN_REFITS
    n_permutations: Permutations = 1000
    n_bootstrap: Resamples = 2000


@dataclass(frozen=True, eq=False, kw_only=True)
class _Room:
    """What all models of one subject share."""

    study: Study
    vectors: Mapping[str, np.ndarray]
    truth: np.ndarray
    sets: Mapping[str, np.ndarray]

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return means over the units of each set: (..., units) to (..., sets)."""
        return np.stack([values[..., member].mean(axis=-1) for member in self.sets.values()], axis=-1)

    def identified(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return, for each set and measured pattern, the share of other stimuli's predictions that are less like it."""
        return np.stack([two_way_identification(predicted[:, m], truth[:, m]) for m in self.sets.values()])


@dataclass(frozen=True, eq=False, kw_only=True)
class _Null:
    """Scores of relabelled stimuli, each of shape (relabellings, sets); `shares` has a band before."""

    r: np.ndarray
    identified: np.ndarray
    shares: np.ndarray


class EncodeVectorsWorkflow:
    """Banded ridge from vectors of stimuli to responses, region by region, with relabelled refits and leave-one-out beside."""

    name: ClassVar[str] = "encode-vectors"
    label: ClassVar[str] = "encodevectors"
    config_class: ClassVar[type[WorkflowConfig]] = EncodeVectorsConfig

    def __init__(self, config: EncodeVectorsConfig, job: Job) -> None:
        self.config, self.job = config, job
        for name in (self.protocol, *([config.leave_one_out] if config.leave_one_out else [])):
            PROTOCOLS.resolve(name)

    @property
    def protocol(self) -> str:
        """Name of the headline's protocol."""
        return self.config.protocol or self.job.dataset.card.protocols[0]

    def plan(self) -> Sequence[str]:
        """Return the names of the steps."""
        names = ["open the study", "fit each set of vectors and all", "relabel and refit", "score"]
        return [*names, *([self.config.leave_one_out] if self.config.leave_one_out else [])]

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        with steps.block("open the study"):
            room = self._open()
            splits = self._split(room.study, self.protocol)
        results = SubjectResults(space=room.study.space)
        names = list(room.vectors)
        models: dict[str, tuple[str, ...]] = {f"ridge-{name}": (name,) for name in names}
        if len(names) > 1:
            models = {BANDED: tuple(names), **models}
        fitted = {name: self._fit(steps, room, splits, name, some) for name, some in models.items()}
        nulls = {name: self._relabel(steps, room, splits, name, some) for name, some in models.items()}
        with steps.block("score"):
            for name, some in models.items():
                results.scores += self._rows(room, name, some, fitted[name], nulls[name])
                results.latents[f"{name}_predicted"] = fitted[name].predicted
            results.scores += self._differences(room, fitted, models)
            results.scores += self._shares(room, fitted, nulls, models)
        splits_shown = [split.card() for split in splits]
        if self.config.leave_one_out:
            rows, card = self._leave_one_out(steps, room, results)
            results.scores += rows
            splits_shown.append(card)
        results.latents |= {"truth": room.truth, "ids": room.study.stimulus_ids.astype(str)}
        results.facts = self._facts(room, splits, splits_shown, models)
        return results

    def _open(self) -> _Room:
        job, config = self.job, self.config
        study = job.dataset.open(job.data_dir, job.subject, job.work_dir, **config.dataset_options)
        where = f"{study.dataset} sub-{study.subject}"
        if not isinstance(study.stimuli, DescribedStimuli):
            raise InputError(
                where,
                expected="stimuli that come with feature vectors",
                found="images" if study.stimuli is not None else "no stimuli",
                hint="encoding models of images are another workflow",
            )
        if len(study.responses.shape) != 2:
            raise InputError(
                where, expected="responses of shape (trials, units)", found=str(study.responses.shape)
            )
        if study.trials["stimulus_id"].duplicated().any():
            raise InputError(where, expected="one response to each stimulus", found="repeats")
        for name in config.features:
            check_option("features", name, study.stimuli.vectors)
        for name in config.rois:
            check_option("rois", name, study.space.rois)
        at = {stimulus: k for k, stimulus in enumerate(study.stimuli.ids)}
        order = [at[stimulus] for stimulus in study.stimulus_ids]
        vectors = {
            name: np.asarray(study.stimuli.vectors[name])[order]
            for name in config.features or study.stimuli.vectors
        }
        truth = study.read(slice(None))
        for name, rows in {"responses": truth, **vectors}.items():
            check_finite(f"{where}: {name}", rows)
        chosen = config.rois or tuple(study.space.rois)
        varies = np.ptp(truth, axis=0) > 0
        sets = {ALL_UNITS: varies} | {name: study.space.rois[name] & varies for name in chosen}
        return _Room(
            study=study,
            vectors=vectors,
            truth=truth,
            sets={name: member for name, member in sets.items() if member.any()},
        )

    def _split(self, study: Study, protocol: str) -> list[Split]:
        splits = PROTOCOLS[protocol]([study], seed=self.job.seed)
        tested = np.concatenate([split.test[0] for split in splits])
        if not np.array_equal(np.sort(tested), np.arange(len(study.trials))) or any(
            "stimulus" not in split.disjoint for split in splits
        ):
            raise InputError(
                f"protocol {protocol!r}",
                expected="splits by stimulus that test each row once",
                found=f"{len(splits)} splits that test {len(tested)} of {len(study.trials)} rows",
                hint="9-fold-by-category",
            )
        for split in splits:
            split.check_training_size()
        return splits

    # ------------------------------------------------------------------------------------------- fits and their null

    def _settings(self) -> dict[str, int]:
        return {"n_folds": self.config.n_folds, "n_gammas": self.config.n_gammas, "seed": self.job.seed}

    def _key(self, room: _Room, splits: Sequence[Split], some: Sequence[str]) -> dict[str, Any]:
        return {
            "study": study_identity(room.study),
            "splits": [split.hash for split in splits],
            "features": list(some),
            "settings": self._settings(),
        }

    def _fit(
        self, steps: Steps, room: _Room, splits: Sequence[Split], name: str, some: Sequence[str]
    ) -> OutOfFold:
        def compute() -> tuple[Arrays, dict[str, Any]]:
            found = out_of_fold({k: room.vectors[k] for k in some}, room.truth, splits, **self._settings())
            return {"predicted": found.predicted, "parts": found.parts}, {}

        arrays, _ = steps.arrays(f"fit {name}", self._key(room, splits, some), compute)
        return OutOfFold(predicted=arrays["predicted"], parts=arrays["parts"])

    def _relabel(
        self, steps: Steps, room: _Room, splits: Sequence[Split], name: str, some: Sequence[str]
    ) -> _Null:
        n_refits, seed = self.config.n_refits, self.job.seed

        def compute() -> tuple[Arrays, dict[str, Any]]:
            orders = draw_orders(len(room.truth), n_refits, seed)
            vectors = {k: room.vectors[k] for k in some}
            r, identified, shares = [], [], []
            for start in range(0, n_refits, AT_ONCE):
                some_orders = orders[start : start + AT_ONCE]
                found = out_of_fold_relabelled(vectors, room.truth, some_orders, splits, **self._settings())
                for order, one in zip(some_orders, found, strict=True):
                    truth = room.truth[order]
                    r.append(room.means(encoding_r(truth, one.predicted)))
                    identified.append(room.identified(one.predicted, truth).mean(axis=1))
                    shares.append(room.means(encoding_r2_split(truth, one.parts)))
            return {
                "r": np.stack(r),
                "identified": np.stack(identified),
                "shares": np.stack(shares, axis=1),
            }, {}

        key = {**self._key(room, splits, some), "n_refits": n_refits}
        arrays, _ = steps.arrays(f"relabel and refit {name}", key, compute)
        return _Null(r=arrays["r"], identified=arrays["identified"], shares=arrays["shares"])

    # ---------------------------------------------------------------------------------------------------------- scores

    def _base(self, room: _Room, model: str, some: Sequence[str], split: str) -> Score:
        return Score(
            subject=self.job.subject,
            metric="encoding_r",
            value=float("nan"),
            ci_over="category",
            n=len(room.truth),
            n_subjects=1,
            scorer=MEAN,
            model=model,
            target=" + ".join(some),
            split=split,
        )

    def _rows(
        self, room: _Room, model: str, some: Sequence[str], fitted: OutOfFold, null: _Null, split: str = ""
    ) -> list[Score]:
        """Return r and identification of one model in every set, with intervals, chance and corrected p."""
        base = self._base(room, model, some, split or self.protocol)
        weights = draw_weights(len(room.truth), self.config.n_bootstrap, seed=self.job.seed)
        value = room.means(encoding_r(room.truth, fitted.predicted))
        spread = room.means(resampled_r(room.truth, fitted.predicted, weights))
        r, ident = [], []
        for k, roi in enumerate(room.sets):
            r.append(
                with_test(
                    replace(base, roi=roi), value[k], interval(spread[:, k]), null.r[:, k], len(room.truth)
                )
            )
        for k, (roi, values) in enumerate(
            zip(room.sets, room.identified(fitted.predicted, room.truth), strict=True)
        ):
            found = bootstrap_mean(values, over="category", seed=self.job.seed)
            own = replace(
                base,
                roi=roi,
                metric="pattern_identification",
                scorer="Pearson's r of patterns",
                gallery=len(values),
                candidates="all",
            )
            ident.append(
                with_test(own, found.value, (found.low, found.high), null.identified[:, k], len(room.truth))
            )
        return [*corrected(r), *corrected(ident)]

    def _differences(
        self, room: _Room, fitted: Mapping[str, OutOfFold], models: Mapping[str, Sequence[str]]
    ) -> list[Score]:
        """Return mean r of the banded model minus that of each set alone, on the same resamples."""
        if BANDED not in fitted:
            return []
        weights = draw_weights(len(room.truth), self.config.n_bootstrap, seed=self.job.seed)
        rng = np.random.default_rng([self.job.seed, 1])
        swaps = rng.random((self.config.n_permutations, len(room.truth))) < 0.5
        first, rows = fitted[BANDED].predicted, []
        for name in models:
            if name == BANDED:
                continue
            second = fitted[name].predicted
            value = room.means(encoding_r(room.truth, first) - encoding_r(room.truth, second))
            drawn = resampled_r(room.truth, first, weights) - resampled_r(room.truth, second, weights)
            a, b = swapped_r(room.truth, first, second, swaps)
            spread, null = room.means(drawn), room.means(a - b)
            own = []
            for k, roi in enumerate(room.sets):
                low, high = interval(spread[:, k])
                row = replace(
                    self._base(room, BANDED, models[BANDED], self.protocol),
                    roi=roi,
                    versus=name,
                    value=float(value[k]),
                    ci_low=low,
                    ci_high=high,
                    p_value=permutation_p(abs(float(value[k])), np.abs(null[:, k])),
                    p_correction="uncorrected",
                )
                own.append(row)
            rows += corrected(own)
        return rows

    def _shares(
        self,
        room: _Room,
        fitted: Mapping[str, OutOfFold],
        nulls: Mapping[str, _Null],
        models: Mapping[str, Sequence[str]],
    ) -> list[Score]:
        """Return the variance that the first model explains in every set, and how it splits over sets of vectors."""
        model, some = next(iter(models.items()))
        base = replace(self._base(room, model, some, self.protocol), metric="encoding_r2")
        weights = draw_weights(len(room.truth), self.config.n_bootstrap, seed=self.job.seed)
        value = room.means(encoding_r2_split(room.truth, fitted[model].parts))  # (bands, sets)
        spread = room.means(resampled_r2_split(room.truth, fitted[model].parts, weights))
        null = nulls[model].shares  # (bands, relabellings, sets)
        rows = []
        for name, observed, drawn, chance in [
            ("", value.sum(axis=0), spread.sum(axis=1), null.sum(axis=0)),
            *[(name, value[b], spread[:, b], null[b]) for b, name in enumerate(some) if len(some) > 1],
        ]:
            title = f"{MEAN}, share of {name}" if name else MEAN
            own = [
                with_test(
                    replace(base, roi=roi, scorer=title),
                    observed[k],
                    interval(drawn[:, k], float(observed[k])),
                    chance[:, k],
                    len(room.truth),
                )
                for k, roi in enumerate(room.sets)
            ]
            rows += corrected(own)
        return rows

    def _leave_one_out(
        self, steps: Steps, room: _Room, results: SubjectResults
    ) -> tuple[list[Score], dict[str, Any]]:
        """Return the scores of leave-one-out by ridge on the first set of vectors, responses centred once."""
        protocol, feature = self.config.leave_one_out, next(iter(room.vectors))
        splits = self._split(room.study, protocol)
        model, n = f"ridge-{feature}", len(room.truth)
        compute = partial(self._left_out, room, feature)
        key = {
            **self._key(room, splits, [feature]),
            "penalty": self.config.leave_one_out_penalty,
            "n_permutations": self.config.n_permutations,
        }
        arrays, _ = steps.arrays(protocol, key, compute)
        predicted = arrays["predicted"]
        results.latents[f"{model}_{protocol}_predicted"] = predicted
        fitted = OutOfFold(predicted=predicted, parts=predicted[None])
        null = _Null(r=arrays["r"], identified=arrays["identified"], shares=np.empty((0, 0, 0)))
        rows = self._rows(room, model, [feature], fitted, null, protocol)
        card = {**splits[0].card(), "label": f"fold-01 of {len(splits)}"}
        card["images"] = card["trials"] = {"train": n - 1, "test": 1}
        return rows, card

    def _left_out(self, room: _Room, feature: str) -> tuple[Arrays, dict[str, Any]]:
        centred = room.truth.astype(np.float64) - room.truth.mean(axis=0, dtype=np.float64)
        hat = leave_one_out_hat(
            room.vectors[feature], alpha=self.config.leave_one_out_penalty, intercept=False
        )
        r, identified = [], []
        for order in draw_orders(len(centred), self.config.n_permutations, self.job.seed):
            truth = centred[order]
            predicted = hat @ truth
            r.append(room.means(encoding_r(truth, predicted)))
            identified.append(room.identified(predicted, truth).mean(axis=1))
        predicted = (hat @ centred).astype(np.float32)
        return {"predicted": predicted, "r": np.stack(r), "identified": np.stack(identified)}, {}

    # ----------------------------------------------------------------------------------------------------------- facts

    def _facts(
        self,
        room: _Room,
        splits: Sequence[Split],
        cards: list[dict[str, Any]],
        models: Mapping[str, Sequence[str]],
    ) -> dict[str, Any]:
        config, card = self.config, self.job.dataset.card
        widths = {name: rows.shape[1] for name, rows in room.vectors.items()}
        recipe = [
            {
                "name": "centre",
                "scope": "train",
                "by": "each fold, vectors and responses",
                "split": self.protocol,
            }
        ]
        if config.leave_one_out:
            recipe.append(
                {
                    "name": "centre",
                    "scope": "heldout-block",
                    "by": "all categories, once",
                    "split": config.leave_one_out,
                }
            )
        return {
            "seeds": [self.job.seed],
            "study": study_facts(room.study, splits[0]) | {"repeats": {"1": len(room.truth)}},
            "splits": cards,
            "recipe": recipe,
            "models": [
                {"name": name, "features": ", ".join(f"{k} ({widths[k]})" for k in some)}
                for name, some in models.items()
            ],
            "vectors": {
                "protocol": self.protocol,
                "leave one out": config.leave_one_out,
                "features": widths,
                "units of each set": {name: int(member.sum()) for name, member in room.sets.items()},
            },
            "methods": methods(config, room, splits, self.protocol),
            "citations": [{"text": card.citation, "url": ""}, *CITATIONS],
            "notes": NOTES,
        }


def draw_orders(n_rows: int, n_orders: int, seed: int) -> np.ndarray:
    """Draw permutations of rows, of shape (orders, rows)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_rows) for _ in range(n_orders)])


def interval(drawn: np.ndarray, centre: float | None = None) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval, shifted to a mean of `centre` where resampling moves it."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    shift = 0.0 if centre is None else centre - float(drawn.mean())
    return float(low) + shift, float(high) + shift


def with_test(row: Score, value: float, ends: tuple[float, float], null: np.ndarray, n_rows: int) -> Score:
    """Return a score with its value, interval, and what relabelled stimuli give."""
    test = PermutationTest.of(float(value), null, n_distinct=factorial(n_rows))
    return replace(
        row,
        value=float(value),
        ci_low=ends[0],
        ci_high=ends[1],
        chance=test.chance,
        p_value=test.p_value,
        p_correction=test.correction,
    )


def corrected(rows: Sequence[Score]) -> list[Score]:
    """Return rows of one score with p-values of regions corrected for their number; that of all units stays."""
    at = [k for k, row in enumerate(rows) if row.roi != ALL_UNITS]
    adjusted = false_discovery_rate([rows[k].p_value or np.nan for k in at])
    result = list(rows)
    for k, p in zip(at, adjusted, strict=True):
        result[k] = replace(rows[k], p_value=float(p), p_correction=CORRECTION)
    return result


def methods(config: EncodeVectorsConfig, room: _Room, splits: Sequence[Split], protocol: str) -> list[str]:
    """Return paragraphs that say what was done."""
    names = " and ".join(f"{name} ({rows.shape[1]})" for name, rows in room.vectors.items())
    found = [
        f"Split. {protocol}: each of {len(room.truth)} categories is predicted once, by models fitted to the "
        f"categories of the other {len(splits) - 1} splits. Vectors and responses are centred on training categories alone.",
        f"Models. Ridge from vectors of the categories ({names}) to each voxel. Penalties (and, of banded ridge, "
        f"{config.n_gammas} weightings of the sets, drawn from Dirichlet distributions) are chosen for each voxel by {config.n_folds}-fold "
        f"cross-validation inside the training part, from {len(ALPHAS)} penalties between {ALPHAS[0]:g} and {ALPHAS[-1]:g} times the mean "
        "eigenvalue. Each set of vectors is divided by one number, so that its features keep their relative variances.",
        "Scores. Pearson's r over categories between predicted and measured responses, voxel by voxel, then the mean over voxels "
        "of a region. Explained variance is one minus the squared error about the mean, split over sets of vectors by the product measure "
        "(Pratt), which adds up. Identification: for each measured pattern, the share of the other categories' predicted patterns "
        "that correlate less with it than its own.",
        f"Statistics. Intervals resample categories ({config.n_bootstrap} times, 10,000 for identification), models fixed. Chance and p come from "
        f"{config.n_refits} relabellings of the categories with all folds, penalties and weights fitted anew: chance is their mean. "
        "p of a difference exchanges the two models' standardised predictions of whole categories, two-sided. p of regions is corrected for their number "
        "(Benjamini and Hochberg).",
    ]
    if config.leave_one_out:
        found.append(
            f"{config.leave_one_out}. Ridge on {next(iter(room.vectors))} with one penalty for all ({config.leave_one_out_penalty:g} mean "
            "eigenvalues), each category predicted from all others, vectors and responses centred once over all categories, the held-out one "
            f"included. Its chance comes from {config.n_permutations} relabellings, each fitted anew."
        )
    return found


NOTES = [
    "One person: intervals resample categories and say nothing of other people.",
    "Chance lies below zero: the training mean of a fold falls where its held-out responses rise. Compare a value with its chance.",
]
CITATIONS = [
    {
        "text": "Nunez-Elizalde, Huth, Gallant 2019. Voxelwise encoding models with non-spherical multivariate normal priors. NeuroImage 197",
        "url": "https://doi.org/10.1016/j.neuroimage.2019.04.012",
    },
    {
        "text": "Dupre la Tour, Eickenberg, Nunez-Elizalde, Gallant 2022. Feature-space selection with banded ridge regression. NeuroImage 264",
        "url": "https://doi.org/10.1016/j.neuroimage.2022.119728",
    },
    {
        "text": "Benjamini, Hochberg 1995. Controlling the false discovery rate. J. R. Stat. Soc. B 57",
        "url": "https://doi.org/10.1111/j.2517-6161.1995.tb02031.x",
    },
]

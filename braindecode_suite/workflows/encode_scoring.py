"""Encoding scores of several models: regions, noise ceilings, intervals over images, permutations, paired differences.

Everything is resampled for all units and all models by the same draws of images. The rival that a difference is against was
chosen on validation images, region by region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import factorial
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import Score
from braindecode_suite.core.study import Study
from braindecode_suite.metrics.bootstrap import Method, interval_ends
from braindecode_suite.metrics.encoding import encoding_r
from braindecode_suite.metrics.encoding_resampling import (
    CLIPPED,
    R2_STATISTICS,
    R_MEAN,
    R_MEDIAN,
    THRESHOLDED,
    UNCLIPPED,
    UnitSets,
    draw_weights,
    leave_one_out,
    permuted_r,
    resampled_r,
    swapped_r,
)
from braindecode_suite.metrics.permutation import PermutationTest, false_discovery_rate, permutation_p

ALL_UNITS = ""
LEVEL = 0.95
FEWEST_IMAGES = 8
"""Images that a subset must have to be scored on its own."""
BEST_RIVAL, BEST_SINGLE = "best rival by validation", "best single model by validation"
CORRECTION = "fdr-bh over rois"
Distribution = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """What one model predicts, from each of its seeds.

    Attributes
    ----------
    model : str
    target : str
        Features that it was fitted to.
    seeds : tuple of str
        One empty one for a closed form.
    test, choosing : tuple of array of shape (images, units)
        Of test images, and of validation images that chose nothing before; one a seed.
    """

    model: str
    target: str
    seeds: tuple[str, ...]
    test: tuple[np.ndarray, ...]
    choosing: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Settings:
    """How scores are made.

    Attributes
    ----------
    subject, split : str
    threshold : float
        Least noise ceiling of the units of the thresholded score.
    n_bootstrap, n_permutations, seed : int
    unit : str
        What is resampled.
    units : array of str of shape (test images,) or None
        Which of them each image belongs to; None where each image is one.
    groups : tuple of str
        Sets of units that are no regions of their own: p-values are corrected over regions only.
    """

    subject: str
    split: str
    threshold: float = 0.05
    n_bootstrap: int = 2000
    n_permutations: int = 1000
    seed: int = 0
    unit: str = "image"
    units: np.ndarray | None = None
    groups: tuple[str, ...] = ()


def find_sets(
    study: Study, n_units: int, rois: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return the sets of units that are scored: all, each region, each group of regions.

    Parameters
    ----------
    study : Study
    n_units : int
        Of a response, the times of a channel side by side.
    rois : sequence of str
        By default all that the study has, but for those that hold every unit.
    groups : mapping of str to sequence of str
        Regions scored together; those that the study lacks are left out.

    Returns
    -------
    dict of str to array of bool of shape (units,)
        All units are named by the empty string. Empty sets are left out.

    Raises
    ------
    InputError
        If a region does not exist, or a group has a region's name.
    """
    known = study.space.rois
    for name in rois:
        check_option("roi", name, known)
    times = n_units // study.space.n_units
    chosen = list(rois) or [name for name, member in known.items() if not np.all(member)]
    sets = {ALL_UNITS: np.ones(n_units, bool)}
    sets |= {name: np.repeat(np.asarray(known[name], bool), times) for name in chosen}
    for group, members in groups.items():
        if group in known or not group:
            raise InputError("`groups`", expected="names that no region has", found=repr(group))
        there = [np.asarray(known[name], bool) for name in members if name in known]
        if there:
            sets[group] = np.repeat(np.any(there, axis=0), times)
    return {name: member for name, member in sets.items() if member.any()}


def first_region(sets: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the number of the first region that each unit is in, -1 for none, from `find_sets`."""
    first = np.full(len(next(iter(sets.values()))), -1)
    for number, (name, member) in enumerate(sets.items()):
        if name != ALL_UNITS:
            first[(first < 0) & member] = number
    return first


class EncodingScores:
    """Scores of models that predict the same test images.

    Parameters
    ----------
    truth : array of shape (images, units)
        Mean measured responses; a unit that is constant or misses a response is not scored.
    repeats : array of int of shape (images,)
        Repeats that were averaged.
    ceiling : array of shape (units,) or None
        Noise ceiling of these means.
    sets : dict of str to array of bool of shape (units,)
        From `find_sets`.
    models : sequence of Predictions
        A unit that any of them cannot predict (NaN) is scored for none.
    settings : Settings

    Attributes
    ----------
    facts : dict
        How many units are scored, and why the others are not.
    """

    def __init__(
        self,
        truth: np.ndarray,
        repeats: np.ndarray,
        ceiling: np.ndarray | None,
        sets: Mapping[str, np.ndarray],
        models: Sequence[Predictions],
        settings: Settings,
    ) -> None:
        self.truth, self.repeats, self.settings = truth, repeats, settings
        self._resampled: dict[tuple[str, str], Distribution] = {}
        for model in models:
            for predicted in model.test:
                check_shape(
                    f"predictions of {model.model}",
                    predicted,
                    "images units",
                    images=len(truth),
                    units=truth.shape[1],
                )
        finite = np.isfinite(truth).all(axis=0)
        varies = np.ptp(np.where(finite, truth, 0), axis=0) > 0
        predicted_by_all = np.all([np.isfinite(p).all(axis=0) for m in models for p in m.test], axis=0)
        unknown = np.zeros(len(finite), bool) if ceiling is None else ~np.isfinite(ceiling)
        scored = finite & varies & predicted_by_all & ~unknown
        self.facts: dict[str, Any] = {
            "units": len(scored),
            "scored": int(scored.sum()),
            "not scored, missing responses": int((~finite).sum()),
            "not scored, constant responses": int((finite & ~varies).sum()),
            "not scored, not predicted": int((finite & varies & ~predicted_by_all).sum()),
            "not scored, ceiling unknown": int((finite & varies & predicted_by_all & unknown).sum()),
        }
        if not scored.any():
            raise InputError("responses to test images", expected="units that vary", found="none")
        members = {name: member & scored for name, member in sets.items()}
        self.empty_sets = tuple(name for name, member in members.items() if not member.any())
        self.sets = UnitSets(
            names=tuple(name for name, member in members.items() if member.any()),
            members=np.stack([member for member in members.values() if member.any()]),
            ceiling=None if ceiling is None else np.where(scored, ceiling, 0.0),
            threshold=settings.threshold,
        )

    @cached_property
    def weights(self) -> np.ndarray:
        """Bootstrap weights of the test images, of shape (resamples, images): the same for every model."""
        s = self.settings
        return draw_weights(len(self.truth), s.n_bootstrap, seed=s.seed, units=s.units)

    @cached_property
    def orders(self) -> np.ndarray:
        """Permutations of the test images, of shape (permutations, images)."""
        rng = np.random.default_rng([self.settings.seed, 1])
        n = len(self.truth)
        return np.stack([rng.permutation(n) for _ in range(self.settings.n_permutations)])

    @cached_property
    def swaps(self) -> np.ndarray:
        """Which images' predictions two models exchange, booleans of shape (permutations, images)."""
        rng = np.random.default_rng([self.settings.seed, 2])
        return rng.integers(2, size=(self.settings.n_permutations, len(self.truth))) > 0

    def unit_r(self, model: Predictions) -> np.ndarray:
        """Return the mean over seeds of r of each unit, NaN where it is not scored."""
        r = np.mean([encoding_r(*self._known(predicted)) for predicted in model.test], axis=0)
        return np.where(self.sets.members.any(axis=0), r, np.nan)

    def observed(self, model: Predictions) -> Distribution:
        """Return every statistic in every set, each of shape (1, sets): the mean over seeds."""
        return _mean_over([self.sets.summarise(encoding_r(*self._known(p))[None]) for p in model.test])

    def resampled(self, model: Predictions) -> Distribution:
        """Return the same in every bootstrap resample, each of shape (resamples, sets)."""
        key = model.model, model.target
        if key not in self._resampled:
            parts = [self.sets.summarise(resampled_r(self.truth, p, self.weights)) for p in model.test]
            self._resampled[key] = _mean_over(parts)
        return self._resampled[key]

    def left_out(self, model: Predictions, statistics: tuple[str, ...]) -> Distribution:
        """Return some statistics without each image (or concept), each of shape (images, sets)."""
        weights = leave_one_out(len(self.truth), self.settings.units)
        parts = [self.sets.summarise(resampled_r(self.truth, p, weights), statistics) for p in model.test]
        return _mean_over(parts)

    def permuted(self, model: Predictions, statistics: tuple[str, ...]) -> Distribution:
        """Return some statistics after whole images were exchanged, each of shape (permutations, sets)."""
        parts = [self.sets.summarise(permuted_r(self.truth, p, self.orders), statistics) for p in model.test]
        return _mean_over(parts)

    def swapped(self, first: Predictions, second: Predictions) -> np.ndarray:
        """Return the difference of mean r after swaps of whole images, of shape (permutations, sets).

        Seeds of the one are paired with those of the other in turn.
        """
        n = max(len(first.test), len(second.test))
        nulls = []
        for k in range(n):
            a, b = first.test[k % len(first.test)], second.test[k % len(second.test)]
            r, other = swapped_r(self.truth, a, b, self.swaps)
            nulls.append(
                self.sets.summarise(r, (R_MEAN,))[R_MEAN] - self.sets.summarise(other, (R_MEAN,))[R_MEAN]
            )
        return np.asarray(np.mean(nulls, axis=0))

    def _known(self, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        used = self.sets.members.any(axis=0)
        return np.where(used, self.truth, 0), np.where(used, predicted, 0)

    # ------------------------------------------------------------------------------------------------------- rows

    def plain_rows(self, model: Predictions, statistics: tuple[str, ...] | None = None) -> list[Score]:
        """Return r and the normalised scores of every set (or some statistics), with interval, chance, p and ceiling.

        Resampling adds noise to r, and squares grow with it: normalised scores have BCa intervals, which correct for that.
        """
        wanted = self.sets.statistics if statistics is None else statistics
        observed, boot, null = self.observed(model), self.resampled(model), self.permuted(model, wanted)
        left_out = self.left_out(model, wanted)
        ceilings = self.sets.ceilings()
        rows: list[Score] = []
        for name in wanted:
            method: Method = "bca" if name in R2_STATISTICS else "percentile"
            own: list[Score] = []
            for k, roi in enumerate(self.sets.names):
                value = float(observed[name][0, k])
                if not np.isfinite(value):
                    continue  # no unit reaches the threshold
                test = self._test(value, null[name][:, k])
                low, high = interval_ends(value, boot[name][:, k], left_out[name][:, k], LEVEL, method)
                own.append(
                    replace(
                        self._base(model, name),
                        roi=roi,
                        value=value,
                        ci_low=low,
                        ci_high=high,
                        chance=test.chance,
                        p_value=test.p_value,
                        p_correction=test.correction,
                        ceiling=float(ceilings[name][k]) if ceilings else None,
                    )
                )
            rows += corrected(own, self.settings.groups)
        return rows

    def seed_rows(self, model: Predictions) -> list[Score]:
        """Return the mean r over all units of each seed, where there are several."""
        if len(model.seeds) < 2:
            return []
        at = self.sets.names.index(ALL_UNITS)
        base = replace(self._base(model, R_MEAN), ci_over="")
        values = [self.sets.summarise(encoding_r(*self._known(p))[None])[R_MEAN][0, at] for p in model.test]
        return [
            replace(base, seed=seed, value=float(value))
            for seed, value in zip(model.seeds, values, strict=True)
        ]

    def paired_rows(
        self,
        first: Predictions,
        seconds: Sequence[Predictions],
        chosen: Mapping[str, str],
        label: str,
        *,
        each: bool = True,
    ) -> list[Score]:
        """Return mean r of `first` minus that of the model chosen for each set, and of each other, on the same images.

        Parameters
        ----------
        first : Predictions
        seconds : sequence of Predictions
        chosen : mapping of set to model
            One of `seconds` for each set, by validation; its row carries `label` in the scorer.
        label : str
        each : bool
            Whether to add the difference from each of `seconds` in every set.
        """
        value, boot = self.observed(first)[R_MEAN][0], self.resampled(first)[R_MEAN]
        best: list[Score] = []
        rows: list[Score] = []
        for second in seconds:
            if not each and second.model not in chosen.values():
                continue
            difference = value - self.observed(second)[R_MEAN][0]
            spread = boot - self.resampled(second)[R_MEAN]
            null = self.swapped(first, second)
            own = []
            for k, roi in enumerate(self.sets.names):
                low, high = np.quantile(spread[:, k], [0.025, 0.975])
                row = replace(
                    self._base(first, R_MEAN),
                    roi=roi,
                    versus=second.model,
                    value=float(difference[k]),
                    ci_low=float(low),
                    ci_high=float(high),
                    p_value=permutation_p(abs(difference[k]), np.abs(null[:, k])),
                    p_correction="uncorrected",
                )
                own.append(row)
                if chosen.get(roi) == second.model:
                    best.append(replace(row, scorer=f"{row.scorer}, {label}"))
            rows += corrected(own, self.settings.groups) if each else []
        order = {roi: k for k, roi in enumerate(self.sets.names)}
        return [*corrected(sorted(best, key=lambda row: order[row.roi]), self.settings.groups), *rows]

    def rows_without(
        self,
        images: np.ndarray,
        models: Sequence[Predictions],
        chosen: Mapping[str, str],
        label: str,
        name: str,
    ) -> list[Score]:
        """Return mean r of models, and of the first minus the chosen one, without some images.

        Parameters
        ----------
        images : array of bool of shape (images,)
            Those left out. Without any, or with fewer than `FEWEST_IMAGES` others, there are no rows.
        models, chosen, label
            As in `paired_rows`, the first of `models` being `first`.
        name : str
            What is said of the rows in `candidates`.
        """
        keep, s = ~images, self.settings
        if keep.all() or keep.sum() < FEWEST_IMAGES:
            return []
        fewer = [replace(model, test=tuple(p[keep] for p in model.test)) for model in models]
        few = EncodingScores(
            self.truth[keep],
            self.repeats[keep],
            self.sets.ceiling,
            dict(zip(self.sets.names, self.sets.members, strict=True)),
            fewer,
            replace(s, units=None if s.units is None else s.units[keep]),
        )
        first, *others = fewer
        rows = [row for model in (first, *others) for row in few.plain_rows(model, (R_MEAN,))]
        if others:
            rows += few.paired_rows(first, others, chosen, label, each=False)
        return [replace(row, scorer=f"{row.scorer}, {name}", candidates=name) for row in rows]

    def subset_rows(
        self,
        first: Predictions,
        seconds: Sequence[Predictions],
        chosen: Mapping[str, str],
        label: str,
        subsets: Mapping[str, np.ndarray],
    ) -> list[Score]:
        """Return mean r of `first` minus that of the chosen model on some images only, with an interval over these.

        Parameters
        ----------
        first, seconds, chosen, label
            As in `paired_rows`.
        subsets : mapping of name to array of bool of shape (images,)
            Those of fewer than `FEWEST_IMAGES` are left out.
        """
        rows: list[Score] = []
        for name, inside in subsets.items():
            if inside.sum() < FEWEST_IMAGES:
                continue
            units = None if self.settings.units is None else self.settings.units[inside]
            weights = draw_weights(
                int(inside.sum()), self.settings.n_bootstrap, seed=self.settings.seed, units=units
            )
            everything = np.concatenate([np.ones((1, int(inside.sum()))), weights])
            r = {
                model.model: np.mean([self._subset(p, inside, everything) for p in model.test], axis=0)
                for model in (first, *seconds)
            }
            for k, roi in enumerate(self.sets.names):
                gap = r[first.model][:, k] - r[chosen[roi]][:, k]
                low, high = np.quantile(gap[1:], [0.025, 0.975])
                base = self._base(first, R_MEAN)
                rows.append(
                    replace(
                        base,
                        roi=roi,
                        versus=chosen[roi],
                        scorer=f"{base.scorer}, {label}, {name}",
                        value=float(gap[0]),
                        ci_low=float(low),
                        ci_high=float(high),
                        n=int(inside.sum()),
                        n_repeats=float(np.mean(self.repeats[inside])),
                    )
                )
        return rows

    def _subset(self, predicted: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return mean r over the images of a subset, of shape (resamples, sets); a unit that is constant there gives 0."""
        r = np.nan_to_num(resampled_r(self.truth[inside], predicted[inside], weights))
        return np.asarray(self.sets.summarise(r, (R_MEAN,))[R_MEAN])

    def _base(self, model: Predictions, statistic: str) -> Score:
        metric, scorer = self.scorers[statistic]
        return Score(
            subject=self.settings.subject,
            metric=metric,
            value=float("nan"),
            ci_over=self.settings.unit,
            n=len(self.truth),
            n_repeats=float(np.mean(self.repeats)),
            n_subjects=1,
            level="mean-signal",
            scorer=scorer,
            model=model.model,
            target=model.target,
            seed=",".join(seed for seed in model.seeds if seed),
            split=self.settings.split,
        )

    @property
    def scorers(self) -> dict[str, tuple[str, str]]:
        """Metric and scorer that a statistic is called in the score table."""
        above = f"ratio of sums over units with a ceiling of at least {self.settings.threshold:g}"
        return {
            R_MEAN: ("encoding_r", "mean over units"),
            R_MEDIAN: ("encoding_r", "median over units"),
            CLIPPED: ("encoding_r2_nc", "clipped, mean over units"),
            UNCLIPPED: ("encoding_r2_nc", "unclipped, ratio of sums over units"),
            THRESHOLDED: ("encoding_r2_nc", f"unclipped, {above}"),
        }

    def _test(self, value: float, null: np.ndarray) -> PermutationTest:
        return PermutationTest(
            observed=value,
            p_value=permutation_p(value, null),
            null=null,
            n_distinct=factorial(len(self.truth)),
            tail="greater",
        )


def choose_best(models: Sequence[Predictions], truth: np.ndarray, sets: UnitSets) -> dict[str, str]:
    """Choose a model for each set of units by its mean r on validation images set aside for it; the first of equals.

    Parameters
    ----------
    models : sequence of Predictions
    truth : array of shape (images, units)
        Of validation images that stopped no model.
    sets : UnitSets
    """
    known = np.isfinite(truth).all(axis=0)
    table = {}
    for model in models:
        each = []
        for predicted in model.choosing:
            r = encoding_r(np.where(known, truth, 0), np.where(np.isfinite(predicted), predicted, 0))
            each.append(sets.summarise(np.nan_to_num(r)[None], (R_MEAN,))[R_MEAN][0])
        table[model.model] = np.mean(each, axis=0)
    return {name: max(table, key=lambda model: table[model][k]) for k, name in enumerate(sets.names)}


def corrected(rows: Sequence[Score], groups: Sequence[str] = ()) -> list[Score]:
    """Return rows of one score with the p-values of regions corrected for their number; all units and groups stay."""
    at = [k for k, row in enumerate(rows) if row.roi not in (ALL_UNITS, *groups)]
    adjusted = false_discovery_rate([rows[k].p_value or np.nan for k in at])
    result = list(rows)
    for k, p in zip(at, adjusted, strict=True):
        result[k] = replace(rows[k], p_value=float(p), p_correction=CORRECTION)
    return result


def object_counts(study: Study, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Return which images show one, two, ... and two or more objects, where the stimuli's attributes tell; else nothing."""
    attributes = None if study.stimuli is None else study.stimuli.attributes
    if attributes is None or "n_objects" not in attributes.columns:
        return {}
    counts = attributes["n_objects"].reindex(list(ids)).to_numpy(float)
    known = sorted(int(n) for n in np.unique(counts[np.isfinite(counts)]))
    subsets = {f"{n} object{'' if n == 1 else 's'}": counts == n for n in known}
    if len(known) > 1:
        subsets["2 or more objects"] = counts >= 2
    return subsets


def _mean_over(parts: Sequence[Distribution]) -> Distribution:
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}

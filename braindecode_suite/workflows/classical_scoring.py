"""Decode every test example once, over all folds; score, and test against relabelled refits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.learning.classifiers import CLASSIFIERS, FoldClassifier
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.metrics.classification import (
    accuracy,
    balanced_accuracy,
    count_labellings,
    permute_labels,
)
from braindecode_suite.metrics.permutation import PermutationTest
from braindecode_suite.workflows.classical_examples import Examples, grouping

FEWEST_GROUPS, MOST_GROUPS, INNER_FOLDS = 2, 24, 5
UNTESTED = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One split with the examples of both sides, preprocessed by what the split allows.

    Attributes
    ----------
    label : str
    train, test : int arrays
        Examples.
    features : array of float32 of shape (examples, units)
        Of all examples.
    groups : array of shape (train,)
        What is left out together when something is chosen inside.
    recipe : Recipe or None
        Fitted preprocessing; its `keep` says which units the features are of.
    """

    label: str
    train: np.ndarray
    test: np.ndarray
    features: np.ndarray
    groups: np.ndarray
    recipe: Recipe | None = None

    @property
    def units(self) -> np.ndarray:
        """The units that the features are of, int array."""
        keep = None if self.recipe is None else self.recipe.keep
        return np.arange(self.features.shape[1]) if keep is None else np.flatnonzero(keep)

    @property
    def n_units(self) -> int:
        """Number of units of the study, whatever is kept."""
        keep = None if self.recipe is None else self.recipe.keep
        return self.features.shape[1] if keep is None else len(keep)

    def of(self, units: np.ndarray) -> np.ndarray:
        """Return the columns of the features that lie in a region, array of bool of shape (units,)."""
        keep = None if self.recipe is None else self.recipe.keep
        return units if keep is None else units[keep]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldRows:
    """Training and test examples of one split, the groups to choose by inside, and the training rows of the study."""

    label: str
    train: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    rows: np.ndarray


def fold_rows(examples: Examples, splits: Sequence[Split]) -> list[FoldRows]:
    """Return the examples of every fold; training and validation rows are one training part, choices are made inside it.

    Raises
    ------
    InputError
        If an example is tested twice, a training part misses a class, or there is nothing to choose by inside one.
    """
    found: list[FoldRows] = []
    tested: set[int] = set()
    for split in splits:
        training = np.sort(np.concatenate([split.train[0], split.validation[0]]))
        train = examples.inside([training], split.protocol)
        test = examples.inside([split.test[0]], split.protocol)
        if tested & set(test.tolist()):
            raise InputError(
                f"protocol {split.protocol!r}", expected="every example tested once", found="one tested twice"
            )
        tested |= set(test.tolist())
        missing = set(examples.labels[test]) - set(examples.labels[train])
        if missing:
            raise InputError(
                f"protocol {split.protocol!r}, {split.label or 'its split'}",
                expected="every class in the training part",
                found=f"no {min(missing)}",
            )
        groups = _inner_groups(grouping(examples, split)[train])
        if len(np.unique(groups)) < FEWEST_GROUPS:
            kind = (
                "runs"
                if "run" in split.disjoint
                else "sessions"
                if "session" in split.disjoint
                else "stimuli"
            )
            raise InputError(
                f"protocol {split.protocol!r}, {split.label or 'its split'}",
                expected=f"at least {FEWEST_GROUPS} {kind} in the training part, to choose by inside it",
                found=str(len(np.unique(groups))),
            )
        found.append(FoldRows(label=split.label, train=train, test=test, groups=groups, rows=training))
    return found


def make_folds(study: Study, examples: Examples, splits: Sequence[Split], recipe: Recipe) -> list[Fold]:
    """Return one fold a split, preprocessed by `recipe` fitted on its training rows (see `fold_rows`)."""
    folds = []
    for one in fold_rows(examples, splits):
        prepared = study.prepared(recipe, one.rows)
        folds.append(
            Fold(
                label=one.label,
                train=one.train,
                test=one.test,
                features=examples.mean(prepared.read(slice(None))).astype(np.float32),
                groups=one.groups,
                recipe=prepared.recipe,
            )
        )
    return folds


class Decoder:
    """A classifier made ready on all folds, for some of the units; `decode` may then be called with any labels.

    Parameters
    ----------
    folds : sequence of Fold
    name : str
        Of `CLASSIFIERS`.
    units : array of bool of shape (units,), optional
        Units to use; all by default.
    """

    def __init__(self, folds: Sequence[Fold], name: str, units: np.ndarray | None = None) -> None:
        self.folds = folds
        self.ready: list[FoldClassifier] = []
        for fold in folds:
            features = fold.features if units is None else fold.features[:, fold.of(units)]
            features = features.astype(np.float64)
            self.ready.append(CLASSIFIERS[name](features[fold.train], features[fold.test], fold.groups))

    @property
    def tested(self) -> np.ndarray:
        """Examples that some fold tests, ascending."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))

    def decode(self, labels: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
        """Refit all folds on integer labels of shape (examples,); return the predicted ones, and what was chosen how often."""
        predicted = np.full(len(labels), UNTESTED, np.int64)
        chosen: Counter[str] = Counter()
        for fold, classifier in zip(self.folds, self.ready, strict=True):
            predicted[fold.test], choice = classifier.predict(labels[fold.train])
            chosen[choice] += 1
        return predicted, chosen


def nuisance_folds(
    study: Study, examples: Examples, folds: Sequence[Fold], columns: Sequence[str]
) -> list[Fold]:
    """Return the same folds with recorded nuisances as features: mean per example, z-scored by training examples.

    An example without a value takes the training mean.
    """
    table = study.trials[list(columns)].to_numpy(float)
    values = np.stack([_mean_of_known(table[rows]) for rows in examples.rows])
    result = []
    for fold in folds:
        inside = values[fold.train]
        known = np.isfinite(inside).any(axis=0)
        mean = np.array([_mean_of_known(inside[:, k : k + 1])[0] for k in range(inside.shape[1])])
        deviation = np.sqrt(
            [_mean_of_known(np.square(inside[:, k : k + 1] - mean[k]))[0] for k in range(len(mean))]
        )
        scale = np.where(known & (deviation > 0), deviation, np.inf)
        features = np.nan_to_num((values - np.where(known, mean, 0)) / scale)
        result.append(
            Fold(
                label=fold.label,
                train=fold.train,
                test=fold.test,
                features=features.astype(np.float32),
                groups=fold.groups,
            )
        )
    return result


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """How labels are exchanged under the null: within blocks, or whole stimuli; and how many ways there are."""

    draw: Callable[[np.random.Generator], np.ndarray]
    n_distinct: int
    words: str


def relabelling_of(examples: Examples, y: np.ndarray, split: Split) -> Relabelling:
    """Return the exchange that the design allows.

    Where the label is all that is known of a stimulus, labels of examples are exchanged within each run (or session, where
    whole sessions are left out). Otherwise whole stimuli exchange labels: all repeats of an image move together.
    """
    if examples.repeated_conditions:
        kind = "run" if "session" not in split.disjoint else "session"
        blocks = examples.run if kind == "run" else examples.session
        return Relabelling(
            draw=lambda rng: np.asarray(permute_labels(y, blocks, rng)),
            n_distinct=count_labellings(y, blocks),
            words=f"labels exchanged within each {kind}",
        )
    names, first, index = np.unique(examples.stimulus, return_index=True, return_inverse=True)
    of_stimulus = y[first]
    if (of_stimulus[index] != y).any():
        raise InputError("labels", expected="one label for each stimulus", found="a stimulus with several")
    everywhere = np.zeros(len(names), int)
    return Relabelling(
        draw=lambda rng: np.asarray(permute_labels(of_stimulus, everywhere, rng))[index],
        n_distinct=count_labellings(of_stimulus, everywhere),
        words="labels exchanged among whole stimuli",
    )


def draw_labellings(y: np.ndarray, relabelling: Relabelling, n_permutations: int, seed: int) -> np.ndarray:
    """Return the true labels, then relabellings, of shape (1 + permutations, examples): the same for every test of a run."""
    seeds = np.random.SeedSequence(seed).spawn(n_permutations)
    return np.stack([y, *(relabelling.draw(np.random.default_rng(s)) for s in seeds)])


@dataclass(frozen=True, kw_only=True)
class AccuracyTests:
    """The test of the accuracy, and of the balanced accuracy, by the same relabellings."""

    accuracy: PermutationTest
    balanced: PermutationTest

    @classmethod
    def of(cls, scores: np.ndarray, n_distinct: int) -> AccuracyTests:
        """Make both of their scores, of shape (1 + permutations, 2): the true labels first."""
        made = [PermutationTest.of(float(c[0]), c[1:], n_distinct=n_distinct) for c in scores.T]
        return cls(accuracy=made[0], balanced=made[1])


def refitted_scores(decoder: Decoder, labellings: np.ndarray) -> np.ndarray:
    """Refit all folds, with all inner choices, on each labelling.

    Each relabelling holds for training and test rows alike, so that the folds share it as they share the true labels.

    Parameters
    ----------
    decoder : Decoder
    labellings : array of int of shape (labellings, examples)

    Returns
    -------
    array of shape (labellings, 2)
        Accuracy and balanced accuracy.
    """
    tested = decoder.tested
    return np.array([_both(labels[tested], decoder.decode(labels)[0][tested]) for labels in labellings])


def fixed_scores(predicted: np.ndarray, labellings: np.ndarray) -> np.ndarray:
    """Score given predictions against each labelling of the test rows, conditional on the model; see `refitted_scores`."""
    tested = predicted != UNTESTED
    return np.array([_both(labels[tested], predicted[tested]) for labels in labellings])


def _both(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    return float(np.mean(truth == predicted)), balanced_accuracy(truth, predicted)


def recurrence(examples: Examples, folds: Sequence[Fold]) -> float:
    """Return the share of test examples whose image is in the training part too; 0 where images are not told apart."""
    if examples.repeated_conditions:
        return 0.0
    seen = [np.isin(examples.stimulus[fold.test], examples.stimulus[fold.train]) for fold in folds]
    return float(np.concatenate(seen).mean())


def right(predicted: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tested examples, and 1 or 0 for each."""
    tested = np.flatnonzero(predicted != UNTESTED)
    return tested, accuracy(y[tested], predicted[tested])


def _inner_groups(groups: np.ndarray) -> np.ndarray:
    if len(np.unique(groups)) <= MOST_GROUPS:
        return groups
    return group_folds(groups, INNER_FOLDS)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over rows of what is finite, NaN for a column without any."""
    known = np.isfinite(values)
    return np.where(known.any(0), np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)

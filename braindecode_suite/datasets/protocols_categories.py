"""Protocols for one response a category: whole categories are held out in turn, and every one is predicted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import VectorsOf
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.learning.folds import group_folds

N_FOLDS = 9
VALIDATED = "validation categories are those of the next split: where choices are made by folds of the training part, they train"
CENTRED_ONCE = (
    "responses are centred once over all categories, the held-out one included (normaliser of scope heldout-block: "
    "transductive, without labels)"
)


def nine_fold_by_category(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Hold out each ninth of the categories in turn, dealt out by `seed`; all else is fitted on the others."""
    names = _names(studies)
    return _hold_out(
        "9-fold-by-category", studies, names, group_folds(names, N_FOLDS, seed=seed), (VALIDATED,)
    )


def loo_centred(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Hold out each category in turn; responses are centred once over all, so that no fold has an intercept of its own.

    An intercept fitted in each fold is the mean of the others, which falls where the held-out response rises: with
    leave-one-out that alone drives r below zero where nothing can be predicted.
    """
    names = _names(studies)
    return _hold_out("loo-centred", studies, names, np.arange(len(names)), (VALIDATED, CENTRED_ONCE))


def _names(studies: Sequence[Study]) -> list[str]:
    names = sorted({name for study in studies for name in study.stimulus_ids})
    if len(names) < N_FOLDS:
        raise InputError("`studies`", expected=f"at least {N_FOLDS} categories", found=str(len(names)))
    return names


def _hold_out(
    protocol: str, studies: Sequence[Study], names: Sequence[str], folds: np.ndarray, notes: tuple[str, ...]
) -> list[Split]:
    of = dict(zip(names, folds, strict=True))
    fold_of = [np.array([of[name] for name in study.stimulus_ids]) for study in studies]
    n_folds = int(folds.max()) + 1
    splits = []
    for fold in range(n_folds):
        after = (fold + 1) % n_folds
        splits.append(
            Split(
                protocol=protocol,
                studies=tuple(studies),
                train=tuple(np.flatnonzero(~np.isin(own, (fold, after))) for own in fold_of),
                validation=tuple(np.flatnonzero(own == after) for own in fold_of),
                test=tuple(np.flatnonzero(own == fold) for own in fold_of),
                disjoint=frozenset({"stimulus"}),
                label=f"fold-{fold + 1:02d}",
                notes=notes,
            )
        )
    return splits

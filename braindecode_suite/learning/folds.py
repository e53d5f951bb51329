"""Which rows are held out together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError

NEVER = -1  # the fold of rows that are always trained on


def group_folds(groups: Sequence[Any] | np.ndarray, n_folds: int, *, seed: int = 0) -> np.ndarray:
    """Assign every row to a fold so that no group lies in two folds.

    Parameters
    ----------
    groups : array of shape (rows,)
        For instance the stimulus id of each row.
    n_folds : int
    seed : int
        Order in which the groups are dealt out.

    Returns
    -------
    array of int of shape (rows,)

    Examples
    --------
    >>> folds = group_folds(["a", "b", "a", "c"], 2)
    >>> bool(folds[0] == folds[2])
    True
    """
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= n_folds <= len(names):
        raise InputError("`n_folds`", expected=f"2 to {len(names)}, the number of groups", found=str(n_folds))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.empty(len(names), dtype=np.int64)
    fold_of_group[order] = np.arange(len(names)) % n_folds
    return fold_of_group[which]


def folds_of_splits(splits: Iterable[tuple[np.ndarray, np.ndarray]], n_rows: int) -> np.ndarray:
    """Turn scikit-learn's (training rows, held-out rows) into the fold of each row, -1 for rows never held out.

    Parameters
    ----------
    splits : iterable of (array of int, array of int)
        As a splitter yields them.
    n_rows : int

    Returns
    -------
    array of int of shape (rows,)

    Raises
    ------
    InputError
        If a row is held out twice, or a split does not train on all rows that it does not hold out: a fold's training
        Gram is the total less its own.

    Examples
    --------
    >>> from sklearn.model_selection import KFold
    >>> folds_of_splits(KFold(2).split(np.zeros((4, 1))), 4).tolist()
    [0, 0, 1, 1]
    """
    folds = np.full(n_rows, NEVER)
    for number, (train, held) in enumerate(splits):
        held = np.arange(n_rows)[held]
        if (folds[held] != NEVER).any() or len(np.unique(held)) < len(held):
            raise InputError("`cv`", expected="each row held out at most once", found="a row held out twice")
        folds[held] = number
        n_train = len(np.unique(np.arange(n_rows)[train]))
        if n_train != n_rows - len(held) or np.isin(train, held).any():
            raise InputError(
                "`cv`",
                expected="splits that train on all rows that they do not hold out, as KFold and GroupKFold do",
                found=f"{n_train} training and {len(held)} held-out rows of {n_rows} in split {number}",
            )
    return folds


def check_folds(folds: np.ndarray, n_rows: int) -> None:
    """Raise unless there is a fold for each row, no fold is empty and none holds out all rows."""
    check_shape("folds", folds, "rows", rows=n_rows)
    if not np.issubdtype(folds.dtype, np.integer) or n_rows == 0 or folds.min() < NEVER:
        raise InputError(
            "`folds`", expected="a fold number for each row, or -1", found=f"{folds.dtype} values"
        )
    n_folds = int(folds.max()) + 1
    counts = np.bincount(folds + 1, minlength=n_folds + 1)
    if n_folds < 1 or counts[1:].min() == 0 or (n_folds == 1 and counts[0] == 0):
        raise InputError(
            "`folds`", expected="at least two folds, none empty", found=f"counts {counts[1:].tolist()}"
        )

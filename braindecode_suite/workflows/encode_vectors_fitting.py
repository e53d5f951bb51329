"""Out-of-fold predictions of responses from vectors of stimuli, also for relabelled stimuli: every fold and choice made anew."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.split import Split
from braindecode_suite.learning.banded_ridge import banded_ridge_cv, sample_gammas
from braindecode_suite.learning.ridge import ridge_cv
from braindecode_suite.learning.ridge_warnings import GridEdgeWarning

ALPHAS = tuple(float(alpha) for alpha in np.logspace(-4, 4, 9))
"""Penalties in units of the mean eigenvalue of the Gram matrix."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OutOfFold:
    """What models fitted without a row predict for it.

    Attributes
    ----------
    predicted : array of float32 of shape (rows, units)
    parts : array of float32 of shape (bands, rows, units)
        What each set of vectors adds to the mean training response.
    """

    predicted: np.ndarray
    parts: np.ndarray


def out_of_fold(
    vectors: Mapping[str, np.ndarray],
    responses: np.ndarray,
    splits: Sequence[Split],
    *,
    n_folds: int,
    n_gammas: int,
    seed: int,
) -> OutOfFold:
    """Fit ridge (banded, where there are several sets of vectors) on each split's training part, and predict its test part.

    Vectors and responses are centred on training rows. Each set of vectors is divided by one number, so that its features
    have a mean variance of 1 over training rows and keep their variances relative to each other. Penalties and weights
    are chosen for each unit by cross-validation inside the training part, of which validation rows are a part.

    Parameters
    ----------
    vectors : mapping of str to array of shape (rows, features)
    responses : array of shape (rows, units)
        Several relabellings may stand side by side: units do not know of each other.
    splits : sequence of Split
        Of one study; together they test each row once.
    n_folds, n_gammas, seed : int
    """
    n_rows = len(responses)
    predicted = np.full(responses.shape, np.nan, np.float32)
    parts = np.full((len(vectors), *responses.shape), np.nan, np.float32)
    bands = np.repeat(list(vectors), [rows.shape[1] for rows in vectors.values()])
    gammas = sample_gammas(len(vectors), n_gammas, seed=seed)
    for split in splits:
        test = split.test[0]
        train = np.setdiff1d(np.arange(n_rows), test)
        X = np.concatenate([scale_by(rows, train) for rows in vectors.values()], axis=1)
        Y = responses[train]
        if len(vectors) > 1:
            banded = banded_ridge_cv(X[train], Y, bands=bands, folds=n_folds, gammas=gammas, alphas=ALPHAS)
            predicted[test], parts[:, test] = banded.predict(X[test]), banded.predict_bands(X[test])
        else:
            predicted[test] = ridge_cv(X[train], Y, folds=n_folds, alphas=ALPHAS).predict(X[test])
            parts[0][test] = predicted[test] - Y.mean(axis=0)
    return OutOfFold(predicted=predicted, parts=parts)


def scale_by(rows: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return vectors as float32, centred on training rows and divided by the root of their mean variance there."""
    centred = rows.astype(np.float64) - rows[train].mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.square(centred[train]).mean())
    return np.asarray(centred / (spread if spread > 0 else 1.0), np.float32)


def out_of_fold_relabelled(
    vectors: Mapping[str, np.ndarray],
    responses: np.ndarray,
    orders: np.ndarray,
    splits: Sequence[Split],
    **settings: int,
) -> list[OutOfFold]:
    """Do the same with the responses of all stimuli exchanged, once for each order, side by side.

    Parameters
    ----------
    vectors, responses, splits, settings
        As in `out_of_fold`.
    orders : array of int of shape (orders, rows)
        Row whose responses stand at each place.
    """
    n_units = responses.shape[1]
    side_by_side = np.concatenate([responses[order] for order in orders], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridEdgeWarning)  # nothing is to be predicted
        found = out_of_fold(vectors, side_by_side, splits, **settings)
    return [
        OutOfFold(predicted=found.predicted[:, k : k + n_units], parts=found.parts[:, :, k : k + n_units])
        for k in range(0, side_by_side.shape[1], n_units)
    ]

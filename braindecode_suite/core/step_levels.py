"""Levels of the trials (sessions, runs) within which a step of a recipe is fitted, each on its own training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError

MOST_ROWS = 400

By = str | tuple[str, ...] | None
"""Column of the trials that names a level, several that do so together, or None for one level of all."""


def block_columns(block: str | None) -> By:
    """Return the columns that tell blocks apart: runs are numbered within their session.

    Examples
    --------
    >>> block_columns("session"), block_columns("run")
    ('session', ('session', 'run'))
    """
    return ("session", "run") if block == "run" else block


def level_keys(trials: pd.DataFrame, by: By) -> NDArray[np.object_]:
    """Return the level of every trial as str, array of shape (trials,); one level for all where `by` is None."""
    if by is None:
        return np.full(len(trials), "all", dtype=object)
    columns = [trials[column].astype(str) for column in ((by,) if isinstance(by, str) else by)]
    return np.array(["/".join(parts) for parts in zip(*columns, strict=True)], dtype=object)


def level_word(by: By) -> str:
    """Return what a level is called.

    Examples
    --------
    >>> level_word("session"), level_word(("session", "run")), level_word(None)
    ('session', 'session/run', 'rows')
    """
    return "rows" if by is None else by if isinstance(by, str) else "/".join(by)


def restored_columns(by: Any) -> By:
    """Return `by` as it was before it went through JSON."""
    return tuple(by) if isinstance(by, list) else by


def level_rows(
    keys: NDArray[np.object_],
    rows: NDArray[np.int64],
    scope: str,
    most_rows: int,
    step: str,
    *,
    fewest: int = 1,
) -> dict[str, NDArray[np.int64]]:
    """Return, for every level, the rows that it is fitted on, in the order of the recording.

    Parameters
    ----------
    keys : array of str of shape (trials,)
        Of `level_keys`.
    rows : array of int
        Training rows.
    scope : {'train', 'heldout-block'}
        The latter takes all rows of a level that has fewer than `fewest` training rows.
    most_rows : int
        At most so many of a level's rows, evenly spaced, so that its epochs fit into memory.
    step : str
        Name of the step, for errors.
    fewest : int

    Raises
    ------
    InputError
        There are no training rows.
    """
    found = {}
    for level in np.unique(keys if scope == "heldout-block" else keys[rows]):
        inside = np.sort(rows[keys[rows] == level])
        if len(inside) < fewest and scope == "heldout-block":
            inside = np.flatnonzero(keys == level)
        few = np.unique(np.linspace(0, len(inside) - 1, most_rows).round().astype(int))
        found[str(level)] = inside[few]
    if not found:
        raise InputError(f"recipe step {step!r}", expected="training rows", found="none")
    return found


def level_places(keys: NDArray[np.object_], levels: Sequence[str], by: By, step: str) -> NDArray[np.int64]:
    """Return the index into `levels` of every key; a level that the step was not fitted on is an error."""
    place = {level: k for k, level in enumerate(levels)}
    unknown = [key for key in keys if key not in place]
    if unknown:
        raise InputError(
            f"recipe step {step!r}",
            expected=f"rows of {level_word(by)} {', '.join(levels)}",
            found=f"{level_word(by)} {unknown[0]}",
            hint="a held-out block needs scope 'heldout-block'",
        )
    return np.array([place[key] for key in keys], np.int64)


def unfitted(step: str) -> InputError:
    """Return the error of a step that is applied before it was fitted."""
    return InputError(
        f"recipe step {step!r}", expected="a fitted step", found="an unfitted one", hint="call fit"
    )

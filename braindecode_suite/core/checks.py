"""Checks of arguments, built by a few helpers so that all messages read alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from braindecode_suite.core.errors import InputError, UnknownName


def check_option(name: str, value: object, options: Iterable[str]) -> None:
    """Raise unless `value` is one of `options`.

    Examples
    --------
    >>> check_option("level", "double", ["single", "mean-prediction"])
    Traceback (most recent call last):
    braindecode_suite.core.errors.UnknownName: `level`: expected one of mean-prediction, single; found 'double'
    """
    known = sorted(options)
    if value in known:
        return
    close = get_close_matches(str(value), known, n=1)
    raise UnknownName(
        f"`{name}`",
        expected=f"one of {', '.join(known)}",
        found=repr(value),
        hint=f"did you mean {close[0]!r}?" if close else "",
    )


def check_shape(name: str, array: Any, axes: str, **sizes: int) -> None:
    """Raise unless `array` has one axis per word of `axes`, with the sizes given.

    Parameters
    ----------
    name : str
        What the caller calls the array.
    array : array
        Anything with a ``shape``.
    axes : str
        Names of the axes, separated by spaces, e.g. ``"batch voxels"``.
    **sizes : int
        Expected length of some of the axes.

    Raises
    ------
    InputError
        If the number of axes or one of the lengths differs.

    Examples
    --------
    >>> import numpy as np
    >>> check_shape("x", np.zeros((2, 7)), "batch voxels", voxels=5)
    Traceback (most recent call last):
    braindecode_suite.core.errors.InputError: `x`: expected shape (batch, voxels=5); found (2, 7)
    """
    words, shape = axes.split(), tuple(array.shape)
    fits = len(words) == len(shape) and all(
        sizes.get(word, length) == length for word, length in zip(words, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(f"{word}={sizes[word]}" if word in sizes else word for word in words)
        found = "(" + ", ".join(str(length) for length in shape) + ")"
        raise InputError(f"`{name}`", expected=f"shape ({expected})", found=found)


def check_finite(name: str | Path, array: Any) -> None:
    """Raise if `array` holds NaN or infinity, saying how many and where the first is."""
    import numpy as np

    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            name,
            expected="finite values",
            found=f"{int(bad.sum())} NaN or infinite values, the first at {first}",
        )


def check_file(path: Path, what: str = "a file") -> Path:
    """Return `path` if it is a file, raise otherwise."""
    if not path.is_file():
        raise InputError(path, expected=what, found="a folder" if path.is_dir() else "nothing there")
    return path


def check_folder(path: Path, what: str = "a folder") -> Path:
    """Return `path` if it is a folder, raise otherwise."""
    if not path.is_dir():
        raise InputError(path, expected=what, found="a file" if path.is_file() else "nothing there")
    return path


def check_match(where: str | Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise if any entry of `expected` differs in `found`, naming both sides."""
    for key, value in expected.items():
        if found.get(key) != value:
            raise InputError(where, expected=f"{key} = {value!r}", found=f"{key} = {found.get(key)!r}")


def check_subject(subject: str | None, known: Collection[str]) -> str:
    """Return the subject that is meant: the one named, or the only one there is.

    Examples
    --------
    >>> check_subject(None, ["01"])
    '01'
    """
    if subject is None and len(known) > 1:
        raise InputError("`subject`", expected=f"one of {', '.join(known)}", found="none")
    subject = subject or next(iter(known))
    check_option("subject", subject, known)
    return subject

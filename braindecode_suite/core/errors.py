"""The errors a user can meet. Each names the argument or file, what was expected, what was found and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """The user's own input cannot be used: one line on stderr and exit code 2, never a traceback.

    Parameters
    ----------
    where : str or Path
        The file or the argument at fault.
    expected : str
        What would have been accepted.
    found : str
        What was there.
    hint : str, optional
        The way out.

    Examples
    --------
    >>> print(InputError("trials.tsv", expected="a column 'stimulus_id'", found="columns onset, run"))
    trials.tsv: expected a column 'stimulus_id'; found columns onset, run
    """

    def __init__(self, where: str | Path, *, expected: str, found: str, hint: str = "") -> None:
        self.where, self.expected, self.found, self.hint = str(where), expected, found, hint
        super().__init__(f"{where}: expected {expected}; found {found}" + (f" ({hint})" if hint else ""))


class MissingWeights(InputError):
    """A pretrained network is asked for whose weights are not on this machine."""


class MissingChannels(InputError):
    """A recording has no channels of the types that are asked for."""


class UnknownName(InputError, KeyError):
    """A name that no catalogue holds."""

    __str__ = ValueError.__str__


class LeakageError(ValueError):
    """A split does not keep apart what its protocol declares disjoint."""


class NonFiniteLoss(RuntimeError):
    """Training met NaN or infinity; the message holds the ids of the batch."""


@contextmanager
def about(what: str, hint: str) -> Iterator[None]:
    """Say in the input errors of a block what they are about, and the way out where they know none.

    Examples
    --------
    >>> with about("`minutes` 3", hint="give a larger amount"):
    ...     raise InputError("train", expected="rows", found="none")
    Traceback (most recent call last):
    braindecode_suite.core.errors.InputError: `minutes` 3, train: expected rows; found none. Hint: give a larger amount
    """
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{what}, {error.where}",
            expected=error.expected,
            found=error.found,
            hint=error.hint or hint,
        ) from error

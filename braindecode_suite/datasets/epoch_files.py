"""Epochs that were released as MNE's ``-epo.fif`` files, in parts of 2 GB or whole: read epoch by epoch where they lie."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import one_line

if TYPE_CHECKING:
    import mne


OF_RECORDINGS = ("tmin", "tmax", "highpass", "lowpass", "notch", "sfreq", "phase")
"""Options of continuous recordings, which released epochs cannot follow."""

PROBES = 32
"""Epochs that are read when files are opened, evenly spaced with the last: one that ends early shows there."""


def choose_files(wanted: str, there: Mapping[str, bool]) -> str:
    """Return what a subject is read from.

    Parameters
    ----------
    wanted : str
        Of the user; empty for the first that is there.
    there : mapping of str to bool
        Whether there are any, by the values of the option ``files``.

    Examples
    --------
    >>> choose_files("", {"raw": False, "epochs": True})
    'epochs'
    """
    *_, last = there
    first = next((kind for kind, found in there.items() if found), last)
    if wanted and not there[wanted]:
        raise InputError("option files", expected=first, found=wanted)
    return wanted or first


def refuse_recording_options(options: Config, names: Sequence[str]) -> None:
    """Raise where an option of continuous recordings was changed and released epochs are read: nothing filters or cuts these again."""
    for name in names:
        value, default = getattr(options, name), type(options).model_fields[name].default
        if value != default:
            raise InputError(
                f"option {name}",
                expected=f"{default}, the default, with epochs that were preprocessed before",
                found=str(value),
                hint="option files=raw reads continuous recordings",
            )


def open_epochs(path: Path) -> mne.BaseEpochs:
    """Open a file and those it was split into; headers and metadata are read, and some epochs to see that the files are whole.

    Raises
    ------
    InputError
        If a part is missing or damaged.
    """
    import mne

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            epochs = mne.read_epochs(path, proj=False, preload=False, verbose="error")
            for k in np.unique(np.linspace(0, len(epochs) - 1, PROBES).astype(int)):
                epochs.get_data(item=[k], copy=False, verbose="error")
            return epochs
        except Exception as error:  # whatever the reader trips over is in the file
            raise InputError(
                path, expected="whole epochs, with every part of a split file", found=one_line(error)
            ) from error


class EpochFileRows:
    """Some epochs and sensors of a file: shape (rows, sensors, times).

    A sensor with a sample that is not finite is NaN throughout that epoch, so that it is masked there; an epoch without any finite sensor
    is an error.

    Parameters
    ----------
    path : Path
    names : tuple of str
        Sensors.
    epochs : int array of shape (rows,)
        Which epoch of the file each row is.
    n_times : int
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, names: tuple[str, ...], epochs: np.ndarray, n_times: int) -> None:
        self.path, self.names, self.epochs = path, names, np.asarray(epochs, np.int64)
        self.shape = (len(self.epochs), len(names), n_times)
        self._file: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file out: a copy in another process opens its own."""
        return {**self.__dict__, "_file": None}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        numbers = np.arange(len(self))[rows]
        if numbers.ndim == 0:
            return np.asarray(self[numbers[None]][0])
        if not len(numbers):
            return np.zeros((0, *self.shape[1:]), np.float32)
        if self._file is None:
            self._file = open_epochs(self.path)
        wanted, place = np.unique(self.epochs[numbers], return_inverse=True)
        try:
            values = self._file.get_data(picks=list(self.names), item=wanted, copy=False, verbose="error")
        except Exception as error:  # whatever the reader trips over is in the file
            raise InputError(self.path, expected="whole epochs", found=one_line(error)) from error
        out: NDArray[np.float32] = np.asarray(values, np.float32)[place]
        broken = np.asarray(~np.isfinite(out).all(axis=2))
        out[broken] = np.nan
        empty = np.flatnonzero(broken.all(axis=1))
        if len(empty):
            row = int(self.epochs[numbers[empty[0]]])
            raise InputError(
                self.path, expected="a finite sensor in every epoch", found=f"none in epoch {row}"
            )
        return out

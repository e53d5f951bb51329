"""Images of the release by their 73k id, read when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.files import data_hash
from braindecode_suite.datasets.lab_files import DAMAGED
from braindecode_suite.datasets.nsd_files import short


class NSDStimuli:
    """Images of nsd_stimuli.hdf5 by the 0-based 73k id, as str.

    Parameters
    ----------
    path : Path
    attributes : DataFrame, optional
        Indexed by stimulus id.
    texts : dict of str to list of str, optional
        Captions.
    distractors : Path, optional
        HDF5 file of matched images: ``stimulus_id`` (images,) and ``images`` (images, n, height, width, 3).
    """

    def __init__(
        self,
        path: Path,
        attributes: pd.DataFrame | None = None,
        texts: Mapping[str, list[str]] | None = None,
        distractors: Path | None = None,
    ) -> None:
        self.path, self.attributes = path, attributes
        self._texts, self._distractors = dict(texts or {}), distractors
        self._matched: dict[str, int] | None = None
        self.n_images, self.height, self.width = read_brick_header(path)
        self.ids: Sequence[str] = [str(number) for number in range(self.n_images)]
        status = path.stat()
        self.fingerprint = data_hash([path.name, status.st_size, status.st_mtime_ns, self.n_images])

    def images(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return uint8 images of shape (len(ids), height, width, 3)."""
        numbers = np.array([self._number(i) for i in ids], int)
        if len(numbers) == 0:
            return np.zeros((0, self.height, self.width, 3), np.uint8)
        unique, back = np.unique(numbers, return_inverse=True)
        try:
            with h5py.File(self.path, "r") as file:
                found = np.asarray(file["imgBrick"][unique])
        except DAMAGED as error:
            raise InputError(self.path, expected="whole images", found=short(error)) from error
        return found[back]

    def captions(self, stimulus_id: str) -> list[str]:
        """Return the captions of one stimulus, an empty list where there are none."""
        return list(self._texts.get(stimulus_id, []))

    def distractors(self, stimulus_id: str) -> NDArray[np.uint8] | None:
        """Return images of shape (n, height, width, 3) matched to one stimulus, or None."""
        if self._distractors is None:
            return None
        with h5py.File(self._distractors, "r") as file:
            if self._matched is None:
                self._matched = {str(number): row for row, number in enumerate(file["stimulus_id"][:])}
            row = self._matched.get(stimulus_id)
            return None if row is None else np.asarray(file["images"][row])

    def _number(self, stimulus_id: str) -> int:
        if stimulus_id.isdecimal() and int(stimulus_id) < self.n_images:
            return int(stimulus_id)
        raise UnknownName(
            "stimulus id", expected=f"a 73k id from 0 to {self.n_images - 1}", found=repr(stimulus_id)
        )


def read_brick_header(path: Path) -> tuple[int, int, int]:
    """Return number, height and width of the images in nsd_stimuli.hdf5."""
    check_file(path, "the images of the experiment (nsd_stimuli.hdf5)")
    try:
        with h5py.File(path, "r") as file:
            if "imgBrick" not in file:
                raise InputError(
                    path, expected="a dataset 'imgBrick'", found=", ".join(file) or "an empty file"
                )
            shape, dtype = file["imgBrick"].shape, file["imgBrick"].dtype
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(
            path, expected="a whole HDF5 file", found=short(error), hint="download it again"
        ) from error
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
        raise InputError(
            path, expected="imgBrick of shape (images, height, width, 3), uint8", found=f"{shape}, {dtype}"
        )
    return int(shape[0]), int(shape[1]), int(shape[2])

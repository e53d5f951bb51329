"""Responses on their way into a model: training rows by image, standardised units, means over repeats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.study import Study

BLOCK = 1024
PRELOAD_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class UnitScaler:
    """``(x - mean) * gain`` for every unit, from training rows; a constant unit has gain zero.

    Attributes
    ----------
    mean, gain : array of float32 of shape (units,)
    """

    mean: np.ndarray
    gain: np.ndarray

    def apply(self, responses: np.ndarray) -> np.ndarray:
        """Scale responses of shape (rows, units)."""
        check_shape("responses", responses, "rows units", units=len(self.mean))
        return (responses - self.mean) * self.gain


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Which rows of a study show which image, in order of first appearance.

    Attributes
    ----------
    ids : object array of str of shape (images,)
    rows : list of int arrays
        Rows of the study that show each image.
    """

    ids: np.ndarray
    rows: list[np.ndarray]

    @classmethod
    def of(cls, study: Study, rows: np.ndarray) -> ImageRows:
        """Group `rows` of `study` by stimulus id."""
        groups: dict[str, list[int]] = {}
        for row, stimulus_id in zip(rows, study.stimulus_ids[rows], strict=True):
            groups.setdefault(stimulus_id, []).append(int(row))
        return cls(np.array(list(groups), dtype=object), [np.array(g) for g in groups.values()])

    def __len__(self) -> int:
        return len(self.ids)


def read_blocks(study: Study, rows: np.ndarray, block: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (places in `rows`, their preprocessed responses of shape (rows, units)), block by block."""
    for start in range(0, len(rows), block):
        places = slice(start, min(start + block, len(rows)))
        yield places, study.read(rows[places])


def fit_scaler(study: Study, images: ImageRows, *, weight_by_signal: bool = True) -> UnitScaler:
    """Standardise units by training rows; optionally favour units whose repeats agree.

    With ``weight_by_signal`` a standardised unit is multiplied by the square root of its signal share, estimated from the
    repeats of training images as one minus the variance within images over the total: under the same ridge penalty a
    noisy unit then counts for less. Without repeats all units count the same.

    Parameters
    ----------
    study : Study
    images : ImageRows
        Training rows only.
    weight_by_signal : bool

    Returns
    -------
    UnitScaler
    """
    rows = np.sort(np.concatenate(images.rows))
    image_of = {int(row): k for k, group in enumerate(images.rows) for row in group}
    index = np.array([image_of[int(row)] for row in rows])
    counts = np.bincount(index, minlength=len(images))
    shift = study.read(rows[:1])[0].astype(np.float64)
    total, square = np.zeros(len(shift)), np.zeros(len(shift))
    repeated = weight_by_signal and int(counts.max()) > 1
    sums = np.zeros((len(images), len(shift)), np.float32) if repeated else None
    for places, block in read_blocks(study, rows):
        centred = block - shift
        total += centred.sum(axis=0)
        square += np.square(centred).sum(axis=0)
        if sums is not None:
            np.add.at(sums, index[places], centred.astype(np.float32))
    mean = total / len(rows)
    variance = np.maximum(square / len(rows) - mean**2, 0)
    alive = variance > 1e-10 * np.maximum(square / len(rows), 1e-30)
    gain = np.where(alive, 1 / np.sqrt(np.where(alive, variance, 1)), 0)
    if sums is not None:
        between = (np.square(sums, dtype=np.float64) / counts[:, None]).sum(axis=0)
        within = (square - between) / max(len(rows) - len(images), 1)
        share = 1 - within / np.where(alive, variance * len(rows) / (len(rows) - 1), 1)
        gain = gain * np.sqrt(np.clip(share, 0.01, 1))
    if study.valid is not None:
        gain = np.where(study.valid[study.kept], gain, 0)
    return UnitScaler((mean + shift).astype(np.float32), gain.astype(np.float32))


def image_means(study: Study, images: ImageRows, scaler: UnitScaler) -> np.ndarray:
    """Return scaled responses averaged over the repeats of each image, of shape (images, units), float32."""
    means = np.zeros((len(images), len(scaler.mean)), np.float32)
    rows = np.concatenate(images.rows)
    image = np.repeat(np.arange(len(images)), [len(group) for group in images.rows])
    order = np.argsort(rows)
    for places, block in read_blocks(study, rows[order]):
        np.add.at(means, image[order][places], scaler.apply(block))
    return means / np.array([len(group) for group in images.rows], np.float32)[:, None]


class SubjectResponses:
    """Scaled responses of one subject by row; small studies are held in memory.

    Parameters
    ----------
    study : Study
    scaler : UnitScaler
    rows : int array
        Rows that will be asked for.
    """

    def __init__(self, study: Study, scaler: UnitScaler, rows: np.ndarray) -> None:
        self.study, self.scaler = study, scaler
        self.kept, self.values = np.sort(rows), None
        if len(rows) * len(scaler.mean) * 4 <= PRELOAD_BYTES:
            self.values = np.empty((len(rows), len(scaler.mean)), np.float32)
            for places, block in read_blocks(study, self.kept):
                self.values[places] = scaler.apply(block)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return scaled responses of shape (rows, units)."""
        if self.values is not None:
            return self.values[np.searchsorted(self.kept, rows)]
        order = np.argsort(rows)  # ascending reads are kinder to a disk
        scaled = np.empty((len(rows), len(self.scaler.mean)), np.float32)
        scaled[order] = self.scaler.apply(self.study.read(rows[order]))
        return scaled


class _FlatRows:
    """Responses (trials, channels, times), preprocessed, with the times of a channel side by side."""

    def __init__(self, study: Study, every: int = 1) -> None:
        n_trials, channels, times = len(study.responses), int(study.kept.sum()), study.responses.shape[2]
        self.starts = np.arange(0, times, every)
        self.counts = np.diff([*self.starts, times]).astype(np.float32)
        self.study, self.dtype = study, np.dtype(np.float32)
        self.shape = (n_trials, channels * len(self.starts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        values = self.study.read(rows)
        if len(self.starts) < values.shape[2]:
            values = np.add.reduceat(values, self.starts, axis=2) / self.counts
        return values.reshape(len(values), -1)


def flatten_times(study: Study, *, every: int = 1) -> tuple[Study, tuple[int, ...]]:
    """Return a study of (trials, units) whose units are channels with their times side by side, and the shape of a response.

    A study without times comes back as it is. The recipe has been applied in what comes back; the space is still that of the
    channels.

    Parameters
    ----------
    study : Study
    every : int
        So many neighbouring samples are averaged.

    Raises
    ------
    InputError
        If rows differ in length.
    """
    shape = tuple(int(n) for n in study.responses.shape[1:])
    if len(shape) == 1 and hasattr(study.responses, "lengths"):
        raise InputError(
            f"{study.dataset} sub-{study.subject}",
            expected="responses of one length",
            found="time series of differing length",
        )
    if len(shape) == 1:
        return study, shape
    rows = _FlatRows(study, every)
    n_times = len(rows.starts)
    valid = None if study.valid is None else np.repeat(study.valid[study.kept], n_times)
    flat = replace(study, responses=rows, recipe=None, noise=None, valid=valid)
    return flat, (shape[0], n_times)

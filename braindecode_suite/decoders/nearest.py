"""The control ``nearest-train``: the training image nearest to a predicted latent.

A generator that only looks up what it was trained on would do no better than this. The images it was itself trained on
are searched too, where they can be drawn again: an index beside its weights holds their embeddings as int8 and the seeds
they are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from braindecode_suite.core.checks import check_file, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents, check_same_target
from braindecode_suite.core.protocols import Retriever

BLOCK = 8192
"""Rows of an index compared at once."""

ImagesOf = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, eq=False)
class TrainingIndex:
    """What a generator was trained on: embeddings and the seeds that draw the images again.

    Attributes
    ----------
    seeds : array of int64 of shape (images,)
    embeddings : array of int8 of shape (images, width)
    scale : array of float32, broadcast against `embeddings`
        ``embeddings * scale`` are the latents.
    target : str
        Name of their target.
    """

    seeds: np.ndarray
    embeddings: np.ndarray
    scale: np.ndarray
    target: str

    def latents(self, rows: slice) -> Latents:
        """Return the latents of some rows; their ids are the seeds."""
        values = self.embeddings[rows].astype(np.float32) * self.scale[rows]
        ids = np.array([str(seed) for seed in self.seeds[rows]], dtype=object)
        return Latents(values[:, None], ids, self.target, "true")


def read_training_index(path: Path, target: str) -> TrainingIndex:
    """Read ``training_index.safetensors``: ``seeds``, ``embeddings`` (int8) and ``scale``.

    Parameters
    ----------
    path : Path
    target : str
        The target its embeddings belong to (the generator's ``inputs["image"]``).
    """
    try:
        arrays = load_file(check_file(path, "an index of a generator's training images"))
        seeds, embeddings, scale = arrays["seeds"], arrays["embeddings"], arrays["scale"]
    except (SafetensorError, KeyError) as error:
        raise InputError(
            path, expected="safetensors with seeds, embeddings and scale", found=str(error)
        ) from error
    check_shape(f"{path}: seeds", seeds, "images")
    check_shape(f"{path}: embeddings", embeddings, "images width", images=len(seeds))
    scale = scale.astype(np.float32)
    if scale.ndim == 1 and len(scale) == len(seeds):
        scale = scale[:, None]
    return TrainingIndex(seeds, embeddings, np.broadcast_to(scale, embeddings.shape), target)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest training image of each query.

    Attributes
    ----------
    ids : object array of str of shape (queries,)
        Stimulus id, or the seed of one of the generator's own training images.
    source : object array of str of shape (queries,)
        ``study`` or ``generator``.
    similarity : array of shape (queries,)
    images : array of uint8 of shape (queries, height, width, 3)
    """

    ids: np.ndarray
    source: np.ndarray
    similarity: np.ndarray
    images: np.ndarray


class NearestTrain:
    """Find the training image whose latent is most similar to a predicted one.

    Parameters
    ----------
    retriever : Retriever
        Fitted on training rows; says what similar means.
    train : Latents
        True latents of the study's training images, test images left out.
    images_of : callable
        Stimulus ids to uint8 images.
    index : TrainingIndex, optional
        The generator's own training images.
    redraw : callable, optional
        Seeds to uint8 images, of the size of those of `images_of`; needed with `index`.
    """

    def __init__(
        self,
        retriever: Retriever,
        train: Latents,
        images_of: ImagesOf,
        index: TrainingIndex | None = None,
        redraw: Callable[[Sequence[int]], np.ndarray] | None = None,
    ) -> None:
        if (index is None) != (redraw is None):
            raise InputError(
                "`index`, `redraw`",
                expected="both or neither",
                found="an index that cannot be drawn" if redraw is None else "a way to draw without an index",
            )
        if train.kind != "true":
            raise InputError("`train`", expected="true latents of training images", found="predicted ones")
        self.retriever, self.train, self.images_of, self.index, self.redraw = (
            retriever,
            train,
            images_of,
            index,
            redraw,
        )

    def find(self, predicted: Latents) -> Nearest:
        """Return the nearest training image of each row of `predicted`, over the study and the generator's own."""
        check_same_target(self.train, predicted)
        best, rows = self._search(predicted, self.train)
        ids, source = self.train.ids[rows].copy(), np.full(len(predicted), "study", dtype=object)
        if self.index is not None:
            for start in range(0, len(self.index.seeds), BLOCK):
                part = self.index.latents(slice(start, start + BLOCK))
                similarity, rows = self._search(predicted, part)
                better = similarity > best
                best, ids[better], source[better] = (
                    np.maximum(best, similarity),
                    part.ids[rows[better]],
                    "generator",
                )
        return Nearest(ids, source, best, self._images(ids, source))

    def _search(self, predicted: Latents, gallery: Latents) -> tuple[np.ndarray, np.ndarray]:
        similarity = self.retriever.similarity(predicted, gallery)  # (queries, gallery)
        rows = similarity.argmax(axis=1)
        return similarity[np.arange(len(rows)), rows], rows

    def _images(self, ids: np.ndarray, source: np.ndarray) -> np.ndarray:
        own = source == "generator"
        drawn = (
            self.redraw([int(seed) for seed in ids[own]]) if self.redraw is not None and own.any() else None
        )
        shown = self.images_of(list(ids[~own])) if not own.all() else None
        some = shown if shown is not None else drawn
        assert some is not None
        out = np.empty((len(ids), *some.shape[1:]), np.uint8)
        for mask, images in ((~own, shown), (own, drawn)):
            if images is not None:
                check_shape(
                    "training images",
                    images,
                    "rows height width colours",
                    height=out.shape[1],
                    width=out.shape[2],
                )
                out[mask] = images
        return out

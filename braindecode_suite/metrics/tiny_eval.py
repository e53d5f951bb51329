"""What `tiny-eval`, the scoring network of the embedded default, sees in pictures of simulated scenes.

It is another architecture, trained for another objective, than the target and the generator, so that its scores are not
circular. Its penultimate features serve two-way identification, its answers the errors of the main object.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.tiny_eval import TinyEval, load_tiny_eval
from braindecode_suite.metrics.images import Protocol, as_unit_images, resize
from braindecode_suite.metrics.scenes import MainObjects

BATCH, SIDE = 128, 64


def tiny_eval_features(
    images: ArrayLike, model: TinyEval | None = None, *, protocol: Protocol = "native"
) -> NDArray[np.float32]:
    """Return the penultimate features, the ones of `identification` with scorer ``tiny-eval``.

    Parameters
    ----------
    images : array of shape (images, height, width, 3)
        uint8, or floats in [0, 1]; brought to 64 x 64.
    model : TinyEval, optional
        By default the package's own is loaded.
    protocol : {"native", "nsd"}
        `nsd` resizes to 256 pixels first, as for the published networks.

    Returns
    -------
    array of float32 of shape (images, features)
    """
    model = load_tiny_eval() if model is None else model
    with torch.no_grad():
        return np.concatenate([model.features(batch).numpy() for batch in _batches(images, protocol)])


def read_main_objects(
    images: ArrayLike, model: TinyEval | None = None, *, protocol: Protocol = "native"
) -> MainObjects:
    """Read category, colour, position and size of each picture's main object, and its place.

    Parameters
    ----------
    images : array of shape (images, height, width, 3)
    model : TinyEval, optional
    protocol : {"native", "nsd"}

    Returns
    -------
    MainObjects
        To be compared with the scenes' own by `scene_errors`. Run it on the true pictures too: the network errs there.
    """
    model = load_tiny_eval() if model is None else model
    with torch.no_grad():
        answers = [model(batch) for batch in _batches(images, protocol)]
    whole = {name: torch.cat([answer[name] for answer in answers]).numpy() for name in answers[0]}

    def named(head: str, names: list[str]) -> NDArray[np.str_]:
        return np.array(names)[whole[head].argmax(axis=1)]

    return MainObjects(
        category=named("category", model.categories),
        colour=named("colour", model.colours),
        position=whole["position"].astype(np.float64),
        size=whole["size"].astype(np.float64),
        place=named("place", model.places),
    )


def _batches(images: ArrayLike, protocol: Protocol) -> Iterator[torch.Tensor]:
    whole = np.asarray(images)
    if whole.ndim != 4 or not len(whole):
        raise InputError("`images`", expected="shape (images, height, width, 3)", found=str(whole.shape))
    for start in range(0, len(whole), BATCH):
        pixels = as_unit_images("images", whole[start : start + BATCH])
        if protocol == "nsd":
            pixels = resize(pixels, 256)
        pixels = np.clip(resize(pixels, SIDE), 0, 1)
        yield torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))

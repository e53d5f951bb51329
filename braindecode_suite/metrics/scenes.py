"""Errors of the decoded main object where the truth is known: simulated scenes.

The attributes of a picture are read by the scoring network (`tiny-eval`), the truth comes from the scene's description.
The network errs on perfect pictures too: print its errors on the true images beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.metrics.classification import accuracy
from braindecode_suite.metrics.correlation import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class MainObjects:
    """The main object (the one that covers most pixels) of each image.

    Attributes
    ----------
    category, colour : array of shape (images,)
        Names, or indices into the same lists for truth and decoded.
    position : array of shape (images, 2)
        Centre (x, y) as fractions of the image's width.
    size : array of shape (images,)
        Side of the object's box as a fraction of the image's width.
    place : array of shape (images,), optional
        Name of the place on which the object is.
    """

    category: NDArray[np.generic]
    colour: NDArray[np.generic]
    position: Floats
    size: Floats
    place: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        n = len(self.category)
        check_shape("category", self.category, "images")
        check_shape("colour", self.colour, "images", images=n)
        check_shape("position", self.position, "images xy", images=n, xy=2)
        check_shape("size", self.size, "images", images=n)
        if self.place is not None:
            check_shape("place", self.place, "images", images=n)
        check_finite("`position`", self.position)
        check_finite("`size`", self.size)

    def __len__(self) -> int:
        return len(self.category)


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneErrors:
    """What is wrong with each decoded main object, one value an image.

    Attributes
    ----------
    category_right, colour_right : array of shape (images,)
        1 or 0; the means are accuracies.
    position_error : array of shape (images,)
        Euclidean distance of the centres, as a fraction of the image's width.
    size_error : array of shape (images,)
        |log2(decoded size / true size)|: 1 is half or double.
    place_right : array of shape (images,) or None
        1 or 0; None unless both sides name the place.
    """

    category_right: Floats
    colour_right: Floats
    position_error: Floats
    size_error: Floats
    place_right: Floats | None


def scene_errors(truth: MainObjects, decoded: MainObjects) -> SceneErrors:
    """Compare decoded main objects with the true ones.

    Parameters
    ----------
    truth, decoded : MainObjects
        Of the same images in the same order.

    Returns
    -------
    SceneErrors
    """
    check_shape("decoded.category", decoded.category, "images", images=len(truth))
    smallest = 1e-3  # a decoded size of 0 or below is as wrong as the smallest object that can be drawn
    ratio = np.maximum(decoded.size, smallest) / np.maximum(truth.size, smallest)
    place_right = None
    if truth.place is not None and decoded.place is not None:
        place_right = accuracy(truth.place, decoded.place)
    return SceneErrors(
        category_right=accuracy(truth.category, decoded.category),
        colour_right=accuracy(truth.colour, decoded.colour),
        position_error=np.linalg.norm(np.asarray(decoded.position) - np.asarray(truth.position), axis=1),
        size_error=np.abs(np.log2(ratio)),
        place_right=place_right,
    )

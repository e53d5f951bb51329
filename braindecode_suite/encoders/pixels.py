"""Pixels as a latent space: the target of linear reconstruction, where an image is its own latent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.study import Stimuli


class GreyPixels:
    """The grey values, 0 to 1, of images of one size, row by row.

    Parameters
    ----------
    height, width : int
        Size of the images; others are refused, never resized.

    Attributes
    ----------
    name : str
        ``grey-pixels-<height>x<width>``.
    tokens, width : int
        One token as wide as there are pixels.

    Examples
    --------
    >>> GreyPixels(2, 3).embed_images(np.full((1, 2, 3, 3), 255, np.uint8)).tolist()
    [[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]]
    """

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)
        self.name = f"grey-pixels-{height}x{width}"
        self.tokens, self.width = 1, height * width

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents:
        """Return one row for each unique id, in order of first appearance; nothing is cached, reading is the work."""
        unique = list(dict.fromkeys(str(i) for i in ids))
        if not unique:
            raise InputError("`ids`", expected="at least one stimulus", found="none")
        values = self.embed_images(stimuli.images(unique))
        return Latents(values, np.array(unique, dtype=object), self.name, "true")

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Return the grey values of images.

        Parameters
        ----------
        images : array of uint8 of shape (rows, height, width, 3)
            Their three channels must be equal.

        Returns
        -------
        array of float32 of shape (rows, 1, height * width)
        """
        height, width = self.shape
        check_shape("images", images, "rows height width channels", height=height, width=width, channels=3)
        if images.dtype != np.uint8:
            raise InputError("`images`", expected="uint8", found=str(images.dtype))
        if (images != images[..., :1]).any():
            raise InputError("`images`", expected="grey images, three equal channels", found="colour")
        return (images[..., 0].reshape(len(images), 1, -1) / np.float32(255)).astype(np.float32)

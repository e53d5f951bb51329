"""Near-duplicates across a split: images that a perceptual hash cannot tell apart.

The hash keeps the signs of 64 low spatial frequencies about their median (Zauner 2010, the `imagehash` library): it
forgives scaling and compression. Uniform images have no structure to hash and all look alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError

BITS = 64
MAX_DISTANCE = 6
"""Bits by which near-duplicates may differ. Unrelated photographs differ by 32 on average (spread 4, and never by less
than 16 among 12,561 pairs of COCO); strong compression or scaling changes at most 2."""

Hashes = NDArray[np.uint64]


def perceptual_hashes(images: Iterable[Any]) -> Hashes:
    """Hash each image to 64 bits.

    Parameters
    ----------
    images : iterable of array of shape (height, width) or (height, width, 3), uint8
        Read one at a time, so that a generator over a large set needs no memory.

    Returns
    -------
    array of uint64 of shape (images,)
    """
    return np.array([_hash(image) for image in images], dtype=np.uint64)


def hamming(first: Hashes, second: Hashes) -> NDArray[np.uint8]:
    """Count the differing bits of all pairs of hashes.

    Parameters
    ----------
    first : array of uint64 of shape (first images,)
    second : array of uint64 of shape (second images,)

    Returns
    -------
    array of uint8 of shape (first images, second images)

    Examples
    --------
    >>> import numpy as np
    >>> hamming(np.array([0b1011], np.uint64), np.array([0b1011, 0b0001], np.uint64)).tolist()
    [[0, 2]]
    """
    check_shape("first", first, "images")
    check_shape("second", second, "images")
    agreement = _signs(first) @ _signs(second).T  # bits that agree minus bits that differ
    return ((BITS - agreement) / 2).astype(np.uint8)


def near_duplicates(
    first: Hashes, second: Hashes | None = None, *, max_distance: int = MAX_DISTANCE
) -> NDArray[np.int64]:
    """Return the index pairs that differ by at most `max_distance` bits.

    Parameters
    ----------
    first : array of uint64 of shape (first images,)
        E.g. of the test images.
    second : array of uint64 of shape (second images,), optional
        E.g. of the training images; by default the pairs lie within `first`, each once.
    max_distance : int

    Returns
    -------
    array of int of shape (pairs, 2)
        Index into `first` and into `second`, sorted.
    """
    if not 0 <= max_distance < BITS:
        raise InputError("`max_distance`", expected=f"between 0 and {BITS - 1} bits", found=str(max_distance))
    others = first if second is None else second
    found = []
    for start in range(0, len(first), 256):
        close = np.argwhere(hamming(first[start : start + 256], others) <= max_distance)
        found.append(close + np.array([start, 0]))
    pairs = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    return pairs[pairs[:, 0] < pairs[:, 1]] if second is None else pairs


def near_duplicate_ids(
    test_ids: Sequence[str],
    test_hashes: Hashes,
    train_ids: Sequence[str],
    train_hashes: Hashes,
    *,
    max_distance: int = MAX_DISTANCE,
) -> list[tuple[str, str]]:
    """Return (test id, training id) of the near-duplicates across a split, for the leakage card.

    Scores are given with and without these test images; a published test set is never pruned.
    """
    check_shape("test_hashes", test_hashes, "images", images=len(test_ids))
    check_shape("train_hashes", train_hashes, "images", images=len(train_ids))
    pairs = near_duplicates(test_hashes, train_hashes, max_distance=max_distance)
    return [(test_ids[i], train_ids[j]) for i, j in pairs]


def _signs(hashes: Hashes) -> NDArray[np.float32]:
    """Return the bits of each hash as +1 and -1, of shape (images, 64)."""
    bits = np.unpackbits(np.ascontiguousarray(hashes, dtype=np.uint64).view(np.uint8).reshape(-1, 8), axis=1)
    return 1 - 2 * bits.astype(np.float32)


def _hash(image: Any) -> np.uint64:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise InputError(
            "`images`",
            expected="uint8 arrays of shape (height, width) or (height, width, 3)",
            found=f"{array.dtype} of shape {array.shape}",
        )
    bits = imagehash.phash(Image.fromarray(array)).hash.ravel()
    return np.packbits(bits).view(">u8")[0].astype(np.uint64)

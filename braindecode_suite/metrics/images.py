"""Pixel scores of reconstructed images, and the three images without a brain that stand beside them.

Images are arrays of shape (images, height, width, 3), or (images, height, width) for grey ones, float in [0, 1] or
uint8. Floats outside [0, 1] are refused, so that an image in [-1, 1] cannot be scored by mistake: clip first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from braindecode_suite.core.checks import check_finite, check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats, pairwise_pearson, rowwise_pearson

Protocol = Literal["native", "nsd"]
PROTOCOLS = ("native", "nsd")
BLOCK = 16  # images held at their scored size at once

# skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
SSIM_SIGMA, SSIM_TRUNCATE, SSIM_RADIUS = 1.5, 3.5, 5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def as_unit_images(name: str, images: Any) -> NDArray[np.floating[Any]]:
    """Return images as floats in [0, 1]; uint8 is divided by 255, anything outside the range is refused.

    Parameters
    ----------
    name : str
        What the caller calls them.
    images : array of shape (images, height, width) or (images, height, width, 3)

    Returns
    -------
    array of the same shape, float32 or float64
    """
    array = np.asarray(images)
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
        raise InputError(
            f"`{name}`",
            expected="shape (images, height, width) or (images, height, width, 3)",
            found=str(array.shape),
        )
    if array.dtype == np.uint8:
        return (array / np.float32(255)).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"`{name}`", expected="uint8, or floats in [0, 1]", found=f"type {array.dtype}")
    check_finite(f"`{name}`", array)
    if array.size and (array.min() < -1e-6 or array.max() > 1 + 1e-6):
        raise InputError(
            f"`{name}`",
            expected="values in [0, 1]",
            found=f"values from {array.min():.3g} to {array.max():.3g}",
            hint="rescale, or clip with np.clip(images, 0, 1), before scoring",
        )
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def resize(images: NDArray[np.floating[Any]], size: int) -> NDArray[np.floating[Any]]:
    """Resize to size x size, bilinear without antialiasing, as the published NSD scores did (torchvision below 0.17).

    Parameters
    ----------
    images : array of shape (images, height, width[, 3])
    size : int

    Returns
    -------
    array of shape (images, size, size[, 3])
    """
    channels_first = torch.from_numpy(np.ascontiguousarray(_with_channels(images).transpose(0, 3, 1, 2)))
    out = torch.nn.functional.interpolate(
        channels_first, size=(size, size), mode="bilinear", align_corners=False, antialias=False
    )
    resized = out.numpy().transpose(0, 2, 3, 1)
    return resized if images.ndim == 4 else resized[..., 0]


def prepare(truth: Any, recon: Any, protocol: Protocol = "native") -> tuple[NDArray[Any], NDArray[Any]]:
    """Check a pair of image sets and bring them to the size at which they are scored.

    `native` keeps the size; `nsd` resizes to 256 and then to 425 pixels, as the published eight scores do.
    """
    check_option("protocol", protocol, PROTOCOLS)
    a, b = as_unit_images("truth", truth), as_unit_images("recon", recon)
    if a.shape[3:] != b.shape[3:] or (protocol == "native" and a.shape[1:] != b.shape[1:]):
        raise InputError(
            "`recon`",
            expected=f"images of shape {a.shape[1:]} like `truth`",
            found=str(b.shape[1:]),
            hint="resize one of them, or score with protocol='nsd'",
        )
    if protocol == "nsd":
        a, b = resize(resize(a, 256), 425), resize(resize(b, 256), 425)
    return a, b


def pixcorr(truth: Any, recon: Any, *, protocol: Protocol = "native") -> Floats:
    """Correlate the pixels of each reconstruction with those of its truth (PixCorr).

    Parameters
    ----------
    truth, recon : array of shape (images, height, width[, 3])
    protocol : {"native", "nsd"}

    Returns
    -------
    array of shape (images,)
        Pearson's r per image: 0 where only the reconstruction is uniform, NaN where the truth is.

    Notes
    -----
    The value depends on what the images have in common: read it beside `mean_image`, `flat_grey` and `blurred`.
    """
    blocks = _aligned_blocks(truth, recon, protocol)
    return np.concatenate([rowwise_pearson(a.reshape(len(a), -1), b.reshape(len(b), -1)) for a, b in blocks])


def pixcorr_pairs(truth: Any, recon: Any, *, protocol: Protocol = "native") -> Floats:
    """Correlate the pixels of every reconstruction with those of every truth, for permutations and pixel identification.

    Returns
    -------
    array of shape (reconstructions, truths)
    """
    a, b = prepare(truth, recon, protocol)
    return pairwise_pearson(a.reshape(len(a), -1), b.reshape(len(b), -1))


def rgb_to_grey(images: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return luminance, 0.2125 R + 0.7154 G + 0.0721 B, as scikit-image's ``rgb2gray``; grey images pass through."""
    return images if images.ndim == 3 else images @ np.array([0.2125, 0.7154, 0.0721], dtype=images.dtype)


def ssim(truth: Any, recon: Any, *, protocol: Protocol = "native") -> Floats:
    """Structural similarity of each reconstruction with its truth: two-dimensional, on luminance.

    Gaussian weights of sigma 1.5 (11 x 11), population covariance, data range 1, K1 = 0.01, K2 = 0.03: what
    scikit-image 0.20 and later computes for a grey image (earlier versions averaged one-dimensional columns).

    Parameters
    ----------
    truth, recon : array of shape (images, height, width[, 3])
    protocol : {"native", "nsd"}

    Returns
    -------
    array of shape (images,)
    """
    blocks = _aligned_blocks(truth, recon, protocol)
    return np.concatenate([_ssim_of(_local_moments(a), _local_moments(b)) for a, b in blocks])


def ssim_pairs(truth: Any, recon: Any, *, protocol: Protocol = "native") -> Floats:
    """Structural similarity of every reconstruction with every truth.

    Returns
    -------
    array of shape (reconstructions, truths)
    """
    a, b = prepare(truth, recon, protocol)
    moments = _local_moments(a)
    return np.stack([_ssim_of(moments, _local_moments(y[None])) for y in b])


def mean_image(train: Any, n: int) -> NDArray[np.floating[Any]]:
    """Return `n` copies of the mean training image, the control `mean-image`.

    Parameters
    ----------
    train : array of shape (training images, height, width[, 3])
    n : int

    Returns
    -------
    array of shape (n, height, width[, 3])
        A read-only view: no memory is spent on the copies.
    """
    images = as_unit_images("train", train)
    mean = images.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.broadcast_to(mean, (n, *mean.shape))


def flat_grey(truth: Any, level: float = 0.5) -> NDArray[np.floating[Any]]:
    """Return uniform images shaped like `truth`, the control `flat-grey`. Its PixCorr is 0 by our rule."""
    return np.full(np.asarray(truth).shape, level, dtype=np.float32)


def blurred(truth: Any, width_fraction: float = 1 / 16) -> NDArray[np.floating[Any]]:
    """Return the truth blurred by a Gaussian, the control `blurred-truth`: all of the layout and none of the detail.

    Parameters
    ----------
    truth : array of shape (images, height, width[, 3])
    width_fraction : float
        Standard deviation of the Gaussian as a fraction of the image's width.

    Returns
    -------
    array of the same shape
    """
    images = as_unit_images("truth", truth)
    sigma = width_fraction * images.shape[2]
    return gaussian_filter(images, sigma=(0, sigma, sigma, 0)[: images.ndim], mode="nearest")


def _with_channels(images: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return images if images.ndim == 4 else images[..., None]


def _aligned_blocks(
    truth: Any, recon: Any, protocol: Protocol
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield prepared pairs a few images at a time: a thousand at 425 pixels would take gigabytes."""
    truth, recon = np.asarray(truth), np.asarray(recon)
    if len(truth) != len(recon) or not len(truth):
        raise InputError("`recon`", expected=f"{len(truth)} images, one per truth", found=f"{len(recon)}")
    for start in range(0, len(truth), BLOCK):
        yield prepare(truth[start : start + BLOCK], recon[start : start + BLOCK], protocol)


def _smooth(images: Floats) -> Floats:
    sigma = (0, SSIM_SIGMA, SSIM_SIGMA)
    smoothed: Floats = gaussian_filter(images, sigma=sigma, truncate=SSIM_TRUNCATE, mode="reflect")
    return smoothed


def _local_moments(images: NDArray[np.floating[Any]]) -> tuple[Floats, Floats, Floats]:
    """Return luminance, its local mean and its local variance, each (images, height, width)."""
    if min(images.shape[1:3]) < 2 * SSIM_RADIUS + 1:
        raise InputError(
            "`truth`",
            expected=f"images of at least {2 * SSIM_RADIUS + 1} pixels a side for SSIM",
            found=f"{images.shape[1]} x {images.shape[2]}",
        )
    x = rgb_to_grey(images).astype(np.float64)
    mean = _smooth(x)
    return x, mean, _smooth(x * x) - mean**2


def _ssim_of(first: tuple[Floats, Floats, Floats], second: tuple[Floats, Floats, Floats]) -> Floats:
    """Return SSIM per image from local moments; `second` may hold a single image."""
    (x, mean_x, var_x), (y, mean_y, var_y) = first, second
    covariance = _smooth(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)) / (
        (mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2)
    )
    inside = similarity[:, SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]  # windows that see no border
    result: Floats = inside.mean(axis=(1, 2))
    return result

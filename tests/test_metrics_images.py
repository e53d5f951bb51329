"""Pixel scores against scipy and scikit-image, and their edge cases."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import pearsonr
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from skimage.transform import resize as skimage_resize

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import pairwise_pearson, rowwise_pearson
from braindecode_suite.metrics.images import (
    blurred,
    flat_grey,
    mean_image,
    pixcorr,
    pixcorr_pairs,
    resize,
    ssim,
    ssim_pairs,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def scenes(rng, n, size=32, channels=True):
    """Smooth random images in [0, 1]."""
    coarse = rng.random((n, 4, 4, 3)[: 4 if channels else 3])
    return resize(coarse, size).clip(0, 1)


def reference_ssim(a, b):
    return structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )


@pytest.mark.parametrize("channels", [True, False])
def test_pixcorr_matches_scipy(rng, channels):
    truth, recon = scenes(rng, 20, channels=channels), scenes(rng, 20, channels=channels)
    expected = [pearsonr(a.ravel(), b.ravel())[0] for a, b in zip(truth, recon, strict=True)]
    assert_allclose(pixcorr(truth, recon), expected, rtol=1e-9)


def test_uint8_images_score_as_the_same_images_in_floats(rng):
    truth, recon = (rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8) for _ in range(2))
    assert_allclose(pixcorr(truth, recon), pixcorr(truth / 255, recon / 255), rtol=1e-6)
    assert_allclose(ssim(truth, recon), ssim(truth / 255, recon / 255), atol=1e-6)


@pytest.mark.parametrize("size", [28, 33])
def test_grey_ssim_matches_scikit_image(rng, size):
    truth, recon = rng.random((4, size, size)), rng.random((4, size, size))
    recon[1] = 0.8 * truth[1] + 0.1
    expected = [reference_ssim(a, b) for a, b in zip(truth, recon, strict=True)]
    assert_allclose(ssim(truth, recon), expected, rtol=1e-10)


def test_colour_ssim_is_two_dimensional_on_luminance(rng):
    truth, recon = scenes(rng, 3), scenes(rng, 3)
    expected = [reference_ssim(rgb2gray(a), rgb2gray(b)) for a, b in zip(truth, recon, strict=True)]
    assert_allclose(ssim(truth, recon), expected, rtol=1e-9)


def test_ssim_of_an_image_with_itself_is_one(rng):
    truth = scenes(rng, 2)
    assert_allclose(ssim(truth, truth), 1.0, rtol=1e-12)


def test_nsd_protocol_resizes_to_256_then_425_without_antialiasing(rng):
    truth, recon = scenes(rng, 2, size=300), scenes(rng, 2, size=64)

    def published(images):  # scikit-image's bilinear warp has the same pixel centres as torch
        for size in (256, 425):
            images = np.stack(
                [
                    skimage_resize(i, (size, size, 3), order=1, mode="edge", anti_aliasing=False)
                    for i in images
                ]
            )
        return images

    a, b = published(truth), published(recon)
    expected = [pearsonr(x.ravel(), y.ravel())[0] for x, y in zip(a, b, strict=True)]
    assert_allclose(pixcorr(truth, recon, protocol="nsd"), expected, atol=1e-6)
    expected = [reference_ssim(rgb2gray(x), rgb2gray(y)) for x, y in zip(a, b, strict=True)]
    assert_allclose(ssim(truth, recon, protocol="nsd"), expected, atol=1e-5)


def test_many_images_are_scored_as_each_alone(rng):
    truth, recon = scenes(rng, 35), scenes(rng, 35)
    assert_allclose(ssim(truth, recon)[33], ssim(truth[33:34], recon[33:34])[0])
    assert_allclose(pixcorr(truth, recon)[33], pixcorr(truth[33:34], recon[33:34])[0])


def test_diagonal_of_all_pairs_is_the_score_of_each_image(rng):
    truth, recon = scenes(rng, 5), scenes(rng, 5)
    assert_allclose(np.diag(pixcorr_pairs(truth, recon)), pixcorr(truth, recon), rtol=1e-12)
    assert_allclose(np.diag(ssim_pairs(truth, recon)), ssim(truth, recon), rtol=1e-12)
    assert_allclose(ssim_pairs(truth, recon)[1, 3], ssim(truth[3:4], recon[1:2])[0], rtol=1e-12)


def test_uniform_reconstruction_scores_zero_and_uniform_truth_is_undefined(rng):
    truth = scenes(rng, 2)
    assert_allclose(pixcorr(truth, flat_grey(truth)), 0.0, atol=0)
    assert np.isnan(pixcorr(flat_grey(truth), truth)).all()
    assert_allclose(pixcorr(truth, flat_grey(truth, level=0.3), protocol="nsd"), 0.0, atol=0)


def test_correlation_survives_tiny_units_and_large_offsets(rng):
    a, b = rng.standard_normal((2, 4, 50))
    expected = [pearsonr(x, y)[0] for x, y in zip(a, b, strict=True)]
    assert_allclose(rowwise_pearson(a * 1e-200, b * 1e-13), expected, rtol=1e-9)
    assert_allclose(rowwise_pearson(a + 1e6, b), expected, rtol=1e-6)
    assert_allclose(pairwise_pearson(a, b), np.corrcoef(a, b)[4:, :4], rtol=1e-10)


def test_mean_image_and_blur_are_what_they_say(rng):
    train = scenes(rng, 10)
    copies = mean_image(train, 7)
    assert copies.shape == (7, 32, 32, 3)
    assert_allclose(copies[3], train.mean(axis=0), atol=1e-6)
    soft = blurred(train, width_fraction=0.1)
    assert soft.shape == train.shape
    assert 0 < np.abs(np.diff(soft, axis=2)).mean() < np.abs(np.diff(train, axis=2)).mean()
    assert_allclose(soft.mean(axis=3), blurred(train.mean(axis=3), 0.1), atol=1e-6)  # colours are not mixed
    assert np.mean(pixcorr(train, soft)) > np.mean(pixcorr(train, mean_image(train, 10)))


def test_images_in_another_range_are_refused(rng):
    truth = scenes(rng, 2)
    with pytest.raises(InputError, match=r"`recon`: expected values in \[0, 1\]; found values from -1"):
        pixcorr(truth, np.full_like(truth, -1))
    with pytest.raises(InputError, match=r"uint8, or floats in \[0, 1\]; found type int64"):
        pixcorr(truth, np.zeros(truth.shape, int))
    with pytest.raises(InputError, match="NaN or infinite"):
        ssim(truth, np.full_like(truth, np.nan))


def test_images_of_other_shapes_are_refused(rng):
    truth = scenes(rng, 2)
    with pytest.raises(InputError, match=r"images of shape \(32, 32, 3\) like `truth`; found \(16, 16, 3\)"):
        pixcorr(truth, scenes(rng, 2, size=16))
    with pytest.raises(InputError, match="2 images, one per truth; found 3"):
        pixcorr(truth, scenes(rng, 3))
    with pytest.raises(InputError, match=r"shape \(images, height, width\) or"):
        pixcorr(np.zeros((2, 3, 32, 32)), truth)
    with pytest.raises(InputError, match="at least 11 pixels a side"):
        ssim(truth[:, :8], truth[:, :8])
    with pytest.raises(InputError, match="one of native, nsd"):
        ssim(truth, truth, protocol="things")

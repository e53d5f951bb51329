"""Encoding scores, noise ceilings, representational similarity and classification against references and simulation."""

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import balanced_accuracy_score, r2_score

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.noise import noise_ceiling
from braindecode_suite.metrics.classification import accuracy, balanced_accuracy
from braindecode_suite.metrics.encoding import encoding_r, encoding_r2, encoding_r2_nc, encoding_r2_split
from braindecode_suite.metrics.rsa import dissimilarity, rsa


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def test_encoding_r_matches_scipy_unit_by_unit(rng):
    truth, predicted = rng.standard_normal((2, 30, 5))
    expected = [scipy.stats.pearsonr(truth[:, u], predicted[:, u])[0] for u in range(5)]
    assert_allclose(encoding_r(truth, predicted), expected)


def test_constant_prediction_scores_zero_and_constant_unit_is_undefined(rng):
    truth, predicted = rng.standard_normal((2, 30, 3)).astype(np.float32)
    predicted[:, 0], truth[:, 1] = 0.1, 0.1
    r = encoding_r(truth, predicted)
    assert r[0] == 0
    assert_array_equal(np.isnan(r), [False, True, False])


def test_encoding_r2_matches_scikit_learn_unit_by_unit(rng):
    truth = rng.standard_normal((30, 5))
    predicted = truth + rng.standard_normal((30, 5)) * np.array([0.1, 0.5, 1, 2, 4])
    assert_allclose(encoding_r2(truth, predicted), r2_score(truth, predicted, multioutput="raw_values"))


@pytest.mark.parametrize("score", [encoding_r, encoding_r2])
def test_units_with_nan_or_without_variance_are_missing_and_never_zero(rng, score):
    truth, predicted = rng.standard_normal((2, 30, 5))
    whole = score(truth, predicted)
    truth[3, 0], truth[:, 1], predicted[:, 2] = np.nan, 0.1, np.nan
    scores = score(truth, predicted)
    assert_array_equal(np.isnan(scores), [True, True, True, False, False])
    assert_allclose(scores[3:], whole[3:])
    assert np.isnan(score(np.full((4, 2), np.nan), np.zeros((4, 2)))).all()
    counted = encoding_r2_nc(scores, np.full(5, 0.5))
    assert (counted.n_units, counted.n_missing) == (2, 3)
    predicted[0, 4] = np.nan  # of a unit otherwise predicted
    with pytest.raises(InputError, match="`predicted`: expected finite values; found 1 NaN"):
        score(truth, predicted)
    truth[0, 3] = np.inf
    with pytest.raises(InputError, match="`truth`: expected finite values"):
        score(truth, predicted)


def test_the_split_over_bands_is_himalayas_and_adds_up(rng):
    himalaya = pytest.importorskip("himalaya.scoring", reason="himalaya is not installed")
    parts = rng.standard_normal((3, 40, 6)) * np.array([1.0, 0.5, 0.1])[:, None, None]
    truth = parts.sum(axis=0) + rng.standard_normal((40, 6)) + 3
    centred = truth - truth.mean(axis=0), parts - parts.mean(axis=1, keepdims=True)
    shares = encoding_r2_split(truth, parts)
    assert_allclose(shares, himalaya.r2_score_split(*centred), rtol=1e-10)
    assert_allclose(shares.sum(axis=0), encoding_r2(centred[0], centred[1].sum(axis=0)))
    truth[:, 2] = 1.0
    assert_array_equal(np.isnan(encoding_r2_split(truth, parts)).all(axis=0), np.arange(6) == 2)
    with pytest.raises(InputError, match=r"`parts`: expected shape \(bands, images=40, units=6\)"):
        encoding_r2_split(truth, parts[:, 1:])


def test_noise_ceiling_is_nsd_formula_for_mixed_repeats():
    a, b, c, ncsnr = 7, 4, 2, 0.4  # images with three, two and one repeats
    published = ncsnr**2 / (ncsnr**2 + (a / 3 + b / 2 + c / 1) / (a + b + c))
    assert_allclose(noise_ceiling([ncsnr, 0.0], [3] * a + [2] * b + [1] * c), [published, 0])
    assert_allclose(noise_ceiling([ncsnr], 3), ncsnr**2 / (ncsnr**2 + 1 / 3))


def test_perfect_model_of_noisy_data_reaches_its_ceiling(rng):
    ncsnr, n_images = 0.5, 4000
    signal = ncsnr * rng.standard_normal((n_images, 20))
    n_repeats = rng.integers(1, 4, n_images)
    measured = signal + rng.standard_normal(signal.shape) / np.sqrt(n_repeats)[:, None]
    scores = encoding_r2_nc(encoding_r(measured, signal), noise_ceiling(np.full(20, ncsnr), n_repeats))
    assert abs(scores.unclipped - 1) < 0.05
    assert scores.clipped <= 1


def test_clipped_score_is_the_challenges_and_the_others_are_not():
    r, ceiling = np.array([0.6, -0.5, 0.1, 0.9, np.nan]), np.array([0.5, 0.5, 0.0, 0.4, 0.5])
    scores = encoding_r2_nc(r, ceiling, threshold=0.45)
    assert_allclose(scores.clipped, np.mean([0.36 / 0.5, 0, 1, 1]))
    assert_allclose(scores.unclipped, (0.36 - 0.25 + 0.01 + 0.81) / 1.4)
    assert_allclose(scores.thresholded, (0.36 - 0.25) / 1.0)
    assert (scores.n_units, scores.n_above) == (4, 2)


def test_no_unit_above_the_threshold_gives_no_thresholded_score():
    assert np.isnan(encoding_r2_nc([0.5], [0.01]).thresholded)
    assert np.isnan(encoding_r2_nc([np.nan], [0.5]).clipped)


def test_bad_encoding_input_is_refused(rng):
    with pytest.raises(InputError, match=r"`predicted`: expected shape \(images=3, units=2\)"):
        encoding_r(rng.random((3, 2)), rng.random((3, 4)))
    with pytest.raises(InputError, match="values of at least 0; found -1"):
        noise_ceiling([-1.0], 3)
    with pytest.raises(InputError, match="at least one repeat an image; found 0"):
        noise_ceiling([1.0], [0, 3])
    with pytest.raises(InputError, match=r"`ceiling`: expected shape \(units=2\)"):
        encoding_r2_nc([0.1, 0.2], [0.5])


def test_dissimilarity_matches_scipy(rng):
    features = rng.standard_normal((8, 12))
    assert_allclose(dissimilarity(features), squareform(pdist(features, "correlation")), atol=1e-12)


@pytest.mark.parametrize(
    ("method", "reference"), [("spearman", scipy.stats.spearmanr), ("pearson", scipy.stats.pearsonr)]
)
def test_rsa_correlates_upper_triangles(rng, method, reference):
    a, b = pdist(rng.standard_normal((9, 12))), pdist(rng.standard_normal((9, 12)))
    assert_allclose(rsa(squareform(a), squareform(b), method=method), reference(a, b)[0])


def test_rsa_refuses_matrices_that_are_no_dissimilarities(rng):
    good = squareform(pdist(rng.standard_normal((5, 3))))
    with pytest.raises(InputError, match="a symmetric matrix of at least 3 images"):
        rsa(good, rng.random((5, 5)))
    with pytest.raises(InputError, match=r"`second`: expected shape \(images=5, images=5\)"):
        rsa(good, good[:4, :4])
    with pytest.raises(InputError, match="one of kendall, pearson, spearman; found 'cosine'"):
        rsa(good, good, method="cosine")


def test_balanced_accuracy_matches_scikit_learn(rng):
    truth, predicted = rng.choice(list("aaabbc"), 60), rng.choice(list("abc"), 60)
    assert_allclose(balanced_accuracy(truth, predicted), balanced_accuracy_score(truth, predicted))
    assert_allclose(accuracy(truth, predicted).mean(), np.mean(truth == predicted))
    with pytest.raises(InputError, match=r"`predicted`: expected shape \(rows=60\)"):
        accuracy(truth, predicted[:3])

"""Two-way identification against a loop over its definition."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import correlation as scipy_correlation_distance

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.identification import (
    correlation_distance,
    correlation_distance_pairs,
    identification_pairs,
    matched_identification,
    matched_identification_pairs,
    same_class,
    two_way_identification,
)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def noisy(rng, n=12, features=30, noise=2.0):
    true = rng.standard_normal((n, features))
    return true, true + noise * rng.standard_normal((n, features))


def by_definition(true, recon, allowed):
    """Share of allowed i with r(true_i, recon_j) < r(true_j, recon_j), written as the definition reads."""
    shares = []
    for j in range(len(recon)):
        own = np.corrcoef(true[j], recon[j])[0, 1]
        wins = [
            np.corrcoef(true[i], recon[j])[0, 1] < own for i in range(len(true)) if i != j and allowed[j, i]
        ]
        shares.append(np.mean(wins))
    return shares


def test_all_distractors_match_the_definition(rng):
    true, recon = noisy(rng)
    expected = by_definition(true, recon, np.ones((12, 12), bool))
    assert 0.5 < np.mean(expected) < 1
    assert_allclose(two_way_identification(true, recon), expected)


def test_distractors_of_the_same_class_match_the_definition(rng):
    true, recon = noisy(rng)
    mask = same_class(np.repeat(["a", "b", "c"], 4))
    assert_allclose(two_way_identification(true, recon, distractors=mask), by_definition(true, recon, mask))


def test_reconstruction_that_says_nothing_loses_every_tie(rng):
    true, recon = noisy(rng)
    recon[4] = 3.0
    assert two_way_identification(true, recon)[4] == 0.0
    same = np.broadcast_to(recon[0], recon.shape)
    assert_allclose(two_way_identification(true, same).mean(), 0.5)  # one image for all is at chance


def test_chance_is_one_half(rng):
    values = [two_way_identification(*rng.standard_normal((2, 40, 25))).mean() for _ in range(200)]
    assert abs(np.mean(values) - 0.5) < 4 * np.std(values) / np.sqrt(200)


def test_image_without_distractor_has_no_value(rng):
    true, recon = noisy(rng, n=3)
    value = two_way_identification(true, recon, distractors=same_class(["a", "a", "b"]))
    assert_array_equal(np.isnan(value), [False, False, True])


def test_matched_candidates_match_the_definition(rng):
    true, recon = noisy(rng, n=6)
    candidates = rng.standard_normal((6, 5, 30))
    expected = [
        np.mean(
            [np.corrcoef(c, recon[j])[0, 1] < np.corrcoef(true[j], recon[j])[0, 1] for c in candidates[j]]
        )
        for j in range(6)
    ]
    assert_allclose(matched_identification(true, recon, candidates), expected)


def test_candidate_identical_with_the_truth_is_a_loss(rng):
    true, recon = noisy(rng, n=4)
    candidates = np.repeat(true[:, None], 3, axis=1)
    assert_array_equal(matched_identification(true, recon, candidates), 0)


@pytest.mark.parametrize("mask", [None, same_class(np.repeat(["a", "b", "c"], 4))])
def test_pairs_hold_each_image_on_the_diagonal_and_relabelled_images_elsewhere(rng, mask):
    true, recon = noisy(rng)
    pairs = identification_pairs(true, recon, distractors=mask)
    assert_allclose(np.diag(pairs), two_way_identification(true, recon, distractors=mask))
    order = rng.permutation(12)
    moved = None if mask is None else mask[np.ix_(order, order)]
    expected = two_way_identification(true[order], recon, distractors=moved)
    assert_allclose(pairs[np.arange(12), order], expected)


def test_matched_pairs_move_the_candidates_with_their_truth(rng):
    true, recon = noisy(rng, n=7)
    candidates, order = rng.standard_normal((7, 4, 30)), rng.permutation(7)
    pairs = matched_identification_pairs(true, recon, candidates)
    assert_allclose(np.diag(pairs), matched_identification(true, recon, candidates))
    expected = matched_identification(true[order], recon, candidates[order])
    assert_allclose(pairs[np.arange(7), order], expected)


def test_correlation_distance_matches_scipy(rng):
    true, recon = noisy(rng)
    expected = [scipy_correlation_distance(a, b) for a, b in zip(true, recon, strict=True)]
    assert_allclose(correlation_distance(true, recon), expected, rtol=1e-10)
    pairs = correlation_distance_pairs(true, recon)
    assert_allclose(np.diag(pairs), expected, rtol=1e-10)
    assert_allclose(pairs[2, 5], scipy_correlation_distance(true[5], recon[2]), rtol=1e-10)


def test_wrong_shapes_and_flat_truths_are_refused(rng):
    true, recon = noisy(rng)
    with pytest.raises(InputError, match="12 rows, one per truth; found 5"):
        two_way_identification(true, recon[:5])
    with pytest.raises(InputError, match=r"`predicted`: expected shape \(rows, features=30\)"):
        two_way_identification(true, recon[:, :9])
    with pytest.raises(InputError, match=r"`distractors`: expected shape \(images=12, images=12\)"):
        two_way_identification(true, recon, distractors=np.ones((3, 3), bool))
    with pytest.raises(InputError, match="at least one candidate an image"):
        matched_identification(true, recon, np.zeros((12, 0, 30)))
    true[3] = 1.0
    with pytest.raises(InputError, match="1 constant rows, the first at 3"):
        two_way_identification(true, recon)

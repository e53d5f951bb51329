"""Ranks, random galleries, similarities and hubs against enumeration and closed forms."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import skew
from sklearn.metrics.pairwise import cosine_similarity

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.retrieval import (
    TrainingReference,
    chance_top_k,
    cosine,
    cosine_centred,
    csls,
    hub_skewness,
    median_relative_rank,
    rank_matrix,
    ranks,
    relative_rank,
    retrieval_brain_to_image_top1,
    retrieval_brain_to_image_top5,
    retrieval_brain_to_image_top10,
    retrieval_image_to_brain_top1,
    retrieval_pairs,
    retrieval_values,
    similarity,
    top_k_random_gallery,
)


@pytest.fixture
def rng():
    return np.random.default_rng(2)


@given(
    arrays(np.int8, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.integers(-3, 3)), st.data()
)
def test_rank_counts_distractors_at_least_as_similar(scores, data):
    n = scores.shape[1]
    truth = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=len(scores), max_size=len(scores))))
    found = ranks(scores, truth)
    for row, t, r in zip(scores, truth, found, strict=True):
        assert r == sum(row[j] >= row[t] for j in range(n) if j != t)
    assert_array_equal(rank_matrix(scores)[np.arange(len(scores)), truth], found)


@settings(deadline=None)
@given(st.integers(2, 9), st.data())
def test_random_gallery_formula_equals_enumeration_of_all_galleries(n, data):
    rank = data.draw(st.integers(0, n - 1))
    size = data.draw(st.integers(1, n))
    k = data.draw(st.integers(1, size))
    galleries = list(combinations(range(n - 1), size - 1))  # distractors 0..rank-1 stand above the truth
    expected = np.mean([sum(d < rank for d in gallery) < k for gallery in galleries])
    assert_allclose(top_k_random_gallery([rank], n, size, k), [expected], atol=1e-12)


@settings(deadline=None)
@given(st.integers(2, 1000), st.data())
def test_first_place_in_a_random_gallery_is_a_ratio_of_binomials(n, data):
    rank, size = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n))
    expected = comb(n - 1 - rank, size - 1) / comb(n - 1, size - 1)
    assert_allclose(top_k_random_gallery([rank], n, size), [expected], rtol=1e-8, atol=1e-12)


def test_mean_over_all_ranks_is_chance():
    n = 50
    for size, k in [(50, 1), (10, 1), (10, 3)]:
        assert_allclose(
            top_k_random_gallery(np.arange(n), n, size, k).mean(), chance_top_k(size, k), rtol=1e-10
        )


def test_full_gallery_is_the_plain_top_k(rng):
    r = rng.integers(0, 20, 30)
    assert_allclose(top_k_random_gallery(r, 20, 20, 5), r < 5, atol=1e-12)


def test_exact_formula_agrees_with_drawn_galleries(rng):
    scores = rng.standard_normal((1, 40))
    scores[0, 0] = 1.0
    exact = top_k_random_gallery(ranks(scores, [0]), 40, 8)[0]
    drawn = [
        scores[0, 0] > scores[0, rng.choice(np.arange(1, 40), 7, replace=False)].max() for _ in range(4000)
    ]
    assert abs(np.mean(drawn) - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)


def test_a_tie_counts_against_the_truth():
    assert_array_equal(ranks(np.zeros((2, 5)), [0, 4]), [4, 4])
    assert_array_equal(ranks([[1.0, 1.0 + 1e-15, 0.0]], [1]), [1])  # a tie up to rounding too


def test_identical_latents_in_a_gallery_tie(rng):
    gallery = rng.standard_normal((203, 77))
    gallery[200] = gallery[3]
    found = ranks(cosine(gallery, gallery), np.arange(203))
    assert found[3] == found[200] == 1
    assert np.delete(found, [3, 200]).max() == 0


def test_transposing_swaps_the_named_direction(rng):
    scores, truth = rng.standard_normal((9, 9)), np.arange(9)
    forth, back = ranks(scores, truth), ranks(scores, truth, direction="image_to_brain")
    assert (forth != back).any()
    assert_array_equal(back, ranks(scores.T, truth))
    assert_array_equal(
        retrieval_image_to_brain_top1(scores, truth), retrieval_brain_to_image_top1(scores.T, truth)
    )


def test_one_popular_image_hurts_brains_that_query_and_not_images_that_query():
    scores = np.eye(6)
    scores[:, 0] = 2.0  # every brain is nearest to image 0
    scores[0, 0] = 3.0
    assert retrieval_brain_to_image_top1(scores, np.arange(6)).mean() == 1 / 6
    assert retrieval_image_to_brain_top1(scores, np.arange(6)).mean() == 1.0


def test_image_queries_follow_the_order_of_the_brains(rng):
    scores, truth = rng.standard_normal((4, 10)), np.array([7, 2, 9, 0])
    expected = [(scores[:, t] > scores[i, t]).sum() for i, t in enumerate(truth)]
    assert_array_equal(ranks(scores, truth, direction="image_to_brain"), expected)


def test_values_carry_the_names_of_the_score_table(rng):
    scores = rng.standard_normal((30, 30))
    found = retrieval_values(scores, np.arange(30), "brain_to_image", ks=(1, 5, 10), gallery_size=20)
    assert list(found) == [f"retrieval_brain_to_image_top{k}" for k in (1, 5, 10)]
    truth = np.arange(30)
    for k, one in zip(
        (1, 5, 10),
        (retrieval_brain_to_image_top1, retrieval_brain_to_image_top5, retrieval_brain_to_image_top10),
        strict=True,
    ):
        assert_array_equal(one(scores, truth, gallery_size=20), found[f"retrieval_brain_to_image_top{k}"])
        assert_allclose(
            found[f"retrieval_brain_to_image_top{k}"], top_k_random_gallery(ranks(scores, truth), 30, 20, k)
        )


@pytest.mark.parametrize("direction", ["brain_to_image", "image_to_brain"])
def test_pairs_hold_what_each_relabelled_query_would_score(rng, direction):
    scores, order = rng.standard_normal((12, 12)), rng.permutation(12)
    pairs = retrieval_pairs(scores, direction, k=2, gallery_size=6)
    queries = scores if direction == "brain_to_image" else scores.T
    expected = top_k_random_gallery(ranks(queries, order), 12, 6, 2)
    assert_allclose(pairs[np.arange(12), order], expected)


def test_median_relative_rank_is_zero_for_a_perfect_decoder_and_half_at_chance(rng):
    assert median_relative_rank(ranks(np.eye(7), np.arange(7)), 7) == 0
    assert_allclose(relative_rank([0, 3, 6], 7), [0, 0.5, 1])
    r = ranks(rng.standard_normal((2000, 101)), rng.integers(0, 101, 2000))
    assert abs(median_relative_rank(r, 101) - 0.5) < 0.04


def test_cosine_matches_scikit_learn_and_flattens_tokens(rng):
    a, b = rng.standard_normal((5, 3, 4)), rng.standard_normal((6, 3, 4))
    assert_allclose(cosine(a, b), cosine_similarity(a.reshape(5, 12), b.reshape(6, 12)), rtol=1e-12)
    assert_array_equal(cosine(np.zeros((1, 2)), [[1.0, 2.0]]), 0)


def test_centring_uses_training_means_of_each_side(rng):
    q, g = rng.standard_normal((5, 8)) + 3, rng.standard_normal((6, 8)) - 1
    predicted, true = rng.standard_normal((20, 8)) + 3, rng.standard_normal((30, 8)) - 1
    expected = cosine_similarity(q - predicted.mean(0), g - true.mean(0))
    found = cosine_centred(q, g, TrainingReference(predicted=predicted, true=true))
    assert_allclose(found, expected, rtol=1e-12)


def test_centring_undoes_a_common_offset_of_the_predictions(rng):
    true, gallery = rng.standard_normal((200, 16)), rng.standard_normal((100, 16))
    shift = 5 * rng.standard_normal(16)
    reference = TrainingReference(predicted=true + shift, true=true)
    raw = retrieval_brain_to_image_top1(cosine(gallery + shift, gallery), np.arange(100)).mean()
    centred = cosine_centred(gallery + shift, gallery, reference)
    assert retrieval_brain_to_image_top1(centred, np.arange(100)).mean() == 1.0 > raw


def test_csls_matches_its_formula_written_as_loops(rng):
    q, g = rng.standard_normal((4, 6)), rng.standard_normal((5, 6))
    predicted, true = rng.standard_normal((9, 6)), rng.standard_normal((11, 6))

    def cos(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    def near(x, others):
        return np.mean(sorted((cos(x, o) for o in others), reverse=True)[:3])

    expected = [[2 * cos(x, y) - near(x, true) - near(y, predicted) for y in g] for x in q]
    found = csls(q, g, TrainingReference(predicted=predicted, true=true), k=3)
    assert_allclose(found, expected, rtol=1e-10)


def test_csls_knows_the_hubs_from_its_reference_only(rng):
    q, g = rng.standard_normal((8, 6)), rng.standard_normal((9, 6))
    reference = TrainingReference(predicted=rng.standard_normal((20, 6)), true=rng.standard_normal((20, 6)))
    together = csls(q, g, reference)
    assert_allclose(together[2:3, 4:5], csls(q[2:3], g[4:5], reference), rtol=1e-12)


def test_csls_lowers_the_skewness_of_a_gallery_with_hubs(rng):
    true, gallery = rng.standard_normal((400, 12)), rng.standard_normal((150, 12))
    pull = 2 * rng.standard_normal(12)  # predictions lean towards one direction
    predicted = true + pull + rng.standard_normal(true.shape)
    queries = gallery + pull + rng.standard_normal(gallery.shape)
    reference = TrainingReference(predicted=predicted, true=true)
    plain, corrected = (
        hub_skewness(similarity(queries, gallery, how, reference)) for how in ("cosine", "csls")
    )
    assert corrected < plain


def test_hub_skewness_is_that_of_the_neighbour_counts(rng):
    scores = rng.standard_normal((50, 30)) + rng.standard_normal(30)
    counts = np.bincount(np.argsort(-scores, axis=1)[:, :4].ravel(), minlength=30)
    assert_allclose(hub_skewness(scores, k=4), skew(counts), rtol=1e-10)
    assert hub_skewness(np.eye(5), k=1) == 0.0
    latents = rng.standard_normal((40, 5))
    own = cosine(latents, latents)
    masked = np.where(np.eye(40, dtype=bool), -9, own)
    assert hub_skewness(own, k=3, exclude_self=True) == hub_skewness(masked, k=3)


def test_bad_arguments_are_refused_with_what_was_expected(rng):
    scores = rng.standard_normal((4, 6))
    with pytest.raises(InputError, match="column numbers from 0 to 5"):
        ranks(scores, [0, 1, 2, 6])
    with pytest.raises(InputError, match=r"`truth`: expected shape \(brains=4\)"):
        ranks(scores, [0, 1])
    with pytest.raises(InputError, match="each image once for 'image_to_brain'"):
        ranks(scores, [0, 1, 2, 2], direction="image_to_brain")
    with pytest.raises(InputError, match="one of brain_to_image, image_to_brain; found 'forward'"):
        ranks(scores, [0, 1, 2, 3], direction="forward")
    with pytest.raises(InputError, match="between 1 and the full gallery's 6; found 7"):
        top_k_random_gallery([0], 6, 7)
    with pytest.raises(InputError, match="between 1 and the gallery's 3; found 4"):
        top_k_random_gallery([0], 6, 3, k=4)
    with pytest.raises(InputError, match="whole numbers from 0 to 5"):
        top_k_random_gallery([6], 6, 6)
    with pytest.raises(InputError, match="latents of the training part for 'csls'; found None"):
        similarity(scores, scores, "csls")
    with pytest.raises(InputError, match="NaN or infinite"):
        ranks(np.full((2, 2), np.nan), [0, 1])
    with pytest.raises(InputError, match="between 1 and the 4 reference rows; found 10"):
        csls(scores, scores, TrainingReference(predicted=scores, true=scores))
    with pytest.raises(InputError, match=r"`gallery`: expected shape \(items, features=6\)"):
        cosine(scores, scores[:, :3])

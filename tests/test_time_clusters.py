"""The max-cluster test against mne, closed forms, and studies in which nothing is decoded."""

from itertools import permutations, product
from math import factorial

import mne
import numpy as np
import pytest
from mne.stats.cluster_level import _find_clusters
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.permutation import permute_images
from braindecode_suite.metrics.retrieval import retrieval_pairs
from braindecode_suite.metrics.time_clusters import cluster_test, max_clusters, score_windows


def null_similarity(rng, *, windows=16, queries=30, rho=0.8):
    """Draw similarity that knows nothing of the truth: smooth in time, some items near every query."""
    noise = rng.standard_normal((windows, queries, queries))
    for w in range(1, windows):
        noise[w] = rho * noise[w - 1] + np.sqrt(1 - rho**2) * noise[w]
    return noise + rng.standard_normal(queries)  # hubs


def false_positives(n_studies, seed):
    rng = np.random.default_rng(seed)
    scores = [{"k": 3}, {"score": "relative-rank"}, {"gallery_size": 10}, {"k": 1}]
    found = [
        cluster_test(null_similarity(rng), seed=study, **scores[study % 4]).p_value <= 0.05
        for study in range(n_studies)
    ]
    return np.mean(found)


def test_clusters_are_those_of_mne():
    rng = np.random.default_rng(0)
    for _ in range(20):
        course = rng.standard_normal(40)
        clusters, _ = max_clusters(course, np.zeros((1, 40)), 0.3)
        theirs, mass = _find_clusters(course, 0.3, tail=1)
        places = [(int(c[0].start), int(c[0].stop) - 1) for c in theirs]
        assert [(c.first, c.last) for c in clusters] == places
        assert_allclose([c.mass for c in clusters], mass)


def test_each_window_has_its_own_threshold():
    clusters, largest = max_clusters([2.0, 2.0, 2.0], [[2.0, 2.0, 2.0], [0.0, 9.0, 3.0]], [1.0, 5.0, 1.0])
    assert [(c.first, c.last) for c in clusters] == [(0, 0), (2, 2)]
    assert largest.tolist() == [2.0, 12.0]


def test_p_values_are_those_of_mne_under_sign_flips():
    rng = np.random.default_rng(1)
    data = rng.standard_normal((9, 25)) + 0.8 * (np.abs(np.arange(25) - 12) < 4)
    _, clusters, p_values, null = mne.stats.permutation_cluster_1samp_test(
        data, threshold=0.3, n_permutations=1000, tail=1, out_type="indices", verbose=False,
        stat_fun=lambda x: x.mean(axis=0),
    )  # fmt: skip
    flips = np.array(list(product([1, -1], repeat=9)))[:-1]  # mne's: all but the one that turns every sign
    ours, largest = max_clusters(data.mean(axis=0), flips @ data / 9, 0.3)
    assert len(ours) == len(clusters) >= 1
    assert [(c.first, c.last) for c in ours] == [(int(c[0][0]), int(c[0][-1])) for c in clusters]
    assert_allclose([c.p_value for c in ours], p_values)
    assert_allclose(np.sort(np.append(largest, max(c.mass for c in ours))), np.sort(null), atol=1e-9)


def test_one_window_is_the_permutation_test_of_its_score():
    rng = np.random.default_rng(2)
    similarity = rng.standard_normal((40, 40)) + 0.8 * np.eye(40)
    found = cluster_test(similarity[None], k=5, seed=3, n_permutations=4000)
    alone = permute_images(retrieval_pairs(similarity, k=5), seed=4, n_permutations=4000)
    assert found.score[0] == pytest.approx(alone.observed)
    assert found.chance[0] == pytest.approx(alone.chance, abs=0.003)
    assert found.p_value == pytest.approx(alone.p_value, abs=0.01)


@pytest.mark.parametrize(
    ("options", "chance"),
    [({"k": 5}, 0.1), ({"gallery_size": 10}, 0.1), ({"score": "relative-rank"}, 0.5)],
)
def test_chance_is_that_of_the_score(options, chance):
    found = cluster_test(null_similarity(np.random.default_rng(5), queries=50), seed=0, **options)
    assert_allclose(found.chance, chance, atol=0.005)
    assert (found.threshold > found.chance).all()


def test_the_tested_score_is_the_mean_of_the_windows_scores():
    rng = np.random.default_rng(11)
    similarity, truth = rng.standard_normal((4, 30, 50)), rng.permutation(50)[:30]
    for options in ({"k": 4}, {"gallery_size": 7, "k": 2}, {"score": "relative-rank"}):
        scores = score_windows(similarity, truth, **options)
        assert scores.shape == (4, 30)
        assert_allclose(scores.mean(axis=1), cluster_test(similarity, truth, seed=0, **options).score)
    with pytest.raises(InputError, match="at least one window"):
        score_windows([])


def test_an_effect_is_found_where_it_is():
    similarity = null_similarity(np.random.default_rng(6))
    similarity[7:12] += 2 * np.eye(30)
    found = cluster_test(similarity, k=3, seed=0)
    (cluster,) = found.significant()
    assert (cluster.first, cluster.last, cluster.p_value) == (7, 11, 1 / 1001)
    assert found.p_value == cluster.p_value
    assert (found.score[7:12] > found.threshold[7:12]).all()


def test_an_effect_below_chance_is_none():
    similarity = null_similarity(np.random.default_rng(7))
    similarity[4:12] -= 3 * np.eye(30)
    clusters = cluster_test(similarity, score="relative-rank", seed=0).clusters
    assert not any(c.first <= 11 and c.last >= 4 for c in clusters)


def test_all_windows_are_permuted_alike():
    matrix = null_similarity(np.random.default_rng(8), windows=1)[0]
    one = cluster_test(matrix[None], score="relative-rank", seed=0)
    ten = cluster_test([matrix] * 10, score="relative-rank", seed=0)  # one window after another, too
    assert_allclose(ten.null, 10 * one.null)
    assert 0.03 < (one.null > 0).mean() <= 0.05


def test_queries_of_an_image_move_together():
    rng = np.random.default_rng(9)
    similarity = rng.standard_normal((6, 20, 20)) + 0.5 * np.eye(20)
    once = cluster_test(similarity, k=3, seed=0)
    thrice = cluster_test(np.repeat(similarity, 3, axis=1), np.repeat(np.arange(20), 3), k=3, seed=0)
    assert_allclose(thrice.null, once.null)
    assert [c.p_value for c in thrice.clusters] == [c.p_value for c in once.clusters]


def test_images_of_a_unit_move_together_to_the_images_of_another():
    rng = np.random.default_rng(9)
    similarity = rng.standard_normal((6, 20, 20)) + 0.5 * np.eye(20)
    once = cluster_test(similarity, k=3, seed=0)
    # three images a concept, each near images of its own number alone: a concept's rank is that of its images
    numbered = np.kron(similarity + 100, np.eye(3))
    thrice = cluster_test(numbered, units=np.repeat(np.arange(20), 3), k=3, seed=0)
    assert_allclose(thrice.null, once.null)
    assert thrice.n_distinct == factorial(20)
    alone = cluster_test(similarity, units=[f"{k:02d}" for k in range(20)], k=3, seed=0)
    assert_allclose(alone.null, once.null)


def test_units_change_places_with_units_of_their_size():
    similarity = np.random.default_rng(2).standard_normal((3, 9, 9))
    units = np.array(["a", "b", "a", "c", "b", "c", "d", "e", "f"])  # three of two images, three of one
    found = cluster_test(similarity, units=units, score="relative-rank", seed=0)
    assert found.n_distinct == 36
    twice = cluster_test(
        np.repeat(similarity, 2, axis=1),
        np.repeat(np.arange(9), 2),
        units=np.repeat(units, 2),
        score="relative-rank",
        seed=0,
    )
    assert_allclose(twice.null, found.null)
    # three windows of one score each are at most as many courses as there are relabellings
    courses = []
    for pairs in permutations([[0, 2], [1, 4], [3, 5]]):
        for single in permutations([6, 7, 8]):
            column = np.empty(9, int)
            column[[0, 2, 1, 4, 3, 5]], column[[6, 7, 8]] = np.ravel(pairs), single
            courses.append(score_windows(similarity[:1], column, score="relative-rank").mean())
    mean, deviation = np.mean(courses), np.std(courses)
    one = cluster_test(similarity[:1], units=units, score="relative-rank", n_permutations=20000, seed=0)
    assert one.chance[0] == pytest.approx(mean, abs=0.05 * deviation)
    largest = (max(courses) - mean) / deviation
    assert one.null.max() == pytest.approx(largest, rel=0.05)


def test_units_that_tear_an_image_apart_are_refused():
    with pytest.raises(
        InputError, match="`units`: expected one unit for an image; found several for that of column 1"
    ):
        cluster_test(np.zeros((2, 4, 4)), [0, 1, 1, 2], units=["a", "b", "c", "c"], seed=0)


def test_concepts_that_are_predicted_alike_by_chance_are_no_effect():
    rng, found = np.random.default_rng(3), {"images": [], "units": []}
    concept = np.repeat(np.arange(15), 6)
    for study in range(60):
        # predictions and gallery share what their concepts share, and know nothing of each other
        predicted, true = (
            rng.standard_normal((15, 8))[concept] + 0.3 * rng.standard_normal((90, 8)) for _ in range(2)
        )
        similarity = predicted @ true.T
        options = {"score": "relative-rank", "seed": study}
        found["images"].append(cluster_test(similarity[None], **options).p_value <= 0.05)
        found["units"].append(cluster_test(similarity[None], units=concept, **options).p_value <= 0.05)
    assert np.mean(found["images"]) > 0.15  # which is why
    assert np.mean(found["units"]) <= 0.1


def test_a_gallery_may_hold_more_than_was_shown():
    rng = np.random.default_rng(10)
    truth = rng.permutation(60)[:20]
    similarity = rng.standard_normal((5, 20, 60))
    similarity[2, np.arange(20), truth] += 3
    found = cluster_test(similarity, truth, k=3, seed=0)
    assert [(c.first, c.last) for c in found.significant()] == [(2, 2)]
    assert found.n_distinct == factorial(20)


def test_windows_in_which_all_images_score_alike_join_no_cluster():
    found = cluster_test(np.zeros((4, 10, 10)), seed=0)
    assert found.clusters == ()
    assert found.p_value == 1.0
    assert_array_equal(found.null, 0.0)


def test_few_of_sixty_null_studies_show_an_effect():
    assert false_positives(60, seed=0) <= 0.1


@pytest.mark.slow
def test_at_most_eight_in_a_hundred_null_studies_show_an_effect():
    assert false_positives(200, seed=1) <= 0.08


def test_bad_stacks_are_refused():
    good = np.zeros((2, 5, 5))
    with pytest.raises(InputError, match="at least 1000"):
        cluster_test(good, seed=0, n_permutations=100)
    with pytest.raises(InputError, match="at least one window"):
        cluster_test([], seed=0)
    with pytest.raises(InputError, match="finite values"):
        cluster_test(good * np.nan, seed=0)
    with pytest.raises(InputError, match=r"shape \(queries=5, items=5\)"):
        cluster_test([np.zeros((5, 5)), np.zeros((5, 6))], seed=0)
    with pytest.raises(InputError, match="more queries than items"):
        cluster_test(np.zeros((2, 6, 5)), seed=0)
    with pytest.raises(InputError, match="column numbers from 0 to 4"):
        cluster_test(good, np.full(5, 5), seed=0)
    with pytest.raises(InputError, match="`score`"):
        cluster_test(good, score="top5", seed=0)
    with pytest.raises(InputError, match="`forming`"):
        cluster_test(good, seed=0, forming=95)
    with pytest.raises(InputError, match="`threshold`"):
        max_clusters([0.0], [[0.0]], -1.0)

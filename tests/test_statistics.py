"""Intervals, permutation tests and group summaries against references, enumeration and simulation."""

from itertools import permutations
from math import factorial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.bootstrap import bootstrap_mean, bootstrap_statistic, paired_difference
from braindecode_suite.metrics.groups import group_summary, prevalence, t_interval
from braindecode_suite.metrics.identification import identification_pairs, two_way_identification
from braindecode_suite.metrics.permutation import (
    PermutationTest,
    false_discovery_rate,
    n_distinct_permutations,
    permutation_p,
    permute_images,
    relabel_training,
)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# Bootstrap


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_of_the_mean_matches_scipy(rng, method):
    values = rng.exponential(size=60)
    ours = bootstrap_mean(values, seed=0, n_resamples=20_000, method=method)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1)
    ).confidence_interval
    assert_allclose((ours.low, ours.high), (theirs.low, theirs.high), atol=0.01)
    assert_allclose(ours.value, values.mean())


def test_interval_of_the_median_matches_scipy(rng):
    values = rng.exponential(size=61)
    ours = bootstrap_statistic(values, np.median, seed=0, n_resamples=4000, method="bca")
    theirs = scipy.stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="bca", rng=np.random.default_rng(1)
    ).confidence_interval
    assert_allclose((ours.low, ours.high), (theirs.low, theirs.high), atol=0.05)


def test_any_statistic_of_units_agrees_with_the_fast_mean(rng):
    values, units = 5 + rng.standard_normal(90), rng.integers(0, 20, 90)
    fast = bootstrap_mean(values, units, seed=0, method="bca")
    slow = bootstrap_statistic(values, np.mean, units, seed=1, n_resamples=8000, method="bca")
    assert fast.n_units == slow.n_units == 20
    assert_allclose((slow.low, slow.high), (fast.low, fast.high), atol=0.02)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_covers_the_truth_as_often_as_it_says(method):
    rng = np.random.default_rng(4)
    inside = 0
    for trial in range(400):
        interval = bootstrap_mean(
            rng.exponential(size=80), seed=trial, n_resamples=1000, level=0.9, method=method
        )
        inside += interval.low <= 1.0 <= interval.high
    assert 0.85 <= inside / 400 <= 0.94  # 0.90 up to four standard errors and the small-sample loss


def test_rows_of_a_unit_are_drawn_together():
    rng = np.random.default_rng(5)
    inside = {"concept": 0, "row": 0}
    for trial in range(200):
        values = np.repeat(rng.standard_normal(30), 10) + 0.1 * rng.standard_normal(300)
        concepts = bootstrap_mean(
            values, np.repeat(np.arange(30), 10), over="concept", seed=trial, n_resamples=500
        )
        rows = bootstrap_mean(values, seed=trial, n_resamples=500)
        inside["concept"] += concepts.low <= 0 <= concepts.high
        inside["row"] += rows.low <= 0 <= rows.high
    assert inside["concept"] >= 0.87 * 200
    assert inside["row"] <= 0.6 * 200  # ten copies of each concept are not three hundred images


def test_duplicated_rows_of_a_unit_do_not_narrow_the_interval(rng):
    values = rng.standard_normal(40)
    once = bootstrap_mean(values, seed=0)
    thrice = bootstrap_mean(np.repeat(values, 3), np.repeat(np.arange(40), 3), seed=0)
    assert_allclose((thrice.value, thrice.low, thrice.high), (once.value, once.low, once.high))
    assert (thrice.n_units, thrice.n_rows) == (40, 120)


def test_order_and_names_of_units_do_not_matter(rng):
    values, units = rng.standard_normal(30), np.repeat(np.arange(10), 3)
    order = rng.permutation(30)
    names = np.array([f"image-{u:02d}" for u in units])
    a = bootstrap_mean(values, units, seed=0)
    b = bootstrap_mean(values[order], names[order], seed=0)
    assert_allclose((a.low, a.high), (b.low, b.high))


def test_seeds_are_averaged_before_images_are_drawn(rng):
    values = rng.standard_normal((3, 50))
    a, b = bootstrap_mean(values, seed=0), bootstrap_mean(values.mean(axis=0), seed=0)
    assert a == b
    assert a.n_units == 50


def test_same_seed_gives_the_same_interval_and_another_seed_another(rng):
    values = rng.standard_normal(50)
    assert bootstrap_mean(values, seed=0) == bootstrap_mean(values, seed=0)
    assert bootstrap_mean(values, seed=0).low != bootstrap_mean(values, seed=1).low


def test_paired_difference_sees_what_two_separate_intervals_miss(rng):
    difficulty = 5 * rng.standard_normal(100)
    good, bad = difficulty + 0.3 + 0.1 * rng.standard_normal(100), difficulty + 0.1 * rng.standard_normal(100)
    paired = paired_difference(good, bad, seed=0)
    assert paired.low > 0.2
    assert paired.high < 0.4
    assert bootstrap_mean(good, seed=0).low < bootstrap_mean(bad, seed=0).high
    swapped = paired_difference(bad, good, seed=0)
    assert_allclose((swapped.value, swapped.low), (-paired.value, -paired.high), atol=0.01)


def test_paired_difference_takes_different_numbers_of_seeds(rng):
    first, second = rng.standard_normal((3, 40)), rng.standard_normal(40)
    expected = bootstrap_mean(first.mean(axis=0) - second, seed=0)
    assert paired_difference(first, second, seed=0) == expected


def test_one_unit_has_no_interval():
    interval = bootstrap_mean([1.0, 2.0], ["a", "a"], seed=0)
    assert interval.value == 1.5
    assert np.isnan([interval.low, interval.high]).all()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_constant_values_have_an_interval_of_no_width(method):
    interval = bootstrap_mean(np.ones(20), seed=0, method=method)
    assert_allclose((interval.low, interval.high), 1.0)


def test_bad_bootstrap_input_is_refused():
    with pytest.raises(InputError, match="1 NaN or infinite values, the first at"):
        bootstrap_mean([1.0, np.nan], seed=0)
    with pytest.raises(InputError, match=r"`units`: expected shape \(rows=2\)"):
        bootstrap_mean([1.0, 2.0], ["a"], seed=0)
    with pytest.raises(InputError, match=r"`second`: expected shape \(rows=2\)"):
        paired_difference([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(InputError, match="at least one row; found none"):
        bootstrap_mean([], seed=0)
    with pytest.raises(InputError, match="at least 100; found 5"):
        bootstrap_mean([1.0, 2.0], seed=0, n_resamples=5)
    with pytest.raises(InputError, match="a share between 0 and 1; found 95"):
        bootstrap_mean([1.0, 2.0], seed=0, level=95)
    with pytest.raises(InputError, match="one of bca, percentile"):
        bootstrap_mean([1.0, 2.0], seed=0, method="t")


# Permutation


@settings(deadline=None)
@given(st.floats(-3, 3), st.lists(st.floats(-3, 3), min_size=1, max_size=30))
def test_p_value_counts_the_observed_one_and_is_never_zero(observed, null):
    p = permutation_p(observed, null)
    assert 1 / (1 + len(null)) <= p <= 1
    if min(abs(observed - v) for v in null) > 1e-9:
        assert_allclose(p, (1 + sum(v > observed for v in null)) / (1 + len(null)))
    assert_allclose(permutation_p(-observed, [-v for v in null], tail="less"), p)


def test_null_matches_the_enumeration_of_all_permutations(rng):
    pairs = rng.standard_normal((6, 6))
    every = np.array([pairs[np.arange(6), list(order)].mean() for order in permutations(range(6))])
    test = permute_images(pairs, seed=0, n_permutations=20_000)
    assert_allclose(test.observed, np.trace(pairs) / 6)
    assert abs(test.p_value - np.mean(every >= test.observed - 1e-12)) < 0.015
    assert_allclose(test.chance, pairs.mean(), atol=0.01)
    assert_allclose(np.quantile(test.null, [0.1, 0.5, 0.9]), np.quantile(every, [0.1, 0.5, 0.9]), atol=0.02)
    assert test.n_distinct == factorial(6)


def test_p_values_are_uniform_without_an_effect():
    rng = np.random.default_rng(6)
    p = [
        permute_images(rng.standard_normal((12, 12)), seed=k, n_permutations=1000).p_value for k in range(200)
    ]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.1


def test_p_values_stay_uniform_when_images_are_repeated():
    """Rows of an image share its noise: exchanging rows instead of images would call this significant."""
    rng = np.random.default_rng(7)
    p_images, p_rows = [], []
    truth = np.repeat(np.arange(10), 8)
    for k in range(150):
        pairs = np.repeat(rng.standard_normal((10, 10)), 8, axis=0)  # eight repeats that err alike
        p_images.append(permute_images(pairs, truth, seed=k).p_value)
        p_rows.append(permute_images(np.take(pairs, truth, axis=1), seed=k).p_value)
    assert np.mean(np.array(p_images) <= 0.05) <= 0.11
    assert np.mean(np.array(p_rows) <= 0.05) >= 0.2


def test_a_real_effect_is_found_and_scores_where_less_is_better_too(rng):
    true = rng.standard_normal((30, 40))
    recon = true + 2 * rng.standard_normal((30, 40))
    pairs = identification_pairs(true, recon)
    test = permute_images(pairs, seed=0)
    assert_allclose(test.observed, two_way_identification(true, recon).mean())
    assert test.p_value == 1 / 1001
    assert abs(test.chance - 0.5) < 0.02
    assert permute_images(-pairs, seed=0, tail="less").p_value == test.p_value
    assert permute_images(pairs, seed=0, tail="less").p_value > 0.99


def test_images_move_only_inside_their_group():
    groups = np.repeat(["a", "b"], 5)
    pairs = (groups[:, None] == groups[None, :]).astype(float)  # knows the class and nothing else
    free, inside = permute_images(pairs, seed=0), permute_images(pairs, seed=0, within=groups)
    assert free.p_value < 0.02
    assert inside.p_value == 1.0
    assert inside.n_distinct == factorial(5) ** 2
    assert_array_equal(inside.null, 1.0)


def test_only_images_that_were_shown_change_places(rng):
    pairs = np.zeros((4, 50))
    pairs[:, 4:] = 99.0  # gallery images that nobody saw
    test = permute_images(pairs, np.array([0, 1, 2, 3]), seed=0)
    assert_array_equal(test.null, 0.0)
    assert test.n_distinct == 24


def test_statistic_can_be_the_median(rng):
    pairs = rng.standard_normal((9, 9))
    test = permute_images(pairs, seed=0, statistic=np.median)
    assert test.observed == np.median(np.diag(pairs))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_distinct_permutations_equal_enumeration(groups):
    legal = [
        o for o in permutations(range(len(groups))) if all(groups[i] == groups[j] for i, j in enumerate(o))
    ]
    assert n_distinct_permutations(groups) == len(set(legal))


def test_relabelling_moves_all_rows_of_an_image_together(rng):
    ids = rng.permutation(np.repeat([f"im{k}" for k in range(12)], 3))
    new = relabel_training(ids, seed=0)
    assert (new != ids).any()
    assert all(len(set(new[ids == name])) == 1 for name in np.unique(ids))
    assert sorted(np.unique(new)) == sorted(np.unique(ids))
    assert_array_equal(new, relabel_training(ids, seed=0))


def test_refitted_ridge_is_significant_with_signal_and_uniform_without():
    def p_of(signal, seed):
        rng = np.random.default_rng(seed)
        features = rng.standard_normal((40, 6))
        ids = np.repeat(np.arange(30), 2)
        mixing = signal * rng.standard_normal((6, 10))
        x = features[ids] @ mixing + rng.standard_normal((60, 10))
        x_test = features[30:] @ mixing + rng.standard_normal((10, 10))

        def refit(labels):
            y = features[labels]
            coefficients = np.linalg.solve(x.T @ x + 10 * np.eye(10), x.T @ y)
            return float(np.mean((x_test @ coefficients) * features[30:]))

        null = [refit(relabel_training(ids, seed=1000 * seed + k)) for k in range(200)]
        return PermutationTest.of(refit(ids), null, n_distinct=factorial(30))

    assert p_of(1.0, 0).p_value < 0.02
    p = [p_of(0.0, seed).p_value for seed in range(60)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_false_discovery_rate_matches_statsmodels(rng):
    p = np.append(rng.random(20) ** 3, np.nan)
    for method, name in (("bh", "fdr_bh"), ("by", "fdr_by")):
        adjusted = false_discovery_rate(p, method=method)
        assert_allclose(adjusted[:-1], multipletests(p[:-1], method=name)[1])
        assert np.isnan(adjusted[-1])


def test_bad_permutation_input_is_refused(rng):
    pairs = rng.standard_normal((4, 4))
    with pytest.raises(InputError, match="at least 1000; found 99"):
        permute_images(pairs, seed=0, n_permutations=99)
    with pytest.raises(InputError, match="column numbers from 0 to 3"):
        permute_images(pairs, np.array([0, 1, 2, 4]), seed=0)
    with pytest.raises(InputError, match=r"`within`: expected shape \(images=4\)"):
        permute_images(pairs, seed=0, within=["a"])
    with pytest.raises(InputError, match="column numbers from 0 to 2"):
        permute_images(pairs[:, :3], seed=0)
    with pytest.raises(InputError, match="one of greater, less"):
        permutation_p(0.0, [0.0], tail="two-sided")


# Groups


def test_t_interval_matches_statsmodels(rng):
    values = rng.standard_normal(6)
    interval = t_interval(values)
    assert_allclose((interval.low, interval.high), DescrStatsW(values).tconfint_mean())


@pytest.mark.parametrize(("n", "method"), [(1, "none"), (3, "none"), (4, "t"), (9, "t"), (10, "bootstrap")])
def test_interval_over_subjects_depends_on_their_number(rng, n, method):
    values = rng.standard_normal(n)
    subjects = [f"{k:02d}" for k in range(n)]
    summary = group_summary(subjects, values, seed=0)
    assert summary.method == method
    assert summary.subjects == tuple(subjects)
    assert_allclose(summary.values, values)
    assert_allclose(summary.interval.value, values.mean())
    assert np.isnan(summary.interval.low) == (method == "none")
    assert (summary.interval.over, summary.prevalence) == ("subject", None)


def test_group_counts_significant_subjects():
    summary = group_summary(["01", "02", "03"], [0.3, 0.2, 0.0], [0.001, 0.05, 0.4], seed=0)
    assert summary.prevalence is not None
    assert (summary.prevalence.k, summary.prevalence.n) == (2, 3)
    assert str(summary.prevalence).startswith("2 of 3 significant at 0.05; prevalence 0.65")


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 20), (3, 8), (5, 5), (12, 20), (19, 20), (40, 40)])
def test_prevalence_matches_a_posterior_on_a_grid(k, n):
    alpha, level = 0.05, 0.9
    g = np.linspace(0, 1, 200_001)
    density = scipy.stats.binom.pmf(k, n, alpha + (1 - alpha) * g)
    order = np.argsort(-density, kind="stable")
    inside = g[order[: np.searchsorted(np.cumsum(density[order]), level * density.sum()) + 1]]
    found = prevalence(k, n, alpha=alpha, level=level)
    assert_allclose(
        (found.value, found.low, found.high), (g[density.argmax()], inside.min(), inside.max()), atol=2e-4
    )
    assert_allclose(found.p_value, scipy.stats.binom.sf(k - 1, n, alpha))


def test_bad_group_input_is_refused():
    with pytest.raises(InputError, match="each subject once; found 01, 01"):
        group_summary(["01", "01"], [1.0, 2.0], seed=0)
    with pytest.raises(InputError, match=r"`values`: expected shape \(subjects=2\)"):
        group_summary(["01", "02"], [1.0], seed=0)
    with pytest.raises(InputError, match="at least 4 subjects for a t-interval; found 3"):
        t_interval([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="between 0 and the 3 subjects tested; found 4"):
        prevalence(4, 3)
    with pytest.raises(InputError, match="`alpha`: expected a share between 0 and 1; found 5"):
        prevalence(1, 3, alpha=5)


def test_few_distinct_permutations_are_said_beside_the_p_value():
    few = permute_images(np.eye(4), seed=0, n_permutations=1000)
    many = permute_images(np.eye(12), seed=0, n_permutations=1000)
    assert few.correction == f"uncorrected, {factorial(4)} distinct permutations"
    assert many.correction == "uncorrected"

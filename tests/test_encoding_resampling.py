"""Resampled, permuted and swapped correlations, sets of units and routing ratios against numpy, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.encoding import encoding_r, encoding_r2_nc
from braindecode_suite.metrics.encoding_resampling import (
    CLIPPED,
    R_MEAN,
    R_MEDIAN,
    THRESHOLDED,
    UNCLIPPED,
    UNITS_AT_ONCE,
    UnitSets,
    draw_weights,
    permuted_r,
    resampled_r,
    swapped_r,
)
from braindecode_suite.metrics.routing_maps import Parts, excess, mass_per_area, routing_ratio

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.fixture
def pair(rng: np.random.Generator) -> Pair:
    truth = rng.standard_normal((25, 7)) * 3 + 40
    return truth, 0.5 * truth + rng.standard_normal((25, 7))


def test_every_resample_is_the_correlation_of_the_images_drawn(pair: Pair) -> None:
    truth, predicted = pair
    weights = draw_weights(25, 6, seed=1)
    r = resampled_r(truth, predicted, weights)
    for k, times in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(25), times)
        expected = [np.corrcoef(truth[drawn, u], predicted[drawn, u])[0, 1] for u in range(7)]
        assert_allclose(r[k], expected, atol=1e-6)


def test_squared_r_is_the_r2_of_the_best_line(pair: Pair) -> None:
    truth, predicted = pair
    r = resampled_r(truth, predicted, np.ones((1, 25)))[0]
    for u in range(7):
        line = np.polyval(np.polyfit(predicted[:, u], truth[:, u], 1), predicted[:, u])
        assert r[u] ** 2 == pytest.approx(r2_score(truth[:, u], line), abs=1e-6)


def test_units_in_several_blocks_are_those_in_one(rng: np.random.Generator) -> None:
    truth, predicted = rng.standard_normal((2, 12, UNITS_AT_ONCE + 3))
    weights = draw_weights(12, 2, seed=0)
    whole = resampled_r(truth, predicted, weights)
    assert_allclose(whole[:, -3:], resampled_r(truth[:, -3:], predicted[:, -3:], weights), atol=1e-6)


def test_images_of_a_concept_are_drawn_together() -> None:
    concept = np.array(["a", "a", "b", "c", "c", "c"])
    weights = draw_weights(6, 50, seed=0, units=concept)
    assert_array_equal(weights[:, 0], weights[:, 1])
    assert_array_equal(weights[:, 3], weights[:, 5])
    assert_array_equal(weights[:, 0] + weights[:, 2] + weights[:, 3], np.full(50, 3))


def test_permutations_exchange_whole_images_for_all_units(pair: Pair, rng: np.random.Generator) -> None:
    truth, predicted = pair
    orders = np.stack([rng.permutation(25) for _ in range(4)])
    r = permuted_r(truth, predicted, orders)
    for k, order in enumerate(orders):
        assert_allclose(r[k], encoding_r(truth[order], predicted), atol=1e-6)


def test_swaps_exchange_standardised_predictions(pair: Pair, rng: np.random.Generator) -> None:
    truth, first = pair
    second = 100 * rng.standard_normal((25, 7))
    swaps = rng.integers(2, size=(5, 25)) > 0
    swaps[0] = False
    a, b = swapped_r(truth, first, second, swaps)
    assert_allclose(a[0], encoding_r(truth, first), atol=1e-6)
    y, z = ((v - v.mean(axis=0)) / v.std(axis=0) for v in (first, second))
    for k, swap in enumerate(swaps):
        assert_allclose(a[k], encoding_r(truth, np.where(swap[:, None], z, y)), atol=1e-6)
        assert_allclose(b[k], encoding_r(truth, np.where(swap[:, None], y, z)), atol=1e-6)


def test_constant_and_missing_units_are_told_apart_from_constant_predictions(pair: Pair) -> None:
    truth, predicted = (values.copy() for values in pair)
    truth[:, 0], truth[3, 1], predicted[:, 2] = 5.0, np.nan, 1.0
    weights = draw_weights(25, 3, seed=0)
    for r in (
        resampled_r(truth, predicted, weights),
        permuted_r(truth, predicted, np.arange(25)[None]),
        swapped_r(truth, predicted, predicted, np.zeros((1, 25), bool))[0],
    ):
        assert np.isnan(r[:, :2]).all()
        assert_array_equal(r[:, 2], 0)
        assert np.isfinite(r[:, 3:]).all()


def test_sets_of_units_are_summarised_as_each_alone(rng: np.random.Generator) -> None:
    r, ceiling = rng.uniform(-0.3, 0.9, (3, 9)), rng.uniform(0, 0.8, 9)
    r[:, 8], ceiling[2] = np.nan, 0.0
    members = np.array([[True] * 8 + [False], [True, False, True, True] + [False] * 5])
    sets = UnitSets(names=("all", "some"), members=members, ceiling=ceiling, threshold=0.3)
    found = sets.summarise(r)
    for k, member in enumerate(members):
        for row in range(3):
            expected = encoding_r2_nc(r[row, member], ceiling[member], threshold=0.3)
            assert found[R_MEAN][row, k] == pytest.approx(r[row, member].mean())
            assert found[R_MEDIAN][row, k] == pytest.approx(np.median(r[row, member]))
            assert found[CLIPPED][row, k] == pytest.approx(expected.clipped)
            assert found[UNCLIPPED][row, k] == pytest.approx(expected.unclipped)
            assert found[THRESHOLDED][row, k] == pytest.approx(expected.thresholded, nan_ok=True)
        assert sets.ceilings()[R_MEAN][k] == pytest.approx(np.sqrt(ceiling[member]).mean())


def test_a_set_without_scored_units_is_refused() -> None:
    with pytest.raises(InputError, match="set of units 'V9': expected at least one scored unit; found none"):
        UnitSets(names=("V9",), members=np.zeros((1, 4), bool))


def test_weights_of_another_number_of_images_are_refused(pair: Pair) -> None:
    with pytest.raises(InputError, match=r"`weights`: expected shape \(resamples, images=25\)"):
        resampled_r(*pair, np.ones((3, 24)))


def test_intervals_cover_a_known_correlation() -> None:
    rng, covered = np.random.default_rng(0), 0
    for seed in range(100):
        truth = rng.standard_normal((80, 1))
        predicted = truth + rng.standard_normal((80, 1))  # r is the root of a half
        low, high = np.quantile(
            resampled_r(truth, predicted, draw_weights(80, 400, seed=seed)), [0.025, 0.975]
        )
        covered += low <= np.sqrt(0.5) <= high
    assert 88 <= covered <= 99


def test_one_permutation_is_scipys_pearson(pair: Pair, rng: np.random.Generator) -> None:
    order = rng.permutation(25)
    r = permuted_r(*pair, order[None])[0, 4]
    assert r == pytest.approx(pearsonr(pair[0][order, 4], pair[1][:, 4])[0], abs=1e-6)


def routed(rng: np.random.Generator, strength: float, n: int = 60) -> tuple[np.ndarray, Parts]:
    """Maps of 16 tokens with `strength` more on token a than elsewhere; a is the own object, b the other."""
    places = np.stack([rng.permutation(16)[:2] for _ in range(n)])
    maps = rng.uniform(0.5, 1.5, (n, 16))
    maps[np.arange(n), places[:, 0]] += strength
    own, other = np.zeros((n, 16)), np.zeros((n, 16))
    own[np.arange(n), places[:, 0]], other[np.arange(n), places[:, 1]] = 1, 0.5
    return maps / maps.sum(axis=1, keepdims=True), Parts(own=own, other=other)


def test_mass_per_area_does_not_depend_on_the_area() -> None:
    maps = np.full((1, 4), 0.25)
    for part in ([1.0, 0, 0, 0], [1.0, 1.0, 0.5, 0]):
        assert_allclose(mass_per_area(maps, np.array([part])), 0.25)


def test_a_model_that_looks_at_its_object_has_a_ratio_above_one_and_a_blind_one_has_not() -> None:
    rng = np.random.default_rng(2)
    maps, parts = routed(rng, 3.0)
    interval, test = routing_ratio(excess(maps), parts, seed=0)
    by_hand = (excess(maps) * parts.own).sum() / (2 * (excess(maps) * parts.other).sum())
    assert interval.value == pytest.approx(by_hand)
    assert interval.low > 2
    assert test.p_value == pytest.approx(1 / 1001)
    assert 0.5 < test.chance < 2
    blind, parts = routed(rng, 0.0)
    interval, test = routing_ratio(excess(blind), parts, seed=0)
    assert interval.low < 1 < interval.high
    assert test.p_value > 0.05


def test_an_object_that_draws_every_query_alike_counts_only_without_a_reference() -> None:
    rng = np.random.default_rng(3)
    salient, parts = routed(rng, 3.0)
    noise = rng.uniform(0.9, 1.1, (2, *salient.shape))
    drawn, other = excess(salient * noise[0]), excess(salient * noise[1])
    assert routing_ratio(drawn, parts, seed=0)[0].low > 2
    relative, test = routing_ratio(drawn, parts, other, seed=0)
    assert relative.low < 1 < relative.high
    assert test.p_value > 0.01
    own, beside = ((m * parts.own).sum() / (m * parts.other).sum() for m in (drawn, other))
    assert relative.value == pytest.approx(own / beside)
    flat = excess(rng.uniform(0.5, 1.5, salient.shape))
    assert routing_ratio(drawn, parts, flat, seed=0)[0].low > 2


def test_a_map_that_is_the_same_for_every_image_has_no_ratio() -> None:
    _, parts = routed(np.random.default_rng(0), 1.0)
    fixed = np.tile(np.linspace(0, 1, 16), (60, 1))
    with pytest.raises(InputError, match="maps: expected some mass on the other part"):
        routing_ratio(excess(fixed), parts, seed=0)

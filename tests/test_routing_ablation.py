"""Tokens taken away: which ones, what they change, and a model whose one token is known to matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid
from braindecode_suite.metrics.routing_ablation import (
    count_ablated,
    most_and_least,
    prediction_change,
    prediction_spread,
    random_tokens,
    resampled_ratio,
)
from braindecode_suite.workflows.encode_ablation import AblatedRows, Ablation, image_tokens, mean_token


def test_most_and_least_attended_tokens_are_those_of_a_sort_among_allowed_ones() -> None:
    rng = np.random.default_rng(0)
    maps, allowed = rng.random((6, 20)), np.arange(20) % 4 > 0
    most, least = most_and_least(maps, 0.2, allowed)
    for values, top, bottom in zip(maps, most, least, strict=True):
        order = [t for t in np.argsort(values) if allowed[t]]
        assert set(np.flatnonzero(top)) == set(order[-3:])
        assert set(np.flatnonzero(bottom)) == set(order[:3])


def test_random_tokens_are_as_many_allowed_ones_and_each_equally_often() -> None:
    allowed = np.array([False] + [True] * 10)
    drawn = random_tokens(200, 0.3, allowed, 10, seed=0)
    assert (drawn.sum(axis=2) == 3).all()
    assert not drawn[..., 0].any()
    assert_allclose(drawn[..., 1:].mean(axis=(0, 1)), 0.3, atol=0.04)
    assert_array_equal(drawn, random_tokens(200, 0.3, allowed, 10, seed=0))


@pytest.mark.parametrize(("share", "message"), [(0.0, "above 0 and below 1"), (1.0, "above 0 and below 1")])
def test_a_share_of_nothing_or_everything_is_refused(share: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        count_ablated(share, 10)


def test_a_single_token_cannot_be_taken_away() -> None:
    with pytest.raises(InputError, match="at least two"):
        count_ablated(0.5, 1)


def test_a_change_of_one_is_as_large_as_that_to_the_mean_prediction() -> None:
    rng = np.random.default_rng(1)
    intact = rng.standard_normal((30, 4))
    to_mean = np.broadcast_to(intact.mean(axis=0), intact.shape)
    ones = np.ones((1, 30))
    assert resampled_ratio(prediction_change(intact, to_mean), prediction_spread(intact), ones)[
        0
    ] == pytest.approx(1)
    assert prediction_spread(intact).mean() == pytest.approx(intact.var(axis=0).sum())
    assert np.isnan(resampled_ratio(np.ones(30), np.zeros(30), ones)).all()


def test_ablated_rows_hold_the_mean_where_they_were_chosen_and_the_features_elsewhere() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((5, 3, 2)).astype(np.float16)
    chosen = rng.random((5, 3)) > 0.5
    ablated = AblatedRows(rows, chosen, mean_token(rows))
    some = np.array([4, 1])
    expected = rows[some].astype(np.float32)
    expected[chosen[some]] = np.broadcast_to(rows.astype(float).mean(axis=0), (2, 3, 2))[chosen[some]]
    assert_allclose(ablated[some], expected, rtol=1e-6)
    assert_allclose(ablated[1:3], ablated[np.array([1, 2])])
    assert len(ablated) == 5
    assert ablated.shape == (5, 3, 2)


def test_neither_class_token_nor_padding_is_taken_away() -> None:
    seen = np.array([[True, False], [True, True]])
    assert image_tokens(Grid(2, 2, has_cls=True, seen=seen)).tolist() == [False, True, False, True, True]


class OneToken:
    """Predicts unit k from feature k of the token that is marked in its image."""

    def predict(self, rows: dict[str, Any]) -> np.ndarray:
        features = np.asarray(rows["f"][:])
        marked = features[..., -1].argmax(axis=1)
        return features[np.arange(len(features)), marked, :-1]


@pytest.mark.parametrize("honest", [True, False])
def test_maps_that_point_at_what_matters_are_told_from_those_that_do_not(honest: bool) -> None:
    rng = np.random.default_rng(3)
    n, tokens, units = 60, 20, 4
    features = rng.standard_normal((n, tokens, units + 1))
    place = rng.integers(tokens, size=n)
    features[..., -1] = 0
    features[np.arange(n), place, -1] = 1
    shown = place if honest else (place + 7) % tokens
    maps = np.full((n, 1, tokens), 0.01)
    maps[np.arange(n), 0, shown] = 1
    ablation = Ablation(
        model=OneToken(),
        source="f",
        rows={"f": features},
        maps=maps,
        allowed=np.ones(tokens, bool),
        mean=np.zeros((tokens, units + 1)),
        share=0.05,
        seed=0,
    )
    truth = features[np.arange(n), place, :-1]
    known = {"a": np.array([True, True, False, False])}
    found = ablation.measure({"a": [0]}, known, truth, np.ones((1, n)))
    most, random, _ = found["change"][0, :, 0]
    assert random == pytest.approx(0.1, abs=0.08)  # one token of twenty, and that of the image
    if honest:
        assert most > 0.9
        assert found["ratio"][0, 0] > 5
        assert found["loss"][0, 0, 0] > 0.8
    else:
        assert most == 0
        assert found["ratio"][0, 0] == 0
        assert_allclose(found["loss"][0, 0, 0], 0, atol=1e-6)

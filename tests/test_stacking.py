"""Stacking weights against non-negative least squares and the conditions of optimality."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning import stacking
from braindecode_suite.learning.stacking import combine, solve_simplex, stacking_weights


def predictions(rng, models, images, units, *, shared=1.0):
    """Responses, and predictions of differing quality whose errors have a part in common."""
    measured = rng.standard_normal((images, units))
    common = shared * rng.standard_normal((images, units))
    noise = rng.uniform(0.2, 2, (models, 1, units))
    own = noise * rng.standard_normal((models, images, units))
    return list(measured + common + own), measured


def by_nnls(predicted, measured):
    """Weights of one unit: the least-norm point of a simplex is the cone's, scaled."""
    errors = np.stack(predicted, axis=1) - measured[:, None]
    rows = np.vstack([errors, np.full((1, errors.shape[1]), np.linalg.norm(errors))])
    cone, _ = nnls(rows, np.append(np.zeros(len(errors)), rows[-1, 0]))
    return cone / cone.sum()


@pytest.mark.parametrize(("models", "images"), [(1, 20), (2, 30), (4, 50), (7, 40), (9, 5)])
def test_weights_are_those_of_non_negative_least_squares(models, images):
    rng = np.random.default_rng(models)
    predicted, measured = predictions(rng, models, images, 60)
    weights = stacking_weights(predicted, measured)
    for unit in range(60):
        expected = by_nnls([p[:, unit] for p in predicted], measured[:, unit])
        if models <= images:
            assert_allclose(weights[:, unit], expected, atol=2e-5)
        else:  # many solutions of the same error
            error = [
                np.square(np.stack(predicted)[:, :, unit].T @ w - measured[:, unit]).sum()
                for w in (weights[:, unit], expected)
            ]
            assert error[0] <= error[1] + 1e-6


def test_weights_are_convex_and_no_single_model_is_better_on_the_same_rows():
    predicted, measured = predictions(np.random.default_rng(0), 5, 40, 300)
    weights = stacking_weights(predicted, measured)
    assert (weights >= 0).all()
    assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    assert 0.05 < (weights == 0).mean() < 0.95
    error = np.square(combine(weights, predicted) - measured).sum(axis=0)
    alone = np.square(np.stack(predicted) - measured).sum(axis=1)
    assert (error <= alone.min(axis=0) * (1 + 1e-5)).all()


def test_the_solution_meets_the_conditions_of_optimality():
    rng = np.random.default_rng(1)
    factors = rng.standard_normal((500, 6, 8)) * rng.uniform(0.1, 10, (500, 6, 1)) + rng.standard_normal(
        (500, 1, 8)
    )
    gram = factors @ factors.transpose(0, 2, 1)
    weights = solve_simplex(gram)
    slope = np.einsum("nab,nb->na", gram, weights)
    least = (slope * weights).sum(axis=1, keepdims=True)
    assert (slope - least > -1e-5 * least).all()
    assert_allclose((slope - least)[weights > 0] / least.repeat(6, axis=1)[weights > 0], 0, atol=1e-5)


def test_units_are_solved_alike_in_blocks(monkeypatch):
    predicted, measured = predictions(np.random.default_rng(2), 3, 20, 25)
    whole = stacking_weights(predicted, measured)
    monkeypatch.setattr(stacking, "UNITS_AT_ONCE", 7)
    assert_allclose(stacking_weights(predicted, measured), whole, atol=1e-7)


def test_a_perfect_model_takes_all_and_equal_models_share():
    y = np.random.default_rng(3).standard_normal((30, 2))
    noise, other = np.random.default_rng(4).standard_normal((2, 30, 2))
    assert_allclose(stacking_weights([y + noise, y, y - 2 * other], y)[1], 1, atol=1e-4)
    assert_allclose(stacking_weights([y + noise, y + noise], y), 0.5, atol=1e-3)
    assert_allclose(stacking_weights([y, y, y], y), 1 / 3, atol=1e-3)


def test_units_with_missing_values_get_equal_weights_and_leave_the_others_alone():
    predicted, measured = predictions(np.random.default_rng(5), 3, 20, 4)
    expected = stacking_weights(predicted, measured)
    measured[3, 1] = np.nan
    predicted[0][:, 2] = np.nan
    weights = stacking_weights(predicted, measured)
    assert_allclose(weights[:, 1:3], 1 / 3)
    assert_array_equal(weights[:, [0, 3]], expected[:, [0, 3]])
    assert np.isnan(combine(weights, predicted)[:, 2]).all()


def test_bad_input_is_refused():
    y = np.zeros((4, 2))
    with pytest.raises(InputError, match="at least one model"):
        stacking_weights([], y)
    with pytest.raises(
        InputError, match=r"`predicted\[1\]`: expected shape \(images=4, units=2\); found \(4, 3\)"
    ):
        stacking_weights([y, np.zeros((4, 3))], y)
    with pytest.raises(InputError, match="at least one image"):
        stacking_weights([y[:0]], y[:0])


def test_weights_of_one_group_are_those_of_all_its_units_images_side_by_side() -> None:
    rng = np.random.default_rng(1)
    y = rng.standard_normal((30, 4))
    models = [y + s * rng.standard_normal(y.shape) for s in (0.7, 1.0, 1.5)]
    weights = stacking_weights(models, y, np.array([5, 5, 2, 2]), pooled=1.0)
    for units in ([0, 1], [2, 3]):
        scale = np.sqrt(
            sum(((m - y)[:, units] ** 2).sum(axis=0) for m in models)
        )  # every unit to the same total
        together = [(m[:, units] / scale).ravel()[:, None] for m in models]
        expected = stacking_weights(together, (y[:, units] / scale).ravel()[:, None])
        assert_allclose(weights[:, units], np.repeat(expected, 2, axis=1), atol=1e-5)


def test_pooling_lies_between_a_units_own_weights_and_its_groups() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((30, 6))
    models = [y + s * rng.standard_normal(y.shape) for s in (1.0, 1.0)]
    own, half, all_ = (stacking_weights(models, y, pooled=share) for share in (0.0, 0.5, 1.0))
    assert_allclose(own, stacking_weights(models, y))
    assert (np.abs(half - all_) <= np.abs(own - all_) + 1e-6).all()
    assert np.ptp(all_, axis=1).max() < 1e-6 < np.ptp(own, axis=1).max()
    with pytest.raises(InputError, match="`pooled`: expected a share from 0 to 1; found 2"):
        stacking_weights(models, y, pooled=2.0)

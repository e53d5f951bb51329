"""Gaussians of routing maps against maps drawn from known ones and against scipy's least squares."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import curve_fit

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.gaussian_maps import fit_gaussians


def bump(
    x: float, y: float, sd: float, gain: float, base: float, height: int = 16, width: int = 16
) -> np.ndarray:
    rows, columns = (np.indices((height, width)) + 0.5) / width
    return base + gain * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sd**2))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 8), (12, 20)])
def test_a_map_drawn_from_a_gaussian_gives_it_back(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    tall = height / width
    known = np.stack(
        [
            rng.uniform(0.1, 0.9, 20),
            rng.uniform(0.1, 0.9, 20) * tall,
            rng.uniform(0.08, 0.4, 20),
            rng.uniform(0.1, 3, 20),
            rng.uniform(0, 2, 20),
        ],
        axis=1,
    )
    fit = fit_gaussians(
        np.stack([bump(x, y, sd, gain, base, height, width) for x, y, sd, gain, base in known])
    )
    found = np.stack([fit.x, fit.y, fit.sd, fit.gain, fit.base], axis=1)
    assert_allclose(found, known, atol=2e-3)
    assert_allclose(fit.explained, 1, atol=1e-6)


def test_the_noisy_fit_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    maps = np.stack([bump(0.3 + 0.1 * k, 0.6, 0.15, 1.0, 0.5) for k in range(4)])
    maps += 0.3 * rng.standard_normal(maps.shape)
    fit = fit_gaussians(maps)
    for k, values in enumerate(maps):
        start = (fit.x[k] + 0.05, fit.y[k] - 0.05, 0.2, 1.0, 0.5)
        peer, _ = curve_fit(lambda _, *p: bump(*p).ravel(), None, values.ravel(), p0=start)
        assert_allclose([fit.x[k], fit.y[k], fit.sd[k], fit.gain[k], fit.base[k]], peer, atol=2e-3)
        left = np.square(values - bump(*peer)).sum()
        assert fit.explained[k] == pytest.approx(1 - left / np.square(values - values.mean()).sum(), abs=1e-6)


def test_a_flat_map_has_no_centre_and_nothing_to_explain() -> None:
    fit = fit_gaussians(np.full((1, 4, 4), 1 / 16))
    assert np.isnan([fit.x[0], fit.y[0], fit.sd[0], fit.explained[0]]).all()
    assert (fit.gain[0], fit.base[0]) == (0, 1 / 16)


def test_a_hole_is_not_called_a_bump() -> None:
    fit = fit_gaussians(bump(0.5, 0.5, 0.15, -1.0, 2.0)[None])
    assert fit.gain[0] >= 0
    assert fit.explained[0] < 0.3


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.ones((2, 3)), "maps"),
        (np.ones((2, 1, 3)), "at least two rows and two columns"),
        (np.full((1, 3, 3), np.nan), "maps"),
    ],
)
def test_what_is_no_map_is_refused(maps: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_gaussians(maps)

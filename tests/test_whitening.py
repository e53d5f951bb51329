"""Whitening: noise of variance one and no correlation, by training rows only; missing sensors stay missing and move nobody else."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load, save
from scipy.linalg import sqrtm
from sklearn.covariance import LedoitWolf

from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.whitening import Whiten

N_SENSORS = 6
TIMES = np.arange(-10, 15) / 100
BEFORE = TIMES <= 0


@pytest.fixture
def trials() -> pd.DataFrame:
    return pd.DataFrame({"session": np.repeat(["a", "b"], 60)})


@pytest.fixture
def responses(trials: pd.DataFrame) -> np.ndarray:
    """Noise in tesla that is mixed over sensors, in each session otherwise; the picture evokes the same in every row."""
    rng = np.random.default_rng(0)
    values = np.empty((len(trials), N_SENSORS, len(TIMES)))
    for session in ("a", "b"):
        mix = rng.normal(size=(N_SENSORS, N_SENSORS)) * 1e-13
        inside = trials["session"] == session
        values[inside] = mix @ rng.normal(size=(inside.sum(), N_SENSORS, len(TIMES)))
    values += 1e-12 * np.sin(TIMES * 40) * np.arange(N_SENSORS)[:, None]
    return values.astype(np.float32)


def test_what_comes_out_is_scikit_learns_shrunk_covariance_to_the_power_of_minus_a_half(responses, trials):
    rows = np.arange(0, 120, 2)
    whitened = Whiten(TIMES).fit(responses, trials, rows).apply(responses, trials)
    for session in ("a", "b"):
        inside = np.flatnonzero(trials["session"] == session)
        train = responses[np.intersect1d(rows, inside)].astype(float) / 1e-13
        train = (train - train.mean(axis=0))[:, :, BEFORE]
        samples = train.transpose(0, 2, 1).reshape(-1, N_SENSORS)
        root = np.linalg.inv(sqrtm(LedoitWolf(assume_centered=True).fit(samples).covariance_))
        assert_allclose(whitened[inside], root @ (responses[inside] / 1e-13), rtol=1e-4, atol=1e-4)


def test_noise_comes_out_uncorrelated_and_of_variance_one(responses, trials):
    whitened = Whiten(TIMES, tmax=None).fit(responses, trials, np.arange(120)).apply(responses, trials)
    for session in ("a", "b"):
        block = whitened[trials["session"] == session].astype(float)
        samples = (block - block.mean(axis=0)).transpose(0, 2, 1).reshape(-1, N_SENSORS)
        assert_allclose(samples.T @ samples / len(samples), np.eye(N_SENSORS), atol=0.1)


def test_test_rows_and_times_after_the_picture_do_not_move_it(responses, trials):
    rows = np.array([0, 1, 2, 9, 70, 71, 75, 80])
    changed = responses.copy()
    changed[np.setdiff1d(np.arange(120), rows)] *= 7
    changed[:, :, ~BEFORE] *= 3
    first, second = (Whiten(TIMES).fit(x, trials, rows) for x in (responses, changed))
    assert_array_equal(first.covariance, second.covariance)
    whole = Whiten(TIMES, tmax=None).fit(changed, trials, rows)
    assert not np.allclose(first.covariance, whole.covariance, atol=0)


def test_a_missing_sensor_is_as_if_it_had_never_been_recorded(responses, trials):
    rows = np.arange(120)
    lacking = responses.copy()
    lacking[:60, 2] = np.nan  # absent in session a
    found = Whiten(TIMES).fit(lacking, trials, rows).apply(lacking, trials)
    others = [0, 1, 3, 4, 5]
    alone = Whiten(TIMES).fit(responses[:, others], trials, rows).apply(responses[:, others], trials)
    assert_allclose(found[:60, others], alone[:60], rtol=1e-5)
    assert np.isnan(found[:60, 2]).all()
    assert np.isfinite(found[60:]).all()


def test_a_sensor_that_fails_for_a_while_is_missing_then_and_only_then(responses, trials):
    step = Whiten(TIMES).fit(responses, trials, np.arange(120))
    failing = responses.copy()
    failing[7, 4, 3:5] = np.nan
    failing[9] = np.nan
    found, before = step.apply(failing, trials), step.apply(responses, trials)
    assert_array_equal(np.isnan(found).all(axis=2)[7], np.arange(N_SENSORS) == 4)
    assert np.isnan(found[9]).all()
    rest = np.setdiff1d(np.arange(120), [7, 9])
    assert_array_equal(found[rest], before[rest])
    # the row is whitened by what is known of the sensors that it has
    kept = np.setdiff1d(np.arange(N_SENSORS), 4)
    root = np.linalg.inv(sqrtm(step.covariance[0][np.ix_(kept, kept)] / 1e-26)) / 1e-13
    assert_allclose(found[7, kept], root @ responses[7, kept].astype(float), rtol=1e-4, atol=1e-5)


def shrunk_pair_by_pair(x: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf with a sum for each pair of sensors over the rows that have both."""
    there, n_sensors = np.isfinite(x).all(axis=2), x.shape[1]
    centred = x - np.stack([x[there[:, k], k].mean(axis=0) for k in range(n_sensors)])
    covariance, doubt = np.empty((2, n_sensors, n_sensors))
    for i in range(n_sensors):
        for j in range(n_sensors):
            both = there[:, i] & there[:, j]
            products = (centred[both, i] * centred[both, j]).ravel()
            covariance[i, j], doubt[i, j] = products.mean(), products.var() / len(products)
    target = np.diag(covariance).mean() * np.eye(n_sensors)
    share = doubt.sum() / np.square(covariance - target).sum()
    return (1 - share) * covariance + share * target


def test_a_covariance_is_that_of_the_rows_that_have_both_sensors(responses, trials):
    failing = responses.copy()
    failing[3, 1] = np.nan
    failing[5, 4, :2] = np.nan
    rows = np.arange(60)
    found = Whiten(TIMES).fit(failing, trials, rows).covariance[0]
    failing[5, 4] = np.nan
    expected = shrunk_pair_by_pair(failing[rows][:, :, BEFORE].astype(float) / 1e-13)
    assert_allclose(found / 1e-26, expected, rtol=1e-6, atol=1e-9)


def test_runs_that_lack_a_sensor_each_are_whitened_though_no_row_has_all(responses, trials):
    failing = responses.copy()
    for run in range(N_SENSORS):
        failing[run::N_SENSORS, run] = np.nan
    step = Whiten(TIMES, tmax=None).fit(failing, trials, np.arange(120))
    found = step.apply(failing, trials)
    assert_array_equal(np.isnan(found), np.isnan(failing))
    whole = Whiten(TIMES, tmax=None).fit(responses, trials, np.arange(120))
    assert_allclose(step.covariance, whole.covariance, atol=0.2 * whole.covariance.max())
    assert (np.linalg.eigvalsh(step.covariance / 1e-26) > 0).all()


def test_covariances_that_contradict_each_other_still_make_a_root():
    """Three sensors, of which each pair is seen together once: alike, alike, and opposite."""
    block = np.full((3, 3, 200), np.nan)
    noise = np.random.default_rng(0).standard_normal((3, 200))
    for row, (i, j, sign) in enumerate(((0, 1, 1), (1, 2, 1), (0, 2, -1))):
        block[row, i], block[row, j] = noise[row], sign * noise[row]
    trials = pd.DataFrame({"session": ["a"] * 3})
    step = Whiten(np.arange(200) / 100, tmax=None).fit(block, trials, np.arange(3))
    assert np.linalg.eigvalsh(step.covariance[0]).min() > 0
    assert_array_equal(np.isnan(step.apply(block, trials)), np.isnan(block))


def test_a_flat_sensor_is_missing(responses, trials):
    responses[:, 0] = 3e-12
    found = Whiten(TIMES).fit(responses, trials, np.arange(120)).apply(responses, trials)
    assert np.isnan(found[:, 0]).all()
    assert np.isfinite(found[:, 1:]).all()


def test_a_window_that_still_grows_is_the_start_of_the_whole_epoch(responses, trials):
    step = Whiten(TIMES).fit(responses, trials, np.arange(120))
    assert_allclose(
        step.apply(responses[:, :, :4], trials), step.apply(responses, trials)[:, :, :4], rtol=1e-6
    )


def test_each_level_has_its_root_computed_once_however_often_rows_of_all_are_read(
    responses, trials, monkeypatch
):
    many = trials.assign(session=np.arange(120) // 4)  # 30 levels
    step = Whiten(TIMES).fit(responses, many, np.arange(120))
    computed = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: computed.append(1) or eigh(matrix))
    first = step.apply(responses, many)
    assert_array_equal(step.apply(responses, many), first)
    assert len(computed) == 30


def test_a_fitted_step_goes_to_another_process(responses, trials):
    step = Whiten(TIMES).fit(responses, trials, np.arange(120))
    expected = step.apply(responses, trials)
    assert_array_equal(pickle.loads(pickle.dumps(step)).apply(responses, trials), expected)


def test_what_cannot_be_whitened_says_so(responses, trials):
    with pytest.raises(InputError, match=r"a sample up to -1 s; found epochs from -0.1 to 0.14 s"):
        Whiten(TIMES, tmax=-1)
    with pytest.raises(InputError, match="session b: expected at least 2 rows to whiten by"):
        Whiten(TIMES).fit(responses, trials, np.array([1, 2, 3, 77]))
    with pytest.raises(InputError, match=r"found session b \(a held-out block needs scope"):
        Whiten(TIMES).fit(responses, trials, np.arange(60)).apply(responses, trials)
    with pytest.raises(InputError, match="expected a fitted step"):
        Whiten(TIMES).apply(responses, trials)
    with pytest.raises(
        InputError, match="session a: expected sensors that vary in the samples that are taken"
    ):
        Whiten(TIMES).fit(responses * 0, trials, np.arange(60))
    first = Baseline(TIMES[10:]).apply(responses[:, :, 10:], trials)  # one sample, less itself
    with pytest.raises(InputError, match="a baseline of one sample leaves nothing of it"):
        Whiten(TIMES[10:]).fit(first, trials, np.arange(120))


@pytest.mark.parametrize("n_own", [0, 1])
def test_a_held_out_block_is_whitened_by_its_own_rows_where_too_few_train(responses, trials, n_own):
    step = Whiten(TIMES, scope="heldout-block").fit(responses, trials, np.arange(60 + n_own))
    own = Whiten(TIMES).fit(responses, trials, np.arange(120))
    assert_array_equal(step.covariance, own.covariance)
    assert np.isfinite(step.apply(responses, trials)).all()


def test_a_recipe_that_whitens_comes_back_from_json_and_safetensors(responses, trials):
    recipe = Recipe((RobustScale(), Whiten(TIMES), Baseline(TIMES), Clip(5)))
    recipe = recipe.fit(responses, trials, np.arange(120))
    facts, numbers = recipe.frozen()
    back = Recipe.from_frozen(json.loads(json.dumps(facts)), load(save(numbers)))
    assert back.hash == recipe.hash
    assert_array_equal(back.step(responses, trials), recipe.apply(responses, trials))

"""Single-trial responses: the closed forms beside nilearn's and numpy's least squares, and what is refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel, compute_regressor, make_first_level_design_matrix
from numpy.testing import assert_allclose

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.hrf import PEAKS, boxcar_response, double_gamma
from braindecode_suite.learning.single_trial_glm import (
    choose_response,
    estimate_responses,
    explained_squares,
    orthonormal_basis,
    trial_weights,
)

TR, VOLUMES, TRIALS = 2.0, 90, 20


@pytest.fixture(scope="module")
def design() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trials every 7 s or so through Glover's response, cosine drifts, six confounds: all of nilearn's making."""
    rng = np.random.default_rng(0)
    times = np.arange(VOLUMES) * TR
    events = pd.DataFrame(
        {
            "onset": np.cumsum(rng.uniform(5, 10, TRIALS)),
            "duration": 2.0,
            "trial_type": [f"trial{k:02d}" for k in range(TRIALS)],
        }
    )
    matrix = make_first_level_design_matrix(
        times,
        events,
        hrf_model="glover",
        drift_model="cosine",
        high_pass=0.01,
        add_regs=rng.standard_normal((VOLUMES, 6)),
    )
    trials = matrix[list(events["trial_type"])].to_numpy()
    nuisance = matrix.drop(columns=list(events["trial_type"])).to_numpy()
    series = 1000 + 20 * rng.standard_normal((VOLUMES, 24)) + 30 * trials @ rng.standard_normal((TRIALS, 24))
    return trials, nuisance, series


@pytest.mark.parametrize("trial", [0, 7, TRIALS - 1])
def test_separate_estimates_are_those_of_one_nilearn_model_a_trial(design, trial):
    trials, nuisance, series = design
    others = trials.sum(axis=1) - trials[:, trial]
    matrix = pd.DataFrame(np.column_stack([trials[:, trial], others, nuisance]))
    matrix.columns = ["trial", "others", *(f"n{k}" for k in range(nuisance.shape[1]))]
    volumes = series.T.reshape(4, 3, 2, VOLUMES)
    mask = nib.Nifti1Image(np.ones((4, 3, 2), np.int8), np.eye(4))
    model = FirstLevelModel(mask_img=mask, noise_model="ols", signal_scaling=False)
    model.fit(nib.Nifti1Image(volumes, np.eye(4)), design_matrices=matrix)
    theirs = model.compute_contrast("trial", output_type="effect_size").get_fdata().ravel()

    ours = estimate_responses(trial_weights(trials, nuisance, "lss"), series, block=7)
    assert ours.shape == (TRIALS, 24)
    assert np.abs(ours[trial] - theirs).max() / ours.std() < 1e-6


def test_estimates_of_all_trials_are_ordinary_least_squares(design):
    trials, nuisance, series = design
    solved = np.linalg.lstsq(np.hstack([trials, nuisance]), series, rcond=None)[0][:TRIALS]
    assert_allclose(estimate_responses(trial_weights(trials, nuisance, "lsa"), series), solved, atol=1e-8)


def test_a_lone_trial_is_the_same_either_way(design):
    trials, nuisance, series = design
    one = trials[:, :1]
    both = [estimate_responses(trial_weights(one, nuisance, name), series) for name in ("lss", "lsa")]
    assert_allclose(both[0], both[1], atol=1e-9)


@pytest.mark.parametrize("estimator", ["lss", "lsa"])
def test_drifts_and_confounds_do_not_move_the_estimates(design, estimator):
    trials, nuisance, series = design
    weights = trial_weights(trials, nuisance, estimator)
    drifted = series + nuisance @ np.full((nuisance.shape[1], 24), 500.0)
    assert_allclose(weights @ drifted, weights @ series, atol=1e-7)


def test_collinear_nuisance_counts_once(design):
    trials, nuisance, _ = design
    doubled = np.hstack([nuisance, nuisance[:, :3] * 2, np.zeros((VOLUMES, 1))])
    assert orthonormal_basis(doubled).shape[1] == np.linalg.matrix_rank(nuisance)
    assert_allclose(trial_weights(trials, doubled), trial_weights(trials, nuisance), atol=1e-10)


@pytest.mark.parametrize("estimator", ["lss", "lsa"])
def test_a_trial_that_others_make_up_is_refused_by_its_number(design, estimator):
    trials, nuisance, _ = design
    late = trials.copy()
    late[:, 4] = nuisance[:, 2]
    with pytest.raises(InputError, match=r"found trial 5 explained by the nuisance regressors"):
        trial_weights(late, nuisance, estimator)


def test_two_trials_at_the_same_time_are_refused_together(design):
    trials, nuisance, _ = design
    twice = np.column_stack([trials[:, 0], trials[:, 1], trials[:, 1]])
    with pytest.raises(InputError, match="explained by the other trials"):
        trial_weights(twice, nuisance, "lsa")
    with pytest.raises(InputError, match="explained by the sum of the other trials"):
        trial_weights(twice[:, 1:], nuisance, "lss")


def test_more_regressors_than_volumes_are_refused():
    trials = np.random.default_rng(0).standard_normal((15, 20))
    with pytest.raises(InputError, match="explained by the other trials"):
        trial_weights(trials, np.ones((15, 1)), "lsa")


def test_regressors_that_are_not_finite_are_refused(design):
    trials, nuisance, _ = design
    broken = nuisance.copy()
    broken[0, 0] = np.nan
    with pytest.raises(InputError, match=r"nuisance.*1 NaN or infinite values, the first at \(0, 0\)"):
        trial_weights(trials, broken)


def test_explained_squares_are_those_of_the_full_fit(design):
    trials, nuisance, series = design
    explained, total = explained_squares(trials, nuisance, series, block=5)
    full = np.hstack([trials, nuisance])
    residual = series - full @ np.linalg.lstsq(full, series, rcond=None)[0]
    without = series - nuisance @ np.linalg.lstsq(nuisance, series, rcond=None)[0]
    assert_allclose(total, np.sum(without**2, 0))
    assert_allclose(total - explained, np.sum(residual**2, 0))


def test_the_response_is_chosen_over_the_runs_given():
    explained = np.array([[[1.0, 5.0], [2.0, 1.0]], [[9.0, 0.0], [1.0, 1.0]]])  # runs, responses, voxels
    total = np.full((2, 2), 10.0)
    assert choose_response(explained[:1], total[:1]).tolist() == [1, 0]
    assert choose_response(explained, total).tolist() == [0, 0]
    with pytest.raises(InputError, match="at least one training run"):
        choose_response(explained[:0], total[:0])


def test_the_family_peaks_where_it_says_and_sums_to_one():
    times = np.arange(0, 32, 0.01)
    for peak in PEAKS:
        response = double_gamma(times, peak)
        assert abs(times[np.argmax(response)] - peak) < 0.2
        assert response.sum() == pytest.approx(1)
        assert response.min() < 0  # the undershoot
    with pytest.raises(InputError, match="seconds above 0"):
        double_gamma(times, 0)


@pytest.mark.parametrize("duration", [0.5, 3.0])
def test_the_response_to_a_boxcar_is_nilearns_convolution(duration):
    def response(t_r, oversampling=50):
        return double_gamma(np.arange(0, 60, t_r / oversampling), 5.5)

    times = np.arange(40) * 1.0
    theirs, _ = compute_regressor(([7.0], [duration], [1.0]), response, times, oversampling=100)
    assert_allclose(boxcar_response(times - 7.0, duration, 5.5), theirs[:, 0], atol=0.015 * theirs.max())
    with pytest.raises(InputError, match="`duration`: expected seconds above 0"):
        boxcar_response(times, 0, 5.5)

"""The linear likelihood, the priors and the workflow that joins them, against closed forms and brute force."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import savemat
from scipy.stats import multivariate_normal
from skimage.metrics import structural_similarity
from sklearn.linear_model import Ridge

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.manifest import RunLog
from braindecode_suite.core.protocols import FitContext, Generator
from braindecode_suite.core.score import read_scores, scores_table
from braindecode_suite.datasets.digits69 import DIGITS69, FILE, ten_by_ten_fold
from braindecode_suite.decoders.image_prior import (
    ExemplarPrior,
    ExemplarPriorConfig,
    as_images,
    choose_contrast,
    make_variants,
)
from braindecode_suite.encoders.inverted_encoding import InvertedEncoding, InvertedEncodingConfig
from braindecode_suite.encoders.pixels import GreyPixels
from braindecode_suite.learning.image_prior import (
    Deformation,
    LinearLikelihood,
    Variants,
    deform,
    exemplar_posterior_mean,
    fit_encoding,
    solve_shrunk_covariance,
    stretch_contrast,
)
from braindecode_suite.workflows.configuration import load_config
from braindecode_suite.workflows.folded_scoring import Folded, FoldedSettings, score_folded
from braindecode_suite.workflows.image_prior import ImagePriorConfig, ImagePriorWorkflow, repetitions
from braindecode_suite.workflows.job import Job
from braindecode_suite.workflows.results import stage
from braindecode_suite.workflows.steps import Steps

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "digits69"
STILL = Deformation(rotation=0, scale=0, shear=0, shift=0, elastic=0, smoothness=0.2)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def toy_likelihood(rng: np.random.Generator, pixels: int = 5, units: int = 8):
    """Return B (pixels x units), a full noise covariance, the mean and the likelihood in the pixels' own axes."""
    B = rng.standard_normal((pixels, units))
    root = rng.standard_normal((units, units))
    noise = root @ root.T + np.eye(units)
    mean, variance = rng.standard_normal(pixels), rng.uniform(0.5, 2, pixels)
    precision = B @ np.linalg.solve(noise, B.T)
    likelihood = LinearLikelihood(
        mean=mean, basis=np.eye(pixels), precision=precision, prior_variance=variance
    )
    return B, noise, likelihood


# ---------------------------------------------------------------------------------------------- the encoding model


def test_left_out_residuals_match_refitting_without_each_image(rng):
    images, responses = rng.standard_normal((12, 6)), rng.standard_normal((12, 4))
    fit = fit_encoding(responses, images, penalties=[0.7], min_r2=-10, min_units=4)
    scaled = (responses - responses.mean(0)) / responses.std(0)
    penalty = 0.7 * np.square(images - images.mean(0)).sum() / 12
    for left in range(12):
        rest = np.arange(12) != left
        refit = Ridge(alpha=penalty).fit(images[rest], scaled[rest])
        assert_allclose(fit.residuals[left], scaled[left] - refit.predict(images[[left]])[0], rtol=1e-8)
    assert_allclose(fit.r2, 1 - np.square(fit.residuals).sum(0) / 12, rtol=1e-8)


def test_weights_match_ridge_with_an_intercept(rng):
    images, responses = rng.standard_normal((15, 30)), rng.standard_normal((15, 3))
    fit = fit_encoding(responses, images, penalties=[0.4], min_r2=-10, min_units=3)
    scaled = (responses - responses.mean(0)) / responses.std(0)
    penalty = 0.4 * np.square(images - images.mean(0)).sum() / 15
    expected = Ridge(alpha=penalty).fit(images, scaled).coef_.T  # (pixels, units)
    assert_allclose(fit.basis.T @ fit.weights, expected, atol=1e-8)


def test_each_unit_takes_its_own_best_penalty_and_silent_units_are_left_out(rng):
    images = rng.standard_normal((60, 5))
    signal = images @ rng.standard_normal((5, 3))
    noise = rng.standard_normal((60, 3))
    constant = np.full((60, 1), 4.0)
    responses = np.concatenate([signal + 0.1 * noise, rng.standard_normal((60, 20)), constant], axis=1)
    fit = fit_encoding(responses, images, min_r2=0.3, min_units=1)
    assert fit.units.tolist() == [0, 1, 2]
    assert fit.r2[-1] == 0
    assert fit_encoding(responses, images, min_r2=0.3, min_units=10).units.size == 10


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(2, 9), units=st.integers(1, 12), shrinkage=st.floats(0.05, 1), seed=st.integers(0, 99)
)
def test_the_noise_covariance_is_inverted_without_being_formed(rows, units, shrinkage, seed):
    rng = np.random.default_rng(seed)
    R, right = rng.standard_normal((rows, units)), rng.standard_normal((units, 3))
    sample = R.T @ R / rows
    dense = (1 - shrinkage) * sample + shrinkage * np.diag(np.diag(sample))
    assert_allclose(
        solve_shrunk_covariance(R, shrinkage, right), np.linalg.solve(dense, right), rtol=1e-5, atol=1e-7
    )


def test_bad_arguments_of_the_encoding_model_are_refused(rng):
    images, responses = rng.standard_normal((10, 4)), rng.standard_normal((10, 3))
    with pytest.raises(InputError, match="units that vary; found 3 constant units"):
        fit_encoding(np.ones((10, 3)), images)
    with pytest.raises(InputError, match="images that differ; found one image only"):
        fit_encoding(responses, np.ones((10, 4)))
    with pytest.raises(InputError, match=r"`images`: expected shape \(images=10, pixels\); found \(9, 4\)"):
        fit_encoding(responses, images[:9])
    with pytest.raises(InputError, match="`shrinkage`: expected above 0, at most 1; found 0"):
        fit_encoding(responses, images).likelihood(0)


# ------------------------------------------------------------------------------------------- likelihood and posterior


def test_the_likelihood_is_that_of_the_multivariate_normal_up_to_a_constant(rng):
    B, noise, likelihood = toy_likelihood(rng)
    x = rng.standard_normal((3, 8))
    images = rng.standard_normal((6, 5))
    evidence = x @ np.linalg.solve(noise, B.T)
    found = likelihood.log_likelihood(evidence, likelihood.coordinates(images))
    expected = np.array(
        [[multivariate_normal((z - likelihood.mean) @ B, noise).logpdf(row) for z in images] for row in x]
    )
    assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-8, atol=1e-8)


def test_the_estimate_is_the_gaussian_posterior_mean(rng):
    B, noise, likelihood = toy_likelihood(rng)
    x = rng.standard_normal((4, 8))
    prior = np.diag(likelihood.prior_variance)
    gain = prior @ B @ np.linalg.inv(B.T @ prior @ B + noise)  # the Kalman form of the same
    expected = likelihood.mean + x @ gain.T
    evidence = x @ np.linalg.solve(noise, B.T)
    assert_allclose(likelihood.estimate(evidence), expected, rtol=1e-8)
    assert_allclose(likelihood.evidence_of_estimate(expected), evidence, rtol=1e-8)


def test_the_evidence_of_an_image_is_that_of_its_response_without_noise(rng):
    B, noise, likelihood = toy_likelihood(rng)
    image = rng.standard_normal((1, 5))
    response = (image - likelihood.mean) @ B
    assert_allclose(likelihood.evidence_of_image(image), response @ np.linalg.solve(noise, B.T), rtol=1e-8)


def test_exemplar_weights_are_bayes_rule(rng):
    B, noise, likelihood = toy_likelihood(rng)
    x, exemplars = rng.standard_normal((2, 8)), rng.standard_normal((7, 5))
    density = np.array(
        [[multivariate_normal((z - likelihood.mean) @ B, noise).pdf(row) for z in exemplars] for row in x]
    )
    found = exemplar_posterior_mean(likelihood, x @ np.linalg.solve(noise, B.T), exemplars, [1.0, 0.5])
    for k, power in enumerate((1.0, 0.5)):
        weights = density**power
        assert_allclose(found[k], weights / weights.sum(1, keepdims=True) @ exemplars, rtol=1e-8)


def test_many_exemplars_of_a_gaussian_give_its_posterior_mean(rng):
    _, _, likelihood = toy_likelihood(rng, pixels=2, units=3)
    evidence = rng.standard_normal((3, 2))
    exemplars = likelihood.mean + np.sqrt(likelihood.prior_variance) * rng.standard_normal((200_000, 2))
    found = exemplar_posterior_mean(likelihood, evidence, exemplars, [1.0])[0]
    assert_allclose(found, likelihood.estimate(evidence), atol=0.02)


def test_a_cold_posterior_is_the_best_exemplar_and_a_hot_one_their_mean(rng):
    _, _, likelihood = toy_likelihood(rng)
    exemplars = rng.standard_normal((9, 5))
    evidence = likelihood.evidence_of_image(exemplars[[4]])
    cold, hot = exemplar_posterior_mean(likelihood, evidence, exemplars, [1e4, 1e-9])
    assert_allclose(cold[0], exemplars[4])
    assert_allclose(hot[0], exemplars.mean(0), atol=1e-6)


# ------------------------------------------------------------------------------------------------ deformed copies


def test_no_deformation_returns_the_image(rng):
    image = rng.uniform(size=(9, 9)).astype(np.float32)
    assert_allclose(Variants(4, STILL)(image[None]), np.repeat(image[None], 4, axis=0), atol=1e-6)


def test_copies_depend_on_the_image_and_the_seed_alone(rng):
    images = rng.uniform(size=(3, 12, 12)).astype(np.float32)
    config = ExemplarPriorConfig(variants=5)
    together = make_variants(config)(images)
    alone = make_variants(config)(images[[2]])
    assert_array_equal(together[10:], alone)
    assert_array_equal(together[0], images[0])
    other = make_variants(config.model_copy(update={"variants_seed": 1}))(images[[2]])
    assert (other[1:] != alone[1:]).any(axis=(1, 2)).all()
    assert together.min() >= 0
    assert together.max() <= 1


@pytest.mark.parametrize("axis", [0, 1])
def test_shifts_move_the_centre_by_their_size(axis):
    image = np.zeros((40, 40), np.float32)
    image[18:22, 18:22] = 1
    only_shift = Deformation(rotation=0, scale=0, shear=0, shift=0.05, elastic=0, smoothness=0.2)
    copies = deform(image, 400, only_shift, np.random.default_rng(1))
    grid = np.mgrid[:40, :40][axis]
    centres = (copies * grid).sum((1, 2)) / copies.sum((1, 2))
    assert abs(centres.mean() - 19.5) < 0.4
    assert 1.8 < centres.std() < 2.2  # 5 % of 40 pixels


def test_a_turn_keeps_the_centre_and_turns_the_axis():
    image = np.zeros((41, 41), np.float32)
    image[19:22, 5:36] = 1  # a horizontal bar
    only_turn = Deformation(rotation=10, scale=0, shear=0, shift=0, elastic=0, smoothness=0.2)
    copies = deform(image, 300, only_turn, np.random.default_rng(1))
    y, x = np.mgrid[:41, :41] - 20.0
    slope = (copies * x * y).sum((1, 2)) / (copies * x * x).sum((1, 2))
    angles = np.rad2deg(np.arctan(slope))
    assert abs(angles.mean()) < 2
    assert 8.5 < angles.std() < 11.5


# ------------------------------------------------------------------------------------------------- the generator


def bars(n: int, rng: np.random.Generator, side: int = 12) -> np.ndarray:
    """Return uint8 images of shape (n, side, side, 3), each with one vertical bar."""
    images = np.zeros((n, side, side, 3), np.uint8)
    for image, at in zip(images, rng.integers(0, side - 2, n), strict=True):
        image[2:-2, at : at + 2] = 255
    return images


@pytest.fixture
def fitted_prior(rng):
    target = GreyPixels(12, 12)
    images = bars(30, rng)
    _, _, likelihood = toy_likelihood(rng, pixels=144, units=200)
    prior = ExemplarPrior(ExemplarPriorConfig(variants=3), target, 12, 12).fit(images[:20], images[20:])
    return prior.read_with(likelihood), images, target


def test_it_is_a_generator_that_draws_what_it_was_shown(fitted_prior):
    prior, images, target = fitted_prior
    assert isinstance(prior, Generator)
    true = Latents(target.embed_images(images[:4]), np.array(list("abcd"), dtype=object), target.name, "true")
    drawn = prior.generate({"image": true}, [1, 2, 3, 4])
    assert drawn.dtype == np.uint8
    assert drawn.shape == (4, 12, 12, 3)
    assert np.abs(drawn.astype(int) - images[:4]).max() < 40
    assert_array_equal(drawn, prior.generate({"image": true}, [5, 6, 7, 8]))


def test_predicted_latents_are_read_with_the_likelihood_they_came_from(fitted_prior):
    prior, images, target = fitted_prior
    true = target.embed_images(images[:4])
    likelihood = prior._likelihood
    evidence = likelihood.evidence_of_image(true[:, 0].astype(float))
    estimate = likelihood.estimate(evidence)[:, None].astype(np.float32)
    ids = np.array(list("abcd"), dtype=object)
    from_true = prior.posterior_means(Latents(true, ids, target.name, "true"), [0.1])
    from_predicted = prior.posterior_means(Latents(estimate, ids, target.name, "predicted"), [0.1])
    assert_allclose(from_predicted, from_true, atol=1e-3)


def test_another_likelihood_is_not_read_with_old_projections(fitted_prior, rng):
    prior, images, target = fitted_prior
    true = Latents(target.embed_images(images[:2]), np.array(["a", "b"], dtype=object), target.name, "true")
    prior.posterior_means(true, [1e-3])
    _, _, other = toy_likelihood(rng, pixels=144, units=20)
    fresh = ExemplarPrior(prior.config, target, 12, 12).fit(images[:20], images[20:]).read_with(other)
    assert_array_equal(
        prior.read_with(other).posterior_means(true, [1e-3]), fresh.posterior_means(true, [1e-3])
    )


def test_what_a_generator_cannot_use_is_refused(fitted_prior):
    prior, images, target = fitted_prior
    ids = np.array(["a"], dtype=object)
    wrong = Latents(np.zeros((1, 1, 144), np.float32), ids, "toy-clip", "predicted")
    right = Latents(np.zeros((1, 1, 144), np.float32), ids, target.name, "predicted")
    with pytest.raises(InputError, match="expected latents of 'grey-pixels-12x12'; found 'toy-clip'"):
        prior.generate({"image": wrong}, [1])
    with pytest.raises(InputError, match="`latents`: expected the role image; found text"):
        prior.generate({"text": right}, [1])
    with pytest.raises(InputError, match="`seeds`: expected 1 seeds, one a row; found 2"):
        prior.generate({"image": right}, [1, 2])
    bare = ExemplarPrior(prior.config, target, 12, 12)
    with pytest.raises(InputError, match="expected a fitted prior; found none"):
        bare.generate({"image": right}, [1])
    with pytest.raises(InputError, match="expected the likelihood of an encoder; found none"):
        bare.fit(images).generate({"image": right}, [1])
    with pytest.raises(InputError, match="expected one token of 100 grey pixels; found 1 of 144"):
        ExemplarPrior(prior.config, target, 10, 10)


def test_the_contrast_that_was_taken_away_is_chosen_again(rng):
    truth = bars(8, rng, side=16)[..., 0] / 255.0
    dull = truth / 1.5 + 0.1
    assert choose_contrast(dull, truth, [0.0, 0.1, 0.2], [1.0, 1.5, 2.0]) == (0.1, 1.5)
    assert_allclose(stretch_contrast(dull, 0.1, 1.5), truth, atol=1e-12)


def test_grey_pixels_are_a_target_and_refuse_colour(rng):
    target = GreyPixels(12, 12)
    assert isinstance(target, Target)
    images = bars(3, rng)
    assert_array_equal(as_images(target.embed_images(images)[:, 0], 12, 12), images)
    images[0, 0, 0] = [1, 2, 3]
    with pytest.raises(InputError, match="grey images, three equal channels; found colour"):
        target.embed_images(images)
    with pytest.raises(
        InputError, match=r"`images`: expected shape \(rows, height=12, width=12, channels=3\)"
    ):
        target.embed_images(images[:, :10])


# ------------------------------------------------------------------------------------------------------ scoring


def folded_toy(rng, noise: float = 0.3) -> Folded:
    truth = (gaussian_images(rng, 12) * 255).astype(np.uint8)
    recon = np.clip(truth + 255 * noise * rng.standard_normal((3, *truth.shape)), 0, 255).astype(np.uint8)
    other = np.clip(truth + 510 * noise * rng.standard_normal((3, *truth.shape)), 0, 255).astype(np.uint8)
    mean = np.repeat(truth.mean(0, keepdims=True).astype(np.uint8), 12, axis=0)[None]
    return Folded(
        ids=np.array([f"i{k:02d}" for k in range(12)], dtype=object),
        truth=truth,
        classes=np.repeat(["a", "b"], 6),
        recon={("image-prior", "brain"): recon, ("ridge", "brain"): other, ("", "mean-image"): mean},
        near_duplicates=np.arange(12) == 3,
    )


def gaussian_images(rng, n: int, side: int = 16) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    at = rng.uniform(4, side - 4, (n, 2))
    return np.exp(-((y - at[:, :1, None]) ** 2 + (x - at[:, 1:, None]) ** 2) / 8)


def test_scores_of_repetitions_are_averaged_before_images_are_resampled(rng):
    folded = folded_toy(rng)
    found = score_folded(folded, FoldedSettings(subject="01", split="p", target="t", n_bootstrap=500))
    table = scores_table(found.scores)
    recon, truth = folded.recon["image-prior", "brain"], folded.truth
    by_hand = [
        [
            structural_similarity(
                t / 255, r / 255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
            )
            for t, r in zip(truth, repetition, strict=True)
        ]
        for repetition in recon
    ]
    assert_allclose(found.values["image-prior", "brain"]["ssim"], by_hand, rtol=1e-5)
    own = table[
        (table.control == "brain")
        & (table.versus == "")
        & (table.model == "image-prior")
        & (table.metric == "ssim")
    ]
    pooled = own[(own.seed == "") & (own.candidates == "")].iloc[0]
    assert pooled.value == pytest.approx(np.mean(by_hand))
    assert pooled.n == 12
    assert own[own.seed == "1"].value.item() == pytest.approx(np.mean(by_hand[1]))
    assert own[own.candidates == "no-near-duplicates"].n.item() == 11
    difference = table[(table.versus == "ridge") & (table.metric == "ssim")].iloc[0]
    ridge = found.values["ridge", "brain"]["ssim"]
    assert difference.value == pytest.approx(np.mean(by_hand) - ridge.mean())
    assert difference.ci_low > 0


def test_identification_counts_distractors_of_the_class_only(rng):
    folded = folded_toy(rng)
    found = score_folded(folded, FoldedSettings(subject="01", split="p", target="t", n_bootstrap=500))
    recon, truth = folded.recon["image-prior", "brain"][1].reshape(12, -1), folded.truth.reshape(12, -1)
    for k in range(12):
        r = [np.corrcoef(recon[k], other)[0, 1] for other in truth]
        rivals = [i for i in range(12) if folded.classes[i] == folded.classes[k] and i != k]
        expected = np.mean([r[i] < r[k] for i in rivals])
        assert found.values["image-prior", "brain"]["identification"][1, k] == pytest.approx(expected)


def test_shuffling_within_the_class_averages_over_its_other_truths(rng):
    folded = folded_toy(rng)
    found = score_folded(folded, FoldedSettings(subject="01", split="p", target="t", n_bootstrap=500))
    recon, truth = folded.recon["image-prior", "brain"].reshape(3, 12, -1), folded.truth.reshape(12, -1)
    rivals = [i for i in range(6) if i != 2]
    expected = np.mean([np.corrcoef(recon[r, 2], truth[i])[0, 1] for r in range(3) for i in rivals])
    assert found.values["image-prior", "shuffled-within-class"]["pixcorr"][2] == pytest.approx(
        expected, rel=1e-5
    )


# ----------------------------------------------------------------------------------------------------- workflow


def drawn_digits(rng) -> dict[str, np.ndarray]:
    """Return what the file holds: discs left or right of the middle as the two classes, linear responses with noise."""
    y, x = np.mgrid[:28, :28]
    label = np.concatenate([np.repeat([1, 2], 45), np.repeat([1, 2], 5)])
    centre = np.stack([rng.uniform(9, 19, 100), np.where(label == 1, 9, 18) + rng.uniform(-2, 2, 100)], 1)
    radius = rng.uniform(3, 6, 100)
    distance = np.hypot(y - centre[:, :1, None], x - centre[:, 1:, None])
    images = (np.clip(radius[:, None, None] - distance + 0.5, 0, 1) * 255).astype(np.uint8)
    flat = images.transpose(0, 2, 1).reshape(100, 784)
    weights = rng.standard_normal((784, 3092)) * (rng.uniform(size=3092) < 0.05)
    responses = (flat / 255) @ weights + 6 * rng.standard_normal((100, 3092))
    return {
        "fmriTrn": responses[:90],
        "fmriTest": responses[90:],
        "stimTrn": flat[:90],
        "stimTest": flat[90:],
        "labelTrn": label[:90, None],
        "labelTest": label[90:, None],
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    savemat(folder / FILE, drawn_digits(np.random.default_rng(1)))
    return folder


def quick_job(data: Path, folder: Path, *changes: str) -> ImagePriorWorkflow:
    settings_ = [
        "protocol=digits69-published",
        "second_protocols=[]",
        "prior.variants=8",
        "grid.folds=3",
        *changes,
    ]
    config = load_config(ImagePriorWorkflow, "digits69", None, settings_)
    assert isinstance(config, ImagePriorConfig)
    job = Job(
        dataset=DIGITS69, data_dir=data, output_dir=folder / "out", work_dir=folder / "work", subject="01"
    )
    return ImagePriorWorkflow(config, job)


def test_the_workflow_beats_ridge_on_drawn_discs_and_writes_what_recomputes_its_scores(drawn, tmp_path):
    steps = Steps(tmp_path / "steps", RunLog([]), {"subject": "01"})
    results = quick_job(drawn, tmp_path).run(steps)
    stage(results, tmp_path / "out", "01", "imageprior")
    folder = tmp_path / "out" / "sub-01" / "decoding"
    table = read_scores(folder / "sub-01_desc-imageprior_scores.tsv")
    versus = table[(table.versus == "ridge") & (table.metric == "ssim")]
    assert versus.ci_low.item() > 0
    with np.load(folder / "sub-01_desc-imageprior_latents.npz", allow_pickle=False) as saved:
        truth, recon = saved["digits69-published_truth"], saved["digits69-published_image-prior_brain"]
        ids = saved["digits69-published_ids"]
    by_hand = [np.corrcoef(t.ravel(), r.ravel())[0, 1] for t, r in zip(truth, recon[0], strict=True)]
    own = table[(table.metric == "pixcorr") & (table.model == "image-prior") & (table.control == "brain")]
    assert own[(own.versus == "") & (own.candidates == "")].value.item() == pytest.approx(
        np.mean(by_hand), abs=1e-5
    )
    images = pd.read_csv(folder / "sub-01_desc-imageprior_images.tsv", sep="\t", dtype={"stimulus_id": str})
    assert set(images.stimulus_id) == set(ids)
    assert (folder / images.path.iloc[0]).is_file()
    assert {"shuffled-train", "null-condition", "category-only", "nearest-train", "true-latent"} <= set(
        table.control
    )
    facts = json.loads((folder / "sub-01_desc-imageprior_facts.json").read_text(encoding="utf-8"))
    assert facts["splits"][0]["near_duplicates"]["pairs"] >= 0
    assert sorted(results.models)[0].startswith("inverted-encoding_seed-0")


def test_finished_repetitions_are_read_back(drawn, tmp_path):
    first = Steps(tmp_path / "steps", RunLog([]), {"subject": "01"})
    before = scores_table(quick_job(drawn, tmp_path, "shuffled_train_repetitions=0").run(first).scores)
    log = RunLog([])
    again = Steps(tmp_path / "steps", log, {"subject": "01"})
    after = scores_table(quick_job(drawn, tmp_path, "shuffled_train_repetitions=0").run(again).scores)
    pd.testing.assert_frame_equal(before, after)
    assert [step.status for step in log.steps if step.name == "digits69-published"] == ["resumed"]


def test_test_images_change_nothing_that_is_learned(drawn, tmp_path):
    content = drawn_digits(np.random.default_rng(1))
    other = tmp_path / "other"
    other.mkdir()
    savemat(other / FILE, content | {"stimTest": content["stimTest"][::-1]})
    stacks = []
    for name, data in (("a", drawn), ("b", other)):
        steps = Steps(tmp_path / name, RunLog([]), {"data": name})
        results = quick_job(data, tmp_path / name, "shuffled_train_repetitions=0").run(steps)
        stacks.append(results.latents["digits69-published_image-prior_brain"])
    assert_array_equal(stacks[0], stacks[1])


def test_repetitions_hold_each_test_image_once(drawn):
    study = DIGITS69.open(drawn, "01", drawn)
    groups = repetitions(ten_by_ten_fold([study]))
    assert [len(group) for group in groups] == [10] * 10


def test_a_saved_encoder_reads_responses_the_same(drawn, tmp_path):
    study = DIGITS69.open(drawn, "01", drawn)
    split = ten_by_ten_fold([study])[0]
    encoder = InvertedEncoding(InvertedEncodingConfig(), FitContext(work_dir=tmp_path))
    encoder.fit(split.cohort("train"), split.cohort("validation"), {"image": GreyPixels(28, 28)})
    encoder.save(tmp_path / "model", {"text": "card"})
    loaded = InvertedEncoding.load(tmp_path / "model", split.cohort("test"))
    assert_array_equal(
        loaded.predict(split.cohort("test"))["image"].values,
        encoder.predict(split.cohort("test"))["image"].values,
    )
    assert_array_equal(loaded.likelihood_of().precision, encoder.likelihood_of().precision)
    with pytest.raises(InputError, match="expected an encoder fitted here"):
        loaded.shrink(0.5)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / FILE).is_file(), reason=f"{REAL / FILE} is not here")
def test_real_digits_are_reconstructed_better_than_by_ridge(tmp_path):
    config = load_config(ImagePriorWorkflow, "digits69")
    job = Job(dataset=DIGITS69, data_dir=REAL, output_dir=tmp_path, work_dir=tmp_path / "work", subject="01")
    results = ImagePriorWorkflow(config, job).run(Steps(tmp_path / "steps", RunLog([]), {}))
    table = scores_table(results.scores)
    table = table[
        (table.split == "digits69-10x10fold")
        & (table.seed == "")
        & (table.candidates != "no-near-duplicates")
    ]

    def row(metric, control="brain", versus="", model="image-prior"):
        named = (
            (table.metric == metric)
            & (table.control == control)
            & (table.versus == versus)
            & (table.model == model)
        )
        return table[named].iloc[0]

    assert row("identification", versus="ridge").ci_low > 0
    assert row("ssim", versus="ridge").ci_low > 0
    assert row("pixcorr", versus="ridge").ci_low > 0
    assert row("ssim").value > 0.59
    assert row("pixcorr").value > 0.785
    assert row("pixcorr", model="ridge").value > 0.72  # the baseline is tuned
    assert row("pixcorr", control="shuffled-within-class").value < 0.65
    for control in ("shuffled-test", "shuffled-train", "null-condition", "category-only", "nearest-train"):
        assert row("identification", versus=control).ci_low > 0, control


def test_without_recording_times_there_is_no_curve_and_the_error_says_why(drawn, tmp_path):
    steps = Steps(tmp_path / "steps", RunLog([]), {"subject": "01"})
    with pytest.raises(
        InputError, match=r"digits69 sub-01: expected when its trials were recorded: .*; found neither"
    ):
        quick_job(drawn, tmp_path, "minutes=[5]").run(steps)


class TimedDigits:
    """The digits as if recorded in five runs of two minutes."""

    card, subjects, check = DIGITS69.card, DIGITS69.subjects, DIGITS69.check

    def open(self, data_dir, subject, work_dir, **options):
        study = DIGITS69.open(data_dir, subject, work_dir, **options)
        run = np.arange(len(study.trials)) % 5
        return replace(study, trials=study.trials.assign(run=run, run_seconds=120.0))


def test_with_recording_times_every_model_is_scored_at_the_first_minutes(drawn, tmp_path):
    workflow = quick_job(drawn, tmp_path, "minutes=[4, 6]", "shuffled_train_repetitions=0")
    workflow.job = replace(workflow.job, dataset=TimedDigits())
    results = workflow.run(Steps(tmp_path / "steps", RunLog([]), {"subject": "01"}))
    table = scores_table(results.scores)
    for minutes in (4, 6):
        rows = table[(table.minutes == minutes) & (table.metric == "identification")]
        brain = rows[(rows.control == "brain") & (rows.versus == "") & (rows.candidates == "within-class")]
        assert list(brain.model) == ["image-prior", "ridge", "inverted-encoding"]
        assert brain[["ci_low", "ci_high", "p_value"]].notna().all(axis=None)
        assert set(brain.ci_over) == {"image"}
        assert set(brain.n) == {10}
        assert "ridge" in set(rows.versus)
        assert not {"mean-image", "nearest-train", "true-latent"} & set(rows.control)
    whole = table[table.minutes.isna()]
    assert {"mean-image", "nearest-train", "true-latent"} <= set(whole.control)
    cards = [card for card in results.facts["splits"] if "minutes" in card]
    assert [card["trials"]["train"] + card["trials"]["validation"] for card in cards] == [36, 54]
    assert results.facts["minutes"]["all"]["minutes"] == 10
    encoders = [model for model in results.facts["models"] if model["name"] == "inverted-encoding"]
    again = quick_job(drawn, tmp_path / "again", "shuffled_train_repetitions=0").run(
        Steps(tmp_path / "again", RunLog([]), {"subject": "01"})
    )
    assert encoders == [model for model in again.facts["models"] if model["name"] == "inverted-encoding"]

"""Scores of reconstructions whose quality is known."""

from dataclasses import replace

import numpy as np
import pytest

from braindecode_suite.core.score import FIRST_FIVE, Score
from braindecode_suite.metrics.bootstrap import bootstrap_mean
from braindecode_suite.workflows.reconstruction_scoring import (
    ReconstructionSet,
    ReconstructionSettings,
    pixel_controls,
    score_reconstructions,
    to_size,
)

N, SIDE = 12, 16
SETTINGS = ReconstructionSettings(
    subject="01", split="nsd-shared1000", target="space", scorer="pixels", published=False, n_bootstrap=300
)


def pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)


def noisy(truth: np.ndarray, amount: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(truth.shape) * 255 * amount
    return np.clip(truth + noise, 0, 255).astype(np.uint8)


def make_sets(truth: np.ndarray) -> list[ReconstructionSet]:
    brain = ReconstructionSet(control="brain", images=noisy(truth, 0.2, 1), model="mindeye", seed="0")
    blurry = ReconstructionSet(
        control="brain", images=noisy(truth, 0.6, 2), model="mindeye", seed="0", stage="low-level"
    )
    ridge = ReconstructionSet(control="brain", images=noisy(truth, 0.5, 3), model="ridge")
    controls = [
        ReconstructionSet(
            control=name, images=np.roll(noisy(truth, 0.2, 4 + k), 1 + k, axis=0), model="mindeye"
        )
        for k, name in enumerate(FIRST_FIVE)
    ]
    best = ReconstructionSet(control="true-latent", images=truth.copy())
    return [brain, blurry, ridge, *controls, best, *pixel_controls(truth, truth)]


def find(scores: list[Score], **wanted: object) -> Score:
    found = [s for s in scores if all(getattr(s, key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_identification_is_one_for_the_truth_and_beats_every_control(truth: np.ndarray) -> None:
    rng = np.random.default_rng(9)
    distractors = np.stack(
        [noisy(np.repeat(image[None], 5, axis=0), 0.3, int(rng.integers(99))) for image in truth]
    )
    scores = score_reconstructions(
        make_sets(truth), truth, SETTINGS, distractors=distractors, features=pixels
    ).scores
    for candidates in ("all", "matched"):
        same = {"metric": "identification", "candidates": candidates, "versus": ""}
        assert find(scores, **same, control="true-latent").value == 1.0
        brain = find(scores, **same, control="brain", model="mindeye")
        assert brain.chance == 0.5
        assert brain.p_value == pytest.approx(1 / 1001)
        assert brain.scorer == "pixels"
        for control in FIRST_FIVE:
            difference = find(scores, **{**same, "versus": control}, control="brain")
            assert difference.ci_low is not None
            assert difference.ci_low > 0
            assert difference.value == pytest.approx(
                brain.value - find(scores, **same, control=control).value
            )
        assert find(scores, **{**same, "versus": "ridge"}, control="brain", model="mindeye").n == N


def test_pixels_are_compared_with_the_images_that_need_no_brain_at_each_stage(truth: np.ndarray) -> None:
    found = score_reconstructions(make_sets(truth), truth, SETTINGS, features=pixels)
    for stage in ("low-level", "final"):
        for control in ("mean-image", "flat-grey", "blurred-truth"):
            for metric in ("pixcorr", "ssim"):
                row = find(
                    found.scores, metric=metric, stage=stage, model="mindeye", versus=control, control="brain"
                )
                plain = find(
                    found.scores, metric=metric, stage=stage, model="mindeye", versus="", control="brain"
                )
                beside = find(found.scores, metric=metric, versus="", control=control)
                assert row.value == pytest.approx(plain.value - beside.value)
    assert find(found.scores, metric="pixcorr", control="flat-grey", versus="").value == 0
    ridge = find(found.scores, metric="pixcorr", control="brain", versus="ridge", model="mindeye")
    assert (ridge.stage, ridge.value > 0) == ("final", True)


def test_the_chance_of_a_pixel_score_is_the_mean_over_relabelled_images(truth: np.ndarray) -> None:
    from braindecode_suite.metrics.images import pixcorr_pairs

    sets = make_sets(truth)
    row = find(
        score_reconstructions(sets, truth, SETTINGS, features=pixels).scores,
        metric="pixcorr",
        model="mindeye",
        stage="final",
        control="brain",
        versus="",
    )
    assert row.chance == pytest.approx(pixcorr_pairs(truth, sets[0].images).mean(), abs=0.01)
    assert row.chance != 0


def test_a_scorer_that_is_also_the_target_is_printed_as_circular(truth: np.ndarray) -> None:
    settings = replace(SETTINGS, circular=frozenset({"pixels"}))
    scores = score_reconstructions(make_sets(truth), truth, settings, features=pixels).scores
    assert {s.scorer for s in scores if s.metric == "identification"} == {"pixels (circular)"}


def test_networks_whose_weights_are_missing_are_noted_not_invented(
    truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from braindecode_suite.metrics.networks import available_scorers

    missing = [row.name for row in available_scorers() if not row.available]
    found = score_reconstructions(
        make_sets(truth)[:1], truth, replace(SETTINGS, published=True), features=pixels
    )
    assert [note.split(":")[0] for note in found.missing] == missing
    assert not {s.metric for s in found.scores} & set(missing)


def test_every_image_keeps_its_own_scores(truth: np.ndarray) -> None:
    found = score_reconstructions(make_sets(truth), truth, SETTINGS, features=pixels)
    own = found.per_image["brain", "mindeye", "final"]
    assert set(own) == {"pixcorr", "ssim", "identification"}
    plain = find(found.scores, metric="ssim", model="mindeye", stage="final", control="brain", versus="")
    assert plain.value == pytest.approx(own["ssim"].mean())


def test_images_of_another_size_are_brought_to_the_size_of_the_truth(truth: np.ndarray) -> None:
    large = to_size(truth, 32, 32)
    one = ReconstructionSet(control="brain", images=large, model="mindeye")
    scores = score_reconstructions(
        [one], truth, SETTINGS, features=lambda images: pixels(to_size(images, 8, 8))
    ).scores
    assert find(scores, metric="pixcorr", versus="").value > 0.95


def test_scores_are_given_without_near_duplicates_too(truth: np.ndarray) -> None:
    similar = np.arange(N) < 4
    settings = replace(SETTINGS, near_duplicates=similar)
    found = score_reconstructions(make_sets(truth), truth, settings, features=pixels)
    for metric in ("identification", "pixcorr", "ssim"):
        row = find(
            found.scores,
            metric=metric,
            candidates="no-near-duplicates",
            model="mindeye",
            stage="final",
            control="brain",
        )
        values = found.per_image["brain", "mindeye", "final"][metric]
        assert row.value == pytest.approx(values[~similar].mean())
        assert (row.n, row.versus) == (N - 4, "")
    assert not any(
        s.candidates == "no-near-duplicates"
        for s in score_reconstructions(make_sets(truth), truth, SETTINGS, features=pixels).scores
    )


def test_concepts_are_resampled_together(truth: np.ndarray) -> None:
    concepts = np.repeat(["a", "b", "c"], N // 3)
    settings = replace(SETTINGS, unit="concept", units=concepts)
    found = score_reconstructions(make_sets(truth), truth, settings, features=pixels)
    row = find(found.scores, metric="pixcorr", model="mindeye", stage="final", control="brain", versus="")
    values = found.per_image["brain", "mindeye", "final"]["pixcorr"]
    expected = bootstrap_mean(values, concepts, seed=0, n_resamples=SETTINGS.n_bootstrap)
    assert (row.ci_over, row.ci_low, row.ci_high) == ("concept", expected.low, expected.high)

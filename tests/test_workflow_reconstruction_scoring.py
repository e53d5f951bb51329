"""Scores of reconstructions whose quality is known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import FIRST_FIVE, Score
from braindecode_suite.metrics.bootstrap import bootstrap_mean, paired_difference
from braindecode_suite.metrics.identification import (
    correlation_distance,
    correlation_distance_pairs,
    two_way_identification,
)
from braindecode_suite.metrics.images import Protocol, pixcorr, ssim, ssim_pairs
from braindecode_suite.metrics.networks import PUBLISHED
from braindecode_suite.metrics.permutation import permute_images
from braindecode_suite.workflows import reconstruction_scoring
from braindecode_suite.workflows.reconstruction_scoring import (
    Features,
    ReconstructionSet,
    ReconstructionSettings,
    at_one_size,
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


def test_everything_a_scorer_sees_comes_to_the_size_of_what_is_drawn_by_one_function() -> None:
    large = np.random.default_rng(3).integers(0, 256, (N, 40, 48, 3), dtype=np.uint8)  # stimuli
    others = large[[(k + 1) % N for k in range(N)]]
    drawn = ReconstructionSet(control="brain", images=to_size(large, SIDE, SIDE), model="mindeye")
    nearest = ReconstructionSet(control="nearest-train", images=others, model="mindeye")
    distractors = others[:, None]
    sets, truth, train, sized = at_one_size([drawn, nearest], large, large[:5], distractors, "native")
    assert sized is not None
    assert_array_equal(truth, to_size(large, SIDE, SIDE))
    assert_array_equal(train, truth[:5])
    assert_array_equal(sets[1].images, truth[[(k + 1) % N for k in range(N)]])
    assert_array_equal(sized[:, 0], sets[1].images)
    scores = score_reconstructions(sets, truth, SETTINGS, distractors=sized, features=pixels).scores
    found = find(scores, metric="identification", candidates="matched", control="nearest-train", versus="")
    assert found.value == 0  # each is its own distractor, to the last bit
    assert at_one_size([nearest], large, train, distractors, "nsd")[0] == [nearest]
    assert at_one_size([nearest], large, train, distractors, "nsd")[1] is large
    assert at_one_size([nearest], large, train, distractors, "nsd")[3] is distractors


def test_images_that_differ_in_size_are_refused_but_for_the_protocol_that_resizes(truth: np.ndarray) -> None:
    brain, low = make_sets(truth)[:2]
    larger = replace(low, images=to_size(low.images, 32, 32))
    with pytest.raises(
        InputError, match="images of brain: expected the truth's 16 x 16 pixels; found 32 x 32"
    ):
        score_reconstructions([larger, brain], truth, SETTINGS, features=pixels)
    with pytest.raises(InputError, match=r"images of distractors: .*found 8 x 16"):
        score_reconstructions(
            [brain], truth, SETTINGS, distractors=np.zeros((N, 2, 8, 16, 3), np.uint8), features=pixels
        )
    nsd = replace(SETTINGS, protocol="nsd", scorer="")
    row = find(score_reconstructions([larger], truth, nsd).scores, metric="pixcorr", versus="")
    assert row.value == pytest.approx(pixcorr(truth, larger.images, protocol="nsd").mean())


@pytest.mark.parametrize(("protocol", "pixels_each"), [("native", SIDE**2), ("nsd", 425**2)])
def test_ssim_is_tested_on_as_many_random_images_as_can_be_paid_for(
    truth: np.ndarray, monkeypatch: pytest.MonkeyPatch, protocol: Protocol, pixels_each: int
) -> None:
    monkeypatch.setattr(reconstruction_scoring, "MOST_SSIM_PIXELS", 5 * 5 * pixels_each + 3)
    sets = make_sets(truth)[:2]
    settings = replace(SETTINGS, protocol=protocol, scorer="", seed=4)
    scores = score_reconstructions(sets, truth, settings).scores
    chosen = np.sort(np.random.default_rng([4, 19]).choice(N, 5, replace=False))
    for one in sets:
        row = find(scores, metric="ssim", stage=one.stage, versus="")
        pairs = ssim_pairs(truth[chosen], one.images[chosen], protocol=protocol)
        expected = permute_images(pairs, seed=4, n_permutations=SETTINGS.n_permutations)
        assert (row.chance, row.p_value) == pytest.approx((expected.chance, expected.p_value))
        assert row.p_correction.endswith("chance and p from 5 of 12 images drawn at random")
        assert "120 distinct permutations" in row.p_correction
        assert row.n == N
        assert row.value == pytest.approx(ssim(truth, one.images, protocol=protocol).mean())
        assert find(scores, metric="pixcorr", stage=one.stage, versus="").p_correction == "uncorrected"


def test_ssim_is_tested_on_all_images_where_they_are_few(truth: np.ndarray) -> None:
    sets = make_sets(truth)[:1]
    row = find(
        score_reconstructions(sets, truth, replace(SETTINGS, scorer="")).scores, metric="ssim", versus=""
    )
    expected = permute_images(ssim_pairs(truth, sets[0].images), seed=0)
    assert (row.chance, row.p_value) == pytest.approx((expected.chance, expected.p_value))
    assert row.p_correction == "uncorrected"


def random_network(seed: int) -> Features:
    """Images to 40 rectified random projections of their pixels."""
    weights = np.random.default_rng(seed).standard_normal((SIDE * SIDE * 3, 40))
    return lambda images: np.maximum((pixels(images) - 128) @ weights, 0)


def test_published_networks_compare_the_brain_with_every_control_and_the_baseline(truth: np.ndarray) -> None:
    sets, networks = make_sets(truth), {"alexnet2": random_network(1), "swav": random_network(2)}
    settings = replace(SETTINGS, published=True, scorer="")
    scores = score_reconstructions(sets, truth, settings, networks=networks).scores
    score_of = {"alexnet2": two_way_identification, "swav": correlation_distance}
    for metric, features in networks.items():
        own = {"metric": metric, "scorer": PUBLISHED[metric].network}
        own["candidates"] = "all" if metric == "alexnet2" else ""
        true, values = features(truth), {}
        for one in sets:
            if one.stage == "final":
                values[one.control, one.model] = score_of[metric](true, features(one.images))
        brain = find(scores, **own, control="brain", model="mindeye", versus="")
        assert brain.value == pytest.approx(values["brain", "mindeye"].mean())
        assert brain.p_value == pytest.approx(1 / 1001)
        others = {(name, "mindeye"): name for name in FIRST_FIVE}
        for key, versus in {
            **others,
            ("brain", "ridge"): "ridge",
            ("true-latent", ""): "true-latent",
        }.items():
            row = find(scores, **own, control="brain", versus=versus)
            expected = paired_difference(values["brain", "mindeye"], values[key], seed=0, n_resamples=300)
            assert (row.value, row.ci_low, row.ci_high) == pytest.approx(
                (expected.value, expected.low, expected.high)
            )
            assert (row.model, row.stage, row.n, row.p_value) == ("mindeye", "final", N, None)
    chance = permute_images(
        correlation_distance_pairs(networks["swav"](truth), networks["swav"](sets[0].images)),
        seed=0,
        tail="less",
    ).chance
    rows = [find(scores, metric=m, control="brain", model="mindeye", versus="") for m in ("alexnet2", "swav")]
    assert [row.chance for row in rows] == pytest.approx([0.5, chance])
    assert chance > 0.5


def test_a_published_network_that_is_also_the_target_is_printed_as_circular(truth: np.ndarray) -> None:
    settings = replace(SETTINGS, published=True, scorer="", circular=frozenset({"clip"}))
    networks = {"clip": random_network(1), "inception": random_network(2)}
    scores = score_reconstructions(make_sets(truth), truth, settings, networks=networks).scores
    assert {s.scorer for s in scores if s.metric == "clip"} == {"CLIP ViT-L/14 (OpenAI) (circular)"}
    assert {s.scorer for s in scores if s.metric == "inception"} == {"Inception v3"}


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

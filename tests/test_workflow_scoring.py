"""Retrieval scores against closed forms and brute force."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.score import Score
from braindecode_suite.metrics.bootstrap import bootstrap_mean
from braindecode_suite.metrics.retrieval import (
    CSLS_NEIGHBOURS,
    TrainingReference,
    csls,
    ranks,
    retrieval_values,
    similarity,
)
from braindecode_suite.workflows.scoring import Predicted, RetrievalScores, Settings, score_retrieval

N, WIDTH, REPEATS = 30, 12, 3
TOP1 = "retrieval_brain_to_image_top1"


def latents(values: np.ndarray, ids: list[str], kind: str = "true", target: str = "space") -> Latents:
    return Latents(np.asarray(values, np.float32)[:, None], np.array(ids, dtype=object), target, kind)  # type: ignore[arg-type]


def validation_images(n: int = 25) -> Latents:
    values = np.random.default_rng(12).standard_normal((n, WIDTH))
    return latents(values, [f"validation{k}" for k in range(n)])


def score_models(models, train: Latents, gallery: Latents, settings: Settings) -> RetrievalScores:
    return score_retrieval(models, train, gallery, settings, validation_true=validation_images())


def make_world(
    noise: float = 1.0, seed: int = 0, control: str = "brain", model: str = "mindeye", name: str = "0"
):
    """True latents of training and test images and the predictions of one model."""
    world = np.random.default_rng(11)
    train_values, test_values = world.standard_normal((40, WIDTH)), world.standard_normal((N, WIDTH))
    train_ids, test_ids = [f"train{k}" for k in range(40)], [f"test{k}" for k in range(N)]
    held = validation_images()
    rng = np.random.default_rng(seed)
    repeated = np.repeat(np.arange(N), REPEATS)
    predicted = Predicted(
        model=model,
        seed=name,
        test=latents(
            test_values[repeated] + noise * rng.standard_normal((len(repeated), WIDTH)) + 0.5,
            [test_ids[k] for k in repeated],
            "predicted",
        ),
        train=latents(
            train_values + noise * rng.standard_normal(train_values.shape) + 0.5, train_ids, "predicted"
        ),
        validation=latents(
            held.flat + noise * rng.standard_normal(held.flat.shape) + 0.5, list(held.ids), "predicted"
        ),
        control=control,
    )
    return predicted, latents(train_values, train_ids), latents(test_values, test_ids)


SETTINGS = Settings(subject="01", split="nsd-shared1000", gallery_sizes=(4, 10), n_bootstrap=400)


def find(scores: list[Score], **wanted: object) -> Score:
    found = [s for s in scores if all(getattr(s, key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


PLAIN = {
    "control": "brain", "versus": "", "level": "mean-prediction", "candidates": "all", "scorer": "cosine-centred",
}  # fmt: skip


def test_top1_in_a_small_gallery_is_the_mean_over_all_galleries_of_that_size() -> None:
    predicted, train, gallery = make_world()
    score = find(score_models([predicted], train, gallery, SETTINGS).scores, metric=TOP1, gallery=4, **PLAIN)
    mean = predicted.test.mean_by_stimulus().select(gallery.ids).flat
    q = mean - predicted.train.flat.mean(0)
    g = gallery.flat - train.flat.mean(0)
    cosine = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (g / np.linalg.norm(g, axis=1, keepdims=True)).T
    wins = []
    for row in range(N):
        others = [k for k in range(N) if k != row]
        best = [cosine[row, row] > max(cosine[row, list(some)]) for some in combinations(others, 3)]
        wins.append(np.mean(best))
    assert score.value == pytest.approx(np.mean(wins), abs=1e-9)
    assert score.chance == 0.25
    assert score.ci_low is not None
    assert score.ci_high is not None
    assert score.ci_low < score.value < score.ci_high
    assert score.p_value == pytest.approx(1 / 1001)
    assert (score.n, score.n_repeats, score.ci_over) == (N, 3, "image")


def test_a_query_is_averaged_over_seeds_before_the_bootstrap() -> None:
    first, train, gallery = make_world(2.0, seed=1, name="0")
    second = replace(make_world(2.0, seed=2)[0], seed="1")
    scores = score_models([first, second], train, gallery, SETTINGS).scores
    both = find(scores, metric=TOP1, gallery=10, seed="0,1", **PLAIN)
    each = [find(scores, metric=TOP1, gallery=10, seed=seed, **PLAIN) for seed in ("0", "1")]
    assert both.value == pytest.approx(np.mean([score.value for score in each]))
    assert both.n == N  # images, not images times seeds


def test_every_plain_score_has_chance_interval_and_n() -> None:
    predicted, train, gallery = make_world()
    other = make_world(3.0, seed=4, model="ridge", name="")[0]
    scores = score_models([predicted, other], train, gallery, SETTINGS).scores
    for score in scores:
        assert score.n
        assert score.ci_over
        assert score.gallery
        assert score.model
        assert score.split
        assert np.isfinite(np.array([score.value, score.ci_low, score.ci_high], float)).all()
        assert score.versus or score.chance is not None
    assert {score.scorer for score in scores} == {"cosine", "cosine-centred", "csls"}
    assert {score.metric for score in scores} >= {
        TOP1,
        "retrieval_image_to_brain_top1",
        "median_relative_rank",
    }


def test_the_paired_difference_is_first_minus_other_on_the_same_images() -> None:
    predicted, train, gallery = make_world(0.5)
    other = make_world(4.0, seed=4, model="ridge", name="")[0]
    scores = score_models([predicted, other], train, gallery, SETTINGS).scores
    same = {**PLAIN, "metric": TOP1, "gallery": 10}
    difference = find(scores, **{**same, "versus": "ridge"})
    a, b = (find(scores, **same, model=name) for name in ("mindeye", "ridge"))
    assert difference.value == pytest.approx(a.value - b.value)
    assert difference.ci_low is not None
    assert difference.ci_low > 0
    assert difference.chance is None


def test_a_model_fitted_on_shuffled_pairs_is_compared_under_the_name_of_its_control() -> None:
    predicted, train, gallery = make_world(0.5)
    shuffled = make_world(50.0, seed=4, control="shuffled-train")[0]
    found = score_models([predicted, shuffled], train, gallery, SETTINGS)
    assert (
        find(found.scores, **{**PLAIN, "metric": TOP1, "gallery": 10, "versus": "shuffled-train"}).value > 0.3
    )
    assert not [row for row in found.rows if row["model"] != "mindeye"]
    assert "mindeye-shuffled-train_seed-0_cosine" in found.similarity


def test_single_trials_are_queries_but_images_are_the_units() -> None:
    predicted, train, gallery = make_world(2.0)
    score = find(
        score_models([predicted], train, gallery, SETTINGS).scores,
        **{**PLAIN, "metric": TOP1, "gallery": N, "level": "single"},
    )
    matrix = similarity(
        predicted.test.flat - predicted.train.flat.mean(0), gallery.flat - train.flat.mean(0), "cosine"
    )
    truth = np.array([list(gallery.ids).index(i) for i in predicted.test.ids])
    assert score.value == pytest.approx(np.mean(ranks(matrix, truth) == 0))
    assert (score.n, score.n_repeats) == (N, 1)


def test_noise_is_at_chance() -> None:
    predicted, train, gallery = make_world(1e4)
    scores = score_models([predicted], train, gallery, SETTINGS).scores
    score = find(scores, metric=TOP1, gallery=10, **PLAIN)
    assert score.p_value is not None
    assert score.p_value > 0.01
    shuffled = find(scores, **{**PLAIN, "metric": TOP1, "gallery": 10, "control": "shuffled-test"})
    assert shuffled.value == pytest.approx(0.1, abs=0.01)


def test_near_duplicates_leave_as_queries_and_stay_in_the_gallery() -> None:
    predicted, train, gallery = make_world()
    settings = replace(SETTINGS, near_duplicates=frozenset({"test0", "test1"}))
    score = find(
        score_models([predicted], train, gallery, settings).scores,
        **{**PLAIN, "metric": TOP1, "gallery": N, "candidates": "no-near-duplicates"},
    )
    assert score.n == N - 2


def test_the_oracle_stands_beside_the_brain_only() -> None:
    predicted, train, gallery = make_world()
    settings = replace(SETTINGS, ceilings={("brain_to_image", 10): 0.99})
    scores = score_models([predicted], train, gallery, settings).scores
    assert find(scores, metric=TOP1, gallery=10, **PLAIN).ceiling == 0.99
    assert all(score.ceiling is None for score in scores if score.control != "brain" or score.gallery != 10)


def test_ranks_and_the_first_five_of_every_query_are_kept() -> None:
    predicted, train, gallery = make_world(0.01)
    found = score_models([predicted], train, gallery, SETTINGS)
    row = next(
        r for r in found.rows if r["scorer"] == "cosine-centred" and r["direction"] == "brain_to_image"
    )
    assert row["rank"] == 0
    assert row["top1"] == row["stimulus_id"]
    assert len({row[f"top{k}"] for k in range(1, 6)}) == 5


def test_latents_of_another_target_are_refused() -> None:
    predicted, train, gallery = make_world()
    other = Latents(train.values, train.ids, "elsewhere", "true")
    with pytest.raises(InputError, match="expected one target space"):
        score_models([predicted], other, gallery, SETTINGS)


def test_images_of_one_concept_are_resampled_together() -> None:
    predicted, train, gallery = make_world(2.0)
    concepts = np.repeat([f"concept{k}" for k in range(N // 10)], 10)
    settings = replace(SETTINGS, unit="concept", units=concepts)
    ours = find(score_models([predicted], train, gallery, settings).scores, metric=TOP1, gallery=10, **PLAIN)
    plain = find(score_models([predicted], train, gallery, SETTINGS).scores, metric=TOP1, gallery=10, **PLAIN)
    assert (ours.value, ours.ci_over, plain.ci_over) == (plain.value, "concept", "image")
    values = retrieval_values(
        similarity(
            predicted.test.mean_by_stimulus().select(gallery.ids).flat,
            gallery.flat,
            "cosine-centred",
            TrainingReference(predicted=predicted.train.flat, true=train.flat),
        ),
        np.arange(N),
        "brain_to_image",
        gallery_size=10,
    )[TOP1]
    expected = bootstrap_mean(values, concepts, seed=SETTINGS.seed, n_resamples=SETTINGS.n_bootstrap)
    assert (ours.ci_low, ours.ci_high) == pytest.approx((expected.low, expected.high))


def test_a_brief_table_too_is_given_without_near_duplicates() -> None:
    predicted, train, gallery = make_world()
    similar = frozenset(gallery.ids[:7])
    scores = score_models(
        [predicted], train, gallery, replace(SETTINGS, brief=True, near_duplicates=similar)
    ).scores
    row = find(scores, metric=TOP1, gallery=10, **{**PLAIN, "candidates": "no-near-duplicates"})
    assert row.n == N - 7


def test_hubs_are_measured_on_validation_images_and_means_on_training_images() -> None:
    predicted, train, gallery = make_world()
    assert predicted.validation is not None
    found = score_models([predicted], train, gallery, SETTINGS)
    mean = predicted.test.mean_by_stimulus().select(gallery.ids).flat
    hubs = TrainingReference(predicted=predicted.validation.flat, true=validation_images().flat)
    np.testing.assert_allclose(
        found.similarity["mindeye_seed-0_csls"], csls(mean, gallery.flat, hubs), atol=1e-6
    )
    means = TrainingReference(predicted=predicted.train.flat, true=train.flat)
    centred = similarity(mean, gallery.flat, "cosine-centred", means)
    np.testing.assert_allclose(found.similarity["mindeye_seed-0_cosine-centred"], centred, atol=1e-6)


def test_predictions_learned_by_heart_do_not_move_csls() -> None:
    predicted, train, gallery = make_world()
    overfitted = replace(predicted, train=latents(train.flat + 0.5, list(train.ids), "predicted"))
    one, other = (
        score_models([model], train, gallery, SETTINGS).similarity for model in (predicted, overfitted)
    )
    np.testing.assert_array_equal(one["mindeye_seed-0_csls"], other["mindeye_seed-0_csls"])


def test_csls_is_left_out_with_a_reason_where_validation_images_are_fewer_than_its_neighbours() -> None:
    predicted, train, gallery = make_world()
    few = validation_images(CSLS_NEIGHBOURS - 1)
    short = replace(predicted, validation=latents(few.flat, list(few.ids), "predicted"))
    for models, true in (
        ([short], few),
        ([predicted, replace(short, model="ridge")], validation_images()),
        ([replace(predicted, validation=None)], validation_images()),
        ([predicted], None),
    ):
        found = score_retrieval(models, train, gallery, SETTINGS, validation_true=true)
        assert {score.scorer for score in found.scores} == {"cosine", "cosine-centred"}
        assert len(found.missing) == 1
        assert "needs at least 10 of them" in found.missing[0]
    whole = score_models([predicted], train, gallery, SETTINGS)
    assert {score.scorer for score in whole.scores} == {"cosine", "cosine-centred", "csls"}
    assert whole.missing == []
    assert score_retrieval([predicted], train, gallery, replace(SETTINGS, brief=True)).missing == []


def test_validation_latents_of_another_target_are_refused() -> None:
    predicted, train, gallery = make_world()
    true = validation_images()
    other = Latents(true.values, true.ids, "elsewhere", "true")
    with pytest.raises(InputError, match="expected one target space"):
        score_retrieval([predicted], train, gallery, SETTINGS, validation_true=other)

"""Controls: shuffling keeps what it should, and the relabelled ridge is the ridge."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.latents import Latents
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.responses import ImageRows, fit_scaler, image_means
from braindecode_suite.learning.ridge import ridge_cv
from braindecode_suite.metrics.retrieval import TrainingReference, ranks, similarity, top_k_random_gallery
from braindecode_suite.workflows.controls import (
    category_latents,
    derangement,
    null_latents,
    relabelled_ridge,
    shuffled_pairs,
)
from braindecode_suite.workflows.reconstruction import _without_brain

N_IMAGES, REPEATS, UNITS, WIDTH = 40, 2, 8, 3
ALPHAS = (0.01, 0.1, 1.0, 10.0)


@pytest.fixture
def study() -> Study:
    rng = np.random.default_rng(0)
    ids = [f"im{k}" for k in range(N_IMAGES)] * REPEATS
    n = len(ids)
    trials = pd.DataFrame(
        {"stimulus_id": ids, "session": 1, "run": 1, "repeat": np.repeat([1, 2], N_IMAGES), "onset": 0.0}
    )
    return Study(
        dataset="table",
        subject="01",
        responses=rng.standard_normal((n, UNITS)).astype(np.float32),
        trials=trials,
        stimuli=None,
        space=UnitSpace(UNITS),
        unit="z-score",
    )


def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of training, validation and test images; image k lies in rows k and 40 + k."""
    train, validation, test = np.arange(24), np.arange(24, 30), np.arange(30, 40)
    return tuple(np.concatenate([some, some + N_IMAGES]) for some in (train, validation, test))  # type: ignore[return-value]


def test_shuffling_moves_whole_images_inside_each_part_and_leaves_the_test_rows(study: Study) -> None:
    train, validation, test = parts()
    shuffled = shuffled_pairs(study, [train, validation], seed=3)
    for rows in (train, validation):
        before, after = study.stimulus_ids[rows], shuffled.stimulus_ids[rows]
        assert sorted(before) == sorted(after)
        assert (before != after).mean() > 0.5
        pairs = set(zip(before, after, strict=True))
        assert len(pairs) == len(set(before))  # both repeats of an image got the same other image
    np.testing.assert_array_equal(study.stimulus_ids[test], shuffled.stimulus_ids[test])
    np.testing.assert_array_equal(study.responses[:], shuffled.responses[:])


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_a_derangement_moves_everything_once(n: int) -> None:
    order = derangement(n, seed=n)
    assert sorted(order) == list(range(n))
    assert (order != np.arange(n)).all()


def true_latents(n: int = 6) -> Latents:
    values = np.arange(n * 2, dtype=np.float32).reshape(n, 1, 2)
    return Latents(values, np.array([f"im{k}" for k in range(n)], dtype=object), "space", "true")


def test_the_null_condition_is_the_mean_training_latent_for_every_image() -> None:
    null = null_latents(true_latents(), np.array(["a", "b"], dtype=object))
    np.testing.assert_allclose(null.values, np.broadcast_to([5.0, 6.0], (2, 1, 2)))
    assert list(null.ids) == ["a", "b"]


def test_category_only_is_the_mean_of_the_training_images_of_the_category() -> None:
    attributes = pd.DataFrame(
        {"category": ["cup", "dog", "cup", "dog", "dog", "cup", "dog", "cup"]},
        index=[*(f"im{k}" for k in range(6)), "a", "b"],
    )
    found = category_latents(true_latents(), attributes, np.array(["a", "b"], dtype=object))
    assert isinstance(found, Latents)
    expected = true_latents().flat
    np.testing.assert_allclose(found.flat, [expected[[1, 3, 4]].mean(0), expected[[0, 2, 5]].mean(0)])


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (None, "the main category of the images is not known"),
        (pd.DataFrame({"place": ["beach"]}, index=["a"]), "the main category of the images is not known"),
        (
            pd.DataFrame({"category": [*["cup"] * 6, "dog"]}, index=[*(f"im{k}" for k in range(6)), "a"]),
            "no training image has the category 'dog'",
        ),
    ],
)
def test_category_only_is_empty_with_a_reason_where_it_cannot_be_made(
    attributes: pd.DataFrame | None, reason: str
) -> None:
    assert category_latents(true_latents(), attributes, np.array(["a"], dtype=object)) == reason


def test_every_image_without_a_brain_is_drawn_alike_and_only_the_ceiling_is_chosen_by_the_truth() -> None:
    every = true_latents()
    ids, train_ids = every.ids[:2], every.ids[2:]
    attributes = pd.DataFrame({"category": ["cup", "dog"] * 3}, index=every.ids)
    drawing = SimpleNamespace(
        ids=ids,
        train_ids=train_ids,
        stimuli=SimpleNamespace(attributes=attributes),
        true=lambda role, some: every.select(some),
    )
    calls = {}

    def drawn(name, latents, wanted, *, ceiling=False):
        calls[name] = (latents, wanted, ceiling)
        return np.zeros((2, 4, 4, 3), np.uint8)

    first = SimpleNamespace(test={"retrieval": every, "image": every, "init": every}, seed="0")
    sets = _without_brain(drawing, first, drawn, {"skipped": {}})  # type: ignore[arg-type]
    assert [one.control for one in sets] == ["null-condition", "category-only", "true-latent"]
    assert all(set(latents) == {"image", "init"} for latents, _, _ in calls.values())
    assert {name: (wanted.kind, ceiling) for name, (_, wanted, ceiling) in calls.items()} == {
        "null-condition": ("predicted", False),
        "category-only": ("predicted", False),
        "true-latent": ("true", True),
    }
    np.testing.assert_array_equal(calls["true-latent"][1].values, every.select(ids).values)


def test_each_relabelling_is_the_whole_ridge_fitted_again(study: Study) -> None:
    train_rows, _, test_rows = parts()
    rng = np.random.default_rng(5)
    values = rng.standard_normal((N_IMAGES, 1, WIDTH)).astype(np.float32)
    ids = np.array([f"im{k}" for k in range(N_IMAGES)], dtype=object)
    every = Latents(values, ids, "space", "true")
    train_true, gallery = every.select(ids[:24]), every.select(ids[30:])
    test = relabelled_ridge(
        Cohort.of(study, train_rows),
        Cohort.of(study, test_rows),
        train_true,
        gallery,
        observed=0.9,
        gallery_size=5,
        n_permutations=5,
        seed=0,
        alphas=ALPHAS,
        n_folds=4,
        batch=2,
    )
    images = ImageRows.of(study, train_rows)
    scaler = fit_scaler(study, images)
    X, X_test = image_means(study, images, scaler), image_means(study, ImageRows.of(study, test_rows), scaler)
    Y = train_true.flat
    order = np.random.default_rng(0).permutation(len(Y))
    fit = ridge_cv(X, Y[order], folds=group_folds(np.arange(len(X)), 4), alphas=ALPHAS)
    reference = TrainingReference(predicted=fit.predict(X), true=Y)
    matrix = similarity(fit.predict(X_test), gallery.flat, "cosine-centred", reference)
    expected = top_k_random_gallery(ranks(matrix, np.arange(10)), 10, 5).mean()
    assert test.null[0] == pytest.approx(expected, abs=1e-6)
    assert test.p_value == pytest.approx((1 + (test.null >= 0.9).sum()) / 6)
    assert len(test.null) == 5

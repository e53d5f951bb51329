"""Sliding windows find what was put into an epoch, when it was put there, and nothing elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.latents import Latents
from braindecode_suite.core.manifest import RunLog
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.core.windows import window_matrix
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred, ranks
from braindecode_suite.workflows.fitting import prepare
from braindecode_suite.workflows.sensor_recipe import SensorRecipe, sensor_by_sensor, unit_after
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.time_resolved import (
    TimeResolvedConfig,
    _WindowDecoder,
    decode_sliding,
    map_epochs,
    mean_response,
)

SENSORS, TIMES, WIDTH = 12, np.arange(-20, 60) / 100, 5
TRAIN, TEST, REPEATS = 150, 30, 3
CONFIG = TimeResolvedConfig(width=0.1, stride=0.05, generalisation_every=0.1)


@pytest.fixture(scope="module")
def latents():
    rng = np.random.default_rng(0)
    ids = np.array([f"{k:03d}" for k in range(TRAIN + TEST)], dtype=object)
    return Latents(rng.standard_normal((len(ids), 1, WIDTH)).astype(np.float32), ids, "drawn", "true")


@pytest.fixture(scope="module")
def prepared(latents):
    """Latents by two sets of topographies: one from 0.1 to 0.2 s, another from 0.3 to 0.4 s."""
    rng = np.random.default_rng(1)
    shown = np.r_[np.arange(TRAIN), np.repeat(np.arange(TRAIN, TRAIN + TEST), REPEATS)]
    responses = rng.standard_normal((len(shown), SENSORS, len(TIMES)))
    for start, stop in ((0.1, 0.2), (0.3, 0.4)):
        inside = (start - 1e-9 <= TIMES) & (stop - 1e-9 > TIMES)
        topography = rng.standard_normal((WIDTH, SENSORS))
        responses += (latents.values[shown, 0] @ topography)[:, :, None] * inside
    responses[:, 3] = np.nan
    trials = pd.DataFrame(
        {"stimulus_id": latents.ids[shown], "session": "1", "run": 1, "repeat": 1, "onset": np.nan}
    )
    space = SensorSpace(
        tuple(f"S{k}" for k in range(SENSORS)),
        ("mag",) * SENSORS,
        {"1": rng.random((SENSORS, 2))},
        100.0,
        TIMES,
    )
    study = Study(
        dataset="drawn",
        subject="01",
        responses=(responses * 1e-13).astype(np.float32),
        trials=trials,
        stimuli=None,
        space=space,
        unit="tesla",
    )
    rows = np.arange(len(shown))
    split = Split(
        protocol="drawn",
        studies=(study,),
        train=(rows[: TRAIN - 20],),
        validation=(rows[TRAIN - 20 : TRAIN],),
        test=(rows[TRAIN:],),
        disjoint=frozenset({"stimulus"}),
    )
    return prepare(study, split, "session", sensors=SensorRecipe())


@pytest.fixture(scope="module")
def sliding(prepared, latents, tmp_path_factory):
    steps = Steps(tmp_path_factory.mktemp("work"), RunLog([]), {})
    epochs = map_epochs(steps, prepared)
    train, test = (latents.select(prepared.stimulus_ids[part]) for part in ("train", "test"))
    return epochs, decode_sliding(steps, prepared, epochs, train, test, CONFIG)


def test_the_map_holds_the_preprocessed_epochs(prepared, sliding):
    epochs, _ = sliding
    rows = np.array([0, 17, 200])
    assert np.array_equal(epochs[rows], prepared.study.read(rows), equal_nan=True)


def test_the_map_is_empty_where_trials_are_in_no_part_of_the_split(prepared, tmp_path):
    few = replace(prepared.split, train=(prepared.split.train[0][5:],))
    epochs = map_epochs(Steps(tmp_path, RunLog([]), {}), replace(prepared, split=few))
    assert np.isnan(epochs[:5]).all()
    assert np.array_equal(epochs[5:], prepared.study.read(np.arange(5, len(epochs))), equal_nan=True)


def test_the_mean_response_is_that_of_sensors_where_models_see_a_whitened_one(prepared):
    rows, plain = prepared.split.train[0], replace(prepared.study, recipe=None)
    scaled, whitened = (
        plain.prepared(Recipe(SensorRecipe(order=order).steps(plain.space)), rows)
        for order in (("scale", "baseline"), ("scale", "whiten", "baseline"))
    )
    recipe = sensor_by_sensor(whitened.recipe)
    found = mean_response(replace(whitened, recipe=recipe), rows)
    assert np.allclose(found, scaled.read(rows).mean(axis=0), atol=1e-6, equal_nan=True)
    assert not np.allclose(found, whitened.read(rows).mean(axis=0), atol=0.1, equal_nan=True)
    assert np.isnan(found).all(axis=1).tolist() == [k == 3 for k in range(SENSORS)]
    assert unit_after(recipe, "tesla") == "interquartile ranges"
    assert unit_after(whitened.recipe, "tesla") == "standard deviations of the noise"
    scaled_last = plain.prepared(Recipe(SensorRecipe(order=("whiten", "scale")).steps(plain.space)), rows)
    assert sensor_by_sensor(scaled_last.recipe) is scaled_last.recipe


def test_images_are_found_while_they_are_there_and_not_before(sliding):
    _, found = sliding
    top1 = np.array(
        [(ranks(one, np.arange(TEST)) == 0).mean() for one in found.similarity]
    )  # chance is 1 in 30
    whole = [k for k, w in enumerate(found.windows) if w.centre in (pytest.approx(0.15), pytest.approx(0.35))]
    before = [k for k, w in enumerate(found.windows) if w.time_stop <= 0.1 + 1e-9]
    assert (top1[whole] > 0.8).all()
    assert top1[before].mean() < 0.1


def test_maps_of_one_time_do_not_read_another_topography(sliding):
    _, found = sliding
    centres = np.array([found.windows[k].centre for k in found.generalisation])
    early, late = (int(np.argmin(abs(centres - t))) for t in (0.15, 0.35))
    top1 = (found.ranks == 0).mean(axis=2)
    assert top1[early, early] > 0.8
    assert top1[late, late] > 0.8
    assert top1[early, late] < 0.25
    assert top1[late, early] < 0.25


def test_a_window_equals_ridge_by_hand(prepared, sliding, latents):
    from braindecode_suite.learning.folds import group_folds
    from braindecode_suite.learning.ridge import ridge_cv

    epochs, found = sliding
    k = 6
    ids = prepared.study.stimulus_ids
    train, test = prepared.split.train[0], prepared.split.test[0]
    X, Y = window_matrix(epochs[train], found.windows[k]), latents.select(ids[train]).flat
    order = np.searchsorted(prepared.stimulus_ids["train"].astype(str), ids[train].astype(str))
    fit = ridge_cv(X, np.asarray(Y, np.float32), folds=group_folds(order, CONFIG.n_folds))
    predicted = fit.predict(window_matrix(epochs[test], found.windows[k]))
    means = np.stack([predicted[ids[test] == i].mean(axis=0) for i in prepared.stimulus_ids["test"]])
    gallery = latents.select(prepared.stimulus_ids["test"]).flat
    expected = cosine_centred(means, gallery, TrainingReference(predicted=fit.predict(X), true=Y))
    assert np.allclose(found.similarity[k], expected, atol=1e-4)


def test_features_are_predicted_less_what_training_images_are_on_average(prepared, sliding, latents):
    epochs, found = sliding
    ids, window = prepared.study.stimulus_ids, found.windows[6]
    train, test = (latents.select(prepared.stimulus_ids[part]) for part in ("train", "test"))
    decoder = _WindowDecoder(prepared, epochs, train, test, CONFIG.n_folds, {"x": train.flat + 5})
    fit = decoder.fit(window)[1]["x"]
    by_image = {}
    for part in ("train", "test"):
        rows = getattr(prepared.split, part)[0]
        predicted = fit.predict(window_matrix(epochs[rows], window))
        by_image[part] = np.stack(
            [predicted[ids[rows] == i].mean(axis=0) for i in prepared.stimulus_ids[part]]
        )
    expected = by_image["test"] - by_image["train"].mean(axis=0)
    assert np.allclose(decoder.predicted(fit, window), expected, atol=1e-4)


def test_the_windows_of_generalisation_repeat_the_course(sliding):
    _, found = sliding
    for i, k in enumerate(found.generalisation):
        assert np.array_equal(found.ranks[i, i], ranks(found.similarity[k], np.arange(TEST)))


def test_further_features_change_nothing_of_the_latents_and_are_predicted_as_ridge_does(
    prepared, sliding, latents, tmp_path
):
    epochs, _ = sliding
    train, test = (latents.select(prepared.stimulus_ids[part]) for part in ("train", "test"))
    mixed = {"mixed": train.flat @ np.random.default_rng(3).standard_normal((WIDTH, 2))}
    config = TimeResolvedConfig(width=0.1, stride=0.2, generalisation_every=0)
    steps = Steps(tmp_path, RunLog([]), {})
    alone, beside = (
        decode_sliding(steps, prepared, epochs, train, test, config, features) for features in (None, mixed)
    )
    assert np.allclose(alone.similarity, beside.similarity, atol=1e-5)
    assert np.array_equal(alone.single, beside.single)
    assert alone.features == {}
    as_latents = Latents(mixed["mixed"][:, None].astype(np.float32), train.ids, latents.target, latents.kind)
    decoder = _WindowDecoder(prepared, epochs, as_latents, test, config.n_folds, {})
    for k, window in enumerate(alone.windows):
        expected = decoder.predicted(decoder.fit(window)[0], window)
        assert np.allclose(beside.features["mixed"][k], expected, atol=1e-4)

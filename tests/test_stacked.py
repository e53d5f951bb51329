"""The stack of image encoders: which images weigh, what the weights are, what a saved stack holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.features import Grid
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.pooled_ridge import PooledRidge, PooledRidgeConfig
from braindecode_suite.encoders.stacked import MemberConfig, Stacked, StackedConfig
from braindecode_suite.learning.stacking import stacking_weights
from braindecode_suite.learning.synthetic import TableFeatures, make_study, rows_of

N_TRAIN, N_VALIDATION, N_IMAGES = 100, 60, 200
MEMBERS = (
    MemberConfig(model="pooled-ridge"),
    MemberConfig(model="pooled-ridge", settings={"pools": ["max"]}),
)


@pytest.fixture(scope="module")
def world():
    """Half of the units are linear in the mean of the tokens, the others in their maximum."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((N_IMAGES, 9, 6)).astype(np.float32)
    study = make_study(tokens.mean(axis=1, keepdims=True), n_units=20)
    image = study.trials["stimulus_id"].astype(int).to_numpy()
    weights = rng.standard_normal((6, 20))
    pooled = (tokens.mean(axis=1), tokens.max(axis=1))
    halves = [
        (x - x.mean(axis=0)) / x.std() @ w for x, w in zip(pooled, np.split(weights, 2, axis=1), strict=True)
    ]
    signal = np.concatenate(halves, axis=1)[image]
    responses = signal + 0.5 * rng.standard_normal(signal.shape)
    study = replace(study, responses=responses.astype(np.float32), noise=None)
    return study, [TableFeatures("tokens", tokens, Grid(3, 3))]


def cohort(study, first, last):
    return Cohort.of(study, rows_of(study, first, last))


def fitted(world, tmp_path, *, weigh="validation", study=None):
    own, sources = world
    study = study or own
    stack = Stacked(StackedConfig(members=MEMBERS, weigh=weigh), FitContext(work_dir=tmp_path))
    return stack.fit(cohort(study, 0, N_TRAIN), cohort(study, N_TRAIN, N_TRAIN + N_VALIDATION), sources)


@pytest.mark.parametrize("weigh", ["validation", "folds"])
def test_each_unit_takes_the_model_that_fits_it(world, tmp_path, weigh):
    stack = fitted(world, tmp_path, weigh=weigh)
    mean, maximum = stack.weights().values()
    assert_allclose(mean + maximum, 1, atol=1e-6)
    assert (mean[:10] > 0.75).all()
    assert (maximum[10:] > 0.75).all()
    rows = rows_of(world[0], 160, 200)
    measured = world[0].read(rows)
    images = world[0].trials["stimulus_id"].astype(int).to_numpy()[rows]
    predicted = stack.predict({"tokens": world[1][0].table.latents[images]})
    assert np.mean([np.corrcoef(p, m)[0, 1] for p, m in zip(predicted.T, measured.T, strict=True)]) > 0.8


def test_weights_are_those_of_the_second_half_of_the_validation_images(world, tmp_path, monkeypatch):
    stopped = []
    original = PooledRidge.fit

    def watched(self, train, validation, features):
        stopped.append((set(train.stimulus_ids), set(validation.stimulus_ids)))
        return original(self, train, validation, features)

    monkeypatch.setattr(PooledRidge, "fit", watched)
    stack = fitted(world, tmp_path)
    (train, first), again = stopped
    assert again == (train, first)
    validation = set(cohort(world[0], N_TRAIN, N_TRAIN + N_VALIDATION).stimulus_ids)
    assert len(first) == N_VALIDATION // 2
    assert first < validation
    second = sorted(validation - first, key=int)
    tokens = world[1][0].table.latents[[int(i) for i in second]]
    measured = np.stack([world[0].read(rows_of(world[0], int(i), int(i) + 1)).mean(axis=0) for i in second])
    predicted = [model.predict({"tokens": tokens}) for model in stack._models.values()]
    expected = stacking_weights(predicted, measured)
    assert_allclose(np.stack(list(stack.weights().values())), expected, atol=1e-4)


def test_folds_weigh_by_predictions_of_images_the_members_have_not_seen(world, tmp_path, monkeypatch):
    calls = []
    original = PooledRidge.fit

    def watched(self, train, validation, features):
        calls.append((set(train.stimulus_ids), set(validation.stimulus_ids)))
        return original(self, train, validation, features)

    monkeypatch.setattr(PooledRidge, "fit", watched)
    fitted(world, tmp_path, weigh="folds")
    every = set(cohort(world[0], 0, N_TRAIN).stimulus_ids)
    held_out = [every - train for train, _ in calls[:10:2]]
    assert sum(map(len, held_out)) == N_TRAIN
    assert set.union(*held_out) == every
    assert [train for train, _ in calls[10:]] == [every, every]
    assert all(len(validation) == N_VALIDATION for _, validation in calls)


def test_shuffled_weighing_images_do_not_reach_the_members(world, tmp_path):
    """Members are the same whatever the second half of the validation images holds; only weights move."""
    study, _ = world
    stack = fitted(world, tmp_path / "a")
    second = sorted(set(map(str, range(100, 160))) - _first_half(study), key=int)
    responses = np.array(study.responses)
    rows = np.concatenate([rows_of(study, int(i), int(i) + 1) for i in second])
    responses[rows] = np.random.default_rng(0).standard_normal((len(rows), 20))
    other = fitted(world, tmp_path / "b", study=replace(study, responses=responses))
    tokens = {"tokens": world[1][0].table.latents[160:]}
    for name, model in stack._models.items():
        assert_array_equal(model.predict(tokens), other._models[name].predict(tokens))
    assert np.abs(stack.weights()["0-pooled-ridge"] - other.weights()["0-pooled-ridge"]).max() > 0.2


def _first_half(study):
    ids = np.array(sorted(set(cohort(study, 100, 160).stimulus_ids)), dtype=object)
    return set(ids[np.random.default_rng([0, 3]).permutation(60)[:30]])


def test_models_that_are_fitted_already_are_stacked_whatever_features_they_have(world, tmp_path):
    study, (tokens,) = world
    noise = np.random.default_rng(1).standard_normal((N_IMAGES, 4, 3))
    other = TableFeatures("noise", noise, Grid(2, 2))
    context = FitContext(work_dir=tmp_path)
    train, held = cohort(study, 0, N_TRAIN), cohort(study, N_TRAIN, 130)
    models = {
        "good": PooledRidge(PooledRidgeConfig(pools=("mean", "max")), context).fit(train, held, [tokens]),
        "bad": PooledRidge(PooledRidgeConfig(), context).fit(train, held, [other]),
    }
    stack = Stacked.of_fitted(models, cohort(study, 130, 160), [tokens, other], context)
    assert (stack.weights()["good"] > 0.8).all()
    stack.save(tmp_path / "saved")
    loaded = Stacked.load(tmp_path / "saved", train, features=[tokens, other])
    images = study.stimuli.images(["170", "3"])
    assert_array_equal(loaded.predict(images), stack.predict(images))
    assert list(loaded.weights()) == ["good", "bad"]


def test_models_of_different_data_are_not_stacked(world, tmp_path):
    study, sources = world
    context = FitContext(work_dir=tmp_path)
    stranger = replace(study, subject="02")
    models = {
        s.subject: PooledRidge(PooledRidgeConfig(), context).fit(
            cohort(s, 0, 100), cohort(s, 100, 110), sources
        )
        for s in (study, stranger)
    }
    with pytest.raises(InputError, match=r"02: expected subjects = \['02'\]; found subjects = \['01'\]"):
        Stacked.of_fitted(models, cohort(study, 130, 160), sources, context)


def test_an_old_save_stays_whole_until_the_new_one_is(world, tmp_path, monkeypatch):
    stack = fitted(world, tmp_path / "work")
    tokens = {"tokens": world[1][0].table.latents[160:]}
    folder = tmp_path / "saved"
    stack.save(folder)
    before = set(folder.iterdir())

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("braindecode_suite.encoders.stacked.save_model", killed)
    with pytest.raises(KeyboardInterrupt):
        stack.save(folder)
    assert_array_equal(Stacked.load(folder).predict(tokens), stack.predict(tokens))
    monkeypatch.undo()
    stack.save(folder)
    after = set(folder.iterdir())
    assert len(after) == len(before)
    assert_array_equal(Stacked.load(folder).predict(tokens), stack.predict(tokens))


def test_bad_members_and_too_few_images_are_refused(world, tmp_path):
    study, sources = world
    context = FitContext(work_dir=tmp_path)
    train, held = cohort(study, 0, 50), cohort(study, 50, 60)
    with pytest.raises(UnknownName, match=r"`model`: expected one of .*; found 'ridge'"):
        Stacked(StackedConfig(members=(MemberConfig(model="ridge"),)), context).fit(train, held, sources)
    wrong = MemberConfig(model="pooled-ridge", settings={"pool": "max"})
    with pytest.raises(
        InputError, match="settings of pooled-ridge: expected a known config key; found 'pool'"
    ):
        Stacked(StackedConfig(members=(wrong,)), context).fit(train, held, sources)
    few = cohort(study, 50, 54)
    with pytest.raises(InputError, match="at least 3 images of sub-01 to weigh models with; found 2"):
        Stacked(StackedConfig(members=MEMBERS), context).fit(train, few, sources)

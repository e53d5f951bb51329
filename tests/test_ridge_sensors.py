"""Ridge on windows of sensors: flattening, missing sensors, single trials in folds of images, people pooled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders.ridge import RidgeConfig, RidgeEncoder
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.masked_rows import fit_masked_scaler
from braindecode_suite.learning.responses import ImageRows, fit_scaler, flatten_times, image_means
from braindecode_suite.learning.ridge import cached_ridge_cv, ridge_cv
from braindecode_suite.learning.ridge_warnings import RidgeWarning
from braindecode_suite.learning.synthetic import (
    TableTarget,
    make_latents,
    make_sensor_study,
    make_study,
    rows_of,
)

LATENTS = make_latents(40, 1, 6)
TARGETS = {"retrieval": TableTarget("clip", LATENTS)}
TRIALS = RidgeConfig(repeats="each")


def study(subject: str = "01", **kwargs: Any) -> Study:
    options = {"n_sensors": 8, "n_times": 12, "n_repeats": 2, "n_missing": 0} | kwargs
    return make_sensor_study(LATENTS, subject=subject, seed=int(subject), **options)


def cohort(*studies: Study, first: int = 0, last: int = 30) -> Cohort:
    return Cohort(studies, tuple(rows_of(s, first, last) for s in studies))


def fitted(folder: Path, train: Cohort, config: RidgeConfig = TRIALS) -> RidgeEncoder:
    return RidgeEncoder(config, FitContext(work_dir=folder)).fit(train, train, TARGETS)


def scaled(values: np.ndarray) -> np.ndarray:
    """Flatten and z-score by the values that are there; what is missing becomes 0."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return np.asarray(np.nan_to_num((flat - np.nanmean(flat, axis=0)) / np.nanstd(flat, axis=0)))


def expected(train: Cohort, test: np.ndarray, images: list[str]) -> np.ndarray:
    """Fit the solver to single trials, images in folds, and predict scaled rows."""
    X = np.concatenate([scaled(s.read(np.concatenate(ImageRows.of(s, rows).rows))) for s, rows in train])
    ids = np.concatenate([np.repeat(*_images(s, rows)) for s, rows in train])
    image = np.array([images.index(i) for i in ids])
    Y = LATENTS[ids.astype(int), 0]
    fit = ridge_cv(X.astype(np.float32), Y, folds=group_folds(image, 5))
    return np.asarray(fit.predict(test.astype(np.float32)))


def _images(s: Study, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
    images = ImageRows.of(s, rows)
    return images.ids, [len(group) for group in images.rows]


def test_single_trials_are_rows_and_the_images_lie_in_folds(tmp_path: Path) -> None:
    train = cohort(study())
    images = list(dict.fromkeys(train.stimulus_ids))
    X = scaled(train.studies[0].read(train.rows[0]))
    found = fitted(tmp_path, train).predict(train)["retrieval"].flat
    assert_allclose(found, expected(train, X, images), atol=2e-4)


def test_a_sensor_that_is_missing_throughout_counts_for_nothing(tmp_path: Path) -> None:
    whole = study()
    gone = replace(whole, responses=np.array(whole.responses))
    gone.responses[:, 3] = np.nan  # type: ignore[index]
    few = replace(
        whole,
        responses=np.delete(np.asarray(whole.responses), 3, axis=1),
        space=study(n_sensors=7).space,
    )
    model = fitted(tmp_path / "a", cohort(gone))
    without = fitted(tmp_path / "b", cohort(few))
    assert_allclose(
        model.predict(cohort(gone))["retrieval"].values,
        without.predict(cohort(few))["retrieval"].values,
        atol=2e-4,
    )
    assert model.facts_["imputed"]["01"] == {
        "units": 96,
        "missing_in_all": 12,
        "missing_in_some": 0,
        "imputed_values": 0,
    }
    # what it says later does not matter either
    assert_allclose(
        model.predict(cohort(whole))["retrieval"].values,
        model.predict(cohort(gone))["retrieval"].values,
        atol=1e-6,
    )


def test_a_sensor_that_is_missing_in_a_session_has_the_training_mean_there_and_is_counted(
    tmp_path: Path,
) -> None:
    some = study(n_missing=2)
    train = cohort(some)
    assert np.isnan(some.read(train.rows[0])).any()
    model = fitted(tmp_path, train)
    images = list(dict.fromkeys(train.stimulus_ids))
    found = model.predict(train)["retrieval"].flat
    assert_allclose(found, expected(train, scaled(some.read(train.rows[0])), images), atol=2e-4)
    assert model.facts_["imputed"]["01"] == {
        "units": 96,
        "missing_in_all": 0,
        "missing_in_some": 24,
        "imputed_values": 24 * 30,
    }


def test_people_who_share_a_map_are_standardised_apart_and_share_folds(tmp_path: Path) -> None:
    second = study("02")
    train = cohort(study(), replace(second, responses=100 + 7 * np.asarray(second.responses)))
    model = fitted(tmp_path, train, RidgeEncoder.preset("pooled"))
    images = list(dict.fromkeys(train.stimulus_ids))
    X = np.concatenate([scaled(s.read(rows)) for s, rows in train])
    assert_allclose(model.predict(train)["retrieval"].flat, expected(train, X, images), atol=3e-4)
    assert model.penalties_["retrieval"].shape == (1, 6)
    assert model.n_parameters == 97 * 6
    model.save(tmp_path / "model")
    again = RidgeEncoder.load(tmp_path / "model", train).predict(train)
    assert_array_equal(again["retrieval"].values, model.predict(train)["retrieval"].values)


def test_a_person_it_does_not_know_goes_through_the_mean_of_the_known_and_is_flagged(tmp_path: Path) -> None:
    second = study("02")
    train = cohort(study(), replace(second, responses=100 + 7 * np.asarray(second.responses)))
    config = RidgeConfig(repeats="each", people="pooled", unknown_subjects="mean")
    model = fitted(tmp_path, train, config)
    stranger = cohort(study("03"), first=30, last=40)
    with pytest.warns(
        RidgeWarning, match=r"sub-03 is none of the people .* \(01, 02\): their mean standardisation"
    ):
        found = model.predict(stranger)["retrieval"].flat
    means, gains = [], []
    for s, rows in train:
        flat = s.read(rows).reshape(len(rows), -1).astype(np.float64)
        means.append(flat.mean(axis=0))
        gains.append(1 / flat.std(axis=0))
    x = stranger.studies[0].read(stranger.rows[0]).reshape(len(stranger), -1)
    X = (x - np.mean(means, axis=0)) * np.mean(gains, axis=0)
    images = list(dict.fromkeys(train.stimulus_ids))
    assert_allclose(found, expected(train, X, images), rtol=1e-3, atol=1e-2)
    assert len(model.warnings_) == 1
    known = cohort(study(), first=30, last=40)  # a known person still has its own standardisation
    assert_array_equal(
        model.predict(known)["retrieval"].values,
        fitted(tmp_path, train, RidgeEncoder.preset("pooled")).predict(known)["retrieval"].values,
    )


def test_a_person_it_does_not_know_is_refused_unless_asked_for_and_with_other_sensors(tmp_path: Path) -> None:
    train = cohort(study(), study("02"))
    with pytest.raises(InputError, match=r"expected subjects = \['01', '02'\]; found subjects = \['03'\]"):
        fitted(tmp_path, train, RidgeEncoder.preset("pooled")).predict(cohort(study("03")))
    model = fitted(tmp_path, train, RidgeConfig(repeats="each", people="pooled", unknown_subjects="mean"))
    with pytest.raises(InputError, match=r"sub-03: .*space"):
        model.predict(cohort(study("03", n_sensors=7)))
    with pytest.raises(InputError, match="needs one map for all"):
        build(RidgeConfig, {"unknown_subjects": "mean"}, "config")


def test_people_with_other_sensors_cannot_share_a_map(tmp_path: Path) -> None:
    train = cohort(study(), study("02", n_sensors=7))
    with pytest.raises(InputError, match=r"sub-02: expected the units of sub-01, .*; found .*people='each'"):
        fitted(tmp_path, train, RidgeEncoder.preset("pooled"))
    assert fitted(tmp_path, train).predict(train)["retrieval"].values.shape == (120, 1, 6)


@pytest.mark.parametrize("repeats", ["each", "mean"])
def test_rows_on_disk_give_the_same_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: str
) -> None:
    train, config = cohort(study(n_missing=1)), TRIALS.model_copy(update={"repeats": repeats})
    memory = fitted(tmp_path / "a", train, config).predict(train)["retrieval"].values
    monkeypatch.setattr("braindecode_suite.learning.masked_rows.PRELOAD_BYTES", 0)
    monkeypatch.setattr("braindecode_suite.learning.masked_rows.BLOCK", 7)
    disk = fitted(tmp_path / "b", train, config).predict(train)["retrieval"].values
    assert_allclose(disk, memory, atol=1e-5)
    assert not list(tmp_path.rglob(".rows-*"))


def test_means_over_repeats_are_those_of_the_scaled_trials(tmp_path: Path) -> None:
    train = cohort(study())
    model = fitted(tmp_path, train, TRIALS.model_copy(update={"repeats": "mean"}))
    flat = flatten_times(train.studies[0])[0]
    scaler, _ = fit_masked_scaler(flat, train.rows[0])
    images = ImageRows.of(flat, train.rows[0])
    X = image_means(flat, images, scaler)
    fit = ridge_cv(X, LATENTS[images.ids.astype(int), 0], folds=group_folds(np.arange(30), 5))
    z = scaler.apply(flat.read(train.rows[0]))
    assert_allclose(model.predict(train)["retrieval"].flat, fit.predict(z), atol=2e-4)


def test_neighbouring_samples_are_averaged_where_asked(tmp_path: Path) -> None:
    one = study()
    values = np.asarray(one.responses)
    flat, shape = flatten_times(one, every=5)
    assert shape == (8, 3)
    expected = [values[..., :5].mean(axis=2), values[..., 5:10].mean(axis=2), values[..., 10:].mean(axis=2)]
    assert_allclose(flat.read(np.arange(4)), np.stack(expected, axis=2)[:4].reshape(4, -1), atol=1e-6)
    train = cohort(one)
    model = fitted(tmp_path, train, TRIALS.model_copy(update={"every": 5}))
    assert model.n_parameters == 25 * 6
    model.save(tmp_path / "model")
    loaded = RidgeEncoder.load(tmp_path / "model", train)
    assert_array_equal(loaded.predict(train)["retrieval"].values, model.predict(train)["retrieval"].values)


def test_too_little_memory_is_an_error_that_says_how_much(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`max_memory`: expected at least .* bytes"):
        fitted(tmp_path, cohort(study()), TRIALS.model_copy(update={"max_memory": 1000}))


def test_voxels_are_fitted_as_ever_to_the_last_bit(tmp_path: Path) -> None:
    voxels = make_study(LATENTS, n_units=40)
    train = cohort(voxels)
    model = fitted(tmp_path / "a", train, RidgeConfig())
    images = ImageRows.of(voxels, train.rows[0])
    scaler = fit_scaler(voxels, images, weight_by_signal=True)
    folds = group_folds(np.arange(30), 5)
    Y = np.asarray(LATENTS[images.ids.astype(int), 0])
    fit = cached_ridge_cv(tmp_path / "b", image_means(voxels, images, scaler), Y, folds=folds)
    found = model.predict(train)["retrieval"].flat
    assert_array_equal(
        found, (scaler.apply(voxels.read(train.rows[0])) @ fit.coef + fit.intercept).astype(np.float32)
    )
    assert "imputed" not in model.facts_

"""Unit scaling, means over repeats, and target scaling against plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe, SelectUnits
from braindecode_suite.core.study import Study
from braindecode_suite.learning.responses import ImageRows, fit_scaler, flatten_times, image_means
from braindecode_suite.learning.synthetic import make_latents, make_study, rows_of
from braindecode_suite.learning.target_space import fit_target_scaler


@pytest.fixture
def study() -> Study:
    return make_study(make_latents(2000, 1, 8), n_units=30, ncsnr=0.8)


def test_units_are_standardised_by_training_rows_alone(study: Study) -> None:
    rows = rows_of(study, 0, 1500)
    np.asarray(study.responses)[rows_of(study, 1500, 2000)] = 1e5
    scaler = fit_scaler(study, ImageRows.of(study, rows), weight_by_signal=False)
    scaled = scaler.apply(study.read(rows))
    assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    assert_allclose(scaled[:, 1:].std(axis=0), 1, rtol=1e-4)


def test_a_constant_or_invalid_unit_counts_for_nothing(study: Study) -> None:
    valid = np.ones(30, bool)
    valid[5] = False
    rows = rows_of(study, 0, 2000)
    scaler = fit_scaler(replace(study, valid=valid), ImageRows.of(study, rows))
    assert_array_equal(np.flatnonzero(scaler.gain == 0), [0, 5])
    assert np.isfinite(scaler.apply(study.read(rows))).all()


def test_the_weight_of_a_unit_is_the_root_of_its_signal_share(study: Study) -> None:
    images = ImageRows.of(study, rows_of(study, 0, 2000))
    plain, weighted = (fit_scaler(study, images, weight_by_signal=w) for w in (False, True))
    assert study.noise is not None
    squared = study.noise.ncsnr[1:] ** 2
    share = squared / (1 + squared)
    assert_allclose(
        (weighted.gain / np.where(plain.gain > 0, plain.gain, 1))[1:] ** 2, np.maximum(share, 0.01), atol=0.05
    )


def test_without_repeats_all_units_weigh_the_same(study: Study) -> None:
    once = ImageRows.of(study, np.arange(2000))
    plain, weighted = (fit_scaler(study, once, weight_by_signal=w) for w in (False, True))
    assert_array_equal(plain.gain, weighted.gain)


def test_means_over_repeats_are_the_means(study: Study) -> None:
    rows = np.concatenate([rows_of(study, 0, 40)[::-1], rows_of(study, 40, 60)[:25]])
    images = ImageRows.of(study, rows)
    scaler = fit_scaler(study, images)
    means = image_means(study, images, scaler)
    for k in (0, 7, len(images) - 1):
        mine = rows[study.stimulus_ids[rows] == images.ids[k]]
        assert_array_equal(np.sort(images.rows[k]), np.sort(mine))
        assert_allclose(means[k], scaler.apply(study.read(mine)).mean(axis=0), atol=1e-5)


def test_a_recipe_that_selects_units_is_followed(study: Study) -> None:
    keep = np.arange(30) % 3 == 0
    selected = study.prepared(Recipe((SelectUnits(keep),)), np.arange(10))
    images = ImageRows.of(selected, rows_of(selected, 0, 50))
    scaler = fit_scaler(selected, images)
    assert scaler.gain.shape == (10,)
    assert image_means(selected, images, scaler).shape == (50, 10)


def test_another_number_of_units_is_refused(study: Study) -> None:
    scaler = fit_scaler(study, ImageRows.of(study, np.arange(100)))
    with pytest.raises(InputError, match=r"`responses`: expected shape \(rows, units=30\); found \(2, 29\)"):
        scaler.apply(np.zeros((2, 29)))


def test_scaled_targets_are_centred_with_tokens_of_unit_mean_square_length() -> None:
    latents = make_latents(3000, 3, 5) * 7 + 2
    scaler = fit_target_scaler(latents)
    scaled = scaler.apply(latents)
    assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    assert_allclose(np.square(scaled).sum(axis=2).mean(), 1, rtol=1e-5)
    assert_allclose(scaler.undo(scaled), latents, atol=1e-4)


def test_latents_with_nan_are_refused() -> None:
    latents = make_latents(10, 1, 3)
    latents[4, 0, 1] = np.nan
    with pytest.raises(
        InputError, match=r"target latents: expected finite values; found 1 NaN .* at \(4, 0, 1\)"
    ):
        fit_target_scaler(latents)


def test_an_invalid_unit_counts_for_nothing_among_the_units_kept(study: Study) -> None:
    valid = np.ones(30, bool)
    valid[[5, 7]] = False
    keep = np.arange(30) != 5
    rows = rows_of(study, 0, 2000)
    some = replace(study, valid=valid).prepared(Recipe((SelectUnits(keep),)), rows)
    gain = fit_scaler(some, ImageRows.of(some, rows)).gain
    assert_array_equal(np.flatnonzero(keep)[gain == 0], [0, 7])


def test_times_are_laid_side_by_side_after_preprocessing(study: Study) -> None:
    flat = np.asarray(study.responses)
    timed = replace(study, responses=flat.reshape(-1, 10, 3), valid=np.arange(10) != 4)
    read = replace(timed, recipe=Doubled())  # type: ignore[arg-type]
    laid, shape = flatten_times(read)
    assert shape == (10, 3)
    assert (laid.n_units, laid.recipe) == (30, None)
    rows = np.array([7, 2, 11])
    assert_allclose(laid.read(rows), 2 * flat[rows])
    assert_array_equal(np.flatnonzero(~laid.valid), [12, 13, 14])  # type: ignore[operator]
    assert flatten_times(study) == (study, (30,))


class Doubled:
    """A recipe that doubles, channels and times as they are."""

    keep = None

    def apply(self, values: np.ndarray, trials: object) -> np.ndarray:
        assert values.shape[1:] == (10, 3)
        return 2 * values


def test_series_of_differing_length_cannot_be_laid_out(study: Study) -> None:
    class Ragged:
        shape, dtype, lengths = (6000, 30), np.dtype(np.float32), np.arange(6000)

        def __len__(self) -> int:
            return 6000

        def __getitem__(self, rows: object) -> np.ndarray:
            raise AssertionError("nothing is read")

    with pytest.raises(InputError, match="synthetic sub-01: expected responses of one length"):
        flatten_times(replace(study, responses=Ragged()))

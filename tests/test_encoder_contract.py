"""One suite over every brain encoder of the catalogue: shapes, order, determinism, save and load, bad input."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.protocols import BrainEncoder, FitContext
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.learning.synthetic import (
    TableTarget,
    make_latents,
    make_sensor_study,
    make_study,
    rows_of,
)

N_IMAGES, N_TRAIN, N_VALIDATION = 120, 80, 20
FAST: dict[str, dict[str, Any]] = {
    "mindeye": {"epochs": 3, "batch_size": 16},
    "brain-routing": {"epochs": 15, "batch_size": 16, "ema_decay": 0.9},
    "meg-module": {"epochs": 12, "batch_size": 32, "ema_decay": 0.9},
    "nice": {"epochs": 12, "batch_size": 32, "ema_decay": 0.9},
    "atm": {"epochs": 12, "batch_size": 32, "ema_decay": 0.9},
}
SENSORS = {"meg-module", "nice", "atm"}  # encoders of (trials, sensors, times)


class World:
    """Two subjects of different size who saw the same images, split by image, and an encoder fitted to them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        image, low = make_latents(N_IMAGES, 1, 12), make_latents(N_IMAGES, 16, 3, seed=1)
        self.targets = {
            "retrieval": TableTarget("toy-clip", image),
            "image": TableTarget("toy-clip", image),
            "init": TableTarget("toy-vae", low),
        }
        self.studies = tuple(
            self.ready(
                make_sensor_study(image, n_sensors=n, subject=subject, seed=n)
                if name in SENSORS
                else make_study(image, n_units=n, ncsnr=1.0, subject=subject, seed=n)
            )
            for subject, n in (("01", 40), ("02", 25))
        )
        self.train, self.validation = self.cohort(0, N_TRAIN), self.cohort(N_TRAIN, N_TRAIN + N_VALIDATION)
        self.test = self.cohort(N_TRAIN + N_VALIDATION, N_IMAGES)

    @staticmethod
    def ready(study: Study) -> Study:
        """Draw two overlapping regions and one that only the larger subject has; fit the preprocessing on training rows."""
        if isinstance(study.space, UnitSpace):
            n = np.arange(study.n_units)
            regions = {"A": n < study.n_units // 2, "B": n % 3 == 0, "C": n >= 35, "none": n < 0}
            study = replace(study, space=UnitSpace(study.n_units, regions))
        return study.prepared(Recipe((ZScore(),)), rows_of(study, 0, N_TRAIN))

    def cohort(self, first: int, last: int) -> Cohort:
        return Cohort(self.studies, tuple(rows_of(study, first, last) for study in self.studies))

    def build(self, seed: int = 0, folder: str = "work") -> Any:
        cls = ENCODERS[self.name]
        config = cls.preset(cls.PRESETS[0])
        if self.name in FAST:
            config = config.model_copy(
                update={"training": config.training.model_copy(update=FAST[self.name])}
            )
        return cls(config, FitContext(work_dir=self.folder / folder, seed=seed, split_hash="abc"))

    def fitted(self, **kwargs: Any) -> Any:
        return self.build(**kwargs).fit(self.train, self.validation, self.targets)


@pytest.fixture(scope="module", params=list(ENCODERS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(request.param, tmp_path_factory.mktemp(request.param))
    try:
        world.build()
    except InputError as error:
        pytest.skip(f"{request.param}: {error}")
    return world


@pytest.fixture(scope="module")
def encoder(world: World) -> Any:
    return world.fitted()


def test_it_obeys_the_protocol_and_is_documented(world: World, encoder: Any) -> None:
    assert isinstance(encoder, BrainEncoder)
    cls: Any = type(encoder)
    assert issubclass(cls.config_class, Config)
    for thing in (cls, cls.fit, cls.predict, cls.save, cls.load, cls.config_class):
        assert len(inspect.getdoc(thing) or "") > 20, thing


def test_every_preset_is_a_config_and_an_unknown_one_is_refused(world: World) -> None:
    cls = ENCODERS[world.name]
    assert all(isinstance(cls.preset(name), cls.config_class) for name in cls.PRESETS)
    with pytest.raises(UnknownName, match=r"`preset`: expected one of .*; found 'enormous'"):
        cls.preset("enormous")


def test_it_predicts_every_role_in_the_targets_shape(world: World, encoder: Any) -> None:
    latents = encoder.predict(world.test)
    assert set(latents) == set(world.targets)
    for role, target in world.targets.items():
        assert latents[role].values.shape == (len(world.test), target.tokens, target.width)
        assert latents[role].values.dtype == np.float32
        assert latents[role].target == target.name
        assert latents[role].kind == "predicted"
        assert np.isfinite(latents[role].values).all()
        assert_array_equal(latents[role].ids, world.test.stimulus_ids)


def test_it_has_learned_something_about_images_it_never_saw(world: World, encoder: Any) -> None:
    predicted = encoder.predict(world.test)["retrieval"].mean_by_stimulus()
    true = world.targets["retrieval"].embed(world.test.stimuli, list(predicted.ids))
    p, t = predicted.flat - predicted.flat.mean(axis=0), true.flat - true.flat.mean(axis=0)
    assert np.corrcoef(p.ravel(), t.ravel())[0, 1] > 0.5


def test_rows_are_predicted_one_by_one_in_any_order(world: World, encoder: Any) -> None:
    whole = encoder.predict(world.test)
    order = np.random.default_rng(0).permutation(len(world.test.rows[1]))
    second = Cohort((world.studies[1],), (world.test.rows[1][order],))
    start = len(world.test.rows[0])
    for role, latents in encoder.predict(second).items():
        assert_allclose(latents.values, whole[role].values[start:][order], atol=2e-5)


def test_the_same_seed_gives_the_same_prediction(world: World, encoder: Any) -> None:
    for role, latents in encoder.predict(world.test, seed=3).items():
        assert_array_equal(latents.values, encoder.predict(world.test, seed=3)[role].values)


def test_a_second_fit_with_the_same_seed_is_the_same(world: World, encoder: Any) -> None:
    again = world.fitted(folder="elsewhere").predict(world.test)
    for role, latents in encoder.predict(world.test).items():
        assert_allclose(again[role].values, latents.values, atol=1e-6)


def test_test_rows_change_nothing_that_is_learned(world: World, encoder: Any) -> None:
    changed = World(world.name, world.folder / "changed")
    for study, rows in zip(changed.studies, changed.test.rows, strict=True):
        np.asarray(study.responses)[rows] = 1e6
    other = changed.fitted()
    for role, latents in encoder.predict(world.validation).items():
        assert_array_equal(other.predict(changed.validation)[role].values, latents.values)


def test_a_saved_model_predicts_the_same(world: World, encoder: Any, tmp_path: Path) -> None:
    encoder.save(tmp_path, {"text": "# Card\n"})
    loaded = type(encoder).load(tmp_path, world.test)
    assert isinstance(loaded, BrainEncoder)
    for role, latents in encoder.predict(world.test, seed=1).items():
        assert_array_equal(loaded.predict(world.test, seed=1)[role].values, latents.values)
    assert loaded.history_ == encoder.history_
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob("*.pkl")) + list(tmp_path.glob("*.ckpt"))


def test_a_loaded_model_can_be_saved_again(world: World, encoder: Any, tmp_path: Path) -> None:
    encoder.save(tmp_path / "a")
    type(encoder).load(tmp_path / "a").save(tmp_path / "b")
    twice = type(encoder).load(tmp_path / "b", world.test).predict(world.test)
    assert_array_equal(twice["retrieval"].values, encoder.predict(world.test)["retrieval"].values)


def test_a_checkpoint_of_another_subject_is_refused_naming_both(
    world: World, encoder: Any, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    stranger = Cohort.of(replace(world.studies[0], subject="07"))
    with pytest.raises(InputError, match=r"\['01', '02'\]; found subjects = \['07'\]"):
        type(encoder).load(tmp_path, stranger)
    with pytest.raises(InputError, match=r"\['01', '02'\]; found subjects = \['07'\]"):
        encoder.predict(stranger)


def test_a_checkpoint_of_another_mask_is_refused_naming_both(
    world: World, encoder: Any, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    exchanged = Cohort.of(replace(world.studies[1], subject="01"))
    with pytest.raises(InputError, match=r"sub-01 with space .*'n_units': 40.*; found .*'n_units': 25"):
        type(encoder).load(tmp_path, exchanged)


def test_other_preprocessing_is_refused(world: World, encoder: Any) -> None:
    study = world.studies[0].prepared(Recipe((ZScore(by=None),)), world.train.rows[0])
    with pytest.raises(InputError, match="sub-01 with recipe"):
        encoder.predict(Cohort.of(study))


def test_an_unfitted_encoder_says_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a fitted encoder; found an unfitted one"):
        world.build().predict(world.test)
    with pytest.raises(InputError, match="expected a fitted encoder; found an unfitted one"):
        world.build().save(tmp_path)


def test_an_unknown_role_is_refused(world: World) -> None:
    with pytest.raises(UnknownName, match=r"`role`: expected one of .*; found 'taste'"):
        world.build().fit(world.train, world.validation, {"taste": world.targets["retrieval"]})


def test_no_targets_are_refused(world: World) -> None:
    with pytest.raises(InputError, match="`targets`"):
        world.build().fit(world.train, world.validation, {})


def test_an_empty_cohort_gives_empty_latents(world: World, encoder: Any) -> None:
    empty = Cohort(world.studies, (np.empty(0, int), np.empty(0, int)))
    assert all(len(latents) == 0 for latents in encoder.predict(empty).values())

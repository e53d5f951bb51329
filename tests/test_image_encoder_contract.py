"""One suite over every image encoder of the catalogue: shapes, order, determinism, save and load, bad input."""

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
from braindecode_suite.core.features import Grid
from braindecode_suite.core.protocols import FitContext, ImageEncoder
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.learning.synthetic import TableFeatures, make_latents, make_study, rows_of
from braindecode_suite.metrics.encoding import encoding_r

N_IMAGES, N_TRAIN, N_VALIDATION = 130, 90, 20
FAST: dict[str, dict[str, Any]] = {
    "attention-routing": {"epochs": 12, "batch_size": 16, "ema_decay": 0.9},
    "factorised": {"epochs": 15, "batch_size": 16, "ema_decay": 0.9, "learning_rate": 1e-2},
}


class World:
    """Two subjects of different size who saw the same images, split by image; two layers of features, and an encoder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        layers = [make_latents(N_IMAGES, tokens, 12, seed=tokens).astype(np.float16) for tokens in (9, 5)]
        grids = [Grid(2, 4, has_cls=True), Grid(2, 2, has_cls=True)]
        self.features = [
            TableFeatures(f"layer-{k}", table, grid)
            for k, (table, grid) in enumerate(zip(layers, grids, strict=True))
        ]
        mean = np.concatenate(
            [table.mean(axis=1, keepdims=True) for table in layers], axis=2, dtype=np.float32
        )
        self.studies = tuple(
            self.ready(make_study(mean, n_units=n, ncsnr=2.0, subject=subject, seed=n))
            for subject, n in (("01", 40), ("02", 25))
        )
        self.train, self.validation = self.cohort(0, N_TRAIN), self.cohort(N_TRAIN, N_TRAIN + N_VALIDATION)
        self.test = self.cohort(N_TRAIN + N_VALIDATION, N_IMAGES)
        self.test_features = self.features_of(range(N_TRAIN + N_VALIDATION, N_IMAGES))

    @staticmethod
    def ready(study: Study) -> Study:
        """Draw two overlapping regions, and fit the preprocessing on training rows."""
        n = np.arange(study.n_units)
        regions = {"A": n < study.n_units // 2, "B": n % 3 == 0, "none": n < 0}
        study = replace(study, space=UnitSpace(study.n_units, regions))
        return study.prepared(Recipe((ZScore(),)), rows_of(study, 0, N_TRAIN))

    def features_of(self, images: Any) -> dict[str, np.ndarray]:
        ids = [str(k) for k in images]
        return {source.name: source.rows(self.studies[0].stimuli, ids) for source in self.features}  # type: ignore[arg-type]

    def cohort(self, first: int, last: int) -> Cohort:
        return Cohort(self.studies, tuple(rows_of(study, first, last) for study in self.studies))

    def build(self, seed: int = 0, folder: str = "work") -> Any:
        cls = IMAGE_ENCODERS[self.name]
        config = cls.preset(cls.PRESETS[0])
        if self.name in FAST:
            config = config.model_copy(
                update={"training": config.training.model_copy(update=FAST[self.name])}
            )
        if self.name == "stacked":
            config = config.model_copy(update={"members": config.members[:2]})
        return cls(config, FitContext(work_dir=self.folder / folder, seed=seed, split_hash="abc"))

    def fitted(self, **kwargs: Any) -> Any:
        return self.build(**kwargs).fit(self.train, self.validation, self.features)


@pytest.fixture(scope="module", params=list(IMAGE_ENCODERS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def encoder(world: World) -> Any:
    return world.fitted()


def measured(study: Study, first: int, last: int) -> np.ndarray:
    """Return mean responses to images `first` to ``last - 1``, of shape (images, units)."""
    return np.stack([study.read(rows_of(study, k, k + 1)).mean(axis=0) for k in range(first, last)])


def test_it_obeys_the_protocol_and_is_documented(world: World, encoder: Any) -> None:
    cls: Any = type(encoder)
    assert issubclass(cls.config_class, Config)
    assert encoder.n_parameters > 0
    assert isinstance(encoder, ImageEncoder)
    for thing in (cls, cls.fit, cls.predict, cls.save, cls.load, cls.config_class):
        assert len(inspect.getdoc(thing) or "") > 20, thing


def test_every_preset_is_a_config_and_an_unknown_one_is_refused(world: World) -> None:
    cls = IMAGE_ENCODERS[world.name]
    assert all(isinstance(cls.preset(name), cls.config_class) for name in cls.PRESETS)
    with pytest.raises(UnknownName, match=r"`preset`: expected one of .*; found 'enormous'"):
        cls.preset("enormous")


def test_it_predicts_a_response_of_every_unit_to_every_image(world: World, encoder: Any) -> None:
    for study in world.studies:
        predicted = encoder.predict(world.test_features, study.subject)
        assert predicted.shape == (N_IMAGES - N_TRAIN - N_VALIDATION, study.n_units)
        assert predicted.dtype == np.float32
        assert np.isfinite(predicted).all()


def test_it_has_learned_something_about_images_it_never_saw(world: World, encoder: Any) -> None:
    for study in world.studies:
        predicted = encoder.predict(world.test_features, study.subject)
        r = encoding_r(measured(study, N_TRAIN + N_VALIDATION, N_IMAGES), predicted)
        assert np.nanmean(r) > 0.5


def test_images_are_predicted_one_by_one_in_any_order(world: World, encoder: Any) -> None:
    whole = encoder.predict(world.test_features, "01")
    order = np.random.default_rng(0).permutation(len(whole))[:7]
    some = {name: rows[order] for name, rows in world.test_features.items()}
    assert_allclose(encoder.predict(some, "01"), whole[order], atol=1e-4)


def test_images_and_their_features_are_predicted_the_same(world: World, encoder: Any) -> None:
    images = world.studies[0].stimuli.images(["115", "121", "3"])  # type: ignore[union-attr]
    expected = encoder.predict(world.features_of([115, 121, 3]), "02")
    assert_allclose(encoder.predict(images, "02"), expected, atol=1e-4)


def test_a_unit_that_never_varied_is_predicted_by_its_mean(world: World, encoder: Any) -> None:
    predicted = encoder.predict(world.test_features, "01")
    constant = measured(world.studies[0], 0, 1)[0, 0]  # unit 0 of the synthetic studies
    assert_allclose(predicted[:, 0], constant, atol=1e-5)


def test_a_second_fit_with_the_same_seed_is_the_same(world: World, encoder: Any) -> None:
    again = world.fitted(folder="elsewhere").predict(world.test_features, "02")
    assert_allclose(again, encoder.predict(world.test_features, "02"), atol=1e-6)


def test_test_rows_change_nothing_that_is_learned(world: World, encoder: Any) -> None:
    changed = World(world.name, world.folder / "changed")
    for study, rows in zip(changed.studies, changed.test.rows, strict=True):
        np.asarray(study.responses)[rows] = 1e6
    assert_array_equal(
        changed.fitted().predict(world.test_features, "01"), encoder.predict(world.test_features, "01")
    )


def test_a_saved_model_predicts_the_same(world: World, encoder: Any, tmp_path: Path) -> None:
    encoder.save(tmp_path, {"text": "# Card\n"})
    loaded = type(encoder).load(tmp_path, world.test)
    assert isinstance(loaded, ImageEncoder)
    for subject in ("01", "02"):
        assert_array_equal(
            loaded.predict(world.test_features, subject), encoder.predict(world.test_features, subject)
        )
    assert loaded.history_ == encoder.history_
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob("*.pkl")) + list(tmp_path.glob("*.ckpt"))


def test_a_loaded_model_can_be_saved_again(world: World, encoder: Any, tmp_path: Path) -> None:
    encoder.save(tmp_path / "a")
    type(encoder).load(tmp_path / "a").save(tmp_path / "b")
    twice = type(encoder).load(tmp_path / "b", world.test)
    assert_array_equal(twice.predict(world.test_features, "01"), encoder.predict(world.test_features, "01"))


def test_a_loaded_model_sees_images_if_it_is_given_its_features(
    world: World, encoder: Any, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    images = world.studies[0].stimuli.images(["3", "115"])  # type: ignore[union-attr]
    loaded = type(encoder).load(tmp_path, features=world.features)
    assert_array_equal(loaded.predict(images, "01"), encoder.predict(images, "01"))
    with pytest.raises(
        InputError, match="features 'layer-0': expected a source to read images with; found none"
    ):
        type(encoder).load(tmp_path).predict(images, "01")
    other = TableFeatures("layer-7", np.zeros((2, 9, 12)), Grid(2, 4, has_cls=True))
    with pytest.raises(InputError, match="expected features layer-0, layer-1; found 'layer-7'"):
        type(encoder).load(tmp_path, features=[other])


def test_a_checkpoint_of_another_subject_is_refused_naming_both(
    world: World, encoder: Any, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    stranger = Cohort.of(replace(world.studies[0], subject="07"))
    with pytest.raises(InputError, match=r"\['01', '02'\]; found subjects = \['07'\]"):
        type(encoder).load(tmp_path, stranger)


def test_a_checkpoint_of_another_mask_is_refused_naming_both(
    world: World, encoder: Any, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    exchanged = Cohort.of(replace(world.studies[1], subject="01"))
    with pytest.raises(InputError, match=r"sub-01 with space .*'n_units': 40.*; found .*'n_units': 25"):
        type(encoder).load(tmp_path, exchanged)


def test_an_unfitted_encoder_says_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a fitted encoder; found an unfitted one"):
        world.build().predict(world.test_features)
    with pytest.raises(InputError, match="expected a fitted encoder; found an unfitted one"):
        world.build().save(tmp_path)


def test_a_subject_is_named_where_there_are_several(world: World, encoder: Any) -> None:
    with pytest.raises(InputError, match="`subject`: expected one of 01, 02; found none"):
        encoder.predict(world.test_features)
    with pytest.raises(UnknownName, match="`subject`: expected one of 01, 02; found '07'"):
        encoder.predict(world.test_features, "07")


def test_features_that_lack_or_have_another_shape_are_refused(world: World, encoder: Any) -> None:
    only = {"layer-0": world.test_features["layer-0"]}
    with pytest.raises(InputError, match="features 'layer-1': expected features of these images; found none"):
        encoder.predict(only, "01")
    short = world.test_features | {"layer-1": world.test_features["layer-1"][:3]}
    with pytest.raises(
        InputError, match=r"`features layer-1`: expected shape \(images=20, tokens=5, width=12\)"
    ):
        encoder.predict(short, "01")


def test_fitting_without_features_or_to_one_twice_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="`features`: expected at least one source of features; found none"):
        world.build().fit(world.train, world.validation, [])
    twice = [world.features[0], world.features[0]]
    with pytest.raises(
        InputError, match="`features`: expected sources of different names; found 'layer-0' twice"
    ):
        world.build().fit(world.train, world.validation, twice)


def test_validation_rows_of_other_subjects_are_refused(world: World) -> None:
    other = Cohort((world.studies[1],), (world.validation.rows[1],))
    with pytest.raises(
        InputError, match=r"`validation`: expected subjects = \['01', '02'\]; found subjects = \['02'\]"
    ):
        world.build().fit(world.train, other, world.features)


def test_features_of_another_length_than_the_responses_are_refused(world: World) -> None:
    class Short(TableFeatures):
        def rows(self, stimuli: Any, ids: Any) -> np.ndarray:
            return super().rows(stimuli, ids)[:-1]

    short = Short("short", world.features[0].table.latents, world.features[0].grid)
    with pytest.raises(
        InputError, match=r"`features short`: expected shape \(images=90, .*; found \(89, 9, 12\)"
    ):
        world.build().fit(world.train, world.validation, [short])


def test_no_images_give_no_responses(world: World, encoder: Any) -> None:
    none = {name: rows[:0] for name, rows in world.test_features.items()}
    assert encoder.predict(none, "02").shape == (0, 25)
    assert encoder.predict(np.empty((0, 8, 8, 3), np.uint8), "02").shape == (0, 25)


def test_missing_responses_are_predicted_as_missing_never_as_zero(world: World) -> None:
    study = make_study(world.features[0].table.latents.mean(axis=1, keepdims=True), n_units=6, ncsnr=2.0)
    study = replace(study, space=UnitSpace(6, {"A": np.ones(6, bool)}))
    np.asarray(study.responses)[rows_of(study, 5, 6)[0], 3] = np.nan
    train, validation = (rows_of(study, a, b) for a, b in ((0, 90), (90, 110)))
    model = world.build(folder="missing").fit(
        Cohort.of(study, train), Cohort.of(study, validation), world.features
    )
    predicted = model.predict(world.test_features)
    assert_array_equal(np.isnan(predicted).all(axis=0), [False, False, False, True, False, False])
    assert_array_equal(np.isnan(predicted).any(axis=0), [False, False, False, True, False, False])


def test_responses_in_time_are_predicted_in_time(world: World) -> None:
    flat = make_study(world.features[0].table.latents.mean(axis=1, keepdims=True), n_units=12, ncsnr=2.0)
    study = replace(
        flat,
        responses=(50 * np.asarray(flat.responses) + 7).reshape(-1, 4, 3),
        space=UnitSpace(4, {"front": np.array([True, False, True, False])}),
        noise=None,
    )
    train, validation = (rows_of(study, a, b) for a, b in ((0, 90), (90, 110)))
    model = world.build(folder="times").fit(
        Cohort.of(study, train), Cohort.of(study, validation), world.features
    )
    predicted = model.predict(world.test_features)
    assert predicted.shape == (20, 4, 3)
    truth, found = (array.reshape(20, 12)[:, 1:] for array in (measured(study, 110, 130), predicted))
    assert encoding_r(truth, found).mean() > 0.5
    assert (
        np.square(truth - found).mean() < 0.8 * np.square(truth - truth.mean(axis=0)).mean()
    )  # in the study's units

"""Errors of decoded main objects where the answer can be worked out by hand."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.tiny_eval import TinyEval
from braindecode_suite.metrics.images import as_unit_images, resize
from braindecode_suite.metrics.scenes import MainObjects, scene_errors
from braindecode_suite.metrics.tiny_eval import read_main_objects, tiny_eval_features


def objects(
    category=("cat", "cup"), colour=("red", "blue"), position=((0.5, 0.5), (0.2, 0.8)), size=(0.2, 0.4)
):
    return MainObjects(
        category=np.array(category), colour=np.array(colour), position=np.array(position), size=np.array(size)
    )


def test_errors_are_what_geometry_says():
    decoded = objects(("cat", "dog"), ("green", "blue"), ((0.8, 0.1), (0.2, 0.8)), (0.4, 0.1))
    errors = scene_errors(objects(), decoded)
    assert_array_equal(errors.category_right, [1, 0])
    assert_array_equal(errors.colour_right, [0, 1])
    assert_allclose(errors.position_error, [0.5, 0])
    assert_allclose(errors.size_error, [1, 2])  # twice as large, a quarter as large


def test_perfect_decoding_has_no_error():
    errors = scene_errors(objects(), objects())
    assert errors.category_right.min() == errors.colour_right.min() == 1
    assert errors.position_error.max() == errors.size_error.max() == 0


def test_vanished_object_has_a_large_but_finite_size_error():
    errors = scene_errors(objects(), objects(size=(0.0, -0.1)))
    assert np.isfinite(errors.size_error).all()
    assert errors.size_error.min() > 7


def test_attributes_of_different_lengths_are_refused():
    with pytest.raises(InputError, match=r"`position`: expected shape \(images=2, xy=2\)"):
        objects(position=((0.5, 0.5, 0.1), (0.2, 0.8, 0.1)))
    with pytest.raises(InputError, match="NaN or infinite"):
        objects(size=(0.1, np.nan))
    one = objects(("cat",), ("red",), ((0.5, 0.5),), (0.2,))
    with pytest.raises(InputError, match=r"`decoded.category`: expected shape \(images=2\)"):
        scene_errors(objects(), one)


def test_places_are_compared_where_both_sides_name_them():
    here, there = np.array(["beach", "snow"]), np.array(["beach", "night"])
    fields = {"category": here, "colour": here, "position": np.zeros((2, 2)), "size": np.ones(2)}
    errors = scene_errors(MainObjects(**fields, place=here), MainObjects(**fields, place=there))
    assert_array_equal(errors.place_right, [1, 0])
    assert scene_errors(objects(), objects()).place_right is None


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyEval(["car", "cup", "cat"], ["red", "blue"], ["beach", "snow"], (4, 4, 4), 8).eval()


def test_answers_of_the_network_become_named_attributes(model):
    images = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), dtype=np.uint8)
    found = read_main_objects(images, model)
    with torch.no_grad():
        answers = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    assert_array_equal(found.category, np.array(model.categories)[answers["category"].argmax(1)])
    assert_array_equal(found.colour, np.array(model.colours)[answers["colour"].argmax(1)])
    assert_array_equal(found.place, np.array(model.places)[answers["place"].argmax(1)])
    assert_allclose(found.position, answers["position"], atol=1e-5)
    assert_allclose(found.size, answers["size"], atol=1e-5)


def test_features_do_not_depend_on_the_batch_or_the_number_format(model):
    images = np.random.default_rng(0).integers(0, 256, (130, 64, 64, 3), dtype=np.uint8)
    features = tiny_eval_features(images, model)
    assert features.shape == (130, 8)
    assert_allclose(features[129], tiny_eval_features(images[129:], model)[0], atol=1e-5)
    assert_allclose(features, tiny_eval_features(images / 255, model), atol=1e-5)


def test_pictures_of_another_size_are_brought_to_the_networks_and_grey_ones_refused(model):
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    sized = np.clip(resize(as_unit_images("images", images), 64), 0, 1)
    assert_array_equal(tiny_eval_features(images, model), tiny_eval_features(sized, model))
    with pytest.raises(InputError, match=r"expected shape \(images, height, width, 3\); found \(2, 64, 64\)"):
        read_main_objects(np.zeros((2, 64, 64), np.uint8), model)

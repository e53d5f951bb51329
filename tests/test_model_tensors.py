"""Scalers, routes and grids come back from tensors as they were, and tensors of others beside them do no harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from braindecode_suite.core.features import Grid
from braindecode_suite.learning.model_tensors import (
    add_prefix,
    grid_tensors,
    restore_grids,
    restore_routes,
    restore_target_scalers,
    restore_unit_scaler,
    route_tensors,
    take_prefix,
    target_scaler_tensors,
    unit_scaler_tensors,
)
from braindecode_suite.learning.responses import UnitScaler
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.target_space import TargetScaler, fit_target_scaler


class Halved(UnitScaler):
    """A scaler of another kind."""


def test_a_part_comes_back_under_its_own_names_and_without_the_others():
    part = {"a.weight": torch.ones(2), "network.b": torch.zeros(1)}
    beside = {"network": torch.zeros(3), "mean": torch.zeros(3)}
    assert take_prefix("network.", add_prefix("network.", part) | beside) == part


def test_a_unit_scaler_comes_back_as_the_kind_that_is_asked_for():
    rng = np.random.default_rng(0)
    scaler = UnitScaler(*rng.standard_normal((2, 5)).astype(np.float32))
    tensors = unit_scaler_tensors(scaler) | {"recipe.mean": torch.zeros(5)}
    again = restore_unit_scaler(tensors, Halved)
    assert type(again) is Halved
    assert_array_equal(again.mean, scaler.mean)
    assert_array_equal(again.gain, scaler.gain)


def test_a_target_scaler_comes_back_with_one_scale_or_with_many_to_the_last_bit():
    latents = np.random.default_rng(0).standard_normal((20, 3, 4)).astype(np.float32)
    one, many = fit_target_scaler(latents), fit_target_scaler(latents, each_dimension=True)
    tensors = target_scaler_tensors({"retrieval": one, "image": many})
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {
        "target.retrieval.mean": (3, 4),
        "target.retrieval.scale": (1,),
        "target.image.mean": (3, 4),
        "target.image.scale": (3, 4),
    }
    assert tensors["target.retrieval.scale"].dtype == torch.float64
    again = restore_target_scalers(tensors, ["retrieval", "image"])
    assert isinstance(again["retrieval"].scale, float)
    assert again["retrieval"].scale == one.scale
    assert_array_equal(again["image"].scale, many.scale)
    for role, scaler in {"retrieval": one, "image": many}.items():
        assert_array_equal(again[role].apply(latents), scaler.apply(latents))


def test_only_the_roles_asked_for_are_restored():
    scaler = TargetScaler(np.zeros((1, 2), np.float32), 1.0)
    assert list(restore_target_scalers(target_scaler_tensors({"a": scaler, "b": scaler}), ["b"])) == ["b"]


@pytest.mark.parametrize("mixing", [None, np.eye(2, dtype=np.float32)])
def test_routes_come_back_with_and_without_mixing(mixing):
    routes = Routes(("V1", "V2"), np.array([0, 1, -1, 1]), mixing)
    again = restore_routes(route_tensors(routes), ["V1", "V2"])
    assert again.names == routes.names
    assert_array_equal(again.segment, routes.segment)
    if mixing is None:
        assert again.mixing is None
    else:
        assert_array_equal(again.mixing, mixing)


def test_grids_come_back_with_and_without_padding():
    seen = np.array([[True, True, False], [True, False, False]])
    grids = {"whole": Grid(2, 2, has_cls=True), "padded": Grid(2, 3, seen=seen), "pooled": Grid(0, 0, True)}
    again = restore_grids(grid_tensors(grids), {name: grid.describe() for name, grid in grids.items()})
    assert list(again) == list(grids)
    for name, grid in grids.items():
        assert again[name].describe() == grid.describe()
    assert again["whole"].seen is None
    assert again["padded"].seen.dtype == bool
    assert_array_equal(again["padded"].seen, seen)

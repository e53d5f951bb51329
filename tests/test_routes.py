"""Which query speaks for which unit, for every kind of space."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.spaces import ParcelSpace, SurfaceSpace, UnitSpace, VoxelSpace
from braindecode_suite.learning.routes import NSD_ROIS, STREAMS, find_hemispheres, route_units


def member(n, *units):
    return np.isin(np.arange(n), units)


@pytest.fixture
def table():
    """Six units: A has 0 1 2, B has 2 3, C is empty, 4 and 5 lie in none."""
    return UnitSpace(6, {"A": member(6, 0, 1, 2), "B": member(6, 2, 3), "C": member(6)})


@pytest.fixture
def surface():
    """Three vertices on the left, four on the right; V1v on both sides, FFA-2 on the right only."""
    rois = {"V1v": member(7, 0, 3, 4), "FFA-2": member(7, 5), "mTL-faces": member(7), "lobe": member(7, 1)}
    return SurfaceSpace(member(5, 0, 2, 4), member(5, 0, 1, 2, 3), rois, "toy")


def test_a_unit_in_two_regions_is_read_from_the_first(table):
    routes = route_units(table)
    assert routes.names == ("A", "B", "rest")
    assert_array_equal(routes.segment, [0, 0, 0, 1, 2, 2])
    assert_array_equal(routes.sizes, [3, 1, 2])
    assert routes.mixing is None
    assert_array_equal(route_units(table, rois=["B", "A"]).segment, [1, 1, 0, 0, 2, 2])


@pytest.mark.parametrize(("overlap", "both"), [("mean", [0.5, 0.5, 0]), ("sum", [1, 1, 0])])
def test_or_from_the_mean_or_the_sum_of_their_tokens(table, overlap, both):
    routes = route_units(table, overlap=overlap)
    assert routes.names == ("A", "B", "rest")
    assert_array_equal(routes.mixing[routes.segment[2]], both)
    assert_array_equal(
        routes.mixing[routes.segment], [[1, 0, 0], [1, 0, 0], both, [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    )


def test_a_region_that_is_empty_or_taken_by_others_has_no_query(table):
    assert "C" not in route_units(table).names
    assert "C" not in route_units(table, overlap="sum").names
    inside = UnitSpace(3, {"whole": np.ones(3, bool), "part": member(3, 1)})
    assert route_units(inside).names == ("whole",)
    assert route_units(inside, overlap="mean").names == ("whole", "part")


def test_units_in_no_region_may_be_left_out(table):
    routes = route_units(table, rest=False)
    assert routes.names == ("A", "B")
    assert_array_equal(routes.modelled, [1, 1, 1, 1, 0, 0])


def test_units_that_are_not_alive_have_no_query(table):
    routes = route_units(table, alive=member(6, 0, 1, 2, 4))
    assert routes.names == ("A", "rest")
    assert_array_equal(routes.segment, [0, 0, 0, -1, 1, -1])


def test_hemispheres_have_queries_of_their_own(surface):
    routes = route_units(surface)
    assert routes.names == ("lh.V1v", "lh.rest", "rh.V1v", "rh.FFA-2", "rh.rest")
    assert_array_equal(routes.segment, [0, 1, 1, 2, 2, 3, 4])
    assert route_units(surface, hemispheres=False).names == ("V1v", "FFA-2", "rest")
    assert_array_equal(route_units(surface, queries="hemispheres").segment, [0, 0, 0, 1, 1, 1, 1])


def test_a_volume_is_cut_at_x_0_of_its_affine():
    affine = np.diag([-2.0, 2, 2, 1])
    affine[0, 3] = 3.0  # x of the first index is 3, then 1, -1, -3
    mask = np.zeros((4, 2, 1), bool)
    mask[[0, 1, 2, 3], [1, 0, 0, 1]] = True
    sides = find_hemispheres(VoxelSpace(mask, affine))
    assert_array_equal(sides["lh"], [0, 0, 1, 1])
    assert_array_equal(sides["rh"], [1, 1, 0, 0])


def test_regions_lh_and_rh_of_any_space_are_hemispheres():
    space = UnitSpace(4, {"lh": member(4, 0, 1), "rh": member(4, 2, 3), "A": member(4, 1, 2)})
    routes = route_units(space)
    assert routes.names == ("lh.A", "lh.rest", "rh.A", "rh.rest")
    assert find_hemispheres(UnitSpace(4)) == {}


def test_the_papers_regions_are_the_default_and_streams_are_asked_for(surface):
    assert len(NSD_ROIS) == len(set(NSD_ROIS)) == 24
    assert "lh.lobe" not in route_units(surface).names
    assert "lh.lobe" in route_units(surface, rois=["lobe"]).names
    space = UnitSpace(3, {"early": member(3, 0), "ventral": member(3, 2), "V1v": member(3, 0)})
    assert route_units(space, queries="streams").names == ("early", "ventral", "rest")
    assert set(STREAMS) >= {"early", "ventral"}


def test_units_parcels_channels_and_times():
    units = UnitSpace(3)
    assert_array_equal(route_units(units, queries="units").segment, [0, 1, 2])
    parcels = ParcelSpace("toy", ("p", "q", "r"), 1.0)
    assert route_units(parcels, queries="parcels", alive=member(3, 0, 2)).names == ("p", "r")
    channels = route_units(units, 2, queries="channels")
    assert_array_equal(channels.segment, [0, 0, 1, 1, 2, 2])
    times = route_units(units, 2, queries="times")
    assert times.names == ("time-0", "time-1")
    assert_array_equal(times.segment, [0, 1, 0, 1, 0, 1])
    both = route_units(units, 2, queries="units")
    assert both.names[:2] == ("unit-0.time-0", "unit-0.time-1")
    assert_array_equal(both.segment, np.arange(6))


def test_a_region_of_channels_has_all_their_times():
    space = UnitSpace(3, {"front": member(3, 0, 2)})
    assert_array_equal(route_units(space, 2).segment, [0, 0, 1, 1, 0, 0])


def test_what_cannot_be_routed_is_refused(table, surface):
    with pytest.raises(UnknownName, match="`roi`: expected one of A, B, C; found 'D'"):
        route_units(table, rois=["A", "D"])
    with pytest.raises(UnknownName, match=r"`queries`: expected one of .*; found 'lobes'"):
        route_units(table, queries="lobes")
    with pytest.raises(UnknownName, match="`overlap`"):
        route_units(table, overlap="last")
    with pytest.raises(InputError, match="expected a space with regions, for 'rois'; found none"):
        route_units(UnitSpace(3))
    with pytest.raises(InputError, match="expected a space with regions, for 'streams'; found none"):
        route_units(table, queries="streams")
    with pytest.raises(InputError, match="expected a space of parcels, for 'parcels'; found UnitSpace"):
        route_units(table, queries="parcels")
    with pytest.raises(InputError, match="expected a space that tells hemispheres apart; found UnitSpace"):
        route_units(table, queries="hemispheres")
    with pytest.raises(InputError, match="`rois`: expected regions with units; found none"):
        route_units(table, rois=["C"], rest=False)
    with pytest.raises(InputError, match="expected at least one unit to model; found none"):
        route_units(table, queries="units", alive=np.zeros(6, bool))
    with pytest.raises(InputError, match=r"`alive`: expected shape \(units=6\)"):
        route_units(table, alive=np.ones(5, bool))

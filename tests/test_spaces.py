"""Surfaces and parcels: which unit lies where, there and back."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import ParcelSpace, Space, SurfaceSpace, select_rois
from braindecode_suite.workflows.results import SubjectResults, stage


def surface() -> SurfaceSpace:
    left, right = np.zeros(642, bool), np.zeros(642, bool)
    left[[3, 10, 600]] = True
    right[[0, 641]] = True
    return SurfaceSpace(left, right, {"V1": np.array([True, False, False, False, True])}, "fsaverage3")


def test_values_go_to_their_vertex_and_come_back_as_gifti(tmp_path):
    space = surface()
    assert isinstance(space, Space)
    images = space.inverse_transform(np.array([1.0, 2, 3, 4, 5]))
    for side, image in images.items():
        nib.save(image, tmp_path / f"{side}.func.gii")
    left = nib.load(tmp_path / "left.func.gii")
    right = nib.load(tmp_path / "right.func.gii")
    assert left.meta["AnatomicalStructurePrimary"] == "CortexLeft"
    assert right.meta["AnatomicalStructurePrimary"] == "CortexRight"
    assert_array_equal(left.darrays[0].data[[3, 10, 600]], [1, 2, 3])
    assert_array_equal(right.darrays[0].data[[0, 641]], [4, 5])
    assert np.isnan(left.darrays[0].data).sum() == 639
    maps = space.inverse_transform(np.arange(10.0).reshape(2, 5))
    assert [array.data[600] for array in maps["left"].darrays] == [2, 7]


def test_a_surface_names_its_vertices():
    space, other = surface(), surface()
    other.left[3], other.left[4] = False, True
    assert space.describe()["hash"] == surface().describe()["hash"] != other.describe()["hash"]
    assert space.describe()["vertices"] == [642, 642]
    assert_array_equal(select_rois(space, ["V1"]), [True, False, False, False, True])


def test_wrong_surfaces_and_values_are_refused():
    with pytest.raises(InputError, match="`left`: expected 163842 vertices, as fsaverage has; found 642"):
        SurfaceSpace(np.ones(642, bool), np.ones(642, bool))
    with pytest.raises(InputError, match="`right`: expected booleans; found int64"):
        SurfaceSpace(np.ones(4, bool), np.ones(4, int), mesh="own")
    with pytest.raises(InputError, match=r"units=5\); found \(4,\)"):
        surface().inverse_transform(np.zeros(4))


def parcels() -> ParcelSpace:
    volume = np.zeros((2, 3, 1), np.int64)
    volume[0, 1, 0], volume[1, 2, 0], volume[1, 1, 0] = 2, 3, 1
    return ParcelSpace("three", ("a", "b", "c"), 0.72, volume=volume, affine=np.diag([2.0, 2, 2, 1]))


def test_parcels_go_back_to_their_voxels():
    space = parcels()
    assert isinstance(space, Space)
    image = np.asarray(space.inverse_transform(np.array([10.0, 20, 30])).dataobj)
    assert_array_equal(image[:, :, 0], [[0, 20, 0], [0, 10, 30]])
    maps = np.asarray(space.inverse_transform(np.array([[1.0, 2, 3], [4, 5, 6]])).dataobj)
    assert_array_equal(maps[1, 2, 0], [3, 6])


def test_order_and_time_are_part_of_what_parcels_are():
    space = parcels()
    slower = ParcelSpace("three", ("a", "b", "c"), 2.0)
    turned = ParcelSpace("three", ("b", "a", "c"), 0.72)
    assert len({s.describe()["hash"] for s in (space, slower, turned)}) == 3


def test_wrong_parcels_are_refused():
    with pytest.raises(InputError, match="`labels`: expected one name for each parcel; found 'a' twice"):
        ParcelSpace("two", ("a", "a"), 1.0)
    with pytest.raises(InputError, match="`repetition_time`: expected seconds above 0; found 0"):
        ParcelSpace("two", ("a", "b"), 0)
    with pytest.raises(InputError, match="`volume`: expected values from 0 to 2, one a parcel; found 3"):
        ParcelSpace("two", ("a", "b"), 1.0, volume=np.full((1, 1, 1), 3), affine=np.eye(4))
    with pytest.raises(InputError, match="expected the volume of two; found none"):
        ParcelSpace("two", ("a", "b"), 1.0).inverse_transform(np.zeros(2))


def test_maps_of_results_are_written_where_their_units_lie(tmp_path):
    on_surface = SubjectResults(maps={"weight": np.arange(5.0)}, space=surface())
    stage(on_surface, tmp_path, "01", "test")
    left = nib.load(tmp_path / "sub-01/decoding/sub-01_desc-test_hemi-L_stat-weight_statmap.shape.gii")
    assert_array_equal(left.darrays[0].data[[3, 10, 600]], [0, 1, 2])
    in_parcels = SubjectResults(maps={"weight": np.array([1.0, 2, 3])}, space=parcels())
    stage(in_parcels, tmp_path / "other", "01", "test")
    image = nib.load(tmp_path / "other/sub-01/decoding/sub-01_desc-test_stat-weight_statmap.nii.gz")
    assert np.asarray(image.dataobj)[0, 1, 0] == 2

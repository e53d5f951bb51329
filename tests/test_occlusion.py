"""What is lost with sensors: drops of a linear decoder in closed form, neighbours by hand, intervals and bad input."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import KDTree

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.occlusion import neighbourhoods, occlude

SENSORS, IMAGES = 12, 200


@pytest.fixture(scope="module")
def positions():
    return np.random.default_rng(0).random((SENSORS, 2))


@pytest.fixture(scope="module")
def read():
    """Score of each image is what its sensors add up to: sensors 3 and 4 are read, the others are not."""
    weights = np.zeros(SENSORS)
    weights[[3, 4]] = 2.0, 1.0
    return (1 + 0.3 * np.random.default_rng(1).standard_normal((IMAGES, SENSORS))) * weights


def test_the_drop_is_what_the_group_added(read, positions):
    groups = neighbourhoods(positions, n_nearest=3)
    found = occlude(lambda gone: read[:, ~gone].sum(axis=1), groups, seed=0)
    assert_allclose(found.drop, (read @ groups.T).T, atol=1e-12)
    assert_allclose(found.mean, found.drop.mean(axis=1))
    assert_allclose(found.score, read.sum(axis=1))


def test_only_groups_that_are_read_have_a_band_above_zero(read):
    noise = np.random.default_rng(2)

    def score(gone):
        return read[:, ~gone].sum(axis=1) + 0.2 * noise.standard_normal(IMAGES)

    found = occlude(score, np.eye(SENSORS, dtype=bool), seed=0)
    assert_array_equal(np.flatnonzero(found.band_low > 0), [3, 4])
    assert (found.band_low < found.low).all()
    assert ((found.low < found.mean) & (found.mean < found.high) & (found.high < found.band_high)).all()


def test_the_topography_is_the_mean_over_the_groups_of_a_sensor(read):
    groups = np.zeros((3, SENSORS), bool)
    groups[0, [2, 3]] = groups[1, [3, 4]] = True
    found = occlude(lambda gone: read[:, ~gone].sum(axis=1), groups, seed=0)
    topography = found.topography
    assert topography[2] == pytest.approx(found.mean[0])
    assert topography[3] == pytest.approx((found.mean[0] + found.mean[1]) / 2)
    assert topography[4] == pytest.approx(found.mean[1])
    assert np.isnan(topography[0])


def test_an_empty_group_is_not_scored(read):
    calls = []
    groups = np.zeros((2, SENSORS), bool)
    groups[1, 3] = True

    def score(gone):
        calls.append(gone.sum())
        return read[:, ~gone].sum(axis=1)

    found = occlude(score, groups, seed=0)
    assert calls == [0, 1]
    assert np.isnan(found.mean[0])
    assert np.isnan(found.band_high[0])
    assert found.band_low[1] > 1.9


def test_neighbours_are_those_of_a_tree(positions):
    near = neighbourhoods(positions, radius=0.3)
    tree = KDTree(positions)
    for k, members in enumerate(tree.query_ball_point(positions, 0.3)):
        assert_array_equal(np.flatnonzero(near[k]), sorted(members))
    _, places = tree.query(positions, k=4)
    nearest = neighbourhoods(positions, n_nearest=4)
    for k in range(SENSORS):
        assert_array_equal(np.flatnonzero(nearest[k]), sorted(places[k]))


def test_absent_sensors_are_nobodys_neighbours(positions):
    holed = positions.copy()
    holed[5] = np.nan
    for near in (neighbourhoods(holed, radius=10.0), neighbourhoods(holed, n_nearest=3)):
        assert not near[5].any()
        assert not near[:, 5].any()
        assert near[0, 0]
    assert neighbourhoods(holed, radius=10.0).sum() == (SENSORS - 1) ** 2


def test_sensors_at_one_place_stay_together(positions):
    triplets = np.repeat(positions, 3, axis=0)
    assert (neighbourhoods(triplets, n_nearest=1).sum(axis=1) == 3).all()


def test_bad_groups_and_scores_are_refused(read, positions):
    one = np.eye(SENSORS, dtype=bool)[:1]
    with pytest.raises(InputError, match="true or false"):
        occlude(lambda gone: read[:, 0], np.eye(SENSORS), seed=0)
    with pytest.raises(InputError, match="group 0 of all 12"):
        occlude(lambda gone: read[:, 0], np.ones((1, SENSORS), bool), seed=0)
    with pytest.raises(InputError, match="images=200"):
        occlude(lambda gone: read[gone.sum() :, 0], one, seed=0)
    with pytest.raises(InputError, match="finite values"):
        occlude(lambda gone: read[:, 0] * np.nan, one, seed=0)
    with pytest.raises(InputError, match="one of the two"):
        neighbourhoods(positions)
    with pytest.raises(InputError, match="`radius`"):
        neighbourhoods(positions, radius=-1.0)
    with pytest.raises(InputError, match="from 1 to the 12 sensors"):
        neighbourhoods(positions, n_nearest=13)

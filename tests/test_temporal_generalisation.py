"""Maps of one window tried on another: the matrix, its diagonal, and codes whose behaviour is known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.retrieval import relative_rank, top_k_random_gallery
from braindecode_suite.metrics.temporal_generalisation import generalise, off_diagonal, score_ranks
from braindecode_suite.metrics.time_courses import time_course

GALLERY, WINDOWS = 50, 6
CENTRES = np.arange(WINDOWS) / 10 - 0.15


def ranks_of(rng, decoded):
    """Draw ranks: first where decoded, anywhere elsewhere."""
    ranks = rng.integers(0, GALLERY, (*decoded.shape, 200))
    ranks[decoded] = 0
    return ranks


def test_scores_are_those_of_retrieval_whatever_the_shape():
    ranks = np.random.default_rng(0).integers(0, GALLERY, (2, 3, 40))
    exact = score_ranks(ranks, GALLERY, k=2, gallery_size=10)
    relative = score_ranks(ranks, GALLERY, score="relative-rank")
    for i, j in np.ndindex(2, 3):
        assert_allclose(exact[i, j], top_k_random_gallery(ranks[i, j], GALLERY, 10, 2))
        assert_allclose(relative[i, j], 1 - relative_rank(ranks[i, j], GALLERY))


def test_the_diagonal_is_the_course():
    rng = np.random.default_rng(1)
    ranks = rng.integers(0, GALLERY, (WINDOWS, WINDOWS, 200))
    found = generalise(ranks, CENTRES, GALLERY, k=5, seed=7)
    course = time_course(found.course, CENTRES, chance=found.chance, seed=7)
    own = np.arange(WINDOWS)
    assert found.chance == pytest.approx(0.1)
    assert_array_equal(found.course, np.stack([ranks[k, k] < 5 for k in own]))
    assert_allclose(np.diagonal(found.mean), course.mean)
    assert_allclose(found.low[own, own], course.low)  # the same draws of images
    assert_allclose(found.high[own, own], course.high)


def test_maps_are_rows_and_samples_columns():
    decoded = np.zeros((WINDOWS, WINDOWS), bool)
    decoded[2, 4] = True
    mean = generalise(ranks_of(np.random.default_rng(2), decoded), CENTRES, GALLERY, seed=0).mean
    assert mean[2, 4] == 1.0
    assert mean[4, 2] < 0.1


@pytest.mark.parametrize(("code", "share"), [("still", 1.0), ("chain", 0.0)])
def test_codes_that_hold_still_generalise_and_chains_do_not(code, share):
    after = CENTRES > 0
    decoded = np.outer(after, after) if code == "still" else np.diag(after)
    found = generalise(ranks_of(np.random.default_rng(3), decoded), CENTRES, GALLERY, k=5, seed=0)
    interval = off_diagonal(found, seed=0)
    assert interval.value == pytest.approx(share, abs=0.02)
    assert interval.low - 1e-9 <= share <= interval.high + 1e-9


def test_windows_that_overlap_do_not_count_as_different():
    near = np.abs(np.subtract.outer(CENTRES, CENTRES)) < 0.11
    found = generalise(ranks_of(np.random.default_rng(5), near), CENTRES, GALLERY, k=5, seed=0)
    assert off_diagonal(found, start=-1, seed=0).value > 0.3
    assert off_diagonal(found, start=-1, apart=0.2, seed=0).value == pytest.approx(0.0, abs=0.02)
    with pytest.raises(InputError, match="`apart`"):
        off_diagonal(found, start=-1, apart=2.0, seed=0)


def test_where_nothing_is_decoded_nothing_generalises():
    found = generalise(ranks_of(np.random.default_rng(4), np.zeros((6, 6), bool)), CENTRES, GALLERY, seed=0)
    assert np.isnan(off_diagonal(found, seed=0).value)


def test_bad_ranks_are_refused():
    with pytest.raises(InputError, match="from 0 to 49"):
        score_ranks([50], GALLERY)
    with pytest.raises(InputError, match="whole numbers"):
        score_ranks([0.5], GALLERY)
    with pytest.raises(InputError, match="trained=6, tested=6"):
        generalise(np.zeros((6, 5, 3), int), CENTRES, GALLERY, seed=0)
    found = generalise(np.zeros((6, 6, 3), int), CENTRES, GALLERY, seed=0)
    with pytest.raises(InputError, match="at least 2 windows"):
        off_diagonal(found, start=0.3, seed=0)

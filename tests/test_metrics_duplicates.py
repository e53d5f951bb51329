"""Near-duplicate detection on drawn images with planted copies, and against a loop."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from PIL import Image

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.duplicates import (
    hamming,
    near_duplicate_ids,
    near_duplicates,
    perceptual_hashes,
)

HASHES = arrays(np.uint64, st.integers(1, 5), elements=st.integers(0, 2**64 - 1))


def pictures(n, size=64, seed=0):
    """Smooth random pictures, each of its own."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC)) for c in coarse]


@given(HASHES, HASHES)
def test_hamming_counts_differing_bits(first, second):
    expected = [[(int(a) ^ int(b)).bit_count() for b in second] for a in first]
    assert_array_equal(hamming(first, second), expected)


def test_scaled_and_brightened_copies_are_found_and_other_images_are_not():
    test, train = pictures(20), pictures(100, seed=1)
    train[40] = np.asarray(Image.fromarray(test[3]).resize((200, 200)))
    train[77] = (test[11] * 0.9).astype(np.uint8)
    pairs = near_duplicates(perceptual_hashes(test), perceptual_hashes(train))
    assert_array_equal(pairs, [[3, 40], [11, 77]])


def test_ids_of_pairs_across_a_split_are_named():
    test, train = pictures(3), pictures(5, seed=1)
    train[4] = test[1]
    found = near_duplicate_ids(
        ["a", "b", "c"], perceptual_hashes(test), ["v", "w", "x", "y", "z"], perceptual_hashes(train)
    )
    assert found == [("b", "z")]


def test_pairs_within_a_set_are_listed_once_and_nothing_is_its_own_duplicate():
    images = pictures(6)
    images[5] = images[2]
    assert_array_equal(near_duplicates(perceptual_hashes(images)), [[2, 5]])


def test_blocks_do_not_change_the_pairs():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2**63, n).astype(np.uint64) for n in (700, 300))
    second[:50] = first[600:650] ^ np.uint64(0b111)
    pairs = near_duplicates(first, second, max_distance=3)
    assert_array_equal(pairs, np.stack([np.arange(600, 650), np.arange(50)], axis=1))


def test_ten_thousand_by_a_thousand_takes_seconds_at_most():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2**63, n).astype(np.uint64) for n in (1000, 10_000))
    start = time.process_time()
    near_duplicates(first, second)
    assert time.process_time() - start < 10


def test_wrong_images_and_lengths_are_refused():
    with pytest.raises(InputError, match=r"uint8 arrays of shape .* found float64 of shape \(8, 8\)"):
        perceptual_hashes([np.zeros((8, 8))])
    hashes = perceptual_hashes(pictures(2))
    with pytest.raises(InputError, match="between 0 and 63 bits; found 64"):
        near_duplicates(hashes, max_distance=64)
    with pytest.raises(InputError, match=r"`train_hashes`: expected shape \(images=1\)"):
        near_duplicate_ids(["a", "b"], hashes, ["c"], hashes)

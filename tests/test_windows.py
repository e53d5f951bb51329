from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.windows import growing_windows, sliding_windows, window_matrix

TIMES = np.arange(-50, 101) / 100  # -0.5 to 1.0 s


def test_windows_of_the_paper_are_named_by_their_centre():
    windows = sliding_windows(TIMES, width=0.1, stride=0.025)
    assert {w.stop - w.first for w in windows} == {10}
    assert np.allclose(np.diff([w.centre for w in windows]), 0.02)  # 25 ms are 2 samples of 10 ms, rounded
    assert windows[0].time_start == -0.5
    assert windows[0].centre == pytest.approx(-0.45)
    assert all(np.isclose(TIMES[w.first], w.time_start) for w in windows)
    assert windows[-1].stop <= len(TIMES)


def test_the_first_window_after_the_picture_holds_no_sample_before_it():
    first = next(w for w in sliding_windows(TIMES) if w.time_start >= 0)
    assert TIMES[first.first] == 0


def test_growing_windows_share_their_start_and_end_with_the_epoch():
    windows = growing_windows(TIMES, start=0.0, first=0.1, stride=0.1)
    assert {w.first for w in windows} == {50}
    assert [w.stop for w in windows] == list(range(60, 152, 10))
    assert windows[0].time_stop == pytest.approx(0.1)
    assert growing_windows(TIMES, first=0.1)[0].first == 0


def test_a_window_lies_side_by_side_and_a_masked_sensor_is_the_middle():
    epochs = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    epochs[1, 2] = np.nan
    window = sliding_windows(np.arange(5) / 10, width=0.2, stride=0.1)[1]
    found = window_matrix(epochs, window)
    assert found.tolist() == [[1, 2, 6, 7, 11, 12], [16, 17, 21, 22, 0, 0]]


def test_a_window_of_some_rows_takes_the_memory_of_the_window_not_of_the_epochs():
    epochs = np.arange(400 * 10 * 500, dtype=np.float32).reshape(400, 10, 500)
    window, rows = sliding_windows(np.arange(500) / 100, width=0.1)[7], np.arange(399, 0, -2)
    tracemalloc.start()
    found = window_matrix(epochs, window, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, window_matrix(epochs[rows], window))
    assert peak < 5 * found.nbytes < epochs.nbytes / 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sliding_windows(TIMES, width=2.0), "`width`: expected at most the epoch's 1.51 s"),
        (lambda: sliding_windows(TIMES, stride=0.0), "`stride`: expected seconds above 0"),
        (lambda: sliding_windows(TIMES[:1]), "`times`: expected at least 2 samples"),
        (lambda: growing_windows(TIMES, start=0.95, first=0.1), "`first`: expected at most 0.06 s"),
        (
            lambda: window_matrix(np.zeros((2, 3, 4)), sliding_windows(TIMES)[0]),
            "`window`: expected at most 4 samples",
        ),
    ],
)
def test_windows_that_do_not_fit_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

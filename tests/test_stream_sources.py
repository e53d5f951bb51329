"""Sources of streams: a replayed file on a clock of its own, faults on purpose, LSL on loopback; clocks and the ring buffer."""

from __future__ import annotations

import importlib.util
import os
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.ring import RingBuffer
from braindecode_suite.core.stream import Chunk, Marker, StreamFacts, StreamSource, match_channels
from braindecode_suite.core.stream_clock import StreamClock
from braindecode_suite.datasets.stream_file import Faults, FileSource, open_recording, replay_raw

SHARED_DATA = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "meg"
FACTS = StreamFacts("array", ("a", "b"), 1000.0)
DATA = np.random.default_rng(0).standard_normal((2, 1005))
NEEDS_LSL = pytest.mark.skipif(importlib.util.find_spec("mne_lsl") is None, reason="mne-lsl is not installed")


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def make_source(markers=(), **options) -> FileSource:
    return FileSource(lambda start, stop: DATA[:, start:stop], FACTS, DATA.shape[1], markers, **options)


def read_all(source: StreamSource) -> list[Chunk]:
    chunks = []
    while (chunk := source.read(1.0)) is not None:
        chunks.append(chunk)
    return chunks


@pytest.mark.parametrize("chunk", [1, 30, 1000, 5000])
def test_a_replay_hands_out_every_sample_once_in_order(chunk):
    source = make_source(chunk=chunk)
    chunks = read_all(source)
    assert isinstance(source, StreamSource)
    assert source.ended
    assert_array_equal(np.concatenate([c.data for c in chunks], axis=1), DATA)
    assert_allclose(np.concatenate([c.timestamps for c in chunks]), np.arange(1005) / 1000)
    assert [c.first for c in chunks] == list(range(0, 1005, chunk))


def test_at_twice_the_speed_a_chunk_is_there_when_its_last_sample_would_be():
    clock = Clock()
    source = make_source(chunk=100, speed=2.0, clock=clock, sleep=clock.sleep)
    arrived = [chunk.arrived - 100.0 for chunk in read_all(source)]
    assert_allclose(arrived, np.array([*range(100, 1001, 100), 1005]) / 2000, atol=1e-9)


def test_nothing_comes_before_it_is_due():
    clock = Clock()
    source = make_source(chunk=100, speed=1.0, clock=clock, sleep=clock.sleep)
    assert source.read(0.04) is None
    assert source.read(0.04) is None
    assert source.read(0.04) is not None
    assert clock.now == pytest.approx(100.1)


def test_a_late_reader_finds_chunks_waiting_and_a_very_late_one_holds_the_clock_back():
    clock = Clock()
    source = make_source(chunk=100, speed=1.0, clock=clock, sleep=clock.sleep)
    source.read(1.0)
    clock.now += 0.35
    assert [source.read(0.0) is not None for _ in range(5)] == [True, True, True, False, False]
    assert source.held == 0
    clock.now += 10.0
    assert source.read(0.0) is not None
    assert source.held == pytest.approx(10.45 - 0.5 - 2.0)
    chunks = read_all(source)
    assert chunks[-1].first == 1000  # nothing was lost


def test_a_marker_comes_with_the_chunk_of_its_sample():
    source = make_source([Marker(0.25, "late"), Marker(0.0999, "early")], chunk=100)
    found = {chunk.first: chunk.markers for chunk in read_all(source) if chunk.markers}
    assert found == {0: (Marker(0.0999, "early"),), 200: (Marker(0.25, "late"),)}


def test_faults_drop_chunks_set_clocks_and_stop():
    chunks = read_all(make_source(chunk=100, faults=Faults(dropped=(2, 3), jumps={5: 1.5}, stop=7)))
    assert [chunk.first for chunk in chunks] == [0, 100, 400, 500, 600]
    assert_allclose([chunk.timestamps[0] for chunk in chunks], [0, 0.1, 0.4, 2.0, 2.1])
    source = make_source(chunk=100, faults=Faults(stop=1))
    source.read(0.1)
    assert source.read(0.1) is None
    assert not source.ended


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, r"`chunk`: expected at least 1 sample; found 0"),
        ({"speed": 0.0}, r"`speed`: expected a number above 0, or None; found 0.0"),
    ],
)
def test_impossible_replays_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_source(**options)


def test_what_is_no_recording_is_refused_with_what_the_reader_says(tmp_path):
    with pytest.raises(InputError, match=r"nothing.fif: expected a recording; found nothing there"):
        open_recording(tmp_path / "nothing.fif")
    (tmp_path / "half_meg.fif").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match=r"half_meg.fif: expected a continuous recording that mne can read"):
        open_recording(tmp_path / "half_meg.fif")
    with pytest.raises(InputError, match=r"markers: expected a stream of regular samples; found 0"):
        StreamFacts("markers", ("a",), 0.0)


@pytest.mark.parametrize("counts", [True, False])
def test_missing_samples_are_told_from_a_clock_that_jumps(counts):
    clock = Clock()
    faults = Faults(dropped=(3,), jumps={6: 2.0, 8: -1.0}, counts=counts)
    source = make_source(chunk=100, speed=1.0, clock=clock, sleep=clock.sleep, faults=faults)
    watch, events, firsts = StreamClock(1000.0), [], []
    for chunk in read_all(source):
        first, happened = watch.take(chunk)
        firsts.append(first)
        events += [(e.kind, e.sample, e.samples, round(e.seconds, 3)) for e in happened]
    assert events == [("gap", 400, 100, 0.1), ("jump", 600, 0, 2.0), ("jump", 800, 0, -1.0)]
    assert firsts == [0, 100, 200, 400, 500, 600, 700, 800, 900, 1000]
    assert (watch.n_missing, watch.n_jumps, watch.next) == (100, 2, 1005)


def test_samples_that_come_twice_are_told():
    watch = StreamClock(1000.0)
    watch.take(Chunk(DATA[:, :100], np.arange(100) / 1000, 0.0, 50))
    first, (event,) = watch.take(Chunk(DATA[:, 90:120], np.arange(90, 120) / 1000, 0.1, 140))
    assert (first, event.kind, event.samples, watch.next) == (90, "overlap", -10, 120)


def test_drift_is_the_slope_of_arrivals_on_samples():
    rng = np.random.default_rng(1)
    watch = StreamClock(1000.0)
    stops, arrived = np.arange(1, 2001) * 25, np.arange(1, 2001) * 0.025 * (1 + 80e-6) + 7.0
    arrived = arrived + 0.0005 * rng.standard_normal(2000)
    assert np.isnan(watch.drift)
    for stop, at in zip(stops, arrived, strict=True):
        watch.take(Chunk(np.zeros((1, 25)), np.arange(stop - 25, stop) / 1000, at, int(stop - 25)))
    slope = np.polyfit(stops / 1000, arrived, 1)[0]
    assert watch.drift == pytest.approx((slope - 1) * 1e6, rel=1e-6)
    assert watch.drift == pytest.approx(80, abs=5)


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 15), max_size=12), capacity=st.integers(1, 12))
def test_the_ring_holds_the_newest_samples_with_their_times(sizes, capacity):
    ring, whole = RingBuffer(2, capacity), DATA[:, : sum(sizes)]
    for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
        ring.push(DATA[:, stop - size : stop], np.arange(stop - size, stop) / 10)
    assert (ring.start, ring.stop) == (max(sum(sizes) - capacity, 0), sum(sizes))
    assert_array_equal(ring.read(ring.start, ring.stop), whole[:, ring.start :])
    assert_allclose(ring.read_times(ring.start, ring.stop), np.arange(ring.start, ring.stop) / 10)


def test_the_ring_refuses_what_it_does_not_hold():
    ring = RingBuffer(1, 4)
    ring.push(np.zeros((1, 6)), np.zeros(6))
    with pytest.raises(InputError, match=r"ring buffer: expected samples between 2 and 6; found 1 to 3"):
        ring.read(1, 3)
    ring.restart(9)
    with pytest.raises(InputError, match=r"expected samples between 9 and 9; found 5 to 9"):
        ring.read(5, 9)
    with pytest.raises(InputError, match=r"`at`: expected at least 9; found 3"):
        ring.restart(3)
    with pytest.raises(InputError, match=r"`capacity`: expected at least 1 sample; found 0"):
        RingBuffer(1, 0)


def test_channels_are_matched_by_name_and_then_without_the_machine():
    places, missing, unknown = match_channels(
        ["MLC11-2622", "MLC12-2622", "EEG"], ["EEG", "UPPT001", "MLC12-1"], "s", masks_missing=True
    )
    assert (places.tolist(), missing, unknown) == ([-1, 2, 0], ["MLC11-2622"], ["UPPT001"])
    with pytest.raises(
        InputError,
        match=r"s: expected the model's 2 sensors \(a, b\); found 1 channels without 1 of them \(b\)",
    ):
        match_channels(["a", "b"], ["a"], "s", masks_missing=False)
    with pytest.raises(InputError, match=r"found 1 channels without 2 of them \(a, b\)"):
        match_channels(["a", "b"], ["c"], "s", masks_missing=True)
    with pytest.raises(
        InputError, match=r"expected a channel of its own for each sensor; found one for several"
    ):
        match_channels(["a-1", "a-2"], ["a"], "s", masks_missing=True)


@pytest.mark.parametrize("name", ["testdata_ctf_short_discontinuous.ds", "sample_audvis_trunc_raw_sss.fif"])
def test_a_real_recording_is_replayed_to_the_sample(name):
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"no {name} at {SHARED_DATA} (BDS_SHARED_DATA)")
    raw = open_recording(path)
    source = replay_raw(raw, name, chunk=777)
    chunks = read_all(source)
    assert source.facts.names == tuple(raw.ch_names)
    assert source.facts.sfreq == raw.info["sfreq"]
    assert_array_equal(np.concatenate([c.data for c in chunks], axis=1), raw.get_data())


@NEEDS_LSL
def test_lsl_carries_samples_times_and_markers():
    from braindecode_suite.datasets.stream_lsl import LslOutlet, LslSource

    name = f"test-{uuid.uuid4().hex[:8]}"
    source = make_source([Marker(0.25, "picture")], chunk=50)
    outlet = LslOutlet(source, name)
    inlet = LslSource(name, f"{name}-markers", timeout=5.0)
    assert isinstance(inlet, StreamSource)
    assert inlet.facts == StreamFacts(f"lsl {name}", ("a", "b"), 1000.0)
    assert outlet.wait(5.0)
    sender = threading.Thread(target=lambda: [None for _ in iter(outlet.send, False)])
    sender.start()
    chunks: list[Chunk] = []
    while sum(c.data.shape[1] for c in chunks) < DATA.shape[1]:
        chunk = inlet.read(5.0)
        assert chunk is not None
        chunks.append(chunk)
    sender.join()
    assert_array_equal(np.concatenate([c.data for c in chunks], axis=1), DATA)
    times = np.concatenate([c.timestamps for c in chunks])
    assert_allclose(times - times[0], np.arange(1005) / 1000, atol=5e-4)
    assert inlet.read(0.05) is None
    assert not inlet.ended
    markers = [marker for c in chunks for marker in c.markers] or list(inlet._read_markers())
    assert [marker.label for marker in markers] == ["picture"]
    assert markers[0].time - times[0] == pytest.approx(0.25, abs=5e-4)
    inlet.close()


@NEEDS_LSL
def test_a_stream_that_nobody_sends_is_refused():
    from braindecode_suite.datasets.stream_lsl import LslSource

    with pytest.raises(InputError, match=r"lsl: expected one stream named 'nobody'; found"):
        LslSource("nobody", timeout=0.2)

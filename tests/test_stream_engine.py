"""Live decoding against the offline causal pipeline; what gaps, jumps, bad sensors and overload do to it; the saved bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.stream import Chunk, Marker, StreamFacts
from braindecode_suite.core.study import Cohort
from braindecode_suite.datasets.stream_file import Faults, FileSource, open_recording
from braindecode_suite.encoders.ridge import RidgeEncoder
from braindecode_suite.learning.synthetic import TableTarget
from braindecode_suite.workflows.sensor_recipe import SensorRecipe
from braindecode_suite.workflows.stream import as_live, match_trials
from braindecode_suite.workflows.stream_bundle import lay_out_windows, read_stream_bundle, save_stream_bundle
from braindecode_suite.workflows.stream_engine import (
    Answer,
    Due,
    EngineOptions,
    StreamEngine,
    choose_multiple,
)
from braindecode_suite.workflows.stream_parity import Parity, compare
from braindecode_suite.workflows.stream_run import StreamSummary, run_stream
from braindecode_suite.workflows.stream_sensors import SensorWatch
from braindecode_suite.workflows.stream_trials import MarkerTimes, TriggerChannel
from tests.meg_files import SFREQ

SECONDS = 6.6


class Replay:
    """The second session of the small study, its first seconds, with whatever goes wrong."""

    def __init__(self, world: Any) -> None:
        self.world = world
        raw = open_recording(world.recording)
        self.names = tuple(raw.ch_names)
        self.data = raw.get_data(stop=int(SECONDS * SFREQ), verbose="error")
        trials = world.study.trials.iloc[world.rows]
        self.markers = [
            Marker(float(onset), label)
            for onset, label in zip(trials["onset"], trials["stimulus_id"], strict=True)
            if onset < SECONDS
        ]

    def source(
        self, *, data: np.ndarray | None = None, names: tuple[str, ...] = (), **options: Any
    ) -> FileSource:
        samples = self.data if data is None else data
        facts = StreamFacts("replay", names or self.names, SFREQ)
        options = {"markers": self.markers, "chunk": 6, **options}
        return FileSource(lambda start, stop: samples[:, start:stop], facts, samples.shape[1], **options)

    def run(
        self, source: FileSource, notify: Any = None, **options: Any
    ) -> tuple[StreamEngine, StreamSummary]:
        engine = StreamEngine(
            self.world.bundle, self.world.encoder, source.facts, EngineOptions(**options), notify
        )
        return engine, run_stream(engine, source, keep=True)

    def parity(self, summary: StreamSummary) -> Parity:
        world = self.world
        rows, trials = match_trials(world.study, world.recording, world.bundle, summary.starts)
        return compare(
            world.bundle, world.encoder, as_live(world.study, world.bundle), rows, summary.answers, trials
        )


@pytest.fixture(scope="module")
def replay(stream_world: Any) -> Replay:
    return Replay(stream_world)


@pytest.mark.parametrize(("chunk", "multiple"), [(1, 1), (7, 3), (240, 1)])
def test_the_stream_gives_the_scores_and_lists_of_the_offline_pipeline(replay, chunk, multiple):
    _, summary = replay.run(replay.source(chunk=chunk), multiple=multiple)
    parity = replay.parity(summary)
    windows = len(replay.world.bundle.windows_of(multiple))
    assert parity.holds, parity
    assert parity.n_trials >= 8
    assert parity.n_answers == parity.n_trials * windows
    assert summary.n_skipped == 0


def test_a_window_is_preprocessed_as_far_as_it_goes(replay, monkeypatch):
    seen: list[int] = []
    scale = RobustScale.apply

    def apply(step: RobustScale, values: np.ndarray, trials: Any) -> np.ndarray:
        seen.append(values.shape[2])
        return scale(step, values, trials)

    monkeypatch.setattr(RobustScale, "apply", apply)
    _, summary = replay.run(replay.source(chunk=24), multiple=4)
    lengths = replay.world.bundle.windows[[answer.window for answer in summary.answers]]
    assert len(set(lengths)) > 2
    assert_array_equal(seen, lengths)


def test_the_first_window_holds_the_whole_baseline(replay, tmp_path):
    world = replay.world
    steps = (RobustScale(), Baseline(world.study.space.times, None, 0.2), Clip(20.0))
    study = replace(world.study, recipe=None).prepared(Recipe(steps), np.arange(len(world.study.trials)))
    target = TableTarget("toy", world.bundle.gallery.values)
    encoder = world.load()[1]
    encoder.facts_ = encoder.facts_ | {"recipes": [study.recipe.hash]}
    calibration = Cohort.of(study, world.rows[:40])
    bundle = save_stream_bundle(
        tmp_path, encoder, calibration, world.bundle.gallery, target, model="meg-module"
    )
    assert bundle.ends()[0] == pytest.approx(0.2)


def test_another_filter_state_would_be_noticed(replay):
    _, summary = replay.run(replay.source(data=replay.data * np.linspace(1, 1.2, replay.data.shape[1])))
    assert not replay.parity(summary).holds


def test_answers_come_as_soon_as_their_last_sample_and_never_before(replay):
    engine, _ = replay.run(replay.source(data=replay.data[:, :10]))
    source = replay.source(chunk=1)
    engine = StreamEngine(replay.world.bundle, replay.world.encoder, source.facts, EngineOptions())
    space, first = replay.world.bundle.space, replay.markers[0].time
    for number in range(int((first + 0.5) * SFREQ)):
        chunk = source.read(0.0)
        assert chunk is not None
        for due in engine.push(chunk):
            if due.trial.number == 1:
                end = replay.world.bundle.ends()[due.window]
                # resampled by half: its last sample needs the input up to twice its number
                last = 2 * (round(first * space.sfreq) + round(end * space.sfreq))
                assert number == last


def test_the_evidence_is_a_probability_that_ends_early_at_the_confidence(replay):
    _, whole = replay.run(replay.source())
    for answer in whole.answers:
        assert answer.probabilities.sum() == pytest.approx(1)
    surest: dict[int, float] = {}
    for answer in whole.answers:
        surest[answer.trial] = max(surest.get(answer.trial, 0.0), float(answer.probabilities.max()))
    level = float(np.median(list(surest.values())))
    _, early = replay.run(replay.source(), confidence=level)
    assert 0 < early.n_decided < early.n_trials
    assert early.n_answers < whole.n_answers
    decided = {a.trial: a for a in early.answers if a.decided}
    assert all(a.probabilities.max() >= level and a.last for a in decided.values())
    later = [a for a in early.answers if a.trial in decided and a.window > decided[a.trial].window]
    assert later == []
    assert early.n_decided_known == early.n_decided
    by_key = {(a.trial, a.window): a for a in whole.answers}
    for answer in early.answers:  # until then nothing is different
        assert_allclose(answer.probabilities, by_key[answer.trial, answer.window].probabilities, atol=1e-6)


def test_a_short_gap_is_bridged_and_its_trials_are_flagged_and_undecided(replay):
    told: list[tuple[str, dict[str, Any]]] = []
    drop = int((replay.markers[3].time - 0.06) * SFREQ / 6)
    source = replay.source(faults=Faults(dropped=(drop, drop + 1)))
    _, summary = replay.run(source, lambda *line: told.append(line), confidence=0.01)
    assert summary.n_missing == 12
    assert ("gap", {"sample": 6 * (drop + 2), "samples": 12, "seconds": pytest.approx(12 / SFREQ)}) in told
    flagged = {a.trial for a in summary.answers if "samples were missing" in a.flags}
    assert flagged == {4}
    assert {a.trial for a in summary.answers if a.decided} == {a.trial for a in summary.answers} - flagged
    _, clean = replay.run(replay.source())
    before = {(a.trial, a.window): a.scores for a in clean.answers}
    _, gapped = replay.run(replay.source(faults=Faults(dropped=(drop, drop + 1))))
    for answer in gapped.answers:
        if answer.trial < 4:
            assert_allclose(answer.scores, before[answer.trial, answer.window], atol=1e-6)
        if answer.trial > 7:  # samples keep their numbers, and the filters forget
            assert_allclose(answer.scores, before[answer.trial, answer.window], atol=0.2)


def test_a_long_gap_starts_the_filters_anew_and_loses_the_open_trials(replay):
    told: list[tuple[str, dict[str, Any]]] = []
    drop = int((replay.markers[3].time + 0.2) * SFREQ / 6)
    dropped = tuple(range(drop, drop + 30))  # 0.75 s
    _, summary = replay.run(replay.source(faults=Faults(dropped=dropped)), lambda *line: told.append(line))
    kinds = [kind for kind, _ in told]
    assert kinds.count("restart") == 1
    lost = [facts["trial"] for kind, facts in told if kind == "lost"]
    assert 4 in lost
    assert summary.n_lost == len(lost)
    after = [a for a in summary.answers if a.trial >= 8]
    assert after
    assert all(np.isfinite(a.scores).all() for a in after)
    assert summary.n_samples == replay.data.shape[1]


def test_a_clock_that_jumps_flags_the_open_trials_and_loses_no_sample(replay):
    jump = int((replay.markers[4].time + 0.15) * SFREQ / 6)
    _, summary = replay.run(replay.source(faults=Faults(jumps={jump: 3.0})), confidence=0.01)
    assert (summary.n_jumps, summary.n_missing) == (1, 0)
    assert summary.n_samples == replay.data.shape[1]
    _, summary = replay.run(replay.source(faults=Faults(jumps={jump: 3.0})))
    assert {a.trial for a in summary.answers if "the clock jumped" in a.flags} == {5}
    assert replay.parity(summary).holds  # markers of both sides of the jump are found


def test_a_sensor_that_the_stream_lacks_is_masked_as_offline_and_others_are_ignored(replay):
    told: list[tuple[str, dict[str, Any]]] = []
    keep = [k for k, name in enumerate(replay.names) if name != "MEG 0131"]
    source = replay.source(data=replay.data[keep], names=tuple(replay.names[k] for k in keep))
    engine, summary = replay.run(source, lambda *line: told.append(line))
    assert engine.missing == ["MEG 0131"]
    assert engine.unknown == ["STI 014", "EOG 061"]
    words = [facts["text"] for kind, facts in told if kind == "flag"]
    assert words == [
        "sensors that the stream lacks, or that are bad, are masked",
        "channels that the model does not know are ignored",
    ]
    study = as_live(replay.world.study, replay.world.bundle)
    responses = study.read(slice(None))
    responses[:, study.space.names.index("MEG 0131")] = np.nan
    masked = replace(study, responses=_Raw(study.responses, study.space.names.index("MEG 0131")))
    rows, trials = match_trials(
        replay.world.study, replay.world.recording, replay.world.bundle, summary.starts
    )
    parity = compare(replay.world.bundle, replay.world.encoder, masked, rows, summary.answers, trials)
    assert parity.holds, parity
    _, by_name = replay.run(replay.source(), bad=("MEG 0131",))
    for one, other in zip(summary.answers, by_name.answers, strict=True):
        assert_array_equal(one.scores, other.scores)


class _Raw:
    """Responses without one sensor."""

    def __init__(self, responses: Any, sensor: int) -> None:
        self.responses, self.sensor = responses, sensor
        self.shape, self.dtype = responses.shape, responses.dtype

    def __len__(self) -> int:
        return len(self.responses)

    def __getitem__(self, rows: Any) -> np.ndarray:
        values = np.array(self.responses[rows])
        values[:, self.sensor] = np.nan
        return values


def test_a_model_that_cannot_mask_refuses_a_stream_without_a_sensor(replay):
    bundle = replace(replay.world.bundle, masks_missing=False)
    facts = StreamFacts("short", replay.names[1:], SFREQ)
    with pytest.raises(
        InputError, match=r"short: expected the model's 8 sensors .*; found 9 channels without 1 of them"
    ):
        StreamEngine(bundle, replay.world.encoder, facts, EngineOptions())


@pytest.mark.parametrize(
    ("facts", "options", "message"),
    [
        (
            {"sfreq": 250.0},
            {},
            r"replay: expected 240 samples a second, as the model's recordings; found 250",
        ),
        ({}, {"multiple": 9}, r"`hop`: expected one of 25, 50, 75, 100 ms; found 225 ms"),
        ({}, {"confidence": 1.5}, r"`confidence`: expected a probability above 0 and up to 1; found 1.5"),
        (
            {},
            {"trigger": "UPPT001"},
            r"replay: expected the trigger channel 'UPPT001'; found STI 014, EOG 061",
        ),
    ],
)
def test_a_stream_that_does_not_fit_is_refused_with_both_sides(replay, facts, options, message):
    stream = StreamFacts("replay", replay.names, facts.get("sfreq", SFREQ))
    with pytest.raises(InputError, match=message):
        StreamEngine(replay.world.bundle, replay.world.encoder, stream, EngineOptions(**options))


def test_one_sample_that_is_not_finite_masks_its_sensor_in_that_picture(replay):
    data = replay.data.copy()
    data[2, int((replay.markers[2].time + 0.05) * SFREQ)] = np.inf
    _, summary = replay.run(replay.source(data=data))
    flag = "1 sensors were flat or not finite, and are masked"
    assert {a.trial for a in summary.answers if flag in a.flags} == {3}
    assert all(np.isfinite(a.scores).all() for a in summary.answers)


@pytest.mark.parametrize("fault", ["nan", "flat"])
def test_a_sensor_that_fails_is_masked_while_it_does_and_never_poisons_the_filters(replay, fault):
    data = replay.data.copy()
    start, stop = (int((replay.markers[k].time) * SFREQ) for k in (2, 4))
    data[2, start:stop] = np.nan if fault == "nan" else data[2, start]
    _, summary = replay.run(replay.source(data=data))
    flag = "1 sensors were flat or not finite, and are masked"
    flagged = {a.trial for a in summary.answers if flag in a.flags}
    assert flagged == {3, 4, 5}  # the fifth begins before its onset
    assert all(np.isfinite(a.scores).all() for a in summary.answers)
    others = [a for a in summary.answers if a.trial in (1, 2)]
    _, clean = replay.run(replay.source())
    before = {(a.trial, a.window): a.scores for a in clean.answers}
    for answer in others:
        assert_allclose(answer.scores, before[answer.trial, answer.window], atol=1e-6)


def test_still_sensors_are_known_across_chunks():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((3, 600))
    data[1, 100:400] = data[1, 99]
    watch = SensorWatch(3, 1000.0, np.array([False, False, True]))
    for start in range(0, 600, 50):
        assert_array_equal(watch.mend(data[:, start : start + 50], start), data[:, start : start + 50])
        if start == 200:  # 150 samples of the same value: not yet
            assert watch.masked(-100.0).tolist() == [False, False, True]
    assert watch.masked(300.0).tolist() == [False, True, True]
    assert watch.masked(450.0).tolist() == [False, False, True]


def test_onsets_come_from_a_trigger_channel_as_they_do_from_markers(replay):
    data = replay.data.copy()
    place = replay.names.index("STI 014")
    for k, marker in enumerate(replay.markers):
        at = round(marker.time * SFREQ)
        data[place, at : at + 12] = 64 if k % 2 else 32
    _, by_marker = replay.run(replay.source())
    _, by_trigger = replay.run(replay.source(data=data, markers=[]), trigger="STI 014")
    assert list(by_trigger.starts.values()) == list(by_marker.starts.values())
    _, some = replay.run(replay.source(data=data, markers=[]), trigger="STI 014", trigger_values=(64,))
    assert list(some.starts.values()) == list(by_marker.starts.values())[1::2]
    earlier = replay.source(markers=[Marker(m.time - 0.05, m.label) for m in replay.markers])
    _, delayed = replay.run(earlier, offset=0.05)
    assert list(delayed.starts.values()) == list(by_marker.starts.values())


def test_a_trigger_that_begins_with_a_chunk_is_found_once():
    channel = TriggerChannel()
    assert channel.find(np.array([0.0, 5.0])) == [(1, "5")]
    assert channel.find(np.array([5.0, 5.0, 7.0, 0.0])) == [(2, "7")]
    assert channel.find(np.array([3.0])) == [(0, "3")]


def test_markers_that_come_late_or_early_are_placed_when_they_can_be():
    times = MarkerTimes(100.0, seconds=2.0)
    times.push(np.arange(100) / 100, False, 0)
    assert times.resolve((Marker(1.205, "later"), Marker(0.5, "now"))) == [(50.0, "now")]
    times.push(1 + np.arange(100) / 100, False, 0)
    assert times.resolve(()) == [(pytest.approx(120.5), "later")]
    times.push(2.5 + np.arange(150) / 100, False, 50)  # half a second missing
    assert times.resolve((Marker(2.6, "after"), Marker(0.2, "gone"))) == [(260.0, "after"), (-1.0, "gone")]
    times.push(1 + np.arange(50) / 100, True, 0)  # set back by three seconds
    assert times.resolve((Marker(1.1, "new clock"),)) == [(410.0, "new clock")]


def test_a_picture_whose_baseline_was_not_recorded_is_lost_and_said(replay):
    told: list[tuple[str, dict[str, Any]]] = []
    until = int((replay.markers[-1].time + 0.2) * SFREQ)
    source = replay.source(data=replay.data[:, :until], markers=[Marker(0.05, "early"), *replay.markers])
    _, _ = replay.run(source, lambda *line: told.append(line))
    lost = [facts for kind, facts in told if kind == "lost"]
    assert lost[0] == {
        "trial": 1,
        "label": "early",
        "why": "its first samples were not recorded, or are long gone",
    }
    assert lost[-1]["why"] == "the stream ended before its last window"


class _Slow:
    """The encoder on a clock that moves while it works."""

    def __init__(self, encoder: Any, clock: Any, seconds: float) -> None:
        self.encoder, self.clock, self.seconds = encoder, clock, seconds

    def predict(self, *arguments: Any, **options: Any) -> Any:
        self.clock.now += self.seconds
        return self.encoder.predict(*arguments, **options)


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_overload_skips_windows_and_says_so_but_takes_every_sample(replay):
    told: list[tuple[str, dict[str, Any]]] = []
    clock = _Clock()
    source = replay.source(speed=1.0, clock=clock, sleep=clock.sleep)
    engine = StreamEngine(
        replay.world.bundle,
        _Slow(replay.world.encoder, clock, 0.06),
        source.facts,
        EngineOptions(),
        lambda *line: told.append(line),
    )
    summary = run_stream(engine, source, keep=True, clock=clock)
    skips = [facts for kind, facts in told if kind == "skip"]
    assert summary.n_skipped == len(skips) > 30
    assert skips[0]["why"] == "overload"
    assert (summary.n_samples, summary.n_missing) == (replay.data.shape[1], 0)
    assert source.held == 0
    finals = {a.trial for a in summary.answers if a.last}
    assert finals == set(
        range(1, summary.n_trials + 1 - summary.n_lost)
    )  # last windows are never skipped for good
    assert replay.parity(summary).holds
    assert any("windows were skipped" in a.flags for a in summary.answers)


def test_a_source_that_waits_is_never_skipped(replay):
    engine = StreamEngine(
        replay.world.bundle,
        _Slow(replay.world.encoder, _Clock(), 9.0),
        replay.source().facts,
        EngineOptions(),
    )
    summary = run_stream(engine, replay.source(chunk=500))
    assert summary.n_skipped == 0


def test_a_stream_that_falls_silent_ends_the_run_with_what_it_has(replay):
    clock = _Clock()
    at = int((replay.markers[5].time + 0.3) * SFREQ / 6)
    source = replay.source(speed=1.0, clock=clock, sleep=clock.sleep, faults=Faults(stop=at))
    engine = StreamEngine(replay.world.bundle, replay.world.encoder, source.facts, EngineOptions())
    summary = run_stream(engine, source, keep=True, clock=clock, silence=2.0)
    assert summary.why == "silent"
    assert summary.open_trials == 1
    assert summary.n_samples == 6 * at
    assert {a.trial for a in summary.answers} == {1, 2, 3, 4, 5, 6}
    assert clock.now == pytest.approx(at * 6 / SFREQ + 2.25, abs=0.6)


def test_the_hop_is_the_shortest_that_is_kept_up_with():
    class Engine:
        def __init__(self, multiple: int) -> None:
            self.bundle = type("B", (), {"stride": 0.025})()
            self.facts = StreamFacts("x", ("a",), 1000.0)

        def rehearse(self) -> float:
            return 0.031

    assert choose_multiple(Engine, [1, 2, 3, 4]) == 2
    assert choose_multiple(Engine, [1], load=0.1) == 1


def test_rehearsing_decodes_whole_trials_and_changes_nothing(replay, monkeypatch):
    source = replay.source()
    decoded: list[tuple[int, int]] = []
    decode = StreamEngine.decode

    def slow(engine: StreamEngine, due: Due) -> Answer | None:
        answer = decode(engine, due)
        assert answer is not None
        decoded.append((answer.trial, due.window))
        engine.decode_seconds += 7.0
        return answer

    monkeypatch.setattr(StreamEngine, "decode", slow)
    options = EngineOptions(multiple=4, confidence=1e-6)
    engine = StreamEngine(replay.world.bundle, replay.world.encoder, source.facts, options)
    assert 7 < engine.rehearse(n_trials=3) < 9
    assert decoded == [(trial, k) for trial in (1, 2, 3, 4) for k in range(len(engine.windows))]
    assert (engine.n_answers, engine.clock.next, engine.trials) == (0, 0, [])


def test_windows_end_with_the_epoch_and_begin_after_the_onset(replay):
    bundle = replay.world.bundle
    assert_allclose(np.diff(bundle.ends()), 0.025)
    assert bundle.ends()[0] >= 0.1 - 1e-9
    assert bundle.ends()[-1] == pytest.approx(0.4)
    assert lay_out_windows(np.array([0.0, 0.1]), 10.0, stride=0.5, first=5.0).tolist() == []


def test_a_bundle_comes_back_as_it_was_saved(replay):
    bundle, world = replay.world.bundle, replay.world
    again, encoder = read_stream_bundle(world.model_dir)
    assert again.signal == world.study.signal
    assert again.recipe.hash == world.study.recipe.hash
    assert again.session == "02"
    assert again.gallery.ids.tolist() == bundle.gallery.ids.tolist()
    assert_array_equal(again.space.positions["02"], world.study.space.positions["02"])
    assert again.evidence[2].weights.tolist() == bundle.evidence[2].weights.tolist()
    assert 0 <= again.evidence[1].calibration_error < 0.3
    assert again.evidence[1].log_loss[-1] < np.log(len(again.gallery))
    rows = Cohort.of(world.study, world.rows[:3])
    assert_array_equal(
        encoder.predict(rows)["retrieval"].values, world.encoder.predict(rows)["retrieval"].values
    )


def break_json(folder: Path, **changes: Any) -> None:
    path = folder / "stream" / "stream.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | changes))


def rename_sensor(folder: Path) -> None:
    path = folder / "stream" / "stream.json"
    facts = json.loads(path.read_text())
    facts["sensors"]["names"][0] = "MEG 9999"
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (
            lambda f: shutil.rmtree(f / "stream"),
            r"stream.json: expected what live decoding needs, .*; found nothing there",
        ),
        (lambda f: (f / "stream/stream.json").write_text("{"), r"stream.json: expected JSON"),
        (
            lambda f: break_json(f, format="other"),
            r"expected format = 'braindecode_suite-stream-1'; found format = 'other'",
        ),
        (lambda f: break_json(f, token="x"), r"stream.safetensors: expected token = 'x'; found token ="),
        (lambda f: (f / "stream/stream.safetensors").write_bytes(b"0"), r"expected a whole safetensors file"),
        (lambda f: break_json(f, subject="09"), r"expected subjects = \['01'\]; found subjects = \['09'\]"),
        (
            lambda f: break_json(f, target="clip"),
            r"expected target of retrieval = 'toy'; found target of retrieval = 'clip'",
        ),
        (rename_sensor, r"expected sub-01 with space .*; found space"),
        (lambda f: break_json(f, model="nobody"), r"encoder: expected one of .*; found 'nobody'"),
    ],
)
def test_a_bundle_that_does_not_fit_its_model_is_refused_with_both_sides(replay, tmp_path, breaking, message):
    folder = tmp_path / "model"
    shutil.copytree(replay.world.model_dir, folder)
    breaking(folder)
    with pytest.raises(InputError, match=message):
        read_stream_bundle(folder)


def test_what_cannot_be_decoded_live_is_not_saved(replay, tmp_path):
    world, target = replay.world, TableTarget("toy", np.zeros((30, 1, 6)))
    gallery = replay.world.bundle.gallery
    zero = replace(world.study, signal=None)
    for study, found in ((zero, "signals of unknown preprocessing"),):
        with pytest.raises(
            InputError, match=rf"expected sensors whose signals went through causal filters.*found {found}"
        ):
            save_stream_bundle(
                tmp_path, world.encoder, Cohort.of(study, world.rows), gallery, target, model="meg-module"
            )
    other = Latents(gallery.values, gallery.ids, "clip", "true")
    with pytest.raises(InputError, match=r"expected gallery = 'toy'; found gallery = 'clip'"):
        save_stream_bundle(
            tmp_path, world.encoder, Cohort.of(world.study, world.rows), other, target, model="meg-module"
        )
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_of_whole_epochs_answers_once_at_their_end(replay, tmp_path):
    world = replay.world
    encoder = type(world.encoder)(
        world.encoder.config.model_copy(update={"window": "none"}), world.encoder.context
    )
    encoder.__dict__ |= {k: v for k, v in vars(world.encoder).items() if k not in ("config", "context")}
    encoder.save(tmp_path)
    calibration, target = Cohort.of(world.study, world.rows), TableTarget("toy", world.bundle.gallery.values)
    save_stream_bundle(
        tmp_path, encoder, calibration, world.bundle.gallery, target, model="meg-module", stride=0.05
    )
    bundle, loaded = read_stream_bundle(tmp_path)
    assert bundle.windows.tolist() == [61]
    source = replay.source()
    summary = run_stream(StreamEngine(bundle, loaded, source.facts, EngineOptions()), source, keep=True)
    assert [a.trial for a in summary.answers if a.last] == [a.trial for a in summary.answers]
    rows, trials = match_trials(world.study, world.recording, bundle, summary.starts)
    parity = compare(bundle, loaded, as_live(world.study, bundle), rows, summary.answers, trials)
    assert parity.holds, parity


def test_ridge_on_whole_epochs_is_decoded_live_as_offline(replay, tmp_path):
    world = replay.world
    train = np.flatnonzero(world.study.trials["session"] == "01")
    target = TableTarget("toy", world.bundle.gallery.values)
    ridge = RidgeEncoder(RidgeEncoder.preset("default"), FitContext(work_dir=tmp_path / "fit"))
    calibration = Cohort.of(world.study, world.rows)
    ridge.fit(Cohort.of(world.study, train), calibration, {"retrieval": target})
    ridge.save(tmp_path)
    save_stream_bundle(tmp_path, ridge, calibration, world.bundle.gallery, target, model="ridge")
    bundle, loaded = read_stream_bundle(tmp_path)
    assert bundle.masks_missing  # by the training mean
    assert bundle.evidence[1].log_loss[-1] < np.log(30) - 0.1
    source = replay.source()
    summary = run_stream(StreamEngine(bundle, loaded, source.facts, EngineOptions()), source, keep=True)
    rows, trials = match_trials(world.study, world.recording, bundle, summary.starts)
    parity = compare(bundle, loaded, as_live(world.study, bundle), rows, summary.answers, trials)
    assert parity.holds, parity
    assert parity.n_answers == parity.n_trials >= 8


def test_a_recipe_of_runs_that_whitens_is_that_of_the_last_calibration_run_live_as_offline(replay, tmp_path):
    world = replay.world
    trials = world.study.trials.assign(run=np.where(world.study.trials["session"] == "02", 7, 1))
    steps = SensorRecipe(order=("scale", "whiten", "baseline", "clip"), scale_by="run").steps(
        world.study.space
    )
    study = replace(world.study, trials=trials, recipe=None)
    study = study.prepared(Recipe(tuple(steps)), np.arange(len(trials)))
    target = TableTarget("toy", world.bundle.gallery.values)
    ridge = RidgeEncoder(RidgeEncoder.preset("default"), FitContext(work_dir=tmp_path / "fit"))
    calibration = Cohort.of(study, world.rows)
    ridge.fit(Cohort.of(study, np.flatnonzero(trials["run"] == 1)), calibration, {"retrieval": target})
    ridge.save(tmp_path)
    save_stream_bundle(tmp_path, ridge, calibration, world.bundle.gallery, target, model="ridge")
    bundle, loaded = read_stream_bundle(tmp_path)
    assert (bundle.session, bundle.run) == ("02", "7")
    source = replay.source()
    summary = run_stream(StreamEngine(bundle, loaded, source.facts, EngineOptions()), source, keep=True)
    rows, numbers = match_trials(study, world.recording, bundle, summary.starts)
    parity = compare(bundle, loaded, as_live(study, bundle), rows, summary.answers, numbers)
    assert parity.holds, parity
    own = np.asarray(loaded.predict(Cohort.of(study, rows))["retrieval"].flat)
    live = {answer.trial: answer.latents["retrieval"].flat[0] for answer in summary.answers}
    assert_allclose(np.stack([live[number] for number in numbers]), own, atol=1e-3)


def test_a_picture_outside_the_gallery_takes_the_place_of_another_in_calibration(replay, tmp_path):
    world = replay.world
    whole = world.bundle.gallery
    some = Latents(whole.values[:20], whole.ids[:20], whole.target, "true")
    rows = world.rows[world.study.trials["stimulus_id"].iloc[world.rows].astype(int) >= 20]
    world.encoder.save(tmp_path)
    bundle = save_stream_bundle(
        tmp_path,
        world.encoder,
        Cohort.of(world.study, rows),
        some,
        TableTarget("toy", whole.values),
        model="meg-module",
        stride=0.1,
    )
    evidence = bundle.evidence[1]
    assert (evidence.n_candidates, evidence.n_trials) == (20, len(rows))
    assert evidence.log_loss[-1] < np.log(20) - 0.2


def test_answers_of_trials_that_the_study_lacks_are_no_parity(replay):
    world = replay.world
    with pytest.raises(
        InputError, match=r"parity: expected answers of trials that the study holds; found none"
    ):
        compare(world.bundle, world.encoder, world.study, np.empty(0, int), [], [])


def test_an_empty_chunk_changes_nothing(replay):
    engine = StreamEngine(replay.world.bundle, replay.world.encoder, replay.source().facts, EngineOptions())
    assert engine.push(Chunk(np.empty((len(replay.names), 0)), np.empty(0), 0.0, 0)) == []
    assert engine.clock.next == 0
    assert Answer is not None

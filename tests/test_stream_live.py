"""``bds stream`` as a user runs it: replays at 1x and as fast as it can, LSL on loopback, logs run again, the page in a browser."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import re
import shutil
import subprocess
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.signal import Filter, SignalRecipe
from braindecode_suite.core.stream import StreamFacts
from braindecode_suite.datasets.bids_meg import BIDS_MEG
from braindecode_suite.datasets.meg_runs import EpochRows
from braindecode_suite.datasets.stream_file import open_recording, replay_raw
from braindecode_suite.metrics.evidence import Evidence
from braindecode_suite.workflows.stream import (
    StreamJob,
    _check_bad,
    as_live,
    make_draw,
    match_trials,
    open_source,
)
from braindecode_suite.workflows.stream_bundle import StreamBundle
from braindecode_suite.workflows.stream_engine import EngineOptions, StreamEngine
from braindecode_suite.workflows.stream_latency import Latencies
from braindecode_suite.workflows.stream_log import (
    LogSource,
    StreamLog,
    bundle_hash,
    header_of,
    is_log_of,
    read_log,
)
from braindecode_suite.workflows.stream_page import StreamPage, content_policy
from braindecode_suite.workflows.stream_parity import compare
from braindecode_suite.workflows.stream_preview import Preview
from braindecode_suite.workflows.stream_run import run_stream
from tests.meg_files import SENSORS

NEEDS_LSL = pytest.mark.skipif(importlib.util.find_spec("mne_lsl") is None, reason="mne-lsl is not installed")
NEEDS_AIOHTTP = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="aiohttp is not installed"
)
BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def run(world: Any, *words: str) -> int:
    return main(["stream", str(world.model_dir), "--data-dir", str(world.data_dir), *words])


def recording(world: Any) -> list[str]:
    return ["--recording", str(world.recording.relative_to(world.data_dir))]


@pytest.mark.parametrize(("speed", "seconds"), [("max", "9"), ("1", "2.6")])
def test_a_replay_has_the_answers_of_the_offline_pipeline(stream_world, tmp_path, capsys, speed, seconds):
    figures = tmp_path / "figures.json"
    words = ["--speed", speed, "--seconds", seconds, "--hop", "100", "--parity", "--json", str(figures)]
    began = time.perf_counter()
    assert run(stream_world, *recording(stream_world), *words) == 0
    if speed == "1":
        assert time.perf_counter() - began > float(seconds)
    facts = json.loads(figures.read_text())
    assert facts["parity_max_abs"] <= 1e-4
    assert facts["lists_equal"]
    assert facts["n_answers"] >= 4
    assert facts["n_missing"] == 0
    assert facts["latency"]["stages"]["total"]["p95_ms"] > 0
    text = capsys.readouterr().out
    assert "ranked lists equal" in text
    assert "expected calibration error" in text
    assert "chose the epoch at which training stopped: evidence is slightly optimistic" in text
    assert "p95" in text


def test_annotations_which_a_stream_does_not_have_are_no_difference(stream_world, tmp_path, capsys):
    data_dir = shutil.copytree(stream_world.data_dir, tmp_path / "study")
    world = replace(stream_world, data_dir=data_dir)
    path = data_dir / stream_world.recording.relative_to(stream_world.data_dir)
    events = path.with_name(path.name.replace("_meg.fif", "_events.tsv"))
    bad = [
        {"onset": 1.0, "duration": 1.0, "trial_type": "BAD_jump", "channel": f"{SENSORS[0]},{SENSORS[3]}"},
        {"onset": 2.5, "duration": 0.6, "trial_type": "BAD"},
    ]
    pd.concat([pd.read_csv(events, sep="\t"), pd.DataFrame(bad)]).to_csv(
        events, sep="\t", index=False, na_rep="n/a"
    )
    study = BIDS_MEG.open(data_dir, "01", tmp_path / "work", **world.bundle.facts["dataset_options"])
    assert len(study.trials) < len(stream_world.study.trials)
    assert isinstance(study.responses, EpochRows)
    assert len(study.responses.masked) >= 2
    words = ["--speed", "max", "--seconds", "5", "--hop", "100", "--parity"]
    assert run(world, "--recording", str(path.relative_to(data_dir)), *words) == 0
    said = re.search(r"over \d+ windows of (\d+) trials, ranked lists equal", capsys.readouterr().out)
    assert said is not None
    onsets = pd.read_csv(events, sep="\t").query("stimulus_id.notna()")["onset"]
    assert int(said[1]) >= (onsets < 4).sum()  # the ones that annotations touch among them


def test_what_is_shown_last_is_retrieved_above_chance(stream_world, tmp_path):
    figures = tmp_path / "figures.json"
    assert (
        run(stream_world, *recording(stream_world), "--speed", "max", "--hop", "100", "--json", str(figures))
        == 0
    )
    facts = json.loads(figures.read_text())
    assert facts["n_known"] == facts["n_trials"] == 120
    assert facts["n_top"] > 120 * 5 / 30 * 1.5  # one and a half times chance


def test_a_log_can_be_run_again_with_the_same_answers(stream_world, tmp_path):
    first, again = tmp_path / "first.jsonl", tmp_path / "again.jsonl"
    words = ["--hop", "50", "--confidence", "0.2"]
    assert (
        run(
            stream_world,
            *recording(stream_world),
            "--speed",
            "max",
            "--seconds",
            "9",
            *words,
            "--log",
            str(first),
        )
        == 0
    )
    replayed = ["--source", "log", "--recording", str(first), "--log", str(again)]
    assert main(["stream", str(stream_world.model_dir), *replayed]) == 0
    hops = [[line for line in read_log(path) if line["kind"] == "hop"] for path in (first, again)]
    for one in hops[1]:  # no picture waits for the time between both runs
        stages = [one["ms"][name] for name in ("epoch", "encoder", "retrieval", "evidence")]
        assert sum(stages) <= one["ms"]["total"] < 5000
    assert len(hops[0]) == len(hops[1]) > 20
    for one, other in zip(*hops, strict=True):
        for key in ("trial", "window", "ranked", "scores", "probabilities", "decided"):
            assert one[key] == other[key]
    assert {"header", "flag", "chunk", "trial", "hop", "end"} <= {line["kind"] for line in read_log(first)}


def test_a_log_that_was_cut_short_is_read_to_its_last_whole_line(tmp_path):
    log = StreamLog(tmp_path / "log.jsonl", {"names": []})
    log.write("hop", {"trial": 1})
    log.close()
    text = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(text + '{"kind": "ho')
    assert [line["kind"] for line in read_log(tmp_path / "log.jsonl")] == ["header", "hop"]
    (tmp_path / "log.jsonl").write_text(text + '{"kind": "ho\n{}\n')
    with pytest.raises(InputError, match=r"log.jsonl: expected JSON in every line; found line 3"):
        list(read_log(tmp_path / "log.jsonl"))
    with pytest.raises(
        InputError, match=r"log.jsonl: expected a new file for the log; found a file that is there already"
    ):
        StreamLog(tmp_path / "log.jsonl", {})


@NEEDS_LSL
def test_lsl_on_loopback_has_the_answers_of_the_offline_pipeline_and_its_log_runs_again(
    stream_world, tmp_path
):
    from braindecode_suite.datasets.stream_lsl import LslOutlet, LslSource

    world, name = stream_world, f"test-{uuid.uuid4().hex[:8]}"
    job = StreamJob(model_dir=world.model_dir, recording=world.recording, data_dir=world.data_dir, speed=8.0)
    source, _ = open_source(job, world.bundle)
    outlet = LslOutlet(source, name)
    inlet = LslSource(name, f"{name}-markers", timeout=5.0)
    assert outlet.wait(5.0)
    log = StreamLog(
        tmp_path / "lsl.jsonl",
        header_of(world.bundle, inlet.facts, None, vars(EngineOptions(multiple=4))),
        samples=True,
    )
    sender = threading.Thread(target=lambda: [outlet.send() for _ in range(400)])
    sender.start()
    engine = StreamEngine(world.bundle, world.encoder, inlet.facts, EngineOptions(multiple=4))
    summary = run_stream(engine, inlet, log=log, seconds=9.5, silence=3.0, keep=True)
    sender.join()
    rows, trials = match_trials(world.study, world.recording, world.bundle, summary.starts)
    parity = compare(
        world.bundle, world.encoder, as_live(world.study, world.bundle), rows, summary.answers, trials
    )
    assert parity.holds, parity
    assert parity.n_trials >= 10
    assert (summary.n_missing, summary.n_jumps) == (0, 0)
    logged = LogSource(tmp_path / "lsl.jsonl")
    engine = StreamEngine(world.bundle, world.encoder, logged.facts, EngineOptions(multiple=4))
    again = run_stream(engine, logged, keep=True)
    found = {(a.trial, a.window): a for a in again.answers}
    for answer in summary.answers:
        assert_allclose(found[answer.trial, answer.window].scores, answer.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"source 'file': expected a recording to replay (`--recording`); found none"),
        (["--source", "log"], r"source 'log': expected the log to run again (`--recording`); found none"),
        (["--source", "lsl"], r"source 'lsl': expected the name of a stream (`--stream`); found none"),
        (
            ["--source", "lsl", "--stream", "x"],
            r"expected what says when a picture appears: `--markers` or `--trigger`",
        ),
        (
            ["--source", "log", "--recording", "x", "--parity"],
            r"`parity`: expected source 'file' and the BIDS folder",
        ),
        (["RECORDING", "--hop", "33"], r"`hop`: expected one of 25, 50, 75, 100 ms; found 33 ms"),
        (
            ["RECORDING", "--hop", "25", "--preview"],
            r"`preview`: expected a page to show it on (`--page`), and a generator",
        ),
        (
            ["RECORDING", "--hop", "25", "--trigger", "X"],
            r"expected the trigger channel 'X'; found STI 014, EOG 061",
        ),
        (["RECORDING", "--events", "no.tsv"], r"no.tsv: expected"),
    ],
)
def test_what_cannot_start_is_one_line_and_exit_code_2(stream_world, capsys, words, message):
    words = [part for word in words for part in (recording(stream_world) if word == "RECORDING" else [word])]
    assert run(stream_world, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_stream_that_does_not_fit_leaves_no_log(stream_world, tmp_path):
    log = tmp_path / "log.jsonl"
    words = ["--hop", "25", "--trigger", "X", "--log", str(log)]
    assert run(stream_world, *recording(stream_world), *words) == 2
    assert not log.exists()


def test_a_recording_without_events_is_refused_with_the_way_out(stream_world, tmp_path, capsys):
    alone = tmp_path / "alone_meg.fif"
    shutil.copy(stream_world.recording, alone)
    assert main(["stream", str(stream_world.model_dir), "--recording", str(alone)]) == 2
    assert (
        "alone_events.tsv: expected the events of the recording; found nothing there (--events names"
        in capsys.readouterr().err
    )


def test_speeds_and_numbers_that_make_no_sense_are_refused(capsys):
    for words in (["--speed", "0"], ["--speed", "fast"], ["--source", "tape"]):
        with pytest.raises(SystemExit) as stop:
            main(["stream", "model", *words])
        assert stop.value.code == 2
    assert "expected a number above 0, or max; found 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "0"], "`top`: expected a whole number of at least 1; found 0"),
        (["--chunk", "0"], "`chunk`: expected a whole number of at least 1; found 0"),
        (["--bad", "nobody"], "`bad`: expected sensors by their names in the stream; found 'nobody'"),
    ],
)
def test_options_that_cannot_be_are_refused(stream_world, capsys, words, message):
    assert run(stream_world, *recording(stream_world), "--hop", "100", "--seconds", "1", *words) == 2
    assert message in capsys.readouterr().err


def test_a_sensor_is_masked_by_the_name_that_the_stream_has(stream_world):
    names = stream_world.bundle.space.names
    facts = StreamFacts("replay", tuple(f"{name}-3305" for name in names[1:]), 240.0)
    job = StreamJob(model_dir=stream_world.model_dir, bad=(names[0],))
    _check_bad(job, stream_world.bundle, SimpleNamespace(facts=facts))  # the stream lacks it: nothing to mask
    with pytest.raises(InputError, match=rf"found '{names[1]}' \(did you mean '{names[1]}-3305'\?\)"):
        _check_bad(replace(job, bad=(names[1],)), stream_world.bundle, SimpleNamespace(facts=facts))


def test_a_model_without_live_decoding_says_how_to_get_it(stream_world, tmp_path, capsys):
    words = ["--recording", str(stream_world.recording)]
    assert main(["stream", str(tmp_path), *words]) == 2
    assert "with --set live=true writes it" in capsys.readouterr().err


def test_what_is_no_candidate_or_another_person_or_no_picture_is_said(stream_world, tmp_path, capsys):
    other = tmp_path / "sub-09_task-main_meg.fif"
    shutil.copy(stream_world.recording, other)
    events = tmp_path / "sub-09_task-main_events.tsv"
    events.write_text("onset\tstimulus_id\n0.6\tsomething\n")
    words = ["stream", str(stream_world.model_dir), "--recording", str(other)]
    words += ["--speed", "max", "--seconds", "3", "--hop", "100"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "the recording is of subject 09, the model of subject 01" in told
    assert "(shown: something, no candidate)" in told
    events.write_text("onset\tstimulus_id\n9.6\tsomething\n")
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "no picture appeared: see --events" in told
    assert "nan" not in told


def test_a_log_of_another_model_is_refused(stream_world, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    words = ["--speed", "max", "--seconds", "1", "--hop", "100", "--log", str(log)]
    assert run(stream_world, *recording(stream_world), *words) == 0
    lines = log.read_text().splitlines()
    header = json.loads(lines[0]) | {"bundle": "other"}
    log.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    assert main(["stream", str(stream_world.model_dir), "--source", "log", "--recording", str(log)]) == 2
    assert "expected a log of this model" in capsys.readouterr().err


def _small_bundle() -> StreamBundle:
    """Return a bundle of one window and two sensors."""
    space = SensorSpace(
        ("A", "B"), ("mag", "mag"), {"01": np.eye(2), "02": np.eye(2)}, 100.0, np.arange(4) / 100
    )
    return StreamBundle(
        model="meg-module",
        seed=0,
        dataset="toy",
        subject="01",
        session="01",
        run="1",
        role="retrieval",
        target="toy",
        space=space,
        signal=SignalRecipe((Filter(0.5, phase="causal"),), 100.0),
        recipe=None,
        windows=np.array([4]),
        gallery=Latents(np.ones((2, 1, 3), np.float32), np.array(["a", "b"], dtype=object), "toy", "true"),
        predicted_mean=np.zeros((1, 3)),
        true_mean=np.zeros(3),
        evidence={1: Evidence(0.5, np.ones(1), 0.1, np.ones(1), 20, 2)},
    )


@pytest.mark.parametrize(
    "change",
    [
        {"session": "02"},
        {"run": "2"},
        {"true_mean": np.ones(3)},
        {"predicted_mean": np.ones((1, 3))},
        {"target": "clip"},
        {"evidence": {1: Evidence(0.8, np.ones(1), 0.1, np.ones(1), 20, 2)}},
    ],
)
def test_a_bundle_with_anything_else_that_answers_depend_on_is_another(change):
    bundle = _small_bundle()
    header = {"bundle": bundle_hash(bundle)}
    assert is_log_of(header, bundle)
    assert not is_log_of(header, replace(bundle, **change))


def test_a_log_of_an_earlier_version_is_still_read():
    bundle = _small_bundle()
    # what earlier versions hashed of this bundle, and wrote
    frozen = [bundle.signal.hash, "", ["a", "b"], [[1, 0.5, [1.0]]]]
    header = {"bundle": data_hash(frozen, bundle.windows, bundle.predicted_mean)}
    assert is_log_of(header, bundle)
    assert not is_log_of(header, replace(bundle, windows=np.array([3])))


def test_a_preview_never_waits_and_the_latest_wins():
    drawn: list[Any] = []
    gate = threading.Event()

    def draw(prediction: int) -> np.ndarray:
        gate.wait(10.0)
        return np.full((1, 1, 3), prediction, np.uint8)

    preview = Preview(draw, lambda image, tag: drawn.append((int(image[0, 0, 0]), tag)))
    began = time.perf_counter()
    preview.offer(1, "a")
    while preview._waiting is not None:  # until it is being drawn
        time.sleep(0.001)
    for number in range(2, 12):
        preview.offer(number, "b")
    assert time.perf_counter() - began < 1.0
    gate.set()
    preview.close()
    assert drawn == [(1, "a"), (11, "b")]
    assert (preview.n_drawn, preview.n_dropped, preview.error) == (2, 9, "")


def test_a_preview_that_fails_says_so_and_ends_nothing():
    def draw(prediction: Any) -> np.ndarray:
        raise RuntimeError("no memory")

    preview = Preview(draw, lambda image, tag: None)
    preview.offer(1)
    preview.close()
    preview.offer(2)
    assert preview.error == "RuntimeError: no memory"
    assert preview.n_dropped == 1


def test_previews_are_drawn_by_a_generator_of_the_encoders_targets(
    kandinsky_folder, open_clip_folder, tmp_path
):
    generators = pytest.importorskip(
        "braindecode_suite.decoders.generators", reason="diffusers is not installed"
    )
    generator = generators.make_generator("tiny-kandinsky", tmp_path, kandinsky_folder, open_clip_folder)
    name = generator.inputs["image"]
    draw = make_draw(generator, {"retrieval": {"name": name}, "image": {"name": name}})
    values = np.random.default_rng(0).standard_normal((1, 1, 16), dtype=np.float32)
    latents = {"image": Latents(values, np.array([""], dtype=object), name, "predicted")}
    image = draw(latents)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    with pytest.raises(InputError, match=r"`preview`: expected image = .*; found image = 'other'"):
        make_draw(generator, {"image": {"name": "other"}})


def test_quantiles_of_the_histogram_are_those_of_the_durations():
    rng = np.random.default_rng(0)
    durations = rng.lognormal(-4, 1, 20000)
    latencies = Latencies()
    for seconds in durations:
        latencies.add({"total": seconds})
    row = latencies.summary()["total"]
    for share in (0.5, 0.95, 0.99):
        assert row[f"p{round(100 * share)}_ms"] == pytest.approx(
            1000 * np.quantile(durations, share), rel=0.01
        )
    assert row["mean_ms"] == pytest.approx(1000 * durations.mean())
    assert row["max_ms"] == pytest.approx(1000 * durations.max())
    assert sum(count for _, count in latencies.stages["total"].bins()) == 20000
    assert "p99" in latencies.report()


PAGE_FACTS = {
    "about": "a model <b>of</b> somebody",
    "gallery": ["cat", "</script><script>document.title = 'broken'</script>", "cup"],
    "pictures": True,
    "first": 0.1,
    "last": 0.4,
    "hop_ms": 25.0,
    "confidence": 0.8,
}


def make_hop(window: int, **changes: Any) -> dict[str, Any]:
    return {
        "trial": 1,
        "label": "cup",
        "window": window,
        "time": 0.1 + 0.1 * window,
        "ranked": ["cup", PAGE_FACTS["gallery"][1], "cat"],  # type: ignore[index]
        "scores": [0.5, 0.25, 0.125],
        "probabilities": [0.7 + 0.1 * window, 0.2 - 0.05 * window, 0.1 - 0.05 * window],
        "confidence": 0.7 + 0.1 * window,
        "likeliest": "cup",
        "decided": window == 2,
        "last": window == 2,
        "flags": ["samples were missing"],
        "ms": {"encoder": 5.0 + window, "total": 9.0 + window},
    } | changes


@pytest.fixture
def page():
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    pictures = np.full((3, 4, 4, 3), 200, np.uint8)
    one = StreamPage(PAGE_FACTS, pictures)
    yield one
    one.close()


def ask(page: StreamPage, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", page._port, timeout=5)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for key, value in headers.items():
        connection.putheader(key, value)
    connection.endheaders()
    return connection.getresponse()


@NEEDS_AIOHTTP
def test_the_page_runs_only_its_own_script_and_names_no_other_place(page):
    answer = ask(page, "/")
    text = answer.read().decode()
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status == 200
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert policy == content_policy(nonce)
    assert policy.startswith("default-src 'none';")
    assert text.count(f'nonce="{nonce}"') == 3
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "</script><script>document.title" not in text
    other = ask(page, "/").headers["Content-Security-Policy"]
    assert other != policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@NEEDS_AIOHTTP
@pytest.mark.parametrize("path", ["/", "/events", "/picture/0"])
def test_requests_that_name_another_host_or_come_from_another_site_are_refused(page, path):
    port = page._port
    assert ask(page, path, Host=f"evil.example:{port}").status == 403
    assert ask(page, path, Host="127.0.0.1").status == 403
    assert ask(page, path, Host=f"127.0.0.1:{port}", Origin="http://evil.example").status == 403
    assert ask(page, path, Host=f"localhost:{port}", Origin=f"http://localhost:{port}").status == 200


@NEEDS_AIOHTTP
def test_the_page_listens_on_this_machine_only_and_a_taken_port_is_refused(page):
    with pytest.raises(InputError, match=rf"port {page._port}: expected a port that is free; found"):
        StreamPage(PAGE_FACTS, None, page._port)
    import socket

    here = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in here - {"127.0.0.1"}:
        if address.startswith("127."):
            continue
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, page._port), timeout=2)


@NEEDS_AIOHTTP
def test_pictures_are_png_and_there_are_no_others(page):
    answer = ask(page, "/picture/2")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.read()[:4] == b"\x89PNG"
    assert ask(page, "/picture/3").status == 404
    assert ask(page, "/preview").status == 404
    assert ask(page, "/picture/-1").status == 404
    page.show_preview(np.zeros((4, 4, 3), np.uint8), 1)
    assert ask(page, "/preview").status == 200


class Browser:
    """Headless Chromium with one page open, asked through its debugging port."""

    def __init__(self, profile: Path, url: str) -> None:
        assert BROWSER is not None
        command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = profile / "DevToolsActivePort"
        wait_for(lambda: port_file.is_file() and port_file.read_text().count("\n") >= 1, 30.0)
        self.port = int(port_file.read_text().splitlines()[0])
        self.loop = asyncio.new_event_loop()

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression on the page, None while there is no page yet."""
        return self.loop.run_until_complete(self._evaluate(expression))

    async def _evaluate(self, expression: str) -> Any:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self.port}/json/list") as answer:
                pages = [
                    one for one in await answer.json() if one["type"] == "page" and "127.0.0.1" in one["url"]
                ]
            if not pages:
                return None
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
                call = {"id": 1, "method": "Runtime.evaluate"}
                await socket.send_json(call | {"params": {"expression": expression, "returnByValue": True}})
                return (await socket.receive_json())["result"]["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10.0)
        self.loop.close()


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    until = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < until, "waited in vain"
        time.sleep(0.05)


@NEEDS_AIOHTTP
@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_a_browser_shows_ranked_pictures_evidence_latency_and_flags_as_they_come(page, tmp_path):
    page.publish("flag", {"text": "channels are ignored"})
    browser = Browser(tmp_path / "profile", page.url)
    try:
        wait_for(lambda: page._listeners)
        page.publish("hop", make_hop(0))
        wait_for(lambda: browser.evaluate("document.body.dataset.hops") == "1")
        assert browser.evaluate("document.getElementById('state').textContent") == "likeliest: cup (70.0 %)"
        for window in (1, 2):
            page.publish("hop", make_hop(window))
        page.show_preview(np.full((4, 4, 3), 90, np.uint8), 1)
        wait_for(lambda: "of picture 1" in (browser.evaluate("document.body.textContent") or ""))
        wait_for(
            lambda: browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth === 4)")
        )
        dom = browser.evaluate("document.documentElement.outerHTML")
        assert (
            browser.evaluate("document.title") == "Live decoding"
        )  # no name of a picture is run as a script
        assert browser.evaluate("document.getElementById('state').className") == "decided"
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        injected = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
        assert browser.evaluate(f"(() => {{ {injected} return window.ran === undefined }})()")
        page.publish("end", {"why": "ended"})
        wait_for(
            lambda: (
                browser.evaluate("document.getElementById('state').textContent") == "the run is over: ended"
            )
        )
    finally:
        browser.close()
    assert "decided: cup (90.0 %)" in dom
    assert "picture 1, 300 ms after it appeared" in dom
    assert dom.count("<li>") + dom.count("<li class=") == 3
    assert 'src="/picture/2"' in dom
    assert "1. cup (shown)" in dom
    assert dom.count('<path class="c') == 3
    assert dom.count("<rect") == 3
    assert "dashed: the hop, 25 ms" in dom
    assert "samples were missing" in dom
    assert "flag channels are ignored" in dom
    assert "a model &lt;b&gt;of&lt;/b&gt; somebody" in dom


@NEEDS_AIOHTTP
def test_the_run_shows_itself_on_the_page(stream_world, capsys, monkeypatch):
    shown: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(StreamPage, "publish", lambda self, kind, facts: shown.append((kind, facts)))
    words = ["--speed", "max", "--seconds", "3", "--hop", "100", "--page", "0"]
    assert run(stream_world, *recording(stream_world), *words) == 0
    assert "page: http://127.0.0.1:" in capsys.readouterr().out
    kinds = [kind for kind, _ in shown]
    assert kinds.count("hop") >= 4
    assert kinds[-1] == "end"


def test_help_says_what_every_option_does(capsys):
    with pytest.raises(SystemExit):
        main(["stream", "--help"])
    text = capsys.readouterr().out
    for option in (
        "--source",
        "--recording",
        "--speed",
        "--hop",
        "--confidence",
        "--page",
        "--log",
        "--json",
        "--parity",
    ):
        assert option in text


def test_an_open_recording_is_a_stream_of_its_samples(stream_world):
    raw = open_recording(stream_world.recording)
    source = replay_raw(raw, "x.fif", chunk=100)
    chunk = source.read(0.0)
    assert chunk is not None
    assert_allclose(chunk.data, raw.get_data(stop=100), rtol=0, atol=0)
    assert source.facts.source == "file x.fif"
    assert isinstance(stream_world.recording, Path)

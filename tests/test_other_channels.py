"""What the eyes alone say: above chance where the eye channel carries the picture, at chance where a channel does not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from braindecode_suite.cli import main
from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError, MissingChannels
from braindecode_suite.core.manifest import RunLog
from braindecode_suite.core.score import read_scores
from braindecode_suite.datasets.bids_meg import BidsMegOptions
from braindecode_suite.workflows import meg, other_channels
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.other_channels import OtherChannels, find_other_channels, same_trials
from braindecode_suite.workflows.results import result_path
from braindecode_suite.workflows.steps import Steps
from tests.meg_files import SENSORS, SFREQ, make_events, make_raw, write_run

TOP1 = "retrieval_brain_to_image_top1"
N = 100
SMALL = [
    "n_seeds=1",
    "generator=''",
    "gallery_sizes=[]",
    "shuffled_train=false",
    "occlusion=false",
    "n_bootstrap=200",
    "dataset_options={tmin: -0.1, tmax: 0.4, sfreq: 60}",
    "encoder_settings={channels: 8, hidden: 8, features: 16, training: {epochs: 1}}",
    "time={width: 0.25, stride: 0.25, generalisation_every: 0, growing_every: 0}",
]


def write_coloured(folder: Path) -> None:
    """Write colours that the eye channel follows, red, green and blue one after the other, and noise everywhere else."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (N, 3))
    (folder / "stimuli").mkdir(parents=True)
    for k, colour in enumerate(colours):
        pixels = np.broadcast_to(colour.astype(np.uint8), (32, 32, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "stimuli" / f"image-{k:02d}.png")
    for run in (1, 2):
        order = rng.permutation(N)
        events = make_events(N, every=0.6, ids=[f"image-{k:02d}" for k in order])
        n_samples = int(SFREQ * (events["onset"].max() + 1.5))
        raw = make_raw(1e-13 * rng.standard_normal((len(SENSORS), n_samples)))
        eye = 1e-6 * rng.standard_normal(n_samples)
        for onset, k in zip(events["onset"], order, strict=True):
            for part in range(3):
                start = round((onset + 0.05 + 0.1 * part) * SFREQ)
                eye[start : start + round(0.1 * SFREQ)] += 1e-6 * (colours[k, part] - 128) / 20
        raw._data[raw.ch_names.index("EOG 061")] = eye
        far = mne.io.RawArray(
            1e-13 * rng.standard_normal((2, n_samples)),
            mne.create_info(["REF 1", "REF 2"], SFREQ, "ref_meg", verbose="error"),
            verbose="error",
        )
        raw.add_channels([far], force_update_info=True)
        path = write_run(folder, raw, events, run=run)
        sidecar = path.with_name(path.name.replace("_meg.fif", "_channels.tsv"))
        table = pd.read_csv(sidecar, sep="\t")
        table["type"] = ["MEGMAG"] * len(SENSORS) + ["TRIG", "EOG", "MEGREFMAG", "MEGREFMAG"]
        table.to_csv(sidecar, sep="\t", index=False)


def run(data: Path, out: Path, *more: str) -> int:
    settings = [part for text in (*SMALL, *more) for part in ("--set", text)]
    where = ["run", str(data), str(out), "participant", "--participant-label", "01", "--workflow", "meg"]
    return main([*where, *settings])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eyes") / "data"
    write_coloured(folder)
    return folder


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eyes") / "out"
    assert run(data, folder) == 0
    return folder


def test_eyes_that_follow_the_picture_are_above_chance_and_other_channels_are_not(out: Path) -> None:
    scores = read_scores(result_path(out, "01", "meg", "scores.tsv"))
    rows = scores[
        (scores["metric"] == TOP1)
        & (scores["level"] == "mean-prediction")
        & scores["time_start"].isna()
        & (scores["scorer"] == "cosine-centred")
    ]
    plain = rows[rows["versus"] == ""].set_index(["model", "control"])
    eye, reference = plain.loc[("ridge", "eye")], plain.loc[("ridge", "reference")]
    assert eye["gallery"] == reference["gallery"] == plain.loc[("ridge", "brain")]["gallery"]
    assert eye["ci_low"] > 2 * eye["chance"]
    assert reference["ci_low"] <= reference["chance"]
    differences = rows[rows["model"] == "ridge"].set_index("versus")["value"]
    brain = plain.loc[("ridge", "brain")]["value"]
    assert differences["eye"] == pytest.approx(brain - eye["value"])
    assert differences["reference"] == pytest.approx(brain - reference["value"])
    assert len(plain.loc[["ridge"]]) >= 3


def test_the_report_names_the_channels(out: Path) -> None:
    page = (out / "sub-01.html").read_text()
    assert "ridge, eye signals alone" in page
    assert "ridge, reference channels alone" in page
    facts = json.loads(result_path(out, "01", "meg", "facts.json").read_text())
    told = "Control eye: ridge on 1 channels alone (EOG 061), same trials, split and penalties."
    assert told in facts["notes"]


def test_channels_that_were_asked_for_and_not_recorded_are_refused_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path / "out", "controls_from=[eyegaze]") == 2
    assert "`controls_from`: expected channels of type eyegaze in every run" in capsys.readouterr().err


@pytest.mark.parametrize("value", [[], ["eog", "eog"], ["meg"], "eog"])
def test_types_that_are_no_controls_are_refused(value: list[str] | str) -> None:
    with pytest.raises(InputError, match="controls_from"):
        build(MegWorkflowConfig, {"controls_from": value}, "config")


def test_a_type_without_brackets_says_how_a_list_is_written() -> None:
    with pytest.raises(
        InputError, match=r"controls_from: auto, none, or a list of types of channels, as \[eog\]"
    ):
        build(MegWorkflowConfig, {"controls_from": "eog"}, "config")


def trials(*onsets: float) -> pd.DataFrame:
    return pd.DataFrame({"stimulus_id": "a", "session": "01", "run": 1, "onset": onsets})


class Recorded:
    """A dataset of which each type of channels opens, lacks in some run, or is broken."""

    card = SimpleNamespace(name="recorded")
    options_class = BidsMegOptions

    def open(self, *_: object, kinds: list[str]) -> SimpleNamespace:
        if "pupil" in kinds:
            raise InputError("run.tsv", expected="a whole table", found="half of one")
        if "eyegaze" in kinds:
            raise MissingChannels("run.fif", expected="channels", found="mag")
        return SimpleNamespace(kinds=kinds, trials=trials(1.0, 2.0) if kinds == ["eog"] else trials(1.0))


JOB = SimpleNamespace(dataset=Recorded(), data_dir=None, subject="01", work_dir=None)
LIKE = SimpleNamespace(trials=trials(1.0, 2.0))


def test_channels_that_cannot_be_preprocessed_are_a_skipped_step_when_all_else_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def prepare(study: object, split: object) -> None:
        raise InputError(
            "session 1", expected="at least 2 rows to whiten by", found="0 of 9 rows with values"
        )

    monkeypatch.setattr(meg, "filtered", lambda study: study)
    workflow = object.__new__(meg.MegWorkflow)
    workflow.config, workflow.decoding = MegWorkflowConfig(), SimpleNamespace(prepare=prepare)  # type: ignore[assignment]
    log = RunLog([])
    other = OtherChannels("eye", SimpleNamespace())  # type: ignore[arg-type]
    decoded = SimpleNamespace(prepared=SimpleNamespace(split=None))
    workflow._other_channels(Steps(tmp_path, log, {}), decoded, other)  # type: ignore[arg-type]
    (skipped,) = [step for step in log.steps if step.status == "skipped"]
    assert skipped.name == "eye channels alone"
    assert "at least 2 rows to whiten by" in skipped.detail


def test_what_cannot_be_read_is_not_taken_for_not_recorded() -> None:
    found, missing = find_other_channels(JOB, {}, "auto", LIKE)  # type: ignore[arg-type]
    assert found == []
    assert missing["eye"] == "run.tsv: expected a whole table; found half of one"
    assert "channels of type ref_meg: expected the 2 trials of the sensors; found 1" in missing["reference"]
    with pytest.raises(InputError, match=r"run\.tsv: expected a whole table"):
        find_other_channels(JOB, {}, ("eog", "pupil"), LIKE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the 2 trials of the sensors; found 1 that are not the same"):
        find_other_channels(JOB, {}, ("ref_meg",), LIKE)  # type: ignore[arg-type]


def test_as_many_trials_at_other_times_are_not_the_same_trials() -> None:
    study = SimpleNamespace(trials=trials(1.0, 2.0))
    assert same_trials(study, LIKE)  # type: ignore[arg-type]
    assert not same_trials(SimpleNamespace(trials=trials(1.0, 2.5)), LIKE)  # type: ignore[arg-type]
    assert not same_trials(SimpleNamespace(trials=trials(1.0)), LIKE)  # type: ignore[arg-type]


def test_types_that_some_run_lacks_are_left_out_unless_they_were_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(other_channels, "BY_DEFAULT", ("eog", "eyegaze"))
    (eye,), missing = find_other_channels(JOB, {}, "auto", LIKE)  # type: ignore[arg-type]
    assert (eye.control, vars(eye.study)["kinds"], missing) == ("eye", ["eog"], {})
    monkeypatch.setattr(other_channels, "BY_DEFAULT", ("eyegaze",))
    _, missing = find_other_channels(JOB, {}, "auto", LIKE)  # type: ignore[arg-type]
    assert missing == {"eye": "no channels of type eyegaze in every run"}
    with pytest.raises(InputError, match="`controls_from`: expected channels of type eyegaze in every run"):
        find_other_channels(JOB, {}, ("eog", "eyegaze"), LIKE)  # type: ignore[arg-type]

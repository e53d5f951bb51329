"""Sensors to a report on the smallest simulated study: windows, courses, jitters, the evoked response, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from braindecode_suite.cli import main
from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import read_scores
from braindecode_suite.datasets.simulate_meg_parameters import MEG_SIZES
from braindecode_suite.workflows.meg import causal_cost
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.results import model_dir, result_path
from braindecode_suite.workflows.scoring import Settings
from braindecode_suite.workflows.sensor_occlusion import spread_sensors
from braindecode_suite.workflows.sensor_recipe import SensorRecipe
from tests.eeg2_files import write_eeg2

TOP1 = "retrieval_brain_to_image_top1"
SMALL = [
    "simulation.size=seconds",
    "simulation.jitter_ms=0",
    "jitters=[0,60]",
    "live=true",
    "learning_curve=[0.4,0.7]",
    "people=['01','03','02']",
    "people_curve=true",
    "calibration_minutes=[0,1]",
    "n_seeds=1",
    "generator=''",
    "gallery_sizes=[]",
    "shuffled_train=false",
    "n_bootstrap=200",
    "dataset_options.sfreq=40",
    "encoder_settings={channels: 8, hidden: 8, features: 16, training: {epochs: 2}}",
    "time={stride: 0.1, generalisation_every: 0.2, growing_every: 0.25}",
]


def run(out: Path, *more: str) -> int:
    settings = [part for text in SMALL for part in ("--set", text)]
    where = ["simulated-meg", str(out), "participant", "--participant-label", "01", "--workflow", "meg"]
    return main(["run", *where, *settings, *more])


@pytest.fixture(scope="module", autouse=True)
def three_people() -> Iterator[None]:
    """A third person in the smallest simulated study, so that people can be added one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MEG_SIZES, "seconds", MEG_SIZES["seconds"].model_copy(update={"n_subjects": 3}))
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meg") / "out"
    assert run(folder) == 0
    return folder


@pytest.fixture(scope="module")
def scores(out: Path) -> pd.DataFrame:
    return read_scores(result_path(out, "01", "meg", "scores.tsv"))


@pytest.fixture(scope="module")
def facts(out: Path) -> dict:
    return dict(json.loads(result_path(out, "01", "meg", "facts.json").read_text()))


def test_every_window_is_a_row_with_chance_and_interval(scores: pd.DataFrame) -> None:
    windows = scores[scores["time_start"].notna()]
    graded = windows[windows["metric"] == "retrieval_identification"]
    assert (graded["chance"] == 0.5).all()
    assert len(graded) == len(windows[windows["metric"] == "feature_identification_early"])
    windows = windows[windows["metric"] == TOP1]
    assert set(windows["model"]) == {"ridge", "meg-module, growing"}
    sliding = windows[(windows["model"] == "ridge") & (windows["level"] == "mean-prediction")]
    assert np.allclose(sliding["time_stop"] - sliding["time_start"], 0.1)
    assert sliding["time_start"].iloc[0] == -0.2
    assert (windows["chance"] == 1 / 8).all()
    assert ((windows["ci_low"] <= windows["value"]) & (windows["value"] <= windows["ci_high"])).all()
    assert {"single", "mean-prediction"} == set(windows[windows["model"] == "ridge"]["level"])
    growing = windows[windows["model"] == "meg-module, growing"]
    assert (growing["time_start"] == -0.2).all()


def test_rows_of_averaged_predictions_say_over_how_many_repeats(scores: pd.DataFrame) -> None:
    rows = scores[(scores["level"] == "mean-prediction") & (scores["split"] == "as-given")]
    whole = rows[rows["time_start"].isna() & (rows["metric"] == TOP1) & (rows["versus"] == "")]
    (repeats,) = set(whole["n_repeats"])
    assert repeats > 1
    windows = rows[rows["time_start"].notna()]
    assert {"retrieval_identification", "feature_identification_early", TOP1} <= set(windows["metric"])
    assert (windows["n_repeats"] == repeats).all()


def test_the_whole_epoch_stands_in_the_headline_not_a_window(scores: pd.DataFrame, out: Path) -> None:
    whole = scores[scores["time_start"].isna() & (scores["metric"] == TOP1) & (scores["split"] == "as-given")]
    assert set(whole["model"]) == {"meg-module", "ridge"}
    config = json.loads((model_dir(out, "01", "meg") / "config.json").read_text())
    assert {figure["model"] for figure in config["figures"]} == {"meg-module", "ridge"}
    assert config["run"]["workflow"] == "meg"
    assert SensorRecipe(**config["run"]["sensors"]).order == ("scale", "whiten", "baseline", "clip")


def test_a_jitter_is_another_study_with_its_own_oracle(scores: pd.DataFrame, facts: dict) -> None:
    lines = {line["jitter_ms"]: line["split"] for line in facts["jitters"]}
    assert lines == {0: "as-given", 60: "as-given (jitter 60 ms)"}
    jittered = scores[scores["split"] == lines[60]]
    assert set(jittered["model"]) == {"meg-module", "ridge"}
    ceilings = jittered[(jittered["metric"] == TOP1) & (jittered["versus"] == "")]["ceiling"].dropna()
    assert len(ceilings)
    assert ceilings.between(0, 1).all()


def test_courses_say_what_was_before_the_picture(facts: dict) -> None:
    course = facts["time"]["sliding"]
    for level in course["levels"]:
        assert level["before_onset"]["windows"] == 2  # of 100 ms from -200 ms
        assert level["before_onset"]["upper"] >= level["before_onset"]["highest"]
    assert course["picture_seconds"] == 0.5
    assert "both directions" in course["note"]
    peaks = facts["time"]["identification"]["levels"][0]["peaks"]
    assert [(p["name"], p["simulated"]) for p in peaks] == [
        ("after onset", [0.1, 0.225]),
        ("after offset", pytest.approx([0.61, 0.68])),
    ]
    early = next(x for x in facts["time"]["features"]["levels"] if x["level"] == "early")
    assert early["peaks"][0]["simulated"] == [0.1, 0.1]
    known = facts["time"]["generalisation"]
    assert np.shape(known["values"]) == (len(known["times"]),) * 2


def test_the_evoked_response_is_a_file_of_mne(out: Path, facts: dict) -> None:
    assert facts["sensors"]["unit"] == "interquartile ranges"  # models see whitened sensors
    evoked = mne.read_evokeds(result_path(out, "01", "meg", "ave.fif"), verbose="error")[0]
    assert evoked.data.shape == (275, 41)
    assert evoked.times[0] == pytest.approx(-0.2)
    assert mne.find_layout(evoked.info).kind == "CTF-275"


def test_what_causal_filters_cost_is_paired_over_images_and_of_one_seed() -> None:
    ids = np.array([f"{k:02d}" for k in range(20)], dtype=object)
    settings = Settings(subject="01", split="drawn", seed=0, n_bootstrap=200, n_permutations=1000)

    def rows(model: str, seed: str, first: np.ndarray) -> list[dict[str, Any]]:
        same = {"model": model, "seed": seed, "scorer": "cosine-centred", "direction": "brain_to_image"}
        return [{**same, "stimulus_id": i, "rank": int(not hit)} for i, hit in zip(ids, first, strict=True)]

    some, most, none = np.arange(20) < 8, np.arange(20) < 12, np.zeros(20)
    plain = [*rows("deep", "4", most), *rows("deep", "5", none), *rows("linear", "", some)]
    causal = [*rows("deep", "4", some), *rows("linear", "", some)]
    cost = causal_cost(causal, plain, ("deep", "linear"), "4", ids, settings)
    assert cost["deep"]["value"] == pytest.approx(-0.2)
    assert cost["deep"]["low"] < -0.2 < cost["deep"]["high"] <= 0
    assert cost["linear"] == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
    }  # the same images: unpaired it would be wide


def test_live_decoding_finds_what_it_needs(out: Path, facts: dict, scores: pd.DataFrame) -> None:
    from braindecode_suite.workflows.stream_bundle import read_stream_bundle

    bundle, _ = read_stream_bundle(model_dir(out, "01", "meglive"))
    assert bundle.facts["calibration_chose_model"] is True
    assert bundle.signal.causal
    assert bundle.facts["dataset_options"]["phase"] == "causal"
    assert len(bundle.windows) > 1
    assert bundle.pictures is not None
    assert facts["causal"]["delay_ms"] > 0
    plain = scores[(scores["metric"] == TOP1) & (scores["versus"] == "") & scores["time_start"].isna()]
    plain = plain[(plain["scorer"] == "cosine-centred") & (plain["level"] == "mean-prediction")]
    plain = plain[plain["control"] == "brain"]
    for model, cost in facts["causal"]["cost"].items():
        before, after = (
            plain[(plain["split"] == split) & (plain["model"] == model)].iloc[0]["value"]
            for split in ("as-given", facts["causal"]["split"])
        )
        assert cost["value"] == pytest.approx(after - before)
        assert cost["low"] <= cost["value"] <= cost["high"]
    causal = scores[scores["split"] == facts["causal"]["split"]]
    assert set(causal["model"]) == {"meg-module", "ridge"}


def test_a_learning_curve_has_a_point_for_each_share_and_one_for_all(
    scores: pd.DataFrame, facts: dict
) -> None:
    known = facts["learning_curve"]
    shares, trials = zip(*[(line["share"], line["trials"]) for line in known["amounts"]], strict=True)
    assert shares == (0.4, 0.7, 1.0)
    assert trials[0] < trials[1] < trials[2] == facts["splits"][0]["trials"]["train"]
    rows = scores[(scores["metric"] == TOP1) & (scores["versus"] == "") & (scores["control"] == "brain")]
    rows = rows[(rows["scorer"] == "cosine-centred") & (rows["candidates"] == "all")]
    rows = rows[rows["time_start"].isna() & (rows["level"] == "mean-prediction")]
    for model in known["models"]:
        for line, point in zip(known["amounts"], model["points"], strict=True):
            row = rows[(rows["split"] == line["split"]) & (rows["model"] == model["model"])]
            assert row["value"].tolist() == pytest.approx([point["value"]])
    whole, ridge = known["amounts"][-1]["split"], rows[rows["model"] == "ridge"].set_index("split")["value"]
    assert ridge.loc[whole] == ridge.loc["as-given"]  # a closed form, whatever other roles it was fitted to


def test_other_people_train_and_only_the_subject_is_tested(scores: pd.DataFrame, facts: dict) -> None:
    own, pooled, none, some = facts["people"]
    assert set(own["trials"]) == {"01"}
    assert pooled["trials"]["01"] == own["trials"]["01"]
    assert pooled["trials"]["02"] == none["trials"]["02"] > 0 == none["trials"]["01"]
    assert 0 < some["trials"]["01"] < own["trials"]["01"]
    assert 0 < some["calibration_minutes"] <= 1
    rows = scores[(scores["metric"] == TOP1) & scores["time_start"].isna() & (scores["versus"] == "")]
    for group in facts["people"]:
        of = rows[rows["split"] == group["split"]]
        assert set(of["model"]) == {"meg-module", "ridge"}
        assert (of["n"] == 8).all()
    ridge = rows[
        (rows["model"] == "ridge") & (rows["control"] == "brain") & (rows["scorer"] == "cosine-centred")
    ]
    ridge = ridge[ridge["level"] == "mean-prediction"].set_index("split")["value"]
    gain = pooled["gain"]["ridge"]
    assert gain["value"] == pytest.approx(ridge[pooled["split"]] - ridge[own["split"]])
    assert gain["low"] <= gain["value"] <= gain["high"]


def test_a_person_who_did_not_train_is_proved_so_and_flagged(facts: dict) -> None:
    own, pooled, none, some = facts["people"]
    assert "subject" in none["disjoint"]
    assert "subject" not in some["disjoint"]
    assert all("sub-01 is none of the people" in text for text in none["warnings"])
    assert {text.split(":")[0] for text in none["warnings"]} == {"meg-module", "ridge"}
    assert own["warnings"] == pooled["warnings"] == some["warnings"] == []
    assert none["transductive"] == ["01"]
    assert own["transductive"] == pooled["transductive"] == []


def test_people_are_added_one_by_one_and_nobody_is_fitted_twice(scores: pd.DataFrame, facts: dict) -> None:
    beside, none, some = facts["people_curves"]
    assert [[list(point["trials"]) for point in curve["amounts"]] for curve in facts["people_curves"]] == [
        [["01"], ["01", "03"], ["01", "03", "02"]],
        *([["01", "03"], ["01", "03", "02"]],) * 2,
    ]
    assert [point["amount"] for point in beside["amounts"]] == [1, 2, 3]
    assert [point["amount"] for point in none["amounts"]] == [point["amount"] for point in some["amounts"]]
    assert [point["trials"]["01"] > 0 for point in none["amounts"] + some["amounts"]] == [False] * 2 + [
        True
    ] * 2
    ends = [beside["amounts"][0], *(curve["amounts"][-1] for curve in (beside, none, some))]
    assert [{key: end[key] for key in end if key != "amount"} for end in ends] == facts["people"]
    rows = scores[(scores["metric"] == TOP1) & (scores["versus"] == "") & (scores["control"] == "brain")]
    rows = rows[(rows["scorer"] == "cosine-centred") & (rows["candidates"] == "all")]
    rows = rows[rows["time_start"].isna() & (rows["level"] == "mean-prediction")]
    for curve in (beside, none, some):
        for model in curve["models"]:
            for amount, point in zip(curve["amounts"], model["points"], strict=True):
                row = rows[(rows["split"] == amount["split"]) & (rows["model"] == model["model"])]
                assert row["value"].tolist() == pytest.approx([point["value"]])  # one row, of one fit
    done = [step["name"] for step in facts["steps"] if step["name"].startswith("fit meg-module seed 0 (")]
    people = [name for name in done if "alone" in name or "sub-0" in name]
    assert len(people) == len(set(people)) == 7


@pytest.mark.parametrize(("people", "found"), [("['07']", "found 07"), ("['01']", "found sub-01 alone")])
def test_people_who_are_not_there_are_refused(
    people: str, found: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(out.rglob("work/simulated-meg"))
    assert (
        run(
            tmp_path / "out",
            "--data-dir",
            str(data),
            "--set",
            f"people={people}",
            "--set",
            "people_curve=false",
        )
        == 2
    )
    told = capsys.readouterr().err
    assert f"`people`: expected labels of others among 02, 03; {found}" in told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("calibration_minutes=[50]", "`minutes` 50: expected less than the"),
        ("baseline=mindeye", "takes no people that it was not fitted to"),
        ("people=['01','03']", "`people_curve`: expected at least two others in `people`; found 03"),
    ],
)
def test_what_cannot_be_calibrated_ends_the_run_before_anything_is_fitted(
    setting: str, told: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(out.rglob("work/simulated-meg"))
    assert run(tmp_path / "out", "--data-dir", str(data), "--set", setting) == 2
    assert told in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("fit-*"))


def test_a_share_that_is_too_small_ends_the_run_before_anything_is_fitted(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(out.rglob("work/simulated-meg"))
    assert run(tmp_path / "out", "--data-dir", str(data), "--set", "learning_curve=[0.1,0.5]") == 2
    told = capsys.readouterr().err
    assert "share 0.1 of the training images" in told
    assert "at least 20 training images" in told
    assert not list((tmp_path / "out").rglob("fit-*"))


def test_preprocessing_begins_with_what_the_recordings_went_through(facts: dict) -> None:
    assert [step["name"] for step in facts["recipe"]] == [
        "filter",
        "resample",
        "robust-scale",
        "whiten",
        "baseline",
        "clip",
    ]


def test_the_report_shows_sensors_courses_and_jitters(out: Path) -> None:
    page = (out / "sub-01.html").read_text()
    for text in (
        "What could be decoded when",
        "Where the sensors lie",
        "Jitter of latencies",
        "compare models within a line, not lines",
        "Where the decoder reads",
        "What causal filtering costs",
        "top 1 of the whole gallery (8 images, chance 0.125, 95\u00a0% intervals over images).",
        "Forwards only minus both directions, same seed, paired over images",
        "Maps of one time on the samples of another",
        "highest before onset",
        "What is early and what is late",
        "Simulated: when the responses were made to peak",
        "100 to 225 ms",
        "What more data add",
        "Trained on several people, tested on this one",
        "Score against people who train",
        "how much the curve would vary with which people were drawn",
        "their mean standardisation stands in",
    ):
        assert text in page, text


def test_the_figures_of_the_card_are_recomputed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = next(out.rglob("work/simulated-meg"))
    assert main(["verify", str(model_dir(out, "01", "meg")), "--data-dir", str(data)]) == 0
    assert "DIFFERENT" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def captioned(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions") / "out"
    brief = (
        "jitters=[]",
        "live=false",
        "learning_curve=[]",
        "people=[]",
        "people_curve=false",
        "calibration_minutes=[]",
        "occlusion=false",
        "time={stride: 0.5, growing_every: 0, generalisation_every: 0}",
        "generator=tiny-kandinsky",
        "generator_settings.steps=4",
        "n_images=2",
        "published=false",
        "text_target=tiny-clip:text",
    )
    settings = [part for text in brief for part in ("--set", text)]
    data = next(out.rglob("work/simulated-meg"))
    assert run(folder, "--data-dir", str(data), *settings) == 0
    return folder


def test_images_are_retrieved_by_their_captions_and_by_both(captioned: Path, scores: pd.DataFrame) -> None:
    table = read_scores(result_path(captioned, "01", "meg", "scores.tsv"))
    rows = table[table["time_start"].isna() & (table["metric"] == TOP1) & (table["versus"] == "")]
    rows = rows[rows["scorer"] == "cosine-centred"]
    targets = rows.groupby("model")["target"].unique().map(list)
    image, text = targets["ridge"][0], targets["ridge, text"][0]
    assert text != image
    assert targets["ridge, image and text"] == targets["meg-module, image and text"] == [f"{image} + {text}"]
    both = table[(table["model"] == "meg-module, image and text") & (table["metric"] == TOP1)]
    assert {"ridge, image and text", "meg-module"} <= set(both["versus"])
    # the ridge is a closed form: captions beside leave what it says of images as it was
    before, after = (
        one[(one["model"] == "ridge") & (one["metric"] == TOP1) & (one["level"] == "mean-prediction")]
        for one in (scores[scores["time_start"].isna() & (scores["split"] == "as-given")], rows)
    )
    before = before[(before["scorer"] == "cosine-centred") & (before["control"] == "brain")]
    assert before["value"].tolist() == after[after["control"] == "brain"]["value"].tolist()
    told = json.loads(result_path(captioned, "01", "meg", "facts.json").read_text())
    assert set(told["text_head"]["weights"]) == {"meg-module", "ridge"}
    assert any("have the captions of another" in note for note in told["notes"])
    assert any("Among candidates the predicted caption chooses too" in note for note in told["notes"])
    assert "meg-module, image and text" in (captioned / "sub-01.html").read_text()


def test_figures_of_captions_do_not_stand_on_the_card_and_those_of_images_are_recomputed(
    captioned: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((model_dir(captioned, "01", "meg") / "config.json").read_text())
    assert {figure["model"] for figure in config["figures"]} == {"meg-module", "ridge"}
    data = next(out.rglob("work/simulated-meg"))
    assert main(["verify", str(model_dir(captioned, "01", "meg")), "--data-dir", str(data)]) == 0
    assert "DIFFERENT" not in capsys.readouterr().out


def test_a_target_of_images_is_no_text_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--dry-run", "--set", "text_target=tiny-clip") == 2
    assert "`text_target`: expected a target of captions; found 'tiny-clip'" in capsys.readouterr().err


def test_the_plan_names_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--dry-run") == 0
    plan = capsys.readouterr().out
    for text in (
        "ridge on sliding windows",
        "windows of random length",
        "jitter of 60 ms",
        "0.4 of the training images",
        "calibrate live",
    ):
        assert text in plan, text


def test_recordings_without_sensors_are_refused_before_anything_is_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["simulated-nsd", str(tmp_path), "participant", "--participant-label", "01"]
    assert main(["run", *arguments, "--workflow", "meg", "--set", "simulation.size=seconds"]) == 2
    assert (
        "expected recordings of sensors (MEG or EEG); found voxels of simulated-nsd"
        in capsys.readouterr().err
    )


def test_jitters_of_recordings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "things-eeg2",
        str(tmp_path / "out"),
        "participant",
        "--data-dir",
        str(tmp_path),
        "--dry-run",
    ]
    assert main(["run", *arguments, "--set", "jitters=[30]"]) == 2
    assert "`jitters`: expected none for recorded data" in capsys.readouterr().err


def test_live_decoding_of_epochs_that_cannot_be_filtered_causally_is_refused_before_anything_is_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_eeg2(tmp_path / "data")
    where = ["participant", "--participant-label", "01", "--data-dir", str(tmp_path / "data")]
    assert main(["run", "things-eeg2", str(tmp_path / "out"), *where, "--set", "live=true"]) == 2
    assert (
        "`live`: expected continuous recordings, which can be filtered forwards only; found epochs of things-eeg2"
        in capsys.readouterr().err
    )


def test_sensors_that_are_masked_lie_apart_and_have_places() -> None:
    where = np.array([[0.5, 0.5], [0.0, 0.0], [0.05, 0.0], [1.0, 1.0], [np.nan, np.nan]])
    assert spread_sensors(where, 3).tolist() == [0, 1, 3]
    assert sorted(spread_sensors(where, 9).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sensors": {"order": ["clip", "scale"]}}, "'scale' comes before it"),
        ({"sensors": {"order": ["scale", "scale"]}}, "each step once"),
        ({"jitters": [30, 30]}, "each jitter once"),
        ({"time": {"width": 0}}, "width"),
        ({"learning_curve": [0.5]}, "at least two different shares"),
        ({"calibration_minutes": [0]}, "needs other people"),
        ({"people": ["02", "02"]}, "people: each once"),
        ({"people": ["02"], "people_curve": True}, "people_curve: needs at least two other people"),
        ({"people": ["02"], "calibration_minutes": [1, 1]}, "each amount once"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(MegWorkflowConfig, settings, "config")

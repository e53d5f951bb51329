"""A saved model gives its card's figures again, and refuses what it was not fitted on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from braindecode_suite.cli import main
from braindecode_suite.core.manifest import RunLog
from braindecode_suite.datasets import digits69
from braindecode_suite.datasets.digits69 import FILE
from braindecode_suite.workflows.results import model_dir, publish, stage
from braindecode_suite.workflows.steps import Steps
from tests.test_image_prior import drawn_digits, quick_job


def test_the_cards_figures_are_recomputed_from_model_and_data(
    finished_run: Path, simulated_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_dir(finished_run, "01", "mindeye")
    assert main(["verify", str(folder), "--data-dir", str(simulated_folder)]) == 0
    shown = capsys.readouterr().out
    figures = json.loads((folder / "config.json").read_text())["figures"]
    assert f"{len(figures)} of {len(figures)} figures verified" in shown
    assert {(figure["model"], figure["seed"]) for figure in figures} == {
        ("mindeye", "0"),
        ("mindeye", "1"),
        ("ridge", ""),
    }
    card = (folder / "README.md").read_text()
    assert all(f"{figure['value']:.4f}" in card for figure in figures)


def test_a_card_that_promises_too_much_is_found_out(
    finished_run: Path, simulated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir(finished_run, "01", "mindeye"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["figures"] = config["figures"][:1]
    config["figures"][0]["value"] += 0.05
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["verify", str(folder), "--data-dir", str(simulated_folder)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_the_checkpoint_of_another_subject_is_refused_naming_both(
    finished_run: Path, simulated_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_dir(finished_run, "01", "mindeye")
    words = ["verify", str(folder), "--data-dir", str(simulated_folder), "--participant-label", "02"]
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "expected subjects = ['01']; found subjects = ['02']" in lines[0]


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder of the workflow image-prior, from drawn discs, and the data."""
    data, folder = tmp_path_factory.mktemp("discs"), tmp_path_factory.mktemp("reconstructed")
    savemat(data / FILE, drawn_digits(np.random.default_rng(1)))
    steps = Steps(folder / "steps", RunLog([]), {"subject": "01"})
    results = quick_job(data, folder, "shuffled_train_repetitions=0").run(steps)
    stage(results, folder / "staging", "01", "imageprior")
    publish(folder / "staging", folder / "out", "01", "imageprior")
    return model_dir(folder / "out", "01", "imageprior"), data


def test_reconstructions_of_a_saved_model_give_the_cards_figures_again(
    reconstructed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = reconstructed
    assert main(["verify", str(folder), "--data-dir", str(data)]) == 0
    shown = capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert "9 of 9 figures verified" in shown
    assert {(f["model"], f["metric"]) for f in config["figures"]} == {
        (model, metric)
        for model in ("image-prior", "inverted-encoding", "ridge")
        for metric in ("identification", "ssim", "pixcorr")
    }
    assert all(figure["n"] == 10 for figure in config["figures"])
    assert config["run"]["protocol"] == "digits69-published"
    card = (folder / "README.md").read_text()
    assert all(f"{figure['value']:.4f}" in card for figure in config["figures"])
    assert "Donders" in card


def test_reconstructions_that_are_promised_better_are_found_out(
    reconstructed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reconstructed[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["figures"][1]["value"] += 0.001
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["verify", str(folder), "--data-dir", str(reconstructed[1])]) == 1
    assert "8 of 9 figures verified" in capsys.readouterr().out
    config["run"]["prior"]["temperature"] = 5.0  # the posterior read another way is another model
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["verify", str(folder), "--data-dir", str(reconstructed[1])]) == 1
    shown = capsys.readouterr().out
    assert [line.startswith("image-prior") for line in shown.splitlines() if "DIFFERENT" in line].count(
        True
    ) >= 2


def test_other_test_images_do_not_give_the_cards_figures(
    reconstructed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = drawn_digits(np.random.default_rng(1))
    savemat(tmp_path / FILE, content | {"stimTest": content["stimTest"][::-1]})
    assert main(["verify", str(reconstructed[0]), "--data-dir", str(tmp_path)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_no_fold_of_a_cross_validation_is_saved_as_the_model(
    reconstructed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits69, "N_REPEATS", 1)
    log = RunLog([])
    job = quick_job(
        reconstructed[1],
        tmp_path,
        "protocol=digits69-10x10fold",
        "grid.folds=2",
        "shuffled_train_repetitions=0",
    )
    results = job.run(Steps(tmp_path / "steps", log, {"subject": "01"}))
    assert not results.models
    (skipped,) = [step for step in log.steps if step.status == "skipped"]
    assert skipped.detail.startswith("each protocol has many splits")


def test_a_model_of_a_workflow_that_cannot_be_made_again_is_named(
    finished_run: Path, simulated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir(finished_run, "01", "mindeye"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["run"]["workflow"] = "mindeye2"
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["verify", str(folder), "--data-dir", str(simulated_folder)]) == 2
    assert (
        "`workflow`: expected one of encode, image-prior, meg, mindeye; found 'mindeye2'"
        in capsys.readouterr().err
    )


def test_a_folder_that_bds_run_did_not_save_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"models": {}}')
    assert main(["verify", str(tmp_path), "--data-dir", str(tmp_path)]) == 2
    assert "config.json: expected models, run and figures; found no run, figures" in capsys.readouterr().err

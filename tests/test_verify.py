"""A saved model gives its card's figures again, and refuses what it was not fitted on."""

import json
import shutil
from pathlib import Path

import pytest

from braindecode_suite.cli import main
from braindecode_suite.workflows.results import model_dir


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


def test_a_folder_that_bds_run_did_not_save_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"models": {}}')
    assert main(["verify", str(tmp_path), "--data-dir", str(tmp_path)]) == 2
    assert "config.json: expected models, run and figures; found no run, figures" in capsys.readouterr().err

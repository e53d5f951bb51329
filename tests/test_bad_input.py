"""What a user can get wrong: one line that names the file, exit code 2, and earlier results as they were."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from braindecode_suite.cli import main

BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"


def earlier_results(out: Path) -> dict[Path, str]:
    """Leave results of an earlier run, and return their content."""
    folder = out / "sub-01" / "decoding"
    folder.mkdir(parents=True)
    (folder / "sub-01_desc-mindeye_scores.tsv").write_text("earlier scores")
    (out / "sub-01.html").write_text("earlier report")
    return {path: path.read_text() for path in out.rglob("*") if path.is_file()}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with exit code 2 and one line on stderr, and return the line."""
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def truncate(data: Path) -> None:
    path = data / BETAS / "betas_session02.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put_nan(data: Path) -> None:
    path = data / BETAS / "betas_session02.hdf5"
    with h5py.File(path, "r") as file:
        betas = file["betas"][:].astype(np.float32)
    betas[3] = np.nan
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=betas, chunks=(len(betas), 1, 1, 1))


def reshape_mask(data: Path) -> None:
    path = data / "nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz"
    image = nib.Nifti1Image.from_filename(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)


def show_an_image_that_is_not_there(data: Path) -> None:
    path = data / "nsddata/experiments/nsd/nsd_expdesign.mat"
    design = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    design["subjectim"][0, 0] = 60_000
    savemat(path, design)


@pytest.mark.parametrize(
    ("spoil", "file"),
    [
        (truncate, "betas_session02.hdf5"),
        (put_nan, "betas_session02.hdf5"),
        (reshape_mask, "nsdgeneral.nii.gz"),
        (show_an_image_that_is_not_there, "nsd_expdesign.mat"),
    ],
)
def test_a_spoiled_release_is_named_and_earlier_results_stay(
    spoil: Callable[[Path], None],
    file: str,
    simulated_folder: Path,
    fast_run: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(simulated_folder, data)
    spoil(data)
    before = earlier_results(out)
    words = [
        "run",
        "simulated-nsd",
        str(out),
        "participant",
        "--participant-label",
        "01",
        "--data-dir",
        str(data),
    ]
    line = refused([*words, *fast_run, "--set", "generator=''"], capsys)
    assert line.startswith("sub-01: ")
    assert file in line
    assert "expected" in line
    assert "found" in line
    assert {path: path.read_text() for path in before} == before
    assert not list(out.glob(".staging*"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A folder of one's own with 30 images."""
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f"picture{k}" for k in range(30)]
    for stimulus_id in ids:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            folder / "images" / f"{stimulus_id}.png"
        )
    np.save(folder / "responses.npy", rng.normal(size=(60, 5)))
    pd.DataFrame({"stimulus_id": ids * 2}).to_csv(folder / "trials.tsv", sep="\t", index=False)
    return folder


def drop_the_column(folder: Path) -> None:
    pd.DataFrame({"picture": ["picture0"] * 60}).to_csv(folder / "trials.tsv", sep="\t", index=False)


def lose_an_image(folder: Path) -> None:
    (folder / "images" / "picture7.png").unlink()


def keep_few_images(folder: Path) -> None:
    pd.DataFrame({"stimulus_id": [f"picture{k}" for k in range(15)] * 4}).to_csv(
        folder / "trials.tsv", sep="\t", index=False
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_the_column, r"trials.tsv: expected .*stimulus_id.*; found .*picture"),
        (lose_an_image, r"picture7"),
        (keep_few_images, r"expected at least 20 training images; found \d+"),
    ],
)
def test_a_spoiled_table_is_named_and_earlier_results_stay(
    spoil: Callable[[Path], None],
    message: str,
    table: Path,
    fast_run: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    spoil(table)
    before = earlier_results(tmp_path / "out")
    settings = [*fast_run, "--set", "generator=''", "--set", "simulation={}"]
    line = refused(["run", str(table), str(tmp_path / "out"), "participant", *settings], capsys)
    assert re.search(message, line), line
    assert {path: path.read_text() for path in before} == before


def test_an_output_folder_that_cannot_be_written_is_named(
    simulated_folder: Path, fast_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "file" / "out"
    words = ["run", "simulated-nsd", str(out), "participant", "--data-dir", str(simulated_folder), *fast_run]
    assert f"{out}: expected a folder that can be written; found Not a directory" in refused(words, capsys)


def test_an_unknown_subject_is_named_with_those_there_are(
    simulated_folder: Path, fast_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "simulated-nsd", str(tmp_path / "out"), "participant", "--participant-label", "07"]
    line = refused([*words, "--data-dir", str(simulated_folder), *fast_run], capsys)
    assert "`--participant-label`: expected labels among 01, 02, 03; found 07" in line


def test_other_subjects_go_on_when_one_fails(
    simulated_folder: Path, fast_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(simulated_folder, data)
    truncate(data)
    minimal = ["generator=''", "n_seeds=1", "shuffled_train=false", "second_protocols=[]", "n_relabellings=0"]
    words = [
        "run",
        "simulated-nsd",
        str(out),
        "participant",
        "--participant-label",
        "01",
        "02",
        "--data-dir",
        str(data),
    ]
    assert main([*words, *fast_run, *(word for setting in minimal for word in ("--set", setting))]) == 2
    shown = capsys.readouterr()
    assert [line.split()[:2] for line in shown.out.strip().splitlines()] == [
        ["sub-01:", "failed:"],
        ["sub-02:", "done,"],
    ]
    assert (out / "sub-02.html").is_file()
    assert not (out / "sub-01.html").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("n_relabellings=5", r"n_relabellings.*0 or at least 200 refits"),
        ("n_permutations=100", r"n_permutations.*1000"),
        ("n_bootstrap=10", r"n_bootstrap.*100"),
    ],
)
def test_too_few_resamplings_are_refused_before_anything_is_fitted(
    setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "simulated-nsd", str(tmp_path), "participant", "--dry-run", "--set", setting]
    assert re.search(message, refused(words, capsys))


def test_folds_that_share_images_are_refused_where_images_are_retrieved(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = pd.read_csv(table / "trials.tsv", sep="\t").assign(run=["1"] * 20 + ["2"] * 20 + ["3"] * 20)
    trials.to_csv(table / "trials.tsv", sep="\t", index=False)
    words = ["run", "table", str(tmp_path / "out"), "participant", "--data-dir", str(table)]
    line = refused([*words, "--set", "protocol=leave-one-run-out", "--set", "generator=''"], capsys)
    assert "expected one training part, and no image on two sides" in line
    assert "random-by-image" in line

"""Results are staged whole and put into place without touching anybody else's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import Score, read_scores
from braindecode_suite.core.spaces import VoxelSpace
from braindecode_suite.datasets import DATASETS, bids_fmri
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study
from braindecode_suite.workflows import WORKFLOWS
from braindecode_suite.workflows.configuration import load_config
from braindecode_suite.workflows.results import (
    ResultImage,
    SubjectResults,
    decoding_dir,
    model_dir,
    prepare_output,
    publish,
    result_path,
    stage,
)
from braindecode_suite.workflows.runner import Run, describe_source
from tests.parcels_files import write_parcels


def make_results(tmp_path: Path, value: float = 0.5, n_images: int = 2) -> SubjectResults:
    mask = np.zeros((2, 2, 2), bool)
    mask[0, :, :] = True
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    rng = np.random.default_rng(0)
    images = [
        ResultImage(
            stimulus_id=f"im/{k}", control="truth", pixels=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        )
        for k in range(n_images)
    ]
    return SubjectResults(
        scores=[Score(subject="01", metric="identification", value=value)],
        facts={"seeds": [0], "study": {"n_trials": np.int64(3)}},
        latents={"ids": np.array(["a", "b"], dtype=object), "image_true": np.zeros((2, 1, 3), np.float32)},
        similarity={"ridge_seed-0_cosine": np.eye(2, dtype=np.float32)},
        retrieval=[{"stimulus_id": "a", "model": "ridge", "rank": 0, "gallery": 2}],
        images=images,
        history=[{"model": "mindeye", "seed": "0", "epoch": 1, "train_loss": 0.25}],
        maps={"ncsnr": np.arange(4.0)},
        space=VoxelSpace(mask, np.eye(4)),
        models={"ridge_seed-0.safetensors": weights},
        model_config={"models": {}},
        model_card="# card\n",
    )


def write(output_dir: Path, results: SubjectResults, label: str = "mindeye") -> None:
    staging = output_dir / ".staging"
    stage(results, staging, "01", label)
    publish(staging, output_dir, "01", label)


def test_everything_lies_where_the_results_folder_says(tmp_path: Path) -> None:
    import nibabel as nib
    from PIL import Image

    out = tmp_path / "out"
    prepare_output(out, {"Name": "simulated-nsd"})
    results = make_results(tmp_path)
    write(out, results)
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert read_scores(result_path(out, "01", "mindeye", "scores.tsv"))["value"].tolist() == [0.5]
    with np.load(result_path(out, "01", "mindeye", "latents.npz"), allow_pickle=False) as stored:
        assert stored["ids"].tolist() == ["a", "b"]
    statistic = nib.Nifti1Image.from_filename(result_path(out, "01", "mindeye", "stat-ncsnr_statmap.nii.gz"))
    np.testing.assert_array_equal(statistic.get_fdata()[0], [[0, 1], [2, 3]])
    rows = result_path(out, "01", "mindeye", "images.tsv").read_text().splitlines()
    path = decoding_dir(out, "01") / rows[1].split("\t")[5]
    np.testing.assert_array_equal(np.asarray(Image.open(path)), results.images[0].pixels)
    assert (model_dir(out, "01", "mindeye") / "ridge_seed-0.safetensors").read_bytes() == b"weights"
    assert not (out / ".staging").exists()


def test_new_results_replace_only_those_of_their_own_workflow(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, make_results(tmp_path, 0.1), "imageprior")
    write(out, make_results(tmp_path, 0.2, n_images=3))
    write(out, make_results(tmp_path, 0.3, n_images=1))
    assert read_scores(result_path(out, "01", "imageprior", "scores.tsv"))["value"].tolist() == [0.1]
    assert read_scores(result_path(out, "01", "mindeye", "scores.tsv"))["value"].tolist() == [0.3]
    images = decoding_dir(out, "01") / "images"
    assert len(list((images / "desc-imageprior").glob("*.png"))) == 2
    assert len(list((images / "desc-mindeye").glob("*.png"))) == 1


def test_files_that_a_new_run_no_longer_makes_are_gone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, make_results(tmp_path))
    without = make_results(tmp_path)
    without.space = None
    without.models = {}
    write(out, without)
    assert not model_dir(out, "01", "mindeye").exists()
    assert not result_path(out, "01", "mindeye", "stat-ncsnr_statmap.nii.gz").exists()


def test_two_images_of_one_name_are_our_own_mistake(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    results.images.append(results.images[0])
    with pytest.raises(ValueError, match=r"two images are called im-0_truth\.png"):
        stage(results, tmp_path / "staging", "01", "mindeye")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        InputError, match=r"file/out: expected a folder that can be written; found Not a directory"
    ):
        prepare_output(tmp_path / "file" / "out")


def test_results_of_two_datasets_do_not_share_a_folder(tmp_path: Path) -> None:
    prepare_output(tmp_path, {"Name": "nsd"})
    prepare_output(tmp_path, {"Name": "nsd"})
    with pytest.raises(
        InputError, match=r"expected results of table; found results of nsd .*folder of its own"
    ):
        prepare_output(tmp_path, {"Name": "table"})


# ------------------------------------------------------------------------------------------ whose recordings these are


def write_study(folder: Path, seed: int = 0, labels: tuple[str, ...] = ("01", "02")) -> Path:
    """Write a table of one's own for some subjects; other seeds are other people who saw the same."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    for k in range(25):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"images/im{k}.png")
    for label in labels:
        (folder / f"sub-{label}").mkdir()
        np.save(folder / f"sub-{label}" / "responses.npy", rng.normal(size=(25, 4)))
        rows = "".join(f"im{k}\n" for k in range(25))
        (folder / f"sub-{label}" / "trials.tsv").write_text(f"stimulus_id\n{rows}")
    return folder


def start(data: Path, out: Path, *subjects: str, name: str = "table") -> None:
    """Do what a run does before it works on the first subject."""
    workflow = WORKFLOWS["mindeye"]
    run = Run(
        dataset=DATASETS[name],
        data_dir=data,
        output_dir=out,
        work_dir=out / "work",
        workflow=workflow,
        config=load_config(workflow, "tiny"),
        subjects=subjects,
    )
    prepare_output(out, describe_source(run))


def test_results_of_two_tables_do_not_share_a_folder(tmp_path, capsys):
    one, other = write_study(tmp_path / "one"), write_study(tmp_path / "other", seed=1)
    out = tmp_path / "out"
    start(one, out)
    before = (out / "dataset_description.json").read_text()
    assert main(["run", "table", str(out), "participant", "--data-dir", str(other)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (
        "dataset_description.json: expected results of this folder of table; found results of another one"
        in line
    )
    assert "whose sub-01 has other recordings (give each dataset an output folder of its own" in line
    assert (out / "dataset_description.json").read_text() == before
    assert str(tmp_path) not in before


def test_a_table_that_was_moved_or_has_grown_is_the_same(tmp_path):
    data, out = write_study(tmp_path / "data"), tmp_path / "out"
    start(data, out, "01")
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    data.rename(moved)
    start(moved, out, "02")
    trials = moved / "sub-01" / "trials.tsv"
    rows = trials.read_text().splitlines()
    trials.write_text("\n".join([f"{rows[0]}\tsplit", *(f"{row}\ttrain" for row in rows[1:])]) + "\n")
    (moved / "sub-03").mkdir()
    np.save(moved / "sub-03" / "responses.npy", np.ones((1, 4)))
    (moved / "sub-03" / "trials.tsv").write_text("stimulus_id\nim3\n")
    start(moved, out)
    (source,) = json.loads((out / "dataset_description.json").read_text())["SourceDatasets"]
    assert source["Name"] == "table"
    assert sorted(source["Identity"]) == ["01", "02", "03"]
    prepare_output(out)  # the group level knows nothing of the data
    assert json.loads((out / "dataset_description.json").read_text())["SourceDatasets"] == [source]


def test_one_corrected_subject_of_several_is_the_same_study_and_a_lone_one_is_not(tmp_path):
    data, out = write_study(tmp_path / "data"), tmp_path / "out"
    start(data, out)
    np.save(data / "sub-01" / "responses.npy", np.zeros((25, 4)))
    start(data, out)
    lone = write_study(tmp_path / "lone", labels=("01",))
    start(lone, tmp_path / "other")
    np.save(lone / "sub-01" / "responses.npy", np.zeros((25, 4)))
    with pytest.raises(
        InputError, match=r"whose sub-01 has other .*if it was corrected since, delete this file"
    ):
        start(lone, tmp_path / "other")
    (tmp_path / "other" / "dataset_description.json").unlink()
    start(lone, tmp_path / "other")


def test_another_folder_of_other_subjects_is_refused(tmp_path):
    start(write_study(tmp_path / "one", labels=("01", "02")), tmp_path / "out")
    with pytest.raises(InputError, match="found results of another one, of sub-01, sub-02"):
        start(write_study(tmp_path / "other", labels=("A", "B")), tmp_path / "out")


def test_a_subject_that_cannot_be_read_says_nothing_of_the_others(tmp_path):
    data, out = write_study(tmp_path / "data"), tmp_path / "out"
    start(data, out)
    (data / "sub-01" / "trials.tsv").write_text("nothing")
    start(data, out)
    start(data, out, "01")


def test_results_of_two_bids_studies_do_not_share_a_folder(tmp_path):
    small = BoldParameters(shape=(4, 4, 3), images=12, repeats=1, sessions=(), runs=2)
    write_bold_study(tmp_path / "one", small)
    write_bold_study(tmp_path / "other", small, seed=7)
    out = tmp_path / "out"
    start(tmp_path / "one", out, "01", name="bids-fmri")
    (tmp_path / "one").rename(tmp_path / "moved")
    start(tmp_path / "moved", out, "01", name="bids-fmri")
    with pytest.raises(
        InputError, match="expected results of this folder of bids-fmri; found results of another"
    ):
        start(tmp_path / "other", out, "01", name="bids-fmri")


def test_only_the_participants_asked_for_are_looked_at(tmp_path, monkeypatch):
    small = BoldParameters(shape=(4, 4, 3), images=12, repeats=1, sessions=(), runs=2)
    write_bold_study(tmp_path / "data", small)
    shutil.copytree(tmp_path / "data" / "sub-01", tmp_path / "data" / "sub-99")
    seen = []
    monkeypatch.setattr(bids_fmri, "list_files", lambda home: seen.append(home.name) or [])
    start(tmp_path / "data", tmp_path / "out", "01", name="bids-fmri")
    assert set(seen) == {"sub-01"}


def test_results_of_two_folders_of_parcels_do_not_share_a_folder(tmp_path):
    for name, n_times in (("one", 15), ("other", 16)):
        write_parcels(tmp_path / name, n_times=n_times)
    start(tmp_path / "one", tmp_path / "out", name="parcels")
    with pytest.raises(InputError, match="expected results of this folder of parcels"):
        start(tmp_path / "other", tmp_path / "out", name="parcels")


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{")
    with pytest.raises(
        InputError, match=r"dataset_description\.json: expected a dataset description \(JSON\)"
    ):
        prepare_output(tmp_path, {"Name": "nsd"})

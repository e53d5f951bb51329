"""Results are staged whole and put into place without touching anybody else's."""

import json
from pathlib import Path

import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import Score, read_scores
from braindecode_suite.core.spaces import VoxelSpace
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
    prepare_output(out, [{"Name": "simulated-nsd"}])
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
    write(out, without)
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
    prepare_output(tmp_path, [{"Name": "nsd"}])
    prepare_output(tmp_path, [{"Name": "nsd"}])
    with pytest.raises(
        InputError, match=r"expected results of table; found results of nsd .*folder of its own"
    ):
        prepare_output(tmp_path, [{"Name": "table"}])

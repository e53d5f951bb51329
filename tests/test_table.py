"""`table`: a folder of one's own, in every form it may take, and every way it may be wrong."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.datasets.protocols import table_default
from braindecode_suite.datasets.table import TABLE

N_TRIALS, N_UNITS, N_IMAGES = 24, 5, 8


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(root / "responses.npy", rng.normal(size=(N_TRIALS, N_UNITS)))
    ids = [f"picture{k}" for k in range(N_IMAGES)]
    for k, stimulus_id in enumerate(ids):
        pixels = np.full((6, 9, 3), 20 * k, np.uint8)
        pixels[1, 2] = 255, 0, 7
        Image.fromarray(pixels).save(root / "images" / f"{stimulus_id}.png")
    trials = pd.DataFrame(
        {"stimulus_id": ids * 3, "session": np.repeat([1, 2], 12), "run": np.repeat([1, 2, 3, 4], 6)}
    )
    trials.to_csv(root / "trials.tsv", sep="\t", index=False)
    return root


def open_table(folder: Path, subject: str = "01", **options):
    return TABLE.open(folder, subject, folder.parent / "work", **options)


def change_trials(folder: Path, change) -> None:
    change(pd.read_csv(folder / "trials.tsv", sep="\t", dtype=str)).to_csv(
        folder / "trials.tsv", sep="\t", index=False
    )


def test_responses_trials_and_images_are_what_was_written(folder):
    study = open_table(folder)
    written = np.load(folder / "responses.npy")
    np.testing.assert_array_equal(study.read(np.array([5, 0, 5])), written[[5, 0, 5]].astype(np.float32))
    assert study.trials["repeat"].tolist() == [1] * 8 + [2] * 8 + [3] * 8
    picture = study.stimuli.images(["picture3", "picture0"])
    assert picture.shape == (2, 6, 9, 3)
    assert picture[0, 1, 2].tolist() == [255, 0, 7]
    assert picture[0, 0, 0].tolist() == [60, 60, 60]
    assert study.stimuli.captions("picture3") == []
    assert study.stimuli.distractors("picture3") is None


def test_an_hdf5_file_of_responses_reads_the_same(folder):
    expected = open_table(folder).read(np.array([9, 2, 2, 17]))
    with h5py.File(folder / "responses.h5", "w") as file:
        file["responses"] = np.load(folder / "responses.npy")
    (folder / "responses.npy").unlink()
    study = open_table(folder)
    np.testing.assert_array_equal(study.read(np.array([9, 2, 2, 17])), expected)
    np.testing.assert_array_equal(study.read(slice(2, 4)).shape, (2, N_UNITS))
    assert study.responses[3].shape == (N_UNITS,)


def test_a_mask_gives_the_way_back(folder):
    mask = np.zeros((3, 2, 2), np.uint8)
    mask[[0, 1, 1, 2, 2], [1, 0, 1, 0, 0], [0, 0, 1, 0, 1]] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2, 2, 1])), folder / "mask.nii.gz")
    pd.DataFrame({"unit": [0, 3, 4], "roi": ["V1", "V1", "FFA"]}).to_csv(
        folder / "rois.tsv", sep="\t", index=False
    )
    study = open_table(folder)
    assert study.space.rois["V1"].tolist() == [True, False, False, True, False]
    image = study.space.inverse_transform(np.arange(1.0, 6.0))
    np.testing.assert_array_equal(image.get_fdata()[mask > 0], [1, 2, 3, 4, 5])


def test_without_a_mask_nothing_says_where_units_lie(folder):
    with pytest.raises(InputError, match=r"give a mask\.nii\.gz"):
        open_table(folder).space.inverse_transform(np.zeros(N_UNITS))


def test_captions_and_attributes_are_attached(folder):
    pd.DataFrame({"stimulus_id": ["picture1"] * 2, "caption": ["a cup", "a red cup"]}).to_csv(
        folder / "captions.tsv", sep="\t", index=False
    )
    pd.DataFrame(
        {"stimulus_id": [f"picture{k}" for k in range(8)], "category": ["6", "9"] * 4, "x": np.arange(8) / 8}
    ).to_csv(folder / "attributes.tsv", sep="\t", index=False)
    stimuli = open_table(folder).stimuli
    assert stimuli.captions("picture1") == ["a cup", "a red cup"]
    assert stimuli.attributes.loc["picture3", "category"] == "9"
    assert stimuli.attributes["x"].sum() == pytest.approx(3.5)


def test_images_may_be_named_in_a_column(folder):
    (folder / "images" / "picture0.png").rename(folder / "images" / "first.png")
    change_trials(
        folder,
        lambda t: t.assign(
            image=t["stimulus_id"].map(lambda i: "first.png" if i == "picture0" else f"{i}.png")
        ),
    )
    assert open_table(folder).stimuli.images(["picture0"])[0, 0, 0].tolist() == [0, 0, 0]


def test_several_subjects_share_the_images_above_them(folder):
    for label in ("01", "02"):
        (folder / f"sub-{label}").mkdir()
        np.save(folder / f"sub-{label}" / "responses.npy", np.full((N_TRIALS, N_UNITS), float(label)))
        (folder / f"sub-{label}" / "trials.tsv").write_bytes((folder / "trials.tsv").read_bytes())
    (folder / "trials.tsv").unlink()
    (folder / "responses.npy").unlink()
    assert TABLE.subjects(folder) == ["01", "02"]
    study = open_table(folder, "02")
    assert study.read(slice(0, 1))[0, 0] == 2.0
    assert study.stimuli.images(["picture2"]).shape == (1, 6, 9, 3)


def test_the_default_protocol_takes_the_users_split_where_there_is_one(folder):
    assert table_default([open_table(folder)])[0].protocol == "random-by-image"
    change_trials(
        folder, lambda t: t.assign(split=["test" if i < "picture2" else "train" for i in t["stimulus_id"]])
    )
    split = table_default([open_table(folder)])[0]
    assert split.protocol == "as-given"
    assert split.keys("test", "stimulus") == {"picture0", "picture1"}
    assert len(split.keys("validation", "stimulus")) == 1


def test_the_check_tells_a_good_folder_from_a_bad_one(folder):
    (line,) = TABLE.check(folder)
    assert (line.status, line.found) == ("ok", "24 trials, 5 units, 8 images")
    (folder / "images" / "picture4.png").unlink()
    (line,) = TABLE.check(folder)
    assert line.status == "bad"
    assert line.path.endswith("picture4.png")


# --- bad input


def drop(column):
    return lambda folder: change_trials(folder, lambda t: t.drop(columns=column))


def put(column, value, row=4):
    def change(table):
        table.loc[row, column] = value
        return table

    return lambda folder: change_trials(folder, change)


def save(name, content):
    def do(folder):
        if isinstance(content, np.ndarray):
            np.save(folder / name, content)
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content, encoding="utf-8")

    return do


def remove(name):
    return lambda folder: (folder / name).unlink()


def with_nan(folder):
    values = np.load(folder / "responses.npy")
    values[7, 3] = np.nan
    np.save(folder / "responses.npy", values)


def wrong_mask(folder):
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), folder / "mask.nii.gz")


def small_image(folder):
    Image.new("RGB", (4, 4)).save(folder / "images" / "picture5.png")


def truncate_image(folder):
    path = folder / "images" / "picture5.png"
    path.write_bytes(path.read_bytes()[:45])


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (drop("stimulus_id"), r"trials\.tsv: expected a column 'stimulus_id'; found columns session, run"),
        (
            save("trials.tsv", "stimulus_id,run\na,1\n"),
            r"trials\.tsv: expected a column 'stimulus_id'; .*separated by tabs",
        ),
        (
            save("trials.tsv", "stimulus_id\npicture0\n"),
            r"trials\.tsv: expected 24 rows, one a response; found 1",
        ),
        (save("trials.tsv", ""), r"trials\.tsv: expected a tab-separated table"),
        (put("stimulus_id", "n/a"), r"trials\.tsv: expected a stimulus_id in every row; found none in row 5"),
        (
            put("stimulus_id", "nowhere"),
            r"nowhere\.png: expected the image of stimulus 'nowhere'.*found nothing there",
        ),
        (
            put("session", "two"),
            r"trials\.tsv: expected whole numbers in column 'session'; found 'two' in row 5",
        ),
        (put("run", "1.5"), r"trials\.tsv: expected whole numbers in column 'run'; found '1\.5' in row 5"),
        (remove("trials.tsv"), r"trials\.tsv: expected a table of trials; found nothing there"),
        (remove("responses.npy"), r"expected either responses\.npy or responses\.h5; found neither"),
        (
            save("responses.h5", b""),
            r"expected either responses\.npy or responses\.h5; found responses\.npy and",
        ),
        (save("responses.npy", b"\x93NUMPY"), r"responses\.npy: expected a whole array of numbers"),
        (save("responses.npy", np.zeros(24)), r"responses\.npy: expected numbers of shape \(trials, units\)"),
        (
            save("responses.npy", np.full((24, 2), "a")),
            r"responses\.npy: expected numbers of shape .*found <U1",
        ),
        (with_nan, r"responses\.npy: expected finite responses; found 1 NaN .*row 7, unit 3"),
        (wrong_mask, r"mask\.nii\.gz: expected a volume with 5 voxels above 0, one a unit; found 8"),
        (save("mask.nii.gz", b"no"), r"mask\.nii\.gz: expected a mask as NIfTI"),
        (small_image, r"picture5\.png: expected 9 x 6 pixels, as picture0\.png; found 4 x 4"),
        (truncate_image, r"picture5\.png: expected a whole image"),
        (save("images/picture5.png", "text"), r"picture5\.png: expected an image"),
        (save("rois.tsv", "unit\troi\n5\tV1\n"), r"rois\.tsv: expected units from 0 to 4; found 5"),
        (save("rois.tsv", "unit\n5\n"), r"rois\.tsv: expected a column 'roi'"),
        (save("captions.tsv", "stimulus_id\n5\n"), r"captions\.tsv: expected a column 'caption'"),
        (
            save("attributes.tsv", "stimulus_id\tcategory\na\tb\na\tc\n"),
            r"attributes\.tsv: expected each stimulus_id once",
        ),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(folder, spoil, match):
    spoil(folder)

    def use() -> None:
        study = open_table(folder)
        study.read(slice(None))
        study.stimuli.images(["picture5"])

    with pytest.raises(InputError, match=match) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_one_stimulus_with_two_images_is_refused(folder):
    change_trials(folder, lambda t: t.assign(image=[f"{i}.png" for i in t["stimulus_id"]]))
    put("image", "picture0.png")(folder)
    with pytest.raises(
        InputError, match=r"expected one image for stimulus 'picture4'; found picture0\.png and picture4"
    ):
        open_table(folder)


def test_an_object_array_is_not_unpickled(folder):
    np.save(folder / "responses.npy", np.array([[{}]] * N_TRIALS), allow_pickle=True)
    with pytest.raises(InputError, match=r"responses\.npy: expected a whole array of numbers"):
        open_table(folder)


def test_unknown_subjects_options_and_ids_are_refused(folder):
    with pytest.raises(UnknownName, match=r"`subject`: expected one of 01; found '02'"):
        open_table(folder, "02")
    with pytest.raises(InputError, match=r"`dataset_options` of table: expected one of unit; found 'roi'"):
        open_table(folder, roi="V1")
    with pytest.raises(UnknownName, match=r"expected an id of trials\.tsv; found 'picture9'"):
        open_table(folder).stimuli.images(["picture9"])

"""algonauts2023: the order of files, both hemispheres, regions, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.datasets.algonauts2023 import ALGONAUTS2023
from braindecode_suite.datasets.protocols_releases import algonauts2023
from tests.release_writers import write_algonauts

TRAINING = "subj01/training_split/training_fmri"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("algonauts")
    write_algonauts(folder)
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def test_a_known_vertex_of_a_known_image_comes_back(tmp_path):
    """Golden: rows follow the sorted names of the images, left vertices come before right ones."""
    images = tmp_path / "subj03" / "training_split" / "training_images"
    images.mkdir(parents=True)
    for k, nsd in ((2, 72999), (1, 845), (3, 13)):  # written in another order than their names
        Image.new("RGB", (4, 4), (k, 0, 0)).save(images / f"train-{k:04d}_nsd-{nsd:05d}.png")
    responses = tmp_path / "subj03" / "training_split" / "training_fmri"
    responses.mkdir()
    left, right = np.zeros((3, 2), np.float32), np.zeros((3, 4), np.float32)
    left[1, 1], right[2, 0] = 0.5, -2.5
    np.save(responses / "lh_training_fmri.npy", left)
    np.save(responses / "rh_training_fmri.npy", right)
    study = ALGONAUTS2023.open(tmp_path, "03", tmp_path)
    assert list(study.stimulus_ids) == ["845", "72999", "13"]
    np.testing.assert_array_equal(study.read(np.array([2, 1])), [[0, 0, -2.5, 0, 0, 0], [0, 0.5, 0, 0, 0, 0]])
    np.testing.assert_array_equal(study.stimuli.images(["72999", "13"])[:, 0, 0, 0], [2, 3])
    assert study.space.rois["lh"].sum() == 2
    assert study.noise is None


@pytest.mark.parametrize(("subject", "counts"), [("06", (18978, 20220)), ("08", (18981, 20530))])
def test_subjects_with_fewer_vertices_are_read_as_they_are(tmp_path, subject, counts):
    write_algonauts(tmp_path, subject=subject, counts=counts, n_train=4, n_test=2)
    study = ALGONAUTS2023.open(tmp_path, subject, tmp_path)
    assert study.n_units == study.space.n_units == sum(counts)
    assert study.space.rois["lh"].sum() == counts[0]
    assert study.read(np.array([5])).shape == (1, sum(counts))
    assert {line.status for line in ALGONAUTS2023.check(tmp_path)} == {"ok"}
    assert any(f"{counts[0]} + {counts[1]} vertices" in line.found for line in ALGONAUTS2023.check(tmp_path))


def test_regions_may_overlap_and_be_empty(made, tmp_path):
    study = ALGONAUTS2023.open(made, "01", tmp_path)
    rois = study.space.rois
    left = np.load(made / "subj01/roi_masks/lh.prf-visualrois_challenge_space.npy")
    right = np.load(made / "subj01/roi_masks/rh.prf-visualrois_challenge_space.npy")
    np.testing.assert_array_equal(rois["V1d"], np.concatenate([left, right]) == 2)
    assert (rois["V1v"] & rois["EBA"]).any()
    assert not rois["mTL-bodies"].any()
    assert "Unknown" not in rois
    assert any("without a vertex in this subject: mTL-bodies" in w for w in study.provenance["warnings"])


def test_values_go_back_to_fsaverage_left_vertices_first(made, tmp_path):
    study = ALGONAUTS2023.open(made, "01", tmp_path)
    values = study.read(np.array([3]))[0]
    images = study.space.inverse_transform(values)
    first = 0
    for side, name in (("left", "lh"), ("right", "rh")):
        places = np.flatnonzero(np.load(made / f"subj01/roi_masks/{name}.all-vertices_fsaverage_space.npy"))
        whole = images[side].darrays[0].data
        assert whole.shape == (163842,)
        np.testing.assert_array_equal(whole[places], values[first : first + len(places)])
        assert np.isnan(np.delete(whole, places)).all()
        first += len(places)
    assert first == study.n_units


def test_vertices_whose_place_is_not_known_have_no_brain_map(copy, tmp_path):
    (copy / "subj01/roi_masks/rh.all-vertices_fsaverage_space.npy").unlink()
    study = ALGONAUTS2023.open(copy, "01", tmp_path)
    assert isinstance(study.space, UnitSpace)
    assert any("no brain map" in warning for warning in study.provenance["warnings"])


def test_the_released_ceiling_is_that_of_one_row(made, tmp_path):
    study = ALGONAUTS2023.open(made, "01", tmp_path)
    folder = made / "subj01" / "test_split" / "noise_ceiling"
    released = np.concatenate([np.load(folder / f"{side}_noise_ceiling.npy") for side in ("lh", "rh")])
    np.testing.assert_allclose(study.noise.ceiling(np.ones(8)), released, rtol=1e-5, atol=1e-9)


def test_the_published_parts_are_the_split(made, tmp_path):
    study = ALGONAUTS2023.open(made, "01", tmp_path)
    (split,) = algonauts2023([study], seed=1)
    np.testing.assert_array_equal(split.test[0], np.arange(50, 58))
    assert sorted([*split.train[0], *split.validation[0]]) == list(range(50))
    assert any("as-released" in note for note in split.notes)


def test_without_test_responses_the_protocol_refuses(tmp_path):
    write_algonauts(tmp_path, test=False)
    study = ALGONAUTS2023.open(tmp_path, "01", tmp_path)
    assert len(study.trials) == 50
    assert any("test responses are not there" in warning for warning in study.provenance["warnings"])
    with pytest.raises(InputError, match=r"found only the training part \(the protocol random-by-image"):
        algonauts2023([study])
    assert [line.status for line in ALGONAUTS2023.check(tmp_path)] == ["ok", "optional-missing", "ok"]


def test_the_packed_folder_may_stand_between(made, tmp_path):
    shutil.copytree(made, tmp_path / "algonauts_2023_challenge_data")
    assert ALGONAUTS2023.subjects(tmp_path) == ["01"]
    assert len(ALGONAUTS2023.open(tmp_path, "subj01", tmp_path).trials) == 58


def test_opening_reads_no_responses(copy, tmp_path):
    path = copy / TRAINING / "rh_training_fmri.npy"
    values = np.load(path)
    values[4, 2] = np.nan
    np.save(path, values)
    study = ALGONAUTS2023.open(copy, "01", tmp_path)
    with pytest.raises(
        InputError,
        match=r"rh_training_fmri.npy: .*found 1 NaN or infinite values, the first of image 5, vertex 2",
    ):
        study.read(np.array([3, 5]))
    assert not list((tmp_path / "betas").iterdir())


def test_the_hemispheres_are_copied_once_and_again_when_a_file_changes(copy, tmp_path):
    study = ALGONAUTS2023.open(copy, "01", tmp_path / "work")
    parts = [np.load(copy / TRAINING / f"{side}_training_fmri.npy") for side in ("lh", "rh")]
    np.testing.assert_array_equal(study.read(np.array([7, 2])), np.hstack(parts)[[7, 2]])
    np.testing.assert_array_equal(study.read(slice(0, 50)), np.hstack(parts))
    (path,) = (tmp_path / "work" / "betas").iterdir()
    made = path.stat().st_mtime_ns
    again = ALGONAUTS2023.open(copy, "01", tmp_path / "work")
    np.testing.assert_array_equal(again.read(np.array([7])), np.hstack(parts)[[7]])
    assert path.stat().st_mtime_ns == made
    np.save(copy / TRAINING / "lh_training_fmri.npy", 2 * parts[0])
    np.testing.assert_array_equal(
        ALGONAUTS2023.open(copy, "01", tmp_path / "work").read(np.array([7]))[0, :7], 2 * parts[0][7]
    )
    assert len(list(path.parent.iterdir())) == 2


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_mapping_that_tries_to_run_code_stops_the_loader(copy, tmp_path):
    path = copy / "subj01" / "roi_masks" / "mapping_streams.npy"
    np.save(path, np.array({1: Runs(tmp_path / "ran")}), allow_pickle=True)
    with pytest.raises(
        InputError,
        match=r"mapping_streams.npy: expected .*a pickle that would call posix.mkdir \(it was not run\)",
    ):
        ALGONAUTS2023.open(copy, "01", tmp_path)
    assert any("would call" in line.found for line in ALGONAUTS2023.check(copy) if line.status == "bad")
    assert not (tmp_path / "ran").exists()


def break_images(folder: Path) -> None:
    place = folder / "subj01/training_split/training_images"
    next(iter(sorted(place.iterdir())[4:5])).unlink()


def two_of_one(folder: Path) -> None:
    place = folder / "subj01/training_split/training_images"
    first, second = sorted(place.iterdir())[:2]
    second.rename(place / f"train-0002_nsd-{first.name[-9:-4]}.png")


def same_in_test(folder: Path) -> None:
    train = sorted((folder / "subj01/training_split/training_images").iterdir())[0]
    place = folder / "subj01/test_split/test_images"
    first = sorted(place.iterdir())[0]
    first.rename(place / f"test-0001_nsd-{train.name[-9:-4]}.png")


def truncate(folder: Path) -> None:
    path = folder / TRAINING / "lh_training_fmri.npy"
    path.write_bytes(path.read_bytes()[:-100])


def fewer_vertices(folder: Path) -> None:
    path = folder / "subj01/test_split/test_fmri/lh_test_fmri.npy"
    np.save(path, np.load(path)[:, :-1])


def foreign_mask(folder: Path) -> None:
    path = folder / "subj01/roi_masks/rh.floc-faces_challenge_space.npy"
    np.save(path, np.zeros(4, np.int32))


def unnamed_value(folder: Path) -> None:
    path = folder / "subj01/roi_masks/rh.floc-faces_challenge_space.npy"
    np.save(path, np.load(path) * 7)


def wrong_place(folder: Path) -> None:
    path = folder / "subj01/roi_masks/lh.all-vertices_fsaverage_space.npy"
    vertices = np.load(path)
    vertices[np.flatnonzero(vertices)[0]] = 0
    np.save(path, vertices)


def another_mesh(folder: Path) -> None:
    path = folder / "subj01/roi_masks/rh.all-vertices_fsaverage_space.npy"
    np.save(path, np.load(path)[:-1])


def pickled_responses(folder: Path) -> None:
    path = folder / TRAINING / "lh_training_fmri.npy"
    np.save(path, np.array([{1: "V1"}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_images, r"expected train-0005; found train-0006_.* \(an image is missing or twice\)"),
        (two_of_one, "expected each NSD image once; found it is train-0001_"),
        (same_in_test, "expected each NSD image in one row; found image .* in two files"),
        (truncate, "lh_training_fmri.npy: expected responses, images by vertices, a whole file"),
        (fewer_vertices, "expected 7 and 9 vertices, as the training part; found 6 and 9"),
        (foreign_mask, "rh.floc-faces_challenge_space.npy: expected 9 vertices, as the responses; found 4"),
        (unnamed_value, "expected values named in mapping_floc-faces.npy; found 7"),
        (wrong_place, "lh.all-vertices_fsaverage_space.npy: expected 7 vertices, as the responses; found 6"),
        (
            another_mesh,
            "rh.all-vertices_fsaverage_space.npy: expected 163842 vertices of fsaverage; found 163841",
        ),
        (pickled_responses, "lh_training_fmri.npy: expected responses"),
    ],
)
def test_files_that_do_not_fit_are_refused(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises(InputError, match=message):
        ALGONAUTS2023.open(copy, "01", tmp_path)


def test_a_link_out_of_the_folder_is_refused(copy, tmp_path):
    path = copy / TRAINING / "lh_training_fmri.npy"
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(InputError, match=r"expected a file inside .*; found a link to"):
        ALGONAUTS2023.open(copy, "01", tmp_path)

"""What can be wrong with a dataset beside damage: links that lead out, times and places that disagree, one name for two images.

`bids-fmri` and `bold5000` have their own; here every other loader meets the cases that can occur in its files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets import DATASETS
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study
from tests.category_files import write_bonner81, write_kriegeskorte92
from tests.haxby_files import write_haxby
from tests.release_writers import (
    GOD_TEST,
    GOD_TRAINING,
    THINGS_CONCEPTS,
    write_algonauts,
    write_bold5000,
    write_god,
    write_things,
)
from tests.test_damaged_files import NSD, NSD_BETAS, write_digits, write_nsd, write_parcels_npy, write_table

GOD_RUN = "sub-01/ses-perceptionTest01/func/sub-01_ses-perceptionTest01_task-perception_run-01"

# dataset: who writes it, the subject, and files that may be links
LINKED: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "table": (
        write_table,
        "01",
        ("responses.npy", "trials.tsv", "mask.nii.gz", "rois.tsv", "captions.tsv", "images/im03.png"),
    ),
    "bold5000": (
        write_bold5000,
        "CSI1",
        (
            "CSI1_brainmask.nii.gz",
            "CSI1_imgnames.txt",
            "sub-CSI1/ses-01/func/sub-CSI1_ses-01_task-5000scenes_run-01_events.tsv",
            "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli/COCO/COCO_train2014_000000000000.jpg",
        ),
    ),
    "god": (write_god, "01", ("Subject1.h5", f"{GOD_RUN}_events.tsv", f"images/test/{GOD_TEST[0]}.JPEG")),
    "algonauts2023": (
        write_algonauts,
        "01",
        (
            "subj01/roi_masks/mapping_streams.npy",
            "subj01/roi_masks/lh.streams_challenge_space.npy",
            "subj01/test_split/noise_ceiling/rh_noise_ceiling.npy",
        ),
    ),
    "things-fmri": (
        write_things,
        "01",
        (
            "betas_csv/sub-01_ResponseData.h5",
            "betas_csv/sub-01_VoxelMetadata.csv",
            "betas_csv/sub-01_StimulusMetadata.csv",
            "brainmasks/sub-01_space-T1w_brainmask.nii.gz",
            f"object_images/{THINGS_CONCEPTS[0]}/{THINGS_CONCEPTS[0]}_14s.jpg",
        ),
    ),
    "haxby": (write_haxby, "01", ("bold.nii.gz", "mask.nii.gz", "attributes_literal.txt")),
    "parcels": (write_parcels_npy, "a", ("a.npy", "parcels.json")),
    "digits69": (write_digits, "01", ("digit69_28x28.mat",)),
    "bonner81": (write_bonner81, "01", ("bonner81.npz",)),
    "kriegeskorte92": (
        write_kriegeskorte92,
        "BE",
        ("92_brainRDMs.mat", "Kriegeskorte_Neuron2008_supplementalData.mat"),
    ),
    "nsd": (
        write_nsd,
        "01",
        (
            f"{NSD_BETAS}/betas_session02.hdf5",
            f"{NSD_BETAS}/ncsnr.nii.gz",
            f"{NSD}/roi/nsdgeneral.nii.gz",
            f"{NSD}/brainmask.nii.gz",
            "nsddata/experiments/nsd/nsd_expdesign.mat",
            "nsddata/ppdata/subj01/behav/responses.tsv",
            "nsddata/freesurfer/subj01/label/streams.mgz.ctab",
            "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
        ),
    ),
}


def link_out(data: Path, file: str) -> Path:
    """Move a file out of the data folder and leave a link to it."""
    path, outside = data / file, data.parent / "outside" / Path(file).name
    outside.parent.mkdir(exist_ok=True)
    path.rename(outside)
    path.symlink_to(outside)
    return outside


@pytest.mark.parametrize("name", list(LINKED))
def test_a_link_out_of_the_data_folder_is_refused_by_every_loader(name, tmp_path):
    write, label, files = LINKED[name]
    data = tmp_path / "data"
    data.mkdir()
    write(data)
    dataset = DATASETS[name]
    for file in files:
        outside = link_out(data, file)
        with pytest.raises(
            InputError, match=rf"{Path(file).name}: expected a file inside .*; found a link to {outside}"
        ):
            dataset.open(data, label, tmp_path / "work")
        lines = [line for line in dataset.check(data) if line.status in ("bad", "missing")]
        assert any("found a link to" in line.found or "a link to" in line.found for line in lines), file
        (data / file).unlink()
        outside.rename(data / file)
    dataset.open(data, label, tmp_path / "work")


def test_a_link_within_the_data_folder_is_followed(tmp_path):
    write_table(tmp_path)
    (tmp_path / "annex").mkdir()
    (tmp_path / "responses.npy").rename(tmp_path / "annex" / "content")
    (tmp_path / "responses.npy").symlink_to(tmp_path / "annex" / "content")
    assert DATASETS["table"].open(tmp_path, "01", tmp_path).read([0]).shape == (1, 7)


def test_a_name_in_the_table_does_not_lead_out_either(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_table(data)
    shutil.copy(data / "images" / "im00.png", tmp_path / "secret.png")
    lines = (data / "trials.tsv").read_text().replace("im03", "../../secret")
    (data / "trials.tsv").write_text(lines)
    with pytest.raises(
        InputError, match=r"secret\.png: expected a file inside .*data; found a link to .*secret"
    ):
        DATASETS["table"].open(data, "01", tmp_path)


# ------------------------------------------------------------------------------------------- one name, two images


def other_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 10, 10)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "other", "message"),
    [
        (
            "god",
            write_god,
            f"images/test/{GOD_TRAINING[3]}.JPEG",
            rf"expected one image named '{GOD_TRAINING[3]}'; found another one at test/",
        ),
        (
            "things-fmri",
            write_things,
            f"object_images/zz/{THINGS_CONCEPTS[1]}_01s.jpg",
            rf"expected one image named '{THINGS_CONCEPTS[1]}_01s'; found another one at {THINGS_CONCEPTS[1]}/",
        ),
        (
            "table",
            write_table,
            "images/im03.jpg",
            r"im03\.jpg: expected one image for stimulus 'im03'; .*im03\.png",
        ),
    ],
)
def test_one_stimulus_with_two_images_is_refused(name, write, other, message, tmp_path):
    write(tmp_path)
    other_image(tmp_path / other)
    with pytest.raises(InputError, match=message):
        DATASETS[name].open(tmp_path, "01", tmp_path / "work")
    assert "bad" in {line.status for line in DATASETS[name].check(tmp_path)}


def test_one_stimulus_of_a_bids_study_with_two_images_is_refused(tmp_path):
    small = BoldParameters(shape=(4, 4, 3), images=12, repeats=1, sessions=(), runs=2)
    write_bold_study(tmp_path, small)
    for path in tmp_path.glob(
        "sub-01/func/*_events.tsv"
    ):  # ids without a suffix: any file of the name may be meant
        path.write_text(path.read_text().replace(".png", ""))
    study = DATASETS["bids-fmri"].open(tmp_path, "01", tmp_path / "work")
    shown = study.stimulus_ids[0]
    assert study.stimuli is not None
    other_image(tmp_path / "stimuli" / f"{shown}.jpg")
    with pytest.raises(
        InputError, match=rf"\.jpg: expected one image for stimulus '{shown}'; found another one in"
    ):
        DATASETS["bids-fmri"].open(tmp_path, "01", tmp_path / "work")


# --------------------------------------------------------------------------------------------------- times and places


def write_run(folder: Path, n_volumes: int, t_r: float) -> None:
    """Write the BOLD of one run of god beside its events."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2, n_volumes), np.int16), np.eye(4))
    image.header.set_zooms((2, 2, 2, t_r))
    nib.save(image, folder / f"{GOD_RUN}_bold.nii.gz")


def test_events_of_god_past_the_end_of_the_run_are_refused(tmp_path):
    write_god(tmp_path)
    write_run(tmp_path, 20, 3.0)
    with pytest.raises(
        InputError,
        match=r"run-01_events\.tsv: expected events before the end of the run at 60 s; found one at",
    ):
        DATASETS["god"].design(tmp_path, "01")
    assert "bad" in {line.status for line in DATASETS["god"].check(tmp_path)}
    write_run(tmp_path, 60, 3.0)
    assert len(DATASETS["god"].design(tmp_path, "01"))


def test_a_run_of_god_whose_header_disagrees_with_the_sidecar_is_refused(tmp_path):
    write_god(tmp_path)
    write_run(tmp_path, 200, 2.5)
    (tmp_path / "task-perception_bold.json").write_text('{"RepetitionTime": 3.0}')
    with pytest.raises(
        InputError,
        match=r"bold\.nii\.gz: expected a repetition time of 3 s, as in task-perception_bold\.json; found 2\.5",
    ):
        DATASETS["god"].design(tmp_path, "01")


def test_series_whose_own_time_is_not_the_declared_one_are_refused(tmp_path):
    write_parcels_npy(tmp_path)
    (tmp_path / "a.json").write_text('{"RepetitionTime": 2.0}')
    with pytest.raises(InputError, match=r"a\.npy: expected a repetition time of 0\.8 s; found 2 s"):
        DATASETS["parcels"].open(tmp_path, "a", tmp_path)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_nsd(folder)
    return folder


def move_masks(data: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (data / NSD / "roi").glob("*.nii.gz"):
        image = nib.Nifti1Image.from_filename(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), change(image.affine)), path)


def test_masks_of_nsd_with_left_and_right_flipped_are_refused(release, tmp_path):
    data = Path(shutil.copytree(release, tmp_path / "data"))
    move_masks(data, lambda affine: affine @ np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(
        InputError, match=r"roi: expected the orientation \w+ of betas_session01\.nii\.gz; found \w+: an"
    ):
        DATASETS["nsd"].open(data, "01", tmp_path, format="nii.gz")


def test_masks_of_nsd_that_lie_elsewhere_are_a_named_warning(release, tmp_path):
    data = Path(shutil.copytree(release, tmp_path / "data"))
    told = "the masks of roi and the betas of betas_session01.nii.gz lie in different places"
    before = DATASETS["nsd"].open(data, "01", tmp_path, format="nii.gz").provenance["warnings"]
    assert not any(told in warning for warning in before)

    def shifted(affine: np.ndarray) -> np.ndarray:
        moved = affine.copy()
        moved[0, 3] += 3.6
        return moved

    move_masks(data, shifted)
    after = DATASETS["nsd"].open(data, "01", tmp_path, format="nii.gz").provenance["warnings"]
    assert sum(told in warning for warning in after) == 1

"""digits69: the file as it is, its protocols, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import Dataset
from braindecode_suite.datasets import DATASETS, PROTOCOLS, digits69
from braindecode_suite.datasets.digits69 import DIGITS69, FILE, ten_by_ten_fold

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "digits69"
needs_real = pytest.mark.skipif(not (REAL / FILE).is_file(), reason=f"{REAL / FILE} is not here")


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Return what the file holds, with random values."""
    rng = np.random.default_rng(seed)
    return {
        "fmriTrn": rng.standard_normal((90, 3092)),
        "fmriTest": rng.standard_normal((10, 3092)),
        "stimTrn": rng.integers(0, 256, (90, 784)).astype(np.uint8),
        "stimTest": rng.integers(0, 256, (10, 784)).astype(np.uint8),
        "labelTrn": np.repeat([1, 2], 45).astype(np.uint8)[:, None],
        "labelTest": np.repeat([1, 2], 5).astype(np.uint8)[:, None],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    savemat(folder / FILE, arrays(), do_compression=True)
    return folder


def write(folder: Path, **changed: np.ndarray | None) -> Path:
    content = {name: value for name, value in (arrays() | changed).items() if value is not None}
    savemat(folder / FILE, content)
    return folder


def test_the_catalogue_holds_the_dataset_and_its_protocols():
    assert isinstance(DATASETS["digits69"], Dataset)
    assert set(DIGITS69.card.protocols) <= set(PROTOCOLS)


def test_images_run_down_the_columns(tmp_path):
    image = np.zeros((28, 28), np.uint8)
    image[3, 20] = 200  # row 3, column 20
    stimuli = np.zeros((90, 784), np.uint8)
    stimuli[7] = image.flatten(order="F")
    study = DIGITS69.open(write(tmp_path, stimTrn=stimuli), "01", tmp_path)
    seen = study.stimuli.images(["train-07"])
    assert seen.shape == (1, 28, 28, 3)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen[0], np.repeat(image[..., None], 3, axis=2))


def test_rows_are_those_of_the_file_training_first(made):
    study = DIGITS69.open(made, "01", made)
    content = arrays()
    np.testing.assert_array_equal(
        study.read(np.array([4, 93])), np.float32([content["fmriTrn"][4], content["fmriTest"][3]])
    )
    np.testing.assert_array_equal(
        study.stimuli.images(["test-03"])[0, ..., 0], content["stimTest"][3].reshape((28, 28), order="F")
    )
    assert list(study.stimulus_ids[[0, 89, 90, 99]]) == ["train-00", "train-89", "test-00", "test-09"]
    assert study.stimuli.attributes["category"].loc[["train-00", "train-89", "test-09"]].tolist() == [
        "6",
        "9",
        "9",
    ]


def test_opening_does_not_read_responses_or_images(made, monkeypatch):
    read = []

    def noted(path, variable_names, **options):
        read.extend(variable_names)
        return loadmat(path, variable_names=variable_names, **options)

    monkeypatch.setattr(digits69, "loadmat", noted)
    study = DIGITS69.open(made, "01", made)
    assert study.responses.shape == (100, 3092)
    assert set(read) == {"labelTrn", "labelTest"}
    study.read(slice(0, 2))
    assert set(read) == {"labelTrn", "labelTest", "fmriTrn", "fmriTest"}


def test_check_says_what_is_there(made, tmp_path):
    assert [line.status for line in DIGITS69.check(made)] == ["ok"]
    assert [line.status for line in DIGITS69.check(tmp_path)] == ["missing"]
    (bad,) = DIGITS69.check(write(tmp_path, labelTrn=None))
    assert (bad.status, "labelTrn" in bad.found) == ("bad", True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fmriTrn": None}, "expected an array 'fmriTrn'; found fmriTest"),
        (
            {"fmriTest": np.zeros((10, 3000))},
            r"fmriTest of shape \(10, 3092\), numbers; found shape \(10, 3000\)",
        ),
        ({"stimTrn": np.zeros((90, 28, 28), np.uint8)}, r"stimTrn of shape \(90, 784\)"),
        (
            {"stimTest": np.full((10, 784), "a", dtype=object)},
            "stimTest of shape .* numbers; found shape .* cell",
        ),
        ({"labelTrn": np.full((90, 1), 3)}, r"labels 1 \(six\) and 2 \(nine\); found label 3"),
    ],
)
def test_a_file_with_other_arrays_is_refused_when_it_is_opened(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        DIGITS69.open(write(tmp_path, **changed), "01", tmp_path)


def test_values_that_cannot_be_are_refused_when_they_are_read(tmp_path):
    broken = arrays()["fmriTrn"]
    broken[5, 7] = np.nan
    study = DIGITS69.open(write(tmp_path, fmriTrn=broken, stimTest=np.full((10, 784), 0.5)), "01", tmp_path)
    with pytest.raises(
        InputError, match=r"finite values; found 1 NaN or infinite values, the first at \(5, 7\)"
    ):
        study.read(slice(None))
    with pytest.raises(InputError, match="whole numbers from 0 to 255"):
        study.stimuli.images(["test-00"])


@pytest.mark.parametrize("kept", [0.02, 0.5])
def test_a_truncated_file_is_refused(made, tmp_path, kept):
    whole = (made / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InputError, match=FILE):
        DIGITS69.open(tmp_path, "01", tmp_path).read(slice(None))


def test_a_file_that_is_no_matlab_file_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is text, not data" * 100)
    with pytest.raises(InputError, match="expected a MATLAB file"):
        DIGITS69.open(tmp_path, "01", tmp_path)


def test_wrong_arguments_are_refused(made, tmp_path):
    with pytest.raises(InputError, match="expected the file of digits69; found nothing there"):
        DIGITS69.open(tmp_path, "01", tmp_path)
    with pytest.raises(InputError, match="`subject`: expected '01'; found '02'"):
        DIGITS69.open(made, "02", tmp_path)
    with pytest.raises(InputError, match="`dataset_options` of digits69: expected none; found 'betas'"):
        DIGITS69.open(made, "01", tmp_path, betas="b3")
    with pytest.raises(InputError, match="expected ids of digits69, train-00 to test-09; found 'test-10'"):
        DIGITS69.open(made, "01", tmp_path).stimuli.images(["test-10"])


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_ten_by_ten_folds_test_every_image_once_a_repetition_and_keep_classes_balanced(made, seed):
    study = DIGITS69.open(made, "01", made)
    category = study.stimuli.attributes["category"].to_numpy()
    splits = ten_by_ten_fold([study], seed=seed)
    assert len(splits) == 100
    for repeat in range(10):
        group = splits[10 * repeat : 10 * repeat + 10]
        assert sorted(np.concatenate([split.test[0] for split in group])) == list(range(100))
        for split in group:
            parts = [split.train[0], split.validation[0], split.test[0]]
            assert [len(part) for part in parts] == [80, 10, 10]
            assert len(np.unique(np.concatenate(parts))) == 100
            assert all((category[part] == "6").sum() * 2 == len(part) for part in parts)


def test_repetitions_deal_differently_and_a_seed_deals_again(made):
    study = DIGITS69.open(made, "01", made)
    first, again, other = (ten_by_ten_fold([study], seed=seed) for seed in (0, 0, 1))
    assert [split.hash for split in first] == [split.hash for split in again]
    assert not {split.hash for split in first} & {split.hash for split in other}
    assert len({tuple(split.test[0]) for split in first}) == 100


def test_the_published_split_is_kept(made):
    study = DIGITS69.open(made, "01", made)
    (split,) = PROTOCOLS["digits69-published"]([study], seed=3)
    assert split.test[0].tolist() == list(range(90, 100))
    assert sorted([*split.train[0], *split.validation[0]]) == list(range(90))
    assert study.stimuli.attributes["category"].to_numpy()[split.validation[0]].tolist().count("6") == 5
    assert split.card()["shared"]["stimulus"] == {
        "train/test": 0,
        "validation/test": 0,
        "train/validation": 0,
    }


def test_protocols_refuse_other_studies(made):
    study = DIGITS69.open(made, "01", made)
    with pytest.raises(InputError, match="the one study of digits69; found digits69 sub-01, digits69 sub-01"):
        ten_by_ten_fold([study, study])


@needs_real
def test_real_sixes_are_heavier_below_and_nines_above():
    study = DIGITS69.open(REAL, "01", REAL)
    category = study.stimuli.attributes["category"]
    images = study.stimuli.images(list(category.index))[..., 0].astype(float)
    below = images[:, 14:].sum((1, 2)) / images.sum((1, 2))
    six = (category == "6").to_numpy()
    assert six.sum() == 50
    assert below[six].mean() > below[~six].mean() + 0.05


@needs_real
def test_the_real_file_agrees_with_bare_scipy(tmp_path):
    shutil.copyfile(REAL / FILE, tmp_path / FILE)
    study = DIGITS69.open(tmp_path, "01", tmp_path)
    bare = loadmat(str(REAL / FILE))
    np.testing.assert_array_equal(study.read(np.arange(90)), bare["fmriTrn"].astype(np.float32))
    np.testing.assert_array_equal(
        study.stimuli.images(["test-04"])[0, :, :, 1], bare["stimTest"][4].reshape(28, 28).T
    )
    assert [line.status for line in DIGITS69.check(tmp_path)] == ["ok"]

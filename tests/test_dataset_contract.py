"""What every dataset of the catalogue promises, shown on a folder of each."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from braindecode_suite.cli import main
from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.protocols import Dataset, SimulatedDataset
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.core.spaces import Space
from braindecode_suite.core.split import PARTS, Split
from braindecode_suite.core.study import TRIAL_COLUMNS, Responses, Stimuli
from braindecode_suite.datasets import DATASETS, PROTOCOLS
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study
from braindecode_suite.datasets.simulated_meg import SIMULATED_MEG
from tests.category_files import write_bonner81, write_kriegeskorte92
from tests.eeg2_files import write_eeg2
from tests.haxby_files import write_haxby
from tests.meg_files import write_meg
from tests.parcels_files import write_parcels
from tests.release_writers import write_algonauts, write_bold5000, write_god, write_things
from tests.things_meg_files import write_things_meg

SHARED_DATA = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))

REAL = {"digits69"}
"""Datasets that are only tested on real recordings."""
LABELS = {"bold5000": "CSI1", "kriegeskorte92": "BE", "things-meg": "P1"}
"""Datasets whose first subject is not called ``01``."""
WITHOUT_STIMULI = {"haxby", "parcels"}
"""Datasets that do not record which image was shown."""
WITHOUT_IMAGES = {*WITHOUT_STIMULI, "bonner81"}
"""Datasets whose stimuli are none, or vectors alone."""


def write_table(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    ids = [f"image-{k:02d}" for k in range(40)]
    for stimulus_id in ids:
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{stimulus_id}.png")
    trials = pd.DataFrame({"stimulus_id": ids * 3, "session": np.repeat([1, 2, 3], 40), "run": 1})
    trials.to_csv(folder / "trials.tsv", sep="\t", index=False)
    np.save(folder / "responses.npy", rng.normal(size=(120, 7)).astype(np.float32))
    return folder


WRITERS: dict[str, Callable[[Path], object]] = {
    "table": write_table,
    "bold5000": write_bold5000,
    "god": write_god,
    "algonauts2023": write_algonauts,
    "things-fmri": write_things,
    "haxby": write_haxby,
    "parcels": write_parcels,
    "bonner81": write_bonner81,
    "kriegeskorte92": write_kriegeskorte92,
    "bids-fmri": lambda folder: write_bold_study(folder, BoldParameters(runs=3)),
    "bids-meg": lambda folder: write_meg(folder, sessions=3, runs=1),
    "things-eeg2": write_eeg2,
    "things-meg": write_things_meg,
    "simulated-meg": lambda folder: SIMULATED_MEG.write(folder, size="seconds"),
}


@pytest.fixture(scope="module")
def find_folder(request, tmp_path_factory) -> Callable[[str], Path]:
    """Return where the folder of a dataset is; each is written when it is first asked for."""
    written: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name in WRITERS:
            if name not in written:
                written[name] = tmp_path_factory.mktemp(name)
                WRITERS[name](written[name])
            return written[name]
        if name in ("simulated-nsd", "nsd"):
            return Path(request.getfixturevalue("simulated_folder"))
        assert name in REAL, f"no writer for {name}: add one to WRITERS"
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there: real recordings are not part of the project")
        return folder

    return find


@pytest.fixture(params=list(DATASETS))
def name(request) -> str:
    return request.param


@pytest.fixture
def dataset(name) -> Dataset:
    return DATASETS[name]


@pytest.fixture
def label(name) -> str:
    return LABELS.get(name, "01")


@pytest.fixture
def study(name, label, dataset, find_folder, tmp_path):
    return dataset.open(find_folder(name), label, tmp_path / "work")


def test_the_entry_is_a_dataset_with_a_card(name, dataset):
    assert isinstance(dataset, Dataset)
    card = dataset.card
    assert card.name == name
    for field in ("title", "modality", "terms", "size", "tree", "workflow", "preset"):
        assert getattr(card, field).strip(), field
    assert card.citation or name == "table"
    assert card.protocols
    assert set(card.protocols) <= set(PROTOCOLS)
    assert card.simulated == name.startswith("simulated")
    assert isinstance(dataset, SimulatedDataset) == card.simulated


def test_the_folder_has_its_subject_and_passes_the_check(name, label, dataset, find_folder):
    folder = find_folder(name)
    assert label in dataset.subjects(folder)
    lines = dataset.check(folder)
    assert lines
    assert {line.status for line in lines} <= {"ok", "optional-missing"}


def test_an_empty_folder_has_no_subject_and_fails_the_check(label, dataset, tmp_path):
    assert dataset.subjects(tmp_path) == []
    assert {"missing", "bad"} & {line.status for line in dataset.check(tmp_path)}
    with pytest.raises(InputError, match="expected"):
        dataset.open(tmp_path, label, tmp_path)


def test_the_study_obeys_the_contracts(name, label, study):
    assert study.dataset == name
    assert study.subject == label
    assert isinstance(study.responses, Responses)
    assert study.stimuli is None if name in WITHOUT_STIMULI else isinstance(study.stimuli, Stimuli)
    assert isinstance(study.space, Space)
    assert study.unit
    assert list(study.trials.columns[:5]) == list(TRIAL_COLUMNS)
    assert study.space.n_units == study.n_units
    assert study.valid is None or (study.valid.shape == (study.n_units,) and study.valid.dtype == bool)
    if study.noise is not None:
        assert study.noise.ncsnr.shape == (study.n_units,)
        assert np.isfinite(study.noise.ncsnr).all()
        assert (study.noise.ncsnr >= 0).all()
    assert all(isinstance(warning, str) for warning in study.provenance["warnings"])


def test_repeats_count_from_one_in_the_order_of_trials(study):
    counted = study.trials.groupby("stimulus_id").cumcount() + 1
    np.testing.assert_array_equal(study.trials["repeat"], counted)


def test_rows_come_as_float32_in_the_order_asked_for(study):
    rows = np.array([7, 0, 7, 31])
    values = study.read(rows)
    assert values.dtype == np.float32
    assert values.shape == (4, *study.responses.shape[1:])
    assert values.shape[1] == study.n_units
    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(values, study.read(slice(None))[rows])
    assert np.isfinite(values).all()


def test_images_come_by_id_in_the_order_asked_for(name, study):
    if name in WITHOUT_IMAGES:
        pytest.skip(f"{name} has no images")
    ids = list(dict.fromkeys(study.stimulus_ids))[:3]
    assert all(type(i) is str for i in ids)
    assert set(ids) <= set(study.stimuli.ids)
    some = study.stimuli.images([ids[2], ids[0], ids[2]])
    assert some.dtype == np.uint8
    assert some.shape[0] == 3
    assert some.shape[3] == 3
    np.testing.assert_array_equal(some[0], some[2])
    np.testing.assert_array_equal(some[1], study.stimuli.images([ids[0]])[0])
    assert not np.array_equal(some[0], some[1])
    assert study.stimuli.images([]).shape == (0, *some.shape[1:])
    with pytest.raises(InputError, match="expected"):
        study.stimuli.images(["no such image"])


def test_fingerprints_and_spaces_name_the_same_thing_twice(
    name, label, dataset, study, find_folder, tmp_path
):
    again = dataset.open(find_folder(name), label, tmp_path / "elsewhere")
    if name not in WITHOUT_STIMULI:
        assert again.stimuli.fingerprint == study.stimuli.fingerprint
    assert again.space.describe() == study.space.describe()
    pd.testing.assert_frame_equal(again.trials, study.trials)


def test_unknown_subjects_and_options_are_refused(name, label, dataset, find_folder, tmp_path):
    folder = find_folder(name)
    with pytest.raises(InputError, match="subject"):
        dataset.open(folder, "77", tmp_path)
    with pytest.raises(InputError, match=rf"`dataset_options` of {name}: expected .*found 'no_such_option'"):
        dataset.open(folder, label, tmp_path, no_such_option=1)


def test_options_are_declared_with_defaults_that_open_takes(
    name, label, dataset, study, find_folder, tmp_path
):
    options = dataset.options_class()
    assert isinstance(options, Config)
    described = inspect.getdoc(dataset.options_class) or ""
    missing = [field for field in dataset.options_class.model_fields if field not in described]
    assert not missing, f"not in the docstring: {missing}"
    again = dataset.open(find_folder(name), label, tmp_path / "again", **options.model_dump(mode="json"))
    pd.testing.assert_frame_equal(again.trials, study.trials)
    assert again.space.describe() == study.space.describe()


def test_a_wrong_option_stops_a_dry_run_and_lists_the_right_ones(name, dataset, tmp_path, capsys):
    words = ["run", name, str(tmp_path / "out"), "participant", "--data-dir", str(tmp_path), "--dry-run"]
    assert main([*words, "--set", "dataset_options.no_such_option=1"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    known = ", ".join(sorted(dataset.options_class.model_fields))
    assert f"`dataset_options` of {name}: expected {f'one of {known}' if known else 'none'};" in line
    assert "found 'no_such_option'" in line
    for field in dataset.options_class.model_fields:  # no option is a mapping with a number in it
        assert main([*words, "--set", f"dataset_options.{field}={{0: 1}}"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"`dataset_options` of {name}: expected {field}" in line
    assert not (tmp_path / "out").exists()


def test_every_protocol_of_the_card_splits_the_study(name, dataset, study):
    def vectors_of(ids):
        return study.stimuli.images(ids).reshape(len(ids), -1).astype(np.float32)

    for protocol in dataset.card.protocols:
        if protocol == "as-given" or (name == "table" and protocol.startswith("leave-one-run")):
            continue  # these need columns of the user's
        if protocol == "leave-one-subject-out":
            continue  # needs several subjects
        splits = PROTOCOLS[protocol]([study], seed=1, vectors_of=vectors_of)
        assert splits
        for split in splits[:3]:
            assert isinstance(split, Split)
            if name not in WITHOUT_STIMULI:  # conditions instead of images: there are few
                split.check_training_size()
            assert all(len(getattr(split, part)[0]) for part in PARTS), protocol
        again = PROTOCOLS[protocol]([study], seed=1, vectors_of=vectors_of)
        assert [s.hash for s in again] == [s.hash for s in splits]


def test_a_recipe_can_be_fitted_on_the_default_splits_training_rows(dataset, study):
    split = PROTOCOLS[dataset.card.protocols[0]]([study])[0]
    step = ZScore(by=None) if "session" in split.disjoint else ZScore()  # sessions without training rows
    prepared = study.prepared(Recipe((step,)), split.train[0])
    values = prepared.read(split.train[0])
    varies = np.ptp(study.read(split.train[0]), axis=0) > 0
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(values.std(0)[varies], 1, atol=1e-3)
    assert np.isfinite(prepared.read(split.test[0])).all()


def test_an_unknown_dataset_names_the_nearest():
    with pytest.raises(UnknownName, match=r"found 'simulated_nds' \(did you mean 'simulated-nsd'\?\)"):
        DATASETS["simulated_nds"]

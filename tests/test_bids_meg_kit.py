"""bids-meg on recordings of KIT: known samples and places back from both layouts of BIDS, and what is refused."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import mne
import mne_bids
import numpy as np
import pytest
from mne.io.kit.coreg import read_mrk
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.bids_meg import BIDS_MEG
from braindecode_suite.datasets.recording_files import find_recordings
from tests.kit_files import (
    N_REFERENCES,
    N_SENSORS,
    SFREQ,
    STEP,
    VOLT,
    draw_steps,
    sensor_places,
    write_kit,
)
from tests.meg_files import make_events

AS_RECORDED = {"highpass": None, "sfreq": None, "tmin": -0.1, "tmax": 0.2}
STEM = "sub-01_task-look_run-01"
N_SAMPLES, N_PICTURES = 1500, 8
TRIGGER = N_SENSORS + N_REFERENCES + 3
COILS = np.array([[0.1, 0, 0], [0, 0.1, 0], [0, -0.1, 0], [0.05, 0.05, 0.05], [-0.05, 0.05, 0.05]])
LEFT_AND_FORWARD = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
"""From KIT's axes (front, left, up) to those of MNE (right, front, up)."""


def draw_run() -> np.ndarray:
    """Return steps of a run whose fourth trigger falls to 0 V for 20 ms with each picture."""
    steps = draw_steps(N_SAMPLES)
    for onset in make_events(N_PICTURES)["onset"]:
        steps[TRIGGER, round(onset * SFREQ) :][:10] = 0
    return steps


def write_bids(root: Path, layout: str, **how) -> Path:
    """Write a run with its marker coils, its pictures and a bad sensor, and return the path of the recording.

    `layout` is ``flat``, as mne-bids writes it, or ``folder``, as early versions of BIDS had it.
    """
    source = root.parent / "as-recorded"
    source.mkdir(parents=True)
    write_kit(source / "run.con", draw_run(), **how)
    write_kit(source / "coils.sqd", draw_steps(10), markers=COILS)
    head = 1000 * np.concatenate([[[0.1, 0, 0], [0, 0.08, 0], [0, -0.08, 0]], COILS])
    for name in ("points.txt", "shape.txt"):
        np.savetxt(source / name, head)
    raw = mne.io.read_raw_kit(
        source / "run.con",
        mrk=source / "coils.sqd",
        elp=source / "points.txt",
        hsp=source / "shape.txt",
        verbose="error",
    )
    raw.info["bads"] = [raw.ch_names[2]]
    where = mne_bids.BIDSPath(subject="01", task="look", run="01", datatype="meg", root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mne_bids.write_raw_bids(raw, where, verbose="error")
    home = root / "sub-01" / "meg"
    make_events(N_PICTURES).to_csv(home / f"{STEM}_events.tsv", sep="\t", index=False)
    (root / "stimuli").mkdir()
    for k in range(N_PICTURES):
        Image.new("RGB", (8, 8), (30 * k, 0, 0)).save(root / "stimuli" / f"image-{k:02d}.png")
    path = home / f"{STEM}_meg.con"
    if layout == "flat":
        return path
    inside = home / f"{STEM}_meg"
    inside.mkdir()
    shutil.move(next(home.glob("*_markers.sqd")), inside / f"{STEM}_markers.sqd")
    return Path(shutil.move(path, inside / f"{STEM}_meg.sqd"))


def open_study(root: Path, **options):
    return BIDS_MEG.open(root, "01", root.parent / "work", **(AS_RECORDED | options))


def test_mne_reads_back_what_the_writer_wrote(tmp_path):
    steps = draw_run()
    write_kit(tmp_path / "run.con", steps, sfreq=625.0, markers=COILS)
    raw = mne.io.read_raw_kit(tmp_path / "run.con", verbose="error")
    n_meg = N_SENSORS + N_REFERENCES
    assert raw.info["sfreq"] == 625
    assert (raw.info["highpass"], raw.info["lowpass"]) == (0, 200)
    assert raw.ch_names == [
        *(f"MEG {k:03d}" for k in range(1, n_meg + 1)),
        *(f"trig{k}" for k in range(8)),
        "STI 014",
    ]
    kinds = ["mag"] * N_SENSORS + ["ref_meg"] * N_REFERENCES + ["misc"] * 8 + ["stim"]
    assert raw.get_channel_types() == kinds
    data = raw.get_data()
    assert_allclose(data[:n_meg], steps[:n_meg] * STEP, rtol=1e-12)
    assert_allclose(data[n_meg:-1], steps[n_meg:] * VOLT, rtol=1e-12)
    low = np.flatnonzero(np.diff((steps[TRIGGER] == 0).astype(int)) == 1) + 1
    assert_array_equal(mne.find_events(raw, verbose="error")[:, 0], low)
    places = sensor_places(n_meg)
    found = np.array([channel["loc"] for channel in raw.info["chs"][:n_meg]])
    assert_allclose(found[:, :3], places[:, :3] @ LEFT_AND_FORWARD.T, atol=1e-12)
    assert_allclose(found[:, 9:], found[:, :3] / np.linalg.norm(found[:, :3], axis=1)[:, None], atol=1e-9)
    shutil.copy(tmp_path / "run.con", tmp_path / "coils.sqd")
    assert_array_equal(read_mrk(tmp_path / "coils.sqd"), COILS)


@pytest.mark.parametrize("layout", ["flat", "folder"])
def test_epochs_places_and_pictures_of_a_kit_recording_are_those_of_mne(tmp_path, layout):
    root = tmp_path / "bids"
    path = write_bids(root, layout)
    (line,) = BIDS_MEG.check(root)
    assert (line.status, line.path) == ("ok", str(path))
    assert line.found.endswith("500 Hz, 3.0 s, 8 pictures")
    study = open_study(root)
    raw = mne.io.read_raw_kit(path, verbose="error")
    events = mne.find_events(raw, verbose="error")
    epochs = mne.Epochs(raw, events, tmin=-0.1, tmax=0.2, baseline=None, picks="mag", verbose="error")
    expected = epochs.get_data(verbose="error").astype(np.float32)
    assert expected.shape == (N_PICTURES, N_SENSORS, 151)
    expected[:, 2] = np.nan
    assert_array_equal(study.read(slice(None)), expected)
    assert study.unit == "tesla"
    assert study.space.sfreq == raw.info["sfreq"]
    assert study.space.names == tuple(epochs.ch_names)
    assert_array_equal(study.space.locations, [channel["loc"] for channel in epochs.info["chs"]])
    assert set(study.space.coil_types) == {6001}  # FIFFV_COIL_KIT_GRAD
    assert study.space.layout == "KIT-157"
    where = mne.channels.read_layout("KIT-157").pos[:, :2]
    where = (where - where.min(axis=0)) / np.ptp(where, axis=0)
    where[2] = np.nan  # bad in the only run of the session
    assert_allclose(study.space.positions["1"], where)
    assert study.trials["stimulus_id"].tolist() == make_events(N_PICTURES)["stimulus_id"].tolist()
    assert study.stimuli is not None
    assert_array_equal(study.stimuli.images(["image-03"])[0, 0, 0], [90, 0, 0])
    assert f"task-look_run-01: sensor {raw.ch_names[2]} marked bad" in " ".join(study.provenance["warnings"])


def change_channels(table: Path, old: str, new: str) -> None:
    """Replace a piece of the table of channels."""
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


@pytest.mark.parametrize("layout", ["flat", "folder"])
def test_a_kit_run_is_made_again_when_its_table_of_channels_changes(tmp_path, layout):
    write_bids(tmp_path / "bids", layout)
    (one,) = find_recordings(tmp_path / "bids", "01")
    before = one.fingerprint()
    change_channels(one.channels, "trig7\tMISC", "trig7\tEOG")
    assert one.fingerprint() != before
    assert open_study(tmp_path / "bids", kinds=["eog"]).space.names == ("trig7",)


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ("flat", f"{STEM}_meg.con: Channel mismatch between sub-01/meg/{STEM}_channels.tsv and the raw data"),
        ("folder", f"{STEM}_meg.sqd: {STEM}_channels.tsv names 1 channels that were not recorded"),
    ],
)
def test_a_table_of_other_channels_is_told(tmp_path, layout, told):
    write_bids(tmp_path / "bids", layout)
    (one,) = find_recordings(tmp_path / "bids", "01")
    change_channels(one.channels, "trig6", "lost")
    assert told in " ".join(open_study(tmp_path / "bids").provenance["warnings"])


def test_a_run_folder_without_a_table_of_channels_has_all_sensors(tmp_path):
    write_bids(tmp_path / "bids", "folder")
    next((tmp_path / "bids").rglob("*_channels.tsv")).unlink()
    study = open_study(tmp_path / "bids")
    assert np.isfinite(study.read([0])).all()


def test_sensors_with_names_of_their_own_have_the_places_of_their_channels(tmp_path):
    names = [f"AG{k:03d}" for k in range(N_SENSORS, 0, -1)]
    path = write_bids(tmp_path / "bids", "flat", names=names)
    study = open_study(tmp_path / "bids")
    assert list(study.space.names) == names
    standard = mne.io.read_raw_kit(path, standardize_names=True, verbose="error")
    layout = mne.find_layout(standard.info)
    where = dict(zip(layout.names, layout.pos[:, :2], strict=True))
    expected = np.array([where[name] for name in standard.ch_names[:N_SENSORS]])
    expected = (expected - expected.min(axis=0)) / np.ptp(expected, axis=0)
    expected[2] = np.nan
    assert_allclose(study.space.positions["1"], expected)


def test_sensors_of_a_system_without_a_layout_are_laid_out_by_their_places(tmp_path):
    write_bids(tmp_path / "bids", "flat", system=35)  # NYU since 2019
    study = open_study(tmp_path / "bids")
    where = study.space.positions["1"]
    known = np.isfinite(where).all(axis=1)
    assert known.sum() == N_SENSORS - 1
    right = study.space.locations[:, 0]
    assert np.corrcoef(where[known, 0], right[known])[0, 1] > 0.95


@pytest.mark.parametrize("layout", ["flat", "folder"])
@pytest.mark.parametrize(
    ("left", "message"),
    [
        (-2, "of 1500 samples of 168 channels; found 1499, as the file ends"),
        (-336 * 500, "of 1500 samples of 168 channels; found 1000, as the file ends"),
        (-336 * 1500, "of 1500 samples of 168 channels; found 0, as the file ends"),
        (9000, r"found \w+"),
        (200, r"found \w+"),
        (0, r"found \w+"),
    ],
)
def test_a_kit_file_cut_short_is_refused_and_leaves_nothing(tmp_path, layout, left, message):
    path = write_bids(tmp_path / "bids", layout)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match=rf"{path.name}: expected a whole recording.*{message}"):
        open_study(tmp_path / "bids")
    assert not (tmp_path / "work").exists()
    (line,) = BIDS_MEG.check(tmp_path / "bids")
    assert line.status == "bad"

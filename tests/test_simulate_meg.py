"""The simulated MEG study: its helmet, responses, noise and files, and an oracle that scores what a closed form says."""

from __future__ import annotations

import ast
import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import mne
import mne_bids
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import stats
from scipy.linalg import toeplitz
from scipy.special import logsumexp

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.datasets import simulate_meg
from braindecode_suite.datasets.protocols import as_given
from braindecode_suite.datasets.simulate_meg import describe_study
from braindecode_suite.datasets.simulate_meg_helmet import dipole_fields, make_info
from braindecode_suite.datasets.simulate_meg_noise import (
    autocorrelation,
    draw_series,
    noise_patterns,
    read_eigenvalues,
)
from braindecode_suite.datasets.simulate_meg_oracle import MEGOracle
from braindecode_suite.datasets.simulate_meg_parameters import (
    MEG_SIZES,
    MEGNoiseParameters,
    MEGParameters,
    MEGSimulationOptions,
    SourceParameters,
    meg_parameter_sources,
)
from braindecode_suite.datasets.simulate_meg_sources import (
    Sources,
    draw_sources,
    read_waveform,
    time_courses,
    waveform_of,
)
from braindecode_suite.datasets.simulate_meg_subject import (
    draw_trials,
    make_subject,
    record_again,
    simulate_epochs,
    simulate_run,
)
from braindecode_suite.datasets.simulate_scenes import draw_scene, render
from braindecode_suite.datasets.simulated_meg import SIMULATED_MEG
from braindecode_suite.workflows.oracle import compute_ceilings, read_ceilings

REAL = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "meg"
SMALL = MEGSimulationOptions(size="seconds")
P = MEGParameters(options=SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    written = tmp_path_factory.mktemp("simulated-meg")
    SIMULATED_MEG.write(written, size="seconds")
    return written


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def subject():
    """A subject of the null study, which needs no pictures."""
    return make_subject(MEGParameters(options=SMALL.model_copy(update={"null": True})), 1)


def read_bare(folder: Path, label: str = "01", session: str = "01") -> mne.io.BaseRaw:
    path = folder / f"sub-{label}/ses-{session}/meg/sub-{label}_ses-{session}_task-images_run-01_meg.fif"
    return mne.io.read_raw_fif(path, verbose="error")


def read_events(folder: Path, label: str = "01", session: str = "01") -> pd.DataFrame:
    path = folder / f"sub-{label}/ses-{session}/meg/sub-{label}_ses-{session}_task-images_run-01_events.tsv"
    return pd.read_csv(path, sep="\t")


# --- the helmet


def test_the_layout_is_still_ctf_275_after_the_bids_round_trip(folder):
    path = mne_bids.BIDSPath(root=folder, subject="01", session="01", task="images", run="01", datatype="meg")
    raw = mne_bids.read_raw_bids(path, verbose="error")
    layout = mne.channels.find_layout(raw.info)
    assert layout.kind == "CTF-275"
    sensors = mne.pick_types(raw.info, meg=True)
    assert len(sensors) == 275
    assert {raw.ch_names[k].split("-")[0] for k in sensors} == set(layout.names)
    assert {int(raw.info["chs"][k]["coil_type"]) for k in sensors} == {
        int(mne.io.constants.FIFF.FIFFV_COIL_CTF_GRAD)
    }
    assert set(raw.get_channel_types(sensors)) == {"mag"}
    assert raw.ch_names[-1] == "UPPT001"
    loc = np.array([raw.info["chs"][k]["loc"] for k in sensors])
    assert np.linalg.norm(loc[:, :3], axis=1).min() > 0.05
    assert_allclose(loc, [c["loc"] for c in make_info(P.helmet, P.recording)["chs"][:275]], atol=1e-6)


def test_the_lifted_sensors_lie_where_a_ctf_system_has_them():
    canonical = getattr(importlib.import_module("mne.channels.montage"), "read_meg_canonical_info", None)
    if canonical is None:
        pytest.skip("this mne does not ship canonical CTF positions")
    known = {c["ch_name"].split("-")[0]: c["loc"] for c in canonical("ctf275")["chs"]}
    lifted = {c["ch_name"].split("-")[0]: c["loc"] for c in make_info(P.helmet, P.recording)["chs"][:275]}
    names = sorted(set(known) & set(lifted))
    assert len(names) > 270
    ours, theirs = (np.array([group[name] for name in names]) for group in (lifted, known))
    distance = np.linalg.norm(ours[:, :3] - theirs[:, :3], axis=1)
    assert np.median(distance) < 0.004
    assert distance.max() < 0.010
    angle = np.degrees(np.arccos(np.einsum("ni,ni->n", ours[:, 9:], theirs[:, 9:])))
    assert np.median(angle) < 6


def test_the_axes_of_a_sensor_are_orthonormal_and_point_outwards():
    loc = np.array([c["loc"] for c in make_info(P.helmet, P.recording)["chs"][:275]])
    axes = loc[:, 3:].reshape(-1, 3, 3)
    assert_allclose(axes @ axes.transpose(0, 2, 1), np.tile(np.eye(3), (275, 1, 1)), atol=1e-12)
    assert_allclose(np.linalg.det(axes), 1)
    assert (np.einsum("ni,ni->n", axes[:, 2], loc[:, :3] - P.helmet.projection_centre) > 0).all()


def sarvas(at: np.ndarray, where: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Field of a dipole in a sphere around 0 (Sarvas 1987, equation 25), of shape (points, 3)."""
    a = at - where
    length, r = np.linalg.norm(a, axis=1), np.linalg.norm(at, axis=1)
    f = length * (r * length + r**2 - at @ where)
    inner = length**2 / r + (a * at).sum(1) / length
    gradient = (inner + 2 * length + 2 * r)[:, None] * at - (length + 2 * r + (a * at).sum(1) / length)[
        :, None
    ] * where
    cross = np.cross(moment, where)
    return 1e-7 * (f[:, None] * cross - (at @ cross)[:, None] * gradient) / f[:, None] ** 2


def test_the_field_of_a_dipole_is_sarvas_formula_at_two_coils_five_centimetres_apart():
    info = make_info(P.helmet, P.recording)
    loc = np.array([c["loc"] for c in info["chs"][:275]])
    centre = np.array(P.helmet.sphere_centre)
    position, moment = centre + np.array([0.02, -0.06, 0.01]), np.array([0.6, 0.2, 0.0])
    moment /= np.linalg.norm(moment)
    near = loc[:, :3] + info["dev_head_t"]["trans"][:3, 3] - centre
    normal = loc[:, 9:]
    expected = sum(
        sign * np.einsum("ni,ni->n", sarvas(near + height * normal, position - centre, moment), normal)
        for sign, height in ((1, 0.0), (-1, 0.05))
    )
    found = dipole_fields(position[None], moment[None], info, P.helmet)[:, 0] / 1e-9
    assert np.corrcoef(found, expected)[0, 1] > 0.999
    assert_allclose(np.linalg.norm(found), np.linalg.norm(expected), rtol=0.05)


def test_a_radial_dipole_is_silent():
    info = make_info(P.helmet, P.recording)
    position = np.array([[0.0, -0.07, 0.04]])
    radial = dipole_fields(position, np.array([[0.0, 1.0, 0.0]]), info, P.helmet)
    tangential = dipole_fields(position, np.array([[1.0, 0.0, 0.0]]), info, P.helmet)
    assert np.abs(radial).max() < 1e-6 * np.abs(tangential).max()


def test_the_head_moves_between_sessions_and_fields_with_it(subject):
    shift = subject.heads[:, :3, 3] - np.array(P.helmet.head)
    assert (np.linalg.norm(shift, axis=1) > 1e-4).all()
    first, second = subject.leadfields[:2]
    change = np.linalg.norm(first - second) / np.linalg.norm(first)
    assert 0.01 < change < 0.5


# --- responses


def a_source(**changes) -> Sources:
    plain = {
        "group": np.array([0]),
        "positions": np.zeros((1, 3)),
        "moments": np.zeros((1, 3)),
        "latency": np.array([0.1]),
        "offset_latency": np.array([0.11]),
        "width": np.array([0.025]),
        "frequency": np.array([9.0]),
        "offset_gain": np.array([0.4]),
        "waveform": np.zeros((2, 0)),
    }
    return Sources(**plain | changes)


def test_a_response_is_the_formula_of_its_docstring_and_peaks_at_its_latency():
    times = np.arange(0, 0.9, 0.001)
    course = time_courses(times, a_source(), P.sources, 0.5)[0]
    assert times[course[:500].argmax()] == pytest.approx(0.1, abs=0.0011)
    lag = 0.13 - 0.1
    expected = np.exp(-0.5 * (lag / 0.025) ** 2) * np.cos(2 * np.pi * 9 * lag)
    assert course[130] == pytest.approx(expected, abs=1e-12)
    assert course[610] == pytest.approx(0.4, abs=1e-6)  # 0.11 after the picture went off


@pytest.mark.parametrize("delay", [-0.18, -0.06, 0.0, 0.06, 0.18])
def test_no_response_begins_before_onset_or_outlasts_the_trial_whatever_its_delay(delay):
    times = np.arange(-0.5, 1.2, 0.001)
    course = time_courses(times, a_source(), P.sources, 0.5, delay)[0]
    assert not course[times <= 0.02].any()
    assert not course[times >= 0.9201].any()
    assert P.sources.closes[1] < P.recording.spacing[0]


def test_a_delay_shifts_the_response():
    times = np.arange(0.06, 0.5, 0.001)
    late = time_courses(times, a_source(), P.sources, 0.5, 0.03)[0]
    assert_allclose(late[30:], time_courses(times, a_source(), P.sources, 0.5)[0][:-30], atol=1e-3)


def test_early_sources_lie_opposite_to_what_they_see_and_late_ones_deeper_and_lower():
    sources, population = draw_sources(P.sources, P.helmet, 0, 1)
    early, from_centre = sources.group == 0, sources.positions - np.array(P.helmet.sphere_centre)
    seen = population.prf[early, 0] - 0.5
    assert stats.spearmanr(seen, from_centre[early, 0]).statistic < -0.6
    assert (from_centre[early, 1] < 0).all()
    depth = np.linalg.norm(from_centre, axis=1)
    assert depth[early].min() > depth[~early].max()
    assert from_centre[~early, 2].mean() < from_centre[early, 2].mean()
    assert_allclose(np.einsum("ki,ki->k", sources.moments, from_centre), 0, atol=1e-12)
    assert (np.bincount(population.category[population.kind == "category"]) == 2).all()
    other, _ = draw_sources(P.sources, P.helmet, 0, 2)
    late = ~early
    apart = np.linalg.norm(sources.positions[late] - other.positions[late], axis=1)
    assert 0.002 < np.median(apart) < 0.03  # the same places, scattered


def test_the_signal_to_noise_is_the_one_asked_for():
    subject = make_subject(P, 1)
    sd = subject.amplitudes.std(0)
    noise = np.hypot(P.noise.brain, P.noise.sensor * np.sqrt(P.recording.sfreq / 2))
    for group in (0, 1):
        here = subject.sources.group == group
        at_sensors = np.sqrt(np.square(subject.leadfields[..., here] * sd[here]).sum(-1).mean())
        assert at_sensors / noise == pytest.approx(SMALL.snr, rel=0.25)  # few images


# --- noise


def test_the_noise_has_the_correlation_it_is_said_to_have():
    noise, rng = MEGNoiseParameters(), np.random.default_rng(0)
    series = draw_series(40, 16000, 160.0, noise, rng).astype(float)
    expected = autocorrelation(40, 160.0, noise)
    assert expected[0] == pytest.approx(1, abs=1e-9)
    found = [(series[:, : 16000 - k] * series[:, k:]).mean() for k in range(40)]
    assert_allclose(found, expected, atol=0.05)
    assert np.abs(np.corrcoef(series) - np.eye(40)).max() < 0.2


def test_the_spectrum_falls_as_one_over_f_and_has_an_alpha_peak():
    from scipy.signal import welch

    series = draw_series(40, 32000, 160.0, MEGNoiseParameters(), np.random.default_rng(1))
    f, density = welch(series, 160.0, nperseg=1024)
    density = density.mean(0)
    away = ((f > 2) & (f < 7)) | ((f > 14) & (f < 60))
    assert np.polyfit(np.log(f[away]), np.log(density[away]), 1)[0] == pytest.approx(-1, abs=0.1)
    line = np.exp(np.polyval(np.polyfit(np.log(f[away]), np.log(density[away]), 1), np.log(10)))
    assert density[np.argmin(np.abs(f - 10))] / line == pytest.approx(3, rel=0.2)


def test_noise_patterns_have_the_covariance_of_their_dipoles_and_the_variance_asked_for():
    fields, noise = np.random.default_rng(2).normal(size=(20, 12)), MEGNoiseParameters()
    patterns = noise_patterns(fields, noise)
    covariance = patterns @ patterns.T
    assert np.trace(covariance) / 20 == pytest.approx(noise.brain**2)
    assert_allclose(
        covariance / np.trace(covariance), fields @ fields.T / np.square(fields).sum(), atol=1e-12
    )


def test_measured_eigenvalues_replace_those_of_the_patterns():
    fields, noise = np.random.default_rng(2).normal(size=(20, 12)), MEGNoiseParameters()
    shares = np.array([0.7, 0.2, 0.1])
    patterns = noise_patterns(fields, noise, shares)
    found = np.linalg.eigvalsh(patterns @ patterns.T)[::-1]
    assert_allclose(found[:3] / found.sum(), shares, atol=1e-9)
    assert_allclose(found[3:] / found[0], 0, atol=1e-12)
    assert np.trace(patterns @ patterns.T) / 20 == pytest.approx(noise.brain**2)


def a_covariance(path: Path, bads: list[str]) -> np.ndarray:
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(6, 6))
    data = factor @ factor.T
    names = ["MEG 0111", "MEG 0112", "MEG 0121", "MEG 0131", "EEG 001", "MEG 0141"]
    mne.Covariance(data, names, bads, [], nfree=100).save(path, verbose="error")
    return data


def test_the_eigenvalues_are_those_of_the_magnetometers_that_are_not_bad(tmp_path):
    data = a_covariance(tmp_path / "noise-cov.fif", ["MEG 0131"])
    values = np.linalg.eigvalsh(data[np.ix_([0, 2, 5], [0, 2, 5])])[::-1]
    assert_allclose(read_eigenvalues(tmp_path / "noise-cov.fif"), values / values.sum(), rtol=1e-6)


def test_the_waveform_is_the_measured_course_around_its_peak():
    times = np.arange(-0.2, 0.5, 1 / 600)
    course = np.exp(-0.5 * ((times - 0.12) / 0.03) ** 2)
    rng = np.random.default_rng(4)
    data = -rng.normal(size=(30, 1)) * course + 2.0  # of any sign, with an offset
    lags, values = waveform_of(data, times, 600.0)
    assert lags[values.argmax()] == pytest.approx(0, abs=0.002)
    assert values.max() == pytest.approx(1, abs=1e-3)
    smoothed = np.hypot(0.03, 0.006)
    assert values[np.argmin(np.abs(lags - 0.03))] == pytest.approx(
        np.exp(-0.5 * (0.03 / smoothed) ** 2), abs=0.01
    )
    assert abs(values[0]) < 1e-9


def test_a_measured_waveform_takes_the_place_of_the_formula():
    lags = np.linspace(-0.15, 0.15, 301)
    waveform = np.stack([lags, np.clip(1 - np.abs(lags) / 0.05, 0, None)])
    times = np.arange(0, 0.5, 0.001)
    course = time_courses(times, a_source(waveform=waveform), P.sources, 0.5)[0]
    assert course[125] == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("reader", [read_eigenvalues, read_waveform])
def test_a_file_of_another_kind_is_refused(tmp_path, reader):
    with pytest.raises(InputError, match=r"expected a FIF .*; found nothing there"):
        reader(tmp_path / "missing.fif")
    (tmp_path / "other.fif").write_bytes(b"no FIF at all" * 10)
    with pytest.raises(InputError, match=r"other\.fif: expected a FIF"):
        reader(tmp_path / "other.fif")


@pytest.mark.skipif(not REAL.is_dir(), reason="real recordings are not part of the project")
def test_the_elekta_covariance_and_averages_drive_a_variant_each(tmp_path):
    covariance = REAL / "sample_audvis_trunc-cov.fif"
    whole = mne.read_cov(covariance, verbose="error")
    magnetometers = [k for k, name in enumerate(whole.ch_names) if name[:3] == "MEG" and name[-1] == "1"]
    values = np.linalg.eigvalsh(whole.data[np.ix_(magnetometers, magnetometers)])[::-1]
    options = SMALL.model_copy(update={"null": True, "noise_covariance": covariance})
    subject = make_subject(MEGParameters(options=options), 1)
    found = np.square(subject.patterns[0]).sum(0)
    assert_allclose(found / found.sum(), values[: len(found)] / values[: len(found)].sum(), rtol=1e-3)

    averages = REAL / "test-ave.fif.gz"
    options = SMALL.model_copy(update={"null": True, "evoked": averages})
    subject = make_subject(MEGParameters(options=options), 1)
    course = time_courses(np.arange(0, 0.5, 0.001), subject.sources, P.sources, 0.5)
    peak = np.abs(course[subject.sources.group == 0]).argmax(1) / 1000
    assert_allclose(peak, subject.sources.latency[subject.sources.group == 0], atol=0.002)
    described = describe_study(MEGParameters(options=options))["options"]["evoked"]
    assert described["name"] == "test-ave.fif.gz"
    assert len(described["sha256"]) == 64


# --- the design and the files


@pytest.mark.parametrize("size", ["seconds", "small", "demo"])
def test_training_images_are_shown_once_or_twice_and_test_images_in_every_part(size):
    study = MEG_SIZES[size]
    trials = draw_trials(study, P.recording, 0.03, np.random.default_rng(0))
    counts = trials["image"].value_counts()
    tests = trials["subset"] == "test"
    assert set(counts[counts.index >= study.n_train]) == {study.test_repeats}
    assert counts[counts.index < study.n_train].value_counts().to_dict() == {
        1: study.n_train - study.n_twice,
        2: study.n_twice,
    }
    assert len(trials) == study.n_trials
    assert all(
        list(repeats) == list(range(1, len(repeats) + 1)) for _, repeats in trials.groupby("image")["repeat"]
    )
    order = trials[tests]["image"].to_numpy().reshape(study.test_repeats, -1)
    assert all(sorted(part) == list(range(study.n_train, study.n_images)) for part in order)
    steps = trials.groupby(["session", "run"])["sample"].diff().dropna() / P.recording.sfreq
    assert steps.min() >= 0.95 - 1 / 160
    assert steps.max() <= 1.15 + 1 / 160
    assert trials["delay"].std() == pytest.approx(0.03, rel=0.2)


def test_a_known_trial_sensor_and_image_are_found_with_bare_mne_and_pillow(subject, tmp_path):
    """Without noise, what is written is the formula times the field of each source, to a step of the integers."""
    quiet = MEGParameters(
        options=SMALL, noise=MEGNoiseParameters(brain=1e-30, sensor=1e-30), awkward=P.awkward
    )
    known = replace(subject, parameters=quiet, patterns=np.zeros_like(subject.patterns))
    path = mne_bids.BIDSPath(
        root=tmp_path, subject="01", session="01", task="images", run="01", datatype="meg"
    )
    categories = np.array(["cup"] * SMALL.study_size.n_images)
    simulate_meg._write_run(path, known, 1, 1, categories)
    raw, events = read_bare(tmp_path), read_events(tmp_path)
    trial = known.trials[(known.trials["session"] == 1) & (known.trials["run"] == 1)].iloc[5]
    row, sensor, lag = events.iloc[5], "MRO21", round(0.1 * 160)
    assert row["onset"] == pytest.approx(trial["sample"] / 160)
    assert row["stimulus_id"] == f"scene-{trial['image']:05d}"
    k = [name.startswith(sensor) for name in raw.ch_names].index(True)
    t, s = lag / 160, known.sources
    wave = np.exp(-0.5 * ((t - s.latency) / s.width) ** 2) * np.cos(2 * np.pi * s.frequency * (t - s.latency))
    moment = (known.common + known.wobble[known.trials.index[known.trials["session"] == 1][5]]) * wave
    expected = known.leadfields[0, k] @ moment
    found = raw.get_data([k])[0, int(trial["sample"]) + lag]
    assert abs(expected) > 50 * P.recording.resolution
    assert found == pytest.approx(expected, abs=P.recording.resolution)
    trigger = raw.get_data(["UPPT001"])[0]
    assert_array_equal(np.flatnonzero(np.diff(trigger) > 0) + 1, events["sample"])
    assert set(np.unique(trigger)) == {0, 64}


def test_the_pictures_are_those_of_their_scenes(folder):
    scenes = pd.read_csv(folder / "simulation" / "scenes.tsv", sep="\t").set_index("stimulus_id")
    for stimulus_id in ("scene-00000", "scene-00055"):
        with Image.open(folder / "stimuli" / f"{stimulus_id}.png") as image:
            seen = np.asarray(image)
        assert_array_equal(seen, render(draw_scene(int(scenes.loc[stimulus_id, "seed"])), 64))
    events = read_events(folder, "02", "03")
    assert set(events["stim_file"]) <= {path.name for path in (folder / "stimuli").iterdir()}
    assert (scenes.loc[events["stimulus_id"], "category"].to_numpy() == events["category"]).all()
    assert events["subset"].isin(["train", "test"]).all()


def test_the_recording_in_memory_is_the_one_that_was_written(folder):
    epochs = simulate_epochs(SMALL, 2, tmin=-0.1, tmax=0.4)
    assert epochs.data.shape == (len(epochs.trials), 275, 81)
    for session in ("01", "02", "03"):
        raw = read_bare(folder, "02", session)
        events = read_events(folder, "02", session)
        rows = np.flatnonzero(epochs.trials["session"] == int(session))
        assert list(epochs.trials["stimulus_id"].iloc[rows]) == list(events["stimulus_id"])
        sample = events["sample"].to_numpy()[3]
        written = raw.get_data(np.arange(275), sample - 16, sample + 65)
        assert_allclose(epochs.data[rows[3]], written, atol=0.01 * P.recording.resolution)
        assert np.abs(written).max() < 30000 * P.recording.resolution  # nothing was clipped


def test_integers_hold_the_recording(folder):
    raw = read_bare(folder)
    assert raw.orig_format == "short"
    steps = raw.get_data(np.arange(5)) / raw.info["chs"][0]["cal"]
    assert_allclose(steps, np.rint(steps), atol=1e-2)
    assert 1e-13 < raw.get_data(np.arange(275)).std() < 2e-12


def test_the_awkward_subject_has_a_sensor_that_is_flat_and_marked_bad_in_one_session(folder, work):
    for session, bad in (("01", False), ("02", True), ("03", False)):
        path = mne_bids.BIDSPath(
            root=folder, subject="02", session=session, task="images", run="01", datatype="meg"
        )
        raw = mne_bids.read_raw_bids(path, verbose="error")
        name = next(name for name in raw.ch_names if name.startswith("MRO11"))
        assert (name in raw.info["bads"]) == bad
        assert raw.get_data([name]).any() != bad
    study = SIMULATED_MEG.open(folder, "02", work)
    at = [n.startswith("MRO11") for n in study.space.names].index(True)
    assert [np.isnan(study.space.positions[s][at]).all() for s in ("01", "02", "03")] == [False, True, False]


def test_another_recording_has_the_same_people_and_another_noise(subject):
    other = record_again(subject, 1)
    made = make_subject(MEGParameters(options=SMALL.model_copy(update={"null": True, "recording": 1})), 1)
    assert_array_equal(subject.leadfields, made.leadfields)
    assert_array_equal(subject.common, made.common)
    pd.testing.assert_frame_equal(other.trials, made.trials)
    assert (subject.trials["image"].to_numpy() != other.trials["image"].to_numpy()).any()
    first, second = simulate_run(subject, 1, 1), simulate_run(other, 1, 1)
    assert_array_equal(second, simulate_run(made, 1, 1))
    n = 300  # before the first onset there is noise alone
    assert abs(np.corrcoef(first[0, :n], second[0, :n])[0, 1]) < 0.6


def test_in_a_null_study_the_image_changes_nothing(subject):
    assert not subject.amplitudes.any()
    assert not subject.matched.any()
    assert (subject.common > 0).all()
    changed = subject.trials.assign(image=subject.trials["image"].to_numpy()[::-1])
    assert_array_equal(simulate_run(subject, 1, 1), simulate_run(replace(subject, trials=changed), 1, 1))


def test_what_was_written_is_kept_and_nothing_else_overwritten(folder, tmp_path):
    card = folder / "simulation" / "parameters.json"
    before = card.stat().st_mtime_ns
    SIMULATED_MEG.write(folder, size="seconds")
    assert card.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"expected the simulated study asked for.*other parameters"):
        SIMULATED_MEG.write(folder, size="seconds", jitter_ms=30)
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"expected an empty folder; found recordings that were not simulated"
    ):
        SIMULATED_MEG.write(tmp_path, size="seconds")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": "huge"}, r"options of simulated-meg: expected size: .*; found 'huge'"),
        ({"jitter_ms": 20}, r"options of simulated-meg: expected jitter_ms: .*; found 20"),
        ({"noise": 0.4}, r"options of simulated-meg: expected a known config key; found 'noise'"),
        ({"size": "seconds", "subjects": 9}, r"`subjects`: expected at most 2; found 9"),
        ({"evoked": "/nowhere.fif"}, r"`evoked`: expected a FIF file; found nothing at /nowhere\.fif"),
    ],
)
def test_unknown_options_are_refused(tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        SIMULATED_MEG.write(tmp_path, **options)


def test_an_unfinished_study_and_a_missing_subject_are_refused(folder, work, tmp_path):
    with pytest.raises(InputError, match=r"parameters\.json: expected a whole simulated study"):
        SIMULATED_MEG.open(tmp_path, "01", tmp_path)
    with pytest.raises(InputError, match=r"`subject`: expected one of 01, 02; found '07'"):
        SIMULATED_MEG.open(folder, "07", work)
    with pytest.raises(InputError, match=r"`tmin`, `tmax`: expected -2\.0 to 1\.5; found -3\.0, 0\.5"):
        simulate_epochs(SMALL, tmin=-3.0, tmax=0.5)
    with pytest.raises(InputError, match=r"subject: expected 1 to 2; found 3"):
        simulate_epochs(SMALL, 3)


def test_the_study_has_images_captions_attributes_and_distractors(folder, work):
    study = SIMULATED_MEG.open(folder, "01", work)
    assert study.dataset == "simulated-meg"
    assert study.space.layout == "CTF-275"
    split = as_given([study])[0]
    tests = sorted(split.keys("test", "stimulus"))
    assert tests == [f"scene-{k:05d}" for k in range(100, 108)]
    for stimulus_id in tests[:3]:
        assert study.stimuli.attributes.loc[stimulus_id, "category"] in study.stimuli.captions(stimulus_id)[0]
        assert study.stimuli.distractors(stimulus_id).shape == (5, 64, 64, 3)
    assert study.stimuli.distractors("scene-00000") is None
    assert study.stimuli.images(tests[:2]).shape == (2, 64, 64, 3)


# --- the parameters


def test_every_parameter_names_its_source():
    words = ("THINGS-MEG", "et al.", "ur choice", "mne", "CTF-275")
    for name, text in meg_parameter_sources().items():
        assert any(word in text for word in words), name


def test_the_simulator_imports_nothing_of_the_loader():
    for path in Path(simulate_meg.__file__).parent.glob("simulate_meg*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = (node.module or "").removeprefix("braindecode_suite.datasets.")
                assert not module.startswith(("bids", "meg_runs", "recording_files")), path.name


def test_the_parameters_are_the_frozen_ones():
    """They were set from the literature; a change of one is a change of the study, with figures measured anew."""
    frozen = {name: size.model_dump(mode="json") for name, size in MEG_SIZES.items()}
    frozen["parameters"] = MEGParameters().model_dump(mode="json")
    assert data_hash(frozen) == "cc4e5d915c6087a2"
    with pytest.raises(ValueError, match="frozen"):
        MEGParameters().sources.common = 3.0
    assert json.loads(json.dumps(describe_study(MEGParameters())))["options"]["snr"] == 0.8


# --- the oracle


def a_small_oracle(rng: np.random.Generator, jitter: float) -> MEGOracle:
    """An oracle of six sensors, one of them dead, three sources and four images; it reads what the test gives it."""
    sources = a_source(
        group=np.array([0, 0, 1]),
        positions=np.zeros((3, 3)),
        moments=np.zeros((3, 3)),
        latency=np.array([0.09, 0.11, 0.12]),
        offset_latency=np.full(3, 0.1),
        width=np.array([0.02, 0.02, 0.04]),
        frequency=np.array([9.0, 9.0, 5.0]),
        offset_gain=np.full(3, 0.5),
    )
    noise = MEGNoiseParameters(brain=1e-13, sensor=1e-14)
    recorded = rng.normal(size=(6, 400)) * 3e-13
    return MEGOracle(
        signal={f"i{k}": k for k in range(4)},
        amplitudes=rng.normal(size=(4, 3)),
        distractors={"i0": 0},
        matched=rng.normal(size=(1, 2, 3)),
        common=rng.uniform(1, 2, 3),
        wobble_sd=rng.uniform(0.5, 1, 3),
        leadfields=rng.normal(size=(1, 6, 3)) * 1e-13,
        patterns=rng.normal(size=(1, 6, 4)) * 1e-13,
        usable=np.array([[True] * 5 + [False]]),
        sources=sources,
        jitter=jitter,
        recording=P.recording,
        source_parameters=SourceParameters(),
        noise=noise,
        read=lambda session, run: recorded,
    )


@pytest.mark.parametrize("jitter", [0.0, 0.03])
def test_the_oracles_likelihood_is_the_gaussian_density_with_delays_summed_out(jitter):
    oracle = a_small_oracle(np.random.default_rng(5), jitter)
    study = SimpleNamespace(
        trials=pd.DataFrame({"session": "01", "run": 1, "onset": [0.5, 1.25]}),
        stimulus_ids=np.array(["i0", "i2"], object),
    )
    window = (0.06, 0.15)
    found = oracle.trial_log_likelihood(study, np.arange(2), ["i0", "i1", "i2", "i3"], window)
    samples = np.arange(10, 25)  # 0.0625 to 0.15
    patterns, lead = oracle.patterns[0, :5], oracle.leadfields[0, :5]
    correlation = toeplitz(autocorrelation(len(samples), 160.0, oracle.noise))
    white = (1e-14) ** 2 * 80
    plain = np.kron(patterns @ patterns.T, correlation) + white * np.eye(5 * len(samples))
    grid, log_prior = oracle.delays()
    expected = np.zeros((2, 4, len(grid)))
    for d, delay in enumerate(grid):
        courses = time_courses(samples / 160, oracle.sources, oracle.source_parameters, 0.5, delay)
        each = np.einsum("sk,kt->stk", lead, courses).reshape(-1, 3)
        covariance = plain + each * oracle.wobble_sd**2 @ each.T
        for i, start in enumerate((80, 200)):
            y = oracle.read(1, 1)[:5, start + samples].ravel()
            for j in range(4):
                mean = each @ (oracle.common + oracle.amplitudes[j])
                expected[i, j, d] = stats.multivariate_normal.logpdf(y * 1e13, mean * 1e13, covariance * 1e26)
    expected = logsumexp(expected + log_prior, axis=2)
    assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-5)
    ids, both = oracle.log_likelihood(study, np.arange(2), ["i0", "i1", "i2", "i3"], window)
    assert ids == ["i0", "i2"]
    assert_allclose(both, found)


def test_the_oracle_of_the_files_is_that_of_the_subject_in_memory(folder, work):
    study = SIMULATED_MEG.open(folder, "02", work)
    rows = np.flatnonzero(study.trials["subset"] == "test")[::4]
    gallery = list(dict.fromkeys(study.stimulus_ids[rows]))
    stored = SIMULATED_MEG.oracle(folder, "02").trial_log_likelihood(study, rows, gallery)
    memory = MEGOracle.of(make_subject(P, 2)).trial_log_likelihood(study, rows, gallery)
    assert_allclose(stored - stored[:, :1], memory - memory[:, :1], atol=0.05)


def test_the_oracle_finds_the_images_and_knows_nothing_before_onset(folder, work):
    study = SIMULATED_MEG.open(folder, "01", work)
    split = as_given([study])[0]
    oracle, rows = SIMULATED_MEG.oracle(folder, "01"), split.test[0]
    summary = oracle.summary(study, rows)
    assert summary["gallery"] == summary["n"] == 8
    assert summary["retrieval_brain_to_image_top1"] > 0.9
    assert summary["identification_matched"] > 0.9
    single = oracle.retrieval(study, rows, single=True)[1]
    assert len(single) == len(rows)
    assert summary["retrieval_brain_to_image_top1_single"] == pytest.approx(single.mean())
    gallery = list(dict.fromkeys(study.stimulus_ids[rows]))
    before = oracle.trial_log_likelihood(study, rows, gallery, window=(-0.2, 0.0))
    assert_allclose(before - before[:, :1], 0, atol=1e-6)

    class Gallery:
        ids = gallery

        def __len__(self) -> int:
            return len(gallery)

    arrays = compute_ceilings(SIMULATED_MEG, folder, "01", study, split, Gallery(), [4])
    ceilings = read_ceilings(arrays)
    assert ceilings.retrieval[("brain_to_image", 8)] == pytest.approx(
        summary["retrieval_brain_to_image_top1"]
    )
    assert set(ceilings.identification) == set(gallery)


def test_the_oracles_low_level_information_peaks_early_and_category_late(folder):
    oracle = SIMULATED_MEG.oracle(folder, "01")
    peaks = oracle.peaks(width=0.05)
    assert peaks["low-level"] == pytest.approx(0.100, abs=0.015)
    assert peaks["category"] == pytest.approx(0.225, abs=0.020)
    curves = oracle.information(np.array([-0.1, 0.1, 0.225, 0.6, 0.69]))
    assert curves["low-level"][0] == curves["category"][0] == 0
    assert curves["low-level"][1] > 3 * curves["low-level"][2]
    assert curves["category"][2] > 3 * curves["category"][1]
    assert curves["category"][4] > 0.05 * curves["category"][2]  # the offset's own response
    features = oracle.features(["scene-00003"], "low-level")
    assert features.shape == (1, P.sources.n_early)
    with pytest.raises(InputError, match=r"`group`: expected one of low-level, category; found 'colour'"):
        oracle.features(["scene-00003"], "colour")
    with pytest.raises(InputError, match=r"`ids`: expected images of this study; found image other"):
        oracle.features(["other"], "category")


def test_the_truth_is_kept_with_the_study(folder):
    with h5py.File(folder / "simulation" / "sub-01_truth.hdf5", "r") as file:
        assert file["leadfields"].shape == (3, 275, 62)
        assert file["matched"].shape == (8, 5, 62)
        assert len(file["trials/delay"]) == len(
            pd.concat(read_events(folder, "01", s) for s in ("01", "02", "03"))
        )

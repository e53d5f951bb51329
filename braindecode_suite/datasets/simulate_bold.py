"""Writes a small BIDS study with fMRIPrep-style derivatives: 4-D BOLD whose single-trial responses are known.

Every voxel answers each image with an amplitude of its own, through a haemodynamic response that peaks 4 to 7 s after the
image; slow drifts, motion and autocorrelated noise are added. File names and sidecars follow BIDS 1.9 and fMRIPrep's
outputs; raw BOLD is left out. Everything is drawn from one seed. The true amplitudes come back as `BoldTruth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from braindecode_suite.core.files import write_json, write_text

TASK = "images"
CATEGORIES = ("face", "house", "tool", "animal")
N_FEATURES = 6
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


@dataclass(frozen=True)
class BoldParameters:
    """What is drawn; the values are ours, chosen for tests and labelled so: nothing of them is measured.

    Attributes
    ----------
    shape : tuple of int
        Voxels along x, y, z; about half are brain.
    sessions : tuple of str
        Labels; empty for a study without sessions.
    runs : int
        Runs a session.
    images : int
    repeats : int
        How often each image is shown, over all runs.
    spacing, duration : float
        Seconds from one image to the next, and on the screen.
    t_r, start_time : float
        Repetition time, and the time within the repetition that a volume stands for (fMRIPrep's ``StartTime``).
    peaks : tuple of float
        Range of the time to peak over voxels, in seconds.
    signal, noise, drift, motion : float
        Standard deviation over images of the amplitudes, of the noise, the drifts and the motion artefact, all in
        percent of the baseline.
    spaces : tuple of str
        Output spaces of the derivatives; all hold the same voxels.
    """

    shape: tuple[int, int, int] = (10, 11, 6)
    sessions: tuple[str, ...] = ("01", "02", "03")
    runs: int = 2
    images: int = 48
    repeats: int = 3
    spacing: float = 4.0
    duration: float = 2.0
    t_r: float = 1.5
    start_time: float = 0.75
    peaks: tuple[float, float] = (4.0, 7.0)
    signal: float = 1.0
    noise: float = 0.6
    drift: float = 1.0
    motion: float = 0.5
    spaces: tuple[str, ...] = ("MNI152NLin2009cAsym",)


@dataclass(frozen=True, eq=False)
class BoldTruth:
    """What was put into one subject's BOLD.

    Attributes
    ----------
    mask : array of bool of shape (x, y, z)
    amplitudes : array of shape (trials, voxels)
        Percent of the baseline at the peak of the response; trials by session, run and onset.
    stimulus_ids : list of str
        Name of each trial's image, in the same order.
    peaks : array of shape (voxels,)
        Seconds to the peak of each voxel's response to an impulse, in steps of 0.1 s.
    """

    mask: NDArray[np.bool_]
    amplitudes: NDArray[np.float64]
    stimulus_ids: list[str]
    peaks: NDArray[np.float64]


def true_response(times: NDArray[np.floating], peak: float) -> NDArray[np.float64]:
    """Return a haemodynamic response with this peak, of height 1; its width and undershoot are those of SPM's.

    ``h(t) = g(t; peak) - g(t; 15) / 6`` with gamma densities of scale 1 s.
    """
    response = stats.gamma.pdf(times, peak + 1) - stats.gamma.pdf(times, 16) / 6
    return np.asarray(response / stats.gamma.pdf(peak, peak + 1))


def true_regressors(
    times: NDArray[np.floating], onsets: NDArray[np.floating], duration: float, peak: float
) -> NDArray[np.float64]:
    """Return what each image leaves in the signal of a voxel with this peak: an oracle's regressors.

    Parameters
    ----------
    times : array of shape (volumes,)
        Seconds at which the volumes are taken.
    onsets : array of shape (trials,)
    duration : float
    peak : float

    Returns
    -------
    array of shape (volumes, trials)
        Height 1 at the peak of the response to an image.
    """
    within = np.arange(0, duration, 0.1)
    fine = true_response(np.arange(0, 20, 0.05)[:, None] - within, peak).mean(axis=1)
    lags = times[:, None, None] - onsets[None, :, None] - within
    return np.asarray(true_response(lags, peak).mean(axis=2) / fine.max())


def write_bold_study(
    folder: Path,
    parameters: BoldParameters | None = None,
    *,
    subjects: Sequence[str] = ("01",),
    seed: int = 0,
) -> dict[str, BoldTruth]:
    """Write the study below `folder` and return the truth of each subject.

    Parameters
    ----------
    folder : Path
        Becomes the BIDS dataset; derivatives lie in ``derivatives/fmriprep``.
    parameters : BoldParameters, optional
    subjects : sequence of str
    seed : int

    Returns
    -------
    dict of str to BoldTruth
    """
    given = parameters or BoldParameters()
    rng = np.random.default_rng(seed)
    names = [f"{CATEGORIES[k % len(CATEGORIES)]}_{k:03d}" for k in range(given.images)]
    features = rng.standard_normal((given.images, N_FEATURES))
    features[:, 0] = np.resize([1.5, 0.5, -0.5, -1.5], given.images)  # the category
    _write_top(folder, given, subjects)
    _write_images(folder / "stimuli" / "images", names, features)
    return {
        subject: _write_subject(
            folder, subject, given, names, features, np.random.default_rng([seed, number])
        )
        for number, subject in enumerate(subjects, start=1)
    }


def _write_top(folder: Path, given: BoldParameters, subjects: Sequence[str]) -> None:
    write_json(folder / "dataset_description.json", {"Name": "simulated BOLD", "BIDSVersion": "1.9.0"})
    write_text(
        folder / "participants.tsv", "participant_id\n" + "".join(f"sub-{label}\n" for label in subjects)
    )
    write_json(folder / f"task-{TASK}_bold.json", {"TaskName": TASK, "RepetitionTime": given.t_r})
    write_json(
        folder / "derivatives" / "fmriprep" / "dataset_description.json",
        {
            "Name": "fMRIPrep-style derivatives of simulated BOLD",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {"Name": "braindecode_suite simulate_bold", "Description": "in fMRIPrep's layout"}
            ],
        },
    )


def _write_images(folder: Path, names: Sequence[str], features: NDArray[np.float64]) -> None:
    """Draw a disc, square, bar or cross (the category) whose place, size and colour follow the features."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    for number, (name, row) in enumerate(zip(names, features, strict=True)):
        squashed = np.tanh(row / 2)
        u, v = x - 0.3 * squashed[1], y - 0.3 * squashed[2]
        size = 0.45 + 0.15 * squashed[3]
        shapes = (
            np.hypot(u, v) < size,
            np.maximum(abs(u), abs(v)) < size,
            (abs(u) < size / 3) & (abs(v) < 1.4 * size),
            (np.minimum(abs(u), abs(v)) < size / 4) & (np.maximum(abs(u), abs(v)) < size),
        )
        colour = 128 + 100 * np.array([squashed[4], squashed[5], -squashed[4]])
        pixels = np.where(shapes[number % len(shapes)][..., None], colour, 60.0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")


def _write_subject(
    folder: Path,
    subject: str,
    given: BoldParameters,
    names: Sequence[str],
    features: NDArray[np.float64],
    rng: np.random.Generator,
) -> BoldTruth:
    x, y, z = (np.linspace(-1, 1, n) for n in given.shape)
    mask = x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2 <= 1.1
    n_voxels = int(mask.sum())
    tuning = rng.standard_normal((N_FEATURES, n_voxels)) / np.sqrt(N_FEATURES)
    by_image = given.signal * (0.8 + features @ tuning)
    peaks = np.round(rng.uniform(*given.peaks, n_voxels), 1)
    baseline = rng.uniform(800, 1200, n_voxels)

    sessions: tuple[str | None, ...] = given.sessions or (None,)
    n_runs = len(sessions) * given.runs
    shown = np.concatenate([rng.permutation(given.images) for _ in range(given.repeats)])
    runs = np.array_split(shown, n_runs)
    for number, images in enumerate(runs):
        _write_run(
            folder,
            subject,
            sessions[number // given.runs],
            number % given.runs + 1,
            given,
            [names[i] for i in images],
            by_image[images],
            peaks,
            baseline,
            mask,
            rng,
        )
    return BoldTruth(mask, by_image[shown], [f"images/{names[i]}.png" for i in shown], peaks)


def _write_run(
    folder: Path,
    subject: str,
    session: str | None,
    run: int,
    given: BoldParameters,
    names: Sequence[str],
    amplitudes: NDArray[np.float64],
    peaks: NDArray[np.float64],
    baseline: NDArray[np.float64],
    mask: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    onsets = 6 + given.spacing * np.arange(len(names))
    n_volumes = int(np.ceil((onsets[-1] + given.duration + 16) / given.t_r))
    times = given.start_time + given.t_r * np.arange(n_volumes)
    signal = _convolve(times, onsets, amplitudes, peaks, given.duration)
    motion = np.cumsum(0.02 * rng.standard_normal((n_volumes, len(MOTION))), axis=0)
    motion[:, 3:] /= 50  # radians
    scaled = stats.zscore(motion, axis=0)
    percent = (
        signal
        + given.drift * _drifts(times) @ rng.standard_normal((3, len(peaks))) / np.sqrt(3)
        + given.motion * scaled @ rng.standard_normal((len(MOTION), len(peaks))) / np.sqrt(len(MOTION))
        + given.noise * _autocorrelated(n_volumes, len(peaks), rng)
    )
    series = baseline * (1 + percent / 100)

    place = Path(f"sub-{subject}") / (f"ses-{session}" if session else "") / "func"
    stem = f"sub-{subject}" + (f"_ses-{session}" if session else "") + f"_task-{TASK}_run-{run}"
    _write_events(folder / place / f"{stem}_events.tsv", onsets, names, given, rng)
    derived = folder / "derivatives" / "fmriprep" / place
    derived.mkdir(parents=True, exist_ok=True)
    _write_confounds(derived / f"{stem}_desc-confounds_timeseries", motion, series, times)
    volumes = np.zeros((*mask.shape, n_volumes), np.float32)
    volumes[mask] = series.T
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [-1.5 * (n - 1) for n in mask.shape]
    for space in given.spaces:
        _save(derived / f"{stem}_space-{space}_desc-preproc_bold.nii.gz", volumes, affine, given.t_r)
        _save(derived / f"{stem}_space-{space}_desc-brain_mask.nii.gz", mask.astype(np.uint8), affine)
        write_json(
            derived / f"{stem}_space-{space}_desc-preproc_bold.json",
            {
                "RepetitionTime": given.t_r,
                "TaskName": TASK,
                "SkullStripped": False,
                "SliceTimingCorrected": True,
                "StartTime": given.start_time,
            },
        )


def _convolve(
    times: NDArray[np.floating],
    onsets: NDArray[np.floating],
    amplitudes: NDArray[np.float64],
    peaks: NDArray[np.float64],
    duration: float,
) -> NDArray[np.float64]:
    """Return the noiseless signal (volumes, voxels): each image's amplitude times a response of height 1."""
    signal = np.zeros((len(times), len(peaks)))
    for peak in np.unique(peaks):
        here = peaks == peak
        signal[:, here] = true_regressors(times, onsets, duration, peak) @ amplitudes[:, here]
    return signal


def _drifts(times: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return three slow courses of unit variance: a ramp, and two waves slower than 150 s."""
    phase = times / max(times[-1], 300.0)
    columns = np.column_stack([phase, np.cos(2 * np.pi * phase), np.sin(np.pi * phase)])
    return np.asarray(stats.zscore(columns, axis=0))


def _autocorrelated(n_volumes: int, n_voxels: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of unit variance with a lag-one correlation of 0.3."""
    noise = rng.standard_normal((n_volumes, n_voxels))
    for volume in range(1, n_volumes):
        noise[volume] = 0.3 * noise[volume - 1] + np.sqrt(1 - 0.3**2) * noise[volume]
    return noise


def _write_events(
    path: Path,
    onsets: NDArray[np.floating],
    names: Sequence[str],
    given: BoldParameters,
    rng: np.random.Generator,
) -> None:
    images = pd.DataFrame(
        {
            "onset": onsets,
            "duration": given.duration,
            "trial_type": "image",
            "stim_file": [f"images/{name}.png" for name in names],
            "category": [name.split("_")[0] for name in names],
            "response_time": rng.uniform(0.4, 0.9, len(names)).round(3),
        }
    )
    cue = pd.DataFrame({"onset": [1.0], "duration": [2.0], "trial_type": ["cue"]})
    table = pd.concat([cue, images], ignore_index=True)[list(images.columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")


def _write_confounds(
    stem: Path, motion: NDArray[np.floating], series: NDArray[np.floating], times: NDArray[np.floating]
) -> None:
    columns: dict[str, NDArray[np.float64]] = {}
    for name, values in zip(MOTION, motion.T, strict=True):
        derivative = np.concatenate([[np.nan], np.diff(values)])
        columns[name] = values
        columns[f"{name}_derivative1"] = derivative
        columns[f"{name}_power2"] = values**2
        columns[f"{name}_derivative1_power2"] = derivative**2
    quarter = max(series.shape[1] // 4, 1)
    columns["global_signal"] = series.mean(axis=1)
    columns["csf"], columns["white_matter"] = (
        series[:, :quarter].mean(axis=1),
        series[:, -quarter:].mean(axis=1),
    )
    steps = np.abs(np.diff(motion, axis=0)) * [1, 1, 1, 50, 50, 50]
    columns["framewise_displacement"] = np.concatenate([[np.nan], steps.sum(axis=1)])
    columns["std_dvars"] = np.concatenate([[np.nan], np.diff(series, axis=0).std(axis=1)])
    columns["std_dvars"] /= np.nanmean(columns["std_dvars"])
    for k in range(2):
        columns[f"cosine{k:02d}"] = np.cos(np.pi * (k + 1) * (np.arange(len(times)) + 0.5) / len(times))
    table = pd.DataFrame(columns)
    table.to_csv(f"{stem}.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.8g")
    write_json(Path(f"{stem}.json"), {})


def _save(path: Path, values: NDArray[Any], affine: NDArray[np.float64], t_r: float | None = None) -> None:
    image: Any = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    if t_r is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    nib.save(image, path)

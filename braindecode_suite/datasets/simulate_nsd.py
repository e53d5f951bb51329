"""Write a simulated study in the file layout of the NSD release, with bare h5py, nibabel, scipy and pandas.

Nothing of the loader is used here, and nothing that was written is read back. What the release does not have lies in
``simulation/``: parameters, scenes, captions, matched distractor images and the noiseless truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import savemat

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside, write_json, write_text
from braindecode_suite.datasets.simulate_anatomy import LABELS, Anatomy, make_anatomy
from braindecode_suite.datasets.simulate_parameters import (
    SimulationOptions,
    SimulationParameters,
    StudySize,
    parameter_sources,
)
from braindecode_suite.datasets.simulate_pictures import (
    Album,
    Pictured,
    draw_distractors,
    draw_reference,
    picture,
    study_seed,
    write_distractors,
    write_scenes,
)
from braindecode_suite.datasets.simulate_scenes import Scene, draw_scene
from braindecode_suite.datasets.simulate_voxels import Floats, SignalModel, draw_population

FORMAT = 1
"""Raised when the same parameters would write other files."""
BETAS = "betas_fithrf_GLMdenoise_RR"
_BLOCK = 256
_TRIAL_SECONDS, _RUN_SECONDS = 4.0, 300.0
_AFFINE = np.diag([1.8, 1.8, 1.8, 1.0])
_BEHAVIOUR = (
    "SUBJECT SESSION RUN TRIAL 73KID 10KID TIME ISOLD ISCORRECT RT CHANGEMIND MEMORYRECENT MEMORYFIRST ISOLDCURRENT "
    "ISCORRECTCURRENT TOTAL1 TOTAL2 BUTTON MISSINGDATA"
)


@dataclass(frozen=True, eq=False)
class Design:
    """Who sees what, when; all numbers 0-based.

    Attributes
    ----------
    order : array of int of shape (trials planned,)
        For each trial the number of an image among a subject's own list; the shared ones come first.
    images : array of int of shape (subjects, images)
        Number in the whole study (the "73k id") of each image of a subject's list.
    """

    order: NDArray[np.int64]
    images: NDArray[np.int64]


def write_study(data_dir: Path, options: SimulationOptions | None = None) -> None:
    """Write a simulated study; one that is already there with the same options is kept.

    Parameters
    ----------
    data_dir : Path
    options : SimulationOptions, optional

    Raises
    ------
    InputError
        If the folder holds another study.
    """
    parameters = SimulationParameters(options=options or SimulationOptions())
    described = describe_study(parameters)
    card = data_dir / "simulation" / "parameters.json"
    if card.is_file():
        if _without_sources(json.loads(card.read_text(encoding="utf-8"))) == _without_sources(described):
            return
        raise InputError(
            card,
            expected="the simulated study asked for, or an empty folder",
            found="a study of other parameters",
            hint="choose another --data-dir",
        )
    if (data_dir / "nsddata" / "experiments").exists() and not (data_dir / "simulation").exists():
        raise InputError(
            data_dir, expected="an empty folder", found="recordings that were not simulated here"
        )
    try:
        (data_dir / "simulation").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(data_dir, expected="a folder that can be written", found=str(error)) from error
    size, seed = parameters.options.study_size, parameters.options.seed
    design = draw_design(size, seed)
    _write_design(data_dir, size, design)
    scenes = [draw_scene(study_seed(seed, k)) for k in range(size.n_stimuli)]
    album = Album(size.image_size)
    _write_stimuli(data_dir, album, scenes)
    simulation = data_dir / "simulation"
    write_scenes(simulation, range(len(scenes)), scenes, seed)
    distractors = draw_distractors(scenes, design.images[0, : size.n_shared], size.n_distractors, seed)
    write_distractors(simulation, design.images[0, : size.n_shared], distractors, album)
    shared = [scenes[k] for k in design.images[0, : size.n_shared]]
    voxels = parameters.voxels
    common = picture([*shared, *(scene for row in distractors for scene in row)], album, voxels)
    reference = picture(draw_reference(seed, voxels.n_reference), album, voxels)
    for subject in range(1, size.n_subjects + 1):
        own = picture([scenes[k] for k in design.images[subject - 1, size.n_shared :]], album, voxels)
        _write_subject(data_dir, subject, parameters, design, common, own, reference)
    write_json(card, described)


def describe_study(parameters: SimulationParameters) -> dict[str, Any]:
    """Return everything that decides what is written, with the source of each parameter."""
    return {
        "format": FORMAT,
        "options": parameters.options.model_dump(mode="json"),
        "size": parameters.options.study_size.model_dump(mode="json"),
        "voxels": parameters.voxels.model_dump(mode="json"),
        "noise": parameters.noise.model_dump(mode="json"),
        "awkward": parameters.awkward.model_dump(mode="json"),
        "kind_shares": {region: parameters.kind_shares(region) for region in parameters.voxels.kind_shares},
        "sources": parameter_sources(),
    }


def _without_sources(described: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the files, as JSON reads it: wording may change."""
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return {key: value for key, value in plain.items() if key != "sources"}


def draw_design(size: StudySize, seed: int) -> Design:
    """Draw the order of trials (the same for all subjects, as in NSD) and each subject's images."""
    rng = np.random.default_rng([seed, 1])
    planned = max(size.sessions) * size.trials_per_session
    order = rng.permutation(np.resize(np.arange(size.n_images), planned))
    ids = rng.permutation(size.n_stimuli)
    shared, own = ids[: size.n_shared], ids[size.n_shared :].reshape(size.n_subjects, size.n_own)
    shared = np.sort(shared)
    return Design(order, np.stack([np.concatenate([shared, np.sort(row)]) for row in own]))


def _write_design(data_dir: Path, size: StudySize, design: Design) -> None:
    folder = data_dir / "nsddata" / "experiments" / "nsd"
    with write_aside(folder / "nsd_expdesign.mat") as aside:
        savemat(
            aside,
            {
                "masterordering": (design.order[None] + 1).astype(np.uint16),
                "subjectim": (design.images + 1).astype(np.uint32),
                "sharedix": (design.images[:1, : size.n_shared] + 1).astype(np.uint32),
            },
        )
    n = size.n_stimuli
    table = pd.DataFrame(
        {
            "cocoId": np.arange(n),
            "cocoSplit": "simulated",
            "cropBox": "(0.0, 0.0, 0.0, 0.0)",
            "loss": 0.0,
            "nsdId": np.arange(n),
            "flagged": False,
            "BOLD5000": False,
            "shared1000": np.isin(np.arange(n), design.images[0, : size.n_shared]),
        }
    )
    times = [np.flatnonzero(design.order == k) + 1 for k in range(size.n_images)]
    for subject, images in enumerate(design.images, start=1):
        table[f"subject{subject}"] = np.isin(np.arange(n), images)
        for repeat in range(3):
            shown = np.zeros(n, int)  # 0: never
            shown[images] = [t[repeat] if repeat < len(t) else 0 for t in times]
            table[f"subject{subject}_rep{repeat}"] = shown
    with write_aside(folder / "nsd_stim_info_merged.csv") as aside:
        table.to_csv(aside)


def _write_stimuli(data_dir: Path, album: Album, scenes: Sequence[Scene]) -> None:
    side = album.side
    with (
        write_aside(data_dir / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5") as aside,
        h5py.File(aside, "w") as file,
    ):
        brick = file.create_dataset("imgBrick", (len(scenes), side, side, 3), np.uint8)
        for start in range(0, len(scenes), _BLOCK):
            brick[start : start + _BLOCK] = album.render(scenes[start : start + _BLOCK])


def _write_subject(
    data_dir: Path,
    subject: int,
    parameters: SimulationParameters,
    design: Design,
    common: Pictured,
    own: Pictured,
    reference: Pictured,
) -> None:
    """Write all files of one subject; `common` are the shared scenes, then those matched to them."""
    options, size = parameters.options, parameters.options.study_size
    awkward = subject == parameters.awkward.subject
    anatomy = make_anatomy(
        size.volume,
        size.voxels[subject - 1],
        parameters.voxels.stream_shares,
        empty=(parameters.awkward.empty_roi,) if awkward else (),
    )
    rng = np.random.default_rng([options.seed, 2, subject])
    model = _signal_model(anatomy, parameters, rng, reference)
    truth = _draw_truth(model, parameters, size.sessions[subject - 1], rng, awkward)

    signal_own = model.responses(own.scenes, own.maps)
    signal_common = model.responses(common.scenes, common.maps)
    signal = np.concatenate([signal_common[: size.n_shared], signal_own]) * truth.signal_sd
    signal_matched = signal_common[size.n_shared :] * truth.signal_sd

    name = f"subj{subject:02d}"
    _write_behaviour(data_dir, subject, size, design)
    _write_regions(data_dir, name, anatomy)
    quality = _write_betas(data_dir, name, parameters, design, anatomy, truth, signal, subject)
    for file, values in quality.items():
        _write_map(
            data_dir / "nsddata_betas" / "ppdata" / name / "func1pt8mm" / BETAS / file, anatomy, values
        )
    with write_aside(data_dir / "simulation" / f"{name}_truth.hdf5") as aside, h5py.File(aside, "w") as file_:
        file_["stimulus_id"] = design.images[subject - 1]
        file_["shared_id"] = design.images[0, : size.n_shared]
        file_["signal"] = signal.astype(np.float16)
        file_["signal_distractors"] = signal_matched.astype(np.float16).reshape(
            size.n_shared, size.n_distractors, -1
        )
        for key in ("signal_sd", "noise_sd", "loadings", "gain", "offset", "mean", "trial_sd", "constant"):
            file_[key] = getattr(truth, key)
        file_["ncsnr"] = truth.signal_sd / truth.noise_sd
        file_["kind"] = model.population.kind.astype("S")
        file_["category"] = model.population.category


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """How a subject's betas come from the signal.

    ``beta = mean + trial_sd * (offset + gain * (signal + noise))``, noise independent of deviation `noise_sd` without
    the part shared through `loadings`.

    Attributes
    ----------
    signal_sd, noise_sd : array of shape (voxels,)
        Their squares add to one; their ratio is the true ncsnr.
    loadings : array of shape (rank, voxels)
        Shared noise is standard normal of shape (rank,) times these; included in `noise_sd`.
    gain, offset : array of shape (sessions, voxels)
    mean, trial_sd : array of shape (voxels,)
        Percent signal change.
    constant : array of bool of shape (voxels,)
        Voxels that are always zero.
    """

    signal_sd: Floats
    noise_sd: Floats
    loadings: Floats
    gain: Floats
    offset: Floats
    mean: Floats
    trial_sd: Floats
    constant: NDArray[np.bool_]


def _draw_truth(
    model: SignalModel,
    parameters: SimulationParameters,
    n_sessions: int,
    rng: np.random.Generator,
    awkward: bool,
) -> Truth:
    noise, n = parameters.noise, len(model.population)
    ncsnr = np.clip(
        parameters.options.ncsnr * np.exp(rng.normal(0, noise.ncsnr_log_sd, n)), *noise.ncsnr_range
    )
    noise_sd = 1 / np.sqrt(1 + ncsnr**2)
    loadings = rng.normal(size=(noise.shared_rank, n))
    loadings *= np.sqrt(noise.shared_share) * noise_sd / np.linalg.norm(loadings, axis=0)
    constant = np.zeros(n, bool)
    if awkward:
        constant[rng.choice(n, max(round(parameters.awkward.constant_voxels * n), 1), replace=False)] = True
    drawn = {
        "signal_sd": ncsnr * noise_sd,
        "noise_sd": noise_sd,
        "loadings": loadings,
        "gain": np.exp(rng.normal(0, noise.session_gain_log_sd, (n_sessions, n))),
        "offset": rng.normal(0, noise.session_offset, (n_sessions, n)),
        "mean": rng.normal(*noise.mean_beta, n),
        "trial_sd": noise.trial_sd[0] * np.exp(rng.normal(0, noise.trial_sd[1], n)),
    }
    return Truth(constant=constant, **{key: value.astype(np.float32) for key, value in drawn.items()})


def _signal_model(
    anatomy: Anatomy, parameters: SimulationParameters, rng: np.random.Generator, reference: Pictured
) -> SignalModel:
    kind = np.empty(len(anatomy.stream), "U16")
    region = np.where(anatomy.region == "floc-places", "floc-places", anatomy.stream)
    for name in np.unique(region):
        shares = parameters.kind_shares(str(name))
        inside = region == name
        kind[inside] = rng.choice(list(shares), inside.sum(), p=list(shares.values()))
    population = draw_population(kind, anatomy.area, anatomy.own_category, parameters.voxels, rng)
    return SignalModel(population, parameters.voxels, reference.scenes, reference.maps)


def _write_behaviour(data_dir: Path, subject: int, size: StudySize, design: Design) -> None:
    n = size.sessions[subject - 1] * size.trials_per_session
    session, within = np.divmod(np.arange(n), size.trials_per_session)
    lengths = run_lengths(size.trials_per_session, size.runs_per_session)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    run = np.searchsorted(starts, within, side="right") - 1
    trial = within - starts[run]
    order = design.order[:n]
    table = pd.DataFrame({column: np.full(n, np.nan) for column in _BEHAVIOUR.split()})
    table["SUBJECT"], table["SESSION"], table["RUN"], table["TRIAL"] = (
        subject,
        session + 1,
        run + 1,
        trial + 1,
    )
    table["73KID"], table["10KID"] = design.images[subject - 1][order] + 1, order + 1
    table["TIME"] = 736000 + session * 7 + (run * _RUN_SECONDS + trial * _TRIAL_SECONDS) / 86400
    table["ISOLD"] = pd.Series(order).duplicated().astype(int)
    table["MISSINGDATA"] = 0
    path = data_dir / "nsddata" / "ppdata" / f"subj{subject:02d}" / "behav" / "responses.tsv"
    with write_aside(path) as aside:
        table.to_csv(aside, sep="\t", index=False, na_rep="NaN", float_format="%.9f")


def run_lengths(trials: int, runs: int) -> list[int]:
    """Share a session's trials among its runs, the odd ones longer (NSD: 63, 62, 63...)."""
    short, longer = divmod(trials, runs)
    order = sorted(range(runs), key=lambda k: (k % 2, k))  # the odd-numbered runs (from 1) first
    return [short + (order.index(k) < longer) for k in range(runs)]


def _write_regions(data_dir: Path, name: str, anatomy: Anatomy) -> None:
    functional = data_dir / "nsddata" / "ppdata" / name / "func1pt8mm"
    for file, volume in anatomy.volumes.items():
        _save(functional / "roi" / f"{file}.nii.gz", volume)
    _save(functional / "brainmask.nii.gz", anatomy.brain.astype(np.int16))
    _save(functional / "mean.nii.gz", (1000.0 * anatomy.brain + 200.0 * anatomy.general).astype(np.float32))
    for file, labels in LABELS.items():
        lines = ["0 Unknown", *(f"{value} {label}" for value, label in enumerate(labels, start=1))]
        table = data_dir / "nsddata" / "freesurfer" / name / "label" / f"{file}.mgz.ctab"
        write_text(table, "\n".join(lines) + "\n")


def _save(path: Path, volume: NDArray[Any]) -> None:
    with write_aside(path) as aside:
        whole = aside.with_name(aside.name[: -len(".gz")] + ".nii.gz")
        nib.save(nib.Nifti1Image(volume, _AFFINE), whole)
        whole.replace(aside)


def _write_map(path: Path, anatomy: Anatomy, values: Floats) -> None:
    """Write values per voxel of nsdgeneral; 0 elsewhere in the brain, NaN outside it."""
    volume = np.where(anatomy.brain, 0.0, np.nan).astype(np.float32)
    volume[anatomy.general] = values
    _save(path, volume)


def _write_betas(
    data_dir: Path,
    name: str,
    parameters: SimulationParameters,
    design: Design,
    anatomy: Anatomy,
    truth: Truth,
    signal: Floats,
    subject: int,
) -> dict[str, Floats]:
    """Write every session and return the maps that the release estimates from them: ncsnr, mean and R2."""
    size, seed = parameters.options.study_size, parameters.options.seed
    folder = data_dir / "nsddata_betas" / "ppdata" / name / "func1pt8mm" / BETAS
    quality = _Quality(size.n_images, signal.shape[1])
    scale = parameters.noise.int16_scale
    for session in range(size.sessions[subject - 1]):
        rng = np.random.default_rng([seed, 3, subject, session])
        images = design.order[session * size.trials_per_session : (session + 1) * size.trials_per_session]
        betas = _session_betas(truth, signal[images], session, rng)
        stored = np.clip(np.round(betas * scale), -32768, 32767).astype(np.int16)
        quality.add(stored.astype(np.float32) / scale, images)
        planes = _planes(anatomy, stored, parameters, rng)
        _write_session(folder / f"betas_session{session + 1:02d}", planes, anatomy, len(images), parameters)
    return quality.maps()


def _session_betas(truth: Truth, signal: Floats, session: int, rng: np.random.Generator) -> Floats:
    """Return betas in percent signal change, of shape (trials, voxels)."""
    shared = np.square(truth.loadings).sum(0)
    alone = np.sqrt(np.square(truth.noise_sd) - shared)
    noise = rng.standard_normal(signal.shape, np.float32) * alone
    noise += rng.standard_normal((len(signal), len(truth.loadings)), np.float32) @ truth.loadings
    betas = truth.mean + truth.trial_sd * (truth.offset[session] + truth.gain[session] * (signal + noise))
    betas[:, truth.constant] = 0
    return np.asarray(betas, np.float32)


def _planes(
    anatomy: Anatomy, stored: NDArray[np.int16], parameters: SimulationParameters, rng: np.random.Generator
) -> Iterator[NDArray[np.int16]]:
    """Yield planes of constant z, of shape (y, x, trials): nsdgeneral, plain noise elsewhere in the brain, 0 outside."""
    x_size, y_size, z_size = anatomy.brain.shape
    place = np.argwhere(anatomy.general)  # (voxels, 3)
    spread = parameters.noise.trial_sd[0] * parameters.noise.int16_scale
    for z in range(z_size):
        plane = np.zeros((y_size, x_size, len(stored)), np.int16)
        other = (anatomy.brain & ~anatomy.general)[:, :, z].T
        plane[other] = rng.standard_normal((int(other.sum()), len(stored)), np.float32) * spread
        here = place[:, 2] == z
        plane[place[here, 1], place[here, 0]] = stored[:, here].T
        yield plane


def _write_session(
    stem: Path,
    planes: Iterator[NDArray[np.int16]],
    anatomy: Anatomy,
    n_trials: int,
    parameters: SimulationParameters,
) -> None:
    formats = parameters.options.formats
    whole: list[NDArray[np.int16]] = []
    x_size, y_size, z_size = anatomy.brain.shape
    with ExitStack() as stack:
        dataset = None
        if "hdf5" in formats:
            file = stack.enter_context(
                h5py.File(stack.enter_context(write_aside(stem.with_suffix(".hdf5"))), "w")
            )
            shape = (n_trials, z_size, y_size, x_size)
            dataset = file.create_dataset("betas", shape, np.int16, chunks=(n_trials, 1, 1, 1))
        for z, plane in enumerate(planes):
            if dataset is not None:
                for y, x in np.ndindex(y_size, x_size):
                    dataset.id.write_direct_chunk((0, z, y, x), plane[y, x].tobytes())
            if "nii.gz" in formats:
                whole.append(plane)
    if whole:
        _save(stem.with_name(stem.name + ".nii.gz"), np.stack(whole).transpose(2, 1, 0, 3))


class _Quality:
    """Estimates ncsnr as the release does: betas z-scored within session, noise from the variance over repeats."""

    def __init__(self, n_images: int, n_voxels: int) -> None:
        self.sums = np.zeros((n_images, n_voxels), np.float32)
        self.squares = np.zeros(n_voxels)
        self.counts = np.zeros(n_images, int)
        self.total, self.n_trials = np.zeros(n_voxels), 0

    def add(self, betas: NDArray[Any], images: NDArray[np.int64]) -> None:
        """Take one session's betas, of shape (trials, voxels)."""
        self.total += betas.sum(0)
        self.n_trials += len(betas)
        deviation = betas.std(0)
        z = (betas - betas.mean(0)) / np.where(deviation > 0, deviation, np.nan)
        np.add.at(self.sums, images, z)
        self.counts += np.bincount(images, minlength=len(self.counts))
        self.squares += np.square(z).sum(0)

    def maps(self) -> dict[str, Floats]:
        """Return the maps by file name, each of shape (voxels,); NaN where a voxel never varies."""
        repeated = self.counts > 1
        once = self.counts == 1
        # sum over images of the squared deviations from their mean; images seen once deviate by nothing
        within = self.squares - np.square(self.sums[once]).sum(0, dtype=np.float64)
        within -= (np.square(self.sums[repeated]) / self.counts[repeated, None]).sum(0, dtype=np.float64)
        noise = within / (self.counts[repeated] - 1).sum()
        signal = np.maximum(1 - noise, 0)
        return {
            "ncsnr.nii.gz": np.sqrt(signal / noise).astype(np.float32),
            "meanbeta.nii.gz": (self.total / self.n_trials).astype(np.float32),
            "R2.nii.gz": (100 * signal).astype(np.float32),
        }

"""Write a simulated MEG study as BIDS, in FIF files, with mne, mne-bids, h5py and pandas.

Nothing of the loader is used here, and nothing that was written is read back. What BIDS has no place for lies in
``simulation/``: parameters, scenes, captions, matched distractor images and the truth.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, file_sha256, write_aside, write_json
from braindecode_suite.datasets.simulate_meg_parameters import (
    MEGParameters,
    MEGSimulationOptions,
    meg_parameter_sources,
)
from braindecode_suite.datasets.simulate_meg_subject import (
    MEGSubject,
    Pictures,
    draw_pictures,
    make_subject,
    run_trials,
    simulate_run,
    stimulus_names,
)
from braindecode_suite.datasets.simulate_pictures import write_distractors, write_scenes

FORMAT = 1
"""Raised when the same parameters would write other files."""
TASK = "images"
_FIRST_DAY = datetime(2020, 1, 6, 9, tzinfo=UTC)
_README = """Simulated MEG of people who look at procedural scenes.

Made by braindecode_suite; every parameter, with its source, stands in simulation/parameters.json. Results on it are model
recovery, never performance. Stimulus ids are the names of the files in stimuli/ without their suffix.
"""
_COLUMNS = {
    "trial_type": "image: a scene was shown",
    "stimulus_id": "Scene, the name of its file in stimuli/ without the suffix",
    "stim_file": "File below stimuli/",
    "category": "Category of the object that covers the most pixels",
    "repeat": "How often the subject has seen this scene, this time included",
    "subset": "train or test",
    "value": "Value of the trigger",
    "sample": "Sample of the onset, from 0",
}


def write_study(data_dir: Path, options: MEGSimulationOptions | None = None) -> None:
    """Write a simulated study; one that is already there with the same options is kept.

    Parameters
    ----------
    data_dir : Path
    options : MEGSimulationOptions, optional

    Raises
    ------
    InputError
        If the folder holds another study.
    """
    parameters = MEGParameters(options=options or MEGSimulationOptions())
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
    if (data_dir / "dataset_description.json").exists() and not (data_dir / "simulation").exists():
        raise InputError(
            data_dir, expected="an empty folder", found="recordings that were not simulated here"
        )
    try:
        (data_dir / "simulation").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(data_dir, expected="a folder that can be written", found=str(error)) from error
    pictures = draw_pictures(parameters)
    _write_top(data_dir)
    _write_stimuli(data_dir, parameters, pictures)
    for number in range(1, parameters.options.study_size.n_subjects + 1):
        _write_subject(data_dir, make_subject(parameters, number, pictures), pictures)
    write_json(card, described)


def describe_study(parameters: MEGParameters) -> dict[str, Any]:
    """Return everything that decides what is written, with the source of each parameter; measured files by their hash."""
    options = parameters.options.model_dump(mode="json")
    for name in ("noise_covariance", "evoked"):
        path = getattr(parameters.options, name)
        if path is not None:
            if not path.is_file():
                raise InputError(f"`{name}`", expected="a FIF file", found=f"nothing at {path}")
            options[name] = {"name": path.name, "sha256": file_sha256(path)}
    return {
        "format": FORMAT,
        "options": options,
        "size": parameters.options.study_size.model_dump(mode="json"),
        "recording": parameters.recording.model_dump(mode="json"),
        "helmet": parameters.helmet.model_dump(mode="json"),
        "source": parameters.sources.model_dump(mode="json"),
        "noise": parameters.noise.model_dump(mode="json"),
        "awkward": parameters.awkward.model_dump(mode="json"),
        "sources": meg_parameter_sources(),
    }


def _without_sources(described: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the files, as JSON reads it: wording may change."""
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return {key: value for key, value in plain.items() if key != "sources"}


def _write_top(data_dir: Path) -> None:
    write_json(
        data_dir / "dataset_description.json",
        {
            "Name": "Simulated people who look at procedural scenes, MEG",
            "BIDSVersion": "1.9.0",
            "DatasetType": "raw",
            "License": "CC0",
            "GeneratedBy": [{"Name": "braindecode_suite", "Description": "simulated-meg"}],
        },
    )
    with write_aside(data_dir / "README") as aside:
        aside.write_text(_README, encoding="utf-8")


def _write_stimuli(data_dir: Path, parameters: MEGParameters, pictures: Pictures) -> None:
    size, seed = parameters.options.study_size, parameters.options.seed
    names = stimulus_names(size)
    folder = data_dir / "stimuli"
    folder.mkdir(exist_ok=True)
    for name, scene in zip(names, pictures.scenes, strict=True):
        with write_aside(folder / f"{name}.png") as aside:
            Image.fromarray(pictures.album.render([scene])[0]).save(aside)
    write_scenes(data_dir / "simulation", names, pictures.scenes, seed)
    write_distractors(
        data_dir / "simulation", np.array(names[size.n_train :]), pictures.distractors, pictures.album
    )


def _write_subject(data_dir: Path, subject: MEGSubject, pictures: Pictures) -> None:
    """Write all runs of one subject, then its truth."""
    import mne_bids

    size = subject.parameters.options.study_size
    table = pd.read_csv(data_dir / "simulation" / "scenes.tsv", sep="\t")
    for session in range(1, size.sessions + 1):
        for run in range(1, size.runs_per_session + 1):
            path = mne_bids.BIDSPath(
                root=data_dir,
                subject=subject.label,
                session=f"{session:02d}",
                task=TASK,
                run=f"{run:02d}",
                datatype="meg",
            )
            _write_run(path, subject, session, run, table["category"].to_numpy())
    _write_truth(data_dir / "simulation" / f"sub-{subject.label}_truth.hdf5", subject)


def _write_run(path: Any, subject: MEGSubject, session: int, run: int, category: NDArray[Any]) -> None:
    import mne
    import mne_bids

    recording, size = subject.parameters.recording, subject.parameters.options.study_size
    steps = np.rint(simulate_run(subject, session, run).astype(np.float64) / recording.resolution)
    data = steps * (
        recording.resolution * (1 + 1e-7)
    )  # mne cuts to integers: none may fall just short of its step
    trials = run_trials(subject, session, run)
    trigger = np.zeros((1, data.shape[1]))
    for sample in trials["sample"]:
        trigger[0, sample : sample + recording.trigger_samples] = recording.trigger
    raw: Any = mne.io.RawArray(
        np.concatenate([data, trigger]), subject.info(session), copy="both", verbose="error"
    )
    raw.set_meas_date(_FIRST_DAY + timedelta(days=7 * (session - 1), minutes=10 * (run - 1)))
    raw.info["line_freq"] = 50.0
    raw.orig_format = "short"
    written = mne_bids.write_raw_bids(
        raw, path, format="FIF", allow_preload=True, overwrite=True, readme=False, verbose="error"
    )
    images = trials["image"].to_numpy()
    names = np.array(stimulus_names(size), object)[images]
    events = pd.DataFrame(
        {
            "onset": (trials["sample"] / recording.sfreq).round(6),
            "duration": recording.image_seconds,
            "trial_type": "image",
            "stimulus_id": names,
            "stim_file": [f"{name}.png" for name in names],
            "category": category[images],
            "repeat": trials["repeat"],
            "subset": trials["subset"],
            "value": recording.trigger,
            "sample": trials["sample"],
        }
    )
    stem = str(Path(written.fpath)).removesuffix("_meg.fif")
    with write_aside(Path(f"{stem}_events.tsv")) as aside:
        events.to_csv(aside, sep="\t", index=False)
    write_json(Path(f"{stem}_events.json"), {name: {"Description": text} for name, text in _COLUMNS.items()})


def _write_truth(path: Path, subject: MEGSubject) -> None:
    """Write what the oracle needs to know."""
    size = subject.parameters.options.study_size
    names = np.array(stimulus_names(size))
    arrays: dict[str, NDArray[Any]] = {
        "stimulus_id": names.astype("S"),
        "test_id": names[size.n_train :].astype("S"),
        "names": np.array(subject.names, "S"),
        "heads": subject.heads,
        "leadfields": subject.leadfields,
        "patterns": subject.patterns,
        "amplitudes": subject.amplitudes,
        "matched": subject.matched.reshape(size.n_test, size.n_distractors, -1),
        "common": subject.common,
        "wobble": subject.wobble,
        "wobble_sd": subject.wobble_sd,
        "usable": subject.usable,
    }
    for column in ("session", "run", "image", "sample", "delay"):
        arrays[f"trials/{column}"] = subject.trials[column].to_numpy()
    arrays |= {f"sources/{name}": values for name, values in subject.sources.arrays().items()}
    with write_aside(path) as aside, h5py.File(aside, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file.attrs["hash"] = data_hash(_without_sources(describe_study(subject.parameters)))

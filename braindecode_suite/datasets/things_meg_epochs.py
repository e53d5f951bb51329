"""The epochs of THINGS-MEG that its authors preprocessed, as a study: they are read as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError, MissingChannels
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.epoch_files import (
    OF_RECORDINGS,
    EpochFileRows,
    open_epochs,
    refuse_recording_options,
)
from braindecode_suite.datasets.lab_files import check_inside, count_repeats
from braindecode_suite.datasets.recording_files import check_sessions
from braindecode_suite.datasets.recording_space import sensors_of
from braindecode_suite.datasets.sensor_positions import layout_positions
from braindecode_suite.datasets.things_meg_options import ThingsMegOptions
from braindecode_suite.datasets.things_meg_table import open_images, read_trials, tidy_attributes


def find_epochs(data_dir: Path, label: str = "P*") -> list[Path]:
    """Return the first file of the released epochs of a subject, or of all."""
    name = f"preprocessed_{label}-epo.fif"
    return sorted({*data_dir.glob(f"derivatives/preprocessed/{name}"), *data_dir.glob(name)})


def trials_of_epochs(data_dir: Path, label: str, path: Path, epochs: Any) -> tuple[pd.DataFrame, list[str]]:
    """Return a trial for every epoch: the metadata in the file, or the table of the subject where it has none."""
    if epochs.metadata is not None:
        trials, warnings = tidy_attributes(path, epochs.metadata.astype(str).reset_index(drop=True))
    else:
        trials, warnings = read_trials(data_dir, label)
    if len(trials) != len(epochs.events):
        raise InputError(
            path, expected=f"{len(trials)} epochs, one a trial of the table", found=str(len(epochs.events))
        )
    return trials, warnings


def open_released(data_dir: Path, label: str, options: ThingsMegOptions) -> Study:
    """Open the epochs that the authors preprocessed as a study."""
    if options.kinds is not None:
        raise MissingChannels(
            "option kinds",
            expected="null for released epochs, which hold MEG alone",
            found=", ".join(options.kinds),
        )
    refuse_recording_options(options, OF_RECORDINGS)
    path = check_inside(data_dir, find_epochs(data_dir, label)[0])
    epochs = open_epochs(path)
    trials, warnings = trials_of_epochs(data_dir, label, path, epochs)
    keep = (trials["published"] != "").to_numpy()
    if options.sessions is not None:
        check_sessions(options.sessions, set(trials["session"]))
        keep &= trials["session"].isin(options.sessions).to_numpy()
    trials = trials[keep].drop(columns="things_image_nr").reset_index(drop=True)
    trials["repeat"], trials["onset"] = count_repeats(trials["stimulus_id"]), np.nan
    head = ["stimulus_id", "session", "run", "repeat", "onset", "duration"]
    trials = trials[[*head, *(name for name in trials.columns if name not in head)]]
    dropped = options.recording().drop
    kinds = dict(zip(epochs.ch_names, epochs.get_channel_types(), strict=True))
    names = tuple(name for name, kind in kinds.items() if kind in ("mag", "grad") and name not in dropped)
    if not names:
        raise InputError(path, expected="MEG channels", found=", ".join(sorted(set(kinds.values()))))
    where, layout = layout_positions(epochs.info, names)
    where[[name in epochs.info["bads"] for name in names]] = np.nan
    space = sensors_of(
        [epochs.info["chs"][epochs.ch_names.index(name)] for name in names],
        names=names,
        kinds=[kinds[name] for name in names],
        positions={session: where.copy() for session in dict.fromkeys(trials["session"])},
        sfreq=float(epochs.info["sfreq"]),
        times=np.asarray(epochs.times, np.float64),
        layout=layout,
    )
    unknown = int((~np.isfinite(where).all(axis=1)).sum())
    if unknown:
        warnings.append(
            f"{unknown} of {len(names)} sensors have no place in the 2-D layout or are marked bad"
        )
    stimuli, missing = open_images(data_dir, trials, options)
    return Study(
        dataset="things-meg",
        subject=label,
        responses=EpochFileRows(path, names, np.flatnonzero(keep), len(epochs.times)),
        trials=trials,
        stimuli=stimuli,
        space=space,
        unit="z-score",
        provenance={
            "folder": str(data_dir),
            "files": [path.name],
            "normalised": "as released: 0.1 to 40 Hz, each epoch z-scored by the time before its picture",
            "warnings": [*warnings, *missing],
        },
    )

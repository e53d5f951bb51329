"""THINGS-MEG in small: the tree of the release with FIF in place of CTF recordings, which MNE cannot write, and the released epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from PIL import Image

from tests.meg_files import SENSORS, SFREQ, make_raw, write_run

CONCEPTS, TESTED = 26, 5
EVENTS_LATE = 0.15
"""Seconds by which the column onset is behind the trigger."""
SAMPLE_LATE = 2
"""Samples by which the column sample is behind the trigger."""


def make_table(sessions: int = 3) -> pd.DataFrame:
    """Return the table of one subject: every concept once a session, the test images in every session, and catch trials."""
    rng, rows = np.random.default_rng(0), []
    for session in range(1, sessions + 1):
        block = [("exp", f"images_meg/thing{c}/thing{c}_{session:02d}b.jpg", c) for c in range(CONCEPTS)]
        block += [("test", f"images_test_meg/thing{c}_14s.jpg", c) for c in range(TESTED)]
        block += [("catch", f"images_catch_meg/{k}.jpg", 0) for k in range(3)]
        for k, at in enumerate(rng.permutation(len(block))):
            kind, path, concept = block[at]
            on = 0.75 + 0.25 * k
            row = {"trial_type": kind, "image_path": path, "things_category_nr": concept, "image_on": on}
            row |= {"things_image_nr": 100 * session + at, "image_off": on + 0.5}
            rows.append(row | {"session_nr": session, "run_nr": 1})
    return pd.DataFrame(rows)


def write_images(folder: Path, table: pd.DataFrame) -> None:
    rng = np.random.default_rng(1)
    for name in sorted(set(table["image_path"][table["trial_type"] != "catch"])):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def write_things_meg(
    folder: Path, *, sessions: int = 3, sample: bool = True, trigger: bool = True
) -> np.ndarray:
    """Write the raw tree; returns the samples of the first session of shape (sensors, samples)."""
    table = make_table(sessions)
    (folder / "sourcedata").mkdir(parents=True)
    table.to_csv(folder / "sourcedata/sample_attributes_P1.csv", index=False)
    write_images(folder, table)
    rng, first = np.random.default_rng(2), np.zeros(0)
    for session in range(1, sessions + 1):
        mine = table[table["session_nr"] == session]
        at = np.round(mine["image_on"].to_numpy() * SFREQ).astype(int)
        data = 1e-13 * rng.standard_normal((len(SENSORS), at[-1] + 500))
        first = data if session == 1 else first
        raw = make_raw(data)
        if trigger:
            raw.rename_channels({"STI 014": "UPPT001"}, verbose="error")
            line = np.zeros(data.shape[1])
            for start in at:
                line[start : start + 5] = 64
            line[at[-1] + 100 : at[-1] + 105] = 32
            raw._data[raw.ch_names.index("UPPT001")] = line
        events = pd.DataFrame({"onset": at / SFREQ + EVENTS_LATE, "duration": 0.5})
        catch = (mine["trial_type"] == "catch").to_numpy()
        events["value"] = mine["things_image_nr"].where(~catch, other=np.nan).to_numpy()
        if sample:
            events["sample"] = at + SAMPLE_LATE
        path = write_run(folder, raw, events, subject="BIGMEG1", session=f"{session:02d}")
        for other in path.parent.glob("*task-look*"):
            other.rename(other.with_name(other.name.replace("task-look", "task-main")))
    return first


def write_things_epochs(
    folder: Path,
    *,
    sessions: int = 3,
    n_times: int = 57,
    split_size: str = "2GB",
    metadata: bool = True,
    missing: Sequence[tuple[int, int | slice]] = (),
) -> np.ndarray:
    """Write released epochs, with NaN in the (epoch, sensor) of `missing`; returns them, of shape (trials, sensors, times)."""
    table = make_table(sessions)
    place = folder / "derivatives/preprocessed"
    place.mkdir(parents=True)
    write_images(folder, table)
    data = np.random.default_rng(3).standard_normal((len(table), len(SENSORS), n_times)).astype(np.float32)
    for epoch, sensor in missing:
        data[epoch, sensor, n_times // 2] = np.nan
    info = mne.create_info(list(SENSORS), 40.0, "mag", verbose="error")
    events = np.stack([np.arange(len(table)), np.zeros(len(table), int), np.ones(len(table), int)], axis=1)
    epochs = mne.EpochsArray(
        data, info, events, tmin=-0.1, metadata=table if metadata else None, proj=False, verbose="error"
    )
    epochs.save(place / "preprocessed_P1-epo.fif", split_size=split_size, fmt="single", verbose="error")
    return data

"""Small MEG recordings in BIDS, written with MNE: what is in them is known to the sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from PIL import Image

SENSORS = tuple(f"MEG {number}1" for number in ("011", "012", "013", "014", "021", "022", "023", "024"))
"""Magnetometers of an Elekta system, which MNE's layout knows."""
VV_MAG = 3024  # FIFFV_COIL_VV_MAG_T3
SFREQ = 240.0


def make_raw(data: np.ndarray, sfreq: float = SFREQ, names: Sequence[str] = SENSORS) -> mne.io.RawArray:
    """Return magnetometers with data of shape (sensors, samples), a trigger and an eye channel."""
    extra = np.zeros((2, data.shape[1]))
    extra[1] = np.sin(np.arange(data.shape[1]) / 50)
    kinds = ["mag"] * len(names) + ["stim", "eog"]
    info = mne.create_info([*names, "STI 014", "EOG 061"], sfreq, kinds, verbose="error")
    for k in range(len(names)):
        info["chs"][k]["coil_type"] = VV_MAG
        info["chs"][k]["loc"][:3] = 0.1 * np.cos(k), 0.1 * np.sin(k), 0.05
    return mne.io.RawArray(np.concatenate([data, extra]), info, verbose="error")


def write_run(
    folder: Path,
    raw: mne.io.BaseRaw,
    events: pd.DataFrame,
    *,
    subject: str = "01",
    session: str = "01",
    run: int = 1,
    bad: Sequence[str] = (),
) -> Path:
    """Write one run as FIF with its events and channels, and return the path of the recording."""
    home = folder / f"sub-{subject}" / f"ses-{session}" / "meg"
    home.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "small", "BIDSVersion": "1.9.0"}))
    stem = home / f"sub-{subject}_ses-{session}_task-look_run-{run:02d}"
    path = stem.with_name(f"{stem.name}_meg.fif")
    raw.save(path, fmt="double", overwrite=True, verbose="error")
    events.to_csv(f"{stem}_events.tsv", sep="\t", index=False)
    channels = pd.DataFrame({"name": raw.ch_names, "type": ["MEGMAG"] * len(raw.ch_names), "units": "T"})
    channels.loc[len(raw.ch_names) - 2 :, "type"] = ["TRIG", "EOG"]
    channels.loc[len(raw.ch_names) - 2 :, "units"] = "V"
    channels["status"] = ["bad" if name in bad else "good" for name in raw.ch_names]
    channels.to_csv(f"{stem}_channels.tsv", sep="\t", index=False)
    return path


def make_events(
    n: int, first: float = 0.75, every: float = 0.25, ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return pictures at regular times."""
    names = [f"image-{k:02d}" for k in range(n)] if ids is None else list(ids)
    return pd.DataFrame(
        {
            "onset": first + every * np.arange(n),
            "duration": 0.1,
            "trial_type": "picture",
            "stimulus_id": names,
            "category": [f"kind-{name[-1]}" for name in names],
        }
    )


def write_meg(folder: Path, *, sessions: int = 2, runs: int = 2, n: int = 40) -> None:
    """Write noise of a few femtotesla around pictures that are there, in every run the same ones in another order."""
    rng = np.random.default_rng(0)
    (folder / "stimuli").mkdir(parents=True, exist_ok=True)
    for k in range(n):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "stimuli" / f"image-{k:02d}.png")
    for session in range(1, sessions + 1):
        for run in range(1, runs + 1):
            ids = [f"image-{k:02d}" for k in rng.permutation(n)]
            events = make_events(n, ids=ids)
            samples = int(SFREQ * (events["onset"].max() + 1.5))
            data = 1e-14 * rng.standard_normal((len(SENSORS), samples)) + 1e-12
            write_run(folder, make_raw(data), events, session=f"{session:02d}", run=run)

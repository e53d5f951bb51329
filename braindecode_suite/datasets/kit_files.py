"""Recordings of KIT (Yokogawa, Ricoh): what MNE and mne-bids do not see to, runs in folders of their own and files that end early."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import read_table

if TYPE_CHECKING:
    import mne

KIT_SUFFIXES = (".con", ".sqd")
TYPES = {
    "EEG": "eeg",
    "ECG": "ecg",
    "EMG": "emg",
    "EOG": "eog",
    "HEOG": "eog",
    "VEOG": "eog",
    "MISC": "misc",
    "TRIG": "stim",
}
"""From BIDS to MNE, of channels that are no sensors of the helmet."""


def check_samples(path: Path) -> None:
    """Raise unless the file is as long as its header says: MNE may read zeros past the end of one that was cut.

    Parameters
    ----------
    path : Path
        A continuous recording whose header can be read.
    """
    from mne.io.kit.constants import KIT
    from mne.io.kit.kit import get_kit_info

    _, header = get_kit_info(path, False, verbose="error")
    begin = int(header["dirs"][KIT.DIR_INDEX_RAW_DATA]["offset"])
    sample = int(header["nchan"]) * header["dtype"].itemsize
    wanted, found = int(header["n_samples"]), max(0, path.stat().st_size - begin) // sample
    if found < wanted:
        raise InputError(
            path,
            expected=f"a whole recording, of {wanted} samples of {header['nchan']} channels",
            found=f"{found}, as the file ends",
        )


def read_in_folder(path: Path, channels: Path) -> mne.io.BaseRaw:
    """Open a run that lies in a folder of its own, as early versions of BIDS had it; mne-bids looks for the file beside that folder.

    Parameters
    ----------
    path : Path
    channels : Path
        Its ``channels.tsv``, which need not be there: bad channels, and types of those that are no sensors.

    Returns
    -------
    mne.io.BaseRaw
        Samples are read when asked for.
    """
    import mne

    raw = mne.io.read_raw_kit(path, verbose="warning")
    if not channels.is_file():
        return raw
    table = read_table(channels, ["name", "type"])
    unknown = len(set(table["name"]) - set(raw.ch_names))
    if unknown:
        warnings.warn(f"{channels.name} names {unknown} channels that were not recorded", stacklevel=2)
    table = table[table["name"].isin(raw.ch_names)]
    types = dict(zip(table["name"], table["type"].str.upper().map(TYPES), strict=True))
    raw.set_channel_types(
        {name: kind for name, kind in types.items() if isinstance(kind, str)}, on_unit_change="ignore"
    )
    if "status" in table.columns:
        raw.info["bads"] = table["name"][table["status"].str.lower() == "bad"].tolist()
    return raw

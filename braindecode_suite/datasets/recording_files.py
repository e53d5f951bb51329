"""Raw MEG and EEG of one participant in a BIDS folder: where the runs lie, and opening one of them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, file_sha256
from braindecode_suite.datasets.bids_layout import entities
from braindecode_suite.datasets.kit_files import KIT_SUFFIXES, check_samples, read_in_folder
from braindecode_suite.datasets.lab_files import check_inside, one_line

if TYPE_CHECKING:
    import mne

EXTENSIONS = {
    "meg": (".ds", ".fif", *KIT_SUFFIXES),
    "eeg": (".vhdr", ".edf", ".EDF", ".bdf", ".BDF", ".set"),
}
"""By BIDS' data type: CTF, FIF (Elekta, MEGIN, and what was converted), KIT; BrainVision, EDF, BDF, EEGLAB."""
COMPANIONS = (".eeg", ".vmrk", ".fdt")
TOLD = ("channels.tsv", "truncat", "not closed", "discontinuous", "electrode locations")
"""Words of the reader's warnings that are passed on."""
OPTIONAL = "did not find any"
"""Words of those about sidecars that need not be there."""


@dataclass(frozen=True)
class Recording:
    """The files of one run; none of them has been opened.

    Attributes
    ----------
    root, path : Path
        Of the dataset; of the file or the folder that holds the recording.
    datatype : {'meg', 'eeg'}
    session, task, run : str
        Labels, empty where the file name has none.
    events : Path
        Its ``events.tsv``, which need not be there.
    """

    root: Path
    path: Path
    datatype: str
    session: str
    task: str
    run: str
    events: Path

    @property
    def name(self) -> str:
        """Session, task and run in words."""
        parts = (("ses", self.session), ("task", self.task), ("run", self.run))
        return "_".join(f"{key}-{value}" for key, value in parts if value)

    @property
    def channels(self) -> Path:
        """Its ``channels.tsv``, which need not be there."""
        return self.events.with_name(f"{self.path.name.rpartition('_')[0]}_channels.tsv")

    def files(self) -> list[Path]:
        """Return every file that holds samples or says what they are."""
        if self.path.is_dir():
            found = [path for path in self.path.rglob("*") if path.is_file()]
        else:
            found = [self.path, *(self.path.with_suffix(suffix) for suffix in COMPANIONS)]
            parts = (
                self.path.name.replace("_split-01_", "_split-*_") if "_split-01_" in self.path.name else ""
            )
            found += self.path.parent.glob(parts) if parts else []
        return sorted({path for path in [*found, self.channels] if path.is_file()})

    def fingerprint(self) -> str:
        """Hash of names, sizes and times of the files, and of what ``channels.tsv`` says."""
        stamps = []
        for path in self.files():
            status = path.stat()
            text = file_sha256(path) if path.name.endswith("_channels.tsv") else status.st_mtime_ns
            stamps.append([path.name, status.st_size, text])
        return data_hash(stamps)


def find_recordings(
    data_dir: Path,
    subject: str,
    *,
    datatype: str = "",
    task: str = "",
    sessions: Sequence[str] | None = None,
) -> list[Recording]:
    """List the runs of one participant; only this participant's folders are looked into.

    Parameters
    ----------
    data_dir : Path
    subject : str
    datatype : {'', 'meg', 'eeg'}
        MEG where there is any, by default.
    task : str
        All tasks by default.
    sessions : sequence of str, optional
        Labels; all by default.

    Raises
    ------
    InputError
        If nothing is left, a name is unknown, or a link leads out of the data folder.
    """
    home = data_dir / f"sub-{subject}"
    types = [datatype] if datatype else list(EXTENSIONS)
    found: list[Recording] = []
    for kind in types:
        if not found:
            found = _list(data_dir, home, kind)
    if not found:
        raise InputError(
            home,
            expected=f"recordings *_{types[0]}{{{','.join(EXTENSIONS[types[0]])}}} in {types[0]} or ses-*/{types[0]}"
            + (f", or *_eeg{{{','.join(EXTENSIONS['eeg'])}}}" if not datatype else ""),
            found="none",
        )
    if task:
        check_option("task", task, {one.task for one in found})
        found = [one for one in found if one.task == task]
    if sessions is not None:
        check_sessions(sessions, {one.session for one in found})
        found = [one for one in found if one.session in sessions]
    for one in found:
        check_inside(data_dir, one.path)
    return sorted(found, key=lambda one: (_natural(one.session), one.task, _natural(one.run), one.path.name))


def check_sessions(wanted: Sequence[str], known: Collection[str]) -> None:
    """Raise unless every session that is wanted is there, and one is."""
    for session in wanted:
        check_option("sessions", session, known)
    if not wanted:
        raise InputError("option sessions", expected=f"some of {', '.join(sorted(known))}", found="none")


def _list(data_dir: Path, home: Path, datatype: str) -> list[Recording]:
    found = []
    for place in (home / datatype, *sorted(home.glob(f"ses-*/{datatype}"))):
        in_folders = [p for p in place.glob(f"*_{datatype}/*_{datatype}.*") if p.suffix in KIT_SUFFIXES]
        for path in sorted(place.glob(f"*_{datatype}.*")) + sorted(in_folders):
            names = entities(path)
            if path.suffix not in EXTENSIONS[datatype] or names.get("split", "01") not in ("01", "1"):
                continue
            stem = "_".join(f"{k}-{v}" for k, v in names.items() if k not in ("split", "proc"))
            found.append(
                Recording(
                    root=data_dir,
                    path=path,
                    datatype=datatype,
                    session=names.get("ses", ""),
                    task=names.get("task", ""),
                    run=names.get("run", ""),
                    events=place / f"{stem}_events.tsv",
                )
            )
    return found


def _natural(label: str) -> tuple[int, int, str]:
    """Sort key: numbers by value, then words."""
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)


def open_recording(recording: Recording, montage: str = "") -> tuple[mne.io.BaseRaw, list[str]]:
    """Open one run through mne-bids: its header is read, with bad channels, types and electrodes from the sidecars.

    Parameters
    ----------
    recording : Recording
    montage : str
        One of MNE's standard montages for electrodes whose places no sidecar has.

    Returns
    -------
    raw : mne.io.BaseRaw
        Samples are read when asked for.
    warnings : list of str

    Raises
    ------
    InputError
        If the recording is damaged, or its sidecars are.
    """
    import mne_bids

    path = recording.path
    if path.suffix == ".ds" and not list(path.glob("*.res4")):
        raise InputError(path, expected="a CTF folder with its .res4 file", found="none in it")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if path.parent != recording.events.parent:
                raw = read_in_folder(path, recording.channels)
            else:
                where = mne_bids.get_bids_path_from_fname(path, check=False, verbose="error")
                raw = mne_bids.read_raw_bids(where, on_ch_mismatch="warn", verbose="warning")
            if path.suffix in KIT_SUFFIXES:
                check_samples(path)
        except InputError:
            raise
        except Exception as error:  # whatever a reader trips over is in the file
            raise InputError(path, expected="a whole recording", found=one_line(error)) from error
        if montage and recording.datatype == "eeg" and raw.get_montage() is None:
            try:
                raw.set_montage(montage, match_case=False, on_missing="ignore", verbose="error")
            except ValueError as error:
                raise InputError(
                    "option montage", expected="a montage of MNE", found=one_line(error)
                ) from error
    texts = [" ".join(str(one.message).replace(f"{recording.root}/", "").split()) for one in caught]
    told = [text for text in texts if any(word in text.lower() for word in TOLD)]
    told = [f"{path.name}: {text[:200]}" for text in told if OPTIONAL not in text.lower()]
    return raw, list(dict.fromkeys(told))


def describe_raw(raw: Any) -> str:
    """Return channels, rate and length in words."""
    return f"{len(raw.ch_names)} channels, {raw.info['sfreq']:g} Hz, {raw.n_times / raw.info['sfreq']:.1f} s"


def read_last(recording: Recording, raw: Any) -> None:
    """Raise unless the last sample can be read: a file that ends early shows there."""
    try:
        raw[[0], raw.n_times - 1 : raw.n_times]
    except Exception as error:  # whatever a reader trips over is in the file
        raise InputError(recording.path, expected="a whole recording", found=one_line(error)) from error

"""Where each sensor lies on a flat head: the 2-D layout of the system that recorded, scaled to the unit square."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mne

MEG_KINDS, EEG_KINDS = ("mag", "grad"), ("eeg",)


def layout_positions(info: mne.Info, names: tuple[str, ...]) -> tuple[np.ndarray, str]:
    """Return the place of each sensor in the layout that MNE finds for the system.

    Places are scaled to [0, 1] by the smallest and largest of the sensors that are there (Défossez et al. 2023). Serial numbers of
    CTF (``MLC11-4302``) and blanks of Elekta (``MEG 0113``) are left out of the comparison. Layouts of KIT count channels
    (``MEG 001``): where a file names its sensors otherwise, their number in it finds their place. Electrodes have a layout only if their
    places on the head are known.

    Parameters
    ----------
    info : mne.Info
    names : tuple of str
        Sensors of `info`.

    Returns
    -------
    positions : array of shape (sensors, 2)
        NaN where the layout does not know the sensor.
    layout : str
        Its name, such as ``CTF-275``; empty where there is none.
    """
    import mne

    kinds = dict(zip(info["ch_names"], info.get_channel_types(), strict=True))
    found: dict[str, np.ndarray] = {}
    title = ""
    for members in (MEG_KINDS, EEG_KINDS):
        mine = [name for name in names if kinds[name] in members]
        if not mine:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                layout = mne.find_layout(mne.pick_info(info, _picks(info, mine), verbose="error"), exclude=[])
            except (RuntimeError, ValueError):  # electrodes without a place on the head
                continue
        title = title or layout.kind
        places = {_plain(name): pos[:2] for name, pos in zip(layout.names, layout.pos, strict=True)}
        labels = {name: _plain(name) for name in mine}
        if info["kit_system_id"] is not None and not places.keys() & set(labels.values()):
            labels = {name: _counted(info, name) for name in mine}
        found |= {name: places[label] for name, label in labels.items() if label in places}
    positions = np.full((len(names), 2), np.nan)
    for k, name in enumerate(names):
        if name in found:
            positions[k] = found[name]
    known = np.isfinite(positions).all(axis=1)
    if known.any():
        low, high = positions[known].min(axis=0), positions[known].max(axis=0)
        positions = (positions - low) / np.where(high > low, high - low, 1)
    return positions, title


def _picks(info: mne.Info, names: list[str]) -> list[int]:
    return [info["ch_names"].index(name) for name in names]


def _counted(info: mne.Info, name: str) -> str:
    """Return what layouts of KIT call a sensor, by the number of its channel in the file."""
    return f"MEG{info['chs'][info['ch_names'].index(name)]['scanno']:03d}"


def _plain(name: str) -> str:
    """Return a sensor's name without serial number and blanks.

    Examples
    --------
    >>> _plain("MLC11-4302"), _plain("MEG 0113")
    ('MLC11', 'MEG0113')
    """
    return name.split("-")[0].replace(" ", "")


def merge_names(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all names of several runs in the system's order: one that an earlier run lacks comes after its neighbour.

    Examples
    --------
    >>> merge_names([("a", "c"), ("a", "b", "c", "d")])
    ('a', 'b', 'c', 'd')
    """
    merged: list[str] = []
    known: set[str] = set()
    for names in lists:
        at = -1
        for name in names:
            if name in known:
                at = merged.index(name)
            else:
                at += 1
                merged.insert(at, name)
                known.add(name)
    return tuple(merged)

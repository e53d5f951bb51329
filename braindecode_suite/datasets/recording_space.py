"""The sensors of a study of recordings: type, unit, and where each lay in each session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.datasets.meg_runs import Run, Windows
from braindecode_suite.datasets.sensor_positions import layout_positions

UNITS = {
    "mag": "tesla",
    "grad": "tesla per metre",
    "ref_meg": "tesla",
    "eyegaze": "radian",
    "pupil": "as given",
}


def sensors_of(
    channels: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str],
    kinds: Sequence[str],
    positions: dict[str, np.ndarray],
    sfreq: float,
    times: np.ndarray,
    layout: str,
) -> SensorSpace:
    """Return sensors with the places and coils that MNE has of their channels.

    Parameters
    ----------
    channels : sequence of dict
        Entries of ``info["chs"]``, one a sensor.
    names, kinds, positions, sfreq, times, layout
        As in `SensorSpace`.
    """
    return SensorSpace(
        names=tuple(names),
        kinds=tuple(kinds),
        positions=positions,
        sfreq=sfreq,
        times=times,
        locations=np.array([channel["loc"] for channel in channels], np.float64),
        coil_types=np.array([int(channel["coil_type"]) for channel in channels]),
        layout=layout,
    )


def make_space(
    runs: Sequence[Run], infos: Sequence[Any], names: tuple[str, ...], windows: Windows
) -> tuple[SensorSpace, list[str]]:
    """Return the sensors of all runs with their places in each session, and warnings of those without a place."""
    kinds: dict[str, str] = {}
    channels: dict[str, Any] = {}
    for run, info in zip(runs, infos, strict=True):
        for name, kind in zip(run.names, run.kinds, strict=True):
            if kinds.setdefault(name, kind) != kind:
                raise InputError(
                    run.path, expected=f"{name} of type {kinds[name]}, as in other runs", found=f"type {kind}"
                )
            channels.setdefault(name, info["chs"][info["ch_names"].index(name)])
    positions, layout = {}, ""
    for session in dict.fromkeys(run.session for run in runs):
        where = np.full((len(names), 2), np.nan)
        # the run with most sensors sets the scale, the others add what it lacks
        mine = [k for k, run in enumerate(runs) if run.session == session]
        for k in sorted(mine, key=lambda k: -len(runs[k].names)):
            found, title = layout_positions(infos[k], runs[k].names)
            layout = layout or title
            for name, place in zip(runs[k].names, found, strict=True):
                at = names.index(name)
                if np.isnan(where[at]).any():
                    where[at] = place
        positions[session] = where
    space = sensors_of(
        [channels[name] for name in names],
        names=names,
        kinds=tuple(kinds[name] for name in names),
        positions=positions,
        sfreq=windows.sfreq,
        times=windows.times,
        layout=layout,
    )
    known = np.any([np.isfinite(where).all(axis=1) for where in positions.values()], axis=0)
    if known.all():
        return space, []
    hint = "; the option montage places electrodes by their names" if "eeg" in space.kinds else ""
    return space, [f"{int((~known).sum())} of {len(names)} sensors have no place in the 2-D layout{hint}"]


def unit_of(kinds: Sequence[str]) -> str:
    """Return the unit of the samples of these kinds of channels.

    Examples
    --------
    >>> unit_of(["mag", "eeg", "mag"])
    'tesla, volt'
    """
    return ", ".join(dict.fromkeys(UNITS.get(kind, "volt") for kind in kinds))

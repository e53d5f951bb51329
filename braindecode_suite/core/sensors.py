"""Where an MEG or EEG sensor lies, and when its samples were taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, write_aside
from braindecode_suite.core.spaces import check_rois

if TYPE_CHECKING:
    import mne


@dataclass(frozen=True, eq=False)
class SensorSpace:
    """Sensors of an MEG or EEG system, in the order of the recordings, and the times of an epoch.

    Attributes
    ----------
    names : tuple of str
    kinds : tuple of str
        MNE's channel type of each: ``mag`` (also the axial gradiometers of CTF), ``grad``, ``eeg``, ``eog``...
    positions : dict of str to array of shape (sensors, 2)
        For each session, as `trials` names it, where the system's own 2-D layout puts each sensor, scaled to [0, 1]. NaN where the
        session has no such sensor, where it was marked bad, and where the layout does not know it: a model masks those.
    sfreq : float
        Samples a second.
    times : array of shape (times,)
        Seconds from the onset of the picture.
    locations : array of shape (sensors, 12) or None
        MNE's ``loc``, in metres; without it nothing can be drawn on the helmet.
    coil_types : array of int of shape (sensors,) or None
        MNE's ``coil_type``.
    layout : str
        Name of the layout that the positions come from, e.g. ``CTF-275``.
    rois : dict of str to array of bool of shape (sensors,)
        Groups of sensors by name.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    positions: Mapping[str, np.ndarray]
    sfreq: float
    times: np.ndarray
    locations: np.ndarray | None = None
    coil_types: np.ndarray | None = None
    layout: str = ""
    rois: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        again = [name for name, n in Counter(self.names).items() if n > 1]
        if again or not self.names:
            found = f"{again[0]!r} twice" if again else "none"
            raise InputError("`names`", expected="one name for each sensor", found=found)
        if len(self.kinds) != self.n_units:
            raise InputError("`kinds`", expected=f"{self.n_units}, one a sensor", found=str(len(self.kinds)))
        if not self.sfreq > 0:
            raise InputError("`sfreq`", expected="samples a second above 0", found=str(self.sfreq))
        check_shape("times", self.times, "times")
        for session, where in self.positions.items():
            check_shape(
                f"positions[{session!r}]", where, "sensors coordinates", sensors=self.n_units, coordinates=2
            )
        if self.locations is not None:
            check_shape("locations", self.locations, "sensors numbers", sensors=self.n_units, numbers=12)
        check_rois(self.rois, self.n_units)

    @property
    def n_units(self) -> int:
        """Number of sensors."""
        return len(self.names)

    def usable(self, session: str) -> np.ndarray:
        """Return which sensors have a place in this session, array of bool of shape (sensors,)."""
        if session not in self.positions:
            raise InputError(
                f"session {session!r}", expected=f"one of {', '.join(self.positions)}", found="another"
            )
        return np.isfinite(self.positions[session]).all(axis=1)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the space: sensors in order, sampling rate and times."""
        return {
            "kind": "sensors",
            "name": self.layout,
            "n_units": self.n_units,
            "sfreq": self.sfreq,
            "times": [float(self.times[0]), float(self.times[-1]), len(self.times)],
            "hash": data_hash([list(self.names), list(self.kinds), self.sfreq], np.round(self.times, 6)),
        }

    def info(self) -> mne.Info:
        """Return MNE's description of the sensors, with their locations where known."""
        import mne

        info = mne.create_info(list(self.names), self.sfreq, list(self.kinds), verbose="error")
        for k, channel in enumerate(info["chs"]):
            if self.locations is not None:
                channel["loc"][:] = self.locations[k]
            if self.coil_types is not None:
                channel["coil_type"] = int(self.coil_types[k])
        return info

    def inverse_transform(self, values: np.ndarray) -> mne.EvokedArray:
        """Return values of shape (sensors,) or (sensors, times) as an Evoked; one column stands at time 0."""
        import mne

        values = np.asarray(values, dtype=np.float64)
        if values.shape not in ((self.n_units,), (self.n_units, len(self.times))):
            raise InputError(
                "`values`",
                expected=f"shape (sensors={self.n_units}) or (sensors={self.n_units}, times={len(self.times)})",
                found=str(values.shape),
            )
        tmin = 0.0 if values.ndim == 1 else float(self.times[0])
        return mne.EvokedArray(values.reshape(self.n_units, -1), self.info(), tmin=tmin, verbose="error")


def write_evokeds(path: Path, space: SensorSpace, values: Mapping[str, np.ndarray]) -> None:
    """Write values over sensors and times as MNE's evoked responses, whole or not at all.

    Parameters
    ----------
    path : Path
        Its name must end in ``-ave.fif`` or ``_ave.fif``.
    space : SensorSpace
    values : mapping of name to array of shape (sensors, times), or (sensors,)
        NaN is written as 0, as MNE knows no other; sensors with NaN in any of them are marked bad in all, as MNE wants it.
    """
    import mne

    lost = np.any(
        [np.isnan(given.reshape(space.n_units, -1)).any(axis=1) for given in values.values()], axis=0
    )
    evokeds = []
    for name, given in values.items():
        evoked = space.inverse_transform(np.nan_to_num(given))
        evoked.comment = name
        evoked.info["bads"] = [sensor for sensor, bad in zip(space.names, lost, strict=True) if bad]
        evokeds.append(evoked)
    with write_aside(path) as aside:
        mne.write_evokeds(
            aside, evokeds, overwrite=True, verbose="error"
        )  # the name aside is not the last one

"""The sensors of MEG and EEG: where they lie, how they answer to a picture, and where on the helmet at its peaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import mne
import numpy as np
from scipy.signal import find_peaks

from braindecode_suite.report.figures import INK, MUTED, SHADE, STYLE, FigureBlock, draw, new_figure
from braindecode_suite.report.panels import Panel, Part
from braindecode_suite.report.results import Results, mapping
from braindecode_suite.report.wording import interval, number

MOST_TOPOGRAPHIES = 4
APART = 0.05
"""Seconds between two peaks that are shown, at least."""


def sensor_panel(results: Results) -> Panel | None:
    """Return the section on sensors, or None where the results hold no evoked responses."""
    if results.evoked is None:
        return None
    evoked, *more = mne.read_evokeds(results.evoked, verbose="error")
    facts = mapping(results.facts.get("sensors"))
    unit = str(facts.get("unit") or "")
    parts = [Part(title="Mean response to a picture", figure=evoked_figure(evoked, unit))]
    if has_places(evoked):
        parts = [
            Part(title="Where the sensors lie", figure=layout_figure(evoked)),
            *parts,
            Part(title="The response on the helmet", figure=topography_figure(evoked, unit)),
        ]
        if more and "occlusion" in facts:
            figure = occlusion_figure(more[0], mapping(facts["occlusion"]))
            parts.append(Part(title="Where the decoder reads", figure=figure))
    return Panel(slug="sensors", title="Sensors", parts=parts)


def has_places(evoked: mne.Evoked) -> bool:
    """Say whether the sensors' locations are known."""
    places = np.array([channel["loc"][:3] for channel in evoked.info["chs"]])
    return bool(np.isfinite(places).all() and np.ptp(places, axis=0).max() > 0)


def kind_of(evoked: mne.Evoked) -> str:
    """Return the channel type that is drawn: the most frequent one."""
    kinds = evoked.get_channel_types()
    return max(dict.fromkeys(kinds), key=kinds.count)


def layout_figure(evoked: mne.Evoked) -> FigureBlock:
    """Return the sensors seen from above, bad ones as crosses."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.2, 3.8)
        axis = figure.subplots()
        places = _flat(evoked)
        bad = np.isin(evoked.ch_names, evoked.info["bads"])
        across, up = places.T
        axis.scatter(across[~bad], up[~bad], s=9, color=INK, linewidths=0)
        axis.scatter(across[bad], up[bad], s=30, color=INK, marker="x", linewidths=1.2)
        axis.set_aspect("equal")
        axis.set_axis_off()
        axis.set_title("nose", loc="center", fontsize=9.5, color=MUTED)
    n = len(evoked.ch_names)
    return draw(
        "sensor-layout",
        figure,
        f"{n} sensors seen from above, {int(bad.sum())} of them bad.",
        f"{n} sensors ({', '.join(sorted(set(evoked.get_channel_types())))}) seen from above, the nose up; crosses were flat, bad or "
        "absent throughout and no model sees them.",
        "a whole helmet or cap: a gap means missing sensors, a heap means missing positions.",
    )


def evoked_figure(evoked: mne.Evoked, unit: str) -> FigureBlock:
    """Return the mean response of every sensor, and their root mean square."""
    good = ~np.isin(evoked.ch_names, evoked.info["bads"])
    data, times = evoked.data[good], 1000 * evoked.times
    power = np.sqrt((data**2).mean(axis=0))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.4, 3.2)
        axis = figure.subplots()
        low, high = np.percentile(data, [0, 100], axis=0)
        axis.fill_between(times, low, high, color=SHADE, linewidth=0, label="smallest to largest")
        for row in data[:: max(1, len(data) // 40)]:
            axis.plot(times, row, color=MUTED, linewidth=0.4, alpha=0.6)
        axis.plot(times, power, color=INK, linewidth=1.7, label="root mean square")
        axis.axvline(0, color=MUTED, linewidth=0.8)
        axis.set_xlim(times[0], times[-1])
        axis.set_xlabel("time from the picture (ms)")
        axis.set_ylabel(unit or "response")
        axis.legend(fontsize=9.5)
    peak = times[power.argmax()]
    return draw(
        "sensor-evoked",
        figure,
        f"Mean response of {int(good.sum())} sensors over time; largest at {peak:.0f} ms.",
        "Mean over all training trials, preprocessed as for the models but never whitened, so that a line is a sensor; thin lines are some "
        "of them.",
        "silence before 0, then deflections from about 80 ms on, and again after the picture goes off.",
    )


def topography_figure(evoked: mne.Evoked, unit: str) -> FigureBlock:
    """Return the mean response over the helmet at its largest peaks."""
    kind = kind_of(evoked)
    picks = [
        k
        for k, (name, one) in enumerate(zip(evoked.ch_names, evoked.get_channel_types(), strict=True))
        if one == kind and name not in evoked.info["bads"]
    ]
    data, times = evoked.data[picks], evoked.times
    peaks = response_peaks(data, times)
    limit = float(np.abs(data[:, peaks]).max()) or 1.0
    info = mne.pick_info(evoked.info, picks)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.1 * len(peaks) + 0.6, 2.5)
        axes = np.atleast_1d(figure.subplots(1, len(peaks)))
        shown: Any = None
        for axis, peak in zip(axes, peaks, strict=True):
            shown, _ = mne.viz.plot_topomap(
                data[:, peak],
                info,
                ch_type=kind,
                axes=axis,
                show=False,
                contours=0,
                sensors=False,
                outlines="head",
                vlim=(-limit, limit),
                cmap="RdBu_r",
                res=48,
            )
            axis.set_title(f"{1000 * times[peak]:.0f} ms", loc="center")
        figure.colorbar(shown, ax=list(axes), label=unit or "response", shrink=0.7)
    when = ", ".join(f"{1000 * times[peak]:.0f}" for peak in peaks)
    return draw(
        "sensor-topographies",
        figure,
        f"Mean response over the helmet at {when} ms.",
        "Mean response over the helmet at the largest peaks of its root mean square.",
        "smooth fields of a few extrema over the back of the head first; a single bright sensor is a bad sensor.",
    )


def occlusion_figure(evoked: mne.Evoked, facts: Mapping[str, Any]) -> FigureBlock:
    """Return what the score loses without the sensors around each place, over the helmet."""
    kind = kind_of(evoked)
    picks = [
        k
        for k, (name, one) in enumerate(zip(evoked.ch_names, evoked.get_channel_types(), strict=True))
        if one == kind and name not in evoked.info["bads"]
    ]
    values = evoked.data[picks, 0]
    limit = float(np.abs(values).max()) or 1.0
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.4, 3.4)
        axis = figure.subplots()
        shown, _ = mne.viz.plot_topomap(
            values,
            mne.pick_info(evoked.info, picks),
            ch_type=kind,
            axes=axis,
            show=False,
            contours=0,
            sensors=False,
            outlines="head",
            vlim=(-limit, limit),
            cmap="RdBu_r",
            res=48,
        )
        figure.colorbar(shown, ax=axis, label="loss of 1 - relative rank", shrink=0.8)
    most = mapping(facts["most"])
    lost = f"{number(most['value'])} {interval(most['ci_low'], most['ci_high'])}"
    return draw(
        "sensor-occlusion",
        figure,
        f"Loss of the score without the sensors around each place; most around {most['sensor']}: {lost}.",
        f"What the encoder's score (1 minus the relative rank of the seen image; chance 0.5, with all sensors {number(facts['score'])}) loses when the "
        f"{facts['n_masked']} sensors around each of {facts['n_places']} places are masked. Most around {most['sensor']}: {lost}. The band holds "
        f"at all places at once (95\u00a0%, images drawn again), and lies above 0 at {facts['n_read']} of them.",
        "losses over the back of the head and the temporal lobes. What other sensors say as well is not missed when some are gone: no loss "
        "does not mean that nothing is there.",
    )


def response_peaks(data: np.ndarray, times: np.ndarray) -> list[int]:
    """Return the samples of the largest peaks after the picture, in order of time.

    Parameters
    ----------
    data : array of shape (sensors, times)
    times : array of shape (times,)
        Seconds.
    """
    power = np.where(times >= 0, np.sqrt((data**2).mean(axis=0)), 0.0)
    apart = max(1, round(APART * (len(times) - 1) / (times[-1] - times[0])))
    found, _ = find_peaks(power, distance=apart)
    if not len(found):
        return [int(power.argmax())]
    return sorted(int(k) for k in found[np.argsort(power[found])[::-1][:MOST_TOPOGRAPHIES]])


def _flat(evoked: mne.Evoked) -> np.ndarray:
    """Return places on the page of shape (sensors, 2): an azimuthal projection."""
    places = np.array([channel["loc"][:3] for channel in evoked.info["chs"]])
    centred = places - places.mean(axis=0)
    radius = np.linalg.norm(centred, axis=1)
    polar = np.arccos(np.clip(centred[:, 2] / radius, -1, 1))
    azimuth = np.arctan2(centred[:, 1], centred[:, 0])
    return np.stack([polar * np.cos(azimuth), polar * np.sin(azimuth)], axis=1)

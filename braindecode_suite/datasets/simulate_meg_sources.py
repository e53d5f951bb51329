"""Sources of the simulated MEG: where they lie, what they carry, and when.

Early sources lie in occipital cortex, in the hemisphere opposite to the part of the picture that they see, and carry its
Gabor energy, luminance and colour. Late sources lie in ventral and lateral temporal cortex and carry the presence of the
object of their category, or the kind of place. The response of source k to an image at time t after its onset is

``(common_k + amplitude_k(image) + wobble_k) (h_k(t - d) + g h_k'(t - D - d))``,

h an envelope times a wave that peaks at the source's latency, D the time on the screen, d and wobble the trial's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal.windows import tukey

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.simulate_meg_parameters import HelmetParameters, SourceParameters
from braindecode_suite.datasets.simulate_scenes import CATEGORIES
from braindecode_suite.datasets.simulate_voxels import Population, draw_population

Floats = NDArray[np.float64]
GROUPS = ("low-level", "category")
"""What early and late sources carry."""
WAVEFORM_REACH, _WAVEFORM_SMOOTH, _WAVEFORM_PEAK = 0.15, 0.006, (0.05, 0.2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """Where each source of a subject lies and when it answers.

    Attributes
    ----------
    group : array of int of shape (sources,)
        Index into `GROUPS`.
    positions, moments : array of shape (sources, 3)
        Metres in the head's frame; unit vectors, tangential.
    latency, offset_latency : array of shape (sources,)
        Seconds from onset and from offset to the peak.
    width, frequency, offset_gain : array of shape (sources,)
    waveform : array of shape (2, points)
        Lags in seconds and values of a measured response around its peak; no points where the wave is a formula.
    """

    group: NDArray[np.int64]
    positions: Floats
    moments: Floats
    latency: Floats
    offset_latency: Floats
    width: Floats
    frequency: Floats
    offset_gain: Floats
    waveform: Floats

    def __len__(self) -> int:
        return len(self.group)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the fields by name, to be kept in a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def draw_sources(
    parameters: SourceParameters,
    helmet: HelmetParameters,
    seed: int,
    subject: int,
    waveform: Floats | None = None,
) -> tuple[Sources, Population]:
    """Draw a subject's sources and their tuning; places and directions are those of a mean subject, scattered.

    Parameters
    ----------
    parameters : SourceParameters
    helmet : HelmetParameters
    seed, subject : int
    waveform : array of shape (2, points), optional
        Of `read_waveform`.

    Returns
    -------
    Sources
    Population
        In the same order: early, category, place.
    """
    own, mean = np.random.default_rng([seed, 12, subject]), np.random.default_rng([seed, 11])
    category = np.repeat(np.arange(len(CATEGORIES)), parameters.per_category)
    n_late = len(category) + parameters.n_place
    kind = np.array(
        ["retinotopic"] * parameters.n_early + ["category"] * len(category) + ["place"] * parameters.n_place
    )
    prefers = np.concatenate([np.full(parameters.n_early, -1), category, np.full(parameters.n_place, -1)])
    population = draw_population(kind, np.full(len(kind), "V1"), prefers, parameters.tuning, own)

    group = np.repeat([0, 1], [parameters.n_early, n_late])
    directions = np.concatenate(
        [_occipital(population.prf[: parameters.n_early]), _temporal(len(category), parameters.n_place)]
    )
    directions += own.normal(0, parameters.scatter, directions.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    turn = mean.uniform(0, 2 * np.pi, len(kind)) + own.normal(0, np.pi / 6, len(kind))
    depth = np.array(parameters.eccentric)[group] * helmet.sphere_radius

    def by_group(values: tuple[float, float]) -> Floats:
        return np.array(values)[group]

    scatter = own.normal(size=len(kind)) * by_group(parameters.latency_sd)
    return (
        Sources(
            group=group,
            positions=np.array(helmet.sphere_centre) + depth[:, None] * directions,
            moments=_tangents(directions, turn),
            latency=by_group(parameters.latency) + scatter,
            offset_latency=by_group(parameters.offset_latency) + scatter,
            width=by_group(parameters.width),
            frequency=by_group(parameters.frequency),
            offset_gain=by_group(parameters.offset_gain),
            waveform=np.zeros((2, 0)) if waveform is None else waveform,
        ),
        population,
    )


def _occipital(prf: NDArray[np.float32]) -> Floats:
    """Return directions from the centre of the head: left field right, lower field up, centre of the picture at the pole."""
    x, y = prf[:, 0].astype(float) - 0.5, prf[:, 1].astype(float) - 0.5
    directions = np.column_stack([-1.3 * x, -np.ones(len(x)), 0.1 + 0.9 * y])
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


def _temporal(n_category: int, n_place: int) -> Floats:
    """Return directions on the lower side and the back of the head, left and right in turn; place sources lie medially."""
    order = np.arange(n_category) // 2
    spread = order / max(order.max(), 1)
    lateral = np.deg2rad(np.concatenate([25 + 50 * spread, np.linspace(12, 22, n_place)]))
    height = np.deg2rad(np.concatenate([-30 + 40 * (order * 5 % 12) / 11, np.linspace(-30, -5, n_place)]))
    side = np.resize([-1.0, 1.0], n_category + n_place)
    return np.column_stack(
        [side * np.sin(lateral) * np.cos(height), -np.cos(lateral) * np.cos(height), np.sin(height)]
    )


def _tangents(directions: Floats, turn: Floats) -> Floats:
    """Return unit vectors across each direction, turned about it."""
    first = np.cross(directions, np.array([0.3, 0.2, 1.0]))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(directions, first)
    return np.asarray(np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second)


def time_courses(
    times: Floats, sources: Sources, parameters: SourceParameters, image_seconds: float, delay: float = 0.0
) -> Floats:
    """Return the response of each source to an image of amplitude one, onset and offset.

    Parameters
    ----------
    times : array of shape (times,)
        Seconds after onset.
    sources : Sources
    parameters : SourceParameters
    image_seconds : float
        Time on the screen.
    delay : float
        Of this trial, seconds.

    Returns
    -------
    array of shape (sources, times)
    """
    on = _wave(times - delay, sources.latency, sources) * _ramp(times, parameters.opens)
    since = times - image_seconds
    off = _wave(since - delay, sources.offset_latency, sources) * _ramp(since, parameters.opens)
    return np.asarray(
        (on + sources.offset_gain[:, None] * off) * (1 - _ramp(times, parameters.closes)), np.float64
    )


def _wave(times: Floats, latency: Floats, sources: Sources) -> Floats:
    lag = times - latency[:, None]
    if sources.waveform.shape[1]:
        stretch = sources.width / sources.width.min()  # slow sources answer with the same course, slower
        lags, values = sources.waveform
        return np.interp(lag / stretch[:, None], lags, values, left=0.0, right=0.0)
    envelope = np.exp(-0.5 * np.square(lag / sources.width[:, None]))
    return np.asarray(envelope * np.cos(2 * np.pi * sources.frequency[:, None] * lag))


def _ramp(times: Floats, between: tuple[float, float]) -> Floats:
    """Return a raised cosine from 0 to 1."""
    share = np.clip((times - between[0]) / (between[1] - between[0]), 0, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * share))


def read_waveform(path: Path) -> Floats:
    """Take the time course of a response from a file of averages.

    What is taken: of the conditions named visual (of all, where none is), magnetometers (else gradiometers, else EEG) that are
    not bad, minus their mean before onset; the first principal component over sensors and conditions from onset on, smoothed with
    a Gaussian of 6 ms; 0.15 s on both sides of its largest deflection between 0.05 and 0.2 s (of all times, where the file has
    none there), with ends tapered to zero, scaled to 1 at that deflection. Nothing else: topographies, amplitudes and latencies
    stay the parameters'.

    Parameters
    ----------
    path : Path

    Returns
    -------
    array of shape (2, points)
        Lags from the peak in seconds, and values.
    """
    import mne

    check_file(path, "a FIF file of averages")
    try:
        averages = mne.read_evokeds(path, proj=False, verbose="error")
    except (ValueError, OSError, RuntimeError, KeyError, EOFError) as error:
        raise InputError(path, expected="a FIF file of averages", found=_one_line(error)) from error
    visual = [a for a in averages if "visual" in (a.comment or "").lower()] or averages
    kind = next((k for k in ("mag", "grad", "eeg") if k in visual[0]), None)
    if kind is None:
        raise InputError(path, expected="magnetometers, gradiometers or EEG", found="none of them")
    parts = [average.copy().pick(kind, exclude="bads").data for average in visual]
    times, sfreq = visual[0].times, visual[0].info["sfreq"]
    if any(part.shape[1] != len(times) for part in parts):
        raise InputError(path, expected="averages of one length", found="averages of differing lengths")
    return waveform_of(np.concatenate(parts), times, sfreq)


def waveform_of(data: Floats, times: Floats, sfreq: float) -> Floats:
    """Return lags and values of the main response in averages of shape (sensors, times); see `read_waveform`."""
    before = times < 0
    if before.any():
        data = data - data[:, before].mean(1, keepdims=True)
    after = times >= 0
    if not after.any():
        after = np.ones(len(times), bool)
    topography = np.linalg.svd(data[:, after], full_matrices=False)[0][:, 0]
    course = gaussian_filter1d(topography @ data, _WAVEFORM_SMOOTH * sfreq)
    inside = (times >= _WAVEFORM_PEAK[0]) & (times <= _WAVEFORM_PEAK[1])
    if not inside.any():
        inside = after
    peak = int(np.argmax(np.where(inside, np.abs(course), -1)))
    lags = np.arange(-WAVEFORM_REACH, WAVEFORM_REACH + 0.5 / 1000, 1 / 1000)
    values = np.interp(lags, times - times[peak], course, left=0.0, right=0.0) * tukey(len(lags), 0.5)
    return np.stack([lags, values / course[peak]])


def group_mask(sources: Sources, groups: Sequence[str] = GROUPS) -> NDArray[np.bool_]:
    """Return which sources belong to the groups named."""
    return np.isin(sources.group, [GROUPS.index(name) for name in groups])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

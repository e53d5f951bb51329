"""The oracle of a simulated MEG subject: it knows the generating model, so that its scores are the ceilings.

A trial with delay d records ``y = L (c + a_j + e) h(t - d) + noise`` over sensors and times, e normal with variance R = diag(r).
The noise has covariance ``P P' x T + s^2 I`` over (sensors x times): it is diagonal in the patterns P over sensors and the
eigenvectors of T over times. With b(d) the inner products, in units of the noise, of y with each source's response, G(d) those of
the responses with each other and ``M = (R^-1 + G)^-1``, integrating e out leaves, up to what does not depend on image and delay,

``log p(y | j, d) = b' (I - M G) m_j - m_j' (G - G M G) m_j / 2 + b' M b / 2 - log |I + R G| / 2``,  ``m_j = c + a_j``,

and the delay is summed out over a grid. The oracle looks at the recording itself, neither filtered nor resampled, so
no preprocessing can do better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.special import logsumexp

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.simulate_meg_noise import autocorrelation, sensor_deviation
from braindecode_suite.datasets.simulate_meg_parameters import (
    MEGNoiseParameters,
    MEGParameters,
    MEGSimulationOptions,
    RecordingParameters,
    SourceParameters,
)
from braindecode_suite.datasets.simulate_meg_sources import GROUPS, Sources, group_mask, time_courses
from braindecode_suite.datasets.simulate_meg_subject import MEGSubject, simulate_run, stimulus_names
from braindecode_suite.metrics.retrieval import ranks, top_k_random_gallery

Floats = NDArray[np.float64]
DELAY_STEP = 0.003
"""Spacing of the grid of delays, seconds: a response's highest frequency is about 30 Hz."""


@dataclass(frozen=True, eq=False)
class Components:
    """Sensors of one session turned so that the noise is independent over components.

    Attributes
    ----------
    sensors : array of shape (components, sensors)
        Sensors that do not record have weight 0.
    variance : array of shape (components,)
        Of the brain's activity.
    fields : array of shape (components, sources)
    """

    sensors: Floats
    variance: Floats
    fields: Floats


@dataclass(frozen=True, eq=False)
class Window:
    """Sources of one session in units of the noise, over some samples.

    Attributes
    ----------
    components : Components
    times : array of shape (times, times)
        Turns samples into components.
    weights : array of shape (components, times)
        One over the variance of the noise.
    courses : array of shape (delays, sources, times)
        Turned likewise.
    gram : array of shape (delays, sources, sources)
        G of the formula.
    shrink : array of shape (delays, sources, sources)
        M of the formula.
    log_volume : array of shape (delays,)
        ``log |I + R G|``.
    """

    components: Components
    times: Floats
    weights: Floats
    courses: Floats
    gram: Floats
    shrink: Floats
    log_volume: Floats

    def project(self, recorded: Floats) -> Floats:
        """Return b of the formula for recordings of shape (trials, sensors, times), of shape (delays, trials, sources)."""
        turned = self.components.sensors @ recorded @ self.times * self.weights
        per_source = self.components.fields.T @ turned  # (trials, sources, times)
        return np.asarray(np.einsum("ikt,dkt->dik", per_source, self.courses, optimize=True))

    def effective(self) -> Floats:
        """Return ``G - G M G``: the inner products that count once the trial's own variation is integrated out."""
        return self.gram - self.gram @ self.shrink @ self.gram

    def log_likelihood(self, recorded: Floats, moments: Floats) -> Floats:
        """Return the formula for every delay, trial and row of `moments` of shape (candidates, sources)."""
        b = self.project(recorded)
        kept = np.eye(moments.shape[1]) - self.shrink @ self.gram
        energy = np.einsum("ck,dkl,cl->dc", moments, self.effective(), moments, optimize=True)
        own = np.einsum("dik,dkl,dil->di", b, self.shrink, b, optimize=True)
        shared = own - self.log_volume[:, None]
        return np.asarray(b @ kept @ moments.T + (shared[:, :, None] - energy[:, None]) / 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class MEGOracle:
    """Knows one simulated subject.

    Attributes
    ----------
    signal : dict of str to int
        Row of `amplitudes` of each image.
    amplitudes : array of shape (images, sources)
        What differs between images, nanoampere metres.
    distractors : dict of str to int
        Row of `matched` of each test image.
    matched : array of shape (test images, n, sources)
    common, wobble_sd : array of shape (sources,)
        What every image evokes, and the deviation of what a trial adds.
    leadfields : array of shape (sessions, sensors, sources)
        Tesla per nanoampere metre.
    patterns : array of shape (sessions, sensors, patterns)
        Of the brain's own activity, tesla.
    usable : array of bool of shape (sessions, sensors)
    sources : Sources
    jitter : float
        Deviation of the delay, seconds.
    recording, source_parameters, noise : RecordingParameters, SourceParameters, MEGNoiseParameters
        As the study was written with.
    read : callable of (session, run) to array of shape (sensors, samples)
        The recording, in tesla.
    """

    signal: dict[str, int]
    amplitudes: Floats
    distractors: dict[str, int]
    matched: Floats
    common: Floats
    wobble_sd: Floats
    leadfields: Floats
    patterns: Floats
    usable: NDArray[np.bool_]
    sources: Sources
    jitter: float
    recording: RecordingParameters
    source_parameters: SourceParameters
    noise: MEGNoiseParameters
    read: Callable[[int, int], NDArray[Any]]

    @classmethod
    def open(cls, data_dir: Path, subject: str) -> MEGOracle:
        """Read what the simulator left of one subject's truth; recordings are read with bare mne when they are needed."""
        label = f"{int(subject):02d}"
        folder = data_dir / "simulation"
        card = json.loads(
            check_file(folder / "parameters.json", "a whole simulated study").read_text("utf-8")
        )
        path = check_file(folder / f"sub-{label}_truth.hdf5", "the simulated truth")
        with h5py.File(path, "r") as file:
            names = [name.decode() for name in file["names"][:]]
            return cls(
                signal={text.decode(): row for row, text in enumerate(file["stimulus_id"][:])},
                distractors={text.decode(): row for row, text in enumerate(file["test_id"][:])},
                usable=np.asarray(file["usable"], bool),
                sources=Sources(**{name: np.asarray(values) for name, values in file["sources"].items()}),
                jitter=card["options"]["jitter_ms"] / 1000,
                recording=RecordingParameters.model_validate(card["recording"]),
                source_parameters=SourceParameters.model_validate(card["source"]),
                noise=MEGNoiseParameters.model_validate(card["noise"]),
                read=partial(_read_run, data_dir, label, names),
                **{
                    name: np.asarray(file[name], np.float64)
                    for name in ("amplitudes", "matched", "common", "wobble_sd", "leadfields", "patterns")
                },
            )

    @classmethod
    def of(cls, subject: MEGSubject) -> MEGOracle:
        """Return the oracle of a subject in memory, which simulates the recording that it looks at."""
        parameters: MEGParameters = subject.parameters
        options: MEGSimulationOptions = parameters.options
        size, names = options.study_size, stimulus_names(options.study_size)
        return cls(
            signal={name: row for row, name in enumerate(names)},
            amplitudes=subject.amplitudes,
            distractors={name: row for row, name in enumerate(names[size.n_train :])},
            matched=subject.matched.reshape(size.n_test, size.n_distractors, -1),
            common=subject.common,
            wobble_sd=subject.wobble_sd,
            leadfields=subject.leadfields,
            patterns=subject.patterns,
            usable=subject.usable,
            sources=subject.sources,
            jitter=parameters.jitter,
            recording=parameters.recording,
            source_parameters=parameters.sources,
            noise=parameters.noise,
            read=partial(simulate_run, subject),
        )

    @property
    def window(self) -> tuple[float, float]:
        """Seconds from onset between which there is a response at all."""
        return self.source_parameters.opens[0], self.source_parameters.closes[1]

    def delays(self) -> tuple[Floats, Floats]:
        """Return the grid of delays in seconds, and the logarithm of each one's probability."""
        if not self.jitter:
            return np.zeros(1), np.zeros(1)
        n = 2 * int(np.ceil(3 * self.jitter / DELAY_STEP)) + 1
        grid = np.linspace(-3 * self.jitter, 3 * self.jitter, n)
        log_density = -0.5 * np.square(grid / self.jitter)
        return grid, log_density - logsumexp(log_density)

    def trial_log_likelihood(
        self,
        study: Study,
        rows: NDArray[np.int64],
        gallery: Sequence[str],
        window: tuple[float, float] | None = None,
    ) -> Floats:
        """Return the log-likelihood of every gallery image given each single trial, its delay integrated out.

        Parameters
        ----------
        study : Study
            Of this subject; only session, run and onset of its trials are read, and the recordings they name.
        rows : int array
            Rows of the study.
        gallery : sequence of str
            Stimulus ids.
        window : tuple of float, optional
            Look only between these seconds from onset; by default wherever there is a response.

        Returns
        -------
        array of shape (rows, gallery)
            Up to a constant of each row.
        """
        return self._likelihood(study.trials.iloc[rows], self._amplitudes_of(gallery), window)

    def log_likelihood(
        self,
        study: Study,
        rows: NDArray[np.int64],
        gallery: Sequence[str],
        window: tuple[float, float] | None = None,
    ) -> tuple[list[str], Floats]:
        """Return the log-likelihood of every gallery image given all repeats of every image in `rows`.

        Returns
        -------
        ids : list of str
            Images in order of first appearance.
        array of shape (images, gallery)
            Up to a constant of each image.
        """
        single = self.trial_log_likelihood(study, rows, gallery, window)
        return _sum_repeats(study.stimulus_ids[rows], single)

    def retrieval(
        self,
        study: Study,
        rows: NDArray[np.int64],
        gallery: Sequence[str] | None = None,
        gallery_size: int | None = None,
        *,
        single: bool = False,
        k: int = 1,
        window: tuple[float, float] | None = None,
    ) -> tuple[list[str], Floats]:
        """Return each image's exact top-k in random galleries of `gallery_size` (by default the images in `rows`).

        Parameters
        ----------
        single : bool
            From each trial alone, and then one value for each row, rather than from all repeats together.
        k : int
        """
        seen = list(dict.fromkeys(study.stimulus_ids[rows]))
        gallery = seen if gallery is None else list(gallery)
        column = {stimulus_id: j for j, stimulus_id in enumerate(gallery)}
        if any(i not in column for i in seen):
            raise InputError("`gallery`", expected="every image seen", found=f"{len(gallery)} others")
        likelihood = self.trial_log_likelihood(study, rows, gallery, window)
        ids = list(study.stimulus_ids[rows])
        if not single:
            ids, likelihood = _sum_repeats(ids, likelihood)
        found = ranks(likelihood, np.array([column[i] for i in ids]))
        size = len(gallery) if gallery_size is None else gallery_size
        return ids, top_k_random_gallery(found, len(gallery), size, k)

    def identification(self, study: Study, rows: NDArray[np.int64]) -> tuple[list[str], Floats]:
        """Return each image's share of matched distractors that are less likely than the image itself."""
        ids = list(dict.fromkeys(study.stimulus_ids[rows]))
        unknown = [i for i in ids if i not in self.distractors]
        if unknown:
            raise InputError(
                "`rows`", expected="test images, which have distractors", found=f"image {unknown[0]}"
            )
        matched = self.matched[[self.distractors[i] for i in ids]]  # (images, n, sources)
        n = matched.shape[1] + 1
        candidates = np.concatenate([self._amplitudes_of(ids)[:, None], matched], axis=1)
        single = self._likelihood(study.trials.iloc[rows], candidates.reshape(-1, candidates.shape[-1]), None)
        ids, likelihood = _sum_repeats(study.stimulus_ids[rows], single)
        own = likelihood.reshape(len(ids), len(ids), n)[np.arange(len(ids)), np.arange(len(ids))]
        return ids, np.asarray((own[:, 1:] < own[:, :1]).mean(1))

    def summary(
        self, study: Study, rows: NDArray[np.int64], gallery_size: int | None = None
    ) -> dict[str, Any]:
        """Return the ceilings of retrieval, of all repeats together and of single trials, and of identification, for the report."""
        gallery = list(dict.fromkeys(study.stimulus_ids[rows]))
        size = len(gallery) if gallery_size is None else gallery_size
        single = self.trial_log_likelihood(study, rows, gallery)
        column = {stimulus_id: j for j, stimulus_id in enumerate(gallery)}
        levels = {
            "": _sum_repeats(study.stimulus_ids[rows], single),
            "_single": (list(study.stimulus_ids[rows]), single),
        }
        result: dict[str, Any] = {"gallery": size, "n": len(gallery)}
        for level, (ids, likelihood) in levels.items():
            found = ranks(likelihood, np.array([column[i] for i in ids]))
            for k in (1, 5):
                if k < size:
                    top = top_k_random_gallery(found, len(gallery), size, k)
                    result[f"retrieval_brain_to_image_top{k}{level}"] = float(top.mean())
        if all(i in self.distractors for i in gallery):
            result["identification_matched"] = float(self.identification(study, rows)[1].mean())
        return result

    def features(self, ids: Sequence[str], group: str) -> Floats:
        """Return what the sources of a group carry of each image, of shape (ids, sources): the true feature sets.

        Parameters
        ----------
        ids : sequence of str
        group : {'low-level', 'category'}
        """
        if group not in GROUPS:
            raise InputError("`group`", expected=f"one of {', '.join(GROUPS)}", found=repr(group))
        return self._amplitudes_of(ids)[:, group_mask(self.sources, [group])]

    def information(self, centres: Floats, width: float = 0.0, session: int = 1) -> dict[str, Floats]:
        """Return how far images lie apart in the recording at each time, by group of features: the true time courses.

        The mean squared distance of an image's response from that of the mean image, in units of the noise inside a window, the
        delay known and averaged over.

        Parameters
        ----------
        centres : array of shape (windows,)
            Middle of each window, seconds from onset.
        width : float
            Seconds; 0 for one sample.
        session : int

        Returns
        -------
        dict of str to array of shape (windows,)
        """
        weights = np.exp(self.delays()[1])
        components = self._components(session)
        curves = {name: np.zeros(len(centres)) for name in GROUPS}
        for k, centre in enumerate(centres):
            window = self._look(components, (centre - width / 2, centre + width / 2))
            mean = np.einsum("d,dkl->kl", weights, window.effective())
            for name in GROUPS:
                here = group_mask(self.sources, [name])
                spread = np.cov(self.amplitudes[:, here], rowvar=False)
                curves[name][k] = (spread * mean[np.ix_(here, here)]).sum()
        return curves

    def peaks(self, width: float = 0.0) -> dict[str, float]:
        """Return when each group's information peaks between onset and offset, seconds, in windows of this width."""
        until = self.recording.image_seconds
        centres = np.arange(0, round(until * self.recording.sfreq)) / self.recording.sfreq
        return {
            name: float(centres[curve.argmax()]) for name, curve in self.information(centres, width).items()
        }

    def _amplitudes_of(self, ids: Sequence[str]) -> Floats:
        missing = [i for i in ids if i not in self.signal]
        if missing:
            raise InputError("`ids`", expected="images of this study", found=f"image {missing[0]}")
        return self.amplitudes[[self.signal[i] for i in ids]]

    def _likelihood(
        self, trials: pd.DataFrame, amplitudes: Floats, window: tuple[float, float] | None
    ) -> Floats:
        """Return the log-likelihood of responses with these amplitudes, of shape (trials, candidates)."""
        between = self.window if window is None else window
        first, last = self._samples(between)
        moments = self.common + amplitudes  # (candidates, sources)
        log_prior = self.delays()[1]
        session = trials["session"].astype(int).to_numpy()
        run = trials["run"].astype(int).to_numpy()
        sample = np.rint(trials["onset"].to_numpy(float) * self.recording.sfreq).astype(int)
        result = np.empty((len(trials), len(moments)))
        for s in np.unique(session):
            look = self._look(self._components(int(s)), between)
            for r in np.unique(run[session == s]):
                here = np.flatnonzero((session == s) & (run == r))
                data = self.read(int(s), int(r))
                cut = data[:, sample[here][:, None] + np.arange(first, last + 1)].astype(np.float64)
                log = look.log_likelihood(np.moveaxis(cut, 0, 1), moments)  # (delays, trials, candidates)
                result[here] = logsumexp(log + log_prior[:, None, None], axis=0)
        return result

    def _samples(self, window: tuple[float, float]) -> tuple[int, int]:
        first, last = (round(seconds * self.recording.sfreq) for seconds in window)
        return first, max(first, last)

    def _components(self, session: int) -> Components:
        usable = self.usable[session - 1]
        vectors, singular, _ = np.linalg.svd(self.patterns[session - 1][usable], full_matrices=True)
        variance = np.zeros(len(vectors))
        variance[: len(singular)] = np.square(singular)
        sensors = np.zeros((len(vectors), len(usable)))
        sensors[:, usable] = vectors.T
        return Components(sensors, variance, sensors @ self.leadfields[session - 1])

    def _look(self, components: Components, window: tuple[float, float]) -> Window:
        first, last = self._samples(window)
        samples, sfreq = np.arange(first, last + 1), self.recording.sfreq
        white = sensor_deviation(self.noise, sfreq) ** 2
        temporal, rotation = np.linalg.eigh(toeplitz(autocorrelation(len(samples), sfreq, self.noise)))
        weights = 1 / (components.variance[:, None] * np.maximum(temporal, 0) + white)
        on_screen, times = self.recording.image_seconds, samples / sfreq
        courses = [
            time_courses(times, self.sources, self.source_parameters, on_screen, d) for d in self.delays()[0]
        ]
        turned = np.stack(courses) @ rotation
        fields = components.fields
        pairs = np.einsum("rt,rk,rl->tkl", weights, fields, fields, optimize=True)
        gram = np.einsum("tkl,dkt,dlt->dkl", pairs, turned, turned, optimize=True)
        spread = np.square(self.wobble_sd)
        inflated = np.eye(len(spread)) + spread[:, None] * gram  # I + R G
        shrink = np.linalg.solve(inflated, np.broadcast_to(np.diag(spread), gram.shape))
        return Window(
            components, rotation, weights, turned, gram, shrink, np.linalg.slogdet(inflated).logabsdet
        )


def _sum_repeats(stimulus_ids: Sequence[str] | NDArray[Any], single: Floats) -> tuple[list[str], Floats]:
    """Return ids in order of first appearance, and the sum over each one's rows."""
    ids = list(dict.fromkeys(stimulus_ids))
    position = {stimulus_id: k for k, stimulus_id in enumerate(ids)}
    total = np.zeros((len(ids), single.shape[1]))
    np.add.at(total, [position[i] for i in stimulus_ids], single)
    return ids, total


def _read_run(data_dir: Path, label: str, names: Sequence[str], session: int, run: int) -> NDArray[Any]:
    """Read one run with bare mne, of shape (sensors, samples) in tesla."""
    import mne

    folder = data_dir / f"sub-{label}" / f"ses-{session:02d}" / "meg"
    found = sorted(folder.glob(f"sub-{label}_ses-{session:02d}_task-*_run-{run:02d}_meg.fif"))
    path = check_file(found[0] if found else folder / f"*_run-{run:02d}_meg.fif", "a simulated run")
    raw = mne.io.read_raw_fif(path, verbose="error")
    return np.asarray(raw.get_data(picks=list(names)))

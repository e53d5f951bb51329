"""One simulated subject of the MEG study: the truth, and any run of its recording, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.simulate_meg_helmet import (
    dipole_fields,
    draw_head_positions,
    make_info,
    read_layout,
)
from braindecode_suite.datasets.simulate_meg_noise import (
    draw_noise_dipoles,
    draw_series,
    noise_patterns,
    read_eigenvalues,
    sensor_deviation,
)
from braindecode_suite.datasets.simulate_meg_parameters import (
    MEGParameters,
    MEGSimulationOptions,
    MEGStudySize,
    RecordingParameters,
)
from braindecode_suite.datasets.simulate_meg_sources import (
    Sources,
    draw_sources,
    read_waveform,
    time_courses,
)
from braindecode_suite.datasets.simulate_pictures import (
    Album,
    Pictured,
    draw_distractors,
    draw_reference,
    picture,
    study_seed,
)
from braindecode_suite.datasets.simulate_scenes import Scene, draw_scene
from braindecode_suite.datasets.simulate_voxels import SignalModel

if TYPE_CHECKING:
    import mne

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pictures:
    """All scenes of a study, drawn once for all subjects.

    Attributes
    ----------
    scenes : list of Scene
        Training images, then test images.
    distractors : list of list of Scene
        Matched to each test image.
    shown, matched, reference : Pictured
        The same, and those over which signals are scaled.
    album : Album
    """

    scenes: list[Scene]
    distractors: list[list[Scene]]
    shown: Pictured
    matched: Pictured
    reference: Pictured
    album: Album


def draw_pictures(parameters: MEGParameters) -> Pictures:
    """Draw and render every image of a study."""
    size, seed, tuning = parameters.options.study_size, parameters.options.seed, parameters.sources.tuning
    scenes = [draw_scene(study_seed(seed, k)) for k in range(size.n_images)]
    tests = np.arange(size.n_train, size.n_images)
    distractors = draw_distractors(scenes, tests, size.n_distractors, seed)
    album = Album(size.image_size)
    return Pictures(
        scenes,
        distractors,
        picture(scenes, album, tuning),
        picture([scene for row in distractors for scene in row], album, tuning),
        picture(draw_reference(seed, tuning.n_reference), album, tuning),
        album,
    )


def stimulus_names(size: MEGStudySize) -> list[str]:
    """Return the id of every image, which is the name of its file without the suffix."""
    return [f"scene-{k:05d}" for k in range(size.n_images)]


def draw_trials(
    size: MEGStudySize, recording: RecordingParameters, jitter: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw what a subject sees when.

    Every test image is shown once in each of as many equal parts of the recording as it has repeats, among training images.

    Returns
    -------
    DataFrame
        One row a trial: session, run, repeat (from 1), image (number), subset, sample (of the onset in the run), delay (s).
    """
    twice = rng.permutation(size.n_train)[: size.n_twice]
    training = np.array_split(
        rng.permutation(np.concatenate([np.arange(size.n_train), twice])), size.test_repeats
    )
    tests = np.arange(size.n_train, size.n_images)
    order = np.concatenate([rng.permutation(np.concatenate([part, tests])) for part in training])
    rows = []
    low, high = (round(seconds * recording.sfreq) for seconds in recording.spacing)
    for number, images in enumerate(np.array_split(order, size.n_runs)):
        steps = rng.integers(low, high + 1, len(images))
        samples = round(recording.lead * recording.sfreq) + np.cumsum(steps) - steps[0]
        session, run = divmod(number, size.runs_per_session)
        rows.append(
            pd.DataFrame({"session": session + 1, "run": run + 1, "image": images, "sample": samples})
        )
    trials = pd.concat(rows, ignore_index=True)
    trials.insert(2, "repeat", trials.groupby("image").cumcount() + 1)
    trials.insert(4, "subset", np.where(trials["image"] < size.n_train, "train", "test"))
    trials["delay"] = jitter * np.clip(rng.standard_normal(len(trials)), -3, 3)
    return trials


@dataclass(frozen=True, eq=False, kw_only=True)
class MEGSubject:
    """All that is true of one subject. The recording at the sensors is, trial by trial,

    ``leadfield_s (common + amplitude(image) + wobble) courses(t - delay) + patterns_s series(t) + white(t)``.

    Attributes
    ----------
    number : int
        From 1.
    parameters : MEGParameters
    names : list of str
        Sensors.
    trials : DataFrame
        Of `draw_trials`.
    heads : array of shape (sessions, 4, 4)
        From the device's to the head's frame.
    sources : Sources
    leadfields : array of shape (sessions, sensors, sources)
        Tesla per nanoampere metre.
    patterns : array of shape (sessions, sensors, patterns)
        Of the brain's own activity, tesla.
    amplitudes, matched : array of shape (images, sources) and (distractors, sources)
        What differs between images, nanoampere metres.
    common : array of shape (sources,)
        What all images evoke.
    wobble : array of shape (trials, sources)
        What each trial adds, independent normal.
    wobble_sd : array of shape (sources,)
        Its deviation.
    usable : array of bool of shape (sessions, sensors)
        Sensors that record.
    """

    number: int
    parameters: MEGParameters
    names: list[str]
    trials: pd.DataFrame
    heads: Floats
    sources: Sources
    leadfields: Floats
    patterns: Floats
    amplitudes: Floats
    matched: Floats
    common: Floats
    wobble: Floats
    wobble_sd: Floats
    usable: NDArray[np.bool_]

    @property
    def label(self) -> str:
        """Label as BIDS has it."""
        return f"{self.number:02d}"

    def info(self, session: int) -> mne.Info:
        """Return the sensors of a session (from 1): where the head is, and what is marked bad."""
        parameters = self.parameters
        info = make_info(parameters.helmet, parameters.recording, self.heads[session - 1])
        info["bads"] = [
            name for name, fine in zip(self.names, self.usable[session - 1], strict=True) if not fine
        ]
        return info


def make_subject(parameters: MEGParameters, number: int, pictures: Pictures | None = None) -> MEGSubject:
    """Draw one subject.

    Parameters
    ----------
    parameters : MEGParameters
    number : int
        From 1.
    pictures : Pictures, optional
        Drawn where not given; a null study needs none.

    Returns
    -------
    MEGSubject
    """
    options, size = parameters.options, parameters.options.study_size
    if not 1 <= number <= size.n_subjects:
        raise InputError("subject", expected=f"1 to {size.n_subjects}", found=str(number))
    waveform = None if options.evoked is None else read_waveform(options.evoked)
    eigenvalues = None if options.noise_covariance is None else read_eigenvalues(options.noise_covariance)
    rng = np.random.default_rng([options.seed, 13, number])
    sources, population = draw_sources(
        parameters.sources, parameters.helmet, options.seed, number, waveform=waveform
    )
    heads = draw_head_positions(parameters.helmet, size.sessions, rng)
    noise_dipoles = draw_noise_dipoles(parameters.noise, parameters.helmet, rng)
    positions, moments = (
        np.concatenate(pair) for pair in zip((sources.positions, sources.moments), noise_dipoles, strict=True)
    )
    leadfields, patterns = [], []
    for head in heads:
        info = make_info(parameters.helmet, parameters.recording, head)
        fields = dipole_fields(positions, moments, info, parameters.helmet)
        leadfields.append(fields[:, : len(sources)])
        patterns.append(noise_patterns(fields[:, len(sources) :], parameters.noise, eigenvalues))
    scale = _scale(parameters, sources, np.stack(leadfields))
    common = scale * parameters.sources.common * np.clip(rng.normal(1, 0.3, len(sources)), 0.2, None)
    amplitudes = np.zeros((size.n_images, len(sources)))
    matched = np.zeros((size.n_test * size.n_distractors, len(sources)))
    if not options.null:
        drawn = pictures or draw_pictures(parameters)
        model = SignalModel(
            population, parameters.sources.tuning, drawn.reference.scenes, drawn.reference.maps
        )
        amplitudes, matched = (
            model.responses(p.scenes, p.maps) * scale for p in (drawn.shown, drawn.matched)
        )
    names = read_layout()[0]
    usable = np.ones((size.sessions, len(names)), bool)
    if number == parameters.awkward.subject and parameters.awkward.session <= size.sessions:
        broken = [name.startswith(parameters.awkward.sensor) for name in names]
        usable[parameters.awkward.session - 1] = ~np.array(broken)
    wobble_sd = scale * parameters.sources.variability
    trials, wobble = _draw_recording(parameters, number, wobble_sd)
    return MEGSubject(
        number=number,
        parameters=parameters,
        names=names,
        trials=trials,
        heads=heads,
        sources=sources,
        leadfields=np.stack(leadfields),
        patterns=np.stack(patterns),
        amplitudes=amplitudes,
        matched=matched,
        common=common,
        wobble=wobble,
        wobble_sd=wobble_sd,
        usable=usable,
    )


def record_again(subject: MEGSubject, recording: int) -> MEGSubject:
    """Return the same person in another recording (see the option of this name), without drawing the person again."""
    options = subject.parameters.options.model_copy(update={"recording": recording})
    parameters = subject.parameters.model_copy(update={"options": options})
    trials, wobble = _draw_recording(parameters, subject.number, subject.wobble_sd)
    return replace(subject, parameters=parameters, trials=trials, wobble=wobble)


def _draw_recording(parameters: MEGParameters, number: int, wobble_sd: Floats) -> tuple[pd.DataFrame, Floats]:
    options = parameters.options
    rng = np.random.default_rng([options.seed, 14, number, options.recording])
    trials = draw_trials(options.study_size, parameters.recording, parameters.jitter, rng)
    return trials, wobble_sd * rng.standard_normal((len(trials), len(wobble_sd)))


def _scale(parameters: MEGParameters, sources: Sources, leadfields: Floats) -> Floats:
    """Return the deviation over images of each source's moment, in nanoampere metres, that gives the signal-to-noise asked for."""
    white = sensor_deviation(parameters.noise, parameters.recording.sfreq)
    noise = np.hypot(parameters.noise.brain, white)
    gains = parameters.options.snr * np.array([1.0, parameters.sources.late_over_early])
    scale = np.empty(len(sources))
    for group, gain in enumerate(gains):
        here = sources.group == group
        power = np.square(leadfields[..., here]).sum(-1).mean()  # of all its sources, mean over sensors
        scale[here] = gain * noise / np.sqrt(power)
    return scale


def run_trials(subject: MEGSubject, session: int, run: int) -> pd.DataFrame:
    """Return the trials of one run (session and run from 1)."""
    trials = subject.trials
    return trials[(trials["session"] == session) & (trials["run"] == run)]


def simulate_run(subject: MEGSubject, session: int, run: int) -> NDArray[np.float32]:
    """Return what the sensors record in one run.

    Parameters
    ----------
    subject : MEGSubject
    session, run : int
        From 1.

    Returns
    -------
    array of float32 of shape (sensors, samples)
        Tesla, in whole steps of the 16-bit integers; a sensor that does not record is 0.
    """
    parameters, recording = subject.parameters, subject.parameters.recording
    trials = run_trials(subject, session, run)
    if not len(trials):
        raise InputError("run", expected="one of the study", found=f"session {session}, run {run}")
    n = int(trials["sample"].max()) + round(recording.tail * recording.sfreq)
    courses = np.zeros((len(subject.sources), n), np.float32)
    reach = round(parameters.sources.closes[1] * recording.sfreq)
    times = np.arange(reach) / recording.sfreq
    for row, image, sample, delay in trials[["image", "sample", "delay"]].itertuples():
        response = time_courses(times, subject.sources, parameters.sources, recording.image_seconds, delay)
        moment = subject.common + subject.amplitudes[image] + subject.wobble[row]
        courses[:, sample : sample + reach] += moment[:, None] * response
    options = parameters.options
    rng = np.random.default_rng([options.seed, 15, subject.number, options.recording, session, run])
    patterns = subject.patterns[session - 1]
    series = draw_series(patterns.shape[1], n, recording.sfreq, parameters.noise, rng)
    data = subject.leadfields[session - 1].astype(np.float32) @ courses
    data += patterns.astype(np.float32) @ series
    white = np.float32(sensor_deviation(parameters.noise, recording.sfreq))
    data += white * rng.standard_normal(data.shape, np.float32)
    data[~subject.usable[session - 1]] = 0
    steps = np.clip(np.rint(data / np.float32(recording.resolution)), -32767, 32767)
    return np.asarray(steps * np.float32(recording.resolution), np.float32)


@dataclass(frozen=True, eq=False)
class SimulatedEpochs:
    """Epochs cut from the simulated recording without any file.

    Attributes
    ----------
    data : array of float32 of shape (trials, sensors, times)
        Tesla, at the rate of the recording, neither filtered nor baselined.
    times : array of shape (times,)
        Seconds from onset.
    trials : DataFrame
        As `draw_trials`, with stimulus_id.
    subject : MEGSubject
    """

    data: NDArray[np.float32]
    times: Floats
    trials: pd.DataFrame
    subject: MEGSubject


def simulate_runs(subject: MEGSubject) -> Iterator[tuple[pd.DataFrame, NDArray[np.float32]]]:
    """Yield the trials and the recording of every run, in order."""
    size = subject.parameters.options.study_size
    for session in range(1, size.sessions + 1):
        for run in range(1, size.runs_per_session + 1):
            yield run_trials(subject, session, run), simulate_run(subject, session, run)


def simulate_epochs(
    options: MEGSimulationOptions,
    number: int = 1,
    *,
    tmin: float = -0.2,
    tmax: float = 0.9,
    pictures: Pictures | None = None,
) -> SimulatedEpochs:
    """Simulate one subject and cut epochs, all in memory: the samples that `write_study` would have written.

    Parameters
    ----------
    options : MEGSimulationOptions
    number : int
        Of the subject, from 1.
    tmin, tmax : float
        Seconds from onset, both included.
    pictures : Pictures, optional
        Of the same options, where they were drawn before. A null study needs none.

    Returns
    -------
    SimulatedEpochs
    """
    return cut_epochs(make_subject(MEGParameters(options=options), number, pictures), tmin=tmin, tmax=tmax)


def cut_epochs(subject: MEGSubject, *, tmin: float = -0.2, tmax: float = 0.9) -> SimulatedEpochs:
    """Simulate all runs of a subject and cut epochs from them, in memory.

    Many null studies of one person are ``cut_epochs(record_again(subject, k))`` for k = 0, 1, ...

    Parameters
    ----------
    subject : MEGSubject
    tmin, tmax : float
        Seconds from onset, both included.

    Returns
    -------
    SimulatedEpochs
    """
    recording, size = subject.parameters.recording, subject.parameters.options.study_size
    if not -recording.lead <= tmin < tmax < recording.tail:
        raise InputError(
            "`tmin`, `tmax`", expected=f"-{recording.lead} to {recording.tail}", found=f"{tmin}, {tmax}"
        )
    window = np.arange(round(tmin * recording.sfreq), round(tmax * recording.sfreq) + 1)
    epochs = np.empty((len(subject.trials), len(subject.names), len(window)), np.float32)
    for trials, data in simulate_runs(subject):
        for row, sample in trials["sample"].items():
            epochs[row] = data[:, sample + window]
    names = np.array(stimulus_names(size), object)
    trials = subject.trials.assign(stimulus_id=names[subject.trials["image"].to_numpy()])
    return SimulatedEpochs(epochs, window / recording.sfreq, trials, subject)

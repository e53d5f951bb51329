"""When does the simulated MEG tell images apart best, to an observer who knows how it is made?

Early and late responses have latencies of their own, and images differ in both: no parameter says when images are told apart best. For each window of
100 ms the information about the test images is worked out in closed form, half of ``log det (I + C F)`` in bits: C the covariance over images of the
sources' moments, F what the sensors say of these moments, from lead fields, time courses, the sensors' noise and what each trial adds to the
moments, averaged over repeats. Noise counts as independent from sample to sample, so that the values are too high and only their course is used.
Subjects and parameters are those of `simulated-meg` at size demo; nothing is recorded.

    python benchmarks/meg_information.py [--json FILE] [--subjects 1 2 4]

``<what>_onset_ms``, ``<what>_offset_ms``: the window with the most information while the picture is on, and after it went off, of all sources, of the
early and of the late ones alone; the earliest and the latest over subjects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from braindecode_suite.core.files import write_json
from braindecode_suite.datasets.simulate_meg_noise import sensor_deviation
from braindecode_suite.datasets.simulate_meg_parameters import MEGParameters, MEGSimulationOptions
from braindecode_suite.datasets.simulate_meg_sources import time_courses
from braindecode_suite.datasets.simulate_meg_subject import MEGSubject, draw_pictures, make_subject

WIDTH, STRIDE = 0.1, 0.025


def information(subject: MEGSubject, centres: np.ndarray, group: int | None) -> np.ndarray:
    """Return bits about the test images in a window around each centre, from one group of sources or from all."""
    parameters = subject.parameters
    size, recording = parameters.options.study_size, parameters.recording
    here = np.ones(len(subject.sources), bool) if group is None else subject.sources.group == group
    times = np.arange(-0.1, 1.1, 1 / recording.sfreq)
    courses = time_courses(times, subject.sources, parameters.sources, recording.image_seconds)[here]
    moments = np.cov(subject.amplitudes[size.n_train :, here].T)
    white = sensor_deviation(parameters.noise, recording.sfreq)
    patterns, leadfield = subject.patterns[0], subject.leadfields[0][:, here]
    noise = patterns @ patterns.T + white**2 * np.eye(len(leadfield))
    gain = leadfield.T @ np.linalg.solve(noise, leadfield)
    wobble = np.diag(np.square(subject.wobble_sd[here]) / size.test_repeats)
    one = np.eye(int(here.sum()))
    bits = []
    for centre in centres:
        window = courses[:, (times >= centre - WIDTH / 2) & (times < centre + WIDTH / 2)]
        precision = size.test_repeats * gain * (window @ window.T)
        told = precision @ np.linalg.inv(one + wobble @ precision)
        bits.append(0.5 * np.linalg.slogdet(one + moments @ told)[1] / np.log(2))
    return np.array(bits)


def main() -> None:
    """Work out, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--subjects", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    parameters = MEGParameters(options=MEGSimulationOptions(size="demo"))
    stop = parameters.recording.image_seconds
    centres = np.arange(0.05, 0.95, STRIDE)
    pictures = draw_pictures(parameters)
    subjects = [make_subject(parameters, number, pictures) for number in arguments.subjects]
    figures: dict[str, list[float]] = {}
    for what, group in (("images", None), ("early", 0), ("late", 1)):
        for name, part in (("onset", centres < stop), ("offset", centres > stop + STRIDE)):
            peaks = [centres[part][information(one, centres[part], group).argmax()] for one in subjects]
            figures[f"{what}_{name}_ms"] = [round(1000 * min(peaks)), round(1000 * max(peaks))]
    for key, (low, high) in figures.items():
        print(f"{key:<20} {low if low == high else f'{low} to {high}'}")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()

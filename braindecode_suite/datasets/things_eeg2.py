"""`things-eeg2`: ten people, 1,654 object concepts of THINGS with ten images each, and 200 test images, EEG in rapid series.

Facts: Gifford et al. 2022. Two preprocessed layouts are about: the released one, a dict saved with ``numpy.save`` (17 channels, 100 Hz), and
that of NICE and ATM, a bare pickle named ``.npy`` (63 channels, 250 Hz), whose ``times`` still count the 50 samples before onset that were cut
off. Both are read without unpickling, and so are the continuous recordings, which are filtered and cut as those of ``bids-meg`` are.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import PositiveFloat

from braindecode_suite.core.checks import check_file, check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.epoch_files import OF_RECORDINGS, choose_files, refuse_recording_options
from braindecode_suite.datasets.image_files import find_images, match_images
from braindecode_suite.datasets.lab_files import TRIAL_ORDER, check_inside, count_repeats
from braindecode_suite.datasets.pickled_arrays import read_arrays
from braindecode_suite.datasets.recording_options import RecordingOptions
from braindecode_suite.datasets.recording_space import sensors_of
from braindecode_suite.datasets.recording_study import flag, prepare
from braindecode_suite.datasets.sensor_positions import layout_positions
from braindecode_suite.datasets.things_eeg2_raw import find_events, find_raw, open_raw, read_recording

PARTS = {"train": "preprocessed_eeg_training.npy", "test": "preprocessed_eeg_test.npy"}
FOLDERS = ("preprocessed_data", "Preprocessed_data_250Hz", ".")
METADATA = ("image_set/image_metadata.npy", "image_metadata.npy")
IMAGES = {"train": "training_images", "test": "test_images"}
MONTAGES = ("colin27_1005", "standard_1005")
"""The same places under mne's newer and older name."""
WHITENED = (
    "multivariate noise normalisation mixes electrodes: if these files went through it (the released ones did, over training and test data), "
    "places of electrodes say little about where a signal comes from"
)
TREE = """\
preprocessed_data/sub-01/preprocessed_eeg_training.npy    conditions x repeats x channels x times (or Preprocessed_data_250Hz/)
preprocessed_data/sub-01/preprocessed_eeg_test.npy
raw_data/sub-01/ses-01/raw_eeg_training.npy               in place of them: continuous recordings; raw_eeg_test.npy likewise
image_set/image_metadata.npy                              concepts and files of the conditions
image_set/training_images/00001_aardvark/aardvark_01b.jpg optional: the images; test_images likewise
"""


class ThingsEEG2Options(RecordingOptions):
    """How a subject is read.

    Attributes
    ----------
    files : {'', 'epochs', 'raw'}
        Preprocessed epochs, or continuous recordings; epochs where there are any, by default.
    sessions, tmin, tmax, highpass, lowpass, notch, sfreq, phase, image_side, prepare
        As in `RecordingOptions`; all but `image_side` are of recordings. Sessions have two digits, and 1000 Hz is the rate of the release.
    """

    files: Literal["", "epochs", "raw"] = ""
    tmin: float = -0.2
    sfreq: PositiveFloat | None = 250.0


class ConditionRows:
    """Rows of both parts, one condition's repeats after the other, training before test; read from the maps when asked for.

    Parameters
    ----------
    parts : sequence of array of shape (conditions, repeats, channels, times)
    """

    dtype = np.dtype(np.float32)

    def __init__(self, parts: list[NDArray[Any]]) -> None:
        self.parts = parts
        self._ends = np.cumsum([part.shape[0] * part.shape[1] for part in parts])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *parts[0].shape[2:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        index = np.atleast_1d(np.arange(len(self))[rows])
        out = np.empty((len(index), *self.shape[1:]), np.float32)
        for k, row in enumerate(index):
            which = int(np.searchsorted(self._ends, row, side="right"))
            within = row - (self._ends[which - 1] if which else 0)
            out[k] = self.parts[which][divmod(int(within), self.parts[which].shape[1])]
        if not np.isfinite(out).all():
            bad = int(index[~np.isfinite(out).all(axis=(1, 2))][0])
            raise InputError(f"row {bad}", expected="finite values", found="NaN or infinite ones")
        return out


class ThingsEEG2:
    """Reads preprocessed epochs or continuous recordings (catalogue entry ``things-eeg2``)."""

    card = DatasetCard(
        name="things-eeg2",
        title="THINGS-EEG2: images of 1,854 object concepts in rapid series, ten people",
        modality="EEG",
        terms="Recordings: public, osf.io/3jk45, see the licence given there. The images of THINGS have terms of their own.",
        size="10 subjects; 16,540 training images four times, 200 test images 80 times",
        tree=TREE,
        citation="Gifford et al. 2022, A large and rich EEG dataset for modeling human visual object recognition, NeuroImage 264, 119754",
        protocols=("things-eeg2-200way", "random-by-image"),
        workflow="meg",
        preset="default",
        source="osf.io/3jk45 (preprocessed epochs), osf.io/y63gw (images).",
    )
    options_class: ClassVar[type[Config]] = ThingsEEG2Options

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels (``01``...) of the subjects whose epochs or recordings are there."""
        return sorted({*_with_epochs(data_dir), *(label for label, _, _ in find_raw(data_dir))})

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: arrays are mapped, not read, but for the stimulus channels of recordings."""
        chosen = build_options(ThingsEEG2Options, options, self.card.name)
        label = re.sub(r"^sub-", "", str(subject))
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            raise InputError(data_dir, expected=f"sub-01/{PARTS['train']}", found="nothing there")
        check_option("subject", label, labels)
        if _source(data_dir, label, chosen.files) == "raw":
            return _open_recordings(data_dir, label, work_dir, chosen)
        refuse_recording_options(chosen, ("sessions", *OF_RECORDINGS))
        parts, names, times, warnings = open_epochs(data_dir, label)
        trials = make_trials(data_dir, parts)
        stimuli, missing = _open_images(data_dir, trials, chosen)
        space, unplaced = make_space(names, times)
        return Study(
            dataset="things-eeg2",
            subject=label,
            responses=ConditionRows(list(parts.values())),
            trials=trials,
            stimuli=stimuli,
            space=space,
            unit="as released",
            provenance={
                "folder": str(data_dir),
                "files": list(PARTS.values()),
                "terms": self.card.terms,
                "normalised": "as released",
                "warnings": [*warnings, *unplaced, *missing, WHITENED],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return, subject by subject, what the epochs hold."""
        labels = self.subjects(data_dir)
        if not labels:
            return [FileCheck(f"{FOLDERS[0]}/sub-01/{PARTS['train']}", "missing")]
        lines = []
        for label in labels:
            lines += _check_recordings(data_dir, label)
            if label not in _with_epochs(data_dir):
                continue
            try:
                parts, _, times, warnings = open_epochs(data_dir, label)
                trials = make_trials(data_dir, parts)
                shapes = ", ".join(f"{name} {part.shape}" for name, part in parts.items())
                found = f"{shapes}, {times[0]:g} to {times[-1]:g} s, {len(trials)} trials"
                lines.append(FileCheck(f"sub-{label}", "ok", "; ".join([found, *warnings])))
            except InputError as error:
                lines.append(FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}"))
        return lines


def _with_epochs(data_dir: Path) -> set[str]:
    """Return the labels of the subjects whose epochs are there."""
    found = [p for folder in FOLDERS for p in (data_dir / folder).glob(f"sub-*/{PARTS['train']}")]
    return {path.parent.name.removeprefix("sub-") for path in found}


def _source(data_dir: Path, label: str, files: str) -> str:
    """Return what a subject is read from."""
    epochs, raw = label in _with_epochs(data_dir), bool(find_raw(data_dir, label))
    return choose_files(files, {"epochs": epochs, "raw": raw})


def _open_recordings(data_dir: Path, label: str, work_dir: Path, options: ThingsEEG2Options) -> Study:
    """Return the continuous recordings of one subject as a study."""
    raw = open_raw(data_dir, label, work_dir, options, read_conditions(data_dir))
    responses, trials = raw.cut.responses, raw.cut.trials
    stimuli, missing = _open_images(data_dir, trials, options)
    space, unplaced = make_space(list(responses.names), raw.cut.windows.times)
    where = space.positions["1"]
    study = Study(
        dataset="things-eeg2",
        subject=label,
        responses=responses,
        trials=trials,
        stimuli=stimuli,
        space=replace(space, positions={run.session: where for run in responses.runs}),
        unit="as released",
        signal=responses.runs[0].signal,
        provenance={
            "folder": str(data_dir),
            "files": raw.files,
            "recorded": f"{raw.sfreq:g} Hz, {len(responses.names)} electrodes",
            "terms": ThingsEEG2.card.terms,
            "own_warnings": [*raw.warnings, *unplaced, *missing],
            "warnings": [],
        },
    )
    return prepare(study) if options.prepare else flag(study)


def _check_recordings(data_dir: Path, label: str) -> list[FileCheck]:
    """Return a line for every continuous recording of a subject."""
    lines = []
    for (_, _, part), path in find_raw(data_dir, label).items():
        try:
            raw, names, codes, sfreq = read_recording(data_dir, path)
            at, _ = find_events(path, codes, len(read_conditions(data_dir)[part]))
            seconds = raw.samples.shape[1] / sfreq
            found = f"{len(names)} electrodes, {sfreq:g} Hz, {seconds:.1f} s, {len(at)} images"
            lines.append(FileCheck(str(path), "ok", found))
        except InputError as error:
            lines.append(FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}"))
    return lines


def open_epochs(
    data_dir: Path, label: str
) -> tuple[dict[str, NDArray[Any]], list[str], NDArray[np.float64], list[str]]:
    """Map the epochs of both parts.

    Returns
    -------
    parts : dict of str to array of shape (conditions, repeats, channels, times)
    names : list of str
        Channels.
    times : array of shape (times,)
        Seconds from onset.
    warnings : list of str
    """
    parts: dict[str, NDArray[Any]] = {}
    names: list[str] = []
    times, warnings = np.zeros(0), list[str]()
    for part, file in PARTS.items():
        places = [data_dir / folder / f"sub-{label}" / file for folder in FOLDERS]
        path = check_inside(data_dir, next((p for p in places if p.is_file()), places[0]))
        content = read_arrays(check_file(path, "preprocessed epochs"))
        missing = [key for key in ("preprocessed_eeg_data", "ch_names", "times") if key not in content]
        if missing:
            raise InputError(path, expected=f"an entry {missing[0]!r}", found=", ".join(content) or "none")
        data, here = content["preprocessed_eeg_data"], [str(name) for name in content["ch_names"]]
        if not isinstance(data, np.ndarray) or data.ndim != 4 or data.dtype.kind != "f" or not data.size:
            found = (
                f"shape {data.shape}, {data.dtype}" if isinstance(data, np.ndarray) else type(data).__name__
            )
            raise InputError(path, expected="numbers of conditions x repeats x channels x times", found=found)
        if len(here) != data.shape[2]:
            raise InputError(path, expected=f"{data.shape[2]} names of channels", found=str(len(here)))
        measured, told = repair_times(path, np.asarray(content["times"], np.float64), data.shape[3])
        if parts and (here != names or len(measured) != len(times) or not np.allclose(measured, times)):
            raise InputError(path, expected="channels and times of the training part", found="others")
        parts[part], names, times = data, here, measured
        warnings += [text for text in told if text not in warnings]
    return parts, names, times, warnings


def repair_times(path: Path, times: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], list[str]]:
    """Return the times of n samples; where more were saved, those before onset were cut off the data only, and go here too.

    Examples
    --------
    >>> repair_times(Path("x"), np.arange(-2, 3) / 10, 3)[0].tolist()
    [0.0, 0.1, 0.2]
    """
    if times.ndim != 1 or not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise InputError(path, expected="times that ascend", found=f"shape {times.shape}")
    if len(times) == n:
        return times, []
    kept = times[len(times) - n :] if len(times) > n else times
    step = np.median(np.diff(times)) if len(times) > 1 else 0.0
    if len(kept) != n or abs(kept[0]) > 1.01 * step:
        raise InputError(
            path, expected=f"times of {n} samples", found=f"{len(times)} from {times[0]:g} to {times[-1]:g} s"
        )
    return kept, [
        f"{len(times)} times were saved with {n} samples: those before onset are left out, and there is no baseline"
    ]


def read_conditions(data_dir: Path) -> dict[str, pd.DataFrame]:
    """Return ``stimulus_id``, ``concept`` and ``published`` of the conditions of each part, in order."""
    places = [data_dir / name for name in METADATA]
    path = check_inside(data_dir, next((p for p in places if p.is_file()), places[0]))
    content = read_arrays(check_file(path, "concepts and files of the conditions"))
    tables = {}
    for part in PARTS:
        lists: list[list[str]] = []
        for what in ("files", "concepts"):
            key = f"{part}_img_{what}"
            values = content.get(key)
            if values is None or (lists and len(values) != len(lists[0])):
                found = "none" if values is None else str(len(values))
                wanted = f"{len(lists[0])} entries of {key!r}" if lists else f"an entry {key!r}"
                raise InputError(path, expected=wanted, found=found)
            lists.append([str(value) for value in values])
        files, concepts = lists
        again = pd.Series(files)[pd.Series(files).duplicated()]
        if len(again):
            raise InputError(path, expected="an image a condition", found=f"{again.iloc[0]!r} twice")
        names = [Path(file).stem for file in files]
        table = pd.DataFrame({"stimulus_id": names, "concept": concepts}, dtype=object)
        tables[part] = table.assign(published=part)
    return tables


def make_trials(data_dir: Path, parts: dict[str, NDArray[Any]]) -> pd.DataFrame:
    """Return a row a condition and repeat, with the image and concept of the condition; the files have no sessions."""
    conditions, tables = read_conditions(data_dir), []
    for part, data in parts.items():
        if len(conditions[part]) != len(data):
            places = [data_dir / name for name in METADATA]
            raise InputError(
                next((p for p in places if p.is_file()), places[0]),
                expected=f"{len(data)} entries of '{part}_img_files'",
                found=str(len(conditions[part])),
            )
        tables.append(conditions[part].loc[np.repeat(np.arange(len(data)), data.shape[1])])
    trials = pd.concat(tables, ignore_index=True)
    trials["session"], trials["run"], trials["onset"] = "1", 1, np.nan
    trials["repeat"] = count_repeats(trials["stimulus_id"])
    return trials[[*TRIAL_ORDER, "concept", "published"]]


def make_space(names: list[str], times: NDArray[np.float64]) -> tuple[SensorSpace, list[str]]:
    """Return electrodes at their places by name, and warnings of those without a place."""
    import mne

    sfreq = round(1 / float(np.median(np.diff(times))), 6)
    info: Any = mne.create_info(names, sfreq, "eeg", verbose="error")
    shipped = mne.channels.get_builtin_montages()
    montage = mne.channels.make_standard_montage(next(name for name in MONTAGES if name in shipped))
    info.set_montage(montage, match_case=False, on_missing="ignore", verbose="error")
    known = [name for name in names if np.isfinite(info["chs"][names.index(name)]["loc"][:3]).all()]
    where, layout = np.full((len(names), 2), np.nan), ""
    if known:
        picked = mne.pick_info(info, [names.index(name) for name in known], verbose="error")
        found, layout = layout_positions(picked, tuple(known))
        where[[names.index(name) for name in known]] = found
    space = sensors_of(
        info["chs"],
        names=names,
        kinds=("eeg",) * len(names),
        positions={"1": where},
        sfreq=sfreq,
        times=times,
        layout=layout,
    )
    lost = len(names) - len(known)
    return space, [f"{lost} of {len(names)} electrodes are not in the 10-05 system"] * bool(lost)


def _open_images(data_dir: Path, trials: pd.DataFrame, options: ThingsEEG2Options) -> tuple[Any, list[str]]:
    roots = (data_dir / "image_set", data_dir)
    found: dict[str, Path] = {}
    for name in IMAGES.values():
        folder = next((root / name for root in roots if (root / name).is_dir()), None)
        if folder is not None:
            found |= find_images(data_dir, folder, stems=True)
    shown = trials.drop_duplicates("stimulus_id").set_index("stimulus_id")
    attributes = pd.DataFrame({"category": shown["concept"]})
    return match_images(found, list(attributes.index), attributes, options.image_side)


THINGS_EEG2 = ThingsEEG2()

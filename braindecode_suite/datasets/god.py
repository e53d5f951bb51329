"""`god`: Generic Object Decoding, five people who saw and imagined objects; the design in BIDS, the responses in the lab's files.

Facts: README and events of OpenNeuro ds001246; Horikawa and Kamitani 2017; for the lab's files, their public demonstration code (kinds
of data 1, 2, 3; names of the regions). Everything else is checked in the files.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import Space, UnitSpace, VoxelSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.bdata import BData
from braindecode_suite.datasets.image_files import check_images, find_images, match_images
from braindecode_suite.datasets.lab_files import TRIAL_ORDER, check_inside, count_repeats, read_events
from braindecode_suite.datasets.volumes import read_run_length

KINDS = {1: "training", 2: "test", 3: "imagery"}
SESSIONS = {"perceptionTraining": "training", "perceptionTest": "test", "imageryTest": "imagery"}
RUN_NAME = re.compile(
    r"sub-([A-Za-z0-9]+)_ses-(perceptionTraining|perceptionTest|imageryTest)(\d+)_task-(\w+)_run-(\d+)_events\.tsv"
)
STIMULUS_NAME = re.compile(r"n\d{8}_\d+")
RESPONSE_FOLDERS = ("", "data")
TREE = """\
Subject1.h5                                  the lab's BData of subject 01 (or .mat), here or in data/
sub-01/ses-perceptionTraining01/func/*_task-perception_run-01_events.tsv     the design (OpenNeuro ds001246)
sub-01/ses-perceptionTest01/func/*_task-perception_run-01_events.tsv
sub-01/ses-imageryTest01/func/*_task-imagery_run-01_events.tsv
images/n01443537_22563.JPEG                  optional: the images, in any folders below
"""


class GODOptions(Config):
    """How a subject is read.

    Attributes
    ----------
    one_back : {'drop', 'keep'}
        What becomes of a picture shown again at once for the one-back task; runs must be known to find it.
    image_side : int, optional
        Resize the images to squares of this many pixels.
    """

    one_back: Literal["drop", "keep"] = "drop"
    image_side: PositiveInt | None = None


class GOD:
    """Reads the BIDS design and the lab's BData files (catalogue entry ``god``)."""

    card = DatasetCard(
        name="god",
        title="Generic Object Decoding: objects seen and imagined, 3 T, five people",
        modality="fMRI",
        terms="Design and BOLD: CC0, OpenNeuro ds001246. Responses (BData): figshare 7387130. The images are ImageNet's and are asked for "
        "from the lab (form in KamitaniLab/GenericObjectDecoding).",
        size="5 subjects; 1,200 training images of 150 categories once, 50 test images of 50 other categories 35 times, "
        "imagery of the 50 categories 10 times; TR 3 s, 3 mm",
        tree=TREE,
        citation="Horikawa, Kamitani 2017, Nature Communications 8, 15037, doi:10.1038/ncomms15037",
        protocols=("god-test50", "god-imagery"),
        workflow="mindeye",
        preset="tiny",
        openneuro="ds001246",
        openneuro_files=("*_events.tsv", "*.json"),
        source="Responses (Subject1.h5 ...): figshare 7387130, into the same folder or data/. Images: by the form in "
        "KamitaniLab/GenericObjectDecoding on GitHub.",
    )

    options_class: ClassVar[type[Config]] = GODOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels (``01``...) of the subjects with a BData file or with events."""
        labels = {
            path.parents[2].name.removeprefix("sub-")
            for path in data_dir.glob("sub-*/ses-*/func/*_events.tsv")
        }
        for folder in RESPONSE_FOLDERS:
            for path in (data_dir / folder).glob("Subject*"):
                if match := re.fullmatch(r"Subject(\d+)\.(h5|mat)", path.name):
                    labels.add(f"{int(match[1]):02d}")
        return sorted(labels)

    def design(self, data_dir: Path, subject: str) -> pd.DataFrame:
        """Return the trials of one subject from the events, seen and imagined (see `read_design`)."""
        return read_design(data_dir, self._label(data_dir, subject))

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject's BData: metadata and labels are read, responses when asked for.

        The stimulus of an imagery trial is its category (``n01443537``); its image is the test image of that category.

        Raises
        ------
        InputError
            If there is no BData file (the design can still be read with `design`), or it is not as expected.
        """
        chosen = build_options(GODOptions, options, self.card.name)
        label = self._label(data_dir, subject)
        path = find_responses(data_dir, label)
        if path is None:
            n = len(read_design(data_dir, label))
            raise InputError(
                data_dir / f"Subject{int(label)}.h5",
                expected="the lab's BData file (.h5 or .mat)",
                found=f"none: only the design of {n} trials is here",
                hint="get it from figshare, or make betas from the BOLD runs with the dataset bids-fmri",
            )
        data = BData(check_inside(data_dir, path))
        trials, samples, warnings = read_labels(data, chosen)
        space, columns, more = _open_space(data)
        trials, differing = _hold_against_events(data_dir, label, trials)
        warnings += more + differing
        stimuli, image_warnings = _open_images(data_dir, trials, chosen)
        return Study(
            dataset="god",
            subject=label,
            responses=data.rows(samples, columns, work_dir),
            trials=trials,
            stimuli=stimuli,
            space=space,
            unit="as released by the lab",
            provenance={
                "folder": str(data_dir),
                "files": [path.name],
                "terms": self.card.terms,
                "normalised": "as released; what the lab's preprocessing used is in the paper, not in the file",
                "warnings": [*warnings, *image_warnings],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return, subject by subject, what events and BData hold."""
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            return [
                FileCheck("Subject1.h5", "missing"),
                FileCheck("sub-*/ses-*/func/*_events.tsv", "missing"),
            ]
        lines: list[FileCheck] = []
        designs = []
        for label in labels:
            if any((data_dir / f"sub-{label}").glob("ses-*/func/*_events.tsv")):
                try:
                    designs.append(read_design(data_dir, label))
                    lines.append(FileCheck(f"sub-{label}/**/*_events.tsv", "ok", _describe(designs[-1])))
                except InputError as error:
                    lines.append(
                        FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}")
                    )
            else:
                lines.append(FileCheck(f"sub-{label}/**/*_events.tsv", "optional-missing", "no events"))
            lines.append(_check_responses(data_dir, label))
        if designs:
            lines.append(FileCheck("the design", "ok", _describe(pd.concat(designs))))
            look = partial(_open_images, data_dir, pd.concat(designs), GODOptions())
            lines.append(check_images("images", look))
        return lines

    def _label(self, data_dir: Path, subject: str) -> str:
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            raise InputError(data_dir, expected="Subject1.h5 or events of sub-01", found="neither")
        text = re.sub(r"^(sub-|Subject)", "", str(subject))
        label = f"{int(text):02d}" if text.isdecimal() else text
        check_option("subject", label, labels)
        return label


GOD_DATASET = GOD()


def read_design(data_dir: Path, subject: str) -> pd.DataFrame:
    """Read the events of one subject: pictures seen and categories imagined; rest, cue and evaluation are left out.

    Returns
    -------
    DataFrame
        stimulus_id (``n01443537_22563``, of imagery ``n01443537``), session (``perceptionTest01``), run, repeat, onset (s), then duration,
        kind (training, test or imagery), concept (the synset), one_back (shown again at once), vividness (1 to 5, imagery),
        run_seconds (to the end of the last event, rest, or of the BOLD where it is there).

    Raises
    ------
    InputError
        For a column that is absent, onsets that descend, events that overlap or come after the end of a run whose BOLD
        is there.
    """
    tables = []
    for path in sorted((data_dir / f"sub-{subject}").glob("ses-*/func/*_events.tsv")):
        match = RUN_NAME.fullmatch(path.name)
        if match is None:
            raise InputError(
                path,
                expected="a name like sub-01_ses-perceptionTest01_task-perception_run-01_events.tsv",
                found=path.name,
            )
        kind = SESSIONS[match[2]]
        name, wanted = ("category_name", "imagery") if kind == "imagery" else ("stimulus_name", "stimulus")
        bold = path.with_name(path.name.replace("_events.tsv", "_bold.nii.gz"))
        sidecars = [
            path.with_name(path.name.replace("_events.tsv", "_bold.json")),
            data_dir / f"task-{match[4]}_bold.json",
        ]
        end = read_run_length(bold, sidecars)
        table, onset, duration = read_events(check_inside(data_dir, path), ["event_type", name], end=end)
        shown = (table["event_type"] == wanted).to_numpy()
        ids = table.loc[shown, name].astype(object).reset_index(drop=True)
        vividness = table["evaluation"] if "evaluation" in table.columns else pd.Series("", index=table.index)
        tables.append(
            pd.DataFrame(
                {
                    "stimulus_id": ids,
                    "session": f"{match[2]}{match[3]}",
                    "run": int(match[5]),
                    "onset": onset[shown],
                    "duration": duration[shown],
                    "kind": kind,
                    "concept": ids.str.partition("_")[0].astype(object),
                    "one_back": (ids == ids.shift()) & (kind != "imagery"),
                    "vividness": pd.to_numeric(vividness[shown], errors="coerce").to_numpy(),
                    "run_seconds": float(np.max(onset + duration)) if end is None else end,
                }
            )
        )
    if not tables:
        raise InputError(data_dir / f"sub-{subject}", expected="ses-*/func/*_events.tsv", found="no events")
    design = pd.concat(tables, ignore_index=True)
    order = design["kind"].map({kind: k for k, kind in KINDS.items()})
    design = (
        design.assign(_=order)
        .sort_values(["_", "session", "run"], kind="stable", ignore_index=True)
        .drop(columns="_")
    )
    design["repeat"] = count_repeats(design["stimulus_id"])
    return design[[*TRIAL_ORDER, *(name for name in design.columns if name not in TRIAL_ORDER)]]


def stimulus_name(number: float, *, imagery: bool = False) -> str | None:
    """Return the name of a stimulus from the lab's number, or None if it is none.

    The digits before the point are the synset, the six after it the image; categories have no image.

    Examples
    --------
    >>> stimulus_name(3626115.019498), stimulus_name(1443537.0, imagery=True)
    ('n03626115_19498', 'n01443537')
    """
    if not np.isfinite(number) or number < 1:
        return None
    micro = number * 1e6
    synset, image = divmod(round(micro), 10**6)
    if abs(micro - round(micro)) > 0.05 or (image == 0) != imagery:
        return None
    return f"n{synset:08d}" if imagery else f"n{synset:08d}_{image}"


def find_responses(data_dir: Path, subject: str) -> Path | None:
    """Return the BData file of a subject, ``.h5`` before ``.mat``, or None."""
    if not subject.isdecimal():
        return None
    for suffix in (".h5", ".mat"):
        for folder in RESPONSE_FOLDERS:
            path = data_dir / folder / f"Subject{int(subject)}{suffix}"
            if path.is_file() or path.is_symlink():
                return path
    return None


def read_labels(data: BData, options: GODOptions) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Read what was shown from the label columns.

    Returns
    -------
    trials : DataFrame
        As `read_design`, without onsets and vividness.
    samples : array of int of shape (trials,)
        Rows of the matrix.
    warnings : list of str
    """
    if data.dtype.itemsize < 8:
        raise InputError(
            data.path, expected="a matrix of float64 (stimulus ids have 13 digits)", found=str(data.dtype)
        )
    kind = _label(data, "DataType")
    unknown = sorted(set(kind) - set(KINDS))
    if unknown:
        raise InputError(data.path, expected="DataType 1, 2 or 3", found=f"{unknown[0]:g}")
    numbers = _label(data, "stimulus_id")
    ids = [stimulus_name(number, imagery=k == 3) for number, k in zip(numbers, kind, strict=True)]
    if None in ids:
        row = ids.index(None)
        raise InputError(
            data.path,
            expected="stimulus_id as synset.image (of imagery: synset)",
            found=f"{numbers[row]!r} in sample {row + 1}",
        )
    trials = pd.DataFrame({"stimulus_id": pd.Series(ids, dtype=object)})
    trials["kind"] = [KINDS[int(k)] for k in kind]
    trials["concept"] = trials["stimulus_id"].str.partition("_")[0].astype(object)
    warnings = []
    session = _label(data, "Session") if "Session" in data.keys else np.ones(len(trials))
    prefix = {kind: name for name, kind in SESSIONS.items()}
    trials["session"] = [f"{prefix[k]}{int(s):02d}" for k, s in zip(trials["kind"], session, strict=True)]
    knows_runs = "Run" in data.keys
    trials["run"] = _label(data, "Run").astype(int) if knows_runs else 1
    if not knows_runs:
        warnings.append(
            "the file names no runs: one a session is assumed, and one-back repeats cannot be told"
        )
    same = (trials["stimulus_id"] == trials["stimulus_id"].shift()) & (trials["kind"] != "imagery")
    for column in ("session", "run"):
        same &= trials[column] == trials[column].shift()
    trials["one_back"] = same & knows_runs
    trials["onset"] = np.nan
    samples = np.arange(len(trials))
    if options.one_back == "drop":
        samples = samples[~trials["one_back"].to_numpy()]
        trials = trials.iloc[samples].reset_index(drop=True)
    trials["repeat"] = count_repeats(trials["stimulus_id"])
    return trials[[*TRIAL_ORDER, "kind", "concept", "one_back"]], samples, warnings


def _label(data: BData, key: str) -> np.ndarray:
    columns = data.columns(key)
    if len(columns) != 1:
        raise InputError(data.path, expected=f"one column {key!r}", found=f"{len(columns)} columns")
    return data.read(columns)[:, 0].astype(float)


def _open_space(data: BData) -> tuple[Space, np.ndarray, list[str]]:
    """Return the space, the matrix' columns in the order of its units, and warnings.

    Voxels whose coordinates lie on a grid go into a volume in the subject's own millimetres.
    """
    columns = data.columns("VoxelData")
    if not len(columns):
        raise InputError(data.path, expected="columns marked VoxelData", found="none")
    warnings = []
    space: Space
    axes = ("voxel_x", "voxel_y", "voxel_z")
    grid = None
    if all(axis in data.keys for axis in axes):
        grid = _find_grid(np.stack([data.describe(axis)[columns] for axis in axes], axis=1))
    if grid is not None:
        indices, affine = grid
        order = np.lexsort(indices.T[::-1])
        columns = columns[order]
        mask = np.zeros(indices.max(0) + 1, bool)
        mask[tuple(indices.T)] = True
    rois = {
        key.removeprefix("ROI_"): data.describe(key)[columns] == 1
        for key in data.keys
        if key.startswith("ROI_")
    }
    if grid is not None:
        space = VoxelSpace(mask, affine, rois, "Generic Object Decoding, the subject's own")
    else:
        warnings.append("the voxels' coordinates lie on no grid: no brain map can be drawn")
        space = UnitSpace(len(columns), rois)
    return space, columns, warnings


def _find_grid(points: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return grid indices (voxels, 3) and affine of points in millimetres, or None if they lie on no regular grid."""
    if not np.isfinite(points).all():
        return None
    affine, indices = np.eye(4), np.zeros(points.shape, np.int64)
    steps = [
        float(np.diff(values).min()) if len(values := np.unique(np.round(axis, 3))) > 1 else 0.0
        for axis in points.T
    ]
    largest = max(steps)
    if largest == 0:
        return None
    for k, axis in enumerate(points.T):
        step = steps[k] or largest
        place = (axis - axis.min()) / step
        if np.abs(place - np.round(place)).max() > 0.01 or place.max() > 1000:
            return None
        indices[:, k] = np.round(place)
        affine[k, k], affine[k, 3] = step, axis.min()
    return (indices, affine) if len(np.unique(indices, axis=0)) == len(indices) else None


def _hold_against_events(
    data_dir: Path, subject: str, trials: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Compare the stimuli of the BData file with the events and take the lengths of runs from them, where both are there."""
    if not any((data_dir / f"sub-{subject}").glob("ses-*/func/*_events.tsv")):
        return trials, []
    design = read_design(data_dir, subject)
    lengths = design.drop_duplicates(["session", "run"])[["session", "run", "run_seconds"]]
    trials = trials.merge(lengths, on=["session", "run"], how="left")
    differing = []
    for kind in KINDS.values():
        ours, theirs = (set(table.loc[table["kind"] == kind, "stimulus_id"]) for table in (trials, design))
        if ours != theirs:
            differing.append(
                f"{kind}: {len(ours - theirs)} only in the file, {len(theirs - ours)} only in the events"
            )
    return trials, [f"stimuli of file and events differ ({'; '.join(differing)})"] if differing else []


def _open_images(data_dir: Path, trials: pd.DataFrame, options: GODOptions) -> tuple[Any, list[str]]:
    folder = data_dir / "images"
    found = find_images(data_dir, folder, stems=True) if folder.is_dir() else {}
    for name in trials.loc[trials["kind"] == "test", "stimulus_id"].unique():
        if name in found:
            found[name.partition("_")[0]] = found[name]  # a category imagined has the test image of it
    shown = trials.drop_duplicates("stimulus_id").set_index("stimulus_id")
    attributes = pd.DataFrame({"category": shown["concept"], "kind": shown["kind"]})
    return match_images(found, list(attributes.index), attributes, options.image_side)


def _check_responses(data_dir: Path, subject: str) -> FileCheck:
    path = find_responses(data_dir, subject)
    if path is None:
        what = "no responses: the design can be read, no study can be opened"
        return FileCheck(f"Subject{int(subject) if subject.isdecimal() else subject}.h5", "missing", what)
    try:
        data = BData(check_inside(data_dir, path))
        trials, _, warnings = read_labels(data, GODOptions())
        space, _, more = _open_space(data)
        data.read(np.array([data.shape[1] - 1]))
    except InputError as error:
        return FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}")
    found = f"{space.n_units} voxels, {_describe(trials)}"
    return FileCheck(path.name, "ok", "; ".join([found, *warnings, *more]))


def _describe(trials: pd.DataFrame) -> str:
    parts = []
    for kind, rows in trials.groupby("kind", sort=False):
        what = "categories imagined" if kind == "imagery" else f"{kind} stimuli"
        parts.append(f"{rows['stimulus_id'].nunique()} {what} ({len(rows)} trials)")
    extra = int(trials["one_back"].sum())
    return ", ".join(parts) + (f"; {extra} of them one-back repeats" if extra else "")

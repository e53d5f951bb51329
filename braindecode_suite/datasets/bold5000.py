"""`bold5000`: four people, almost 5,000 photographs, a slow event-related design in BIDS and the betas of release 2.0.

Facts: the dataset's own README and events on OpenNeuro (ds001499); Chang et al. 2019; for the names, the order of axes and the
unit of the betas, the public description of release 2.0. What is not stated there is checked in the files: the number of
volumes of each session against its trials, the grid of the mask against that of the betas, the list of image names
against the events.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from braindecode_suite.core.checks import check_file, check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import VoxelSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.image_files import check_images, find_images, match_images
from braindecode_suite.datasets.lab_files import (
    DAMAGED,
    TRIAL_ORDER,
    check_inside,
    count_repeats,
    one_line,
    read_events,
)
from braindecode_suite.datasets.nsd_betas import MaskedBetas, SessionHeader, read_header
from braindecode_suite.datasets.volumes import (
    check_grid,
    check_whole,
    open_volume,
    read_mask,
    read_run_length,
)

TASK = "5000scenes"
RUN_NAME = re.compile(rf"sub-([A-Za-z0-9]+)_ses-(\d+)_task-{TASK}_run-(\d+)_events\.tsv")
Version = Literal["TYPEA", "TYPEB", "TYPEC", "TYPED"]
VERSIONS: tuple[Version, ...] = ("TYPEA", "TYPEB", "TYPEC", "TYPED")
SPELLINGS = {"TYPEB": ("TYPEB", "TYBEB")}  # the release's own description has both
TUNED = {
    "TYPEB": "betas of type B: the haemodynamic response was chosen on trials that include test images",
    "TYPEC": "betas of type C: response and denoising were tuned by cross-validation over repeats, which are the test images",
    "TYPED": "betas of type D: response, denoising and ridge were tuned by cross-validation over repeats, which are the test images",
}
IMAGE_FOLDERS = ("BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli", "images")
BETA_FOLDERS = ("", "betas")
TREE = """\
task-5000scenes_bold.json
sub-CSI1/ses-01/func/sub-CSI1_ses-01_task-5000scenes_run-01_events.tsv      the design (OpenNeuro ds001499)
CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-01.nii.gz                      release 2.0, here or in betas/: x, y, z, trial
CSI1_brainmask.nii.gz                                                       release 2.0, beside the betas
CSI1_imgnames.txt                                                           optional, beside the betas: a name a trial
derivatives/spm/sub-CSI1/sub-CSI1_mask-LHPPA.nii.gz                         optional: regions, on the grid of the betas
BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli/                           optional: the images (or any folder images/)
"""


class BOLD5000Options(Config):
    """How a subject is read.

    Attributes
    ----------
    betas : {'TYPEA', 'TYPEB', 'TYPEC', 'TYPED'}
        Version of the betas of release 2.0.
    mask : str, optional
        A mask of one's own in place of ``CSIx_brainmask.nii.gz``.
    sessions : list of int, optional
        Only these sessions.
    image_side : int, optional
        Resize the images to squares of this many pixels.
    """

    betas: Version = "TYPED"
    mask: str | None = None
    sessions: tuple[int, ...] | None = None
    image_side: PositiveInt | None = None


class BOLD5000:
    """Reads the BIDS design and the betas of release 2.0 (catalogue entry ``bold5000``)."""

    card = DatasetCard(
        name="bold5000",
        title="BOLD5000: photographs of scenes and objects, 3 T, four people",
        modality="fMRI",
        terms="Design and BOLD: CC0, OpenNeuro ds001499. Betas of release 2.0: figshare (KiltHub), see bold5000.org. The images have "
        "the terms of COCO, ImageNet and SUN, and are asked for at bold5000.org.",
        size="4 subjects (CSI1 to CSI4), 15 sessions (CSI4: 9), 4,916 images, 18,870 trials 10 s apart, TR 2 s",
        tree=TREE,
        citation="Chang, Pyles, Marcus, Gupta, Tarr, Aminoff 2019, Scientific Data 6, 49, doi:10.1038/s41597-019-0052-3",
        protocols=("bold5000-repeats", "random-by-image", "leave-one-session-out"),
        workflow="mindeye",
        preset="tiny",
        openneuro="ds001499",
        openneuro_files=("*_events.tsv", "*.json", "derivatives/spm/*"),
        source="Betas and brain masks of release 2.0: figshare (KiltHub), see bold5000.org, into the same folder or betas/. Images: asked for "
        "at bold5000.org.",
    )

    options_class: ClassVar[type[Config]] = BOLD5000Options

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the subjects whose events are there (``CSI1``...)."""
        folders = sorted(
            {path.parents[2].name for path in data_dir.glob(f"sub-*/ses-*/func/*_task-{TASK}_*_events.tsv")}
        )
        return [folder.removeprefix("sub-") for folder in folders]

    def design(self, data_dir: Path, subject: str) -> pd.DataFrame:
        """Return the trials of one subject, of all sessions, from the events alone (see `read_design`)."""
        return read_design(data_dir, self._label(data_dir, subject))

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: events, headers, masks and one volume are read; betas when the first row is asked for.

        Raises
        ------
        InputError
            If there are no betas (the design can still be read with `design`), or they disagree with the events.
        """
        chosen = build_options(BOLD5000Options, options, self.card.name)
        label = self._label(data_dir, subject)
        trials = read_design(data_dir, label)
        headers, warnings = open_sessions(data_dir, label, trials, chosen)
        warnings += _compare_names(data_dir, label, trials)
        trials = trials[trials["session"].isin(headers)].reset_index(drop=True)
        space, more = _open_space(data_dir, label, chosen, next(iter(headers.values())))
        images, image_warnings = _open_images(data_dir, trials, chosen)
        betas = MaskedBetas(headers, space.mask, work_dir / "betas", f"bold5000_sub-{label}_{chosen.betas}")
        return Study(
            dataset="bold5000",
            subject=label,
            responses=betas,
            trials=trials,
            stimuli=images,
            space=space,
            unit="percent signal change",
            provenance={
                "folder": str(data_dir),
                "betas": chosen.betas,
                "files": [header.path.name for header in headers.values()],
                "terms": self.card.terms,
                "tuned_on_test": TUNED.get(chosen.betas, ""),
                "normalised": "as released; z-score within session is a recipe step",
                "warnings": [*warnings, *more, *image_warnings],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return, subject by subject, what the events hold and whether betas, mask and images are there."""
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            return [FileCheck(f"sub-*/ses-*/func/*_task-{TASK}_*_events.tsv", "missing", "no design")]
        lines: list[FileCheck] = []
        designs = []
        for label in labels:
            try:
                designs.append(read_design(data_dir, label))
            except InputError as error:
                lines.append(FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}"))
                continue
            lines.append(FileCheck(f"sub-{label}/**/*_events.tsv", "ok", _describe(designs[-1])))
            lines += _check_betas(data_dir, label, designs[-1])
        if designs:
            together = pd.concat(designs)
            found = f"{len(together)} trials of {len(designs)} subjects, {together['stimulus_id'].nunique()} image names"
            lines.append(FileCheck("the design", "ok", found))
            look = partial(_open_images, data_dir, together, BOLD5000Options())
            lines.append(check_images(IMAGE_FOLDERS[0], look))
        return lines

    def _label(self, data_dir: Path, subject: str) -> str:
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            raise InputError(
                data_dir, expected=f"sub-*/ses-*/func/*_task-{TASK}_*_events.tsv", found="no events"
            )
        label = str(subject).removeprefix("sub-")
        check_option("subject", label, labels)
        return label


BOLD5000_DATASET = BOLD5000()


def read_design(data_dir: Path, subject: str) -> pd.DataFrame:
    """Read the events of one subject's picture runs, in the order in which they were shown.

    Parameters
    ----------
    data_dir : Path
    subject : str
        ``CSI1`` to ``CSI4``.

    Returns
    -------
    DataFrame
        stimulus_id (file name of the image), session, run, repeat, onset (s), then duration, source (coco, imagenet or scenes),
        repeated (shown more than once by design, to this subject), response and reaction_time (NaN where none), run_seconds
        (NaN where the BOLD is not there).

    Raises
    ------
    InputError
        For a column that is absent, onsets that descend, events that overlap or come after the end of a run whose BOLD
        is there, and images that change their source.
    """
    tables = []
    for path in sorted((data_dir / f"sub-{subject}").glob(f"ses-*/func/*_task-{TASK}_*_events.tsv")):
        match = RUN_NAME.fullmatch(path.name)
        if match is None:
            raise InputError(
                path, expected="a name like sub-CSI1_ses-01_..._run-01_events.tsv", found=path.name
            )
        bold = path.with_name(path.name.replace("_events.tsv", "_bold.nii.gz"))
        sidecars = [
            path.with_name(path.name.replace("_events.tsv", "_bold.json")),
            data_dir / f"task-{TASK}_bold.json",
        ]
        end = read_run_length(bold, sidecars)
        table, onset, duration = read_events(check_inside(data_dir, path), ["ImgName", "ImgType"], end=end)
        tables.append(
            pd.DataFrame(
                {
                    "stimulus_id": table["ImgName"].astype(object),
                    "session": int(match[2]),
                    "run": int(match[3]),
                    "onset": onset,
                    "duration": duration,
                    "source": table["ImgType"].str.removeprefix("rep_").astype(object),
                    "repeated": table["ImgType"].str.startswith("rep_"),
                    "response": _optional(table, "Response"),
                    "reaction_time": _optional(table, "RT"),
                    "run_seconds": np.nan if end is None else end,
                }
            )
        )
    design = pd.concat(tables, ignore_index=True).sort_values(
        ["session", "run"], kind="stable", ignore_index=True
    )
    sources = design.groupby("stimulus_id")["source"].nunique()
    if (sources > 1).any():
        raise InputError(
            f"events of sub-{subject}",
            expected="one source an image",
            found=f"several of {sources.idxmax()!r}",
        )
    design["repeat"] = count_repeats(design["stimulus_id"])
    design["repeated"] = design.groupby("stimulus_id")["repeated"].transform("any")
    return design[[*TRIAL_ORDER, *(name for name in design.columns if name not in TRIAL_ORDER)]]


def open_sessions(
    data_dir: Path, subject: str, trials: pd.DataFrame, options: BOLD5000Options
) -> tuple[dict[int, SessionHeader], list[str]]:
    """Read the headers of the sessions' betas and hold them against the design.

    Returns
    -------
    headers : dict of int to SessionHeader
    warnings : list of str

    Raises
    ------
    InputError
        If there are no betas, or a session has not as many volumes as trials.
    """
    files = find_betas(data_dir, subject, options.betas)
    if not files:
        raise InputError(
            data_dir / f"{subject}_GLMbetas-{options.betas}*_ses-*.nii.gz",
            expected="the betas of release 2.0",
            found=f"none: only the design of {len(trials)} trials is here",
            hint="get them from figshare, or make betas from the BOLD runs with the dataset bids-fmri",
        )
    planned = sorted(set(trials["session"]))
    wanted = planned if options.sessions is None else sorted(set(options.sessions))
    if options.sessions is not None and (missing := [n for n in wanted if n not in files]):
        raise InputError(
            data_dir,
            expected=f"betas of session {missing[0]}",
            found=f"sessions {', '.join(map(str, files))}",
        )
    headers: dict[int, SessionHeader] = {}
    for number in [n for n in wanted if n in files]:
        header = replace(read_header(check_inside(data_dir, files[number])), integer=False)
        n_trials = int((trials["session"] == number).sum())
        if header.n_trials != n_trials:
            raise InputError(
                header.path,
                expected=f"{n_trials} volumes, one a trial of the events",
                found=str(header.n_trials),
            )
        first = next(iter(headers.values()), header)
        if header.volume != first.volume:
            raise InputError(
                header.path, expected=f"{first.volume} voxels, as {first.path.name}", found=str(header.volume)
            )
        headers[number] = header
    gaps = [n for n in planned if n not in headers]
    unknown = [n for n in files if n not in planned]
    warnings = [f"betas of session {n} are there without events: left out" for n in unknown]
    if not headers:
        raise InputError(
            data_dir,
            expected="betas of a session with events",
            found=f"sessions {', '.join(map(str, files))}",
        )
    if gaps and options.sessions is None:
        warnings.append(f"no betas of sessions {', '.join(map(str, gaps))}")
    return headers, warnings


def find_betas(data_dir: Path, subject: str, version: str) -> dict[int, Path]:
    """Return the beta file of each session that is there, by session number."""
    found: dict[int, Path] = {}
    for folder in BETA_FOLDERS:
        for spelling in SPELLINGS.get(version, (version,)):
            for path in sorted((data_dir / folder).glob(f"{subject}_GLMbetas-{spelling}*_ses-*.nii.gz")):
                if match := re.search(r"_ses-(\d+)\.nii\.gz$", path.name):
                    found.setdefault(int(match[1]), path)
    return dict(sorted(found.items()))


def _beside(data_dir: Path, name: str) -> Path:
    paths = [data_dir / folder / name for folder in BETA_FOLDERS]
    return next((path for path in paths if path.is_file()), paths[0])


def _open_space(
    data_dir: Path, subject: str, options: BOLD5000Options, header: SessionHeader
) -> tuple[VoxelSpace, list[str]]:
    path = (
        Path(options.mask)
        if options.mask
        else check_inside(data_dir, _beside(data_dir, f"{subject}_brainmask.nii.gz"))
    )
    check_file(path, "the brain mask of the subject (or the option mask)")
    mask, affine = read_mask(path)
    image = open_volume(header.path, "betas")
    check_grid(path, mask.shape, affine, header.path, image)
    try:
        finite = np.isfinite(np.asarray(image.dataobj[..., 0]))
    except DAMAGED as error:
        raise InputError(header.path, expected="a whole first volume", found=one_line(error)) from error
    warnings = []
    if not finite[mask].all():
        warnings.append(
            f"{int((~finite[mask]).sum())} of {int(mask.sum())} voxels of {path.name} are not finite: left out"
        )
        mask = mask & finite
    rois: dict[str, np.ndarray] = {}
    for file in sorted(
        (data_dir / "derivatives" / "spm" / f"sub-{subject}").glob(f"sub-{subject}_mask-*.nii.gz")
    ):
        name = file.name.removeprefix(f"sub-{subject}_mask-").removesuffix(".nii.gz")
        try:
            region, region_affine = read_mask(check_inside(data_dir, file), "a region")
            check_grid(file, region.shape, region_affine, header.path, image)
        except InputError as error:
            warnings.append(f"region {name} is left out: expected {error.expected}; found {error.found}")
            continue
        rois[name] = region[mask]
    return VoxelSpace(mask, affine, rois, f"BOLD5000 {subject}"), warnings


def _open_images(data_dir: Path, trials: pd.DataFrame, options: BOLD5000Options) -> tuple[Any, list[str]]:
    folder = next((data_dir / name for name in IMAGE_FOLDERS if (data_dir / name).is_dir()), None)
    found = {} if folder is None else find_images(data_dir, folder)
    ids = list(dict.fromkeys(trials["stimulus_id"]))
    sources = trials.drop_duplicates("stimulus_id").set_index("stimulus_id")[["source"]]
    return match_images(found, ids, sources, options.image_side)


def _compare_names(data_dir: Path, subject: str, trials: pd.DataFrame) -> list[str]:
    """Hold the release's list of image names, one a trial, against the events."""
    path = _beside(data_dir, f"{subject}_imgnames.txt")
    if not path.is_file():
        return [
            f"{path.name} is not there: that the betas are in the order of the events is taken for granted"
        ]
    names = [
        line.strip()
        for line in check_inside(data_dir, path).read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    names = [Path(name).stem.removeprefix("rep_") for name in names if name]
    shown = [Path(name).stem for name in trials["stimulus_id"]]
    if len(names) != len(shown):
        raise InputError(
            path, expected=f"{len(shown)} names, one a trial of the events", found=str(len(names))
        )
    for row, (name, other) in enumerate(zip(names, shown, strict=True)):
        if name != other:
            raise InputError(path, expected=f"{other!r} in line {row + 1}, as the events", found=repr(name))
    return []


def _check_betas(data_dir: Path, subject: str, trials: pd.DataFrame) -> list[FileCheck]:
    lines = []
    for version in VERSIONS:
        if not find_betas(data_dir, subject, version):
            continue
        try:
            headers, warnings = open_sessions(data_dir, subject, trials, BOLD5000Options(betas=version))
            for header in headers.values():
                check_whole(header.path)
            _, more = _open_space(data_dir, subject, BOLD5000Options(), next(iter(headers.values())))
            more += _compare_names(data_dir, subject, trials)
            found = f"{len(headers)} sessions, {sum(h.n_trials for h in headers.values())} trials"
            lines.append(
                FileCheck(f"{subject}_GLMbetas-{version}*", "ok", "; ".join([found, *warnings, *more]))
            )
        except InputError as error:
            lines.append(FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}"))
    if not lines:
        name = f"{subject}_GLMbetas-*_ses-*.nii.gz"
        lines.append(FileCheck(name, "missing", "no betas: the design can be read, no study can be opened"))
    return lines


def _describe(trials: pd.DataFrame) -> str:
    counts = trials.groupby("stimulus_id").size()
    repeats = counts[counts > 1].value_counts().sort_index(ascending=False)
    times = ", ".join(f"{number} shown {n} times" for n, number in repeats.items())
    n_runs = len(trials.groupby(["session", "run"]))
    return (
        f"{len(trials)} trials in {n_runs} runs of {trials['session'].nunique()} sessions, {len(counts)} images, "
        f"{int((counts > 1).sum())} of them more than once" + (f" ({times})" if times else "")
    )


def _optional(table: pd.DataFrame, name: str) -> Any:
    return pd.to_numeric(table[name], errors="coerce") if name in table.columns else np.nan

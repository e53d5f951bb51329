"""Where the runs of one participant lie in a BIDS dataset and its fMRIPrep derivatives."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import check_inside, one_line

BOLD = "_desc-preproc_bold"
NATIVE = "func"
"""What a run without a ``space-`` entity is called: fMRIPrep's own reference grid of each run."""
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9]+)")
GIFTI, CIFTI = ".func.gii", ".dtseries.nii"
_OUTPUT_ENTITIES = re.compile(r"_(hemi|space|res|den|label|desc)-[a-zA-Z0-9]+")


@dataclass(frozen=True)
class RunFiles:
    """The files of one run; none of them has been opened, except the sidecars.

    Attributes
    ----------
    session, run : str
        Labels, empty where the file name has none.
    task, space : str
    bold, events : Path
        Of a surface: the left hemisphere, or the CIFTI file.
    mask : Path or None
        None on a surface.
    right : Path or None
        The right hemisphere, where each has a file of its own.
    metadata : dict
        ``RepetitionTime``, ``StartTime``... by BIDS' inheritance, the derivative's own sidecar first.
    sidecars : tuple of Path
        Files that `metadata` come from.
    """

    session: str
    task: str
    run: str
    space: str
    bold: Path
    mask: Path | None
    events: Path
    right: Path | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    sidecars: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Session, task and run in words."""
        parts = (("ses", self.session), ("task", self.task), ("run", self.run))
        return "_".join(f"{key}-{value}" for key, value in parts if value)


def entities(path: Path) -> dict[str, str]:
    """Return the entities of a BIDS file name.

    Examples
    --------
    >>> entities(Path("sub-01_task-x_run-2_space-T1w_desc-preproc_bold.nii.gz"))
    {'sub': '01', 'task': 'x', 'run': '2', 'space': 'T1w', 'desc': 'preproc'}
    """
    return dict(_ENTITY.findall(path.name.split(".")[0]))


def space_of(path: Path) -> str:
    """Return the space of a derivative as fMRIPrep writes it: ``T1w``, ``MNI152NLin2009cAsym:res-2``, ``fsaverage5``, or ``func``.

    Examples
    --------
    >>> space_of(Path("sub-01_task-x_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"))
    'MNI152NLin6Asym:res-2'
    >>> space_of(Path("sub-01_task-x_space-fsLR_den-91k_bold.dtseries.nii"))
    'fsLR:den-91k'
    """
    found = entities(path)
    details = [f":{key}-{found[key]}" for key in ("res", "den") if key in found]
    return found.get("space", NATIVE) + "".join(details)


def is_surface(bold: Path) -> bool:
    """Say whether a run lies on the cortical surface."""
    return bold.name.endswith((GIFTI, CIFTI))


def output_stem(bold: Path) -> str:
    """Return what all outputs of a run begin with, as its raw files do.

    Examples
    --------
    >>> output_stem(Path("sub-01_task-x_run-2_hemi-L_space-fsaverage5_bold.func.gii"))
    'sub-01_task-x_run-2'
    """
    return _OUTPUT_ENTITIES.sub("", bold.name.split(".")[0].removesuffix("_bold"))


def participants(folder: Path) -> list[str]:
    """Return the labels of the ``sub-*`` folders, looking into none of them."""
    if not folder.is_dir():
        return []
    return sorted(
        p.name[4:] for p in folder.glob("sub-*") if re.fullmatch(r"sub-[a-zA-Z0-9]+", p.name) and p.is_dir()
    )


def find_derivatives(data_dir: Path, chosen: str = "") -> Path:
    """Return the folder of fMRIPrep's outputs: the one named, or ``derivatives/fmriprep``, or the only one it made.

    Raises
    ------
    InputError
        If there is none, or more than one.
    """
    if chosen:
        folder = data_dir / chosen  # an absolute path stays as it is
        if not folder.is_dir():
            raise InputError(
                folder,
                expected="the folder of fMRIPrep's outputs (option derivatives)",
                found="nothing there",
            )
        return folder
    usual = data_dir / "derivatives" / "fmriprep"
    if usual.is_dir():
        return check_inside(data_dir, usual)
    found = [
        p.parent
        for p in sorted((data_dir / "derivatives").glob("*/dataset_description.json"))
        if _by_fmriprep(p)
    ]
    if len(found) == 1:
        return check_inside(data_dir, found[0])
    raise InputError(
        data_dir / "derivatives",
        expected="one folder of fMRIPrep's outputs, such as derivatives/fmriprep",
        found=", ".join(p.name for p in found) or "none",
        hint="name it by the option derivatives",
    )


def _by_fmriprep(description: Path) -> bool:
    try:
        makers = read_json(description).get("GeneratedBy", [])
    except InputError:
        return False
    return any(
        "fmriprep" in str(maker.get("Name", "")).lower() for maker in makers if isinstance(maker, dict)
    )


def list_spaces(derivatives: Path, subject: str) -> list[str]:
    """Return the output spaces of one participant's preprocessed BOLD."""
    return sorted({space_of(path) for path in _list_bold(derivatives / f"sub-{subject}")})


def _list_bold(home: Path) -> list[Path]:
    """Return the runs in all spaces; of a pair of hemispheres the left one, whether it is there or not."""
    places = [home / "func", *sorted(path / "func" for path in home.glob("ses-*"))]
    found: list[Path] = []
    for place in places:
        volumes = [p for p in place.glob(f"*{BOLD}.nii*") if p.name.endswith((".nii", ".nii.gz"))]
        flat = [p for p in place.glob(f"*_bold{CIFTI}") if "desc" not in entities(p)]
        sides = [p for p in place.glob(f"*{GIFTI}") if entities(p).get("hemi") in ("L", "R")]
        sides = [
            p.with_name(p.name.replace("_hemi-R", "_hemi-L")) for p in sides if "desc" not in entities(p)
        ]
        found += sorted({*volumes, *flat, *sides})
    return found


def find_runs(
    data_dir: Path,
    derivatives: Path,
    subject: str,
    *,
    space: str = "",
    task: str = "",
    sessions: Sequence[str] | None = None,
) -> tuple[list[RunFiles], list[str]]:
    """List the runs of one participant that have preprocessed BOLD and events; only this participant's folders are read.

    Parameters
    ----------
    data_dir, derivatives : Path
    subject : str
    space : str
        Output space; may be left out where there is only one volume or, without volumes, only one surface.
    task : str
        May be left out: every task with events is then taken.
    sessions : sequence of str, optional
        Labels; all by default.

    Returns
    -------
    runs : list of RunFiles
        By session, task and run.
    warnings : list of str
        Runs left out for want of events.

    Raises
    ------
    InputError
        If nothing is left, a name is unknown, a mask is missing, or a link leads out of the data folder.
    """
    home = derivatives / f"sub-{subject}"
    bolds = _list_bold(home)
    if not bolds:
        raise InputError(
            home,
            expected=f"runs *{BOLD}.nii.gz, *_bold{GIFTI} or *_bold{CIFTI} in func or ses-*/func",
            found="none",
        )
    if task:
        check_option("task", task, {entities(p).get("task", "") for p in bolds})
        bolds = [p for p in bolds if entities(p).get("task") == task]
    if sessions is not None:
        known = {entities(p).get("ses", "") for p in bolds}
        for session in sessions:
            check_option("sessions", session, known)
        bolds = [p for p in bolds if entities(p).get("ses", "") in set(sessions)]
    spaces = sorted({space_of(p) for p in bolds})
    volumes = sorted({space_of(p) for p in bolds if not is_surface(p)})
    usual = volumes or spaces
    if not space and len(usual) > 1:
        raise InputError(
            "option space",
            expected=f"one of {', '.join(spaces)}",
            found="none named",
            hint=f"as space={usual[0]}",
        )
    space = space or usual[0]
    check_option("space", space, spaces)
    runs: list[RunFiles] = []
    without: list[RunFiles] = []
    for bold in (p for p in bolds if space_of(p) == space):
        run = _open_run(data_dir, derivatives, bold, space)
        (runs if run.events.is_file() else without).append(run)
    if not runs:
        raise InputError(without[0].events, expected="the events of the run", found="nothing there")
    for run in runs:
        for path in (run.bold, run.right, run.mask, run.events):
            if path is None:
                continue
            if not path.is_file():
                raise InputError(path, expected="a file of the run", found="nothing there")
            _check_link(data_dir, derivatives, path)
    runs.sort(key=lambda run: (_natural(run.session), run.task, _natural(run.run), run.bold.name))
    warnings = []
    if without:
        warnings.append(
            f"{len(without)} runs without events left out: {', '.join(run.name for run in without[:5])}"
        )
    return runs, warnings


def _open_run(data_dir: Path, derivatives: Path, bold: Path, space: str) -> RunFiles:
    found = entities(bold)
    stem = output_stem(bold)
    raw = data_dir / bold.parent.relative_to(derivatives)
    task = found.get("task", "")
    events = raw / f"{stem}_events.tsv"
    if not events.is_file() and (data_dir / f"task-{task}_events.tsv").is_file():
        events = data_dir / f"task-{task}_events.tsv"  # BIDS: one table for all runs of a task
    candidates = [bold.with_name(bold.name.split(".")[0] + ".json")]
    if is_surface(bold):
        candidates += [
            bold.with_suffix(".json"),  # ..._bold.dtseries.json, as some versions name it
            *(p for p in sorted(bold.parent.glob(f"{stem}_*{BOLD}.json")) if output_stem(p) == stem),
        ]
    candidates += [raw / f"{stem}_bold.json", data_dir / f"task-{task}_bold.json"]
    sidecars = tuple(path for path in candidates if path.is_file())
    metadata: dict[str, Any] = {}
    for path in reversed(sidecars):
        _check_link(data_dir, derivatives, path)
        metadata |= read_json(path)
    return RunFiles(
        session=found.get("ses", ""),
        task=task,
        run=found.get("run", ""),
        space=space,
        bold=bold,
        mask=None if is_surface(bold) else bold.with_name(bold.name.replace(f"{BOLD}.", "_desc-brain_mask.")),
        events=events,
        right=bold.with_name(bold.name.replace("_hemi-L", "_hemi-R")) if bold.name.endswith(GIFTI) else None,
        metadata=metadata,
        sidecars=sidecars,
    )


def _check_link(data_dir: Path, derivatives: Path, path: Path) -> None:
    """Refuse a link that leads out of the dataset and out of the derivatives."""
    if not path.resolve().is_relative_to(derivatives.resolve()):
        check_inside(data_dir, path)


def _natural(label: str) -> tuple[int, int, str]:
    """Sort key: numbers by value, then words."""
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; anything else is an `InputError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, expected="a JSON sidecar", found=one_line(error)) from error
    if not isinstance(content, dict):
        raise InputError(path, expected="a JSON object", found=type(content).__name__)
    return content

"""`things-fmri`: three people, 720 object concepts of THINGS with a dozen photographs each, single-trial responses in table form.

Facts: Hebart et al. 2023 and the dataset's own usage notes (names of files and columns; noise ceilings in percent). Counts come from the
metadata; what the notes leave open is checked in the files.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from braindecode_suite.core.checks import check_file, check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import Space, UnitSpace, VoxelSpace
from braindecode_suite.core.study import Noise, Study
from braindecode_suite.datasets.image_files import check_images, find_images, match_images
from braindecode_suite.datasets.lab_files import (
    TRIAL_ORDER,
    check_inside,
    count_repeats,
    read_table,
    read_whole_numbers,
)
from braindecode_suite.datasets.volumes import read_mask
from braindecode_suite.datasets.voxel_table import TrialRows, VoxelTable, open_voxel_table

MIRRORED = "derivatives/ICA-betas/sub-{0}/voxel-metadata/sub-{0}_task-things_"
TRIALS = (
    "betas_csv/sub-{0}_StimulusMetadata.csv",
    "sub-{0}_StimulusMetadata.csv",
    f"{MIRRORED}stimulus-metadata.tsv",
    f"{MIRRORED}stimulus-metadata.csv",
)
VOXELS = (
    "betas_csv/sub-{0}_VoxelMetadata.csv",
    "sub-{0}_VoxelMetadata.csv",
    f"{MIRRORED}voxel-metadata.tsv",
    f"{MIRRORED}voxel-metadata.csv",
)
RESPONSES = (
    "betas_csv/sub-{0}_ResponseData.h5",
    "sub-{0}_ResponseData.h5",
    f"{MIRRORED}voxel-wise-responses.h5",
)
"""Where each table may lie: as figshare names them, or as OpenNeuro ds004192 does (as its users read it; not seen by us)."""
IMAGE_FOLDERS = ("object_images", "images")
AXES = ("voxel_x", "voxel_y", "voxel_z")
NO_ROI = re.compile(r"voxel_.*|subject_id|nc_.*|splithalf_.*|prf-.*|Unnamed.*|")
TREE = """\
betas_csv/sub-01_ResponseData.h5             voxels x trials (pandas' fixed format)
betas_csv/sub-01_StimulusMetadata.csv        trial_type, session, run, stimulus, (concept): a row a trial
betas_csv/sub-01_VoxelMetadata.csv           voxel_id, voxel_x, voxel_y, voxel_z, nc_singletrial, regions: a row a voxel
brainmasks/sub-01_*brainmask*.nii.gz         optional: the volume that voxel_x, voxel_y, voxel_z index
object_images/candelabra/candelabra_14s.jpg  optional: the images, in any folders below (or images/)

or the same tables as OpenNeuro ds004192 has them:
derivatives/ICA-betas/sub-01/voxel-metadata/sub-01_task-things_{voxel-wise-responses.h5,stimulus-metadata.tsv,voxel-metadata.tsv}
"""


class ThingsOptions(Config):
    """How a subject is read.

    Attributes
    ----------
    roi : str or list of str
        Regions whose voxels are read, by their column in VoxelMetadata; ``regions`` takes the union of all of them and ``brain``
        every voxel.
    mask : str, optional
        The volume that the voxels' indices belong to, in place of ``brainmasks/``.
    image_side : int, optional
        Resize the images to squares of this many pixels.
    """

    roi: str | tuple[str, ...] = "regions"
    mask: str | None = None
    image_side: PositiveInt | None = None


class ThingsFMRI:
    """Reads the single-trial responses in table form (catalogue entry ``things-fmri``)."""

    card = DatasetCard(
        name="things-fmri",
        title="THINGS-fMRI: photographs of 720 object concepts, 3 T, three people",
        modality="fMRI",
        terms="Responses: public, figshare (plus.figshare.com, THINGS-data collection), BOLD on OpenNeuro ds004192; see the licence given there. "
        "The images have a licence and a password of their own (osf.io/jum2f).",
        size="3 subjects, 12 sessions, 9,840 trials and about 211,000 voxels a subject; betas_csv is 43 GB packed",
        tree=TREE,
        citation="Hebart et al. 2023, THINGS-data, eLife 12, e82580, doi:10.7554/eLife.82580",
        protocols=("things-fmri-zero-shot", "things-fmri-original", "leave-one-session-out"),
        workflow="mindeye",
        preset="tiny",
        openneuro="ds004192",
        openneuro_files=("derivatives/ICA-betas/*/voxel-metadata/*", "derivatives/ICA-betas/*.json"),
        source="Brain masks: figshare (plus.figshare.com, THINGS-data collection), which has the tables too, as betas_csv. Images: osf.io/jum2f, with "
        "a licence and a password of their own.",
    )

    options_class: ClassVar[type[Config]] = ThingsOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels (``01``...) of the subjects whose metadata are there."""
        found = [path for place in TRIALS for path in data_dir.glob(place.format("*"))]
        return sorted({path.name.removeprefix("sub-").partition("_")[0] for path in found})

    def design(self, data_dir: Path, subject: str) -> pd.DataFrame:
        """Return the trials of one subject from StimulusMetadata (see `read_trials`)."""
        return read_trials(_file(data_dir, self._label(data_dir, subject), TRIALS))

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: metadata and headers are read; responses are turned into rows at the first one asked for."""
        chosen = build_options(ThingsOptions, options, self.card.name)
        label = self._label(data_dir, subject)
        trials = read_trials(_file(data_dir, label, TRIALS))
        voxels = read_voxels(_file(data_dir, label, VOXELS))
        table = open_voxel_table(_file(data_dir, label, RESPONSES), len(voxels), len(trials))
        warnings = _compare_ids(table, voxels)
        rows, rois = choose_voxels(_file(data_dir, label, VOXELS), voxels, chosen.roi)
        space, rows, more = _open_space(data_dir, label, voxels, rows, rois, chosen)
        noise, noise_warnings = _open_noise(voxels.iloc[rows])
        stimuli, image_warnings = _open_images(data_dir, trials, chosen)
        return Study(
            dataset="things-fmri",
            subject=label,
            responses=TrialRows(table, rows, work_dir),
            trials=trials,
            stimuli=stimuli,
            space=space,
            unit="single-trial betas as released",
            noise=noise,
            provenance={
                "folder": str(data_dir),
                "roi": chosen.roi,
                "files": [table.path.name],
                "terms": self.card.terms,
                "normalised": "as released; z-score within session is a recipe step",
                "warnings": [*warnings, *more, *noise_warnings, *image_warnings],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return, subject by subject, what metadata and responses hold."""
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            return [FileCheck("betas_csv/sub-01_StimulusMetadata.csv", "missing")]
        lines: list[FileCheck] = []
        designs: list[pd.DataFrame] = []
        for label in labels:
            try:
                path = _file(data_dir, label, TRIALS)
                trials = read_trials(path)
                designs.append(trials)
                lines.append(FileCheck(path.name, "ok", _describe(trials)))
                path = _file(data_dir, label, VOXELS)
                voxels = read_voxels(path)
                rows, rois = choose_voxels(path, voxels, "regions")
                lines.append(FileCheck(path.name, "ok", f"{len(voxels)} voxels, {len(rois)} regions"))
                path = _file(data_dir, label, RESPONSES)
                if not path.is_file():
                    what = "no responses: the design can be read, no study can be opened"
                    lines.append(FileCheck(path.name, "missing", what))
                    continue
                table = open_voxel_table(path, len(voxels), len(trials))
                _, _, more = _open_space(data_dir, label, voxels, rows, rois, ThingsOptions())
                found = f"{table.shape[0]} voxels x {table.shape[1]} trials"
                lines.append(
                    FileCheck(path.name, "ok", "; ".join([found, *_compare_ids(table, voxels), *more]))
                )
            except InputError as error:
                lines.append(FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}"))
        if designs:
            look = partial(_open_images, data_dir, pd.concat(designs), ThingsOptions())
            lines.append(check_images(IMAGE_FOLDERS[0], look))
        return lines

    def _label(self, data_dir: Path, subject: str) -> str:
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            raise InputError(
                data_dir, expected="betas_csv/sub-01_StimulusMetadata.csv", found="nothing there"
            )
        label = str(subject).removeprefix("sub-")
        check_option("subject", label, labels)
        return label


THINGS_FMRI = ThingsFMRI()


def read_trials(path: Path) -> pd.DataFrame:
    """Read StimulusMetadata: one row a trial, in the order of the responses' columns.

    Returns
    -------
    DataFrame
        stimulus_id (the image's name without suffix, ``candelabra_14s``), session, run, repeat, onset (NaN: not in the file), then
        published (train or test) and concept.
    """
    table = read_table(path, ["trial_type", "session", "run", "stimulus"], separator=_separator(path))
    strange = sorted(set(table["trial_type"]) - {"train", "test"})
    if strange:
        raise InputError(path, expected="trial_type train or test", found=repr(strange[0]))
    if not len(table):
        raise InputError(path, expected="a row a trial", found="none")
    names = table["stimulus"].str.replace(r"\.[A-Za-z]+$", "", regex=True).astype(object)
    concepts = names.str.rpartition("_")[0].astype(object)
    if "concept" in table.columns:
        concepts = table["concept"].astype(object)
        several = concepts.groupby(names).nunique()
        if (several > 1).any():
            raise InputError(path, expected="one concept an image", found=f"several of {several.idxmax()!r}")
    trials = pd.DataFrame(
        {
            "stimulus_id": names,
            "session": read_whole_numbers(path, table, "session"),
            "run": read_whole_numbers(path, table, "run"),
            "onset": np.nan,
            "published": table["trial_type"].astype(object),
            "concept": concepts,
        }
    )
    trials["repeat"] = count_repeats(trials["stimulus_id"])
    return trials[[*TRIAL_ORDER, "published", "concept"]]


def read_voxels(path: Path) -> pd.DataFrame:
    """Read VoxelMetadata, one row a voxel: text as in the file, indices and noise ceilings as numbers."""
    table = read_table(path, ["voxel_id", *AXES], separator=_separator(path))
    for name in ("voxel_id", *AXES):
        table[name] = read_whole_numbers(path, table, name)
    for name in ("nc_singletrial", "nc_testset"):
        if name in table.columns:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def choose_voxels(
    path: Path, voxels: pd.DataFrame, names: str | tuple[str, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the rows of the voxels asked for and every region as a boolean vector over all voxels.

    Regions are the columns of zeros and ones.
    """
    rois: dict[str, np.ndarray] = {}
    for name in voxels.columns:
        if NO_ROI.fullmatch(name) is None:
            values = pd.to_numeric(voxels[name], errors="coerce").fillna(0)
            if values.isin([0, 1]).all():
                rois[name] = (values == 1).to_numpy()
    wanted = [names] if isinstance(names, str) else list(names)
    if wanted == ["brain"]:
        return np.arange(len(voxels)), rois
    if wanted == ["regions"]:
        wanted = list(rois)
    for name in wanted:
        check_option("roi", name, [*rois, "regions", "brain"])
    chosen = np.zeros(len(voxels), bool)
    for name in wanted:
        chosen |= rois[name]
    if not chosen.any():
        raise InputError(path, expected=f"voxels in {', '.join(wanted) or 'any region'}", found="none")
    return np.flatnonzero(chosen), rois


def _file(data_dir: Path, label: str, places: tuple[str, ...]) -> Path:
    paths = [data_dir / place.format(label) for place in places]
    return check_inside(data_dir, next((path for path in paths if path.is_file()), paths[0]))


def _separator(path: Path) -> str:
    """Return what separates columns: the mirror's ``.tsv`` have been seen with commas."""
    with check_file(path, "a table").open(encoding="utf-8", errors="replace") as stream:
        return "\t" if "\t" in stream.readline() else ","


def _compare_ids(table: VoxelTable, voxels: pd.DataFrame) -> list[str]:
    if table.voxel_ids is not None and not np.array_equal(table.voxel_ids, voxels["voxel_id"]):
        row = int(np.flatnonzero(table.voxel_ids != voxels["voxel_id"].to_numpy())[0])
        raise InputError(
            table.path,
            expected=f"voxel_id {voxels['voxel_id'].iloc[row]} in row {row}, as VoxelMetadata",
            found=f"{table.voxel_ids[row]:g}",
        )
    if table.named:
        return []
    return [
        "the names of the responses' columns are pickled and were not read: taken to be the trials in order, as described"
    ]


def _open_space(
    data_dir: Path,
    label: str,
    voxels: pd.DataFrame,
    rows: np.ndarray,
    rois: dict[str, np.ndarray],
    options: ThingsOptions,
) -> tuple[Space, np.ndarray, list[str]]:
    """Return the space, the voxels' rows in its order, and warnings."""
    found = sorted((data_dir / "brainmasks").glob(f"sub-{label}_*brainmask*.nii.gz"))
    path = Path(options.mask) if options.mask else check_inside(data_dir, found[0]) if found else None
    if path is None:
        warning = (
            "no brain mask: the voxels' indices are known, but not their volume; no brain map can be drawn"
        )
        return UnitSpace(len(rows), {name: member[rows] for name, member in rois.items()}), rows, [warning]
    brain, affine = read_mask(path, "the brain mask")
    indices = voxels[list(AXES)].to_numpy()
    if (indices < 0).any() or (indices >= brain.shape).any():
        worst = indices[((indices < 0) | (indices >= brain.shape)).any(axis=1)][0]
        raise InputError(
            path, expected=f"a volume that holds voxel {tuple(int(i) for i in worst)}", found=str(brain.shape)
        )
    if not brain[tuple(indices.T)].all():
        outside = int((~brain[tuple(indices.T)]).sum())
        raise InputError(
            path, expected="a mask that holds all voxels of VoxelMetadata", found=f"{outside} outside"
        )
    if len(np.unique(indices, axis=0)) != len(indices):
        raise InputError(
            path, expected="voxels of VoxelMetadata in places of their own", found="two in one place"
        )
    rows = rows[np.lexsort(indices[rows].T[::-1])]
    mask = np.zeros(brain.shape, bool)
    mask[tuple(indices[rows].T)] = True
    return (
        VoxelSpace(
            mask, affine, {name: member[rows] for name, member in rois.items()}, f"THINGS sub-{label}"
        ),
        rows,
        [],
    )


def _open_noise(voxels: pd.DataFrame) -> tuple[Noise | None, list[str]]:
    """Turn the released single-trial noise ceiling, in percent, into the signal-to-noise ratio."""
    if "nc_singletrial" not in voxels.columns:
        return None, ["VoxelMetadata has no nc_singletrial: no noise ceiling"]
    share = voxels["nc_singletrial"].to_numpy(float) / 100
    strange = ~((share >= 0) & (share < 1))
    warnings = (
        [f"{int(strange.sum())} voxels have no noise ceiling from 0 to 100 %: taken as 0"]
        if strange.any()
        else []
    )
    share = np.where(strange, 0.0, share)
    source = "nc_singletrial of VoxelMetadata, from the test images' repeats"
    return Noise(np.sqrt(share / (1 - share)).astype(np.float32), source), warnings


def _open_images(data_dir: Path, trials: pd.DataFrame, options: ThingsOptions) -> tuple[Any, list[str]]:
    folder = next((data_dir / name for name in IMAGE_FOLDERS if (data_dir / name).is_dir()), None)
    found = {} if folder is None else find_images(data_dir, folder, stems=True)
    shown = trials.drop_duplicates("stimulus_id").set_index("stimulus_id")
    attributes = pd.DataFrame({"category": shown["concept"]})
    return match_images(found, list(attributes.index), attributes, options.image_side)


def _describe(trials: pd.DataFrame) -> str:
    parts = []
    for part in ("train", "test"):
        rows = trials[trials["published"] == part]
        parts.append(
            f"{rows['stimulus_id'].nunique()} {part} images of {rows['concept'].nunique()} concepts ({len(rows)} trials)"
        )
    return f"{trials['session'].nunique()} sessions, " + ", ".join(parts)

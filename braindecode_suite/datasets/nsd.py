"""`nsd`: the loader of the Natural Scenes Dataset's release, one `Study` a subject."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import SurfaceSpace, VoxelSpace
from braindecode_suite.core.study import Noise, Study
from braindecode_suite.datasets.nsd_betas import MaskedBetas, SessionHeader, read_header
from braindecode_suite.datasets.nsd_check import check_release
from braindecode_suite.datasets.nsd_files import (
    BETA_VERSIONS,
    GRID,
    RUN_SECONDS,
    RUNS_A_SESSION,
    SURFACE,
    TRIALS_A_SESSION,
    Design,
    Layout,
    compute_runs,
    read_behaviour,
    read_design,
    read_rois,
    read_volume,
    region_mask,
)
from braindecode_suite.datasets.nsd_stimuli import NSDStimuli
from braindecode_suite.datasets.nsd_surface import (
    SurfaceBetas,
    masked_betas,
    open_hemispheres,
    open_surface,
    open_surface_noise,
)
from braindecode_suite.datasets.volumes import check_orientation, open_volume

SESSIONS_DONE = (40, 40, 32, 30, 40, 32, 40, 30)
"""Sessions that subjects 1 to 8 of the release did."""
TUNING_NOTES = {
    "betas_fithrf_GLMdenoise_RR": "b3 betas: denoising, ridge and haemodynamic response were tuned by cross-validation over "
    "repeats that include test images (b2 tunes only the response, b1 nothing)",
    "betas_fithrf": "b2 betas: the haemodynamic response was chosen on trials that include test images",
    "betas_assumehrf": "",
}

TREE = """\
nsddata/experiments/nsd/nsd_expdesign.mat
nsddata/experiments/nsd/nsd_stim_info_merged.csv
nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5
nsddata/ppdata/subj01/behav/responses.tsv
nsddata/ppdata/subj01/func1pt8mm/brainmask.nii.gz
nsddata/ppdata/subj01/func1pt8mm/roi/*.nii.gz                                nsdgeneral, prf-visualrois, floc-*, streams...
nsddata/freesurfer/subj01/label/*.mgz.ctab                                   names of the regions
nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5 ... or .nii.gz
nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/ncsnr.nii.gz

For space: fsaverage, in place of the volumes:
nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR/lh.betas_session01.mgh ... and rh.
nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR/lh.ncsnr.mgh and rh.
nsddata/freesurfer/fsaverage/label/lh.*.mgz and rh.                          optional: regions drawn on the surface
"""

Betas = Literal["b1", "b2", "b3", "betas_assumehrf", "betas_fithrf", "betas_fithrf_GLMdenoise_RR"]


class NSDOptions(Config):
    """How a subject is read.

    Attributes
    ----------
    betas : {'b1', 'b2', 'b3'}
        Or the folder's name.
    space : {'func1pt8mm', 'fsaverage'}
        Voxels of 1.8 mm, or vertices of the surface.
    roi : str or list of str
        Region or regions whose voxels are read, by the names in the label tables; `brainmask` is one too, and `all` on the
        surface.
    format : {'auto', 'hdf5', 'nii.gz', 'nii'}
        Which beta files to read; auto takes what there is, HDF5 first.
    sessions : list of int, optional
        Only these sessions.
    prepare : bool
        Make the memory map of masked betas at once, rather than when the first row is read; constant voxels are then
        found in the data, not only in the release's maps.
    """

    betas: Betas = "b3"
    space: Literal["func1pt8mm", "fsaverage"] = "func1pt8mm"
    roi: str | tuple[str, ...] = "nsdgeneral"
    format: Literal["auto", "hdf5", "nii.gz", "nii"] = "auto"
    sessions: tuple[int, ...] | None = None
    prepare: bool = False


@dataclass(frozen=True)
class NSDDataset:
    """Reads a folder in the layout of the release (catalogue entry ``nsd``)."""

    card: DatasetCard
    options_class: ClassVar[type[Config]] = NSDOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the subjects whose betas are there."""
        return find_subjects(data_dir)

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: headers, design and masks are read, no betas (see `NSDOptions`)."""
        return open_subject(data_dir, subject, work_dir, build_options(NSDOptions, options, self.card.name))

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return what is there, missing or unreadable, file by file."""
        return check_release(data_dir, find_subjects(data_dir))


def find_subjects(data_dir: Path) -> list[str]:
    """Return the labels (``01``...) of the subjects with a folder of betas."""
    folders = sorted((data_dir / "nsddata_betas" / "ppdata").glob("subj*"))
    return [match[1] for folder in folders if (match := re.fullmatch(r"subj(\d\d)", folder.name))]


def resolve_subject(data_dir: Path, subject: str) -> str:
    """Return the label of a subject, written as ``1``, ``01``, ``subj01`` or ``sub-01``."""
    check_folder(data_dir, "the folder of the release")
    number = re.sub(r"^(sub-|subj)", "", str(subject))
    label = f"{int(number):02d}" if number.isdecimal() else number
    known = find_subjects(data_dir)
    if not known:
        raise InputError(
            data_dir / "nsddata_betas" / "ppdata",
            expected="folders subj01 to subj08",
            found="no subject's betas",
        )
    check_option("subject", label, known)
    return label


def open_subject(
    data_dir: Path, subject: str, work_dir: Path, options: NSDOptions, *, dataset: str = "nsd"
) -> Study:
    """Open one subject of a folder in the release's layout.

    Parameters
    ----------
    data_dir, work_dir : Path
        The memory map of masked betas is made below `work_dir`.
    subject : str
    options : NSDOptions
    dataset : str
        Name of the study's dataset.

    Returns
    -------
    Study
    """
    version = BETA_VERSIONS.get(options.betas, options.betas)
    layout = Layout(data_dir, resolve_subject(data_dir, subject), version, options.space)
    layout.check_links()
    if options.space == SURFACE and options.format != "auto":
        raise InputError("`format`", expected="auto, for the surface's .mgh files", found=options.format)
    stimuli = NSDStimuli(layout.stimuli)
    design = read_design(layout.expdesign, stimuli.n_images)
    if layout.number > len(design.images):
        raise InputError(
            layout.expdesign,
            expected=f"subjectim for subject {layout.number}",
            found=f"{len(design.images)} rows",
        )
    sessions, warnings = _open_sessions(layout, options, design)
    trials, trial_warnings = _make_trials(layout, design, sessions)
    space: VoxelSpace | SurfaceSpace
    betas: MaskedBetas | SurfaceBetas
    folder, name = work_dir / "betas", f"{dataset}_sub-{layout.subject}_{layout.betas}"
    if options.space == SURFACE:
        right, vertices = open_hemispheres(sessions)
        names = [options.roi] if isinstance(options.roi, str) else list(options.roi)
        space, region_warnings = open_surface(layout, names, vertices)
        noise, has_signal, noise_warnings = open_surface_noise(layout, space)
        betas = masked_betas(sessions, right, space, folder, name)
    else:
        space, region_warnings = _open_space(layout, options, next(iter(sessions.values())))
        noise, has_signal, noise_warnings = _open_noise(layout, space)
        betas = MaskedBetas(sessions, space.mask, folder, name)
    warnings += region_warnings + trial_warnings + noise_warnings
    if options.prepare:
        betas.prepare()
    # without `prepare` only the maps decide, so that a study is the same whatever was prepared before
    valid = has_signal & betas.varies if options.prepare else has_signal
    if not valid.all():
        warnings.append(
            f"{int((~valid).sum())} of {len(valid)} {'vertices' if options.space == SURFACE else 'voxels'} carry no signal (constant, or without an ncsnr)"
        )
    return Study(
        dataset=dataset,
        subject=layout.subject,
        responses=betas,
        trials=trials,
        stimuli=stimuli,
        space=space,
        unit="percent signal change",
        noise=noise,
        valid=valid,
        provenance={
            "folder": str(data_dir),
            "betas": layout.betas,
            "roi": options.roi,
            "files": [header.path.name for header in sessions.values()],
            "tuned_on_test": TUNING_NOTES.get(layout.betas, ""),
            "normalised": "as released; z-score within session is a recipe step",
            "warnings": warnings,
        },
    )


def prepare(study: Study) -> Study:
    """Make the memory map of masked betas now, and return the study with `valid` checked on the data themselves."""
    if not isinstance(study.responses, MaskedBetas | SurfaceBetas):
        raise InputError("`study`", expected="a study of the nsd loader", found=study.dataset)
    varies = study.responses.prepare().varies
    return replace(study, valid=varies if study.valid is None else varies & study.valid)


def _open_sessions(
    layout: Layout, options: NSDOptions, design: Design
) -> tuple[dict[int, SessionHeader], list[str]]:
    """Read the header of every session; all must agree on trials and volume."""
    files = layout.session_files(options.format)
    if options.sessions is not None:
        missing = [number for number in options.sessions if number not in files]
        if missing:
            raise InputError(
                layout.beta_folder,
                expected=f"sessions {', '.join(map(str, options.sessions))}",
                found=f"no session {missing[0]}",
            )
        files = {number: files[number] for number in sorted(set(options.sessions))}
    headers = {number: read_header(path) for number, path in files.items()}
    first = next(iter(headers.values()))
    for number, header in headers.items():
        if (header.volume, header.n_trials) != (first.volume, first.n_trials):
            raise InputError(
                header.path,
                expected=f"{first.n_trials} trials of {first.volume} voxels, as in {first.path.name}",
                found=f"{header.n_trials} trials of {header.volume}",
            )
        if number * header.n_trials > len(design.order):
            raise InputError(
                header.path,
                expected=f"a session of the {len(design.order)} trials planned",
                found=f"trials {(number - 1) * header.n_trials + 1} to {number * header.n_trials}",
            )
    planned = len(design.order) // first.n_trials
    missing = [number for number in range(1, planned + 1) if number not in headers]
    warnings = []
    if missing and options.sessions is None:
        gap = (
            ", ".join(map(str, missing))
            if len(missing) < 8
            else f"{missing[0]} to {missing[-1]}, {len(missing)} in all,"
        )
        warnings.append(f"sessions {gap} of the {planned} planned are not there")
    if layout.grid == GRID and any(not header.integer for header in headers.values()):
        warnings.append("betas are stored as floats: taken as percent signal change, not as 300 times that")
    return headers, warnings


def _open_space(layout: Layout, options: NSDOptions, header: SessionHeader) -> tuple[VoxelSpace, list[str]]:
    """Read the masks; the chosen regions' voxels become the space, the others are cut to it."""
    regions, affine, warnings = read_rois(layout)
    names = [options.roi] if isinstance(options.roi, str) else list(options.roi)
    folder = layout.functional / "roi"
    if "brainmask" in names:
        values, affine = read_volume(layout.functional / "brainmask.nii.gz", "the brain mask")
        regions["brainmask"] = values > 0
        folder = layout.functional / "brainmask.nii.gz"
    if affine is None:
        raise InputError(folder, expected="roi/*.nii.gz", found="no mask")
    mask = region_mask(regions, names, folder)
    if mask.shape != header.volume:
        file = folder / f"{names[0]}.nii.gz"
        raise InputError(
            file if file.is_file() else folder,
            expected=f"a mask of the betas' shape {header.volume} ({header.path.name})",
            found=f"shape {mask.shape}",
        )
    warnings += _compare_grids(folder, affine, header)
    rois = {name: region[mask] for name, region in regions.items()}
    wholly_empty = [name for name, region in regions.items() if not region.any()]
    if wholly_empty:
        warnings.append(f"regions without a voxel: {', '.join(wholly_empty)}")
    return VoxelSpace(mask, affine, rois, GRID), warnings


def _compare_grids(masks: Path, affine: NDArray[np.float64], header: SessionHeader) -> list[str]:
    """Refuse masks whose left is the right of the betas, and tell of masks that lie elsewhere; HDF5 says nothing of it."""
    if header.path.suffix == ".hdf5":
        return []
    image = open_volume(header.path, "betas")
    check_orientation(masks, affine, header.path, image.affine)
    if np.allclose(affine, image.affine, atol=1e-3):
        return []
    return [
        f"by their affines the masks of {masks.name} and the betas of {header.path.name} lie in different places: their shapes "
        "agree and one grid is assumed"
    ]


def _make_trials(
    layout: Layout, design: Design, sessions: Mapping[int, SessionHeader]
) -> tuple[pd.DataFrame, list[str]]:
    """Build the trial table from the design, checked against responses.tsv; rows follow the sessions that are there."""
    per_session = next(iter(sessions.values())).n_trials
    rows = np.concatenate([np.arange((s - 1) * per_session, s * per_session) for s in sessions])
    order = design.order
    images = design.images[layout.number - 1]
    table = pd.DataFrame(
        {
            "stimulus_id": images[order[rows]].astype(str).astype(object),
            "session": rows // per_session + 1,
            "run": np.tile(compute_runs(per_session, _runs(per_session)), len(sessions)),
            "repeat": pd.Series(order).groupby(order).cumcount().to_numpy()[rows] + 1,
            "onset": np.nan,
            "shared": np.isin(images[order[rows]], design.shared),
            "repeats_everywhere": _repeats_everywhere(layout, design, per_session)[order[rows]],
        }
    )
    warnings = _add_behaviour(layout, table, rows, images[order])
    if per_session == TRIALS_A_SESSION or layout.behaviour.is_file():  # otherwise nothing tells the runs
        table["run_seconds"] = RUN_SECONDS
    counts = table.groupby("stimulus_id").size()
    if (counts < 3).any():
        warnings.append(
            f"{int((counts < 3).sum())} of {len(counts)} images lack repeats "
            f"({int((counts == 1).sum())} seen once, {int((counts == 2).sum())} twice)"
        )
    return table, warnings


def _runs(per_session: int) -> int:
    return RUNS_A_SESSION if per_session == TRIALS_A_SESSION else 1


def _repeats_everywhere(layout: Layout, design: Design, per_session: int) -> NDArray[np.int64]:
    """Count how often every subject saw each entry of the list: as often as the one with the fewest sessions did."""
    if len(design.order) == max(SESSIONS_DONE) * TRIALS_A_SESSION:
        common = min(SESSIONS_DONE)
    else:
        layouts = [
            Layout(layout.root, label, layout.betas, layout.grid) for label in find_subjects(layout.root)
        ]
        common = min(last for other in layouts if (last := _last_session(other)) is not None)
    return np.bincount(design.order[: common * per_session], minlength=design.images.shape[1])


def _last_session(layout: Layout) -> int | None:
    """Return the number of a subject's last session, or None where these betas are not there or cannot be read."""
    try:
        return max(layout.session_files())
    except InputError:
        return None


def _add_behaviour(
    layout: Layout, table: pd.DataFrame, rows: NDArray[np.int64], shown: NDArray[np.int64]
) -> list[str]:
    """Take run and onset from responses.tsv, whose images must be those of the design."""
    behaviour = read_behaviour(layout.behaviour)
    if behaviour is None:
        return [f"{layout.behaviour.name} is not there: runs are computed, onsets unknown"]
    if len(behaviour) <= rows.max():
        raise InputError(
            layout.behaviour,
            expected=f"a row for each of {int(rows.max()) + 1} trials",
            found=f"{len(behaviour)} rows",
        )
    mine = behaviour.iloc[rows]
    seen = mine["73KID"].to_numpy(np.int64) - 1
    differs = np.flatnonzero(seen != shown[rows])
    warnings = []
    if len(differs):
        first = int(differs[0])
        if len(set(seen - shown[rows])) != 1:
            raise InputError(
                layout.behaviour,
                expected=f"73KID {int(shown[rows[first]]) + 1} in trial {int(rows[first]) + 1}, as in nsd_expdesign.mat",
                found=f"{int(seen[first]) + 1} ({len(differs)} trials differ)",
            )
        warnings.append(
            f"73KID of {layout.behaviour.name} counts from {1 + int(seen[first] - shown[rows[first]])}, not 1"
        )
    table["run"] = mine["RUN"].to_numpy(np.int64)
    if "TIME" in mine.columns:
        seconds = mine["TIME"].to_numpy(float) * 86400
        start = pd.Series(seconds).groupby([table["session"], table["run"]]).transform("min").to_numpy()
        table["onset"] = np.round(seconds - start, 3)
    return warnings


def _open_noise(layout: Layout, space: VoxelSpace) -> tuple[Noise | None, NDArray[np.bool_], list[str]]:
    """Read ncsnr; voxels without one get 0 and are not valid."""
    path = layout.beta_folder / "ncsnr.nii.gz"
    if not path.is_file():
        return None, np.ones(space.n_units, bool), ["ncsnr.nii.gz is not there: no noise ceiling"]
    volume, _ = read_volume(path, "a map of ncsnr")
    if volume.shape != space.mask.shape:
        raise InputError(
            path, expected=f"a volume of shape {space.mask.shape}", found=f"shape {volume.shape}"
        )
    ncsnr = np.asarray(volume[space.mask], np.float32)
    known = np.isfinite(ncsnr)
    source = f"{layout.betas}/ncsnr.nii.gz as released: over all sessions and images, rectified at 0"
    return Noise(np.where(known, ncsnr, np.float32(0)), source), known, []


NSD = NSDDataset(
    DatasetCard(
        name="nsd",
        title="Natural Scenes Dataset, 7T fMRI of eight people who each saw up to 10,000 photographs three times",
        modality="fMRI betas",
        terms="Every user signs the NSD data access agreement (naturalscenesdataset.org); nothing of it, nor images derived "
        "from it, may be redistributed. The photographs are COCO's, under their Flickr terms.",
        size="about 40 GB of betas a subject at 1.8 mm, and 40 GB of images",
        tree=TREE,
        citation="Allen, E. J., St-Yves, G., Wu, Y. et al. A massive 7T fMRI dataset to bridge cognitive neuroscience and "
        "artificial intelligence. Nature Neuroscience 25, 116-126 (2022). https://doi.org/10.1038/s41593-021-00962-x",
        protocols=("nsd-shared1000", "nsd-982", "nsd-shared515", "nsd-cluster-disjoint", "random-by-image"),
        workflow="mindeye",
        preset="kandinsky",
        source="Sign the agreement at naturalscenesdataset.org; those who run the dataset then say how to copy it.",
    )
)

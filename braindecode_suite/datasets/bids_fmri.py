"""`bids-fmri`: any BIDS dataset with fMRIPrep derivatives and events, as single-trial betas (see ``docs/bids-fmri.md``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, file_sha256
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.bids_events import read_run_events
from braindecode_suite.datasets.bids_layout import (
    BOLD,
    CIFTI,
    GIFTI,
    find_derivatives,
    find_runs,
    list_spaces,
    participants,
)
from braindecode_suite.datasets.bids_series import Header, check_complete, open_space, read_header
from braindecode_suite.datasets.bids_study import BidsFmriOptions, open_bold, open_written
from braindecode_suite.datasets.single_trial_design import read_confounds
from braindecode_suite.datasets.single_trial_files import SUFFIX, find_betas

TREE = """\
dataset_description.json
sub-01/[ses-01/]func/sub-01_[ses-01_]task-x_run-1_events.tsv        onset, duration, and a column that names the stimulus
stimuli/...                                                        the images, by the paths in stim_file; optional
derivatives/fmriprep/sub-01/[ses-01/]func/*_space-y_desc-preproc_bold.nii.gz    and .json
derivatives/fmriprep/sub-01/[ses-01/]func/*_space-y_desc-brain_mask.nii.gz
derivatives/fmriprep/sub-01/[ses-01/]func/*_desc-confounds_timeseries.tsv       and .json
  or, on the surface, instead of the volumes and their masks:
derivatives/fmriprep/sub-01/[ses-01/]func/*_hemi-L_space-fsaverage5_bold.func.gii    and hemi-R, and .json
derivatives/fmriprep/sub-01/[ses-01/]func/*_space-fsLR_den-91k_bold.dtseries.nii     and .json

or a folder of betas that this loader has written:

sub-01/func/*_desc-singletrial_betas.h5    with its .json, *_events.tsv, *_desc-brain_mask.nii.gz, *_stat-ncsnr_statmap.nii.gz
"""


class BidsFmriDataset:
    """Reads BIDS with fMRIPrep derivatives, or single-trial betas made of it (catalogue entry ``bids-fmri``)."""

    card = DatasetCard(
        name="bids-fmri",
        title="Any BIDS dataset with fMRIPrep derivatives and events, to single-trial betas",
        modality="fMRI: one response a trial and voxel",
        terms="Those of the dataset: see its README, LICENSE or dataset_description.json, and ask those who recorded it.",
        size="the dataset's; the betas take 4 bytes a trial, voxel and haemodynamic response",
        tree=TREE,
        citation="BIDS: Gorgolewski et al. 2016, Scientific Data 3, 160044. fMRIPrep: Esteban et al. 2019, Nature Methods "
        "16, 111-116. LSS: Mumford et al. 2012, NeuroImage 59, 2636-2643. And the dataset's own.",
        protocols=(
            "leave-one-run-out",
            "leave-one-session-out",
            "leave-one-run-out-new-images",
            "random-by-image",
        ),
        workflow="classical-decoding",
        preset="default",
        source="Yours; or any dataset of OpenNeuro by its number, `bds fetch ds001246 --data-dir DIR`, and fMRIPrep run on it.",
    )

    options_class: ClassVar[type[Config]] = BidsFmriOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the participants; their folders are listed, not read."""
        try:
            return participants(find_derivatives(data_dir))
        except InputError:
            return participants(data_dir)

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one participant: names, headers, masks and tables are read, no BOLD (see `BidsFmriOptions`)."""
        chosen = build_options(BidsFmriOptions, options, self.card.name)
        check_folder(data_dir, "a BIDS dataset")
        label = re.sub(r"^sub-", "", str(subject))
        if chosen.derivatives:
            known = participants(find_derivatives(data_dir, chosen.derivatives))
        else:
            known = self.subjects(data_dir)
        if not known:
            raise InputError(data_dir, expected="folders sub-* of participants", found="none")
        check_option("subject", label, known)
        written = find_betas(data_dir, label)
        if written:
            return open_written(data_dir, label, written, chosen, work_dir)
        return open_bold(data_dir, label, work_dir, chosen)

    def identity(self, data_dir: Path, subjects: Sequence[str]) -> dict[str, str]:
        """Return a hash of each participant's events, and of names and sizes of the preprocessed BOLD or the betas."""
        try:
            homes = {data_dir, find_derivatives(data_dir)}
        except InputError:
            homes = {data_dir}
        found = {}
        for subject in subjects:
            files = [path for home in homes for path in list_files(home / f"sub-{subject}")]
            events = sorted([p.name, file_sha256(p)] for p in files if p.name.endswith("_events.tsv"))
            recordings = sorted([p.name, p.stat().st_size] for p in files if is_recording(p))
            if events or recordings:
                found[subject] = data_hash(events, recordings)
        return found

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return what is there, missing or unreadable, run by run."""
        labels = self.subjects(data_dir)
        if not labels:
            return [FileCheck(str(data_dir / "sub-*"), "missing", "no participant")]
        return [line for label in labels for line in check_participant(data_dir, label)]


def list_files(home: Path) -> list[Path]:
    """Return the files of one participant in ``func`` and ``ses-*/func``."""
    return [path for place in ("func/*", "ses-*/func/*") for path in home.glob(place) if path.is_file()]


def is_recording(path: Path) -> bool:
    """Tell whether a file holds preprocessed BOLD, or betas that this loader has written."""
    return f"{BOLD}.nii" in path.name or path.name.endswith((f"{SUFFIX}.h5", GIFTI, CIFTI))


def check_participant(data_dir: Path, subject: str) -> list[FileCheck]:
    """Return a line for every run of a participant: its BOLD, events and confounds."""

    def bad(error: InputError, fallback: Path) -> FileCheck:
        status = "missing" if error.found in ("nothing there", "none") else "bad"
        text = f"expected {error.expected}; found {error.found}" + (f" ({error.hint})" if error.hint else "")
        return FileCheck(error.where or str(fallback), status, text)

    written = find_betas(data_dir, subject)
    if written:
        lines = []
        for files in written:
            try:
                study = open_written(data_dir, subject, [files], BidsFmriOptions())
                study.read(slice(0, 1))
                lines.append(
                    FileCheck(str(files.betas), "ok", f"{len(study.trials)} trials, {study.n_units} units")
                )
            except InputError as error:
                lines.append(bad(error, files.betas))
        return lines
    try:
        derivatives = find_derivatives(data_dir)
        spaces = list_spaces(derivatives, subject) or [""]
    except InputError as error:
        return [bad(error, data_dir)]
    lines = []
    for space in spaces:
        try:
            runs, _ = find_runs(data_dir, derivatives, subject, space=space)
        except InputError as error:
            lines.append(bad(error, derivatives))
            continue
        first: Header | None = None
        for run in runs:
            try:
                header = read_header(run)
                check_complete(header)
                first = first or header
                open_space([run], [first, header])
                events = read_run_events(run.events, header.n_volumes * header.t_r)
                read_confounds(header, ("motion",), "basic")
                found = f"{header.n_volumes} volumes every {header.t_r:g} s, {len(events.trials)} trials"
                lines.append(FileCheck(str(run.bold), "ok", "; ".join([found, *events.warnings])))
            except InputError as error:
                lines.append(bad(error, run.bold))
    return lines


BIDS_FMRI = BidsFmriDataset()

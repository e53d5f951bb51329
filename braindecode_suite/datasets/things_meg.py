"""`things-meg`: four people, 1,854 object concepts of THINGS with twelve photographs each and 200 repeated test images, MEG of a CTF-275 system.

Facts: Hebart et al. 2023. Raw recordings are filtered and cut as those of ``bids-meg`` are; the authors' own epochs are read as they are.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.epoch_files import choose_files, open_epochs
from braindecode_suite.datasets.lab_files import check_inside
from braindecode_suite.datasets.recording_files import (
    describe_raw,
    find_recordings,
    open_recording,
    read_last,
)
from braindecode_suite.datasets.things_meg_epochs import find_epochs, open_released, trials_of_epochs
from braindecode_suite.datasets.things_meg_options import ThingsMegOptions
from braindecode_suite.datasets.things_meg_raw import bids_label, open_raw, rows_of_run
from braindecode_suite.datasets.things_meg_table import read_trials

TREE = """\
sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-01_meg.ds        raw recordings of subject P1, and their events.tsv
sourcedata/sample_attributes_P1.csv                                      what was shown; needed with raw recordings
derivatives/preprocessed/preprocessed_P1-epo.fif                         the authors' epochs (and -epo-1.fif ...), in place of raw recordings
images_meg/aardvark/aardvark_01b.jpg, images_test_meg/...                optional: the images
"""


class ThingsMegDataset:
    """Reads raw recordings or released epochs (catalogue entry ``things-meg``)."""

    card = DatasetCard(
        name="things-meg",
        title="THINGS-MEG: photographs of 1,854 object concepts, four people",
        modality="MEG: one response a trial, sensor and time",
        terms="Recordings: public, OpenNeuro ds004212, see the licence given there. The images of THINGS have terms of their own (osf.io/jum2f).",
        size="4 subjects, 12 sessions of 10 runs; 22,248 images once, 200 test images twelve times each",
        tree=TREE,
        citation="Hebart et al. 2023, THINGS-data, a multimodal collection of large-scale datasets for investigating object representations in "
        "human brain and behavior, eLife 12, e82580",
        protocols=(
            "things-meg-zero-shot",
            "things-meg-original",
            "random-by-image",
            "leave-one-subject-out",
        ),
        workflow="meg",
        preset="default",
        source="The images of THINGS: osf.io/jum2f, with the password given there.",
        openneuro="ds004212",
        openneuro_files=(
            "sub-BIGMEG*/*_task-main_*",
            "sourcedata/sample_attributes_P*.csv",
            "derivatives/preprocessed/preprocessed_P*-epo*.fif",
        ),
    )
    options_class: ClassVar[type[Config]] = ThingsMegOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels (``P1``...) of the subjects with raw recordings or epochs."""
        raw = [path.name.removeprefix("sub-BIGMEG") for path in data_dir.glob("sub-BIGMEG*") if path.is_dir()]
        epochs = [
            path.name.removeprefix("preprocessed_P").removesuffix("-epo.fif")
            for path in find_epochs(data_dir)
        ]
        return sorted({f"P{number}" for number in [*raw, *epochs]})

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: headers and tables are read, and once the trigger channel of raw recordings."""
        chosen = build_options(ThingsMegOptions, options, self.card.name)
        label = re.sub(r"^(sub-)?(BIGMEG|P)", "P", str(subject))
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            raise InputError(data_dir, expected="sub-BIGMEG1 or preprocessed_P1-epo.fif", found="neither")
        check_option("subject", label, labels)
        if _source(data_dir, label, chosen.files) == "raw":
            study = open_raw(data_dir, label, work_dir, chosen)
        else:
            study = open_released(data_dir, label, chosen)
        return replace(study, provenance={**study.provenance, "terms": self.card.terms})

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return, run by run or file by file, what is there."""
        labels = self.subjects(data_dir)
        if not labels:
            return [FileCheck("sub-BIGMEG1 or derivatives/preprocessed/preprocessed_P1-epo.fif", "missing")]
        return [line for label in labels for line in check_subject(data_dir, label)]


def _source(data_dir: Path, label: str, files: str) -> str:
    """Return what a subject is read from."""
    raw, epochs = (data_dir / f"sub-{bids_label(label)}").is_dir(), bool(find_epochs(data_dir, label))
    return choose_files(files, {"raw": raw, "epochs": epochs})


def check_subject(data_dir: Path, label: str) -> list[FileCheck]:
    """Return a line for the table of a subject, and one for each run or for the epochs."""

    def bad(error: InputError) -> FileCheck:
        status = "missing" if error.found in ("nothing there", "none") else "bad"
        return FileCheck(error.where, status, f"expected {error.expected}; found {error.found}")

    lines = []
    for path in find_epochs(data_dir, label):
        try:
            epochs = open_epochs(check_inside(data_dir, path))
            trials, _ = trials_of_epochs(data_dir, label, path, epochs)
            text = f"{len(epochs.events)} epochs, {len(epochs.ch_names)} channels, {len(epochs.times)} times at {epochs.info['sfreq']:g} Hz"
            lines.append(
                FileCheck(str(path), "ok", f"{text}, {int((trials['published'] != '').sum())} pictures")
            )
        except InputError as error:
            lines.append(bad(error))
    if not (data_dir / f"sub-{bids_label(label)}").is_dir():
        return lines
    try:
        trials, _ = read_trials(data_dir, label)
        recordings = find_recordings(data_dir, bids_label(label), datatype="meg", task="main")
    except InputError as error:
        return [*lines, bad(error)]
    for one in recordings:
        try:
            rows = rows_of_run(trials, one)
            raw, _ = open_recording(one)
            read_last(one, raw)
            lines.append(FileCheck(str(one.path), "ok", f"{describe_raw(raw)}, {len(rows)} trials"))
        except InputError as error:
            lines.append(bad(error))
    return lines


THINGS_MEG = ThingsMegDataset()

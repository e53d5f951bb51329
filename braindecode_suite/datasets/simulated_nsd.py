"""`simulated-nsd`: a study that writes itself in NSD's layout, is read by the NSD loader, and knows the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.config import Config, build, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.nsd import TREE, NSDOptions, find_subjects, open_subject
from braindecode_suite.datasets.nsd_check import check_release
from braindecode_suite.datasets.nsd_stimuli import NSDStimuli
from braindecode_suite.datasets.simulate_nsd import write_study
from braindecode_suite.datasets.simulate_oracle import Oracle
from braindecode_suite.datasets.simulate_parameters import SimulationOptions

NAME = "simulated-nsd"


@dataclass(frozen=True)
class SimulatedNSD:
    """Writes and reads simulated studies (catalogue entry ``simulated-nsd``)."""

    card: DatasetCard
    options_class: ClassVar[type[Config]] = NSDOptions

    def write(self, data_dir: Path, **options: Any) -> None:
        """Write the study (see `SimulationOptions`); one of the same options that is already there is kept."""
        write_study(data_dir, build(SimulationOptions, options, f"options of {NAME}"))

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the subjects found."""
        return find_subjects(data_dir)

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject through the NSD loader; attributes, captions and distractors are attached to its stimuli."""
        _read_card(data_dir)
        study = open_subject(
            data_dir, subject, work_dir, build_options(NSDOptions, options, NAME), dataset=NAME
        )
        return replace(
            study,
            stimuli=_open_stimuli(data_dir),
            provenance={**study.provenance, "simulated": True, "tuned_on_test": ""},  # no GLM was fitted
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return what is there, missing or unreadable, file by file."""
        names = ("parameters.json", "scenes.tsv", "captions.tsv", "distractors.hdf5")
        extra = [
            FileCheck(f"simulation/{name}", "ok" if (data_dir / "simulation" / name).is_file() else "missing")
            for name in names
        ]
        return [*check_release(data_dir, find_subjects(data_dir)), *extra]

    def oracle(self, data_dir: Path, subject: str) -> Oracle:
        """Return the oracle of one subject."""
        return Oracle.open(data_dir, subject)


def _read_card(data_dir: Path) -> dict[str, Any]:
    path = data_dir / "simulation" / "parameters.json"
    if not path.is_file():
        raise InputError(
            path, expected="a whole simulated study", found="nothing there", hint="write the study first"
        )
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def _open_stimuli(data_dir: Path) -> NSDStimuli:
    folder = data_dir / "simulation"
    attributes = pd.read_csv(check_file(folder / "scenes.tsv"), sep="\t", dtype={"stimulus_id": str})
    texts = pd.read_csv(check_file(folder / "captions.tsv"), sep="\t", dtype=str)
    return NSDStimuli(
        data_dir / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5",
        attributes=attributes.set_index("stimulus_id"),
        texts=texts.groupby("stimulus_id")["caption"].apply(list).to_dict(),
        distractors=check_file(folder / "distractors.hdf5"),
    )


SIMULATED_NSD = SimulatedNSD(
    DatasetCard(
        name=NAME,
        title="Simulated people who look at procedural scenes, in NSD's own file layout",
        modality="fMRI betas (simulated)",
        terms="Made by this program, free of any terms. Results on it are model recovery, never performance.",
        size="0.1 GB a subject (size demo)",
        tree=TREE
        + "simulation/{parameters.json,scenes.tsv,captions.tsv,distractors.hdf5,subj01_truth.hdf5}\n",
        citation="Simulated by braindecode_suite; layout after Allen et al., Nature Neuroscience 25, 116-126 (2022).",
        protocols=("nsd-shared1000", "nsd-982", "nsd-shared515", "nsd-cluster-disjoint", "random-by-image"),
        workflow="mindeye",
        preset="tiny",
        source="It writes itself: `bds run simulated-nsd OUTPUT_DIR participant`, into --data-dir where one is named.",
        simulated=True,
    )
)

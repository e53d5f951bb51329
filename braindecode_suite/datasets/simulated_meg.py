"""`simulated-meg`: a study that writes itself as raw MEG in BIDS, is read by the BIDS loader, and knows the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_file, check_option
from braindecode_suite.core.config import Config, build, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.bids_layout import participants
from braindecode_suite.datasets.bids_meg import BidsMegOptions, check_participant, open_participant
from braindecode_suite.datasets.image_files import ImageFiles, find_images
from braindecode_suite.datasets.simulate_meg import write_study
from braindecode_suite.datasets.simulate_meg_oracle import MEGOracle
from braindecode_suite.datasets.simulate_meg_parameters import MEGSimulationOptions

NAME = "simulated-meg"
EXTRA = ("parameters.json", "scenes.tsv", "captions.tsv", "distractors.hdf5")


class SceneFiles:
    """Images of a simulated study in files, with what the simulator knows of them.

    Parameters
    ----------
    files : dict of str to Path
    attributes : DataFrame
        Indexed by stimulus id.
    texts : dict of str to list of str
        Captions.
    distractors : Path
        HDF5 file of matched images: ``stimulus_id`` (images,) and ``images`` (images, n, height, width, 3).
    side : int, optional
        Resize to squares of this many pixels.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        attributes: pd.DataFrame,
        texts: Mapping[str, list[str]],
        distractors: Path,
        side: int | None = None,
    ) -> None:
        self._images = ImageFiles(files, attributes, side)
        self._texts, self._distractors = dict(texts), distractors
        self._matched: dict[str, int] | None = None
        self.ids: Sequence[str] = self._images.ids
        self.attributes: pd.DataFrame | None = attributes
        self.fingerprint = self._images.fingerprint

    def images(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return uint8 images of shape (len(ids), height, width, 3)."""
        return np.asarray(self._images.images(ids), np.uint8)

    def captions(self, stimulus_id: str) -> list[str]:
        """Return the captions of one stimulus, an empty list where there are none."""
        return list(self._texts.get(stimulus_id, []))

    def distractors(self, stimulus_id: str) -> NDArray[np.uint8] | None:
        """Return images of shape (n, height, width, 3) matched to one stimulus, or None."""
        with h5py.File(self._distractors, "r") as file:
            if self._matched is None:
                self._matched = {name.decode(): row for row, name in enumerate(file["stimulus_id"][:])}
            row = self._matched.get(stimulus_id)
            return None if row is None else np.asarray(file["images"][row])


@dataclass(frozen=True)
class SimulatedMEG:
    """Writes and reads simulated MEG studies (catalogue entry ``simulated-meg``)."""

    card: DatasetCard
    options_class: ClassVar[type[Config]] = BidsMegOptions

    def write(self, data_dir: Path, **options: Any) -> None:
        """Write the study (see `MEGSimulationOptions`); one of the same options that is already there is kept."""
        write_study(data_dir, build(MEGSimulationOptions, options, f"options of {NAME}"))

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the subjects found."""
        return participants(data_dir)

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject through the BIDS loader; attributes, captions and distractors are attached to its stimuli."""
        card = _read_card(data_dir)
        chosen = build_options(BidsMegOptions, options, NAME)
        check_option("subject", subject, participants(data_dir))
        study = open_participant(data_dir, subject, work_dir, chosen)
        return replace(
            study,
            dataset=NAME,
            trials=study.trials.assign(split=study.trials["subset"]),
            stimuli=_open_stimuli(data_dir, chosen.image_side),
            provenance={
                **study.provenance,
                "simulated": True,
                "tuned_on_test": "",
                "simulated_peaks": _peaks(card),
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return what is there, missing or unreadable, run by run."""
        extra = [
            FileCheck(f"simulation/{name}", "ok" if (data_dir / "simulation" / name).is_file() else "missing")
            for name in EXTRA
        ]
        return [
            *(line for label in participants(data_dir) for line in check_participant(data_dir, label)),
            *extra,
        ]

    def oracle(self, data_dir: Path, subject: str) -> MEGOracle:
        """Return the oracle of one subject."""
        return MEGOracle.open(data_dir, subject)


def _read_card(data_dir: Path) -> dict[str, Any]:
    path = data_dir / "simulation" / "parameters.json"
    if not path.is_file():
        raise InputError(
            path, expected="a whole simulated study", found="nothing there", hint="write the study first"
        )
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def _peaks(card: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return when early and late responses peak, seconds after onset and seconds after offset."""
    sources = card["source"]
    pairs = zip(("early", "late"), sources["latency"], sources["offset_latency"], strict=True)
    return {name: [float(onset), float(offset)] for name, onset, offset in pairs}


def _open_stimuli(data_dir: Path, side: int | None) -> SceneFiles:
    folder = data_dir / "simulation"
    attributes = pd.read_csv(check_file(folder / "scenes.tsv"), sep="\t", dtype={"stimulus_id": str})
    texts = pd.read_csv(check_file(folder / "captions.tsv"), sep="\t", dtype=str)
    return SceneFiles(
        find_images(data_dir, data_dir / "stimuli", stems=True),
        attributes.set_index("stimulus_id"),
        texts.groupby("stimulus_id")["caption"].apply(list).to_dict(),
        check_file(folder / "distractors.hdf5"),
        side,
    )


SIMULATED_MEG = SimulatedMEG(
    DatasetCard(
        name=NAME,
        title="Simulated people who look at procedural scenes, raw MEG of a CTF-275 system in BIDS",
        modality="MEG (simulated)",
        terms="Made by this program, free of any terms. Results on it are model recovery, never performance.",
        size="0.23 GB a subject (size demo)",
        tree="""\
dataset_description.json
participants.tsv
stimuli/scene-00000.png
sub-01/ses-01/meg/sub-01_ses-01_task-images_run-01_{meg.fif,channels.tsv,events.tsv,meg.json}
simulation/{parameters.json,scenes.tsv,captions.tsv,distractors.hdf5,sub-01_truth.hdf5}
""",
        citation="Simulated by braindecode_suite; design after Hebart et al., eLife 12, e82580 (2023).",
        protocols=("as-given", "random-by-image", "leave-one-session-out-new-images"),
        workflow="meg",
        preset="simulated",
        source="It writes itself: `bds run simulated-meg OUTPUT_DIR participant`, into --data-dir where one is named.",
        simulated=True,
    )
)

"""What the rooms promise each other; one contract suite in the tests runs over every catalogue entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from braindecode_suite.core.config import Config
from braindecode_suite.core.features import FeatureSource, Rows
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Cohort, Study


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What ``bds describe`` prints of a dataset.

    Attributes
    ----------
    name, title, modality : str
    terms : str
        Who may use it and where to ask for it; printed in every report.
    size : str
    tree : str
        The folder tree expected below ``--data-dir``.
    citation : str
    protocols : tuple of str
        Names of its split protocols, the default first.
    workflow, preset : str
        Default workflow and preset of ``bds run``.
    simulated : bool
        Whether results are model recovery and never performance.
    openneuro : str
        Accession number on OpenNeuro, an open mirror that ``bds fetch`` downloads from; empty where there is none.
    openneuro_files : tuple of str
        Patterns of the files there that this loader reads; empty for all.
    source : str
        Where to get what no open mirror has.
    """

    name: str
    title: str
    modality: str
    terms: str
    size: str
    tree: str
    citation: str
    protocols: tuple[str, ...]
    workflow: str
    preset: str
    simulated: bool = False
    openneuro: str = ""
    openneuro_files: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class FileCheck:
    """One line of ``bds check``: a file or folder, whether it is usable, and what was found."""

    path: str
    status: str  # ok, missing, bad, optional-missing
    found: str = ""


@runtime_checkable
class Dataset(Protocol):
    """A folder on disk that becomes one `Study` a subject. Opening reads headers only.

    `options_class` holds what `open` takes as keywords, all with defaults, so that a wrong option is refused before anything is read.
    """

    card: DatasetCard
    options_class: ClassVar[type[Config]]

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the subjects found (without ``sub-`` or ``subj``)."""
        ...

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Return one subject's study; caches go below `work_dir`. Unknown options are an `InputError`."""
        ...

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return what is there, missing, truncated or of the wrong shape, file by file."""
        ...


@runtime_checkable
class DesignedDataset(Dataset, Protocol):
    """A dataset whose design can be read where its recordings are not: `open` refuses then, `design` still answers."""

    def design(self, data_dir: Path, subject: str) -> pd.DataFrame:
        """Return the trials of one subject as planned and shown, with the columns of `Study.trials`; no recordings."""
        ...


@runtime_checkable
class FolderDataset(Dataset, Protocol):
    """A dataset whose name does not say whose recordings these are: they are those of the folder it is given."""

    def identity(self, data_dir: Path, subjects: Sequence[str]) -> dict[str, str]:
        """Return a hash of each subject's recordings that stays when the folder moves.

        Only these subjects are looked at, and only tables, names and sizes and a few rows are read; those who are not there
        or cannot be read are left out.
        """
        ...


@runtime_checkable
class SimulatedDataset(Dataset, Protocol):
    """A dataset that can write itself into a folder, and knows its own ceilings."""

    def write(self, data_dir: Path, **options: Any) -> None:
        """Write the study below `data_dir`; a study that is already there with the same options is kept."""
        ...

    def oracle(self, data_dir: Path, subject: str) -> Any:
        """Return the oracle that knows the generating model (see ``datasets/simulate_oracle.py``)."""
        ...


VectorsOf = Callable[[Sequence[str]], np.ndarray]


class ProtocolFunction(Protocol):
    """A named split protocol: studies in, one split or a list of them (folds, repeats) out.

    Parameters
    ----------
    studies : sequence of Study
    seed : int
        For what the protocol draws (validation images, folds).
    vectors_of : callable or None
        Stimulus ids to target vectors (ids, features); only cluster protocols need it.
    """

    def __call__(
        self, studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
    ) -> list[Split]: ...


@dataclass(frozen=True, kw_only=True)
class FitContext:
    """Where and how a model is fitted; nothing of it changes what is learned, except seed and precision.

    Attributes
    ----------
    seed : int
    device : str
        ``cpu`` or ``cuda``, already resolved.
    precision : {'32', 'bf16'}
    work_dir : Path
        For resumable training state; a run that finds its own state there goes on from it.
    progress : bool
        Whether to show a progress bar.
    split_hash : str
        Kept in the checkpoint.
    cache_dir : Path or None
        For closed-form solutions that several models share (ridge, and what starts from it); `work_dir` by default.
    maps_dir : Path or None
        For memory maps of preprocessed trials that models of several seeds share; below `work_dir` by default.
    """

    work_dir: Path
    seed: int = 0
    device: str = "cpu"
    precision: str = "32"
    progress: bool = False
    split_hash: str = ""
    cache_dir: Path | None = None
    maps_dir: Path | None = None


@runtime_checkable
class BrainEncoder(Protocol):
    """Brain to latents. Built as ``Class(config, context)``; ``Class.config_class`` is its pydantic config.

    `history_` (list of dict, one an epoch; empty for closed forms) feeds the learning curves of the report.
    """

    history_: list[dict[str, float]]

    def fit(self, train: Cohort, validation: Cohort, targets: Mapping[str, Target]) -> BrainEncoder:
        """Fit on training rows, choose on validation rows. Keys of `targets` are roles: retrieval, image, text, init."""
        ...

    def predict(self, cohort: Cohort, seed: int = 0) -> dict[str, Latents]:
        """Return one row of latents for each row of the cohort, in order, for every role."""
        ...

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write safetensors, config.json and README.md (the card), whole or not at all."""
        ...

    @classmethod
    def load(cls, folder: Path, cohort: Cohort | None = None, device: str = "cpu") -> BrainEncoder:
        """Read a saved model; a checkpoint of other subjects, spaces or targets is an `InputError` naming both sides."""
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Images to brain. Built as ``Class(config, context)``; ``Class.config_class`` is its pydantic config.

    `history_` (list of dict, one an epoch; empty for closed forms) feeds the learning curves of the report.
    """

    history_: list[dict[str, float]]

    def fit(self, train: Cohort, validation: Cohort, features: Sequence[FeatureSource]) -> ImageEncoder:
        """Fit on training rows, choose on validation rows; every model is offered all of `features`."""
        ...

    def predict(self, images: np.ndarray | Mapping[str, Rows], subject: str | None = None) -> np.ndarray:
        """Return the responses of one subject, in the units in which its study is read.

        Parameters
        ----------
        images : array of uint8 of shape (images, height, width, 3), or their features by the source's name
            Features are of shape (images, tokens, width), see `FeatureSource.rows`.
        subject : str, optional
            Needed where the model was fitted to several.

        Returns
        -------
        array of float32 of shape (images, units), or (images, channels, times)
            NaN in units that had missing responses in training, the training mean in those that were constant.
        """
        ...

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write safetensors, config.json and README.md (the card), whole or not at all."""
        ...

    @classmethod
    def load(
        cls,
        folder: Path,
        cohort: Cohort | None = None,
        device: str = "cpu",
        *,
        features: Sequence[FeatureSource] = (),
    ) -> ImageEncoder:
        """Read a saved model; one of other subjects, spaces or features is an `InputError` naming both sides.

        Without `features` the model predicts from features only, not from images.
        """
        ...


@runtime_checkable
class Retriever(Protocol):
    """Latents to ranked stimulus ids; `fit` sees latents of training or validation rows only."""

    def fit(self, predicted: Latents, true: Latents) -> Retriever: ...

    def similarity(self, queries: Latents, gallery: Latents) -> np.ndarray:
        """Return similarities of shape (queries, gallery), larger is closer."""
        ...

    def rank(self, queries: Latents, gallery: Latents) -> Ranking: ...


@dataclass(frozen=True, eq=False)
class Ranking:
    """Gallery ids of each query, best first.

    Attributes
    ----------
    queries : object array of str of shape (queries,)
    ids : object array of str of shape (queries, gallery)
    scores : array of shape (queries, gallery)
    """

    queries: np.ndarray
    ids: np.ndarray
    scores: np.ndarray


@runtime_checkable
class Generator(Protocol):
    """Latents to images. `inputs` names the target each role must come from; others are refused.

    `init_target` is the generator's own latent space (role ``init``) or None.
    """

    inputs: Mapping[str, str]
    init_target: Target | None

    def generate(self, latents: Mapping[str, Latents], seeds: Sequence[int]) -> np.ndarray:
        """Return uint8 images of shape (rows, height, width, 3), one seed a row."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """Latents to text."""

    def generate(self, latents: Latents) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step of a workflow, for the report and the log: done, resumed, skipped (with the reason) or failed."""

    name: str
    status: str
    seconds: float = 0.0
    detail: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

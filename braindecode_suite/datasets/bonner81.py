"""`bonner81`: responses of one person to 81 categories of objects in seven regions, with vectors of the same categories.

One ``.npz`` holds a response a category, and two descriptions of each category: 20 numbers from AlexNet and 30 from word2vec.
There are no images, runs or repeats in it. It is small and read whole when it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_file, check_finite, check_shape
from braindecode_suite.core.config import Config, NoOptions, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import file_sha256
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.lab_files import DAMAGED, as_float32, check_inside, one_line

FILE = "bonner81.npz"
VECTORS = ("alexnet", "word2vec")
ARRAYS = ("betas", "roi_index", "roi_names", "categories", *VECTORS)
CENTRED = (
    "every voxel has mean 0 over all categories in the file, so that held-out ones took part in the centring"
)


class Bonner81:
    """Loader of the one file of `bonner81`; the only subject is ``01``."""

    card = DatasetCard(
        name="bonner81",
        title="81 object categories in seven regions of one person, with AlexNet and word2vec vectors",
        modality="fMRI",
        terms="no licence is stated: for local use, not to be passed on",
        size="1 subject, one response to each of 81 categories in 696 voxels; 0.2 MB",
        tree=f"{FILE}   betas (categories, voxels); roi_index (voxels), from 1; roi_names; categories; "
        "alexnet and word2vec (categories, features)",
        citation="81 categories and seven regions as in Bonner, Epstein 2021, Nature Communications 12, 4081, "
        "doi:10.1038/s41467-021-24368-2; arrays of QuantumMatter/cracking-the-code-dw1",
        protocols=("9-fold-by-category", "loo-centred"),
        workflow="encode-vectors",
        preset="default",
        source="Its arrays come from github.com/QuantumMatter/cracking-the-code-dw1; put them into one .npz under the names above.",
    )

    options_class: ClassVar[type[Config]] = NoOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return ``['01']`` if the file is there."""
        return ["01"] if (data_dir / FILE).is_file() else []

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Return the study of subject ``01``: a row a category, in the order of the file.

        Raises
        ------
        InputError
            If the file is missing, damaged or no ``.npz``, an array is missing, of another shape, not finite or no number, a
            category comes twice, or a voxel belongs to a region without a name.
        """
        build_options(NoOptions, options, self.card.name)
        if subject != "01":
            raise InputError("`subject`", expected="'01'", found=repr(subject))
        path = check_inside(data_dir, check_file(data_dir / FILE, "the file of bonner81"))
        arrays = read_arrays(path)
        betas, categories = arrays["betas"], [str(name) for name in arrays["categories"]]
        n_trials = len(categories)
        trials = pd.DataFrame({"stimulus_id": pd.Series(categories, dtype=object)})
        trials["session"] = trials["run"] = trials["repeat"] = 1
        trials["onset"] = np.nan
        centred = bool(np.abs(betas.mean(axis=0)).max() < 1e-5)
        return Study(
            dataset="bonner81",
            subject="01",
            responses=betas,
            trials=trials,
            stimuli=CategoryVectors(
                categories, {name: arrays[name] for name in VECTORS}, fingerprint=file_sha256(path)
            ),
            space=UnitSpace(betas.shape[1], find_regions(path, arrays)),
            unit="response amplitude as released",
            provenance={
                "files": {FILE: file_sha256(path)},
                "terms": self.card.terms,
                "normalised": CENTRED if centred else "",
                "warnings": [
                    *([f"As released: {CENTRED}."] if centred else []),
                    "How the vectors were shortened to 20 and 30 numbers is not in the file: if by all categories, held-out ones "
                    "took part in it, without their responses.",
                    f"One person, one response to each of {n_trials} categories: no repeats, so no noise ceiling; no runs and no "
                    "places of voxels, so no brain map.",
                ],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return whether the file is there, whole, and holds what it should."""
        path = data_dir / FILE
        if not path.is_file():
            return [FileCheck(FILE, "missing")]
        try:
            study = self.open(data_dir, "01", data_dir)
        except InputError as error:
            return [FileCheck(FILE, "bad", f"{error.found} instead of {error.expected}")]
        rois = ", ".join(f"{name} {int(member.sum())}" for name, member in study.space.rois.items())
        return [FileCheck(FILE, "ok", f"{len(study.trials)} categories, {study.n_units} voxels ({rois})")]


BONNER81 = Bonner81()


class CategoryVectors:
    """Categories known by their vectors alone (`DescribedStimuli`): asking for an image is an error.

    Attributes
    ----------
    ids : sequence of str
    attributes : DataFrame or None
    vectors : mapping of str to array of float32 of shape (ids, features)
    fingerprint : str
    """

    def __init__(self, ids: Sequence[str], vectors: Mapping[str, np.ndarray], fingerprint: str) -> None:
        self.ids: Sequence[str] = tuple(ids)
        self.vectors, self.fingerprint = dict(vectors), fingerprint
        self.attributes: pd.DataFrame | None = None

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Refuse: there are no images."""
        raise InputError(
            "bonner81",
            expected="stimuli with images, which this workflow needs",
            found=f"vectors alone: {', '.join(self.vectors)}",
            hint="the workflow encode-vectors needs no image",
        )

    def captions(self, stimulus_id: str) -> list[str]:
        """Return the name of the category."""
        return [stimulus_id.replace("_", " ")]

    def distractors(self, stimulus_id: str) -> np.ndarray | None:
        """Return None: there are no images."""
        return None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of `ARRAYS` and hold their shapes against each other."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            missing = [name for name in ARRAYS if name not in stored.files]
            arrays = {} if missing else {name: stored[name] for name in ARRAYS}
    except (*DAMAGED, BadZipFile) as error:
        raise InputError(path, expected="a whole .npz of plain arrays", found=one_line(error)) from error
    if missing:
        raise InputError(path, expected=f"an array {missing[0]!r}", found="none of that name")
    for name in ("betas", *VECTORS):
        if not np.issubdtype(arrays[name].dtype, np.number):
            raise InputError(path, expected=f"numbers in {name!r}", found=str(arrays[name].dtype))
        arrays[name] = as_float32(arrays[name])
    n, voxels = len(np.atleast_1d(arrays["categories"])), len(np.atleast_1d(arrays["roi_index"]))
    for name, axes in (
        ("categories", "categories"),
        ("betas", "categories voxels"),
        ("roi_index", "voxels"),
        ("roi_names", "regions"),
        *((name, "categories features") for name in VECTORS),
    ):
        try:
            check_shape(name, arrays[name], axes, categories=n, voxels=voxels)
        except InputError as error:
            raise InputError(path, expected=f"{name} of {error.expected}", found=error.found) from error
    for name in ("betas", *VECTORS):
        check_finite(f"{path}: {name}", arrays[name])
    names, counts = np.unique(arrays["categories"].astype(str), return_counts=True)
    if (counts > 1).any():
        raise InputError(path, expected="each category once", found=f"{str(names[counts.argmax()])!r} again")
    return arrays


def find_regions(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the voxels of each region by its name."""
    index, names = arrays["roi_index"], [str(name) for name in arrays["roi_names"]]
    if not np.issubdtype(index.dtype, np.integer) or not np.isin(index, np.arange(1, len(names) + 1)).all():
        wrong = index[~np.isin(index, np.arange(1, len(names) + 1))]
        raise InputError(
            path,
            expected=f"region numbers from 1 to {len(names)}",
            found=str(wrong[0] if len(wrong) else index.dtype),
        )
    return {name: np.asarray(index == number) for number, name in enumerate(names, 1)}

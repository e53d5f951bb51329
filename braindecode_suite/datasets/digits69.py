"""`digits69`: fMRI of V1 to V3 of one subject who saw fifty handwritten sixes and fifty nines, in one ``.mat`` file.

The file holds one response an image, already normalised, and images whose pixels run down the columns (MATLAB's order).
It says nothing of runs, onsets, repeats or where the voxels lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.io import loadmat, whosmat

from braindecode_suite.core.checks import check_file, check_finite
from braindecode_suite.core.config import Config, NoOptions, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import file_sha256
from braindecode_suite.core.protocols import DatasetCard, FileCheck, VectorsOf
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.lab_files import as_float32, check_inside

FILE = "digit69_28x28.mat"
SIDE, N_TRAIN, N_TEST, N_VOXELS = 28, 90, 10, 3092
CLASSES = {1: "6", 2: "9"}
SHAPES: dict[str, tuple[int, int]] = {
    "fmriTrn": (N_TRAIN, N_VOXELS),
    "fmriTest": (N_TEST, N_VOXELS),
    "stimTrn": (N_TRAIN, SIDE * SIDE),
    "stimTest": (N_TEST, SIDE * SIDE),
    "labelTrn": (N_TRAIN, 1),
    "labelTest": (N_TEST, 1),
}
NUMERIC = ("double", "single", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
N_FOLDS, N_REPEATS = 10, 10


class Digits69:
    """Loader of the one file of `digits69`; the only subject is ``01``. Opening reads shapes and labels only."""

    card = DatasetCard(
        name="digits69",
        title="Handwritten sixes and nines, V1 to V3 of one subject",
        modality="fMRI",
        terms="Donders Institute data use agreement DSC_2018.00112_485; not to be passed on",
        size="1 subject, 100 images of 28 x 28, one response each of 3,092 voxels; 2.4 MB",
        tree=FILE,
        citation="van Gerven, de Lange, Heskes 2010, Neural Computation 22(12), 3127-3142, doi:10.1162/NECO_a_00047; "
        "as released with Du et al. 2019, IEEE TNNLS 30(8), doi:10.1109/TNNLS.2018.2882456",
        protocols=("digits69-10x10fold", "digits69-published"),
        workflow="image-prior",
        preset="digits69",
        source="Agree to the use agreement of the Donders Repository, collection DSC_2018.00112_485; the file digit69_28x28.mat "
        "is the one that the code of Du et al. 2019 reads.",
    )

    options_class: ClassVar[type[Config]] = NoOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return ``['01']`` if the file is there."""
        return ["01"] if (data_dir / FILE).is_file() else []

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Return the study of subject ``01``: rows 0 to 89 are the published training part, 90 to 99 the test part."""
        build_options(NoOptions, options, self.card.name)
        if subject != "01":
            raise InputError("`subject`", expected="'01'", found=repr(subject))
        path = check_inside(data_dir, check_file(data_dir / FILE, "the file of digits69"))
        check_contents(path)
        content, fingerprint = _Content(path), file_sha256(path)
        ids = [f"train-{i:02d}" for i in range(N_TRAIN)] + [f"test-{i:02d}" for i in range(N_TEST)]
        trials = pd.DataFrame({"stimulus_id": pd.Series(ids, dtype=object)})
        trials["session"] = trials["run"] = trials["repeat"] = 1
        trials["onset"] = np.nan
        trials["published"] = ["train"] * N_TRAIN + ["test"] * N_TEST
        return Study(
            dataset="digits69",
            subject="01",
            responses=_Responses(content),
            trials=trials,
            stimuli=DigitStimuli(content, ids, fingerprint),
            space=UnitSpace(N_VOXELS),
            unit="normalised by the release",
            provenance={
                "files": {FILE: fingerprint},
                "terms": self.card.terms,
                "warnings": [
                    "The release normalised the responses before it was split: what that used is unknown.",
                    "The file has neither runs, nor repeats, nor the voxels' places: one session and one run are assumed, "
                    "images of one run may lie on both sides of a split, and no brain map can be drawn.",
                ],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return whether the file is there, whole, and holds what it should."""
        path = data_dir / FILE
        if not path.is_file():
            return [FileCheck(FILE, "missing")]
        try:
            check_contents(check_inside(data_dir, path))
            content = _Content(path)
            n_images, n_voxels = len(content.labels), content.responses.shape[1]
        except InputError as error:
            return [FileCheck(FILE, "bad", f"{error.found} instead of {error.expected}")]
        return [FileCheck(FILE, "ok", f"{n_images} images, {n_voxels} voxels")]


DIGITS69 = Digits69()


def check_contents(path: Path) -> None:
    """Raise `InputError` unless the file holds numeric arrays of `SHAPES`; reads their headers only."""
    try:
        found = {name: (tuple(shape), kind) for name, shape, kind in whosmat(str(path))}
    except Exception as error:  # scipy lets zlib, struct and index errors through
        raise InputError(path, expected="a MATLAB file (version 5)", found=_one_line(error)) from error
    for name, shape in SHAPES.items():
        if name not in found:
            raise InputError(path, expected=f"an array {name!r}", found=", ".join(sorted(found)) or "nothing")
        other, kind = found[name]
        if other != shape or kind not in NUMERIC:
            raise InputError(
                path, expected=f"{name} of shape {shape}, numbers", found=f"shape {other}, {kind}"
            )


class _Content:
    """The arrays of the file, read when they are first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self, *names: str) -> np.ndarray:
        try:
            arrays = loadmat(str(self.path), variable_names=list(names))
            return np.concatenate([arrays[name] for name in names])
        except Exception as error:
            raise InputError(
                self.path, expected=f"readable {' and '.join(names)}", found=_one_line(error)
            ) from error

    @cached_property
    def responses(self) -> np.ndarray:
        """Array of float32 of shape (images, voxels)."""
        values = as_float32(self._read("fmriTrn", "fmriTest"))
        check_finite(self.path, values)
        return values

    @cached_property
    def images(self) -> np.ndarray:
        """Array of uint8 of shape (images, height, width); the file has them column by column."""
        values = self._read("stimTrn", "stimTest")
        grey = values.astype(np.uint8)
        if (grey != values).any():
            raise InputError(self.path, expected="grey values, whole numbers from 0 to 255", found="others")
        return grey.reshape(-1, SIDE, SIDE).transpose(0, 2, 1)

    @cached_property
    def labels(self) -> np.ndarray:
        """Object array of str of shape (images,): ``6`` or ``9``."""
        values = self._read("labelTrn", "labelTest").ravel()
        unknown = sorted(set(values.tolist()) - set(CLASSES), key=str)
        if unknown:
            raise InputError(self.path, expected="labels 1 (six) and 2 (nine)", found=f"label {unknown[0]}")
        return np.array([CLASSES[value] for value in values.tolist()], dtype=object)


class _Responses:
    """Responses that are read from the file when the first row is asked for."""

    def __init__(self, content: _Content) -> None:
        self.content = content
        self.shape = (N_TRAIN + N_TEST, N_VOXELS)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self.content.responses[rows])


class DigitStimuli:
    """The hundred images, by id ``train-00`` to ``train-89`` and ``test-00`` to ``test-09`` (order of the file).

    Attributes
    ----------
    ids : sequence of str
    attributes : DataFrame
        Column ``category`` (``6`` or ``9``), indexed by stimulus id.
    fingerprint : str
        Hash of the file.
    """

    def __init__(self, content: _Content, ids: Sequence[str], fingerprint: str) -> None:
        self.content = content
        self.ids: Sequence[str] = tuple(ids)
        self._row = {stimulus_id: row for row, stimulus_id in enumerate(self.ids)}
        self.fingerprint = fingerprint
        index = pd.Index(list(self.ids), name="stimulus_id")
        self.attributes: pd.DataFrame | None = pd.DataFrame({"category": content.labels}, index=index)

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Return uint8 images of shape (len(ids), 28, 28, 3)."""
        unknown = [i for i in ids if i not in self._row]
        if unknown:
            raise InputError("`ids`", expected="ids of digits69, train-00 to test-09", found=repr(unknown[0]))
        grey = self.content.images[[self._row[i] for i in ids]]
        return np.repeat(grey[..., None], 3, axis=3)

    def captions(self, stimulus_id: str) -> list[str]:
        """Return no captions: there are none."""
        return []

    def distractors(self, stimulus_id: str) -> np.ndarray | None:
        """Return None: distractors are the other images of the class."""
        return None


def ten_by_ten_fold(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Ten times repeated ten-fold cross-validation over all hundred images, stratified by class: 100 splits.

    Every test fold has five sixes and five nines, and so has the validation part, which is the fold after the test
    fold. The published division into 90 and 10 is not kept.
    """
    study = _only(studies)
    categories = _categories(study)
    splits = []
    for repeat in range(N_REPEATS):
        fold_of = stratified_folds(categories, N_FOLDS, np.random.default_rng([seed, repeat]))
        for fold in range(N_FOLDS):
            splits.append(
                _split(
                    "digits69-10x10fold",
                    study,
                    test=fold_of == fold,
                    validation=fold_of == (fold + 1) % N_FOLDS,
                    label=f"repeat-{repeat + 1:02d}_fold-{fold + 1:02d}",
                    notes=(
                        "Training parts of different folds share images: one subject, folds dependent.",
                        "Stratified by class: the test fold's class counts are known, not its images.",
                    ),
                )
            )
    return splits


def published_split(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """The published 90 training and 10 test images; ten of the 90 (five a class, drawn by `seed`) are for validation."""
    study = _only(studies)
    test = study.trials["published"].to_numpy() == "test"
    fold_of = np.full(len(test), -1)
    fold_of[~test] = stratified_folds(_categories(study)[~test], 9, np.random.default_rng([seed]))
    notes = (
        "Ten test images: enough to show, too few to rank methods.",
        "Published on it: DGMM with PixCorr 0.803 and SSIM 0.645 (Du et al. 2019); their SSIM window is not known.",
    )
    return [_split("digits69-published", study, test=test, validation=fold_of == 0, notes=notes)]


def stratified_folds(classes: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the members of each class to folds in random order.

    Parameters
    ----------
    classes : array of shape (images,)
    n_folds : int
    rng : numpy Generator

    Returns
    -------
    array of int of shape (images,)
    """
    fold_of = np.empty(len(classes), dtype=np.int64)
    for name in sorted(set(classes)):
        members = rng.permutation(np.flatnonzero(classes == name))
        fold_of[members] = np.arange(len(members)) % n_folds
    return fold_of


def _only(studies: Sequence[Study]) -> Study:
    if len(studies) != 1 or studies[0].dataset != "digits69":
        found = ", ".join(f"{study.dataset} sub-{study.subject}" for study in studies) or "none"
        raise InputError("`studies`", expected="the one study of digits69", found=found)
    return studies[0]


def _categories(study: Study) -> np.ndarray:
    if study.stimuli is None or study.stimuli.attributes is None:
        raise InputError("digits69", expected="stimuli with a category", found="none")
    return np.asarray(
        study.stimuli.attributes["category"].loc[list(study.stimulus_ids)].to_numpy(dtype=object)
    )


def _split(
    protocol: str,
    study: Study,
    *,
    test: np.ndarray,
    validation: np.ndarray,
    label: str = "",
    notes: tuple[str, ...],
) -> Split:
    return Split(
        protocol=protocol,
        studies=(study,),
        train=(np.flatnonzero(~test & ~validation),),
        validation=(np.flatnonzero(validation),),
        test=(np.flatnonzero(test),),
        disjoint=frozenset({"stimulus"}),
        label=label,
        notes=notes,
    )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

"""`table`: anybody's own recordings as a folder of plain files (see `TREE`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from braindecode_suite.core.checks import check_file, check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import Space, UnitSpace, VoxelSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.image_files import pick_image
from braindecode_suite.datasets.lab_files import DAMAGED, check_inside, one_line
from braindecode_suite.datasets.mapped_rows import FiniteRows, MappedCopy
from braindecode_suite.datasets.volumes import read_mask

TREE = """\
responses.npy or responses.h5    (trials, units), numbers; the .h5 holds a dataset `responses`
trials.tsv                       a row a trial: stimulus_id; optional session, run, repeat, onset (s), run_seconds, image, split, concept
images/                          <stimulus_id>.png or .jpg, or the file named in the column `image`; all of one size
mask.nii.gz                      optional: as many voxels above 0 as there are units, in C order of the array
rois.tsv                         optional: columns unit (from 0) and roi, a row a membership
captions.tsv                     optional: columns stimulus_id and caption
attributes.tsv                   optional: stimulus_id, and what is known of each image (category, ...)

For several subjects the files lie in folders sub-01, sub-02...; images, captions and attributes may stay above them.
"""
BLOCK_BYTES = 2**26
FILES = (
    "responses.npy",
    "responses.h5",
    "trials.tsv",
    "mask.nii.gz",
    "rois.tsv",
    "captions.tsv",
    "attributes.tsv",
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class TableOptions(Config):
    """How the folder is read.

    Attributes
    ----------
    unit : str
        Unit of the responses, for the report.
    """

    unit: str = "as given"


class TableDataset:
    """Reads a folder of responses, trials and images (catalogue entry ``table``)."""

    card = DatasetCard(
        name="table",
        title="A folder of one's own: responses, trials, images",
        modality="any: one row of numbers a trial",
        terms="Yours. Ask those who recorded the data what may be shown.",
        size="yours",
        tree=TREE,
        citation="",
        protocols=(
            "table-default",
            "as-given",
            "random-by-image",
            "leave-one-run-out",
            "leave-one-session-out",
        ),
        workflow="mindeye",
        preset="tiny",
        source="Yours: make the folder that `bds describe table` shows.",
    )

    options_class: ClassVar[type[Config]] = TableOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of ``sub-*`` folders with a trials.tsv, or ``01`` for a folder with its own trials.tsv."""
        if (data_dir / "trials.tsv").is_file():
            return ["01"]
        folders = sorted(path.parent.name for path in data_dir.glob("sub-*/trials.tsv"))
        return [match[1] for name in folders if (match := re.fullmatch(r"sub-([a-zA-Z0-9]+)", name))]

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: the tables and the headers of responses and images are read, no responses."""
        chosen = build_options(TableOptions, options, self.card.name)
        folder = self._folder(data_dir, subject)
        for name in FILES:
            check_inside(data_dir, _beside_or_above(data_dir, folder, name))
        responses = open_responses(folder, work_dir)
        trials = read_trials(folder / "trials.tsv", len(responses))
        stimuli, trials = _open_stimuli(data_dir, folder, trials)
        space = _open_space(folder, responses.shape[1])
        return Study(
            dataset="table",
            subject=str(subject),
            responses=responses,
            trials=trials,
            stimuli=stimuli,
            space=space,
            unit=chosen.unit,
            provenance={"folder": str(folder), "files": [responses.path.name], "warnings": _warnings(trials)},
        )

    def identity(self, data_dir: Path, subjects: Sequence[str]) -> dict[str, str]:
        """Return a hash of each subject's stimuli in their order, and of the first and last response."""
        found = {}
        for subject in subjects:
            try:
                folder = self._folder(data_dir, subject)
                responses = open_responses(folder, data_dir)
                ids = read_trials(folder / "trials.tsv", len(responses))["stimulus_id"]
                found[subject] = data_hash(list(ids), list(responses.shape), *responses.ends())
            except InputError:
                continue
        return found

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return what is there, missing or unreadable, subject by subject."""
        labels = self.subjects(check_folder(data_dir, "a folder with a trials.tsv"))
        if not labels:
            return [FileCheck("trials.tsv", "missing")]
        results = []
        for label in labels:
            folder = self._folder(data_dir, label)
            try:
                study = self.open(data_dir, label, data_dir)
                found = f"{len(study.trials)} trials, {study.n_units} units, {study.trials['stimulus_id'].nunique()} images"
                results.append(FileCheck(str(folder), "ok", found))
            except InputError as error:
                where = error.where
                results.append(FileCheck(where, "bad", f"expected {error.expected}; found {error.found}"))
        return results

    def _folder(self, data_dir: Path, subject: str) -> Path:
        labels = self.subjects(check_folder(data_dir, "a folder with a trials.tsv"))
        if not labels:
            raise InputError(data_dir / "trials.tsv", expected="a table of trials", found="nothing there")
        check_option("subject", subject, labels)
        return data_dir if (data_dir / "trials.tsv").is_file() else data_dir / f"sub-{subject}"


class TableResponses:
    """Rows of ``responses.npy``, mapped, or of the dataset `responses` in ``responses.h5``, read when asked for.

    HDF5 gives scattered rows slowly: it is copied once, as ``.npy``, below the work folder. Rows with NaN or infinity are an
    `InputError` naming the file, the row and the unit.
    """

    def __init__(self, path: Path, work_dir: Path) -> None:
        self.path = path
        try:
            if path.suffix == ".npy":
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                self.shape, self.dtype = array.shape, array.dtype
            else:
                with h5py.File(path, "r") as file:
                    if "responses" not in file:
                        raise InputError(
                            path, expected="a dataset 'responses'", found=", ".join(file) or "an empty file"
                        )
                    self.shape, self.dtype = tuple(file["responses"].shape), file["responses"].dtype
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(path, expected="a whole array of numbers", found=one_line(error)) from error
        if len(self.shape) != 2 or not (
            np.issubdtype(self.dtype, np.floating) or np.issubdtype(self.dtype, np.integer)
        ):
            raise InputError(
                path, expected="numbers of shape (trials, units)", found=f"{self.dtype}, shape {self.shape}"
            )
        self._finite = FiniteRows(len(self))
        status = path.stat()
        key = data_hash([str(path.resolve()), status.st_size, status.st_mtime_ns])
        place = path if path.suffix == ".npy" else work_dir / "table" / f"responses_{key}.npy"
        self._copy = MappedCopy(place, self.shape, self._write, self.dtype)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        wanted = np.arange(len(self))[rows]
        single = wanted.ndim == 0
        wanted = np.atleast_1d(wanted)
        values = self._copy.mapped[wanted]
        bad = self._finite.find_bad(values, wanted)
        if bad is not None:
            count, row, unit = bad
            raise InputError(
                self.path,
                expected="finite responses",
                found=f"{count} NaN or infinite values, the first in row {int(wanted[row])}, unit {unit}",
            )
        return values[0] if single else values

    def ends(self) -> list[NDArray[Any]]:
        """Return the first row and the last, each of shape (1, units), from the file as it lies."""
        if self.path.suffix == ".npy":
            return [self[:1], self[-1:]]
        try:
            with h5py.File(self.path, "r") as file:
                return [np.asarray(file["responses"][:1]), np.asarray(file["responses"][-1:])]
        except DAMAGED as error:
            raise InputError(self.path, expected="a whole array of numbers", found=one_line(error)) from error

    def prepare(self) -> TableResponses:
        """Copy an HDF5 file in one pass; a ``.npy`` is mapped as it lies."""
        self._copy.prepare()
        return self

    def _write(self, out: NDArray[Any]) -> None:
        step = max(BLOCK_BYTES // (self.shape[1] * self.dtype.itemsize), 1)
        try:
            with h5py.File(self.path, "r") as file:
                for start in range(0, len(self), step):
                    out[start : start + step] = file["responses"][start : start + step]
        except DAMAGED as error:
            raise InputError(self.path, expected="a whole array of numbers", found=one_line(error)) from error


class TableStimuli:
    """Image files by stimulus id."""

    def __init__(
        self, files: Mapping[str, Path], attributes: pd.DataFrame | None, texts: Mapping[str, list[str]]
    ) -> None:
        self._files, self._texts, self.attributes = dict(files), dict(texts), attributes
        self.ids: Sequence[str] = list(files)
        sizes: dict[tuple[int, int], Path] = {}
        stamps = []
        for stimulus_id, path in sorted(files.items()):
            size = _image_size(path)
            sizes.setdefault(size, path)
            if len(sizes) > 1:
                (first, first_path), (other, other_path) = list(sizes.items())[:2]
                raise InputError(
                    other_path,
                    expected=f"{first[0]} x {first[1]} pixels, as {first_path.name}",
                    found=f"{other[0]} x {other[1]}",
                )
            status = path.stat()
            stamps.append([stimulus_id, path.name, status.st_size, status.st_mtime_ns])
        self.fingerprint = data_hash(stamps)

    def images(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return uint8 images of shape (len(ids), height, width, 3)."""
        unknown = [i for i in ids if i not in self._files]
        if unknown:
            raise UnknownName("stimulus id", expected="an id of trials.tsv", found=repr(unknown[0]))
        if not len(ids):
            width, height = _image_size(next(iter(self._files.values())))
            return np.zeros((0, height, width, 3), np.uint8)
        return np.stack([_read_image(self._files[i]) for i in ids])

    def captions(self, stimulus_id: str) -> list[str]:
        """Return the captions of one stimulus, an empty list where there are none."""
        return list(self._texts.get(stimulus_id, []))

    def distractors(self, stimulus_id: str) -> NDArray[np.uint8] | None:
        """Return None: a table has no matched images."""
        return None


def open_responses(folder: Path, work_dir: Path) -> TableResponses:
    """Open responses.npy or responses.h5; both at once is ambiguous."""
    found = [folder / name for name in ("responses.npy", "responses.h5") if (folder / name).is_file()]
    if len(found) != 1:
        raise InputError(
            folder,
            expected="either responses.npy or responses.h5",
            found=" and ".join(p.name for p in found) or "neither",
        )
    return TableResponses(found[0], work_dir)


def read_trials(path: Path, n_responses: int) -> pd.DataFrame:
    """Read trials.tsv and fill in what is optional: session and run 1, repeat counted, onset unknown."""
    table = _read_table(path, ["stimulus_id"])
    if table["stimulus_id"].isna().any():
        row = int(np.flatnonzero(table["stimulus_id"].isna())[0])
        raise InputError(path, expected="a stimulus_id in every row", found=f"none in row {row + 1}")
    if len(table) != n_responses:
        raise InputError(path, expected=f"{n_responses} rows, one a response", found=f"{len(table)}")
    table["stimulus_id"] = table["stimulus_id"].astype(object)
    for column in ("session", "run", "repeat"):
        if column not in table.columns:
            counted = table.groupby("stimulus_id").cumcount() + 1
            table[column] = counted if column == "repeat" else 1
        else:
            table[column] = _whole_numbers(path, table[column])
    table["onset"] = pd.to_numeric(table["onset"], errors="coerce") if "onset" in table.columns else np.nan
    if "run_seconds" in table.columns:
        table["run_seconds"] = pd.to_numeric(table["run_seconds"], errors="coerce")
    first = ["stimulus_id", "session", "run", "repeat", "onset"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def _whole_numbers(path: Path, column: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce")
    bad = numbers.isna() | (numbers % 1 != 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            path,
            expected=f"whole numbers in column {column.name!r}",
            found=f"{column.iloc[row]!r} in row {row + 1}",
        )
    return numbers.astype(int)


def _open_stimuli(data_dir: Path, folder: Path, trials: pd.DataFrame) -> tuple[TableStimuli, pd.DataFrame]:
    images = _beside_or_above(data_dir, folder, "images")
    check_folder(images, "a folder of images")
    files: dict[str, Path] = {}
    if "image" in trials.columns:
        for stimulus_id, name in zip(trials["stimulus_id"], trials["image"], strict=True):
            path = images / str(name)
            if files.setdefault(stimulus_id, path) != path:
                raise InputError(
                    folder / "trials.tsv",
                    expected=f"one image for stimulus {stimulus_id!r}",
                    found=f"{files[stimulus_id].name} and {name}",
                )
            check_inside(data_dir, check_file(path, f"the image of stimulus {stimulus_id!r}"))
    else:
        for stimulus_id in dict.fromkeys(trials["stimulus_id"]):
            candidates = [images / f"{stimulus_id}{suffix}" for suffix in IMAGE_SUFFIXES]
            found = pick_image(stimulus_id, candidates)
            if found is None:
                raise InputError(
                    candidates[0],
                    expected=f"the image of stimulus {stimulus_id!r} (.png or .jpg)",
                    found="nothing there",
                )
            files[stimulus_id] = check_inside(data_dir, found)
    attributes = None
    if (path := _beside_or_above(data_dir, folder, "attributes.tsv")).is_file():
        table = _read_table(path, ["stimulus_id"])
        if table["stimulus_id"].duplicated().any():
            raise InputError(path, expected="each stimulus_id once", found="repeated ones")
        attributes = table.set_index("stimulus_id")
        numeric = {c: pd.to_numeric(attributes[c], errors="coerce") for c in attributes.columns}
        attributes = attributes.assign(
            **{c: v for c, v in numeric.items() if not v.isna().any() and c != "category"}
        )
    texts: dict[str, list[str]] = {}
    if (path := _beside_or_above(data_dir, folder, "captions.tsv")).is_file():
        texts = (
            _read_table(path, ["stimulus_id", "caption"])
            .groupby("stimulus_id")["caption"]
            .apply(list)
            .to_dict()
        )
    if "concept" not in trials.columns and attributes is not None and "concept" in attributes.columns:
        trials = trials.assign(concept=attributes["concept"].reindex(trials["stimulus_id"]).to_numpy())
    return TableStimuli(files, attributes, texts), trials


def _open_space(folder: Path, n_units: int) -> Space:
    rois: dict[str, NDArray[np.bool_]] = {}
    if (path := folder / "rois.tsv").is_file():
        table = _read_table(path, ["unit", "roi"])
        units = _whole_numbers(path, table["unit"])
        outside = units[(units < 0) | (units >= n_units)]
        if len(outside):
            raise InputError(path, expected=f"units from 0 to {n_units - 1}", found=str(outside.iloc[0]))
        for name, members in units.groupby(table["roi"]):
            rois[str(name)] = np.isin(np.arange(n_units), members)
    path = folder / "mask.nii.gz"
    if not path.is_file():
        return UnitSpace(n_units, rois)
    mask, affine = read_mask(path)
    if int(mask.sum()) != n_units:
        raise InputError(
            path,
            expected=f"a volume with {n_units} voxels above 0, one a unit",
            found=f"{mask.sum()} in shape {mask.shape}",
        )
    return VoxelSpace(mask, affine, rois)


def _warnings(trials: pd.DataFrame) -> list[str]:
    defaults = {"session": "one session", "run": "one run"}
    return [f"{text} for all trials" for column, text in defaults.items() if trials[column].nunique() == 1]


def _beside_or_above(data_dir: Path, folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else data_dir / name


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    check_file(path, f"a table with columns {', '.join(columns)}")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_values=["", "n/a"])
    except DAMAGED as error:
        raise InputError(path, expected="a tab-separated table", found=one_line(error)) from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            path,
            expected=f"a column {missing[0]!r}",
            found=f"columns {', '.join(map(str, table.columns))}",
            hint="columns are separated by tabs" if len(table.columns) == 1 else "",
        )
    return table


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except DAMAGED as error:
        raise InputError(path, expected="an image", found=one_line(error)) from error


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except DAMAGED as error:
        raise InputError(path, expected="a whole image", found=one_line(error)) from error


TABLE = TableDataset()

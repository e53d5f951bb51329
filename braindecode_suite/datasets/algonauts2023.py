"""`algonauts2023`: the Natural Scenes Dataset as packaged for the Algonauts 2023 challenge, on the surface, averaged by image.

Rows follow the sorted names of the image files; a unit is a vertex of the challenge space, left hemisphere first. Vertex counts differ
between subjects (6 and 8 lack some) and are always taken from the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import MESH_VERTICES, Space, SurfaceSpace, UnitSpace
from braindecode_suite.core.study import Noise, Study
from braindecode_suite.datasets.image_files import ImageFiles
from braindecode_suite.datasets.lab_files import DAMAGED, as_float32, check_inside, one_line
from braindecode_suite.datasets.mapped_rows import MappedCopy
from braindecode_suite.datasets.pickled_mapping import read_mapping

HEMISPHERES = ("lh", "rh")
IMAGES_AT_ONCE = 256
PARTS = {"train": "training", "test": "test"}
ROI_FILES = ("prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words", "streams")
IMAGE_NAME = re.compile(r"(train|test)-(\d{4,})_nsd-(\d{5,})\.png")
PACKED_FOLDER = "algonauts_2023_challenge_data"
TREE = """\
subj01/training_split/training_images/train-0001_nsd-00013.png     (or all of it below algonauts_2023_challenge_data/)
subj01/training_split/training_fmri/lh_training_fmri.npy           and rh: images x vertices, float32
subj01/test_split/test_images/test-0001_nsd-00845.png
subj01/test_split/test_fmri/lh_test_fmri.npy                       and rh: optional, withheld during the challenge
subj01/test_split/noise_ceiling/lh_noise_ceiling.npy               and rh: optional
subj01/roi_masks/mapping_prf-visualrois.npy                        and five others; read without unpickling
subj01/roi_masks/lh.prf-visualrois_challenge_space.npy             and rh, and five others
subj01/roi_masks/lh.all-vertices_fsaverage_space.npy               and rh: where the vertices lie
"""


class Algonauts2023Options(Config):
    """How a subject is read.

    Attributes
    ----------
    image_side : int, optional
        Resize the images to squares of this many pixels.
    """

    image_side: PositiveInt | None = None


class Algonauts2023:
    """Reads the challenge's folders (catalogue entry ``algonauts2023``)."""

    card = DatasetCard(
        name="algonauts2023",
        title="Algonauts 2023: the Natural Scenes Dataset on the surface, averaged by image",
        modality="fMRI",
        terms="The terms of the Natural Scenes Dataset: each user signs its agreement (naturalscenesdataset.org) and asks for the challenge's "
        "files at algonauts.csail.mit.edu; neither data nor images may be passed on.",
        size="8 subjects, 8,779 to 9,841 training and 159 to 395 test images, up to 39,548 vertices; 1.6 GB of responses a subject",
        tree=TREE,
        citation="Gifford et al. 2023, The Algonauts Project 2023 challenge, arXiv:2301.03198; Allen et al. 2022, Nature Neuroscience 25, 116-126, "
        "doi:10.1038/s41593-021-00962-x",
        protocols=("algonauts2023", "random-by-image"),
        workflow="mindeye",
        preset="tiny",
        source="Sign the agreement at naturalscenesdataset.org, then ask at algonauts.csail.mit.edu for the challenge's files.",
    )

    options_class: ClassVar[type[Config]] = Algonauts2023Options

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels (``01``...) of the ``subjXX`` folders with a training split."""
        folders = sorted(_root(data_dir).glob("subj*/training_split"))
        return [match[1] for path in folders if (match := re.fullmatch(r"subj(\d\d)", path.parent.name))]

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: file names, headers, masks and mappings are read, responses when asked for.

        Test rows are there only with test responses; the column ``published`` says which part a row is of.
        """
        chosen = build_options(Algonauts2023Options, options, self.card.name)
        folder = self._folder(data_dir, subject)
        parts = ["train", *(["test"] if _has_test(folder) else [])]
        files = {part: list_images(data_dir, folder, part) for part in parts}
        blocks = [_open_part(data_dir, folder, part, len(files[part])) for part in parts]
        responses = ChallengeRows(blocks, work_dir / "betas", f"algonauts2023_{folder.name}")
        ids = [stimulus_id for part in parts for stimulus_id in files[part]]
        repeated = pd.Series(ids)[pd.Series(ids).duplicated()]
        if len(repeated):
            raise InputError(
                folder, expected="each NSD image in one row", found=f"image {repeated.iloc[0]} in two files"
            )
        trials = pd.DataFrame({"stimulus_id": pd.Series(ids, dtype=object)})
        trials["session"] = trials["run"] = trials["repeat"] = 1
        trials["onset"] = np.nan
        trials["published"] = [part for part in parts for _ in files[part]]
        space, warnings = _open_space(data_dir, folder, responses.hemispheres)
        noise, more = _open_noise(data_dir, folder, responses.hemispheres)
        warnings = [
            "rows are averages of one to three trials, z-scored over whole sessions by the authors: sessions, runs and repeats are not in the files",
            *warnings,
            *more,
        ]
        if parts == ["train"]:
            warnings.append("the test responses are not there: only the training part can be used")
        return Study(
            dataset="algonauts2023",
            subject=folder.name.removeprefix("subj"),
            responses=responses,
            trials=trials,
            stimuli=ImageFiles(
                {i: path for part in files.values() for i, path in part.items()}, None, chosen.image_side
            ),
            space=space,
            unit="z-score within session, averaged by image",
            noise=noise,
            provenance={
                "folder": str(folder),
                "files": [path.name for block in responses.blocks for path in block.paths],
                "terms": self.card.terms,
                "normalised": "as-released: z-scored over whole sessions, test images included",
                "tuned_on_test": "b3 betas: denoising, ridge and haemodynamic response were tuned by cross-validation over repeats "
                "that include test images",
                "warnings": warnings,
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return, subject by subject, what images, responses, masks and mappings hold."""
        labels = self.subjects(check_folder(data_dir, "the folder of the challenge"))
        if not labels:
            return [FileCheck("subj01/training_split", "missing")]
        lines: list[FileCheck] = []
        for label in labels:
            folder = self._folder(data_dir, label)
            for part, name in PARTS.items():
                where = f"{folder.name}/{name}_split"
                if part == "test" and not _has_test(folder):
                    lines.append(
                        FileCheck(f"{where}/test_fmri", "optional-missing", "withheld during the challenge")
                    )
                    continue
                lines.append(_checked(where, lambda f=folder, p=part: _describe_part(data_dir, f, p)))
            lines.append(_checked(f"{folder.name}/roi_masks", lambda f=folder: _describe_space(data_dir, f)))
            ceiling = folder / "test_split" / "noise_ceiling"
            if ceiling.is_dir():
                where = f"{folder.name}/test_split/noise_ceiling"
                lines.append(_checked(where, lambda f=folder: _describe_noise(data_dir, f)))
        return lines

    def _folder(self, data_dir: Path, subject: str) -> Path:
        labels = self.subjects(check_folder(data_dir, "the folder of the challenge"))
        if not labels:
            raise InputError(
                data_dir, expected="folders subj01 to subj08 with a training_split", found="none"
            )
        text = re.sub(r"^(sub-|subj)", "", str(subject))
        label = f"{int(text):02d}" if text.isdecimal() else text
        check_option("subject", label, labels)
        return _root(data_dir) / f"subj{label}"


ALGONAUTS2023 = Algonauts2023()


class _Block:
    """Rows of one part: the two hemispheres' arrays, mapped."""

    def __init__(self, arrays: Sequence[np.ndarray], paths: Sequence[Path]) -> None:
        self.arrays, self.paths = tuple(arrays), tuple(paths)

    def __len__(self) -> int:
        return len(self.arrays[0])


def count_vertices(blocks: Sequence[_Block]) -> tuple[int, ...]:
    """Return the vertices of the left and of the right hemisphere, the same in all parts."""
    counts = [tuple(array.shape[1] for array in block.arrays) for block in blocks]
    for block, count in zip(blocks, counts, strict=True):
        if count != counts[0]:
            raise InputError(
                block.paths[0],
                expected=f"{counts[0][0]} and {counts[0][1]} vertices, as the training part",
                found=f"{count[0]} and {count[1]}",
            )
    return counts[0]


class ChallengeRows:
    """Rows of the training part and, where it is there, of the test part.

    The two hemispheres are copied once into one memory map, when the first row is asked for, so that a row is read in one piece.

    Attributes
    ----------
    shape : tuple of int
        (images, vertices of both hemispheres)
    hemispheres : tuple of int
        Vertices of the left and of the right hemisphere.
    """

    def __init__(self, blocks: Sequence[_Block], folder: Path, name: str) -> None:
        self.blocks, self.hemispheres = tuple(blocks), count_vertices(blocks)
        self.shape = (sum(map(len, blocks)), sum(self.hemispheres))
        self.dtype = np.dtype(np.float32)
        stamps = [
            [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
            for block in blocks
            for path in block.paths
        ]
        self._copy = MappedCopy(folder / f"{name}_{data_hash(stamps)}.npy", self.shape, self._write)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self._copy.mapped[rows])

    def prepare(self) -> ChallengeRows:
        """Make the map in one pass; NaN or infinity is an error that names file, image and vertex."""
        self._copy.prepare()
        return self

    def _write(self, out: np.ndarray) -> None:
        first = 0
        for block in self.blocks:
            for start in range(0, len(block), IMAGES_AT_ONCE):
                column = 0
                for array, path in zip(block.arrays, block.paths, strict=True):
                    values = as_float32(array[start : start + IMAGES_AT_ONCE])
                    _check(path, values, start)
                    rows = slice(first + start, first + start + len(values))
                    out[rows, column : column + values.shape[1]] = values
                    column += values.shape[1]
            first += len(block)


def _check(path: Path, values: np.ndarray, first: int) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row, vertex = np.argwhere(bad)[0]
        found = f"{int(bad.sum())} NaN or infinite values, the first of image {first + int(row) + 1}, vertex {int(vertex)}"
        raise InputError(path, expected="finite responses", found=found)


def list_images(data_dir: Path, folder: Path, part: str) -> dict[str, Path]:
    """Return the images of a part in the order of the responses: by NSD id as text, 0-based.

    Raises
    ------
    InputError
        If a name is not as in the challenge, a number is missing, or an NSD image occurs twice.
    """
    place = check_folder(
        folder / f"{PARTS[part]}_split" / f"{PARTS[part]}_images", "the images of the challenge"
    )
    found: dict[str, Path] = {}
    names = sorted(
        path.name for path in place.iterdir() if path.suffix == ".png" and not path.name.startswith(".")
    )
    for number, name in enumerate(names, 1):
        match = IMAGE_NAME.fullmatch(name)
        if match is None or match[1] != part:
            raise InputError(place / name, expected=f"a name like {part}-0001_nsd-00013.png", found=name)
        if int(match[2]) != number:
            raise InputError(
                place, expected=f"{part}-{number:04d}", found=name, hint="an image is missing or twice"
            )
        stimulus_id = str(int(match[3]))
        if stimulus_id in found:
            raise InputError(
                place / name, expected="each NSD image once", found=f"it is {found[stimulus_id].name} too"
            )
        found[stimulus_id] = check_inside(data_dir, place / name)
    if not found:
        raise InputError(place, expected=f"images {part}-0001_nsd-....png", found="none")
    return found


def _root(data_dir: Path) -> Path:
    packed = data_dir / PACKED_FOLDER
    return packed if packed.is_dir() else data_dir


def _has_test(folder: Path) -> bool:
    return any((folder / "test_split" / "test_fmri").glob("?h_test_fmri.npy"))


def _map(data_dir: Path, path: Path, what: str, dimensions: int) -> np.ndarray:
    """Map an array of numbers; nothing but its header is read."""
    if not path.is_file():
        raise InputError(path, expected=what, found="nothing there")
    try:
        array = np.load(check_inside(data_dir, path), mmap_mode="r", allow_pickle=False)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(path, expected=f"{what}, a whole file", found=one_line(error)) from error
    if array.ndim != dimensions or array.dtype.kind not in "fiub":
        raise InputError(
            path, expected=f"{what} of {dimensions} dimensions", found=f"{array.dtype}, {array.shape}"
        )
    return array


def _open_part(data_dir: Path, folder: Path, part: str, n_images: int) -> _Block:
    name = PARTS[part]
    paths = [folder / f"{name}_split" / f"{name}_fmri" / f"{side}_{name}_fmri.npy" for side in HEMISPHERES]
    arrays = [_map(data_dir, path, "responses, images by vertices", 2) for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        if len(array) != n_images:
            raise InputError(path, expected=f"{n_images} rows, one an image", found=str(len(array)))
    return _Block(arrays, paths)


def _open_space(data_dir: Path, folder: Path, counts: Sequence[int]) -> tuple[Space, list[str]]:
    """Read the regions of both hemispheres, by name; they may overlap and be empty."""
    n_units = sum(counts)
    rois: dict[str, np.ndarray] = {
        "lh": np.arange(n_units) < counts[0],
        "rh": np.arange(n_units) >= counts[0],
    }
    masks = folder / "roi_masks"
    warnings = []
    for name in ROI_FILES:
        mapping_path = masks / f"mapping_{name}.npy"
        if not mapping_path.is_file():
            warnings.append(f"regions {name} are not there")
            continue
        mapping = read_mapping(check_inside(data_dir, mapping_path))
        paths = [masks / f"{side}.{name}_challenge_space.npy" for side in HEMISPHERES]
        values = []
        for path, count in zip(paths, counts, strict=True):
            labels = np.asarray(_map(data_dir, path, "a region mask", 1))
            if len(labels) != count:
                raise InputError(path, expected=f"{count} vertices, as the responses", found=str(len(labels)))
            unknown = sorted(set(np.unique(labels).tolist()) - set(mapping) - {0})
            if unknown:
                raise InputError(path, expected=f"values named in {mapping_path.name}", found=str(unknown[0]))
            values.append(labels)
        joined = np.concatenate(values)
        rois.update({region: joined == value for value, region in sorted(mapping.items()) if value != 0})
    empty = [region for region, member in rois.items() if not member.any()]
    if empty:
        warnings.append(f"regions without a vertex in this subject: {', '.join(empty)}")
    paths = [masks / f"{side}.all-vertices_fsaverage_space.npy" for side in HEMISPHERES]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        warnings.append(
            f"{absent[0]} is not there: where the vertices lie is not known, no brain map can be drawn"
        )
        return UnitSpace(n_units, rois, "vertex"), warnings
    inside = []
    for path, count in zip(paths, counts, strict=True):
        member = np.asarray(_map(data_dir, path, "the challenge's vertices on fsaverage", 1)) > 0
        if len(member) != MESH_VERTICES["fsaverage"]:
            raise InputError(
                path, expected=f"{MESH_VERTICES['fsaverage']} vertices of fsaverage", found=str(len(member))
            )
        if int(member.sum()) != count:
            raise InputError(
                path, expected=f"{count} vertices, as the responses", found=str(int(member.sum()))
            )
        inside.append(member)
    return SurfaceSpace(inside[0], inside[1], rois, "fsaverage"), warnings


def _open_noise(data_dir: Path, folder: Path, counts: Sequence[int]) -> tuple[Noise | None, list[str]]:
    """Read the released noise ceiling of the test averages, as the signal-to-noise ratio of one released row."""
    paths = [folder / "test_split" / "noise_ceiling" / f"{side}_noise_ceiling.npy" for side in HEMISPHERES]
    if not all(path.is_file() for path in paths):
        return None, ["the noise ceiling is not there"]
    ceilings = []
    for path, count in zip(paths, counts, strict=True):
        ceiling = np.asarray(_map(data_dir, path, "a noise ceiling", 1), float)
        if len(ceiling) != count:
            raise InputError(path, expected=f"{count} vertices, as the responses", found=str(len(ceiling)))
        if not ((ceiling >= 0) & (ceiling <= 1)).all():
            raise InputError(
                path,
                expected="shares of variance from 0 to 1",
                found=f"{ceiling.min():g} to {ceiling.max():g}",
            )
        ceilings.append(np.minimum(ceiling, 1 - 1e-6))
    share = np.concatenate(ceilings)
    source = "the released noise ceiling of the test averages, as the ratio of one row: for one row an image it is the released ceiling"
    return Noise(np.sqrt(share / (1 - share)).astype(np.float32), source), []


def _describe_part(data_dir: Path, folder: Path, part: str) -> str:
    n_images = len(list_images(data_dir, folder, part))
    left, right = count_vertices([_open_part(data_dir, folder, part, n_images)])
    return f"{n_images} images, {left} + {right} vertices"


def _hemispheres(data_dir: Path, folder: Path) -> Sequence[int]:
    n_images = len(list_images(data_dir, folder, "train"))
    return count_vertices([_open_part(data_dir, folder, "train", n_images)])


def _describe_noise(data_dir: Path, folder: Path) -> str:
    noise, warnings = _open_noise(data_dir, folder, _hemispheres(data_dir, folder))
    return "; ".join(warnings) if noise is None else f"median signal to noise {np.median(noise.ncsnr):.2f}"


def _describe_space(data_dir: Path, folder: Path) -> str:
    counts = _hemispheres(data_dir, folder)
    space, warnings = _open_space(data_dir, folder, counts)
    return "; ".join([f"{len(space.rois) - 2} regions", *warnings])


def _checked(where: str, look: Any) -> FileCheck:
    try:
        return FileCheck(where, "ok", look())
    except InputError as error:
        return FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}")

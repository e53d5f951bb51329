"""Images of an experiment as files in a folder, by the stimulus ids of a release."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.files import data_hash, file_sha256
from braindecode_suite.core.protocols import FileCheck
from braindecode_suite.datasets.lab_files import DAMAGED, check_inside, one_line

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def find_images(root: Path, folder: Path, *, stems: bool = False) -> dict[str, Path]:
    """List the image files below a folder by their name.

    Parameters
    ----------
    root : Path
        The data folder; links must not lead out of it.
    folder : Path
        Searched with all folders in it.
    stems : bool
        Name without the suffix.

    Returns
    -------
    dict of str to Path

    Raises
    ------
    InputError
        If two files of one name hold different images, or a link leads out of `root`.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        check_inside(root, path)
        name = path.stem if stems else path.name
        first = found.setdefault(name, path)
        if first != path and file_sha256(first) != file_sha256(path):
            raise InputError(
                path,
                expected=f"one image named {name!r}",
                found=f"another one at {first.relative_to(folder)}",
            )
    return found


def pick_image(stimulus_id: str, candidates: Sequence[Path]) -> Path | None:
    """Return the first candidate that is there, or None; several that differ are an `InputError`."""
    there = [path for path in candidates if path.is_file()]
    for other in there[1:]:
        if file_sha256(other) != file_sha256(there[0]):
            raise InputError(
                other,
                expected=f"one image for stimulus {stimulus_id!r}",
                found=f"another one in {there[0].name}",
            )
    return there[0] if there else None


class ImageFiles:
    """Image files by stimulus id, read when asked for.

    Parameters
    ----------
    files : dict of str to Path
        One file a stimulus.
    attributes : DataFrame, optional
        Indexed by stimulus id.
    side : int, optional
        Resize every image to a square of this many pixels (Pillow, bicubic). Without it images are returned as they are,
        and images of different sizes cannot be asked for at once.

    Attributes
    ----------
    ids : sequence of str
    attributes : DataFrame or None
    fingerprint : str
        Hash of names, sizes and times of the files.
    """

    def __init__(
        self, files: Mapping[str, Path], attributes: pd.DataFrame | None = None, side: int | None = None
    ) -> None:
        self._files, self._side = dict(files), side
        self.ids: Sequence[str] = list(files)
        self.attributes = attributes
        stamps = []
        for stimulus_id, path in sorted(self._files.items()):
            status = path.stat()
            stamps.append([stimulus_id, path.name, status.st_size, status.st_mtime_ns])
        self.fingerprint = data_hash(stamps, [side])

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Return uint8 images of shape (len(ids), height, width, 3).

        Raises
        ------
        InputError
            For an unknown id, a file that is no whole image, or images of different sizes (see `side`).
        """
        unknown = [i for i in ids if i not in self._files]
        if unknown:
            raise UnknownName(
                "stimulus id", expected=f"one of {len(self.ids)} images", found=repr(unknown[0])
            )
        if not len(ids):
            return np.zeros((0, *self._read(self.ids[0]).shape), np.uint8)
        read = {i: self._read(i) for i in dict.fromkeys(ids)}
        first = next(iter(read))
        for i, image in read.items():
            if image.shape != read[first].shape:
                raise InputError(
                    self._files[i],
                    expected=f"{read[first].shape[1]} x {read[first].shape[0]} pixels, as {self._files[first].name}",
                    found=f"{image.shape[1]} x {image.shape[0]}",
                    hint="the dataset option image_side resizes all",
                )
        return np.stack([read[i] for i in ids])

    def captions(self, stimulus_id: str) -> list[str]:
        """Return no captions: there are only images."""
        return []

    def distractors(self, stimulus_id: str) -> np.ndarray | None:
        """Return None: there are no matched images."""
        return None

    def _read(self, stimulus_id: str) -> np.ndarray:
        path = self._files[stimulus_id]
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
                if self._side is not None:
                    picture = picture.resize((self._side, self._side), Image.Resampling.BICUBIC)
                return np.asarray(picture, np.uint8)
        except DAMAGED as error:
            raise InputError(path, expected="a whole image", found=one_line(error)) from error


def match_images(
    found: Mapping[str, Path],
    ids: Sequence[str],
    attributes: pd.DataFrame | None = None,
    side: int | None = None,
) -> tuple[ImageFiles | None, list[str]]:
    """Take the files of the stimuli shown; stimuli are None, with a warning, unless every one has its image.

    Returns
    -------
    stimuli : ImageFiles or None
    warnings : list of str
    """
    wanted = list(dict.fromkeys(ids))
    missing = [i for i in wanted if i not in found]
    if missing:
        what = f"{len(missing)} of {len(wanted)}" if len(missing) < len(wanted) else f"all {len(wanted)}"
        return None, [f"images of {what} stimuli are not there (e.g. {missing[0]}): the study has no stimuli"]
    return ImageFiles({i: found[i] for i in wanted}, attributes, side), []


def open_stimuli(
    data_dir: Path, trials: pd.DataFrame, stimuli: str = "", side: int | None = None
) -> tuple[ImageFiles | None, list[str]]:
    """Find the image of every stimulus id of a BIDS dataset: a path below ``stimuli``, with or without its suffix.

    Parameters
    ----------
    data_dir : Path
    trials : DataFrame
        Its column ``category``, if there is one, becomes an attribute of the images.
    stimuli : str
        Folder of the images, where it is not ``stimuli``.
    side : int, optional
        Resize every image to a square of this many pixels.

    Returns
    -------
    stimuli : ImageFiles or None
    warnings : list of str

    Raises
    ------
    InputError
        If the folder that was named is not there.
    """
    folder = data_dir / (stimuli or "stimuli")
    if stimuli and not folder.is_dir():
        raise InputError(folder, expected="the folder of the images (option stimuli)", found="nothing there")
    root = folder if stimuli else data_dir
    ids = list(dict.fromkeys(trials["stimulus_id"]))
    found: dict[str, Path] = {}
    for stimulus_id in ids:
        candidates = [folder / stimulus_id, *(folder / f"{stimulus_id}{suffix}" for suffix in IMAGE_SUFFIXES)]
        pictures = [path for path in candidates if path.suffix.lower() in IMAGE_SUFFIXES]
        if (path := pick_image(stimulus_id, pictures)) is not None:
            found[stimulus_id] = check_inside(root, path)
    attributes, warnings = None, []
    if "category" in trials.columns:
        known = trials.groupby("stimulus_id")["category"].unique()
        if known.map(len).max() == 1:
            attributes = pd.DataFrame({"category": known.map(lambda names: names[0]).loc[ids]})
            attributes.index.name = "stimulus_id"
        else:
            several = known.index[known.map(len) > 1][0]
            warnings.append(f"stimulus {several} has several categories: the column category is left out")
    images, missing = match_images(found, ids, attributes, side)
    return images, [*warnings, *missing]


def check_images(where: str, look: Callable[[], tuple[ImageFiles | None, list[str]]]) -> FileCheck:
    """Return the line of ``bds check`` about the images: how many there are, or that some are missing.

    Parameters
    ----------
    where : str
        The folder, as the card's tree has it.
    look : callable
        What finds the images (see `match_images`); an `InputError` of it is what the line says.
    """
    try:
        images, warnings = look()
    except InputError as error:
        return FileCheck(error.where, "bad", f"expected {error.expected}; found {error.found}")
    if images is None:
        return FileCheck(where, "optional-missing", warnings[0])
    return FileCheck(where, "ok", f"{len(images.ids)} images")

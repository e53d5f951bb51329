"""What was shown in THINGS-MEG: `sample_attributes_P*.csv`, or the same table as metadata of the released epochs, a row a trial."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_folder
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.image_files import ImageFiles, find_images, match_images
from braindecode_suite.datasets.lab_files import check_inside, read_numbers, read_table, read_whole_numbers
from braindecode_suite.datasets.things_meg_options import ThingsMegOptions

COLUMNS = ("trial_type", "image_path", "session_nr", "run_nr")
IMAGES = ("images_meg", "images_test_meg")
KINDS = {"exp": "train", "test": "test", "catch": ""}
"""Kinds of trials and the published part of each; catch trials show no image of THINGS and are no trials of a study."""
EXEMPLAR = re.compile(r"_\d+[a-z]*$")
LENGTHS = (0.45, 0.55)
"""Seconds that a picture may have been on."""


def concept_of(path: PurePosixPath) -> str:
    """Return the object concept of an image file: its folder's name, or its own without the exemplar.

    Examples
    --------
    >>> concept_of(PurePosixPath("images_meg/bat1/bat1_03s.jpg")), concept_of(PurePosixPath("images_test_meg/bat1_14n.jpg"))
    ('bat1', 'bat1')
    """
    folder = path.parent.name
    return EXEMPLAR.sub("", path.stem) if not folder or folder.startswith("images") else folder


def tidy_attributes(where: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Check the table of one subject and name every trial's image, concept and place in the recordings.

    Parameters
    ----------
    where : Path
        Named in errors.
    table : DataFrame of str
        As released: ``trial_type`` (exp, test or catch), ``image_path``, ``session_nr``, ``run_nr``; where there are any
        ``things_category_nr``, ``things_image_nr``, ``onset``, ``image_on`` and ``image_off``.

    Returns
    -------
    trials : DataFrame
        In the same order, catch trials too: ``stimulus_id`` (name of the image file without its suffix), ``session`` (two digits),
        ``run``, ``concept``, ``published`` (train, test, or empty for catch trials), ``duration`` (seconds, NaN where unknown),
        ``things_image_nr`` (NaN where unknown).
    warnings : list of str

    Raises
    ------
    InputError
        For a missing column, an unknown kind of trial, or a test image whose concept no other image has: names that do not
        match would let the concept train unseen by the split.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            where, expected=f"a column {missing[0]!r}", found=", ".join(map(str, table.columns)) or "none"
        )
    unknown = sorted(set(table["trial_type"]) - set(KINDS))
    if unknown or not len(table):
        raise InputError(
            where,
            expected=f"trial_type {', '.join(KINDS)}",
            found=repr(unknown[0]) if unknown else "no trials",
        )
    paths = [PurePosixPath(text.replace("\\", "/")) for text in table["image_path"]]
    sessions = read_whole_numbers(where, table, "session_nr")
    trials = pd.DataFrame(
        {
            "stimulus_id": [path.stem for path in paths],
            "session": [f"{number:02d}" for number in sessions],
            "run": read_whole_numbers(where, table, "run_nr"),
            "concept": [concept_of(path) for path in paths],
            "published": [KINDS[kind] for kind in table["trial_type"]],
        }
    )
    trials["duration"], warnings = _durations(where, table)
    trials["things_image_nr"] = (
        pd.to_numeric(table["things_image_nr"], errors="coerce").to_numpy(float)
        if "things_image_nr" in table.columns
        else np.nan
    )
    shown = {part: set(trials["concept"][trials["published"] == part]) for part in ("train", "test")}
    lone = sorted(shown["test"] - shown["train"])
    if lone:
        raise InputError(
            where,
            expected="the concept of every test image among those of the other images",
            found=f"{len(lone)} that are not, such as {lone[0]!r}",
            hint="without it no split can keep the test concepts out of training",
        )
    if "things_category_nr" in table.columns:
        pictures = trials.assign(number=table["things_category_nr"].to_numpy())[trials["published"] != ""]
        several = pictures.groupby("number")["concept"].nunique()
        if (several > 1).any():
            warnings.append(
                f"{where.name}: {int((several > 1).sum())} numbers of things_category_nr have several concepts by the image's name, "
                "which is what counts"
            )
    return trials, warnings


def read_trials(data_dir: Path, label: str) -> tuple[pd.DataFrame, list[str]]:
    """Read what was shown to a subject, from ``sourcedata`` (see `tidy_attributes`)."""
    path = check_inside(data_dir, data_dir / "sourcedata" / f"sample_attributes_{label}.csv")
    return tidy_attributes(path, read_table(path, [], separator=","))


def _durations(where: Path, table: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return how long each picture was on, and a warning of those that were not on for half a second."""
    if not {"image_on", "image_off"} <= set(table.columns):
        return np.full(len(table), np.nan), []
    seconds = read_numbers(where, table, "image_off") - read_numbers(where, table, "image_on")
    odd = (seconds < LENGTHS[0]) | (seconds > LENGTHS[1])
    text = f"{where.name}: {int(odd.sum())} of {len(odd)} pictures were not on for {LENGTHS[0]:g} to {LENGTHS[1]:g} s"
    return seconds, [text] * bool(odd.any())


def open_images(
    data_dir: Path, trials: pd.DataFrame, options: ThingsMegOptions
) -> tuple[ImageFiles | None, list[str]]:
    """Find the image of every stimulus by the name of its file."""
    folders = [Path(options.stimuli)] if options.stimuli else [data_dir / name for name in IMAGES]
    found: dict[str, Path] = {}
    for folder in folders:
        place = data_dir / folder
        if options.stimuli:
            check_folder(place, "the folder of the images (option stimuli)")
        if place.is_dir():
            found |= find_images(place if options.stimuli else data_dir, place, stems=True)
    shown = trials.drop_duplicates("stimulus_id").set_index("stimulus_id")
    return match_images(
        found, list(shown.index), pd.DataFrame({"category": shown["concept"]}), options.image_side
    )

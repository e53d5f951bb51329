"""Split protocols that belong to one public release each: BOLD5000, Generic Object Decoding, Algonauts 2023, THINGS-fMRI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import VectorsOf
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.protocols import (
    INTERLEAVED,
    VALIDATION_SHARE,
    _by_test_rows,
    _column,
    _draw,
    _isin,
    _split,
)


def bold5000_repeats(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on the images that were shown several times by design (113 in CSI1 to CSI3), train on those shown once.

    An image that any of the subjects saw again by design is a test image of all of them. The list comes from the events of
    the subjects asked for: CSI4, who did 9 of 15 sessions, saw fewer of them twice.
    """
    repeated = {i for s in studies for i in s.stimulus_ids[_column(s, "repeated").astype(bool)]}
    test = [_isin(study, repeated) for study in studies]
    return [_by_test_rows("bold5000-repeats", studies, test, [~rows for rows in test], seed)]


def god_test50(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Train on the 1,200 training images, test on the seen test images, whose categories are absent from training.

    Validation holds a tenth of the training categories, whole; imagery is in no part.
    """
    return [_by_kind("god-test50", studies, "test", seed)]


def god_imagery(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """From perception to imagery: train on the 1,200 training images seen, test on the categories imagined.

    Seen test images are in no part. An imagined category has no picture: its target is the test image of the category.
    """
    note = "an imagined category is scored against the test image of that category: no picture was before the eyes"
    return [_by_kind("god-imagery", studies, "imagery", seed, note)]


def _by_kind(name: str, studies: Sequence[Study], kind: str, seed: int, *notes: str) -> Split:
    """Hold out whole categories for validation; everything but train and validation is apart, sessions too."""
    kinds = [_column(study, "kind") for study in studies]
    concepts = [_column(study, "concept") for study in studies]
    test = [k == kind for k in kinds]
    if not any(rows.any() for rows in test):
        raise InputError(f"protocol {name!r}", expected=f"trials of kind {kind}", found="none")
    known = {c for k, names in zip(kinds, concepts, strict=True) for c in names[k == "training"]}
    held_out = list(_draw(known, VALIDATION_SHARE, seed, "validation"))
    validation = [(k == "training") & np.isin(c, held_out) for k, c in zip(kinds, concepts, strict=True)]
    train = [(k == "training") & ~v for k, v in zip(kinds, validation, strict=True)]
    disjoint = frozenset({"stimulus", "concept", "session", "run"})
    return _split(name, studies, train, validation, test, disjoint, notes=notes)


def algonauts2023(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """The challenge's own training and test images; the test responses must be there.

    A tenth of the training images is drawn for validation. Test images come from each subject's last three sessions.
    """
    parts = [_column(study, "published") for study in studies]
    test = [part == "test" for part in parts]
    if not all(rows.any() for rows in test):
        raise InputError(
            "protocol 'algonauts2023'",
            expected="the test responses (test_split/test_fmri)",
            found="only the training part",
            hint="the protocol random-by-image splits the training part",
        )
    notes = (
        "as-released: z-scored by the authors over whole sessions before anything was split",
        "the split is over time: test images are from each subject's last three sessions",
    )
    return [
        _by_test_rows(
            "algonauts2023", studies, test, [~rows for rows in test], seed, notes, interleaved=False
        )
    ]


def things_fmri_zero_shot(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on the repeated test images; other images of their concepts are in no part, so that no concept is known.

    Validation holds a tenth of the training concepts, whole.
    """
    published = [_column(study, "published") for study in studies]
    concepts = [_column(study, "concept") for study in studies]
    test = [part == "test" for part in published]
    unseen = {c for t, names in zip(test, concepts, strict=True) for c in names[t]}
    if not unseen:
        raise InputError("protocol 'things-fmri-zero-shot'", expected="test trials", found="none")
    held_out = _draw({c for names in concepts for c in names} - unseen, VALIDATION_SHARE, seed, "validation")
    left_out = sum(int((~t & np.isin(c, list(unseen))).sum()) for t, c in zip(test, concepts, strict=True))
    validation = [np.isin(names, list(held_out)) for names in concepts]
    train = [~t & ~v & ~np.isin(c, list(unseen)) for t, v, c in zip(test, validation, concepts, strict=True)]
    notes = (f"{left_out} training trials of the test images' concepts are in no part", INTERLEAVED)
    disjoint = frozenset({"stimulus", "concept"})
    return [_split("things-fmri-zero-shot", studies, train, validation, test, disjoint, notes=notes)]


def things_fmri_original(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """The published training and test images: the concepts of the test images train too, with other photographs."""
    test = [_column(study, "published") == "test" for study in studies]
    notes = ("the test images' concepts train with other photographs: not zero-shot",)
    return [_by_test_rows("things-fmri-original", studies, test, [~rows for rows in test], seed, notes)]

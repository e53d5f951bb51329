"""Split protocols of THINGS-MEG: without and with the test images' concepts in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import VectorsOf
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.protocols import (
    BY_IMAGE,
    INTERLEAVED,
    Bools,
    _column,
    _draw,
    _ids,
    _isin,
    _split,
)

VALIDATION_SHARE = 0.2
"""Of the training images, as Benchetrit et al. (2023) hold out; theirs are trials, ours are whole images."""


def things_meg_zero_shot(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Train on concepts that no test image shows; test on the repeated test images (``small``), then on the other images of theirs (``large``).

    Both splits train and validate on the same rows. Validation holds a fifth of the training images, whole: an image that several
    people saw is in one part for all of them. Needs the columns `published` (train or test) and `concept`.
    """
    test, concepts = _published(studies, "things-meg-zero-shot")
    held = sorted({c for t, names in zip(test, concepts, strict=True) for c in names[t]})
    of_test = [np.isin(names, held) for names in concepts]
    large = [known & ~t for known, t in zip(of_test, test, strict=True)]
    train, validation = _train_and_validate(studies, [~known for known in of_test], seed)
    disjoint = frozenset({"stimulus", "concept"})
    splits = []
    for label, rows, other in (("small", test, large), ("large", large, test)):
        if not any(some.any() for some in rows):
            continue  # a release without the other images of the test concepts
        notes = (
            f"{sum(int(some.sum()) for some in other)} trials of the other test set are in no part",
            INTERLEAVED,
        )
        splits.append(
            _split(
                "things-meg-zero-shot",
                studies,
                train,
                validation,
                rows,
                disjoint,
                label=label,
                notes=notes,
            )
        )
    return splits


def things_meg_original(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """The published training and test images: every concept of a test image trains too, with other photographs."""
    test, concepts = _published(studies, "things-meg-original")
    known = {c for t, names in zip(test, concepts, strict=True) for c in names[~t]}
    shown = {c for t, names in zip(test, concepts, strict=True) for c in names[t]}
    train, validation = _train_and_validate(studies, [~t for t in test], seed)
    notes = (
        f"{len(shown & known)} of {len(shown)} concepts of the test images train with other photographs: not zero-shot, a decoder "
        "that only tells categories does well",
        INTERLEAVED,
    )
    return [_split("things-meg-original", studies, train, validation, test, BY_IMAGE, notes=notes)]


def _published(studies: Sequence[Study], name: str) -> tuple[list[Bools], list[np.ndarray]]:
    test = [_column(study, "published") == "test" for study in studies]
    if not all(rows.any() for rows in test):
        raise InputError(f"protocol {name!r}", expected="test trials of every subject", found="none of some")
    return test, [_column(study, "concept").astype(str) for study in studies]


def _train_and_validate(
    studies: Sequence[Study], rest: Sequence[Bools], seed: int
) -> tuple[list[Bools], list[Bools]]:
    held_out = _draw(_ids(studies, rest), VALIDATION_SHARE, seed, "validation")
    chosen = [_isin(study, held_out) for study in studies]
    train = [r & ~c for r, c in zip(rest, chosen, strict=True)]
    validation = [r & c for r, c in zip(rest, chosen, strict=True)]
    return train, validation

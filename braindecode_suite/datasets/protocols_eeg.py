"""Split protocols of public EEG releases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import VectorsOf
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.protocols import VALIDATION_SHARE, _column, _draw, _split


def things_eeg2_200way(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Train on the 1,654 training concepts, test on the 200 test images, whose concepts are absent from training.

    Validation holds a tenth of the training concepts, whole.
    """
    test = [_column(study, "published") == "test" for study in studies]
    concepts = [_column(study, "concept") for study in studies]
    if not all(rows.any() for rows in test):
        raise InputError("protocol 'things-eeg2-200way'", expected="test trials", found="none")
    known = {c for rows, names in zip(test, concepts, strict=True) for c in names[~rows]}
    held_out = list(_draw(known, VALIDATION_SHARE, seed, "validation"))
    validation = [~t & np.isin(c, held_out) for t, c in zip(test, concepts, strict=True)]
    train = [~t & ~v for t, v in zip(test, validation, strict=True)]
    disjoint = frozenset({"stimulus", "concept"})
    return [_split("things-eeg2-200way", studies, train, validation, test, disjoint)]

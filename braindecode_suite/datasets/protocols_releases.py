"""Split protocols that belong to one public release each: BOLD5000, Generic Object Decoding, Algonauts 2023, THINGS-fMRI."""

from __future__ import annotations

from collections.abc import Sequence

from braindecode_suite.core.protocols import VectorsOf
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.protocols import _by_test_rows, _column, _isin


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

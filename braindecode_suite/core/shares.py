"""A share of the training images, as rows of a split: what a smaller study of the same person would have.

Unlike the first minutes of a recording (`core.minutes`) a share is spread over all runs and sessions, so that only the amount differs. Images
are taken whole, with all their repeats and for all people who saw them. Smaller shares are part of larger ones; validation and test rows stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from braindecode_suite.core.errors import InputError, about
from braindecode_suite.core.split import Split


@dataclass(frozen=True, kw_only=True)
class Portion:
    """A split whose training rows are a share of the images.

    Attributes
    ----------
    share : float
        Asked for, from 0 to 1.
    split : Split
    """

    share: float
    split: Split

    @property
    def trials(self) -> int:
        """Number of training rows, over all people."""
        return sum(map(len, self.split.train))

    @property
    def images(self) -> int:
        """Number of different training images."""
        return len(self.split.keys("train", "stimulus"))


def portions(split: Split, shares: Sequence[float], *, seed: int) -> list[Portion]:
    """Return the split restricted to each share of its training images, ascending, drawn once with the seed.

    Parameters
    ----------
    split : Split
    shares : sequence of float
        Above 0, up to 1; 1 is the split as it is.
    seed : int

    Raises
    ------
    InputError
        If a share is out of range, or two are the same images.
    """
    ids = np.array(sorted(split.keys("train", "stimulus")), dtype=object)
    ids = ids[np.random.default_rng([seed, 19]).permutation(len(ids))]
    found: list[Portion] = []
    for share in sorted(shares):
        if not 0 < share <= 1:
            raise InputError("`shares`", expected="shares above 0, up to 1", found=f"{share:g}")
        portion = Portion(share=share, split=_restricted(split, ids, share))
        if found and found[-1].images == portion.images:
            raise InputError(
                "`shares`",
                expected="shares that differ by whole images",
                found=f"{found[-1].share:g} and {share:g}, both {portion.images} of {len(ids)}",
            )
        found.append(portion)
    return found


def _restricted(split: Split, ids: np.ndarray, share: float) -> Split:
    count = max(1, round(share * len(ids)))
    if count == len(ids):
        return split
    chosen = set(ids[:count])
    train = tuple(
        rows[np.array([i in chosen for i in study.stimulus_ids[rows]], bool)]
        for study, rows in zip(split.studies, split.train, strict=True)
    )
    label = "_".join(part for part in (split.label, f"images-{count}") if part)
    note = f"training rows are those of {count} of {len(ids)} training images, drawn at random"
    return replace(split, train=train, label=label, notes=(*split.notes, note))


def naming_share(share: float) -> AbstractContextManager[None]:
    """Say in the errors of a block which share of the training images they are about."""
    return about(f"share {share:g} of the training images", hint="give a larger share")

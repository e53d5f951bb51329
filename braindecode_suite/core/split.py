"""`Split`: training, validation and test rows of a named protocol, with proof of what it keeps apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError, LeakageError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.study import Cohort, Study

DISJOINT = ("stimulus", "run", "session", "concept", "subject")
PARTS = ("train", "validation", "test")
MINIMUM_TRAINING_IMAGES = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Rows of every study for training, validation and test.

    Made by a protocol; construction proves that what the protocol declares disjoint is disjoint, across subjects too.

    Attributes
    ----------
    protocol : str
    studies : tuple of Study
    train, validation, test : tuple of int arrays
        Rows of each study, ascending.
    disjoint : frozenset of {'stimulus', 'run', 'session', 'concept', 'subject'}
    label : str
        Which of several (``fold-3``, ``repeat-1_fold-3``), empty for a single split.
    notes : tuple of str
        What the protocol breaks or what users must know, for the leakage card.
    minutes : float or None
        Recording that training and validation rows are restricted to (`core.minutes`); None for all of it.

    Raises
    ------
    LeakageError
        If a declared property does not hold, naming what is shared.
    """

    protocol: str
    studies: tuple[Study, ...]
    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    disjoint: frozenset[str]
    label: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)
    minutes: float | None = None

    def __post_init__(self) -> None:
        unknown = self.disjoint - set(DISJOINT)
        if unknown:
            raise InputError(
                "`disjoint`", expected=f"a subset of {', '.join(DISJOINT)}", found=", ".join(sorted(unknown))
            )
        for part in PARTS:
            for study, rows in zip(self.studies, getattr(self, part), strict=True):
                if len(rows) and (rows.min() < 0 or rows.max() >= len(study.trials)):
                    raise InputError(
                        f"`{part}`", expected=f"rows below {len(study.trials)}", found=str(rows.max())
                    )
        self._prove()

    def cohort(self, part: str, studies: Sequence[Study] | None = None) -> Cohort:
        """Return the rows of one part as a cohort (of `studies`, if they have been prepared since)."""
        if part not in PARTS:
            raise InputError("`part`", expected=f"one of {', '.join(PARTS)}", found=repr(part))
        return Cohort(tuple(self.studies if studies is None else studies), getattr(self, part))

    @property
    def rows(self) -> tuple[np.ndarray, ...]:
        """Rows of each study that are in any part, ascending."""
        parts = zip(self.train, self.validation, self.test, strict=True)
        return tuple(np.unique(np.concatenate(some)).astype(np.int64) for some in parts)

    def keys(self, part: str, kind: str) -> set[Any]:
        """Return which stimuli (or runs, sessions, concepts, subjects) occur in a part, over all subjects."""
        found: set[Any] = set()
        for study, rows in zip(self.studies, getattr(self, part), strict=True):
            if len(rows) == 0:
                continue
            trials = study.trials.iloc[rows]
            if kind == "stimulus":
                found |= set(trials["stimulus_id"])
            elif kind == "concept":
                if "concept" not in trials.columns:
                    raise InputError(
                        "`trials`", expected="a column 'concept'", found=", ".join(map(str, trials.columns))
                    )
                found |= set(trials["concept"])
            elif kind == "subject":
                found.add(study.subject)
            elif kind == "session":
                found |= {(study.subject, session) for session in trials["session"]}
            else:
                found |= set(
                    zip([study.subject] * len(trials), trials["session"], trials["run"], strict=True)
                )
        return found

    def shared(self, kind: str) -> dict[str, int]:
        """Count what pairs of parts share of a kind: ``{'train/test': 0, ...}``."""
        parts = {part: self.keys(part, kind) for part in PARTS}
        pairs = [("train", "test"), ("validation", "test"), ("train", "validation")]
        return {f"{a}/{b}": len(parts[a] & parts[b]) for a, b in pairs}

    def _prove(self) -> None:
        for study, a, b, c in zip(self.studies, self.train, self.validation, self.test, strict=True):
            rows = np.concatenate([a, b, c])
            if len(np.unique(rows)) != len(rows):
                raise LeakageError(
                    f"protocol {self.protocol!r}: subject {study.subject} has rows in two parts"
                )
        for kind in sorted(self.disjoint):
            for pair, count in self.shared(kind).items():
                if count and (kind == "stimulus" or pair != "train/validation"):
                    raise LeakageError(
                        f"protocol {self.protocol!r} declares {kind} disjoint; {pair} share {count}"
                    )

    def check_training_size(self, minimum: int = MINIMUM_TRAINING_IMAGES) -> None:
        """Raise `InputError` if fewer than `minimum` different images are left for training."""
        count = len(self.keys("train", "stimulus"))
        if count < minimum:
            raise InputError(
                f"protocol {self.protocol!r}",
                expected=f"at least {minimum} training images",
                found=str(count),
            )

    @property
    def hash(self) -> str:
        """Hash over protocol, subjects and the stimulus ids and rows of every part."""
        parts: list[Any] = [self.protocol, self.label, [study.subject for study in self.studies]]
        for part in PARTS:
            for study, rows in zip(self.studies, getattr(self, part), strict=True):
                parts += [np.asarray(rows, np.int64), list(study.stimulus_ids[rows])]
        return data_hash(*parts)

    def card(self) -> dict[str, Any]:
        """Return the leakage card: sizes, what is proved disjoint, what is shared, notes."""
        kinds = ["stimulus", "session", "run"]
        if all("concept" in study.trials.columns for study in self.studies):
            kinds.append("concept")
        return {
            "protocol": self.protocol,
            "label": self.label,
            "hash": self.hash,
            "trials": {part: sum(map(len, getattr(self, part))) for part in PARTS},
            "images": {part: len(self.keys(part, "stimulus")) for part in PARTS},
            "disjoint": sorted(self.disjoint),
            "shared": {kind: self.shared(kind) for kind in kinds},
            "notes": list(self.notes),
            **({} if self.minutes is None else {"minutes": self.minutes}),
        }

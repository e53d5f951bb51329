"""`Target`: a named latent space of stimuli. `Latents`: points in it, predicted or true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.study import Stimuli

Kind = Literal["predicted", "true"]
ROLES = ("retrieval", "image", "text", "init")


@runtime_checkable
class Target(Protocol):
    """A latent space with a name that holds model, weights tag, layer and library version.

    `embed` keeps one row per unique stimulus in a cache on disk; `embed_images` computes without a cache.
    """

    name: str
    tokens: int
    width: int

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents: ...

    def embed_images(self, images: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Latents:
    """Points of a latent space, one row a trial or a stimulus.

    Attributes
    ----------
    values : array of float32 of shape (rows, tokens, width)
    ids : object array of str of shape (rows,)
        Stimulus id of each row; may repeat.
    target : str
        Name of the `Target`.
    kind : {'predicted', 'true'}
    """

    values: np.ndarray
    ids: np.ndarray
    target: str
    kind: Kind

    def __post_init__(self) -> None:
        check_shape("values", self.values, "rows tokens width", rows=len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def flat(self) -> np.ndarray:
        """Values with the tokens side by side, of shape (rows, tokens * width)."""
        return np.asarray(self.values).reshape(len(self), -1)

    def select(self, ids: Sequence[str] | np.ndarray) -> Latents:
        """Return one row for each of `ids` (the first that has it), in their order."""
        first: dict[str, int] = {}
        for row, stimulus_id in enumerate(self.ids):
            first.setdefault(stimulus_id, row)
        missing = [i for i in ids if i not in first]
        if missing:
            raise InputError(
                "`ids`", expected="ids among the latents", found=f"{len(missing)} others, e.g. {missing[0]!r}"
            )
        rows = np.array([first[i] for i in ids], int)
        return Latents(np.asarray(self.values)[rows], np.asarray(ids, dtype=object), self.target, self.kind)

    def mean_by_stimulus(self) -> Latents:
        """Average the rows of each stimulus (level ``mean-prediction``); order of first appearance."""
        order = list(dict.fromkeys(self.ids))
        position = {stimulus_id: k for k, stimulus_id in enumerate(order)}
        index = np.array([position[i] for i in self.ids], int)
        sums = np.zeros((len(order), *self.values.shape[1:]), np.float64)
        np.add.at(sums, index, self.values)
        counts = np.bincount(index, minlength=len(order)).reshape(-1, 1, 1)
        return Latents(
            (sums / counts).astype(np.float32), np.array(order, dtype=object), self.target, self.kind
        )


def check_same_target(*latents: Latents) -> None:
    """Raise unless all latents lie in one target space."""
    names = list(dict.fromkeys(latent.target for latent in latents))
    if len(names) > 1:
        raise InputError("`latents`", expected=f"one target space, {names[0]!r}", found=f"also {names[1]!r}")

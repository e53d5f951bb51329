"""Retrieval: rank a gallery of true latents by their similarity to a predicted one."""

from __future__ import annotations

import numpy as np

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents, check_same_target
from braindecode_suite.core.protocols import Ranking
from braindecode_suite.metrics.retrieval import SIMILARITIES, TrainingReference, similarity


class CosineRetriever:
    """Rank by cosine: raw, centred on training means, or corrected for hubs (CSLS).

    Parameters
    ----------
    kind : {'cosine', 'cosine-centred', 'csls'}
        ``cosine-centred`` subtracts the mean prediction from queries and the mean true latent from the gallery, both of
        training rows; ``csls`` corrects for hubs measured on validation images only.

    Attributes
    ----------
    target : str
        The target whose latents `fit` saw, empty before.

    Examples
    --------
    >>> ids = np.array(["a", "b"], dtype=object)
    >>> true = Latents(np.eye(2, dtype=np.float32)[:, None], ids, "space", "true")
    >>> seen = Latents(true.values[::-1], ids, "space", "predicted")
    >>> CosineRetriever("cosine").fit(seen, true).rank(seen, true).ids[:, 0].tolist()
    ['b', 'a']
    """

    def __init__(self, kind: str = "cosine-centred") -> None:
        check_option("kind", kind, SIMILARITIES)
        self.kind, self.target = kind, ""
        self._reference: TrainingReference | None = None

    def fit(self, predicted: Latents, true: Latents) -> CosineRetriever:
        """Keep what the similarity needs to know: means of training rows, or for ``csls`` hubs of validation rows.

        Parameters
        ----------
        predicted : Latents
            Predictions for training rows; for ``csls`` for validation rows, which the encoder was not fitted on.
        true : Latents
            True latents of the same part's images; rows need not match those of `predicted`.
        """
        check_same_target(true, predicted)
        _check_kinds(predicted, true)
        self.target = true.target
        self._reference = TrainingReference(predicted=predicted.flat, true=true.flat)
        return self

    def similarity(self, queries: Latents, gallery: Latents) -> np.ndarray:
        """Return similarities of shape (queries, gallery), larger is closer."""
        check_same_target(queries, gallery)
        if self._reference is not None and queries.target != self.target:
            raise InputError("`queries`", expected=f"latents of {self.target!r}", found=repr(queries.target))
        if self._reference is None and self.kind != "cosine":
            raise InputError(
                f"retriever {self.kind!r}",
                expected="fit() on training rows first",
                found="an unfitted retriever",
            )
        return similarity(queries.flat, gallery.flat, self.kind, self._reference)

    def rank(self, queries: Latents, gallery: Latents) -> Ranking:
        """Return the gallery's ids for each query, best first; equals keep the gallery's order."""
        scores = self.similarity(queries, gallery)
        order = np.argsort(-scores, axis=1, kind="stable")
        return Ranking(queries.ids, gallery.ids[order], np.take_along_axis(scores, order, axis=1))


def _check_kinds(predicted: Latents, true: Latents) -> None:
    if predicted.kind != "predicted" or true.kind != "true":
        raise InputError(
            "`fit`",
            expected="predicted latents, then true ones",
            found=f"{predicted.kind} latents, then {true.kind} ones",
        )

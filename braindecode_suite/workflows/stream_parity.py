"""The stream against the offline causal pipeline: the same epochs, windows, scores and ranked lists?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import BrainEncoder
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred
from braindecode_suite.workflows.stream_bundle import StreamBundle, predict_window
from braindecode_suite.workflows.stream_engine import Answer

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far stream and offline pipeline are apart.

    Attributes
    ----------
    parity_max_abs : float
        Largest difference of a score, over all trials, windows and candidates.
    lists_equal : bool
        Whether every ranked list is the same, candidates apart whose scores differ by less than twice `parity_max_abs`.
    n_trials, n_answers : int
        Compared.
    """

    parity_max_abs: float
    lists_equal: bool
    n_trials: int
    n_answers: int

    @property
    def holds(self) -> bool:
        """Whether all lists are the same and no score differs by more than 1e-4."""
        return self.lists_equal and self.parity_max_abs <= TOLERANCE


def offline_scores(
    bundle: StreamBundle, encoder: BrainEncoder, study: Study, rows: np.ndarray, windows: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return for each window the scores of shape (rows, gallery) of the offline pipeline.

    Epochs are cut from runs that were filtered as a whole, and predicted together.

    Parameters
    ----------
    bundle : StreamBundle
    encoder : BrainEncoder
    study : Study
        Read through the recipe of the bundle.
    rows : array of int
    windows : sequence of int
        Numbers within ``bundle.windows``.
    """
    cohort = Cohort.of(study, rows)
    scores = {}
    for window in windows:
        n_samples = int(bundle.windows[window])
        predicted = predict_window(encoder, cohort, bundle.role, n_samples, bundle.space.times)
        reference = TrainingReference(
            predicted=bundle.predicted_mean[window][None], true=bundle.true_mean[None]
        )
        scores[window] = cosine_centred(predicted.flat, bundle.gallery.flat, reference)
    return scores


def compare(
    bundle: StreamBundle,
    encoder: BrainEncoder,
    study: Study,
    rows: np.ndarray,
    answers: Sequence[Answer],
    trials: Sequence[int],
) -> Parity:
    """Compare the answers of a stream with the offline pipeline.

    Parameters
    ----------
    bundle, encoder
        Both used.
    study : Study
    rows : array of int of shape (trials,)
        Row of the study of each of `trials`.
    answers : sequence of Answer
    trials : sequence of int
        Numbers of the stream's trials; answers of others are left out.
    """
    place = {number: k for k, number in enumerate(trials)}
    used = [answer for answer in answers if answer.trial in place]
    if not used:
        raise InputError("parity", expected="answers of trials that the study holds", found="none")
    windows = sorted({answer.window for answer in used})
    offline = offline_scores(bundle, encoder, study, np.asarray(rows), windows)
    worst = max(
        float(np.abs(answer.scores - offline[answer.window][place[answer.trial]]).max()) for answer in used
    )
    equal = True
    for answer in used:
        score = offline[answer.window][place[answer.trial]]
        order = np.argsort(-score, kind="stable")[: len(answer.ranked)]
        equal &= bool((np.abs(score[order] - score[answer.ranked]) <= 2 * worst).all())
    return Parity(worst, equal, len({answer.trial for answer in used}), len(used))

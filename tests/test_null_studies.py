"""In simulated studies whose images change nothing, the whole course from samples to clusters finds nothing."""

import numpy as np
import pytest

from braindecode_suite.core.windows import sliding_windows, window_matrix
from braindecode_suite.datasets.simulate_meg_parameters import MEGParameters, MEGSimulationOptions
from braindecode_suite.datasets.simulate_meg_subject import cut_epochs, make_subject, record_again
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.ridge import ridge_cv
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred
from braindecode_suite.metrics.time_clusters import cluster_test

RECORDINGS, LATENTS_EACH = 40, 5


def scaled(epochs):
    """Subtract each sensor's median and divide by its median deviation."""
    around = epochs - np.median(epochs, axis=(0, 2), keepdims=True)
    return around / np.median(np.abs(around), axis=(0, 2), keepdims=True)


def decode(epochs, times, images, train, test, latents):
    """Yield the similarity of the mean predictions of the test images by a ridge on each window."""
    shown, column = np.unique(images[test], return_inverse=True)
    folds = group_folds(np.unique(images[train], return_inverse=True)[1], 5)
    for window in sliding_windows(times, width=0.1, stride=0.1):
        X = window_matrix(epochs, window)
        fit = ridge_cv(X[train], latents[images[train]], folds=folds)
        predicted = fit.predict(X[test])
        means = np.stack([predicted[column == k].mean(axis=0) for k in range(len(shown))])
        reference = TrainingReference(predicted=fit.predict(X[train]), true=latents[images[train]])
        yield cosine_centred(means, latents[shown], reference)


@pytest.mark.slow
def test_at_most_eight_in_a_hundred_simulated_null_studies_show_an_effect():
    person = make_subject(MEGParameters(options=MEGSimulationOptions(size="small", null=True)), 1)
    rng, found = np.random.default_rng(0), []
    for recording in range(RECORDINGS):
        made = cut_epochs(record_again(person, recording))
        epochs, times = scaled(made.data[:, :, ::2]), made.times[::2]
        images = made.trials["image"].to_numpy()
        train, test = (np.flatnonzero(made.trials["subset"] == part) for part in ("train", "test"))
        for k in range(LATENTS_EACH):  # the image changes nothing, so that other latents make another study
            latents = rng.standard_normal((images.max() + 1, 16)).astype(np.float32)
            similarity = decode(epochs, times, images, train, test, latents)
            options = {"k": 5} if k % 2 else {"score": "relative-rank"}
            found.append(cluster_test(similarity, seed=recording, **options).p_value <= 0.05)
    assert np.mean(found) <= 0.08

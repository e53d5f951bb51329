"""What the report of a classical decoding says in words: methods, where chance comes from, notes, citations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.metrics.permutation import PermutationTest

NOTES = [
    "Validation rows of the protocol belong to the training part here: choices are made by cross-validation inside it.",
    "One subject: the interval says how the accuracy varies over runs of this person, not over people.",
]
CITATIONS = [
    {
        "text": "Ledoit, Wolf 2004. A well-conditioned estimator for large-dimensional covariance matrices. J. Multivariate "
        "Analysis 88",
        "url": "https://doi.org/10.1016/S0047-259X(03)00096-4",
    },
    {
        "text": "Phipson and Smyth 2010. Permutation p-values should never be zero. Stat. Appl. Genet. Mol. Biol. 9",
        "url": "https://doi.org/10.2202/1544-6115.1585",
    },
    {
        "text": "Haufe et al. 2014. On the interpretation of weight vectors of linear models in multivariate neuroimaging. "
        "NeuroImage 87",
        "url": "https://doi.org/10.1016/j.neuroimage.2013.10.067",
    },
]
SEARCHLIGHT_CITATIONS = [
    {
        "text": "Kriegeskorte, Goebel, Bandettini 2006. Information-based functional brain mapping. PNAS 103",
        "url": "https://doi.org/10.1073/pnas.0600244103",
    },
    {
        "text": "Nichols and Holmes 2002. Nonparametric permutation tests for functional neuroimaging. Human Brain Mapping 15",
        "url": "https://doi.org/10.1002/hbm.1058",
    },
]


def chance_words(
    test: PermutationTest,
    counts: Sequence[int],
    recurring: float,
    new_images: tuple[float, PermutationTest] | str,
    what: str,
) -> list[str]:
    """Say where the chance level comes from and why it is not one over the number of classes.

    Parameters
    ----------
    test : PermutationTest
        Of the headline.
    counts : sequence of int
        Tested examples of each class.
    recurring : float
        Share of test examples whose image is in the training part too.
    new_images : (float, PermutationTest) or str
        Accuracy and test where the images of the held-out part are left out of training; or why there are none.
    what : str
        ``run`` or ``session``.
    """
    even = 1 / len(counts)
    words = [
        f"Chance is the mean of {len(test.null):,} refits on relabelled examples, {test.chance:.3f}; equal guesses among "
        f"{len(counts)} classes would be right in {even:.3f}."
    ]
    if len(set(counts)) > 1:
        words.append(
            f"The classes are not equally frequent ({min(counts)} to {max(counts)} test examples): see the balanced accuracy."
        )
    if recurring:
        words.append(
            f"{100 * recurring:.0f} % of the test examples show an image that the training part shows too. Relabelling moves whole "
            "images, all their trials together, so a classifier that merely recognises an image gives it its exchanged label "
            "again: that much is in the chance level, and may be in the accuracy too. It says how well these images are told "
            "apart by class, not that the class of a new image can be read."
        )
    if isinstance(new_images, str):
        words += [f"New images could not be tested: {new_images}."] if new_images else []
    else:
        value, new = new_images
        words.append(
            f"With the images of each {what} left out of its training part: accuracy {value:.3f}, chance {new.chance:.3f} "
            f"(p = {new.p_value:.2g})."
        )
        if new.chance < even - np.std(new.null) / np.sqrt(len(new.null)) * 3:
            words.append(
                "That chance lies below equal guesses because a class that is frequent among the images tested is the rarer for "
                "it among those that train."
            )
    return words

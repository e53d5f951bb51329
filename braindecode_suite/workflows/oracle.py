"""Ceilings of a simulated study: what an observer who knows the generating model retrieves and identifies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Latents
from braindecode_suite.core.protocols import SimulatedDataset
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.metrics.retrieval import ranks, top_k_random_gallery
from braindecode_suite.workflows.steps import Arrays

BRAIN_TO_IMAGE = "brain_to_image"


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the oracle reaches.

    Attributes
    ----------
    retrieval : dict of (direction, gallery size) to float
        Exact top-1, predictions of all repeats together.
    identification : dict of stimulus id to float
        Share of matched distractors that are less likely than the image itself; empty where there are none.
    """

    retrieval: Mapping[tuple[str, int], float] = field(default_factory=dict)
    identification: Mapping[str, float] = field(default_factory=dict)


def compute_ceilings(
    dataset: SimulatedDataset,
    data_dir: Path,
    subject: str,
    study: Study,
    split: Split,
    gallery: Latents,
    sizes: Sequence[int],
) -> Arrays:
    """Return the arrays that `read_ceilings` takes: sizes and top-1, ids and identification.

    Parameters
    ----------
    dataset : SimulatedDataset
    data_dir : Path
    subject : str
    study : Study
        As released, not prepared: the oracle knows the drifts of every session.
    split : Split
    gallery : Latents
        True latents of the test images; only its ids are read.
    sizes : sequence of int
        Random galleries beside the full one.
    """
    oracle = dataset.oracle(data_dir, subject)
    rows = split.test[0]
    ids, likelihood = oracle.log_likelihood(study, rows, list(gallery.ids))
    column = {stimulus_id: k for k, stimulus_id in enumerate(gallery.ids)}
    found = ranks(likelihood, np.array([column[i] for i in ids]))
    n = len(gallery)
    all_sizes = [n, *(size for size in sizes if size < n)]
    top1 = [float(top_k_random_gallery(found, n, size).mean()) for size in all_sizes]
    arrays: Arrays = {"sizes": np.array(all_sizes), "top1": np.array(top1)}
    known = [i for i in ids if i in oracle.distractors]
    if len(known) == len(ids):
        names, shares = oracle.identification(study, rows)
        arrays |= {"ids": np.array(names, np.str_), "identification": np.asarray(shares)}
    return arrays


def read_ceilings(arrays: Arrays) -> Ceilings:
    """Return the ceilings kept in arrays."""
    retrieval = {
        (BRAIN_TO_IMAGE, int(size)): float(value)
        for size, value in zip(arrays["sizes"], arrays["top1"], strict=True)
    }
    identification = {}
    if "ids" in arrays:
        pairs = zip(arrays["ids"], arrays["identification"], strict=True)
        identification = {str(stimulus_id): float(value) for stimulus_id, value in pairs}
    return Ceilings(retrieval=retrieval, identification=identification)


def oracle_facts(oracle: Ceilings) -> dict[str, Any] | None:
    """Return what the report says of the oracle, or None where there is none."""
    if not oracle.retrieval:
        return None
    facts: dict[str, Any] = {
        f"retrieval_{direction}_top1 of {size}": value
        for (direction, size), value in oracle.retrieval.items()
    }
    if oracle.identification:
        facts["identification among matched distractors"] = float(
            np.mean(list(oracle.identification.values()))
        )
    return facts

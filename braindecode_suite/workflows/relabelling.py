"""The linear baseline against refits of itself on relabelled training images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Latents
from braindecode_suite.core.score import Score
from braindecode_suite.workflows.controls import relabelled_ridge
from braindecode_suite.workflows.fitting import Prepared, encoder_config
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.scoring import RetrievalScores, Settings
from braindecode_suite.workflows.steps import Arrays, Steps

HEADLINE = "retrieval_brain_to_image_top1"


def score_relabellings(
    steps: Steps,
    config: MindEyeWorkflowConfig,
    prepared: Prepared,
    train_true: Latents,
    gallery: Latents,
    retrieval: RetrievalScores,
    settings: Settings,
) -> list[Score]:
    """Test the ridge against refits on relabelled training images, at the headline's gallery."""
    options = encoder_config(config.baseline, "", config.baseline_settings).model_dump()
    if config.baseline != "ridge" or not config.n_relabellings or options["repeats"] != "mean":
        reason = "the config turns it off" if not config.n_relabellings else "only for ridge on mean repeats"
        steps.skip("refit the baseline on relabelled images", reason)
        return []
    size = min(settings.gallery_sizes[0] if settings.gallery_sizes else len(gallery), len(gallery))
    row = next(
        s
        for s in retrieval.scores
        if s.model == config.baseline
        and s.metric == HEADLINE
        and s.scorer == "cosine-centred"
        and s.control == "brain"
        and s.gallery == size
        and s.level == "mean-prediction"
        and not s.versus
        and s.candidates == "all"
    )
    key = {
        **prepared.identity,
        "target": gallery.target,
        "config": {name: value for name, value in options.items() if name != "alphas"}
        | {"alphas": list(options["alphas"])},
        "n": config.n_relabellings,
        "size": size,
        "seed": settings.seed,
    }

    def compute() -> tuple[Arrays, dict[str, Any]]:
        test = relabelled_ridge(
            prepared.cohort("train"),
            prepared.cohort("test"),
            train_true,
            gallery,
            observed=row.value,
            gallery_size=size,
            n_permutations=config.n_relabellings,
            seed=settings.seed,
            alphas=options["alphas"],
            n_folds=options["n_folds"],
            weight_by_signal=options["weight_by_signal"],
        )
        return {"null": test.null}, {"p_value": test.p_value, "observed": test.observed}

    arrays, facts = steps.arrays("refit the baseline on relabelled images", key, compute)
    null = arrays["null"]
    low, high = np.quantile(null, [0.025, 0.975])
    refits = replace(
        row,
        control="shuffled-train",
        value=float(null.mean()),
        ci_low=float(low),
        ci_high=float(high),
        ci_over="relabelling",
        p_value=None,
        p_correction="",
        ceiling=None,
    )
    difference = replace(
        row,
        versus="shuffled-train",
        value=row.value - float(null.mean()),
        ci_low=None,
        ci_high=None,
        ci_over="",
        chance=None,
        ceiling=None,
        p_value=facts["p_value"],
        p_correction=f"{len(null)} refits on relabelled training images",
    )
    return [refits, difference]

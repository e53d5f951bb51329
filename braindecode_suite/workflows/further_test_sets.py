"""Further test sets of one protocol, which trains once for all of them: the models at hand on other images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.score import Score
from braindecode_suite.core.split import Split
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.workflows.fitting import Fitted, Prepared, predict_trials, study_identity
from braindecode_suite.workflows.scoring import Predicted, Settings, score_retrieval
from braindecode_suite.workflows.steps import Arrays, Steps


def train_alike(splits: Sequence[Split]) -> bool:
    """Say whether splits train and validate on the same rows, so that they differ in what is tested alone."""
    first, *others = splits
    return all(
        np.array_equal(mine, theirs)
        for other in others
        for part in ("train", "validation")
        for mine, theirs in zip(getattr(first, part), getattr(other, part), strict=True)
    )


def named(split: Split) -> str:
    """Return the name that a further test set's rows have in the column ``split``, e.g. ``things-meg-zero-shot (large)``."""
    return f"{split.protocol} ({split.label})"


def images_tested(split: Split) -> np.ndarray:
    """Return the ids of the test images, sorted."""
    return np.array(sorted(split.keys("test", "stimulus")), dtype=object)


def score_further(
    steps: Steps,
    prepared: Prepared,
    split: Split,
    models: Sequence[Fitted],
    target: Target,
    train_true: Latents,
    settings: Settings,
    device: str,
) -> list[Score]:
    """Score fitted models on the test images of another split; nothing is fitted, and nothing is chosen.

    Parameters
    ----------
    steps : Steps
    prepared : Prepared
        What the models were fitted to.
    split : Split
        Of the same training and validation rows, see `train_alike`.
    models : sequence of Fitted
    target : Target
        Of retrieval.
    train_true : Latents
        True latents of the training images.
    settings : Settings
        Of this test set.
    device : str
    """
    ids = images_tested(split)
    with steps.block(f"embed the test images of {named(split)}"):
        gallery = target.embed(prepared.cohort("train").stimuli, list(ids)).select(ids)
    predicted = [_predict(steps, prepared, split, model, device) for model in models]
    with steps.block(f"score retrieval of {named(split)}"):
        found = score_retrieval(predicted, train_true, gallery, replace(settings, brief=True))
    return found.scores


def _predict(steps: Steps, prepared: Prepared, split: Split, model: Fitted, device: str) -> Predicted:
    key: Mapping[str, Any] = {
        **prepared.identity,
        "test": split.hash,
        "test responses": study_identity(prepared.study, split.test[0])["responses"],
        "model": model.folder.parent.name,
    }
    cohort = replace(prepared, split=split).cohort("test")

    def compute() -> tuple[Arrays, dict[str, Any]]:
        seed = int(model.seed) if model.seed else None
        encoder = ENCODERS[model.name].load(model.folder, cohort, device, seed=seed)
        latents = predict_trials(encoder, cohort, seed or 0)["retrieval"]
        return {"test": latents.values, "ids": latents.ids.astype(np.str_)}, {}

    seed = f" seed {model.seed}" if model.seed else ""
    control = "" if model.control == "brain" else f" ({model.control})"
    arrays, _ = steps.arrays(f"{model.name}{seed}{control} on {named(split)}", key, compute)
    kind = model.predicted.test
    latents = Latents(arrays["test"], arrays["ids"].astype(object), kind.target, kind.kind)
    return replace(model.predicted, test=latents)

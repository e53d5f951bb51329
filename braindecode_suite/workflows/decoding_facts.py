"""What the report and the model folder say of a decoding run, besides its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from braindecode_suite.core.latents import Target
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.workflows.facts import methods, study_facts
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.job import Job
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.oracle import Ceilings, oracle_facts
from braindecode_suite.workflows.scoring import RetrievalScores


def decoding_facts(
    config: MindEyeWorkflowConfig,
    job: Job,
    study: Study,
    prepared: Prepared,
    targets: Mapping[str, Target],
    models: Sequence[Fitted],
    splits: list[dict[str, Any]],
    retrieval: RetrievalScores,
    oracle: Ceilings,
    generator: Any,
    drawn: dict[str, Any] | None,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Return what the report says of a run besides its scores, JSON-like."""
    recipe = prepared.study.recipe or Recipe()
    numbers = study_facts(study, prepared.split)
    if config.keep_reliable is not None:
        numbers["n_kept"] = int(prepared.study.kept.sum())
    numbers["warnings"] += sorted(
        {text for model in models if model.control == "brain" for text in model.facts["warnings"]}
    )
    described = [
        {
            "name": model.name if model.control == "brain" else f"{model.name} ({model.control})",
            "seed": model.seed,
            "target": targets["retrieval"].name,
            **{key: model.facts[key] for key in ("n_parameters", "seconds", "chosen", "departures")},
        }
        for model in models
    ]
    drawing = None
    notes = [f"Not scored by {reason}." for reason in retrieval.missing]
    notes += [
        f"{model.name} other than in its paper: {'; '.join(model.facts['departures'])}."
        for model in models[:1]
        if model.facts["departures"]
    ]
    if generator is not None and drawn is not None:
        settings = generator.config
        drawing = {
            "name": generator.name,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "strength": settings.strength,
            "candidates": config.n_candidates,
            "images": drawn["n_images"],
        }
        notes += [f"Control {control}: not made, {reason}." for control, reason in drawn["skipped"].items()]
        if isinstance(drawn.get("reranking"), dict):
            weights = ", ".join(f"{name} {weight:.1f}" for name, weight in drawn["reranking"].items())
            notes.append(
                f"Among candidates the predicted caption chooses too, weighted against the predicted image by validation images: {weights}. "
                "Controls without a brain choose by the image alone."
            )
        notes += drawn["related"]
        if "generator" not in drawn["nearest_searched"]:
            notes.append("The generator's own training images could not be searched for nearest-train.")
    filters = [] if study.signal is None else study.signal.describe()["steps"]
    paragraphs, citations = methods(
        job.dataset.card,
        numbers,
        prepared.split,
        [*filters, *recipe.describe()],
        [model for model in described if "(" not in model["name"]],
        {role: target.name for role, target in targets.items()},
        drawing,
        config.model_dump(),
    )
    return {
        "seeds": seeds,
        "study": numbers,
        "splits": splits,
        "recipe": [*filters, *recipe.describe()],
        "models": described,
        "targets": {role: target.name for role, target in targets.items()},
        "generator": drawing,
        "scorers_missing": [] if drawn is None else drawn["missing"],
        "hub_skewness": retrieval.hub_skewness,
        "oracle": oracle_facts(oracle),
        "methods": paragraphs,
        "citations": citations,
        "notes": notes,
    }


def model_run(
    config: MindEyeWorkflowConfig, job: Job, workflow: str, split: Split, targets: Mapping[str, Target]
) -> dict[str, Any]:
    """Return what ``bds verify`` needs to make the card's figures again."""
    return {
        "workflow": workflow,
        "dataset": job.dataset.card.name,
        "subject": job.subject,
        "dataset_options": config.dataset_options,
        "simulation": config.simulation,
        "protocol": split.protocol,
        "split_hash": split.hash,
        "seed": job.seed,
        "zscore_by": config.zscore_by,
        "keep_reliable": config.keep_reliable,
        "sensors": config.sensors.model_dump(mode="json"),
        "targets": {"retrieval": config.retrieval_target},
        "target_names": {role: target.name for role, target in targets.items()},
        "weights": dict(config.weights),
        "gallery_sizes": list(config.gallery_sizes),
    }

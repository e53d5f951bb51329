"""Reconstructions within a run: which images are drawn, by which models, beside which controls, and how they score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.metrics.networks import PUBLISHED, circular_scorers
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.job import Job
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.oracle import Ceilings
from braindecode_suite.workflows.reconstruction import Drawing, reconstruct
from braindecode_suite.workflows.reconstruction_scoring import (
    ReconstructionScores,
    ReconstructionSet,
    ReconstructionSettings,
    at_one_size,
    pixel_controls,
    score_reconstructions,
)
from braindecode_suite.workflows.results import ResultImage, SubjectResults
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.studies import resampling_units

MOST_TRAINING_IMAGES = 1000
"""Training images that the mean-image control averages, at most."""


def images_to_draw(gallery: Latents, n_images: int | None, seed: int) -> np.ndarray:
    """Return the ids of the test images that are reconstructed, drawn at random where they are not all."""
    ids = np.asarray(gallery.ids)
    if not n_images or n_images >= len(ids):
        return ids
    rng = np.random.default_rng([seed, 17])
    return ids[np.sort(rng.choice(len(ids), n_images, replace=False))]


def example_ids(ids: np.ndarray, n_examples: int, seed: int) -> np.ndarray:
    """Return the ids that the report shows, drawn at random and never picked."""
    rng = np.random.default_rng([seed, 18])
    return ids[rng.permutation(len(ids))[:n_examples]]


def reconstruct_and_score(
    steps: Steps,
    config: MindEyeWorkflowConfig,
    job: Job,
    prepared: Prepared,
    targets: Mapping[str, Target],
    generator: Any,
    models: Sequence[Fitted],
    ids: np.ndarray,
    oracle: Ceilings,
    similar: frozenset[str],
    results: SubjectResults,
) -> dict[str, Any]:
    """Reconstruct test images, draw every control, score all of them into `results`; return what the report says of it."""
    stimuli = prepared.cohort("test").stimuli
    drawing = Drawing(
        generator=generator,
        chooser=targets["retrieval"],
        targets=targets,
        stimuli=stimuli,
        train_ids=prepared.stimulus_ids["train"],
        ids=ids,
        seed=job.seed,
        config=config,
    )
    sets, facts = reconstruct(steps, drawing, models, prepared.identity)
    for control, reason in facts["skipped"].items():
        steps.skip(f"draw {control}", reason)
    if isinstance(facts.get("reranking"), str):
        steps.skip("choose among candidates by captions too", facts["reranking"])
    truth, distractors = stimuli.images(list(ids)), matched(stimuli, ids)
    with steps.block("score reconstructions"):
        train = stimuli.images(list(prepared.stimulus_ids["train"][:MOST_TRAINING_IMAGES]))
        sets, truth, train, distractors = at_one_size(sets, truth, train, distractors, config.pixel_protocol)
        sets += pixel_controls(truth, train)
        # the generator draws from the image target (`Decoding.targets` proves it); the retrieval target chooses
        networks = sorted({getattr(target, "network", "") for target in targets.values()} - {""})
        settings = ReconstructionSettings(
            subject=job.subject,
            split=prepared.split.protocol,
            target=targets["image"].name,
            scorer=config.scorer,
            circular=circular_scorers(networks),
            protocol=config.pixel_protocol,
            published=config.published,
            n_repeats=len(prepared.split.test[0]) / len(prepared.stimulus_ids["test"]),
            ceiling=float(np.mean([oracle.identification[i] for i in ids]))
            if oracle.identification
            else None,
            near_duplicates=np.array([i in similar for i in ids]),
            **resampling_units(prepared.study, ids),
            n_bootstrap=config.n_bootstrap,
            n_permutations=config.n_permutations,
            seed=job.seed,
        )
        attributes = stimuli.attributes
        scored = score_reconstructions(
            sets,
            truth,
            settings,
            distractors=distractors,
            attributes=None if attributes is None else attributes.reindex(list(ids)),
        )
    results.scores += scored.scores
    results.images += result_images(sets, scored, truth, ids)
    related = related_scorers(networks, {name for s in scored.scores for name in (s.metric, s.scorer)})
    return {**facts, "missing": scored.missing, "related": related, "n_images": len(ids)}


def matched(stimuli: Any, ids: np.ndarray) -> np.ndarray | None:
    """Return the distractors of all images, of shape (images, candidates, height, width, 3), or None."""
    found = [stimuli.distractors(stimulus_id) for stimulus_id in ids]
    if any(images is None or not len(images) for images in found):
        return None
    fewest = min(len(images) for images in found)
    return np.stack([images[:fewest] for images in found])


def related_scorers(networks: Sequence[str], scored: Iterable[str]) -> list[str]:
    """Return a note for CLIP as a scorer beside another CLIP: not the same network, so not circular, but not a stranger."""
    if "clip" not in scored or "clip" in circular_scorers(networks):
        return []
    return [
        f"Scores by {PUBLISHED['clip'].network}: the images were decoded to, drawn from or chosen by {', '.join(networks)}, "
        "another network, but one that learned from images with captions as well. Read them beside the other networks' scores."
    ]


def result_images(
    sets: Sequence[ReconstructionSet], scored: ReconstructionScores, truth: np.ndarray, ids: np.ndarray
) -> list[ResultImage]:
    """Return the truths and every image of every set, with its own scores."""
    found = [
        ResultImage(stimulus_id=stimulus_id, control="truth", pixels=pixels)
        for stimulus_id, pixels in zip(ids, truth, strict=True)
    ]
    for one in sets:
        if one.control in ("mean-image", "flat-grey", "blurred-truth", "shuffled-test"):
            continue  # made from others, or the same file under another name
        values = scored.per_image.get(one.key, {})
        for k, stimulus_id in enumerate(ids):
            found.append(
                ResultImage(
                    stimulus_id=stimulus_id,
                    control=one.control,
                    pixels=one.images[k],
                    stage=one.stage,
                    model=one.model,
                    seed=one.seed,
                    source=one.sources[k] if one.sources else "",
                    **{metric: float(v[k]) for metric, v in values.items() if np.isfinite(v[k])},
                )
            )
    return found

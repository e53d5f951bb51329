"""What a run leaves beside its scores: latents, histories, maps, model files and the truths that examples show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.study import Study
from braindecode_suite.workflows.brain_maps import ncsnr_map
from braindecode_suite.workflows.facts import kept_map
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.results import ResultImage, SubjectResults


def keep(
    results: SubjectResults,
    study: Study,
    prepared: Prepared,
    targets: Mapping[str, Target],
    models: Sequence[Fitted],
    gallery: Latents,
    examples: np.ndarray,
    seed: int,
) -> None:
    """Keep latents, histories, maps, model files and the truths that the retrieval examples show."""
    results.latents["ids"] = gallery.ids.astype(np.str_)
    for model in models:
        control = "" if model.control == "brain" else f"-{model.control}"
        for role in model.test:
            key = f"{model.name}{control}_seed-{model.seed or seed}_{role}_predicted"
            results.latents[key] = np.asarray(model.means(role, gallery.ids).values)
        about = {"model": f"{model.name}{control}", "seed": model.seed}
        results.history += [{**about, **row} for row in model.facts["history"]]
        results.routing += [{**about, **row} for row in model.routing]
    stimuli = study.stimuli
    assert stimuli is not None
    for role, target in targets.items():
        true = target.embed(stimuli, list(gallery.ids)).select(gallery.ids)
        results.latents[f"{role}_true"] = np.asarray(true.values)
    results.space = study.space
    if study.noise is not None:
        results.maps["ncsnr"] = ncsnr_map(study.noise.ncsnr, study.noise.source)
    results.maps |= kept_map([prepared.study.recipe])
    for model in models:
        if model.control == "brain":
            results.models |= {path.name: path for path in sorted(model.folder.glob("*.safetensors"))}
    _keep_examples(results, study, examples)


def _keep_examples(results: SubjectResults, study: Study, shown: np.ndarray) -> None:
    """Add the truths that retrieval examples show, and of all images that were drawn."""
    stimuli = study.stimuli
    assert stimuli is not None
    examples = set(shown)
    wanted = set(examples)
    for row in results.retrieval:
        if row["stimulus_id"] in examples and row["scorer"] == "cosine-centred":
            wanted |= {row[f"top{k}"] for k in range(1, 6) if row.get(f"top{k}")}
    have = {image.stimulus_id for image in results.images if image.control == "truth"}
    for stimulus_id in sorted(wanted - have):
        pixels = stimuli.images([stimulus_id])[0]
        results.images.append(ResultImage(stimulus_id=stimulus_id, control="truth", pixels=pixels))

"""Predicted latents to images, and the images of every control on the same test images and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.networks import ASSETS
from braindecode_suite.core.study import Stimuli
from braindecode_suite.decoders.nearest import Nearest, NearestTrain, TrainingIndex, read_training_index
from braindecode_suite.decoders.retrieval import CosineRetriever
from braindecode_suite.decoders.seeds import image_seed
from braindecode_suite.metrics.retrieval import cosine
from braindecode_suite.workflows.controls import category_latents, derangement, null_latents
from braindecode_suite.workflows.fitting import Fitted
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.reconstruction_scoring import ReconstructionSet, to_size
from braindecode_suite.workflows.steps import Arrays, Steps
from braindecode_suite.workflows.text_head import choose_weight

INDEX = "training_index.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """Everything that drawing images needs.

    Attributes
    ----------
    generator : KandinskyGenerator
    chooser : Target
        Embeds candidates; the target of role ``retrieval``.
    targets : dict of role to Target
    stimuli : Stimuli
    train_ids, ids : object array of str
        Training images; test images that are reconstructed.
    seed : int
    config : MindEyeWorkflowConfig
    """

    generator: Any
    chooser: Target
    targets: Mapping[str, Target]
    stimuli: Stimuli
    train_ids: np.ndarray
    ids: np.ndarray
    seed: int
    config: MindEyeWorkflowConfig

    @property
    def seeds(self) -> list[int]:
        """One seed a test image, the same for the brain and every control."""
        return [image_seed(self.seed, stimulus_id) for stimulus_id in self.ids]

    def true(self, role: str, ids: np.ndarray) -> Latents:
        """Return true latents of images, in the order of `ids`."""
        return self.targets[role].embed(self.stimuli, list(ids)).select(ids)

    def best(
        self,
        latents: Mapping[str, Latents],
        wanted: Latents,
        *,
        ceiling: bool = False,
        said: tuple[Latents, float] | None = None,
    ) -> np.ndarray:
        """Draw candidates and keep those nearest to `wanted`, which no true test image has touched but for the ceiling.

        With `said`, predicted captions and their weight, nearest to both.
        """
        text, weight = said or (None, 0.0)
        return np.asarray(
            self.generator.generate_best(
                latents,
                self.seeds,
                n_candidates=self.config.n_candidates,
                chooser=self.chooser,
                predicted=wanted,
                ceiling=ceiling,
                text=text,
                text_weight=weight,
            ).images
        )


def open_generator(config: MindEyeWorkflowConfig, cache_dir: Path, device: str) -> Any | str:
    """Return the generator, or the reason why there is none on this machine."""
    if not config.generator:
        return "the config names no generator"
    try:
        from braindecode_suite.decoders.generators import make_generator
    except InputError as error:  # the generation extras are not installed
        return str(error)
    try:
        return make_generator(
            config.generator,
            cache_dir,
            weights=_path(config, "generator"),
            clip_weights=_path(config, "generator_clip"),
            device=device,
            settings=config.generator_settings,
        )
    except MissingWeights as error:
        if "generator" in config.weights:
            raise
        return str(error)


def _path(config: MindEyeWorkflowConfig, what: Any) -> Path | None:
    found = config.weights.get(what)
    return None if found is None else Path(found)


def reconstruct(
    steps: Steps, drawing: Drawing, models: Sequence[Fitted], key: Mapping[str, Any]
) -> tuple[list[ReconstructionSet], dict[str, Any]]:
    """Draw the images of all models and controls, one step each, resumed where they are there.

    Parameters
    ----------
    steps : Steps
    drawing : Drawing
    models : sequence of Fitted
        The deep model's first seed, the baseline, and the model of ``shuffled-train`` if there is one.
    key : mapping
        What the latents depend on.

    Returns
    -------
    sets : list of ReconstructionSet
        The deep model's final images first.
    facts : dict
        ``skipped``: controls that could not be made, with the reason; ``nearest_searched``: which training images; of models that learned
        captions ``reranking``: their weight in the choice among candidates by model, or why they have none.
    """
    sets: list[ReconstructionSet] = []
    facts: dict[str, Any] = {"skipped": {}, "nearest_searched": ["study"]}
    common = {
        **key,
        "ids": list(drawing.ids),
        "seed": drawing.seed,
        "generator": [drawing.generator.name, drawing.generator.config.model_dump(mode="json")],
        "n_candidates": drawing.config.n_candidates,
    }

    def drawn(
        name: str,
        latents: Mapping[str, Latents],
        wanted: Latents,
        *,
        ceiling: bool = False,
        said: tuple[Latents, float] | None = None,
    ) -> np.ndarray:
        content = [data_hash(np.asarray(part.values)) for part in [*latents.values(), wanted]]
        by_text = {} if said is None else {"text": [data_hash(np.asarray(said[0].values)), said[1]]}

        def compute() -> tuple[Arrays, dict[str, Any]]:
            return {"images": drawing.best(latents, wanted, ceiling=ceiling, said=said)}, {}

        return steps.arrays(f"draw {name}", {**common, "latents": content, **by_text}, compute)[0]["images"]

    weights = _reranking(drawing, models)
    if weights is not None:
        facts["reranking"] = weights
    for fitted in models:
        latents: dict[str, Latents] = {
            role: fitted.means(role, drawing.ids) for role in ("image", "init") if role in fitted.test
        }
        name = fitted.name if fitted.control == "brain" else fitted.control
        said = (
            (fitted.means("text", drawing.ids), weights[fitted.name]) if isinstance(weights, dict) else None
        )
        images = drawn(name, latents, fitted.means("retrieval", drawing.ids), said=said)
        sets.append(_made(fitted, images, "final"))
        if "init" in latents:
            sets.append(_made(fitted, drawing.generator.decode_init(latents["init"]), "low-level"))
    first = models[0]
    order = derangement(len(drawing.ids), drawing.seed)
    sets.append(
        ReconstructionSet(
            control="shuffled-test", images=sets[0].images[order], model=first.name, seed=first.seed
        )
    )
    sets += _without_brain(drawing, first, drawn, facts)
    nearest, searched = _nearest(steps, drawing, first, common)
    facts["nearest_searched"] = searched
    sets.append(
        ReconstructionSet(
            control="nearest-train",
            images=nearest.images,
            model=first.name,
            seed=first.seed,
            sources=tuple(nearest.source),
        )
    )
    return sets, facts


def _reranking(drawing: Drawing, models: Sequence[Fitted]) -> dict[str, float] | str | None:
    """Return by model how much captions weigh in the choice among candidates, or why they cannot; None without captions.

    The weight is the one by which predictions rank the validation images' own embeddings best, as they will rank candidates.
    """
    text, chooser = drawing.targets.get("text"), drawing.chooser
    if text is None:
        return None
    if drawing.config.n_candidates < 2:
        return "there is one candidate an image"
    networks = [getattr(target, "network", "") for target in (text, chooser)]
    if getattr(chooser, "kind", "") != "pooled" or networks[0] != networks[1] or text.width != chooser.width:
        return f"{chooser.name} and {text.name} are no image and text embedding of one network"
    weights: dict[str, float] = {}
    for fitted in sorted(models, key=lambda fitted: fitted.control != "brain"):  # weights are of true pairs
        if fitted.name not in weights:
            ids, said = fitted.validation.ids, fitted.validation_text
            assert said is not None
            true = drawing.true("retrieval", ids).flat
            pair = cosine(fitted.validation.flat, true), cosine(said.select(ids).flat, true)
            weights[fitted.name], _ = choose_weight([pair[0]], [pair[1]])
    return weights


def _made(fitted: Fitted, images: np.ndarray, stage: str) -> ReconstructionSet:
    return ReconstructionSet(
        control=fitted.control, images=images, model=fitted.name, seed=fitted.seed, stage=stage
    )


def _without_brain(
    drawing: Drawing, first: Fitted, drawn: Any, facts: dict[str, Any]
) -> list[ReconstructionSet]:
    """Return ``null-condition``, ``category-only`` and ``true-latent``."""
    roles = [role for role in ("image", "init") if role in first.test]
    train = {role: drawing.true(role, drawing.train_ids) for role in {*roles, "retrieval"}}
    sets = []
    nothing = {role: null_latents(latents, drawing.ids) for role, latents in train.items()}
    images = drawn("null-condition", {role: nothing[role] for role in roles}, nothing["retrieval"])
    sets.append(ReconstructionSet(control="null-condition", images=images, seed=first.seed))
    category: dict[str, Latents] = {}
    for role, latents in train.items():
        made = category_latents(latents, drawing.stimuli.attributes, drawing.ids)
        if isinstance(made, str):
            facts["skipped"]["category-only"] = made
            break
        category[role] = made
    else:
        images = drawn("category-only", {role: category[role] for role in roles}, category["retrieval"])
        sets.append(ReconstructionSet(control="category-only", images=images, seed=first.seed))
    true = {role: drawing.true(role, drawing.ids) for role in {*roles, "retrieval"}}
    images = drawn("true-latent", {role: true[role] for role in roles}, true["retrieval"], ceiling=True)
    sets.append(ReconstructionSet(control="true-latent", images=images, seed=first.seed))
    return sets


def _nearest(
    steps: Steps, drawing: Drawing, first: Fitted, common: Mapping[str, Any]
) -> tuple[Nearest, list[str]]:
    """Find the nearest training image, the generator's own included where they can be drawn again."""
    train = drawing.true("retrieval", drawing.train_ids)
    predicted = first.means("retrieval", drawing.ids)
    index = _training_index(drawing)
    searched = ["study"] if index is None else ["study", "generator"]
    height, width = drawing.stimuli.images([drawing.ids[0]]).shape[1:3]

    def compute() -> tuple[Arrays, dict[str, Any]]:
        retriever = CosineRetriever("cosine-centred").fit(first.train, train)
        finder = NearestTrain(
            retriever, train, drawing.stimuli.images, index, None if index is None else _redraw(height, width)
        )
        found = finder.find(predicted)
        return {
            "images": found.images,
            "ids": found.ids.astype(np.str_),
            "source": found.source.astype(np.str_),
            "similarity": found.similarity,
        }, {}

    key = {**common, "searched": searched, "latents": data_hash(np.asarray(predicted.values))}
    arrays, _ = steps.arrays("nearest training images", key, compute)
    return Nearest(arrays["ids"], arrays["source"], arrays["similarity"], arrays["images"]), searched


def _training_index(drawing: Drawing) -> TrainingIndex | None:
    folder = _path(drawing.config, "generator") or ASSETS / drawing.config.generator
    target = drawing.generator.inputs["image"]
    if not (folder / INDEX).is_file() or target != drawing.chooser.name:
        return None
    return read_training_index(folder / INDEX, target)


def _redraw(height: int, width: int) -> Any:
    """Return the function that draws the tiny generator's own training scenes again, from their seeds, at a size."""
    from braindecode_suite.datasets.simulate_scenes import draw_scene, render

    return lambda seeds: to_size(
        np.stack([render(draw_scene(int(seed)), height) for seed in seeds]), height, width
    )

"""Images to brain: image encoders beside each other on the same features, scored region by region, and where attention goes.

Every model is offered every feature. The best rival of a region, the best single model and the weights of the stack come from
validation images that stopped no model; test images are only scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import FeatureSource
from braindecode_suite.core.minutes import Amount, first_minutes, naming
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.score import Score
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.encoders.targets import make_features
from braindecode_suite.learning.stacking import combine, stacking_weights
from braindecode_suite.metrics.encoding_resampling import R_MEAN
from braindecode_suite.workflows.brain_maps import BrainMap, ncsnr_map
from braindecode_suite.workflows.encode_ablation import ablate_tokens, attention_by_head
from braindecode_suite.workflows.encode_config import STACK, EncodeConfig
from braindecode_suite.workflows.encode_facts import CITATIONS, encode_card, methods, model_rows
from braindecode_suite.workflows.encode_fitting import (
    EncodingData,
    FittedImageEncoder,
    fit_image_encoder,
    halve_validation,
    image_encoder_config,
    mean_tokens,
    measured,
)
from braindecode_suite.workflows.encode_routing import Look, field_rows, map_rows, read_scenes, routing_rows
from braindecode_suite.workflows.encode_scoring import (
    BEST_RIVAL,
    BEST_SINGLE,
    EncodingScores,
    Predictions,
    Settings,
    choose_best,
    find_sets,
    first_region,
    object_counts,
)
from braindecode_suite.workflows.facts import leakage_card, study_facts
from braindecode_suite.workflows.fitting import prepare
from braindecode_suite.workflows.job import ENDING, Job, WorkflowConfig
from braindecode_suite.workflows.minutes import minutes_facts
from braindecode_suite.workflows.model_card import encoding_figures
from braindecode_suite.workflows.results import ResultImage, SubjectResults
from braindecode_suite.workflows.steps import Arrays, Steps
from braindecode_suite.workflows.studies import resampling_units

JOIN = " + "
ABLATION = "patch ablation"
HEAD_IMAGES = 3
"""Examples that the attention of each head is kept of."""
Fits = dict[str, list[FittedImageEncoder]]


class EncodeWorkflow:
    """Fit an image encoder and its rivals, stack them, and score them region by region beside noise ceilings.

    Parameters
    ----------
    config : EncodeConfig
    job : Job
    """

    name: ClassVar[str] = "encode"
    label: ClassVar[str] = "encode"
    config_class: ClassVar[type[WorkflowConfig]] = EncodeConfig

    def __init__(self, config: EncodeConfig, job: Job) -> None:
        self.config, self.job = config, job
        for name in self.models:
            IMAGE_ENCODERS.resolve(name)
        PROTOCOLS.resolve(self.protocol)

    @property
    def protocol(self) -> str:
        """Name of the split protocol."""
        return self.config.protocol or self.job.dataset.card.protocols[0]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the image encoders that are fitted, the headline's first."""
        return (self.config.encoder, *self.config.rivals)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the encoder; rivals are fitted with the first."""
        return [self.job.seed + k for k in range(self.config.n_seeds)]

    @property
    def stacks(self) -> bool:
        """Whether there is something to stack."""
        return self.config.stack and bool(self.config.rivals)

    @property
    def alone(self) -> tuple[str, ...]:
        """Features that models are also fitted to alone."""
        features = self.config.features
        return features if self.config.by_layer and len(features) > 1 else ()

    def plan(self) -> Sequence[str]:
        """Return the names of the steps."""
        steps = ["open the study", "load the features", f"split by {self.protocol}", "leakage check"]
        for where in ("", *(f" on {name}" for name in self.alone)):
            steps += [
                f"fit {self._fit_name(name, seed)}{where}"
                for name in self.models
                for seed in self._seeds(name)
            ]
        if self.config.shuffled_train:
            steps += [
                f"fit {self._fit_name(self.config.encoder, seed)} on shuffled pairs"
                for seed in self.seeds[:1]
            ]
        steps += ["stack"] if self.stacks else []
        steps += [f"first {minutes:g} minutes: each model once" for minutes in self.config.minutes]
        steps += ["score", "routing maps"]
        steps += [f"{ABLATION} seed {seed}" for seed in self.seeds if self.config.ablation_images]
        return [*steps, *ENDING]

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        config, job = self.config, self.job
        with steps.block("open the study"):
            study = job.dataset.open(job.data_dir, job.subject, job.work_dir, **config.dataset_options)
            if study.stimuli is None:
                raise InputError(
                    f"subject {job.subject}", expected="images that were shown", found="unlabelled recordings"
                )
        with steps.block("load the features"):
            sources = {name: self._features(name) for name in config.features}
        with steps.block(f"split by {self.protocol}"):
            split = self._split(study, next(reversed(sources.values())))
            prepared = prepare(study, split, config.zscore_by)
            data = halve_validation(prepared, config.choosing_share, job.seed)
            amounts = self._first_minutes(study, split)
        card = self._leakage(steps, study, split)
        together = list(sources.values())
        fits = {JOIN.join(source.name for source in together): self._fit_all(steps, data, together)}
        for name in self.alone:
            fits[sources[name].name] = self._fit_all(steps, data, [sources[name]], f" on {name}")
        shuffled = self._fit_shuffled(steps, data, together)

        truth, repeats = measured(data, "test")
        choosing, _ = measured(data, "choosing")
        main, *layers = [self._predictions(target, some) for target, some in fits.items()]
        stacked, weights = self._stack(steps, main, choosing, study)
        settings = Settings(
            subject=job.subject,
            split=split.protocol,
            threshold=config.threshold,
            n_bootstrap=config.n_bootstrap,
            n_permutations=config.n_permutations,
            seed=job.seed,
            groups=tuple(config.groups),
            **resampling_units(study, data.ids("test")),
        )
        results = SubjectResults(space=study.space)
        with steps.block("score") as notes:
            ceiling = self._ceiling(steps, study, truth, repeats)
            scores = EncodingScores(
                truth,
                repeats,
                ceiling,
                find_sets(study, truth.shape[1], config.rois, config.groups),
                [*main, *stacked, *(model for layer in layers for model in layer)],
                settings,
            )
            chosen = self._score(scores, main, stacked, layers, choosing, study, data, results)
            similar = np.isin(data.ids("test").astype(str), card["near_duplicates"]["test_images"])
            results.scores += scores.rows_without(
                similar, main, chosen["best rival"].get(main[0].target, {}), BEST_RIVAL, "no-near-duplicates"
            )
            notes["figures"] = {"units scored": scores.facts["scored"]}
        for amount, some in amounts:
            results.scores += self._brief(steps, some, together, amount, ceiling, settings)
        looks = self._looks(next(iter(fits.values())), shuffled, together)
        self._routing(steps, study, data, looks, settings, results)
        looking = next(iter(fits.values()))[config.encoder]
        results.scores += self._ablation(steps, data, together, looking, scores)
        self._keep(results, study, data, scores, [*main, *stacked], truth, repeats, weights)
        self._keep_examples(results, study, data, looks, together, looking[0])
        results.facts = self._facts(study, split, card, fits, shuffled, scores, chosen, sources, results)
        if amounts:
            results.facts["splits"] += [some.prepared.split.card() for _, some in amounts]
            results.facts["minutes"] = minutes_facts(
                [split],
                prepared.study.recipe,
                [amount for amount, _ in amounts],
                [some.prepared.study.recipe for _, some in amounts],
                ["Every point of the encoder is of one fit, that of the first seed, on all features."],
            )
        return results

    # ------------------------------------------------------------------------------------------------- the pieces

    def _features(self, name: str) -> FeatureSource:
        weights = self.config.weights.get(name)
        path = None if weights is None else Path(weights)
        return make_features(name, self.job.work_dir / "cache", weights=path, device=self.job.device)

    def _split(self, study: Study, source: FeatureSource) -> Split:
        check_option("protocol", PROTOCOLS.resolve(self.protocol), self.job.dataset.card.protocols)
        vectors_of = mean_tokens(source, study)
        splits = PROTOCOLS[self.protocol]([study], seed=self.job.seed, vectors_of=vectors_of)
        if len(splits) > 1 or "stimulus" not in splits[0].disjoint:
            raise InputError(
                f"protocol {self.protocol!r}",
                expected="one split with no image on two sides, since responses to new images are predicted",
                found=f"{len(splits)} split(s) disjoint in {', '.join(sorted(splits[0].disjoint)) or 'nothing'}",
                hint="random-by-image splits any study by image",
            )
        split: Split = splits[0]
        return split

    def _first_minutes(self, study: Study, split: Split) -> list[tuple[Amount, EncodingData]]:
        """Prepare the first minutes before anything is fitted: an amount that cannot be had ends the run at once."""
        config, found = self.config, []
        for amount in first_minutes([split], config.minutes):
            with naming(amount.asked):
                prepared = prepare(study, amount.splits[0], config.zscore_by)
                found.append((amount, halve_validation(prepared, config.choosing_share, self.job.seed)))
        return found

    def _brief(
        self,
        steps: Steps,
        data: EncodingData,
        sources: Sequence[FeatureSource],
        amount: Amount,
        ceiling: np.ndarray | None,
        settings: Settings,
    ) -> list[Score]:
        """Fit every model once to the first minutes and score its mean r, and how far the encoder is ahead."""
        where, config = f" (first {amount.minutes:g} minutes)", self.config
        fits = {
            name: [self._fit(steps, data, sources, name, self._seeds(name)[0], where)] for name in self.models
        }
        encoder, *rivals = self._predictions(JOIN.join(source.name for source in sources), fits)
        truth, repeats = measured(data, "test")
        sets = find_sets(data.prepared.study, truth.shape[1], config.rois, config.groups)
        with steps.block(f"score{where}"):
            scores = EncodingScores(truth, repeats, ceiling, sets, [encoder, *rivals], settings)
            rows = [row for model in (encoder, *rivals) for row in scores.plain_rows(model, (R_MEAN,))]
            if rivals:
                best = choose_best(rivals, measured(data, "choosing")[0], scores.sets)
                rows += scores.paired_rows(encoder, rivals, best, BEST_RIVAL)
        return [replace(row, minutes=amount.minutes) for row in rows]

    def _leakage(self, steps: Steps, study: Study, split: Split) -> dict[str, Any]:
        def compute() -> tuple[Arrays, dict[str, Any]]:
            return {}, {"card": leakage_card(study, split)[0]}

        key = {"split": split.hash, "stimuli": "" if study.stimuli is None else study.stimuli.fingerprint}
        card: dict[str, Any] = steps.arrays("leakage check", key, compute)[1]["card"]
        return card

    def _seeds(self, name: str) -> list[int]:
        return self.seeds if name == self.config.encoder else self.seeds[:1]

    def _fit_name(self, name: str, seed: int) -> str:
        return f"{name} seed {seed}" if name == self.config.encoder else name

    def _fit(
        self,
        steps: Steps,
        data: EncodingData,
        sources: Sequence[FeatureSource],
        name: str,
        seed: int,
        where: str,
        shuffled: bool = False,
    ) -> FittedImageEncoder:
        config, job = self.config, self.job
        return fit_image_encoder(
            steps,
            data,
            sources,
            name=IMAGE_ENCODERS.resolve(name),
            config=image_encoder_config(name, config.presets.get(name, ""), config.settings.get(name, {})),
            context=FitContext(
                work_dir=job.work_dir,
                cache_dir=job.work_dir / "cache",
                seed=seed,
                device=job.device,
                precision=job.precision,
                progress=job.progress,
            ),
            label=f"fit {self._fit_name(name, seed)}{where}",
            shuffled=shuffled,
        )

    def _fit_all(
        self, steps: Steps, data: EncodingData, sources: Sequence[FeatureSource], where: str = ""
    ) -> Fits:
        return {
            name: [self._fit(steps, data, sources, name, seed, where) for seed in self._seeds(name)]
            for name in self.models
        }

    def _fit_shuffled(
        self, steps: Steps, data: EncodingData, sources: Sequence[FeatureSource]
    ) -> FittedImageEncoder | None:
        if not self.config.shuffled_train:
            steps.skip("fit on shuffled pairs", "the config turns it off")
            return None
        where = " on shuffled pairs"
        return self._fit(steps, data, sources, self.config.encoder, self.seeds[0], where, shuffled=True)

    def _predictions(self, target: str, fits: Fits) -> list[Predictions]:
        return [
            Predictions(
                model=name,
                target=target,
                seeds=tuple(fit.seed for fit in some),
                test=tuple(fit.predicted["test"] for fit in some),
                choosing=tuple(fit.predicted["choosing"] for fit in some),
            )
            for name, some in fits.items()
        ]

    def _stack(
        self, steps: Steps, models: Sequence[Predictions], choosing: np.ndarray, study: Study
    ) -> tuple[list[Predictions], dict[str, np.ndarray]]:
        """Return the stack (or nothing) and its weights by seed: each seed of the encoder with all rivals."""
        if not self.stacks:
            reason = "there are no rivals" if self.config.stack else "the config turns it off"
            steps.skip("stack", reason)
            return [], {}
        first, *others = models
        test, held, weights = [], [], {}
        regions = first_region(find_sets(study, choosing.shape[1], self.config.rois, {}))
        with steps.block("stack"):
            for k, seed in enumerate(first.seeds):
                members = [(first.choosing[k], first.test[k]), *((m.choosing[0], m.test[0]) for m in others)]
                known = [known for known, _ in members]
                found = stacking_weights(known, choosing, regions, pooled=self.config.stack_pooling)
                test.append(combine(found, [predicted for _, predicted in members]))
                held.append(combine(found, [known for known, _ in members]))
                weights[f"{STACK}_seed-{seed or self.job.seed}_weights"] = found
        stacked = replace(first, model=STACK, test=tuple(test), choosing=tuple(held))
        return [stacked], weights

    def _ceiling(
        self, steps: Steps, study: Study, truth: np.ndarray, repeats: np.ndarray
    ) -> np.ndarray | None:
        """Return the noise ceiling of the mean over the scored images' repeats, or None where noise is not known."""
        if study.noise is None or len(study.noise.ncsnr) != truth.shape[1]:
            steps.skip(
                "noise ceiling", "the signal-to-noise ratio of the units is not known: no normalised scores"
            )
            return None
        return np.asarray(study.noise.ceiling(repeats))

    def _score(
        self,
        scores: EncodingScores,
        main: Sequence[Predictions],
        stacked: Sequence[Predictions],
        layers: Sequence[Sequence[Predictions]],
        choosing: np.ndarray,
        study: Study,
        data: EncodingData,
        results: SubjectResults,
    ) -> dict[str, Any]:
        """Add all rows, and return what was chosen on validation images."""
        encoder, *rivals = main
        found: dict[str, Any] = {"best rival": {}, "best single": {}}
        for model in (*main, *stacked):
            results.scores += scores.plain_rows(model)
        results.scores += scores.seed_rows(encoder)
        for model in (model for layer in layers for model in layer):
            results.scores += scores.plain_rows(model, (R_MEAN,))
        subsets = object_counts(study, list(data.ids("test")))
        for own, *others in (main, *layers) if rivals else ():
            best = choose_best(others, choosing, scores.sets)
            found["best rival"][own.target] = best
            results.scores += scores.paired_rows(own, others, best, BEST_RIVAL, each=own is encoder)
            results.scores += scores.subset_rows(own, others, best, BEST_RIVAL, subsets)
        for stack in stacked:
            best = choose_best(main, choosing, scores.sets)
            found["best single"] = best
            results.scores += scores.paired_rows(stack, main, best, BEST_SINGLE)
        return found

    def _looks(
        self, fits: Fits, shuffled: FittedImageEncoder | None, sources: Sequence[FeatureSource]
    ) -> list[Look]:
        """Return the attention of the encoder (the mean over its seeds) and of its fit on shuffled pairs, by source."""
        looks = []
        for some in (fits[self.config.encoder], [] if shuffled is None else [shuffled]):
            for source in sources:
                if some and source.name in some[0].attention:
                    looks.append(
                        Look(
                            model=some[0].name,
                            seed=",".join(fit.seed for fit in some if fit.seed),
                            control=some[0].control,
                            target=source.name,
                            maps=np.mean([fit.attention[source.name] for fit in some], axis=0),
                            queries=some[0].queries,
                            grid=source.grid,
                        )
                    )
        return looks

    def _routing(
        self,
        steps: Steps,
        study: Study,
        data: EncodingData,
        looks: Sequence[Look],
        settings: Settings,
        results: SubjectResults,
    ) -> None:
        if not looks:
            steps.skip("routing maps", "the encoder has none")
            return
        scenes = read_scenes(
            None if study.stimuli is None else study.stimuli.attributes, list(data.ids("test"))
        )
        if scenes is None:
            steps.skip("routing ratio", "what lies where in the images is not known")
        with steps.block("routing maps"):
            for look in looks:
                results.scores += map_rows(look, settings) + field_rows(look, settings)
                results.scores += [] if scenes is None else routing_rows(look, scenes, settings)

    def _ablation(
        self,
        steps: Steps,
        data: EncodingData,
        sources: Sequence[FeatureSource],
        fits: Sequence[FittedImageEncoder],
        scores: EncodingScores,
    ) -> list[Score]:
        config = self.config
        if not config.ablation_images or not fits[0].attention:
            reason = "the encoder has no maps" if config.ablation_images else "the config turns it off"
            steps.skip(ABLATION, reason)
            return []
        rows = ablate_tokens(
            steps,
            ABLATION,
            data,
            [source for source in sources if min(source.grid.height, source.grid.width) > 1],
            fits,
            scores,
            share=config.ablation_share,
            n_images=config.ablation_images,
            device=self.job.device,
        )
        if not rows:
            steps.skip(ABLATION, "too few test images, or no region that is scored has a query of its own")
        return rows

    def _keep(
        self,
        results: SubjectResults,
        study: Study,
        data: EncodingData,
        scores: EncodingScores,
        models: Sequence[Predictions],
        truth: np.ndarray,
        repeats: np.ndarray,
        weights: Mapping[str, np.ndarray],
    ) -> None:
        """Keep measured and predicted responses, and the score of every unit as a map."""
        results.latents |= {"ids": data.ids("test").astype(np.str_), "measured": truth, "repeats": repeats}
        results.latents |= dict(weights)
        for model in models:
            for seed, predicted in zip(model.seeds, model.test, strict=True):
                results.latents[f"{model.model}_seed-{seed or self.job.seed}_predicted"] = predicted
        if study.noise is not None:
            results.maps["ncsnr"] = ncsnr_map(study.noise.ncsnr, study.noise.source)
        if truth.shape[1] == study.space.n_units:
            for model in models:
                results.maps[map_name(model.model)] = r_map(model.model, scores.unit_r(model), len(truth))

    def _keep_examples(
        self,
        results: SubjectResults,
        study: Study,
        data: EncodingData,
        looks: Sequence[Look],
        sources: Sequence[FeatureSource],
        fit: FittedImageEncoder,
    ) -> None:
        """Keep random test images and where the encoder looks on them, and of its first seed each head on some."""
        stimuli, ids = study.stimuli, data.ids("test")
        assert stimuli is not None
        rng = np.random.default_rng([self.job.seed, 18])
        at = np.sort(rng.permutation(len(ids))[: self.config.n_examples])
        own = [look for look in looks if look.control == "brain"]
        if not own or not len(at):
            return
        results.latents["routing_ids"] = ids[at].astype(np.str_)
        heads = attention_by_head(fit, data, sources, at[:HEAD_IMAGES], self.job.device)
        for k, look in enumerate(own):
            results.latents[f"routing_{k}_heads"] = heads[look.target]
            results.latents[f"routing_{k}"] = look.grid.on_image(look.maps[at]).astype(np.float32)
            results.latents[f"routing_{k}_mean"] = look.grid.on_image(look.maps.mean(axis=0)).astype(
                np.float32
            )
        for stimulus_id, pixels in zip(ids[at], stimuli.images(list(ids[at])), strict=True):
            results.images.append(ResultImage(stimulus_id=stimulus_id, control="truth", pixels=pixels))

    def _facts(
        self,
        study: Study,
        split: Split,
        card: dict[str, Any],
        fits: Mapping[str, Fits],
        shuffled: FittedImageEncoder | None,
        scores: EncodingScores,
        chosen: Mapping[str, Any],
        sources: Mapping[str, FeatureSource],
        results: SubjectResults,
    ) -> dict[str, Any]:
        config, job = self.config, self.job
        numbers = study_facts(study, split)
        every = [fit for some in fits.values() for group in some.values() for fit in group]
        numbers["warnings"] += sorted({text for fit in every for text in fit.facts["warnings"]})
        for target, some in fits.items():
            for fit in (fit for group in some.values() for fit in group):
                results.history += history_rows(fit, target)
        main = next(iter(fits.values()))
        self._keep_models(results, [fit for group in main.values() for fit in group], split, numbers)
        recipe = prepare(study, split, config.zscore_by).study.recipe or Recipe()
        queries = main[config.encoder][0].queries
        grids = {s.name: [s.grid.height, s.grid.width] for s in sources.values() if s.grid.height}
        return {
            "seeds": self.seeds,
            "study": numbers,
            "splits": [card],
            "recipe": recipe.describe(),
            "models": model_rows([*every, *([] if shuffled is None else [shuffled])], self.stacks),
            "targets": {name: source.name for name, source in sources.items()},
            "encoding": {
                "encoder": config.encoder,
                "rivals": list(config.rivals),
                "features": [
                    JOIN.join(s.name for s in sources.values()),
                    *(sources[n].name for n in self.alone),
                ],
                "groups": {
                    name: list(rois) for name, rois in config.groups.items() if name in scores.sets.names
                },
                "units": scores.facts,
                "units of each set": dict(
                    zip(scores.sets.names, scores.sets.members.sum(axis=1).tolist(), strict=True)
                ),
                "sets without a scored unit": list(scores.empty_sets),
                "ceiling threshold": config.threshold,
                "chosen on validation images": chosen,
                "routing": {"queries": list(queries), "sources": list(grids)}
                if "routing_ids" in results.latents
                else None,
            },
            "methods": methods(job.dataset.card, numbers, split, recipe.describe(), config, scores),
            "citations": [
                *([{"text": job.dataset.card.citation, "url": ""}] if job.dataset.card.citation else []),
                *CITATIONS,
            ],
            "notes": notes_of(scores, results.scores),
        }

    def _keep_models(
        self,
        results: SubjectResults,
        fits: Sequence[FittedImageEncoder],
        split: Split,
        numbers: Mapping[str, Any],
    ) -> None:
        """Keep the files of the models that were offered all features, with one config and card for all."""
        merged: dict[str, Any] = {}
        for fit in fits:
            own = json.loads((fit.folder / "config.json").read_text(encoding="utf-8"))
            merged = {**own, "models": {**merged.get("models", {}), **own["models"]}}
            results.models |= {path.name: path for path in sorted(fit.folder.glob("*.safetensors"))}
        run = {
            "workflow": self.name,
            "dataset": self.job.dataset.card.name,
            "subject": self.job.subject,
            "dataset_options": self.config.dataset_options,
            "simulation": self.config.simulation,
            "protocol": split.protocol,
            "split_hash": split.hash,
            "seed": self.job.seed,
            "zscore_by": self.config.zscore_by,
            "features": list(self.config.features),
            "weights": dict(self.config.weights),
        }
        names = JOIN.join(fits[0].features)
        results.model_config = {**merged, "run": run, "figures": encoding_figures(results.scores, names)}
        results.model_card = encode_card(results.model_config, self.job.dataset.card, numbers, split)


def history_rows(fit: FittedImageEncoder, target: str) -> list[dict[str, Any]]:
    """Return the epochs of a fit; the networks of one fit are told apart by their ``seed``."""
    rows = []
    for row in fit.facts["history"]:
        parts = [fit.seed, target, *(f"{key} {row[key]:g}" for key in ("source", "member") if key in row)]
        rows.append({"model": fit.name, **row, "seed": ", ".join(parts)})
    return rows


def map_name(model: str) -> str:
    """Return the BIDS label of the map of a model's r: letters and digits only.

    Examples
    --------
    >>> map_name("attention-routing")
    'attentionroutingR'
    """
    return "".join(c for c in model if c.isalnum()) + "R"


def r_map(model: str, r: np.ndarray, n_images: int) -> BrainMap:
    """Return the r of every unit as a map, NaN where a unit is not scored."""
    return BrainMap(
        values=np.asarray(r, np.float32),
        title=f"r of {model}",
        units="r",
        description=f"Correlation of the responses that {model} predicts with those measured, over {n_images} test images.",
        diverging=True,
    )


def notes_of(scores: EncodingScores, rows: Sequence[Score]) -> list[str]:
    """Return what a reader must know of the scores."""
    left_out = {key: n for key, n in scores.facts.items() if key.startswith("not scored") and n}
    notes = [
        f"{scores.facts['scored']} of {scores.facts['units']} units are scored"
        + ("; " + ", ".join(f"{n} {key}" for key, n in left_out.items()) if left_out else "")
        + "."
    ]
    if scores.empty_sets:
        notes.append(f"Without a scored unit, and so without scores: {', '.join(scores.empty_sets)}.")
    if not any(row.metric == "encoding_r2_nc" for row in rows):
        notes.append("No noise ceiling: the signal-to-noise ratio of the units is not known.")
    notes.append("One subject: intervals say how scores vary over images for this person, not over people.")
    return notes

"""The main job, of whatever workflow: recordings to ranked images and reconstructions, beside ridge and every control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.minutes import Amount, first_minutes, naming
from braindecode_suite.core.protocols import FitContext, SimulatedDataset
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.encoders.targets import make_target
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.decoding_facts import decoding_facts, model_run
from braindecode_suite.workflows.facts import leakage_card
from braindecode_suite.workflows.fitting import Fitted, Prepared, encoder_config, fit_model, prepare
from braindecode_suite.workflows.further_test_sets import images_tested, score_further, train_alike
from braindecode_suite.workflows.further_test_sets import named as named_test
from braindecode_suite.workflows.job import Job
from braindecode_suite.workflows.keeping import keep
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.minutes import minutes_facts
from braindecode_suite.workflows.model_card import model_card, model_config
from braindecode_suite.workflows.oracle import Ceilings, compute_ceilings, read_ceilings
from braindecode_suite.workflows.reconstruction import open_generator
from braindecode_suite.workflows.reconstruction_part import example_ids, images_to_draw, reconstruct_and_score
from braindecode_suite.workflows.relabelling import score_relabellings
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.scoring import RetrievalScores, Settings, score_retrieval
from braindecode_suite.workflows.steps import Arrays, Steps
from braindecode_suite.workflows.studies import open_study, resampling_units
from braindecode_suite.workflows.text_head import (
    check_captions,
    check_text_target,
    score_text,
    text_facts,
    tie_captions,
)

FEWEST_VALIDATION_IMAGES = 2
"""The least among which a validation image can be told from another."""


@dataclass(kw_only=True, eq=False)
class Decoded:
    """What decoding left, for a workflow to go on with.

    Attributes
    ----------
    results : SubjectResults
        Whole but for `model_config` and `model_card`, see `Decoding.finish`.
    study, prepared : Study, Prepared
    targets : dict of role to Target
    models : list of Fitted
        The encoder's seeds, those beside, the baseline, and the fit on shuffled pairs.
    true : dict of part to Latents
        True latents of each part's images, of the role ``retrieval``.
    settings : Settings
        How retrieval was scored.
    """

    results: SubjectResults
    study: Study
    prepared: Prepared
    targets: dict[str, Target]
    models: list[Fitted]
    true: dict[str, Latents]
    settings: Settings


class Decoding:
    """Fit an encoder and a linear baseline, retrieve, reconstruct, and score beside every control.

    Parameters
    ----------
    config : MindEyeWorkflowConfig
    job : Job
    name : str
        Of the workflow that this is done for.
    """

    def __init__(self, config: MindEyeWorkflowConfig, job: Job, name: str) -> None:
        self.config, self.job, self.name = config, job, name
        for name in (config.encoder, config.baseline, *config.beside):
            ENCODERS.resolve(name)
        for protocol in (self.protocol, *config.second_protocols):
            PROTOCOLS.resolve(protocol)
        if config.text_target is not None:
            check_text_target(config.text_target, (config.encoder, config.baseline, *config.beside))

    @property
    def protocol(self) -> str:
        """Name of the split protocol of the headline."""
        return self.config.protocol or self.job.dataset.card.protocols[0]

    @property
    def second_protocols(self) -> tuple[str, ...]:
        """Further protocols that this dataset has."""
        return tuple(p for p in self.config.second_protocols if p in self.job.dataset.card.protocols)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the deep encoder."""
        return [self.job.seed + k for k in range(self.config.n_seeds)]

    def plan(self) -> list[str]:
        """Return the names of the steps, but for the last, which every workflow has."""
        config = self.config
        steps = [
            "open the study",
            f"split by {self.protocol}",
            "leakage check",
            f"embed images in {config.retrieval_target}",
        ]
        steps.append(f"fit {config.baseline}")
        steps += [f"fit {config.encoder} seed {seed}" for seed in self.seeds]
        steps += [f"fit {name} seed {seed}" for name in config.beside for seed in self.seeds]
        if config.shuffled_train:
            steps.append(f"fit {config.encoder} on shuffled pairs")
        if self.job.dataset.card.simulated:
            steps.append("oracle")
        steps.append("score retrieval")
        if config.text_target is not None:
            steps.append(f"score retrieval by captions ({config.text_target})")
        if config.n_relabellings:
            steps.append(f"refit {config.baseline} on {config.n_relabellings} relabellings")
        for protocol in self.second_protocols:
            steps.append(
                f"{protocol}: {config.baseline} and {config.encoder} seed {self.seeds[0]}, retrieval only"
            )
        steps += [
            f"first {minutes:g} minutes: {config.baseline} and {config.encoder} seed {self.seeds[0]}, retrieval only"
            for minutes in config.minutes
        ]
        if config.generator:
            count = f"{config.n_images} test images" if config.n_images else "all test images"
            steps += [
                f"reconstruct {count} with {config.generator}",
                "draw the controls",
                "score reconstructions",
            ]
        return steps

    def decode(self, steps: Steps, check: Callable[[Study, Split, Target], None] | None = None) -> Decoded:
        """Do everything for one subject, up to what is saved.

        Parameters
        ----------
        steps : Steps
        check : callable, optional
            Given the study, the headline's split and the target of retrieval before anything is fitted, to refuse what could not be
            done later.
        """
        config, job = self.config, self.job
        with steps.block("open the study"):
            study = open_study(job, config.dataset_options)
            if study.stimuli is None:
                raise InputError(
                    f"subject {job.subject}",
                    expected="images that were shown",
                    found="unlabelled recordings, or no image by the names in the events",
                    hint="`bds check` says which files are missing",
                )
        targets, generator = self.targets(steps)
        with steps.block(f"split by {self.protocol}"):
            split, *further = self.splits(study, self.protocol, targets["retrieval"])
            prepared = self.prepare(study, split)
            amounts = self._first_minutes(study, split)
            if "text" in targets:
                check_captions(study.stimuli, prepared.stimulus_ids)
            if check is not None:
                check(study, split, targets["retrieval"])
        card, similar = self._leakage(steps, study, split)

        baseline, deep, shuffled = self._fit_all(steps, prepared, targets)
        beside = [
            [self.fit_deep(steps, prepared, targets, seed, name=name) for seed in self.seeds]
            for name in config.beside
        ]
        true = self._true(steps, prepared, targets["retrieval"])
        train_true, gallery = true["train"], true["test"]
        oracle = self.ceilings(steps, study, split, gallery)
        settings = Settings(
            subject=job.subject,
            split=split.protocol,
            gallery_sizes=config.gallery_sizes,
            n_bootstrap=config.n_bootstrap,
            n_permutations=config.n_permutations,
            seed=job.seed,
            ceilings=oracle.retrieval,
            near_duplicates=similar,
            **resampling_units(study, gallery.ids),
        )
        with steps.block("score retrieval"):
            models = [*deep, *(model for seeds in beside for model in seeds), baseline, *shuffled]
            retrieval = score_retrieval(
                [model.predicted for model in models],
                train_true,
                gallery,
                settings,
                validation_true=true.get("validation"),
            )
        scores = list(retrieval.scores)
        scores += score_relabellings(steps, config, prepared, train_true, gallery, retrieval, settings)

        results = SubjectResults(scores=scores, retrieval=retrieval.rows, similarity=retrieval.similarity)
        results.similarity["ids"] = gallery.ids.astype(np.str_)
        splits = [card]
        for other in further:
            other_card, alike = self._leakage(steps, study, other)
            of_other = replace(
                settings,
                split=named_test(other),
                ceilings={},
                near_duplicates=alike,
                **{"unit": "image", "units": None} | resampling_units(study, images_tested(other)),
            )
            results.scores += score_further(
                steps, prepared, other, models, targets["retrieval"], train_true, of_other, job.device
            )
            splits.append(other_card)
        for protocol in self.second_protocols:
            splits.append(self._second(steps, study, protocol, targets, results))
        for amount, some in amounts:
            where = f" (first {amount.minutes:g} minutes)"
            found = self.brief(steps, some, targets, where, similar, oracle)
            results.scores += [replace(score, minutes=amount.minutes) for score in found.scores]
            splits.append(some.split.card())
        ids = images_to_draw(gallery, config.n_images, job.seed)
        examples = example_ids(ids, config.n_examples, job.seed)
        drawn = None
        if isinstance(generator, str):
            steps.skip("reconstruct", generator)
        else:
            made = [deep[0], *(seeds[0] for seeds in beside), baseline, *shuffled]
            drawn = reconstruct_and_score(
                steps, config, job, prepared, targets, generator, made, ids, oracle, similar, results
            )
        keep(results, study, prepared, targets, models, gallery, examples, job.seed)
        results.facts = decoding_facts(
            config,
            job,
            study,
            prepared,
            targets,
            models,
            splits,
            retrieval,
            oracle,
            None if isinstance(generator, str) else generator,
            drawn,
            self.seeds,
        )
        results.facts["random_examples"] = [str(i) for i in examples]
        if "text" in targets:
            self._text(steps, prepared, targets["text"], models, true, settings, results)
        if amounts:
            results.facts["minutes"] = minutes_facts(
                [split],
                prepared.study.recipe,
                [amount for amount, _ in amounts],
                [some.study.recipe for _, some in amounts],
                ["Every point of the encoder is of one fit, that of the first seed."],
            )
        return Decoded(
            results=results,
            study=study,
            prepared=prepared,
            targets=targets,
            models=models,
            true=true,
            settings=settings,
        )

    def finish(self, decoded: Decoded) -> SubjectResults:
        """Return the results with the model folder's config and card, whose figures are those of the scores by now."""
        results, split = decoded.results, decoded.prepared.split
        run = model_run(self.config, self.job, self.name, split, decoded.targets)
        results.model_config = model_config(decoded.models, run, results.scores)
        facts = results.facts
        results.model_card = model_card(
            results.model_config, self.job.dataset.card, facts["study"], split, facts["recipe"]
        )
        return results

    # ------------------------------------------------------------------------------------------------- the pieces

    def targets(self, steps: Steps) -> tuple[dict[str, Target], Any | str]:
        """Return targets by role and the generator, or why there is none."""
        config, job = self.config, self.job
        cache = job.work_dir / "cache"

        def path(what: Any) -> Path | None:
            found = config.weights.get(what)
            return None if found is None else Path(found)

        with steps.block("load the image models"):
            retrieval = make_target(
                config.retrieval_target, cache, weights=path("retrieval"), device=job.device
            )
            same = config.image_target == config.retrieval_target and path("image") == path("retrieval")
            image = (
                retrieval
                if same
                else make_target(config.image_target, cache, weights=path("image"), device=job.device)
            )
            generator = open_generator(config, cache, job.device)
            text = config.text_target and make_target(
                config.text_target, cache, weights=path("text"), device=job.device
            )
        targets: dict[str, Target] = {"retrieval": retrieval, "image": image}
        if text:
            targets["text"] = text
        if not isinstance(generator, str):
            if generator.inputs["image"] != image.name:
                raise InputError(
                    "`image_target`", expected=repr(generator.inputs["image"]), found=repr(image.name)
                )
            if generator.init_target is not None:
                targets["init"] = generator.init_target
        return targets, generator

    def split(self, study: Study, protocol: str, target: Target, others: Sequence[Study] = ()) -> Split:
        """Return the split of a protocol, the first of those that differ in what they test alone; see `splits`."""
        return self.splits(study, protocol, target, others)[0]

    def splits(
        self, study: Study, protocol: str, target: Target, others: Sequence[Study] = ()
    ) -> Sequence[Split]:
        """Return the splits of a protocol, of other people's studies too, which train on the same rows.

        Folds are refused, and so is a protocol that shares images between its parts.
        """
        stimuli = study.stimuli
        assert stimuli is not None

        def vectors_of(ids: Sequence[str]) -> np.ndarray:
            return np.asarray(target.embed(stimuli, list(ids)).select(list(ids)).flat)

        check_option("protocol", PROTOCOLS.resolve(protocol), self.job.dataset.card.protocols)
        splits: Sequence[Split] = PROTOCOLS[protocol](
            [study, *others], seed=self.job.seed, vectors_of=vectors_of
        )
        if not train_alike(splits) or any("stimulus" not in split.disjoint for split in splits):
            raise InputError(
                f"protocol {protocol!r}",
                expected="one training part, and no image on two sides, since images are retrieved",
                found=f"{len(splits)} split(s) disjoint in {', '.join(sorted(splits[0].disjoint)) or 'nothing'}",
                hint="random-by-image splits any study by image",
            )
        return splits

    def prepare(self, study: Study, split: Split) -> Prepared:
        """Return the study read through preprocessing that is fitted on the split's training rows."""
        config = self.config
        return prepare(study, split, config.zscore_by, config.keep_reliable, config.sensors)

    def _first_minutes(self, study: Study, split: Split) -> list[tuple[Amount, Prepared]]:
        """Prepare the first minutes before anything is fitted: an amount that cannot be had ends the run at once."""
        found = []
        for amount in first_minutes([split], self.config.minutes):
            with naming(amount.asked):
                prepared = self.prepare(study, amount.splits[0])
                count = len(prepared.stimulus_ids["validation"])
                if count < FEWEST_VALIDATION_IMAGES:
                    raise InputError(
                        f"protocol {split.protocol!r}",
                        expected=f"at least {FEWEST_VALIDATION_IMAGES} validation images",
                        found=str(count),
                    )
            found.append((amount, prepared))
        return found

    def _leakage(self, steps: Steps, study: Study, split: Split) -> tuple[dict[str, Any], frozenset[str]]:
        found: dict[str, Any] = {}

        def compute() -> tuple[Arrays, dict[str, Any]]:
            card, similar = leakage_card(study, split)
            return {}, {"card": card, "similar": sorted(similar)}

        key = {"split": split.hash, "stimuli": "" if study.stimuli is None else study.stimuli.fingerprint}
        _, found = steps.arrays(f"leakage check of {split.protocol}", key, compute)
        return found["card"], frozenset(found["similar"])

    def _context(self, seed: int) -> FitContext:
        job = self.job
        return FitContext(
            work_dir=job.work_dir,
            seed=seed,
            device=job.device,
            precision=job.precision,
            progress=job.progress,
        )

    def fit_baseline(
        self,
        steps: Steps,
        prepared: Prepared,
        targets: Mapping[str, Target],
        where: str = "",
        changes: Mapping[str, Any] | None = None,
    ) -> Fitted:
        """Fit the linear baseline; `where` ends the name of the step."""
        config = self.config
        settings = merge(dict(config.baseline_settings), dict(changes or {}))
        return fit_model(
            steps,
            prepared,
            targets,
            name=config.baseline,
            config=encoder_config(config.baseline, "", settings),
            context=self._context(self.job.seed),
            label=f"fit {config.baseline}{where}",
            seeded=False,
        )

    def fit_deep(
        self,
        steps: Steps,
        prepared: Prepared,
        targets: Mapping[str, Target],
        seed: int,
        *,
        name: str = "",
        where: str = "",
        shuffled: bool = False,
        changes: Mapping[str, Any] | None = None,
        keep_maps: bool = True,
    ) -> Fitted:
        """Fit one seed of the encoder, with `changes` to its settings, or of one that stands `beside`."""
        config = self.config
        own = merge(dict(config.encoder_settings), dict(changes or {}))
        settings = encoder_config(config.encoder, config.encoder_preset, own)
        if name:
            settings = encoder_config(name, "", config.beside_settings.get(name, {}))
        name = name or config.encoder
        return fit_model(
            steps,
            prepared,
            targets,
            name=name,
            config=settings,
            context=self._context(seed),
            label=f"fit {name} seed {seed}{where}" + (" on shuffled pairs" if shuffled else ""),
            shuffled=shuffled,
            keep_maps=keep_maps,
        )

    def _fit_all(
        self, steps: Steps, prepared: Prepared, targets: Mapping[str, Target]
    ) -> tuple[Fitted, list[Fitted], list[Fitted]]:
        """Return the baseline, the deep encoder's seeds, and the encoder fitted on shuffled pairs (or nothing)."""
        baseline = self.fit_baseline(steps, prepared, targets)
        deep = [self.fit_deep(steps, prepared, targets, seed) for seed in self.seeds]
        if not self.config.shuffled_train:
            steps.skip("fit on shuffled pairs", "the config turns it off")
            return baseline, deep, []
        return baseline, deep, [self.fit_deep(steps, prepared, targets, self.seeds[0], shuffled=True)]

    def _true(self, steps: Steps, prepared: Prepared, target: Target) -> dict[str, Latents]:
        """Return the true latents of every part that has images."""
        stimuli = prepared.cohort("train").stimuli
        with steps.block(f"embed images in {target.name}"):
            return {
                part: target.embed(stimuli, list(ids)).select(ids)
                for part, ids in prepared.stimulus_ids.items()
                if len(ids)
            }

    def ceilings(
        self,
        steps: Steps,
        study: Study,
        split: Split,
        gallery: Latents,
        simulated: tuple[Path, Mapping[str, Any]] | None = None,
        where: str = "",
    ) -> Ceilings:
        """Return what the oracle reaches, nothing where there is none.

        Parameters
        ----------
        simulated : (Path, mapping), optional
            Folder and parameters of the simulated study, where it is not the job's own.
        where : str
            Ends the name of the step.
        """
        job, sizes = self.job, self.config.gallery_sizes
        dataset = job.dataset
        if not isinstance(dataset, SimulatedDataset):
            return Ceilings()
        data_dir, parameters = simulated or (job.data_dir, self.config.simulation)

        def compute() -> tuple[Arrays, dict[str, Any]]:
            return compute_ceilings(dataset, data_dir, job.subject, study, split, gallery, sizes), {}

        key = {"split": split.hash, "sizes": list(sizes), "simulation": dict(parameters)}
        return read_ceilings(steps.arrays(f"oracle{where}", key, compute)[0])

    def _second(
        self,
        steps: Steps,
        study: Study,
        protocol: str,
        targets: Mapping[str, Target],
        results: SubjectResults,
    ) -> dict[str, Any]:
        """Score a second protocol by the baseline and the first seed, retrieval only; return its leakage card."""
        split = self.split(study, protocol, targets["retrieval"])
        card, similar = self._leakage(steps, study, split)
        found = self.brief(steps, self.prepare(study, split), targets, f" ({protocol})", similar, Ceilings())
        results.scores += found.scores
        return card

    def brief(
        self,
        steps: Steps,
        prepared: Prepared,
        targets: Mapping[str, Target],
        where: str,
        similar: frozenset[str],
        oracle: Ceilings,
        changes: Mapping[str, Any] | None = None,
        baseline_changes: Mapping[str, Any] | None = None,
        *,
        keep_maps: bool = False,
    ) -> RetrievalScores:
        """Score retrieval alone, by the first seed and the baseline, perhaps with changes to their settings.

        Trials that were mapped for it are removed from the disk, unless ``keep_maps`` says that they are needed again.
        """
        config = self.config
        only = {"retrieval": targets["retrieval"]}
        models = [
            self.fit_deep(
                steps, prepared, only, self.seeds[0], where=where, changes=changes, keep_maps=keep_maps
            ),
            self.fit_baseline(steps, prepared, only, where, baseline_changes),
        ]
        true = self._true(steps, prepared, targets["retrieval"])
        train_true, gallery = true["train"], true["test"]
        settings = Settings(
            subject=self.job.subject,
            split=prepared.split.protocol,
            gallery_sizes=config.gallery_sizes,
            n_bootstrap=config.n_bootstrap,
            n_permutations=config.n_permutations,
            seed=self.job.seed,
            ceilings=oracle.retrieval,
            near_duplicates=similar,
            **resampling_units(prepared.study, gallery.ids),
            brief=True,
        )
        with steps.block(f"score retrieval{where}"):
            found = score_retrieval([model.predicted for model in models], train_true, gallery, settings)
        found.warnings += [text for model in models for text in model.facts["warnings"]]
        return found

    def _text(
        self,
        steps: Steps,
        prepared: Prepared,
        target: Target,
        models: Sequence[Fitted],
        images: Mapping[str, Latents],
        settings: Settings,
        results: SubjectResults,
    ) -> None:
        """Add what images are retrieved by their captions, alone and with the image, and how both were weighted."""
        stimuli = prepared.cohort("train").stimuli
        captions = self._true(steps, prepared, target)
        captions["test"], tied = tie_captions(
            captions["test"], [stimuli.captions(i) for i in captions["test"].ids]
        )
        with steps.block("score retrieval by captions"):
            found = score_text(models, images, captions, settings)
        results.scores += found.retrieval.scores
        results.retrieval += found.retrieval.rows
        results.similarity |= found.retrieval.similarity
        facts = text_facts(found, target.name, tied, images)
        results.facts["notes"] += facts.pop("notes")
        results.facts["text_head"] = facts

"""Decode categories with linear classifiers, leaving runs out: a lab's first question.

Rows are cleaned run by run, averaged over blocks, and classified in folds that the protocol makes. Whatever a classifier
chooses is chosen inside the training part. The classifier of the headline is named beforehand; others stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, field_validator

from braindecode_suite.core.detrend import Detrend
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.minutes import Amount, first_minutes, naming
from braindecode_suite.core.recipe import Recipe, Step, ZScore
from braindecode_suite.core.reliability import KeepReliable
from braindecode_suite.core.score import Score
from braindecode_suite.core.spaces import VoxelSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.learning.searchlight import SearchlightScores
from braindecode_suite.metrics.bootstrap import bootstrap_mean, paired_difference
from braindecode_suite.metrics.classification import balanced_accuracy
from braindecode_suite.metrics.permutation import (
    MIN_PERMUTATIONS,
    MIN_REFITS,
    PermutationTest,
    false_discovery_rate,
)
from braindecode_suite.workflows.brain_maps import BrainMap
from braindecode_suite.workflows.classical_examples import Examples, make_examples, nuisance_columns
from braindecode_suite.workflows.classical_maps import (
    noise_maps,
    pattern_map,
    region_map,
    run_searchlight,
    searchlight_maps,
)
from braindecode_suite.workflows.classical_scoring import (
    AccuracyTests,
    Decoder,
    Fold,
    Relabelling,
    draw_labellings,
    fixed_scores,
    fold_rows,
    make_folds,
    nuisance_folds,
    recurrence,
    refitted_scores,
    relabelling_of,
    right,
)
from braindecode_suite.workflows.classical_words import CITATIONS, NOTES, SEARCHLIGHT_CITATIONS, chance_words
from braindecode_suite.workflows.facts import is_plain, kept_map
from braindecode_suite.workflows.job import Job, MinutesConfig, Share, WorkflowConfig
from braindecode_suite.workflows.minutes import minutes_facts
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.steps import Arrays, Steps

Name = Literal["lda", "ridge", "linear-svm"]
Permutations = Annotated[int, Field(ge=MIN_PERMUTATIONS)]


class ClassicalConfig(MinutesConfig):
    """Config of the workflow.

    Attributes
    ----------
    label : str
        Column of the trials, or of the stimuli's attributes, to decode.
    ignore : tuple of str
        Labels that are no class.
    average : str or None
        Column of the trials whose stretches are averaged; empty for single rows; None for ``block`` where there is one.
    detrend : int or None
        Order of the polynomial taken out of each run; None leaves drifts in (single-trial betas have none).
    zscore : {'run', 'session', ''}
        Units are z-scored within each, without labels.
    keep_reliable : float or None
        Least share of signal in single trials (their noise ceiling, from repeats of training stimuli) of the units that a
        fold keeps; None keeps all.
    classifier : {'lda', 'ridge', 'linear-svm'}
        That of the headline.
    beside : tuple of the same
        Others, on the same examples.
    rois : bool
        Decode also from each region alone and from all but it.
    nuisance : bool
        Decode also from motion, reaction time and eye signals, where recorded.
    searchlight_radius : float
        In millimetres; 0 for no searchlight.
    searchlight_permutations : int
        Relabellings with every sphere refitted, at least 200; 0 for none, and no p-values.
    n_permutations : int
        Relabellings with all folds refitted, for the headline and for regions alone.
    n_bootstrap : int
    """

    label: str = "category"
    ignore: tuple[str, ...] = ("rest",)
    average: str | None = None
    detrend: int | None = None
    zscore: Literal["run", "session", ""] = "run"
    keep_reliable: Share | None = None
    classifier: Name = "lda"
    beside: tuple[Name, ...] = ()
    rois: bool = True
    nuisance: bool = True
    searchlight_radius: NonNegativeFloat = 0.0
    searchlight_permutations: int = MIN_PERMUTATIONS
    n_permutations: Permutations = MIN_PERMUTATIONS
    n_bootstrap: Annotated[int, Field(ge=100)] = 10_000

    @field_validator("searchlight_permutations")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value and value < MIN_REFITS:
            raise ValueError(f"0, or at least {MIN_REFITS} refits")
        return value


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What all decoders of one subject share; `minutes` is None for all data, `where` says so in the names of steps."""

    protocol: str
    study: Study
    examples: Examples
    splits: list[Split]
    folds: list[Fold]
    y: np.ndarray
    relabelling: Relabelling
    labellings: np.ndarray
    recurring: float
    over: str
    units: np.ndarray
    minutes: float | None = None

    @property
    def where(self) -> str:
        return "" if self.minutes is None else f" (first {self.minutes:g} minutes)"

    @property
    def counts(self) -> list[int]:
        """Tested examples of each class that is tested."""
        tested = np.concatenate([fold.test for fold in self.folds])
        return np.unique(self.y[tested], return_counts=True)[1].tolist()


@dataclass(frozen=True, kw_only=True, eq=False)
class _NewImages:
    """The headline where held-out images are new."""

    work: _Work
    value: float
    test: PermutationTest


class ClassicalWorkflow:
    """Category decoding with linear classifiers in folds: regions, searchlight, permutations, nuisance controls."""

    name: ClassVar[str] = "classical-decoding"
    label: ClassVar[str] = "classicaldecoding"
    config_class: ClassVar[type[WorkflowConfig]] = ClassicalConfig

    def __init__(self, config: ClassicalConfig, job: Job) -> None:
        self.config, self.job = config, job
        self.protocol = config.protocol or job.dataset.card.protocols[0]

    def plan(self) -> Sequence[str]:
        """Return the names of the steps."""
        names = ["open the study", f"decode by {self.config.classifier}", "relabel and refit"]
        names += [f"decode by {name}" for name in self._beside()]
        names += ["new stimuli"] if self._new_images_protocol() else []
        names += ["regions"] if self.config.rois else []
        names += ["nuisances"] if self.config.nuisance else []
        names += ["searchlight"] if self.config.searchlight_radius else []
        decoders = " and ".join([self.config.classifier, *self._beside()])
        return [*names, *(f"first {minutes:g} minutes: {decoders}" for minutes in self.config.minutes)]

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        with steps.block("open the study"):
            work, amounts = self._open()
        results = SubjectResults(space=work.study.space)
        with steps.block("signal and reliability"):
            features = self._whole_folds(work, only=1)[0].features
            results.maps |= noise_maps(work.study, work.examples, features, self.job.seed)
        models: list[dict[str, Any]] = []
        correct: dict[str, np.ndarray] = {}
        headline: AccuracyTests | None = None
        for name in (self.config.classifier, *self._beside()):
            predicted, chosen = self._decode(steps, work, name)
            is_headline = name == self.config.classifier
            tests = self._test(steps, work, name, predicted, refit=is_headline)
            headline = headline or tests
            tested, correct[name] = right(predicted, work.y)
            score = self._score(work, name, predicted, tests.accuracy)
            results.scores.append(score)
            results.scores += self._balanced(work, score, predicted, tests.balanced)
            results.predictions += prediction_rows(work, name, predicted)
            results.latents[f"{name}_null"] = tests.accuracy.null
            models.append(
                {
                    "name": name,
                    "chosen inside the training parts": chosen,
                    **_test_facts(tests.accuracy, work, is_headline),
                }
            )
            if not is_headline:
                results.scores.append(self._difference(work, score, correct, tested, name))
        assert headline is not None
        results.latents["labels"] = work.examples.labels
        results.latents["run"] = work.examples.run
        new = self._new_images(steps, work, results)
        self._regions(steps, work, results)
        self._nuisances(steps, work, results, correct[self.config.classifier])
        light = self._searchlight(steps, work, results)
        self._patterns(steps, work, results)
        results.facts = self._facts(work, models, headline, new, light)
        results.facts["study"] |= _noise_facts(results)
        results.maps |= kept_map([fold.recipe for fold in work.folds])
        if amounts:
            self._curve(steps, work, amounts, results)
        return results

    def _curve(self, steps: Steps, work: _Work, amounts: Sequence[Amount], results: SubjectResults) -> None:
        """Add accuracies at the first minutes of the training part, every classifier with its test as at all data."""
        recipes = []
        for amount in amounts:
            folds = make_folds(work.study, work.examples, amount.splits, self._recipe())
            some = replace(work, splits=list(amount.splits), folds=folds, minutes=amount.minutes)
            correct: dict[str, np.ndarray] = {}
            for name in (self.config.classifier, *self._beside()):
                predicted, _ = self._decode(steps, some, name)
                tested, correct[name] = right(predicted, some.y)
                tests = self._test(steps, some, name, predicted, refit=name == self.config.classifier)
                score = self._score(some, name, predicted, tests.accuracy)
                results.scores += [score, *self._balanced(some, score, predicted, tests.balanced)]
                if name != self.config.classifier:
                    results.scores.append(self._difference(some, score, correct, tested, name))
            recipes.append(folds[0].recipe)
            results.facts["splits"] += [split.card() for split in amount.splits]
        results.facts["minutes"] = minutes_facts(work.splits, work.folds[0].recipe, amounts, recipes)

    def _beside(self) -> list[Name]:
        return [name for name in self.config.beside if name != self.config.classifier]

    def _open(self) -> tuple[_Work, list[Amount]]:
        job, config = self.job, self.config
        study = job.dataset.open(job.data_dir, job.subject, job.work_dir, **config.dataset_options)
        if len(study.responses.shape) != 2:
            raise InputError(
                f"{study.dataset} sub-{study.subject}",
                expected="responses of shape (trials, units)",
                found=str(study.responses.shape),
            )
        work = self._work(study, self.protocol)
        amounts = first_minutes(work.splits, config.minutes)
        for amount in amounts:
            with naming(amount.asked):
                fold_rows(work.examples, amount.splits)
        return work, amounts

    def _work(self, study: Study, protocol: str) -> _Work:
        """Return folds, labels and relabellings of a protocol."""
        config, seed = self.config, self.job.seed
        splits = PROTOCOLS[protocol]([study], seed=seed)
        examples = make_examples(study, config.label, config.ignore, config.average)
        if config.keep_reliable is not None and examples.repeated_conditions:
            raise InputError(
                "`keep_reliable`",
                expected="stimuli that can be told apart within a class",
                found="one stimulus a class",
                hint="its repeats would choose units by the labels, which refits on relabelled examples do not repeat",
            )
        folds = make_folds(study, examples, splits, self._recipe())
        y = np.unique(examples.labels.astype(str), return_inverse=True)[1]
        over, units = _resampled(examples, splits[0])
        relabelling = relabelling_of(examples, y, splits[0])
        return _Work(
            protocol=protocol,
            study=study,
            examples=examples,
            splits=splits,
            folds=folds,
            y=y,
            relabelling=relabelling,
            labellings=draw_labellings(y, relabelling, config.n_permutations, seed),
            recurring=recurrence(examples, folds),
            over=over,
            units=units,
        )

    def _new_images_protocol(self) -> str:
        """Return the protocol that leaves the images of the held-out part out of training, where there is one."""
        name = f"{self.protocol}-new-images"
        return name if name in PROTOCOLS else ""

    def _recipe(self) -> Recipe:
        keep = self.config.keep_reliable
        return Recipe((*self._cleaning().steps, *([] if keep is None else [KeepReliable(keep)])))

    def _whole_folds(self, work: _Work, only: int | None = None) -> list[Fold]:
        """Return folds with the features of all units, whatever is kept for decoding."""
        if self.config.keep_reliable is None:
            return work.folds[:only]
        return make_folds(work.study, work.examples, work.splits[:only], self._cleaning())

    def _cleaning(self) -> Recipe:
        steps: list[Step] = []
        if self.config.detrend is not None:
            steps.append(Detrend(self.config.detrend))
        if self.config.zscore:
            columns = ("session", "run") if self.config.zscore == "run" else ("session",)
            steps.append(ZScore(by=columns, scope="heldout-block"))
        return Recipe(tuple(steps))

    def _key(self, work: _Work, **more: Any) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "splits": [split.hash for split in work.splits],
            "seed": self.job.seed,
            **more,
        }

    def _decode(
        self, steps: Steps, work: _Work, name: str, label: str = ""
    ) -> tuple[np.ndarray, dict[str, int]]:
        def compute() -> tuple[Arrays, dict[str, Any]]:
            predicted, chosen = Decoder(work.folds, name).decode(work.y)
            return {"predicted": predicted}, dict(chosen.most_common())

        what = f"decode by {name} {label}".strip() + work.where
        arrays, chosen = steps.arrays(what, self._key(work, classifier=name), compute)
        return arrays["predicted"], chosen

    def _test(
        self,
        steps: Steps,
        work: _Work,
        name: str,
        predicted: np.ndarray,
        *,
        refit: bool,
        units: np.ndarray | None = None,
        label: str = "",
    ) -> AccuracyTests:
        if not refit:
            return AccuracyTests.of(fixed_scores(predicted, work.labellings), work.relabelling.n_distinct)

        def compute() -> tuple[Arrays, dict[str, Any]]:
            return {"scores": refitted_scores(Decoder(work.folds, name, units), work.labellings)}, {}

        what = f"relabel and refit {label}".strip() + work.where
        arrays, _ = steps.arrays(what, self._key(work, classifier=name, units=label), compute)
        return AccuracyTests.of(arrays["scores"], work.relabelling.n_distinct)

    def _score(self, work: _Work, name: str, predicted: np.ndarray, test: PermutationTest | None) -> Score:
        tested, values = right(predicted, work.y)
        interval = bootstrap_mean(
            values,
            work.units[tested],
            over=work.over,
            seed=self.job.seed,
            n_resamples=self.config.n_bootstrap,
        )
        return Score(
            subject=self.job.subject,
            metric="accuracy",
            value=interval.value,
            ci_low=interval.low,
            ci_high=interval.high,
            ci_over=work.over,
            chance=None if test is None else test.chance,
            p_value=None if test is None else test.p_value,
            p_correction="" if test is None else test.correction,
            n=interval.n_rows,
            n_repeats=float(np.mean([len(work.examples.rows[i]) for i in tested])),
            n_subjects=1,
            candidates="all",
            level="mean-signal" if work.examples.averaged else "single",
            model=name,
            target=self.config.label,
            split=work.protocol,
            minutes=work.minutes,
        )

    def _balanced(
        self, work: _Work, score: Score, predicted: np.ndarray, test: PermutationTest
    ) -> list[Score]:
        """Return the balanced accuracy where classes are not equally frequent."""
        if len(set(work.counts)) == 1:
            return []
        tested, _ = right(predicted, work.y)
        return [
            replace(
                score,
                metric="balanced_accuracy",
                value=balanced_accuracy(work.y[tested], predicted[tested]),
                ci_low=None,
                ci_high=None,
                ci_over="",
                chance=test.chance,
                p_value=test.p_value,
                p_correction=test.correction,
            )
        ]

    def _new_images(self, steps: Steps, work: _Work, results: SubjectResults) -> _NewImages | str:
        """Add the headline where the images of each held-out part are left out of training, if images recur; or say why not."""
        protocol, name = self._new_images_protocol(), self.config.classifier
        if not protocol or not work.recurring:
            return ""
        try:
            new = self._work(work.study, protocol)
        except InputError as error:
            steps.skip("new stimuli", str(error))
            return str(error)
        predicted, _ = self._decode(steps, new, name, label="new stimuli")
        tests = self._test(steps, new, name, predicted, refit=True, label="new stimuli")
        score = self._score(new, name, predicted, tests.accuracy)
        results.scores += [score, *self._balanced(new, score, predicted, tests.balanced)]
        results.predictions += prediction_rows(new, f"{name} (new images)", predicted)
        results.latents[f"{name}_new-images_null"] = tests.accuracy.null
        return _NewImages(work=new, value=score.value, test=tests.accuracy)

    def _difference(
        self, work: _Work, score: Score, correct: dict[str, np.ndarray], tested: np.ndarray, versus: str
    ) -> Score:
        interval = paired_difference(
            correct[self.config.classifier],
            correct[versus],
            work.units[tested],
            over=work.over,
            seed=self.job.seed,
            n_resamples=self.config.n_bootstrap,
        )
        return replace(
            score,
            model=self.config.classifier,
            versus=versus,
            value=interval.value,
            ci_low=interval.low,
            ci_high=interval.high,
            chance=None,
            p_value=None,
            p_correction="",
        )

    def _regions(self, steps: Steps, work: _Work, results: SubjectResults) -> None:
        """Add accuracy from each region alone, and from all units but it."""
        if not self.config.rois:
            return
        rois = {name: member for name, member in work.study.space.rois.items() if member.any()}
        if not rois:
            steps.skip("regions", "the study has no regions of interest")
            return
        name = self.config.classifier
        alone: list[Score] = []
        for roi, member in rois.items():
            if not all(fold.of(member).any() for fold in work.folds):
                steps.skip(f"region {roi}", "a fold keeps none of its units")
                continue
            predicted, _ = Decoder(work.folds, name, member).decode(work.y)
            tests = self._test(steps, work, name, predicted, refit=True, units=member, label=roi)
            alone.append(replace(self._score(work, name, predicted, tests.accuracy), roi=roi))
            if all(fold.of(~member).any() for fold in work.folds):
                rest, _ = Decoder(work.folds, name, ~member).decode(work.y)
                results.scores.append(replace(self._score(work, name, rest, None), roi=f"all but {roi}"))
        if not alone:
            return
        corrected = false_discovery_rate([score.p_value or np.nan for score in alone])
        results.scores += [
            replace(score, p_value=float(p), p_correction="fdr-bh over regions")
            for score, p in zip(alone, corrected, strict=True)
        ]
        chance = float(np.mean([score.chance for score in alone]))
        results.maps["regions"] = region_map(alone, rois, chance)

    def _nuisances(self, steps: Steps, work: _Work, results: SubjectResults, brain: np.ndarray) -> None:
        """Add accuracy from recorded nuisances alone: what the classifier would reach without the brain."""
        if not self.config.nuisance:
            return
        found = nuisance_columns(work.study)
        if not found:
            steps.skip("nuisances", "neither motion, reaction times nor eye signals are in the trials")
            return
        for control, columns in found.items():
            with steps.block(f"nuisances: {control}"):
                folds = nuisance_folds(work.study, work.examples, work.folds, columns)
                predicted, _ = Decoder(folds, self.config.classifier).decode(work.y)
                tests = self._test(steps, work, self.config.classifier, predicted, refit=False)
                score = replace(
                    self._score(work, self.config.classifier, predicted, tests.accuracy),
                    control=control,
                    level="",
                )
                results.scores.append(score)
                tested, values = right(predicted, work.y)
                both = {self.config.classifier: brain, control: values}
                results.scores.append(
                    replace(self._difference(work, score, both, tested, control), control="brain")
                )

    def _patterns(self, steps: Steps, work: _Work, results: SubjectResults) -> None:
        """Add the activation patterns of the headline's classifier."""
        unit = f"z within {self.config.zscore}" if self.config.zscore else work.study.unit
        with steps.block("activation patterns"):
            decoder = Decoder(work.folds, self.config.classifier)
            results.maps["pattern"] = pattern_map(decoder, work.y, work.examples.classes, unit)

    def _searchlight(self, steps: Steps, work: _Work, results: SubjectResults) -> dict[str, Any]:
        """Add the maps of accuracies in spheres and of their corrected p-values; return what to say of them."""
        radius, m = self.config.searchlight_radius, self.config.searchlight_permutations
        if not radius:
            return {}
        space = work.study.space
        if not isinstance(space, VoxelSpace):
            steps.skip("searchlight", "needs voxels of a volume")
            return {}

        def compute() -> tuple[Arrays, dict[str, Any]]:
            labellings = draw_labellings(work.y, work.relabelling, m, self.job.seed)
            return vars(run_searchlight(space, self._whole_folds(work), labellings, radius)), {}

        arrays, _ = steps.arrays("searchlight", self._key(work), compute)
        maps, facts = searchlight_maps(
            SearchlightScores(**arrays), len(work.examples.classes), radius, work.relabelling.n_distinct
        )
        results.maps |= maps
        return {"radius (mm)": radius, **facts}

    def _facts(
        self,
        work: _Work,
        models: list[dict[str, Any]],
        headline: AccuracyTests,
        new: _NewImages | str,
        light: dict[str, Any],
    ) -> dict[str, Any]:
        study, examples = work.study, work.examples
        provenance = dict(study.provenance)
        warnings = [str(warning) for warning in provenance.pop("warnings", [])]
        return {
            "seeds": [self.job.seed],
            "study": {
                "n_trials": len(study.trials),
                "n_units": study.n_units,
                "n_valid": study.n_units if study.valid is None else int(study.valid.sum()),
                "unit": study.unit,
                "sessions": int(study.trials["session"].nunique()),
                "rois": {name: int(member.sum()) for name, member in study.space.rois.items()},
                "warnings": warnings,
                "provenance": {key: value for key, value in provenance.items() if is_plain(value)},
            },
            "splits": [
                split.card() for split in [*work.splits, *([] if isinstance(new, str) else new.work.splits)]
            ],
            "recipe": over_folds([fold.recipe for fold in work.folds]),
            "models": models,
            "classification": {
                "label": self.config.label,
                "classes": examples.classes,
                "examples": len(examples),
                "averaged over": examples.averaged or "nothing: single rows",
                "chance": chance_words(
                    headline.accuracy,
                    work.counts,
                    work.recurring,
                    new if isinstance(new, str) else (new.value, new.test),
                    "session" if "session" in work.splits[0].disjoint else "run",
                ),
                "searchlight": light or None,
            },
            "methods": methods(work, self.config),
            "citations": [*CITATIONS, *(SEARCHLIGHT_CITATIONS if light else [])],
            "notes": NOTES,
        }


def over_folds(recipes: Sequence[Recipe | None]) -> list[dict[str, Any]]:
    """Return the description of the first fold's recipe; what differs between folds is a list, least to most."""
    described = [recipe.describe() for recipe in recipes if recipe is not None]
    steps = [dict(step) for step in described[0]] if described else []
    for k, step in enumerate(steps):
        for key, value in step.items():
            values = [one[k][key] for one in described]
            if any(other != value for other in values):
                step[key] = [min(values), max(values)]
    return steps


def _noise_facts(results: SubjectResults) -> dict[str, Any]:
    found = results.maps.get("ncsnr")
    if not isinstance(found, BrainMap):
        return {}
    return {"ncsnr_median": float(np.median(found.values)), "ncsnr_source": found.description}


def prediction_rows(work: _Work, model: str, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Return one row a tested example: what it was, and what it was called."""
    classes = work.examples.classes
    rows = []
    for fold in work.folds:
        for example in fold.test:
            rows.append(
                {
                    "example": int(example),
                    "model": model,
                    "fold": fold.label,
                    "run": str(work.examples.run[example]),
                    "stimulus_id": str(work.examples.stimulus[example]),
                    "truth": classes[work.y[example]],
                    "predicted": classes[predicted[example]],
                }
            )
    return rows


def methods(work: _Work, config: ClassicalConfig) -> list[str]:
    """Return paragraphs that say what was done."""
    examples = work.examples
    averaged = f"averaged over each {examples.averaged}" if examples.averaged else "taken one by one"
    cleaning = []
    if config.detrend is not None:
        cleaning.append(f"a polynomial of order {config.detrend} was taken out of every run")
    if config.zscore:
        cleaning.append(f"every unit was z-scored within each {config.zscore}")
    used = " and ".join(cleaning) or "responses were used as they are"
    kept = ""
    if config.keep_reliable is not None:
        kept = (
            f" In each fold those units were kept whose single trials are signal to at least {config.keep_reliable:g} of their "
            "variance, estimated without rectification from the repeats of the training part."
        )
    return [
        f"Examples. {used[:1].upper()}{used[1:]}, of training and held-out rows each by its own rows and without labels "
        f"(transductive).{kept} Rows were then {averaged}: {len(examples)} examples of {len(examples.classes)} classes.",
        f"Decoding. Protocol {work.splits[0].protocol}, {len(work.splits)} folds. The classifier of the headline, "
        f"{config.classifier}, was named beforehand. Linear discriminant analysis shrinks each class's covariance of standardised "
        "features by Ledoit and Wolf's formula, from training examples alone; ridge and the linear support vector machine choose "
        "penalty or cost by leaving training groups out in turn.",
        f"Statistics. Intervals are 95 % percentile bootstraps over {work.over}s ({config.n_bootstrap} resamples). The p-value of "
        f"the headline refits all folds on {config.n_permutations} relabellings ({work.relabelling.words}; "
        f"{float(work.relabelling.n_distinct):.3g} are distinct); chance is the mean of these refits. Classifiers beside the "
        "headline are tested with their fits kept, conditional on the model.",
        "Maps. Activation patterns are the covariance of the training examples times the classifier's weights (Haufe et al. "
        "2014), the mean over folds."
        + (
            f" The searchlight has spheres of {config.searchlight_radius:g} mm and a ridge classifier whose penalty is Ledoit and "
            "Wolf's shrinkage of its training rows. "
            + (
                f"Every sphere was refitted on {config.searchlight_permutations} relabellings, the same for all spheres; p is "
                "corrected by the largest accuracy anywhere."
                if config.searchlight_permutations
                else "It was not tested."
            )
            if config.searchlight_radius
            else ""
        ),
    ]


def _resampled(examples: Examples, split: Split) -> tuple[str, np.ndarray]:
    if examples.repeated_conditions or "run" in split.disjoint:
        return ("session", examples.session) if "session" in split.disjoint else ("run", examples.run)
    return "image", examples.stimulus


def _test_facts(test: PermutationTest, work: _Work, refit: bool) -> dict[str, Any]:
    low, high = np.quantile(test.null, [0.025, 0.975])
    return {
        "permutations": len(test.null),
        "permuted": work.relabelling.words + (", all folds refitted" if refit else ", fits kept"),
        "distinct relabellings": f"{float(test.n_distinct):.3g}",
        "null mean": round(test.chance, 4),
        "null 95 % range": f"{low:.3f} to {high:.3f}",
    }

"""MEG and EEG to images, resolved in time: what the decoding workflows do, and what could be decoded when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from braindecode_suite.core.checks import check_match
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Target
from braindecode_suite.core.protocols import SimulatedDataset
from braindecode_suite.core.score import Score
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.shares import Portion, naming_share, portions
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.metrics.evidence import FEWEST
from braindecode_suite.metrics.unique_variance import LEAST_IMAGES_PER_FEATURE
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.decoding import Decoded, Decoding, filtered, open_study
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.image_features import ImageFeatures, image_features
from braindecode_suite.workflows.job import ENDING, Job
from braindecode_suite.workflows.learning_curve import curve_facts, hits, named
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.oracle import Ceilings
from braindecode_suite.workflows.other_channels import OtherChannels, find_other_channels
from braindecode_suite.workflows.people import Group, alone, gained, groups, several_people
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.scoring import score_retrieval
from braindecode_suite.workflows.sensor_occlusion import occlude_sensors
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.stream_bundle import save_stream_bundle
from braindecode_suite.workflows.time_resolved import (
    Sliding,
    decode_growing,
    decode_sliding,
    map_epochs,
    mean_response,
)
from braindecode_suite.workflows.time_scoring import (
    generalisation_facts,
    picture_seconds,
    score_course,
    score_features,
    score_identification,
    score_unique_variance,
)

NOT_CAUSAL = (
    "The recordings were filtered in both directions in time: what comes after a sample reaches into it, over about one period of the "
    "cut-off. The option phase=causal of the dataset filters forwards only."
)


OCCLUSION = "loss without the sensors around"
WINDOW_MODEL = "ridge"
"""What sliding windows are decoded by, whatever stands as the baseline of whole epochs."""
PICTURE = 64
"""Largest side of the pictures that the live page shows, in pixels."""


def small_pictures(images: np.ndarray) -> np.ndarray:
    """Return images of shape (rows, height, width, 3), every k-th pixel of those that are large."""
    every = -(-max(images.shape[1:3]) // PICTURE)
    return np.ascontiguousarray(images[:, ::every, ::every])


class MegWorkflow:
    """From sensors: what the workflow mindeye does, then window by window; simulated studies at every jitter too.

    Parameters
    ----------
    config : MegWorkflowConfig
    job : Job
    """

    name: ClassVar[str] = "meg"
    label: ClassVar[str] = "meg"
    config_class: ClassVar[type[MegWorkflowConfig]] = MegWorkflowConfig

    def __init__(self, config: MegWorkflowConfig, job: Job) -> None:
        self.config, self.job = config, job
        self.decoding = Decoding(config, job, self.name)
        if config.jitters and not isinstance(job.dataset, SimulatedDataset):
            raise InputError("`jitters`", expected="none for recorded data", found=str(list(config.jitters)))

    def plan(self) -> Sequence[str]:
        """Return the names of the steps."""
        config, time = self.config, self.config.time
        steps = [*self.decoding.plan(), "ridge on sliding windows"]
        if config.occlusion:
            steps.append(f"{config.encoder} without sensors")
        if time.growing_every:
            steps += [
                f"fit {config.encoder} on windows of random length",
                f"{config.encoder} on growing windows",
            ]
        if config.controls_from != "none":
            steps.append(f"{config.baseline} on eye and reference channels alone, where recorded")
        if config.live:
            steps += [
                f"causal filters: {config.baseline}, {config.encoder} seed {self.decoding.seeds[0]}, retrieval only",
                f"fit {config.encoder} on windows of random length (causal filters)",
                "calibrate live decoding",
            ]
        steps += [
            f"jitter of {jitter:g} ms: {config.baseline}, {config.encoder} seed {self.decoding.seeds[0]} and the oracle, retrieval only"
            for jitter in config.jitters
        ]
        steps += [
            f"{share:.4g} of the training images: {config.baseline} and {config.encoder} seed {self.decoding.seeds[0]}, retrieval only"
            for share in self._shares
        ]
        if config.people:
            who = ["alone", "with others", *(f"left out, {m:g} minutes" for m in config.calibration_minutes)]
            steps += [
                f"people: {one}, {config.baseline} and {config.encoder} seed {self.decoding.seeds[0]}, retrieval only"
                for one in who
            ]
        return [*steps, *ENDING]

    @property
    def _shares(self) -> tuple[float, ...]:
        """Shares of the training images of the learning curve, all of them last; none where none is asked for."""
        return (*self.config.learning_curve, 1.0) if self.config.learning_curve else ()

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        other_channels, missing = self._check_sensors()
        others = self._others()
        some: list[tuple[Portion, Prepared]] = []
        people: list[Group] = []

        def check(study: Study, split: Split, target: Target) -> None:
            some.extend(self._portions(study, split))
            if others:
                people.extend(self._groups(study, split, target, others))

        decoded = self.decoding.decode(steps, check)
        decoded.results.facts["time"] = self._time_courses(steps, decoded)
        if self.config.occlusion:
            self._occlusion(steps, decoded)
        for control, reason in missing.items():
            steps.skip(f"{control} channels alone", reason)
        for other in other_channels:
            self._other_channels(steps, decoded, other)
        n_calibration = len(decoded.prepared.split.validation[0])
        if self.config.live and n_calibration < FEWEST:
            steps.skip(
                "calibrate live decoding",
                f"it takes at least {FEWEST} validation trials, there are {n_calibration}",
            )
        elif self.config.live:
            decoded.results.facts["causal"] = self._live(steps, decoded)
        if self.config.jitters:
            decoded.results.facts["jitters"] = self._jitters(steps, decoded)
        if some:
            decoded.results.facts["learning_curve"] = self._learning_curve(steps, decoded, some)
        if people:
            decoded.results.facts["people"] = self._people(steps, decoded, people)
        return self.decoding.finish(decoded)

    def _check_sensors(self) -> tuple[list[OtherChannels], dict[str, str]]:
        """Raise, before anything is fitted, where the recordings are not of sensors; opening reads headers only.

        Returns channels that are controls, and why there are none of a control.
        """
        job = self.job
        study = job.dataset.open(job.data_dir, job.subject, job.work_dir, **self.config.dataset_options)
        if not isinstance(study.space, SensorSpace):
            raise InputError(
                f"workflow {self.name!r}",
                expected="recordings of sensors (MEG or EEG)",
                found=f"{study.space.describe()['kind']} of {job.dataset.card.name}",
            )
        return find_other_channels(job, self.config.dataset_options, self.config.controls_from, study)

    def _other_channels(self, steps: Steps, decoded: Decoded, other: OtherChannels) -> None:
        """Add what the baseline reads from channels that are not the brain's, and how much more it reads from the sensors."""
        config, control, where = self.config, other.control, f" ({other.control} channels alone)"
        with steps.block(f"filter the {control} channels"):
            try:
                study = filtered(other.study)
            except InputError as error:
                study, reason = None, error.found
        if study is None:
            steps.skip(f"{control} channels alone", reason)
            return
        prepared = self.decoding.prepare(study, decoded.prepared.split)
        alone = self.decoding.fit_baseline(
            steps, prepared, {"retrieval": decoded.targets["retrieval"]}, where
        )
        brain = next(m for m in decoded.models if m.name == config.baseline and m.control == "brain")
        true = decoded.true
        with steps.block(f"score retrieval{where}"):
            scored = score_retrieval(
                [brain.predicted, replace(alone.predicted, control=control)],
                true["train"],
                true["test"],
                replace(decoded.settings, brief=True),
            )
        decoded.results.scores += [s for s in scored.scores if control in (s.control, s.versus)]
        names = ", ".join(other.names[:6]) + (", ..." if len(other.names) > 6 else "")
        decoded.results.facts["notes"].append(
            f"Control {control}: {config.baseline} on {len(other.names)} channels alone ({names}), same trials, split and penalties."
        )

    def _time_courses(self, steps: Steps, decoded: Decoded) -> dict[str, Any]:
        """Add a score for every window; return what the report draws."""
        prepared, config = decoded.prepared, self.config
        epochs = map_epochs(steps, prepared)
        scaled = "scale" in config.sensors.order
        decoded.results.evoked = {"mean of training trials": mean_response(prepared, epochs)}
        decoded.results.facts["sensors"] = {"unit": "interquartile ranges" if scaled else prepared.study.unit}
        words: dict[str, Any] = {"picture_seconds": picture_seconds(prepared.study)}
        signal = prepared.study.signal
        if signal is not None and not signal.causal:
            words["note"] = NOT_CAUSAL
        features = self._features(steps, decoded)
        sliding = decode_sliding(
            steps,
            prepared,
            epochs,
            decoded.true["train"],
            decoded.true["test"],
            config.time,
            {name: made.train for name, made in features.sets.items()},
        )
        by_centre = {
            **words,
            "windows_are": f"windows of {1000 * config.time.width:g} ms, each with a map of its own",
            "axis": "centre of the window, seconds from the picture",
        }
        facts = {"sliding": {**self._score_sliding(steps, decoded, sliding), **by_centre}}
        for kind, course in self._score_graded(steps, decoded, sliding, features).items():
            facts[kind] = {**course, **by_centre}
        if len(sliding.generalisation) > 1:
            facts["generalisation"] = generalisation_facts(sliding)
        if config.time.growing_every:
            facts["growing"] = {
                **self._score_growing(steps, decoded),
                **words,
                "windows_are": "growing windows, one network for all of them",
                "axis": "end of the window, seconds from the picture",
            }
        return facts

    def _score_sliding(self, steps: Steps, decoded: Decoded, sliding: Sliding) -> dict[str, Any]:
        """Add the scores of sliding windows, of averaged predictions and of single trials."""
        gallery, test = decoded.true["test"], decoded.prepared.split.test[0]
        column = {stimulus_id: k for k, stimulus_id in enumerate(gallery.ids)}
        with steps.block("score sliding windows"):
            rows, found = score_course(
                sliding.windows,
                sliding.similarity,
                decoded.settings,
                model=WINDOW_MODEL,
                target=gallery.target,
                n_repeats=len(test) / len(gallery),
                single=sliding.single,
                shown=np.array([column[i] for i in decoded.study.stimulus_ids[test]]),
            )
        decoded.results.scores += rows
        return found

    def _features(self, steps: Steps, decoded: Decoded) -> ImageFeatures:
        """Return what windows are asked for beside the target; a skipped step for what is not known."""
        with steps.block("early and late features of images"):
            stimuli = decoded.prepared.cohort("test").stimuli
            ids = (list(decoded.true[part].ids) for part in ("train", "test"))
            features = image_features(stimuli, *ids)
        for name, reason in features.missing.items():
            steps.skip(f"{name} features of images over time", reason)
        return features

    def _score_graded(
        self, steps: Steps, decoded: Decoded, sliding: Sliding, features: ImageFeatures
    ) -> dict[str, dict[str, Any]]:
        """Add graded scores of windows, for the target and for early and late features, with their peaks."""
        prepared, target = decoded.prepared, decoded.true["test"].target
        stop = picture_seconds(prepared.study)
        simulated = prepared.study.provenance.get("simulated_peaks", {})
        with steps.block("peaks of sliding windows"):
            rows, found = score_identification(
                sliding.windows,
                sliding.similarity,
                decoded.settings,
                model=WINDOW_MODEL,
                target=target,
                stop=stop,
                simulated=simulated.get("late"),
            )
            decoded.results.scores += rows
            facts = {"identification": found}
            if features.sets:
                rows, facts["features"] = score_features(
                    sliding.windows,
                    sliding.features,
                    {name: made.test for name, made in features.sets.items()},
                    decoded.settings,
                    model=WINDOW_MODEL,
                    stop=stop,
                    simulated=simulated,
                )
                decoded.results.scores += rows
                decoded.results.scores += self._unique_variance(steps, decoded, sliding, features)
        return facts

    def _unique_variance(
        self, steps: Steps, decoded: Decoded, sliding: Sliding, features: ImageFeatures
    ) -> list[Score]:
        """Return rows of unique variance; none, and a skipped step, where it cannot be told."""
        name, n = "unique variance of decoded features", len(decoded.true["test"])
        true = {kind: made.test for kind, made in features.sets.items()}
        n_features = sum(values.shape[1] for values in true.values())
        if len(true) < 2 or LEAST_IMAGES_PER_FEATURE * n_features > n:
            reason = "it takes two sets" if len(true) < 2 else f"{n} test images for {n_features} features"
            steps.skip(name, reason)
            return []
        return score_unique_variance(
            sliding.windows, sliding.features, true, decoded.settings, model=WINDOW_MODEL
        )

    def _score_growing(self, steps: Steps, decoded: Decoded) -> dict[str, Any]:
        """Fit one network to windows of random length and add its scores at each of them."""
        prepared, gallery = decoded.prepared, decoded.true["test"]
        fitted = self._fit_growing(steps, prepared, decoded.targets)
        growing = decode_growing(
            steps, prepared, fitted, decoded.true["train"], gallery, self.config.time, self.job.device
        )
        with steps.block("score growing windows"):
            rows, found = score_course(
                growing.windows,
                growing.similarity,
                decoded.settings,
                model=f"{fitted.name}, growing",
                target=gallery.target,
                seed=fitted.seed,
                named="end",
                n_repeats=len(prepared.split.test[0]) / len(gallery),
            )
        decoded.results.scores += rows
        return found

    def _occlusion(self, steps: Steps, decoded: Decoded) -> None:
        """Add where on the helmet the encoder's first seed reads."""
        first = next(m for m in decoded.models if m.name == self.config.encoder and m.control == "brain")
        drop, facts = occlude_sensors(
            steps,
            decoded.prepared,
            first,
            decoded.true["train"],
            decoded.true["test"],
            decoded.settings,
            self.job.device,
        )
        decoded.results.evoked[OCCLUSION] = drop
        decoded.results.facts["sensors"]["occlusion"] = facts

    def _fit_growing(
        self, steps: Steps, prepared: Prepared, targets: Mapping[str, Target], where: str = ""
    ) -> Fitted:
        """Fit the encoder's first seed on windows of random length, for retrieval only."""
        settings = merge({"window": "growing"}, self.config.growing_settings)
        return self.decoding.fit_deep(
            steps,
            prepared,
            {"retrieval": targets["retrieval"]},
            self.decoding.seeds[0],
            where=f" on windows of random length{where}",
            changes=settings,
        )

    def _live(self, steps: Steps, decoded: Decoded) -> dict[str, Any]:
        """Score causally filtered recordings, and keep a decoder of them that is calibrated on validation trials."""
        job, config = self.job, self.config
        where, options = " (causal filters)", {**config.dataset_options, "phase": "causal"}
        target, gallery = decoded.targets["retrieval"], decoded.true["test"]
        study = open_study(job, options)
        prepared = self.decoding.prepare(study, self.decoding.split(study, self.decoding.protocol, target))
        scored = self.decoding.brief(steps, prepared, decoded.targets, where, frozenset(), Ceilings())
        named = f"{prepared.split.protocol}{where}"
        decoded.results.scores += [replace(score, split=named) for score in scored.scores]
        fitted = self._fit_growing(steps, prepared, decoded.targets, where)
        stimuli = prepared.cohort("test").stimuli
        with steps.block("calibrate live decoding") as notes:
            encoder = ENCODERS[fitted.name].load(
                fitted.folder, prepared.cohort("validation"), job.device, seed=int(fitted.seed)
            )
            bundle = save_stream_bundle(
                fitted.folder,
                encoder,
                prepared.cohort("validation"),
                gallery,
                target,
                model=fitted.name,
                seed=int(fitted.seed),
                reference=prepared.cohort("train"),
                pictures=small_pictures(stimuli.images(list(gallery.ids))),
                dataset_options=options,
                generator={"name": config.generator} if config.generator else None,
            )
            notes["windows"] = len(bundle.windows)
        decoded.results.live = fitted.folder
        delay = 0.0 if study.signal is None else float(study.signal.delay)
        return {"split": named, "delay_ms": round(1000 * delay, 1)}

    def _jitters(self, steps: Steps, decoded: Decoded) -> list[dict[str, Any]]:
        """Score variants of a simulated study that differ in nothing but the jitter of latencies."""
        job, config = self.job, self.config
        dataset = job.dataset
        assert isinstance(dataset, SimulatedDataset)
        own = float(config.simulation.get("jitter_ms", 0))
        found = []
        for jitter in config.jitters:
            where = f" (jitter {jitter:g} ms)"
            if jitter == own:
                found.append({"jitter_ms": jitter, "split": decoded.prepared.split.protocol})
                continue
            data_dir = job.work_dir / f"{dataset.card.name}_jitter-{jitter:g}"
            parameters = {**config.simulation, "jitter_ms": int(jitter)}
            with steps.block(f"simulate{where}"):
                dataset.write(data_dir, **parameters)
                study = open_study(job, config.dataset_options, data_dir)
            split = self.decoding.split(study, self.decoding.protocol, decoded.targets["retrieval"])
            gallery = decoded.true["test"]
            check_match(
                f"study{where}",
                {"test images": sorted(gallery.ids)},
                {"test images": sorted(split.keys("test", "stimulus"))},
            )
            oracle = self.decoding.ceilings(
                steps, study, split, gallery, simulated=(data_dir, parameters), where=where
            )
            prepared = self.decoding.prepare(study, split)
            scored = self.decoding.brief(steps, prepared, decoded.targets, where, frozenset(), oracle)
            named = f"{split.protocol}{where}"
            decoded.results.scores += [replace(score, split=named) for score in scored.scores]
            found.append({"jitter_ms": jitter, "split": named})
        return found

    def _portions(self, study: Study, split: Split) -> list[tuple[Portion, Prepared]]:
        """Prepare shares of the training images before anything is fitted: one that cannot be had ends the run at once."""
        found = []
        for portion in portions(split, self._shares, seed=self.job.seed):
            with naming_share(portion.share):
                found.append((portion, self.decoding.prepare(study, portion.split)))
        return found

    def _learning_curve(
        self, steps: Steps, decoded: Decoded, some: Sequence[tuple[Portion, Prepared]]
    ) -> dict[str, Any]:
        """Score fits to shares of the training images, and fit lines to the scores."""
        gallery, settings = decoded.true["test"], decoded.settings
        oracle = Ceilings(retrieval=settings.ceilings)  # the same however much is trained on
        values: dict[str, list[np.ndarray]] = {self.config.encoder: [], self.config.baseline: []}
        for portion, prepared in some:
            where = f" ({portion.trials} training trials)"
            scored = self.decoding.brief(
                steps, prepared, decoded.targets, where, settings.near_duplicates, oracle
            )
            decoded.results.scores += [replace(score, split=named(portion)) for score in scored.scores]
            for model, found in values.items():
                found.append(hits(scored.rows, model, gallery.ids))
        return curve_facts(
            [portion for portion, _ in some],
            {model: np.stack(found) for model, found in values.items()},
            settings.units,
            over=settings.unit,
            seed=self.job.seed,
        )

    def _others(self) -> list[str]:
        """Return the labels of the other people who train, before anything is fitted; unknown ones are refused."""
        job, labels = self.job, [label for label in self.config.people if label != self.job.subject]
        known = job.dataset.subjects(job.data_dir)
        missing = [label for label in labels if label not in known]
        if missing or (self.config.people and not labels):
            raise InputError(
                "`people`",
                expected=f"labels of others among {', '.join(k for k in known if k != job.subject)}",
                found=", ".join(missing) or f"sub-{job.subject} alone",
            )
        for name in (self.config.encoder, self.config.baseline):
            if 0 in self.config.calibration_minutes and not several_people(name):
                raise InputError(
                    "`calibration_minutes`",
                    expected=f"amounts above 0 with {name!r}, which takes no people that it was not fitted to",
                    found="0",
                )
        return labels

    def _groups(self, study: Study, split: Split, target: Target, labels: Sequence[str]) -> list[Group]:
        """Open the others and prepare everybody before anything is fitted: what cannot be had ends the run at once."""
        job, config = self.job, self.config
        others = [open_study(replace(job, subject=label), config.dataset_options) for label in labels]
        together = self.decoding.split(study, self.decoding.protocol, target, others)
        check_match(
            "`people`",
            {"test images of the subject": sorted(split.keys("test", "stimulus"))},
            {"test images of the subject": sorted(alone(together).keys("test", "stimulus"))},
        )
        return groups(together, config.calibration_minutes, config.sensors)

    def _people(self, steps: Steps, decoded: Decoded, found: Sequence[Group]) -> list[dict[str, Any]]:
        """Score fits to several people's trials on the subject's test trials; return who trained, and what models had to say."""
        config = self.config
        facts: list[dict[str, Any]] = []
        hit: list[dict[str, np.ndarray]] = []
        settings = decoded.settings
        for group in found:
            scored = self.decoding.brief(
                steps,
                group.prepared,
                decoded.targets,
                f" ({group.title})",
                settings.near_duplicates,
                Ceilings(retrieval=settings.ceilings),
                changes=several_people(config.encoder) if group.pooled else None,
                baseline_changes=several_people(config.baseline) if group.pooled else None,
            )
            decoded.results.scores += [replace(score, split=group.split) for score in scored.scores]
            models = (config.encoder, config.baseline)
            hit.append({model: hits(scored.rows, model, decoded.true["test"].ids) for model in models})
            gain = {m: gained(hit[-1][m], hit[0][m], settings) for m in models} if group.pooled else {}
            facts.append({**group.facts(), "gain": gain, "warnings": scored.warnings})
        return facts

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
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.shares import Portion
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.metrics.evidence import FEWEST
from braindecode_suite.workflows.decoding import Decoded, Decoding
from braindecode_suite.workflows.fitting import Prepared
from braindecode_suite.workflows.job import ENDING, Job
from braindecode_suite.workflows.learning_curve import hits, prepare_portions, score_portions
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.oracle import Ceilings
from braindecode_suite.workflows.other_channels import OtherChannels, find_other_channels
from braindecode_suite.workflows.people import (
    Series,
    find_others,
    gained,
    open_groups,
    planned,
    score_groups,
)
from braindecode_suite.workflows.people_curve import people_curves
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.scoring import Settings, score_retrieval
from braindecode_suite.workflows.sensor_occlusion import occlude_sensors
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.stream_bundle import save_stream_bundle
from braindecode_suite.workflows.studies import filtered, open_study
from braindecode_suite.workflows.time_courses import decode_over_time, fit_growing

OCCLUSION = "loss without the sensors around"
PICTURE = 64
"""Largest side of the pictures that the live page shows, in pixels."""


def small_pictures(images: np.ndarray) -> np.ndarray:
    """Return images of shape (rows, height, width, 3), every k-th pixel of those that are large."""
    every = -(-max(images.shape[1:3]) // PICTURE)
    return np.ascontiguousarray(images[:, ::every, ::every])


def causal_cost(
    causal: Sequence[Mapping[str, Any]],
    plain: Sequence[Mapping[str, Any]],
    models: Sequence[str],
    seed: str,
    ids: np.ndarray,
    settings: Settings,
) -> dict[str, dict[str, float]]:
    """Return how far each model is ahead on recordings that were filtered forwards only, paired over images: below 0 is a cost.

    Parameters
    ----------
    causal, plain : sequence of mapping
        Rows of `RetrievalScores`; of `plain`, which may be of several seeds, those of `seed` count, or of models without any.
    models : sequence of str
    seed : str
    ids : array of shape (images,)
    settings : Settings
    """
    same = [row for row in plain if row["seed"] in ("", seed)]
    return {model: gained(hits(causal, model, ids), hits(same, model, ids), settings) for model in models}


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
            steps += [
                f"people: {one}, {config.baseline} and {config.encoder} seed {self.decoding.seeds[0]}, retrieval only"
                for one in planned(config, self.job.subject)
            ]
        return [*steps, *ENDING]

    @property
    def _shares(self) -> tuple[float, ...]:
        """Shares of the training images of the learning curve, all of them last; none where none is asked for."""
        return (*self.config.learning_curve, 1.0) if self.config.learning_curve else ()

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        config = self.config
        other_channels, missing = self._check_sensors()
        others = find_others(config, self.job)
        some: list[tuple[Portion, Prepared]] = []
        people: list[Series] = []

        def check(study: Study, split: Split, target: Target) -> None:
            some.extend(prepare_portions(self.decoding, study, split, self._shares))
            if others:
                people.extend(open_groups(self.decoding, config, study, split, target, others))

        decoded = self.decoding.decode(steps, check)
        decoded.results.facts["time"] = decode_over_time(steps, self.decoding, config, decoded)
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
            decoded.results.facts["learning_curve"] = score_portions(steps, self.decoding, decoded, some)
        if people:
            self._people(steps, decoded, people)
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
        if self.config.live and study.signal is None:
            raise InputError(
                "`live`",
                expected="continuous recordings, which can be filtered forwards only",
                found=f"epochs of {job.dataset.card.name} that were preprocessed before",
                hint="live=false",
            )
        return find_other_channels(job, self.config.dataset_options, self.config.controls_from, study)

    def _other_channels(self, steps: Steps, decoded: Decoded, other: OtherChannels) -> None:
        """Add what the baseline reads from channels that are not the brain's, and how much more it reads from the sensors."""
        config, control, where = self.config, other.control, f" ({other.control} channels alone)"
        with steps.block(f"filter the {control} channels"):
            try:
                prepared = self.decoding.prepare(filtered(other.study), decoded.prepared.split)
            except InputError as error:
                prepared, reason = None, str(error)
        if prepared is None:
            steps.skip(f"{control} channels alone", reason)
            return
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

    def _occlusion(self, steps: Steps, decoded: Decoded) -> None:
        """Add where on the helmet the encoder's first seed reads; a skipped step where too few sensors have a place."""
        space = decoded.prepared.study.space
        assert isinstance(space, SensorSpace)
        if sum(np.any([space.usable(session) for session in space.positions], axis=0)) < 2:
            steps.skip(f"{self.config.encoder} without sensors", "fewer than two sensors have a place")
            return
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

    def _live(self, steps: Steps, decoded: Decoded) -> dict[str, Any]:
        """Score causally filtered recordings, and keep a decoder of them that is calibrated on validation trials."""
        job, config = self.job, self.config
        where, options = " (causal filters)", {**config.dataset_options, "phase": "causal"}
        target, gallery = decoded.targets["retrieval"], decoded.true["test"]
        study = open_study(job, options)
        prepared = self.decoding.prepare(study, self.decoding.split(study, self.decoding.protocol, target))
        scored = self.decoding.brief(
            steps, prepared, decoded.targets, where, frozenset(), Ceilings(), keep_maps=True
        )
        named = f"{prepared.split.protocol}{where}"
        decoded.results.scores += [replace(score, split=named) for score in scored.scores]
        fitted = fit_growing(steps, self.decoding, config, prepared, decoded.targets, where)
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
                chose_model=True,
                dataset_options=options,
                generator={"name": config.generator} if config.generator else None,
            )
            notes["windows"] = len(bundle.windows)
        decoded.results.live = fitted.folder
        delay = 0.0 if study.signal is None else float(study.signal.delay)
        models = (config.encoder, config.baseline)
        plain, seed = decoded.results.retrieval, str(self.decoding.seeds[0])
        cost = causal_cost(scored.rows, plain, models, seed, gallery.ids, decoded.settings)
        return {"split": named, "delay_ms": round(1000 * delay, 1), "cost": cost}

    def _people(self, steps: Steps, decoded: Decoded, people: Sequence[Series]) -> None:
        """Add what other people's trials give, all at once and, where asked for, one by one."""
        facts, scored = decoded.results.facts, score_groups(steps, self.decoding, decoded, people)
        facts["people"] = [scored[group].facts for series in people for group in series.ends]
        if self.config.people_curve:
            facts["people_curves"] = people_curves(people, scored, decoded.settings)

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

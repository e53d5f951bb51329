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
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.metrics.evidence import FEWEST
from braindecode_suite.metrics.unique_variance import LEAST_IMAGES_PER_FEATURE
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.decoding import Decoded, Decoding, filtered, open_study
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.job import ENDING, Job
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.oracle import Ceilings
from braindecode_suite.workflows.other_channels import OtherChannels, find_other_channels
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
    feature_sets,
    generalisation_facts,
    picture_seconds,
    score_course,
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
        return [*steps, *ENDING]

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        others, missing = self._check_sensors()
        decoded = self.decoding.decode(steps)
        decoded.results.facts["time"] = self._time_courses(steps, decoded)
        if self.config.occlusion:
            self._occlusion(steps, decoded)
        for control, reason in missing.items():
            steps.skip(f"{control} channels alone", reason)
        for other in others:
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
        sliding = decode_sliding(
            steps, prepared, epochs, decoded.true["train"], decoded.true["test"], config.time
        )
        by_centre = {
            **words,
            "windows_are": f"windows of {1000 * config.time.width:g} ms, each with a map of its own",
            "axis": "centre of the window, seconds from the picture",
        }
        facts = {"sliding": {**self._score_sliding(steps, decoded, sliding), **by_centre}}
        unique = self._unique_variance(steps, decoded, sliding)
        if unique:
            facts["unique"] = {**unique, **by_centre}
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

    def _unique_variance(self, steps: Steps, decoded: Decoded, sliding: Sliding) -> dict[str, Any]:
        """Add what early and late features explain alone; nothing, and a skipped step, where that cannot be told."""
        name, gallery = "unique variance of early and late features", decoded.true["test"]
        sets = feature_sets(decoded.prepared.cohort("test").stimuli, list(gallery.ids))
        if isinstance(sets, str):
            steps.skip(name, sets)
            return {}
        n_features = sum(values.shape[1] for values in sets.values())
        if LEAST_IMAGES_PER_FEATURE * n_features > len(gallery):
            steps.skip(name, f"{len(gallery)} test images are too few for {n_features} features")
            return {}
        with steps.block(name):
            rows, found = score_unique_variance(
                sliding.windows,
                sliding.predicted,
                sets,
                decoded.settings,
                model=WINDOW_MODEL,
                target=gallery.target,
            )
        decoded.results.scores += rows
        return found

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

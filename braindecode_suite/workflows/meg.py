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
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.decoding import Decoded, Decoding, open_study
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.job import ENDING, Job
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.oracle import Ceilings
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.sensor_occlusion import occlude_sensors
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.stream_bundle import save_stream_bundle
from braindecode_suite.workflows.time_resolved import (
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
PICTURE = 64
"""Largest side of the pictures that the live page shows, in pixels."""


def small_pictures(images: np.ndarray) -> np.ndarray:
    """Return images of shape (rows, height, width, 3), every k-th pixel of those that are large."""
    every = -(-max(images.shape[1:3]) // PICTURE)
    return np.ascontiguousarray(images[:, ::every, ::every])


class MegWorkflow:
    """Decode as `Decoding` does, then window by window, and simulated studies at every jitter.

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
        decoded = self.decoding.decode(steps)
        if not isinstance(decoded.study.space, SensorSpace):
            raise InputError(
                f"workflow {self.name!r}",
                expected="recordings of sensors (MEG or EEG)",
                found=f"{decoded.study.space.describe()['kind']} of {self.job.dataset.card.name}",
            )
        decoded.results.facts["time"] = self._time_courses(steps, decoded)
        if self.config.occlusion:
            self._occlusion(steps, decoded)
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

    def _time_courses(self, steps: Steps, decoded: Decoded) -> dict[str, Any]:
        """Add a score for every window; return what the report draws."""
        prepared, config = decoded.prepared, self.config
        train_true, gallery = decoded.true["train"], decoded.true["test"]
        epochs = map_epochs(steps, prepared)
        scaled = prepared.study.recipe is not None and "scale" in config.sensors.order
        decoded.results.evoked = {"mean of training trials": mean_response(prepared, epochs)}
        decoded.results.facts["sensors"] = {"unit": "interquartile ranges" if scaled else prepared.study.unit}
        sliding = decode_sliding(steps, prepared, epochs, train_true, gallery, config.time)
        settings = decoded.settings
        column = {stimulus_id: k for k, stimulus_id in enumerate(gallery.ids)}
        test = prepared.split.test[0]
        shown = np.array([column[i] for i in prepared.study.stimulus_ids[test]])
        n_repeats = len(test) / len(gallery)
        words: dict[str, Any] = {"picture_seconds": picture_seconds(prepared.study)}
        signal = prepared.study.signal
        if signal is not None and any(step.get("phase") == "zero" for step in signal.describe()["steps"]):
            words["note"] = NOT_CAUSAL
        facts: dict[str, Any] = {}
        with steps.block("score sliding windows"):
            rows, found = score_course(
                sliding.windows,
                sliding.similarity,
                settings,
                model="ridge",
                target=gallery.target,
                n_repeats=n_repeats,
                single=sliding.single,
                shown=shown,
            )
            width = f"windows of {1000 * config.time.width:g} ms, each with a map of its own"
            facts["sliding"] = {
                **found,
                **words,
                "windows_are": width,
                "axis": "centre of the window, seconds from the picture",
            }
            decoded.results.scores += rows
            if len(sliding.generalisation) > 1:
                facts["generalisation"] = generalisation_facts(sliding)
        stimuli = prepared.cohort("test").stimuli
        sets = feature_sets(stimuli, list(gallery.ids))
        n_features = 0 if isinstance(sets, str) else sum(values.shape[1] for values in sets.values())
        if isinstance(sets, str) or 2 * n_features > len(gallery):
            reason = (
                sets if isinstance(sets, str) else f"{len(gallery)} test images for {n_features} features"
            )
            steps.skip("unique variance of early and late features", reason)
        else:
            with steps.block("unique variance of early and late features"):
                rows, found = score_unique_variance(
                    sliding.windows,
                    sliding.predicted,
                    sets,
                    settings,
                    model="ridge",
                    target=gallery.target,
                )
                facts["unique"] = {
                    **found,
                    **words,
                    "windows_are": width,
                    "axis": "centre of the window, seconds from the picture",
                }
                decoded.results.scores += rows
        if config.time.growing_every:
            fitted = self._fit_growing(steps, decoded.prepared, decoded.targets)
            growing = decode_growing(
                steps, prepared, fitted, train_true, gallery, config.time, self.job.device
            )
            with steps.block("score growing windows"):
                rows, found = score_course(
                    growing.windows,
                    growing.similarity,
                    settings,
                    model=f"{fitted.name}, growing",
                    target=gallery.target,
                    seed=fitted.seed,
                    named="end",
                    n_repeats=n_repeats,
                )
                facts["growing"] = {
                    **found,
                    **words,
                    "windows_are": "growing windows, one network for all of them",
                    "axis": "end of the window, seconds from the picture",
                }
                decoded.results.scores += rows
        return facts

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

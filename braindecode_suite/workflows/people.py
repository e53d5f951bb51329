"""Several people in training: their trials added to the subject's own, or in their place but for the first minutes (calibration).

The subject's test trials, and nobody else's, are what is scored; an image that one person is tested or validated on trains nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_match
from braindecode_suite.core.errors import InputError, about
from braindecode_suite.core.latents import Target
from braindecode_suite.core.minutes import restrict
from braindecode_suite.core.split import PARTS, Split
from braindecode_suite.core.study import Study
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.metrics.bootstrap import paired_difference
from braindecode_suite.workflows.decoding import FEWEST_VALIDATION_IMAGES, Decoded, Decoding
from braindecode_suite.workflows.fitting import Prepared, prepare_sensors
from braindecode_suite.workflows.job import Job
from braindecode_suite.workflows.learning_curve import hits
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.oracle import Ceilings
from braindecode_suite.workflows.scoring import Settings
from braindecode_suite.workflows.sensor_recipe import SensorRecipe
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.studies import open_study


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Who trains.

    Attributes
    ----------
    title : str
    prepared : Prepared
    calibration : float or None
        Minutes of the subject's own that are left in training; None for all.
    """

    title: str
    prepared: Prepared
    calibration: float | None = None

    @property
    def split(self) -> str:
        """What the rows of the score table have in the column ``split``."""
        return f"{self.prepared.split.protocol} ({self.title})"

    @property
    def pooled(self) -> bool:
        """Whether anybody but the subject trains."""
        return bool(self.prepared.others)

    def facts(self) -> dict[str, Any]:
        """Return who trains with how many trials, and what is proved disjoint."""
        split = self.prepared.split
        return {
            "title": self.title,
            "split": self.split,
            "calibration_minutes": self.calibration,
            "trials": {
                study.subject: len(rows) for study, rows in zip(split.studies, split.train, strict=True)
            },
            "disjoint": sorted(split.disjoint),
            "transductive": [
                study.subject
                for study in (self.prepared.study, *self.prepared.others)
                if study.recipe is not None
                and any(step.get("scope") == "heldout-block" for step in study.recipe.describe())
            ],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """Groups that differ in nothing but how many others train, the fewest first.

    Attributes
    ----------
    groups : tuple of Group
        With all of the subject's own trials the subject alone comes first. Of a series that nobody asked to be a curve only the ends.
    asked : float or None
        Minutes of calibration that were asked for; None where all of the subject's own trials are in training.
    """

    groups: tuple[Group, ...]
    asked: float | None = None

    @property
    def ends(self) -> tuple[Group, ...]:
        """The groups that are compared with the subject alone, and that one."""
        return self.groups[-1:] if self.asked is not None else (self.groups[0], self.groups[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """How a group did.

    Attributes
    ----------
    hits : dict of model to array of shape (images,)
        Whether each test image came first.
    facts : dict
        Of the group, with how far each model is ahead of the same fitted to the subject alone, and what models had to say.
    """

    hits: dict[str, np.ndarray]
    facts: dict[str, Any]


def planned(config: MegWorkflowConfig, subject: str) -> list[str]:
    """Return who will train, in words and in the order of the fits."""
    count = len([label for label in config.people if label != subject])
    some = range(1, count + 1) if config.people_curve else [count]
    return [
        "alone",
        *(f"with {count_others(n)}" for n in some),
        *(
            f"left out, {m:g} minutes, from {count_others(n)}"
            for m in config.calibration_minutes
            for n in some
        ),
    ]


def count_others(count: int) -> str:
    """Return a number of others in words."""
    return "1 other" if count == 1 else f"{count} others"


def find_others(config: MegWorkflowConfig, job: Job) -> list[str]:
    """Return the labels of the other people who train, before anything is fitted; unknown ones are refused."""
    labels = [label for label in config.people if label != job.subject]
    known = job.dataset.subjects(job.data_dir)
    missing = [label for label in labels if label not in known]
    if config.people and known == [job.subject]:
        raise InputError(
            "`people`", expected="none, in a dataset of one person", found=", ".join(config.people)
        )
    if missing or (config.people and not labels):
        raise InputError(
            "`people`",
            expected=f"labels of others among {', '.join(k for k in known if k != job.subject)}",
            found=", ".join(missing) or f"sub-{job.subject} alone",
        )
    if config.people_curve and len(labels) < 2:
        raise InputError(
            "`people_curve`", expected="at least two others in `people`", found=", ".join(labels)
        )
    for name in (config.encoder, config.baseline):
        if 0 in config.calibration_minutes and not several_people(name):
            raise InputError(
                "`calibration_minutes`",
                expected=f"amounts above 0 with {name!r}, which takes no people that it was not fitted to",
                found="0",
            )
    return labels


def open_groups(
    decoding: Decoding,
    config: MegWorkflowConfig,
    study: Study,
    split: Split,
    target: Target,
    labels: Sequence[str],
) -> list[Series]:
    """Open the others and prepare everybody before anything is fitted: what cannot be had ends the run at once.

    Parameters
    ----------
    decoding, config
        Of the subject.
    study, split
        The subject's own, of the headline.
    target : Target
        Of retrieval.
    labels : sequence of str
        The others.
    """
    others = [open_study(replace(decoding.job, subject=label), config.dataset_options) for label in labels]
    check_sensors(config, study, others)
    together = decoding.split(study, decoding.protocol, target, others)
    check_match(
        "`people`",
        {"test images of the subject": sorted(split.keys("test", "stimulus"))},
        {"test images of the subject": sorted(alone(together).keys("test", "stimulus"))},
    )
    return groups(together, config.calibration_minutes, config.sensors, every=config.people_curve)


def check_sensors(config: MegWorkflowConfig, study: Study, others: Sequence[Study]) -> None:
    """Raise, before anything is fitted, where one map is to be shared among people whose sensors or times differ."""
    for name in (config.encoder, config.baseline):
        for other in others if "people" in several_people(name) else ():
            if other.space.describe() != study.space.describe():
                raise InputError(
                    "`people`",
                    expected=f"the sensors and times of sub-{study.subject}, as {name!r} has one map for all",
                    found=f"others of sub-{other.subject}",
                    hint="options drop and kinds of the dataset choose channels",
                )


def score_groups(
    steps: Steps, decoding: Decoding, decoded: Decoded, found: Sequence[Series]
) -> dict[Group, Scored]:
    """Score fits to several people's trials on the subject's test trials, each group once."""
    config, settings = decoding.config, decoded.settings
    scores: dict[Group, Scored] = {}
    own: dict[str, np.ndarray] = {}
    for group in (group for series in found for group in series.groups):
        scored = decoding.brief(
            steps,
            group.prepared,
            decoded.targets,
            f" ({group.title})",
            near_duplicates(group.prepared.split, decoded.prepared.split, settings),
            Ceilings(retrieval=settings.ceilings),
            changes=several_people(config.encoder) if group.pooled else None,
            baseline_changes=several_people(config.baseline) if group.pooled else None,
        )
        decoded.results.scores += [replace(score, split=group.split) for score in scored.scores]
        models = (config.encoder, config.baseline)
        hit = {model: hits(scored.rows, model, decoded.true["test"].ids) for model in models}
        own = own or hit
        gain = {m: gained(hit[m], own[m], settings) for m in models} if group.pooled else {}
        facts = {**group.facts(), "gain": gain, "warnings": scored.warnings}
        scores[group] = Scored(hits=hit, facts=facts)
    return scores


def near_duplicates(split: Split, headline: Split, settings: Settings) -> frozenset[str]:
    """Return the test images that look like a training image of the headline; none, and so no score without them, where others saw more.

    What looks like one of the images that only others saw was not looked for.
    """
    more = split.keys("train", "stimulus") - headline.keys("train", "stimulus")
    return frozenset() if more else settings.near_duplicates


def several_people(name: str) -> dict[str, Any]:
    """Return the settings with which an encoder shares what it can among people, and takes those that it does not know.

    Examples
    --------
    >>> several_people("ridge")
    {'people': 'pooled', 'unknown_subjects': 'mean'}
    >>> several_people("mindeye")
    {}
    """
    fields = ENCODERS[name].config_class.model_fields
    wanted = {"people": "pooled", "unknown_subjects": "mean"}
    return {key: value for key, value in wanted.items() if key in fields}


def only_first_tested(split: Split) -> Split:
    """Return a split of several people whose test rows are those of the first alone."""
    test = (split.test[0], *(rows[:0] for rows in split.test[1:]))
    return replace(split, test=test)


def first_people(split: Split, count: int) -> Split:
    """Return the rows of the first so many people of a split: parts stay as they are, whoever else was there."""
    rows: dict[str, Any] = {part: getattr(split, part)[:count] for part in PARTS}
    return replace(split, studies=split.studies[:count], **rows)


def alone(split: Split) -> Split:
    """Return the first person's rows of a split of several people."""
    return first_people(split, 1)


def left_out(split: Split, minutes: float) -> Split:
    """Return a split that trains and validates without the first person, but for the first minutes recorded of them.

    That nobody is on both sides is proved of the split without these minutes; with them, their trials are counted in a note.

    Parameters
    ----------
    split : Split
        Of several people.
    minutes : float
        0 for none; for what an amount holds see `core.minutes`.

    Raises
    ------
    LeakageError
        If the person, or an image, is on both sides.
    InputError
        If the amount is all there is, or more.
    """
    first = only_first_tested(split)
    who = f"sub-{split.studies[0].subject}"
    strict = replace(
        first,
        train=(first.train[0][:0], *first.train[1:]),
        validation=(first.validation[0][:0], *first.validation[1:]),
        disjoint=split.disjoint | {"subject"},
        label="_".join(part for part in (split.label, f"without-{split.studies[0].subject}") if part),
        notes=(*split.notes, f"nothing of {who} is trained or validated on"),
    )
    if not minutes:
        return strict
    own = restrict(alone(split), minutes)
    note = (
        f"calibration: {len(own.train[0])} training and {len(own.validation[0])} validation trials of {who}, its first "
        f"{own.minutes:g} minutes; nothing else of {who} is trained on"
    )
    return replace(
        strict,
        train=(own.train[0], *strict.train[1:]),
        validation=(own.validation[0], *strict.validation[1:]),
        disjoint=split.disjoint,
        label=f"{strict.label}_minutes-{minutes:g}",
        notes=(*split.notes, note),
        minutes=own.minutes,
    )


def groups(
    split: Split, calibration: Sequence[float], sensors: SensorRecipe, *, every: bool = False
) -> list[Series]:
    """Return the subject alone and with others, and left out at each amount of calibration, read through recipes.

    Parameters
    ----------
    split : Split
        Of the subject and of others, in this order.
    calibration : sequence of float
        Minutes; empty leaves these out.
    sensors : SensorRecipe
    every : bool
        Whether others come one by one, in their order, rather than all at once.
    """
    known: dict[Any, Study] = {}
    identities: dict[tuple[Study, bytes], dict[str, Any]] = {}
    most = len(split.studies) - 1

    def group(title: str, some: Split, count: int, minutes: float | None = None) -> Group:
        names = ", ".join(f"sub-{study.subject}" for study in split.studies[1 : count + 1])
        title = title.format(names)
        with about(f"`people` ({title})", hint="name people with more trials first"):
            prepared = replace(_prepare(some, sensors, known), identities=identities)
            return Group(title=title, prepared=prepared, calibration=minutes)

    counts = range(1, most + 1) if every else [most]
    with_own = [group("alone", alone(split), 0)]
    with_own += [group("with {}", only_first_tested(first_people(split, n + 1)), n) for n in counts]
    found = [Series(groups=tuple(with_own))]
    for minutes in calibration:
        title = f"from {{}}, {minutes:g} minutes of calibration"
        splits = [(n, left_out(first_people(split, n + 1), minutes)) for n in counts]
        left = tuple(group(title, some, n, some.minutes or 0.0) for n, some in splits)
        found.append(Series(groups=left, asked=minutes))
    return found


def gained(pooled: np.ndarray, own: np.ndarray, settings: Settings) -> dict[str, float]:
    """Return how far one model is ahead of the same fitted to the subject alone, paired over images.

    Parameters
    ----------
    pooled, own : array of shape (images,)
        Scores of the same images.
    settings : Settings
    """
    found = paired_difference(pooled, own, settings.units, over=settings.unit, seed=settings.seed)
    return {"value": found.value, "low": found.low, "high": found.high}


def _prepare(split: Split, sensors: SensorRecipe, known: dict[Any, Study]) -> Prepared:
    """Return a split read through recipes; a person whose rows are the same in several splits is prepared once."""
    split.check_training_size()
    count = len(split.keys("validation", "stimulus"))
    if count < FEWEST_VALIDATION_IMAGES:
        raise InputError(
            f"protocol {split.protocol!r}",
            expected=f"at least {FEWEST_VALIDATION_IMAGES} validation images",
            found=str(count),
        )
    studies: list[Study] = []
    for study, *parts in zip(split.studies, split.train, split.validation, split.test, strict=True):
        train, read = parts[0], np.concatenate(parts)
        key = (study.subject, train.tobytes(), read.tobytes())
        if key not in known:
            known[key] = prepare_sensors(study, train, read, sensors)
        studies.append(known[key])
    ids = {part: np.array(sorted(split.keys(part, "stimulus")), dtype=object) for part in PARTS}
    return Prepared(study=studies[0], split=split, stimulus_ids=ids, others=tuple(studies[1:]))

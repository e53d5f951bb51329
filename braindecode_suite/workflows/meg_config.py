"""Config of the workflow ``meg``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.other_channels import OtherKind
from braindecode_suite.workflows.time_resolved import TimeResolvedConfig

ImageShare = Annotated[float, Field(gt=0, lt=1)]


class MegWorkflowConfig(MindEyeWorkflowConfig):
    """What is decoded from sensors, and when.

    Attributes
    ----------
    time : TimeResolvedConfig
        Windows of the time courses.
    growing_settings : dict
        Changes to the encoder's settings for the one fit on windows of random length.
    occlusion : bool
        Whether to mask the sensors around some places of the helmet and score the encoder's first seed without them.
    controls_from : {'auto', 'none'} or tuple of str
        Channels that are not the brain's, by MNE's type (eog, eyegaze, pupil, misc: the control ``eye``; ref_meg: ``reference``): the
        baseline is fitted on them alone, same trials, split and penalties. 'auto' takes those recorded in every run, but for misc.
    live : bool
        Whether to decode causally filtered recordings too, which says what causal filters cost, and to save what `bds stream` needs:
        the encoder's first seed, fitted to windows of random length of those.
    jitters : tuple of float
        Milliseconds by which the latencies of a simulated study deviate from trial to trial: at each of them the encoder's first seed,
        the baseline and the oracle are scored again, retrieval only. Of no use with recordings.
    learning_curve : tuple of float
        Shares of the training images (at least two, below 1; all of them are added) to which the encoder's first seed and the baseline
        are fitted, retrieval only, for a line in the logarithm of the training trials.
    people : tuple of str
        Labels of other people whose training trials are added, for one fit of the encoder and of a baseline that shares one map; the
        subject's own label is passed over.
    people_curve : bool
        Whether others come one by one, in the order of `people` (at least two of them), with the subject's own trials and at each amount of
        `calibration_minutes`: for a line in the logarithm of the number of people.
    calibration_minutes : tuple of float
        With `people`: train on them alone, but for the subject's first so many minutes (0: nothing of the subject).
    """

    encoder: str = "meg-module"
    baseline_settings: dict[str, Any] = Field(default_factory=lambda: {"repeats": "each"})
    second_protocols: tuple[str, ...] = ()
    n_relabellings: int = 0
    time: TimeResolvedConfig = Field(default_factory=TimeResolvedConfig)
    growing_settings: dict[str, Any] = Field(default_factory=dict)
    occlusion: bool = True
    controls_from: Literal["auto", "none"] | tuple[OtherKind, ...] = "auto"
    live: bool = False
    jitters: tuple[NonNegativeFloat, ...] = ()
    learning_curve: tuple[ImageShare, ...] = ()
    people: tuple[str, ...] = ()
    people_curve: bool = False
    calibration_minutes: tuple[NonNegativeFloat, ...] = ()

    @model_validator(mode="after")
    def _calibrated_among_others(self) -> MegWorkflowConfig:
        if self.calibration_minutes and not self.people:
            raise ValueError("calibration_minutes: needs other people to train on, `people`")
        if len(set(self.people)) < len(self.people):
            raise ValueError("people: each once")
        if self.people_curve and len(self.people) < 2:
            raise ValueError("people_curve: needs at least two other people to train on, `people`")
        return self

    @field_validator("calibration_minutes")
    @classmethod
    def _each_amount_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each amount once")
        return tuple(sorted(value))

    @field_validator("controls_from", mode="before")
    @classmethod
    def _types_in_a_list(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ("auto", "none"):
            raise ValueError("auto, none, or a list of types of channels, as [eog]")
        return value

    @field_validator("controls_from")
    @classmethod
    def _kinds_once(cls, value: Any) -> Any:
        if not isinstance(value, str) and (not value or len(set(value)) < len(value)):
            raise ValueError("auto, none, or some types of channels, each once")
        return value

    @field_validator("jitters")
    @classmethod
    def _distinct(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each jitter once")
        return tuple(sorted(value))

    @field_validator("learning_curve")
    @classmethod
    def _enough_for_a_line(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (len(value) < 2 or len(set(value)) < len(value)):
            raise ValueError("at least two different shares below 1, each once, or none")
        return tuple(sorted(value))

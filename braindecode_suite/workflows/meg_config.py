"""Config of the workflow ``meg``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, field_validator

from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.other_channels import OtherKind
from braindecode_suite.workflows.time_resolved import TimeResolvedConfig


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

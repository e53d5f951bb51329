"""Config of the workflow ``meg``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeFloat, field_validator

from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
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
    live: bool = False
    jitters: tuple[NonNegativeFloat, ...] = ()

    @field_validator("jitters")
    @classmethod
    def _distinct(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each jitter once")
        return tuple(sorted(value))

"""Configs of brain-routing: what can be set, and the presets."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, field_validator

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config
from braindecode_suite.encoders.mindeye_config import Share
from braindecode_suite.learning.routes import Overlap, Queries
from braindecode_suite.learning.routing import RoutingConfig
from braindecode_suite.learning.training import TrainingConfig


class BrainRoutingConfig(Config):
    """Architecture, tokens and training of brain-routing.

    Attributes
    ----------
    network : RoutingConfig
        Of the block between tokens and readout, that of attention-routing; it has no features to standardise here.
    tokens, rois, overlap, rest, hemispheres
        What has a token, see `learning.routes.route_units`, where it is called a query.
    dropout_in : float
        Of the tokens' features.
    training : TrainingConfig
    mixco_epochs, mixco_temperature, mixco_concentration, mixco_share, soft_temperature
        As of MindEye: BiMixCo for a share of the epochs, SoftCLIP after that.
    contrastive_weight, regression_weight : float
        Weights of the contrast (role ``retrieval``) and of the squared error (every role).
    repeats, weight_by_signal
        As of MindEye.
    """

    network: RoutingConfig = RoutingConfig()
    tokens: Queries = "rois"
    rois: tuple[str, ...] = ()
    overlap: Overlap = "first"
    rest: bool = True
    hemispheres: bool = True
    dropout_in: Share = 0.5
    training: TrainingConfig = TrainingConfig()
    mixco_epochs: Share = 0.33
    mixco_temperature: PositiveFloat = 0.006
    mixco_concentration: PositiveFloat = 0.15
    mixco_share: Share = 0.5
    soft_temperature: tuple[PositiveFloat, PositiveFloat] = (0.004, 0.0075)
    contrastive_weight: NonNegativeFloat = 1.0
    regression_weight: NonNegativeFloat = 1.0
    repeats: Literal["one", "random-mean"] = "random-mean"
    weight_by_signal: bool = True

    @field_validator("network")
    @classmethod
    def _no_features(cls, value: RoutingConfig) -> RoutingConfig:
        if value.standardise:
            raise ValueError("standardise is for image features; responses are z-scored anyway")
        return value


PRESETS: dict[str, BrainRoutingConfig] = {
    # A small study on a CPU: a minute.
    "tiny": BrainRoutingConfig(
        network=RoutingConfig(width=256, heads=8, feed_forward=256, dropout=0.1),
        dropout_in=0.3,
        training=TrainingConfig(
            epochs=30,
            batch_size=64,
            learning_rate=3e-3,
            weight_decay=0.1,
            ema_decay=0.98,
            patience=8,
        ),
        mixco_temperature=0.05,
        soft_temperature=(0.04, 0.06),
    ),
    # The block of the paper's image-to-brain model, all 257 tokens of ViT-L/14: 168 million weights for 15,724 voxels.
    "paper": BrainRoutingConfig(),
}


def preset(name: str) -> BrainRoutingConfig:
    """Return the config of a preset."""
    check_option("preset", name, PRESETS)
    return PRESETS[name]

"""Configs of the attention-routing encoder: what can be set, and the presets."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config
from braindecode_suite.learning.routes import Overlap, Queries
from braindecode_suite.learning.routing import RoutingConfig
from braindecode_suite.learning.training import TrainingConfig


class AttentionRoutingConfig(Config):
    """Architecture, queries, ensemble and training.

    Attributes
    ----------
    network : RoutingConfig
    queries, rois, overlap, rest, hemispheres
        What has a query, see `learning.routes.route_units`.
    repeats : {'mean', 'each'}
        Training responses of an image: the mean over its repeats, or each repeat as an example of its own.
    n_seeds : int
        Networks trained for each source of features, from different seeds; their predictions are averaged.
    temperature : float
        Of the weights of the sources, unit by unit: softmax of temperature times held-out r.
    training : TrainingConfig
    """

    network: RoutingConfig = RoutingConfig()
    queries: Queries = "rois"
    rois: tuple[str, ...] = ()
    overlap: Overlap = "first"
    rest: bool = True
    hemispheres: bool = True
    repeats: Literal["mean", "each"] = "mean"
    n_seeds: PositiveInt = 1
    temperature: PositiveFloat = 50.0
    training: TrainingConfig = TrainingConfig()


PRESETS: dict[str, AttentionRoutingConfig] = {
    # A small study on a CPU: seconds to a minute a network.
    "tiny": AttentionRoutingConfig(
        network=RoutingConfig(width=96, heads=8, feed_forward=192, dropout=0.0, standardise=True),
        training=TrainingConfig(
            epochs=20, batch_size=32, learning_rate=5e-3, weight_decay=0.1, ema_decay=0.98, patience=5
        ),
    ),
    # The paper's: 34.4 million weights for subject 1 of the Natural Scenes Dataset. Its learning rate is constant; ours
    # rises over an epoch and falls as a cosine, and the weights that are kept are a running average.
    "paper": AttentionRoutingConfig(
        overlap="sum",
        training=TrainingConfig(
            epochs=15,
            batch_size=16,
            learning_rate=5e-4,
            weight_decay=1e-4,
            warmup_epochs=1.0,
            gradient_clip=0.1,
        ),
    ),
}


def preset(name: str) -> AttentionRoutingConfig:
    """Return the config of a preset."""
    check_option("preset", name, PRESETS)
    return PRESETS[name]

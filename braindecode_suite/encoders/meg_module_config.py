"""Configs of the MEG module and what its relatives share: what can be set, and the presets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config
from braindecode_suite.learning.contrast import ContrastName
from braindecode_suite.learning.layers import Share
from braindecode_suite.learning.routing import RoutingConfig
from braindecode_suite.learning.training import TrainingConfig

Weight = Annotated[float, Field(ge=0, le=1)]


class SensorTrainingConfig(Config):
    """What is learned from single trials, and how: shared by the decoders of sensors.

    Attributes
    ----------
    training : TrainingConfig
    contrast : {'one-sided', 'symmetric', 'siglip'}
        See `learning.contrast`; the latter two learn their temperature.
    contrast_weight : float
        lambda in ``lambda * contrast + (1 - lambda) * squared error``; the error is the mean over the roles that have one. A
        model with only one of the two is not weighted.
    regress_retrieval : bool
        Whether the head of the role ``retrieval`` has a squared error too.
    standardise : {'dimension', 'whole'}
        Whether the targets of squared errors are z-scored dimension by dimension, or centred and scaled by one number, by the
        statistics of training images. The contrast always sees the latter: its cosines are those that are scored.
    low_rank : int or None
        Targets of squared errors with more dimensions than this are predicted through so many principal components of the
        training images' latents.
    window : {'none', 'growing'}
        ``growing``: batches are cut off at random times, so that the model can be asked at any (`predict` with ``until``).
    shortest_window : float
        Seconds after the first sample that a growing window has at least.
    whole_share : float
        Share of the batches of growing windows that are not cut: cut ones alone teach little about late samples, which most of
        them lack.
    unknown_subjects : {'refuse', 'mean'}
        What `predict` does with a person that it was not fitted to: an error, or the mean of those that it knows, with a
        warning.
    """

    training: TrainingConfig = TrainingConfig()
    contrast: ContrastName = "one-sided"
    contrast_weight: Weight = 0.75
    regress_retrieval: bool = False
    standardise: Literal["dimension", "whole"] = "dimension"
    low_rank: PositiveInt | None = None
    window: Literal["none", "growing"] = "none"
    shortest_window: NonNegativeFloat = 0.1
    whole_share: Share = 0.5
    unknown_subjects: Literal["refuse", "mean"] = "refuse"


class MegModuleConfig(SensorTrainingConfig):
    """Architecture and training of the MEG module.

    Attributes
    ----------
    sensors : {'attention', 'routing'}
        From sensors to virtual channels: attention to places, or to what the sensors say as well (not in the paper).
    routing : RoutingConfig
        Of the latter.
    channels : int
        Virtual channels.
    n_frequencies : int
        Of the code of places; it has twice their square dimensions.
    sensor_dropout : float
        Radius of the disc whose sensors are not looked at in a training batch; the layout is 1 wide.
    subject_layer : bool
        Whether each person has a matrix between virtual channels.
    hidden, n_blocks : int
        Width and number of the convolution blocks.
    features : int
        Width of what is read out.
    pooling : {'affine', 'mean', 'attention'}
        Over time: one learned weight for each sample, their mean, or weights that depend on the features.
    dropout : float
        After each activation of the residual convolutions; the paper has none.
    """

    sensors: Literal["attention", "routing"] = "attention"
    routing: RoutingConfig = RoutingConfig(width=256, heads=4, feed_forward=256)
    channels: PositiveInt = 270
    n_frequencies: PositiveInt = 32
    sensor_dropout: NonNegativeFloat = 0.2
    subject_layer: bool = True
    hidden: PositiveInt = 320
    n_blocks: PositiveInt = 2
    features: PositiveInt = 2048
    pooling: Literal["affine", "mean", "attention"] = "affine"
    dropout: Share = 0.0

    def departures(self) -> list[str]:
        """Return, in words for a report, what this config does that the paper does not."""
        found = []
        if self.sensors == "routing":
            found.append("virtual channels look at what the sensors say, not only at where they lie")
        if not self.subject_layer:
            found.append("people share all of the network")
        if self.dropout:
            found.append("convolutions have dropout")
        if self.low_rank:
            found.append("wide targets are predicted through principal components")
        if self.window == "growing":
            found.append("it is trained on windows of random length")
        if self.training.schedule != "constant" or self.training.ema_decay:
            found.append("the learning rate follows a cycle and the weights are averaged")
        return found


PAPER_TRAINING = TrainingConfig(
    epochs=100,
    batch_size=128,
    learning_rate=3e-4,
    schedule="constant",
    weight_decay=0.0,
    ema_decay=0.0,
    patience=10,
)

PRESETS: dict[str, MegModuleConfig] = {
    # A small study on a CPU: a few seconds an epoch. Chosen on validation images of simulated-meg, subject 03, jitter of 30 ms.
    "tiny": MegModuleConfig(
        channels=64,
        n_frequencies=16,
        hidden=64,
        features=256,
        dropout=0.4,
        contrast="symmetric",
        contrast_weight=0.5,
        regress_retrieval=True,
        low_rank=256,
        training=TrainingConfig(
            epochs=30,
            batch_size=64,
            learning_rate=6e-3,
            weight_decay=0.05,
            ema_decay=0.98,
            patience=8,
        ),
    ),
    # The paper's: 6.4 million parameters with one head of 768, for 181 samples and four people.
    "paper": MegModuleConfig(training=PAPER_TRAINING),
}


def preset(name: str) -> MegModuleConfig:
    """Return the config of a preset."""
    check_option("preset", name, PRESETS)
    return PRESETS[name]

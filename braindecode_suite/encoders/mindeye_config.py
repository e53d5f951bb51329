"""Configs of MindEye: what can be set, and the presets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config
from braindecode_suite.learning.diffusion_prior import PriorConfig
from braindecode_suite.learning.layers import BackboneConfig
from braindecode_suite.learning.low_level import LowLevelConfig
from braindecode_suite.learning.penalties import RELATIVE_ALPHAS
from braindecode_suite.learning.training import TrainingConfig

Share = Annotated[float, Field(ge=0, le=1)]


class MindEyeConfig(Config):
    """Architecture and training of MindEye.

    Attributes
    ----------
    backbone : BackboneConfig
    projector_hidden : int
    linear_start : bool
        Whether linear paths lead from the voxels to the latents and start as a cross-validated ridge, which the network
        corrects. Not in the paper; off in its preset (3.1 billion parameters at 257 x 768).
    own_image_head : bool
        Whether the prior's condition has a head of its own where its target is that of retrieval, so that the contrast
        (which cares for directions only) does not undo its scale. The paper's share one.
    prior : PriorConfig or None
        The diffusion prior; it is trained towards the role ``image``, or ``retrieval`` where that is the only one.
    low_level : LowLevelConfig or None
        Used where a target of role ``init`` is given.
    training : TrainingConfig
    mixco_epochs : float
        Share of the epochs under BiMixCo; SoftCLIP follows.
    mixco_temperature, mixco_concentration, mixco_share : float
        Temperature; parameter of the Beta distribution; share of mixed rows.
    soft_temperature : pair of float
        First and last temperature of SoftCLIP, along half a cosine.
    contrastive_weight, regression_weight, prior_weight, low_level_weight : float
        Weights of the losses. The regression of the projected tokens keeps their scale; the paper has none.
    drop_probability : float
        Of the brain's and, independently, of the noisy image's tokens in the prior.
    timesteps, sampling_steps : int
        Of the prior's noise schedule; of its deterministic sampler.
    samples : int
        Samples of the prior that are averaged.
    repeats : {'one', 'random-mean'}
        Training responses of an image: one repeat at random, or the mean of a random number of them.
    weight_by_signal : bool
        See `learning.responses.fit_scaler`.
    ridge_alphas : tuple of float
        Grid for the linear start.
    """

    backbone: BackboneConfig = BackboneConfig()
    projector_hidden: PositiveInt = 2048
    linear_start: bool = False
    own_image_head: bool = False
    prior: PriorConfig | None = PriorConfig()
    low_level: LowLevelConfig | None = None
    training: TrainingConfig = TrainingConfig()
    mixco_epochs: Share = 0.33
    mixco_temperature: PositiveFloat = 0.006
    mixco_concentration: PositiveFloat = 0.15
    mixco_share: Share = 0.5
    soft_temperature: tuple[PositiveFloat, PositiveFloat] = (0.004, 0.0075)
    contrastive_weight: NonNegativeFloat = 1.0
    regression_weight: NonNegativeFloat = 0.0
    prior_weight: NonNegativeFloat = 30.0
    low_level_weight: NonNegativeFloat = 0.5
    drop_probability: Share = 0.2
    timesteps: PositiveInt = 100
    sampling_steps: PositiveInt = 20
    samples: PositiveInt = 1
    repeats: Literal["one", "random-mean"] = "one"
    weight_by_signal: bool = True
    ridge_alphas: tuple[float, ...] = RELATIVE_ALPHAS

    def departures(self) -> list[str]:
        """Return, in words for a report, what this config does that the paper does not."""
        found = []
        if self.linear_start:
            found.append("it starts as the cross-validated ridge and learns a correction of it")
        if self.own_image_head:
            found.append("the diffusion prior's condition has a head of its own")
        if self.regression_weight:
            found.append("a regression loss keeps the scale of the projected latents")
        if self.repeats == "random-mean":
            found.append("it is trained on means of a random number of an image's repeats")
        return found


PRESETS: dict[str, MindEyeConfig] = {
    # A small study on a CPU: seconds. Starts from ridge, sees softer contrasts, stops on validation images.
    "tiny": MindEyeConfig(
        backbone=BackboneConfig(hidden=256, n_blocks=2, dropout_in=0.5, dropout=0.3),
        projector_hidden=256,
        linear_start=True,
        own_image_head=True,
        prior=PriorConfig(depth=2, heads=4, dim_head=32, ff_mult=2, residual=True),
        low_level=LowLevelConfig(channels=32, doublings=2),
        training=TrainingConfig(
            epochs=20,
            batch_size=64,
            learning_rate=3e-4,
            weight_decay=0.1,
            ema_decay=0.98,
            patience=8,
        ),
        mixco_temperature=0.05,
        soft_temperature=(0.04, 0.06),
        regression_weight=1.0,
        prior_weight=1.0,
        low_level_weight=1.0,
        sampling_steps=10,
        repeats="random-mean",
    ),
    # A pooled embedding of 1 x 1280 and the latents of the Kandinsky 2.2 decoder, one GPU.
    "kandinsky": MindEyeConfig(
        backbone=BackboneConfig(hidden=2048, n_blocks=4),
        linear_start=True,
        own_image_head=True,
        prior=PriorConfig(heads=16, residual=True),
        low_level=LowLevelConfig(channels=128, doublings=3, skip=False),
        training=TrainingConfig(epochs=120, batch_size=64, weight_decay=0.1, patience=20),
        mixco_temperature=0.02,
        soft_temperature=(0.01, 0.02),
        regression_weight=1.0,
    ),
    # The paper's: all 257 projected tokens of ViT-L/14, 1.00 billion parameters for 15,724 voxels; retrieval only.
    "paper": MindEyeConfig(sampling_steps=100),
}


def preset(name: str) -> MindEyeConfig:
    """Return the config of a preset."""
    check_option("preset", name, PRESETS)
    return PRESETS[name]

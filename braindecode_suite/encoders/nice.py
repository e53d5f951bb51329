"""NICE (Song et al. 2024, arXiv:2308.13234): a shallow convolution over time and sensors, contrasted with images.

Sizes as in the authors' public code (github.com/eeyhsong/NICE-EEG, its standard model), for 63 sensors x 250 samples and targets of 768:

======================================================  ===================  =========
layer                                                   in -> out            parameters
======================================================  ===================  =========
convolution over time, 40 kernels of 25                 (63, 250)->(63, 226)     1,040
mean over windows of 51, a stride of 5                  ->(63, 36)                   0
batch norm, ELU                                                                     80
convolution over sensors, 40 kernels                    (63, 36)->(1, 36)      100,840
batch norm, ELU, dropout 0.5                                                        80
linear map of the kernels                               40->40                   1,640
projector: linear, residual (GELU, linear, dropout)     1440->768            1,697,280
layer norm                                                                       1,536
temperature                                                                          1
all                                                                          1,802,497
======================================================  ===================  =========

Trained by Adam (learning rate 2e-4, betas 0.5 and 0.999), batches of 1000, 200 epochs, the best on 740 validation images kept; the
contrast is symmetric with a learned temperature from 1 / 0.07. The images' side is not projected.

Ours: single trials, where the authors average the repeats of an image before the network; heads for other roles than ``retrieval``;
what is done with missing sensors (see `TemporalSpatialConvolution`). Not known to us: sizes for MEG, which the authors do not give, so
that kernels stay as many samples long at any rate. The graph-attention and self-attention variants are not built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from braindecode_suite.core.checks import check_option
from braindecode_suite.encoders.meg_module_config import SensorTrainingConfig, Weight
from braindecode_suite.encoders.sensor_encoder import SensorEncoder
from braindecode_suite.learning.contrast import ContrastName, LogitScale
from braindecode_suite.learning.layers import Share
from braindecode_suite.learning.sensor_attention import find_usable, split_missing
from braindecode_suite.learning.temporal_spatial import (
    ResidualProjector,
    TemporalSpatialConfig,
    TemporalSpatialConvolution,
    start_small,
)
from braindecode_suite.learning.training import TrainingConfig


class NiceConfig(SensorTrainingConfig):
    """Architecture and training of NICE; it takes whole trials only.

    Attributes
    ----------
    convolution : TemporalSpatialConfig
    projector_dropout : float
    """

    convolution: TemporalSpatialConfig = TemporalSpatialConfig()
    projector_dropout: Share = 0.5
    contrast: ContrastName = "symmetric"
    contrast_weight: Weight = 0.75
    window: Literal["none"] = "none"
    training: TrainingConfig = TrainingConfig(
        epochs=200,
        batch_size=1000,
        learning_rate=2e-4,
        schedule="constant",
        weight_decay=0.0,
        betas=(0.5, 0.999),
        ema_decay=0.0,
    )


SMALL_CONVOLUTION = TemporalSpatialConfig(kernels=16, time_kernel=7, pool=11, pool_stride=3, dropout=0.3)
SMALL_TRAINING = TrainingConfig(
    epochs=30, batch_size=64, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.98, patience=8
)
PRESETS: dict[str, NiceConfig] = {
    # A small study on a CPU: a few seconds an epoch.
    "tiny": NiceConfig(
        convolution=SMALL_CONVOLUTION,
        projector_dropout=0.3,
        regress_retrieval=True,
        low_rank=256,
        training=SMALL_TRAINING,
    ),
    "paper": NiceConfig(),
}


class NiceNetwork(nn.Module):
    """Sensors of one system to latents; people share all of it.

    Parameters
    ----------
    n_sensors, n_times : int
    widths : mapping of role to int
        Width of each projector.
    config : NiceConfig
    """

    def __init__(self, n_sensors: int, n_times: int, widths: Mapping[str, int], config: NiceConfig) -> None:
        super().__init__()
        self.n_times = n_times
        self.convolution = TemporalSpatialConvolution(n_sensors, n_times, config.convolution)
        self.heads = nn.ModuleDict(
            {
                role: ResidualProjector(self.convolution.width, width, config.projector_dropout)
                for role, width in widths.items()
            }
        )
        self.apply(start_small)
        learned = config.contrast != "one-sided" and "retrieval" in widths
        self.logit = LogitScale(config.contrast) if learned else None

    def forward(self, x: Tensor, positions: Tensor, layout: Tensor, subject: Tensor) -> dict[str, Tensor]:
        """Map trials to latents, see `MegModuleNetwork.forward`; places matter only in that a sensor without one is missing."""
        x, seen = split_missing(x)
        seen = seen & find_usable(positions)[layout]
        features = self.convolution(torch.where(seen[:, :, None], x, 0.0), seen)
        return {role: head(features) for role, head in self.heads.items()}


class Nice(SensorEncoder[NiceConfig]):
    """NICE: sensors to latents by a shallow convolution, the same for all people. See the module's text for sizes and sources.

    Parameters
    ----------
    config : NiceConfig
    context : FitContext
    """

    name: ClassVar[str] = "nice"
    by_place: ClassVar[bool] = False
    config_class: ClassVar[type[NiceConfig]] = NiceConfig
    PRESETS: ClassVar[tuple[str, ...]] = tuple(PRESETS)

    @classmethod
    def preset(cls, name: str) -> NiceConfig:
        """Return the config of a preset: tiny or paper."""
        check_option("preset", name, PRESETS)
        return PRESETS[name]

    def build_network(self, n_subjects: int, shape: tuple[int, int], widths: Mapping[str, int]) -> nn.Module:
        """Build the network, see `NiceNetwork`."""
        return NiceNetwork(*shape, widths, self.config)

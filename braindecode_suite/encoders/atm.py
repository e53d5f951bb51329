"""ATM-S, the adaptive thinking mapper (Li et al. 2024, arXiv:2403.07721): attention among sensors, then NICE's convolution.

Sizes as in the authors' public code (github.com/dongyangli-del/EEG_Image_decode), for 63 sensors x 250 samples, ten people and targets
of 1024:

=========================================================  ====================  =========
layer                                                      in -> out             parameters
=========================================================  ====================  =========
time course of a sensor to its token                       250->250                  62,750
a token for each person, before those of the sensors       10 x 250                   2,500
self-attention, 4 heads of 62; residual, layer norm        64 tokens of 250         249,494
feed-forward, 256 wide, GELU; residual, layer norm                                  129,006
layer norm; dropout 0.25 throughout                                                     500
NICE's convolution over time and sensors                   (63, 250)->1440          103,680
projector: as NICE's                                       1440->1024             2,527,232
temperature                                                                               1
all                                                                               3,075,163
=========================================================  ====================  =========

Trained by AdamW at 3e-4 in batches of 1024 (or 16); a learned temperature from 1 / 0.07.

Not repeated: after the attention the authors' code keeps the first 63 tokens, which are the person's and those of all sensors but the
last; here the sensors' are kept. Layers of theirs that nothing passes through (a linear layer a person, a mask token) are left
out, so that their own count is larger.

Ours: single trials, where the authors average the repeats of an image before the network; a squared error for other roles than
``retrieval`` (theirs adds a contrast with captions, weighted 0.01); the mean of the known people's tokens for somebody else (theirs is a
token of its own, which within-subject training never sees); what is done with missing sensors (they are not attended to, see also
`TemporalSpatialConvolution`). Not known to us: how many epochs the published figures took, as the best *test* epoch was reported;
weight decay. We stop on validation images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from braindecode_suite.core.checks import check_option
from braindecode_suite.encoders.meg_module_config import SensorTrainingConfig
from braindecode_suite.encoders.nice import SMALL_CONVOLUTION, SMALL_TRAINING
from braindecode_suite.encoders.sensor_encoder import SensorEncoder
from braindecode_suite.learning.contrast import ContrastName, LogitScale
from braindecode_suite.learning.layers import Share
from braindecode_suite.learning.sensor_attention import find_usable, split_missing
from braindecode_suite.learning.temporal_spatial import (
    ResidualProjector,
    TemporalSpatialConfig,
    TemporalSpatialConvolution,
)
from braindecode_suite.learning.training import TrainingConfig


class AtmConfig(SensorTrainingConfig):
    """Architecture and training of ATM-S; it takes whole trials only.

    Attributes
    ----------
    heads, feed_forward : int
        Of the attention among sensors; a head's width is that of a token (the number of samples) over their number, rounded
        down.
    dropout : float
        Of tokens, attention weights and what attention and feed-forward parts add.
    convolution : TemporalSpatialConfig
    projector_dropout : float
    """

    heads: PositiveInt = 4
    feed_forward: PositiveInt = 256
    dropout: Share = 0.25
    convolution: TemporalSpatialConfig = TemporalSpatialConfig()
    projector_dropout: Share = 0.5
    contrast: ContrastName = "symmetric"
    window: Literal["none"] = "none"
    training: TrainingConfig = TrainingConfig(
        epochs=200,
        batch_size=1024,
        learning_rate=3e-4,
        schedule="constant",
        weight_decay=0.01,
        ema_decay=0.0,
        patience=20,
    )


PRESETS: dict[str, AtmConfig] = {
    # A small study on a CPU: a few seconds an epoch.
    "tiny": AtmConfig(
        feed_forward=64,
        convolution=SMALL_CONVOLUTION,
        projector_dropout=0.3,
        regress_retrieval=True,
        low_rank=256,
        training=SMALL_TRAINING,
    ),
    "paper": AtmConfig(),
}


class SensorMixing(nn.Module):
    """Self-attention among the time courses of sensors, with one token for the person: a transformer layer, norms last.

    Parameters
    ----------
    n_subjects, n_times : int
    config : AtmConfig
    """

    def __init__(self, n_subjects: int, n_times: int, config: AtmConfig) -> None:
        super().__init__()
        width = n_times
        inner = width // config.heads * config.heads
        self.heads, self.p = config.heads, config.dropout
        self.enter = nn.Linear(n_times, width)
        self.subjects = nn.Embedding(n_subjects, width)
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)
        self.feed = nn.Sequential(
            nn.Linear(width, config.feed_forward),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feed_forward, width),
            nn.Dropout(config.dropout),
        )
        self.attention_norm, self.feed_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, seen: Tensor, subject: Tensor) -> Tensor:
        """Map (batch, sensors, times) to the same shape; sensors that are not seen are not attended to."""
        table = torch.cat([self.subjects.weight, self.subjects.weight.mean(dim=0, keepdim=True)])
        tokens = torch.cat([table[subject][:, None], self.enter(x)], dim=1)  # (batch, 1 + sensors, width)
        tokens = self.dropout(tokens)
        allowed = torch.cat([torch.ones_like(seen[:, :1]), seen], dim=1)[:, None, None]
        attended = nn.functional.scaled_dot_product_attention(
            self._split(self.query(tokens)),
            self._split(self.key(tokens)),
            self._split(self.value(tokens)),
            attn_mask=allowed,
            dropout_p=self.p if self.training else 0.0,
        )  # (batch, heads, 1 + sensors, width / heads)
        tokens = self.attention_norm(tokens + self.dropout(self.out(attended.transpose(1, 2).flatten(2))))
        tokens = self.norm(self.feed_norm(tokens + self.feed(tokens)))
        return tokens[:, 1:]  # (batch, sensors, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class AtmNetwork(nn.Module):
    """Sensors of one system to latents; people have a token each.

    Parameters
    ----------
    n_subjects, n_sensors, n_times : int
    widths : mapping of role to int
        Width of each projector.
    config : AtmConfig
    """

    SUBJECT_TENSOR = "mixing.subjects.weight"

    def __init__(
        self, n_subjects: int, n_sensors: int, n_times: int, widths: Mapping[str, int], config: AtmConfig
    ) -> None:
        super().__init__()
        self.n_times = n_times
        self.mixing = SensorMixing(n_subjects, n_times, config)
        self.convolution = TemporalSpatialConvolution(n_sensors, n_times, config.convolution)
        self.heads = nn.ModuleDict(
            {
                role: ResidualProjector(self.convolution.width, width, config.projector_dropout)
                for role, width in widths.items()
            }
        )
        learned = config.contrast != "one-sided" and "retrieval" in widths
        self.logit = LogitScale(config.contrast) if learned else None

    def forward(self, x: Tensor, positions: Tensor, layout: Tensor, subject: Tensor) -> dict[str, Tensor]:
        """Map trials to latents, see `MegModuleNetwork.forward`; places matter only in that a sensor without one is missing."""
        x, seen = split_missing(x)
        seen = seen & find_usable(positions)[layout]
        x = self.mixing(torch.where(seen[:, :, None], x, 0.0), seen, subject)
        features = self.convolution(x, seen)
        return {role: head(features) for role, head in self.heads.items()}


class Atm(SensorEncoder[AtmConfig]):
    """ATM-S: attention among sensors, then a shallow convolution. See the module's text for sizes, sources and what is unknown.

    Parameters
    ----------
    config : AtmConfig
    context : FitContext
    """

    name: ClassVar[str] = "atm"
    by_place: ClassVar[bool] = False
    config_class: ClassVar[type[AtmConfig]] = AtmConfig
    PRESETS: ClassVar[tuple[str, ...]] = tuple(PRESETS)

    @classmethod
    def preset(cls, name: str) -> AtmConfig:
        """Return the config of a preset: tiny or paper."""
        check_option("preset", name, PRESETS)
        return PRESETS[name]

    def build_network(self, n_subjects: int, shape: tuple[int, int], widths: Mapping[str, int]) -> nn.Module:
        """Build the network, see `AtmNetwork`."""
        return AtmNetwork(n_subjects, *shape, widths, self.config)

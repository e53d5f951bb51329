"""A shallow convolution over time, then over sensors, and the projector behind it: the parts that NICE and ATM share."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.layers import Share


class TemporalSpatialConfig(Config):
    """Architecture only; sizes that come from the data are arguments of the model.

    Attributes
    ----------
    kernels : int
        Of both convolutions and of the projection after them.
    time_kernel, pool, pool_stride : int
        Samples.
    dropout : float
    """

    kernels: PositiveInt = 40
    time_kernel: PositiveInt = 25
    pool: PositiveInt = 51
    pool_stride: PositiveInt = 5
    dropout: Share = 0.5

    def n_windows(self, n_times: int) -> int:
        """Return how many pooled windows a trial has; too short a trial is an error."""
        least = self.time_kernel + self.pool - 1
        if n_times < least:
            raise InputError(
                "`times`",
                expected=f"at least {least} samples for kernels of {self.time_kernel} and {self.pool}",
                found=str(n_times),
                hint="resample to a higher rate, or choose shorter kernels",
            )
        return (n_times - least) // self.pool_stride + 1


class TemporalSpatialConvolution(nn.Module):
    """Trials to features: convolution over time, mean over windows, convolution over all sensors, a linear map of the kernels.

    Parameters
    ----------
    n_sensors, n_times : int
    config : TemporalSpatialConfig

    Examples
    --------
    >>> import torch
    >>> layer = TemporalSpatialConvolution(63, 250, TemporalSpatialConfig())
    >>> layer(torch.zeros(2, 63, 250), torch.ones(2, 63, dtype=torch.bool)).shape
    torch.Size([2, 1440])
    """

    def __init__(self, n_sensors: int, n_times: int, config: TemporalSpatialConfig) -> None:
        super().__init__()
        k = config.kernels
        self.width = k * config.n_windows(n_times)
        self.time = nn.Conv2d(1, k, (1, config.time_kernel))
        self.pool = nn.AvgPool2d((1, config.pool), (1, config.pool_stride))
        self.time_norm, self.space_norm = nn.BatchNorm2d(k), nn.BatchNorm2d(k)
        self.space = nn.Conv2d(k, k, (n_sensors, 1))
        self.dropout, self.project = nn.Dropout(config.dropout), nn.Conv2d(k, k, 1)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Map trials to features.

        Parameters
        ----------
        x : Tensor of shape (batch, sensors, times)
        seen : Tensor of bool of shape (batch, sensors)
            A sensor that is not seen is left out of the sum over sensors, and of the statistics of the batch norm; the others are scaled up
            by their share, as under dropout.

        Returns
        -------
        Tensor of shape (batch, width)
            Pooled windows one after another, the kernels of each side by side.
        """
        x = self.pool(self.time(x[:, None]))  # (batch, kernels, sensors, windows)
        x = nn.functional.elu(self.time_norm(x)) if bool(seen.all()) else self._of_seen(x, seen)
        x = nn.functional.elu(self.space_norm(self.space(x)))  # (batch, kernels, 1, windows)
        x = self.project(self.dropout(x))
        return x[:, :, 0].transpose(1, 2).flatten(1)  # (batch, windows * kernels)

    def _of_seen(self, x: Tensor, seen: Tensor) -> Tensor:
        """Normalise what comes of the sensors that are seen, scaled up by their share; 0 for the others."""
        there = x.transpose(1, 2)[seen]  # (sensors that are seen, kernels, windows)
        there = nn.functional.elu(self.time_norm(there[:, :, None])[:, :, 0])
        share = seen.float().mean(dim=1, keepdim=True).expand_as(seen)[seen]
        found = there.new_zeros(*seen.shape, *there.shape[1:])  # (batch, sensors, kernels, windows)
        found[seen] = there / share.to(there)[:, None, None]
        return found.transpose(1, 2)


class ResidualProjector(nn.Module):
    """``LayerNorm(y + Dropout(Linear(GELU(y))))`` of ``y = Linear(x)``.

    Parameters
    ----------
    width_in, width : int
    dropout : float
    """

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.enter, self.inner = nn.Linear(width_in, width), nn.Linear(width, width)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width_in) to (batch, width)."""
        y = self.enter(x)
        return self.norm(y + self.dropout(self.inner(nn.functional.gelu(y))))


def start_small(module: nn.Module, deviation: float = 0.02) -> None:
    """Draw weights of linear and convolution layers from N(0, 0.02), those of batch norms from N(1, 0.02), as NICE does."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, deviation)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, deviation)
        nn.init.zeros_(module.bias)

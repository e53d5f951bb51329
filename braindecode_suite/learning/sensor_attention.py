"""From sensors to virtual channels that are the same for every layout: attention over where the sensors lie.

The layer of Défossez et al. 2023 (arXiv:2208.12266) as Benchetrit, Banville & King 2024 (arXiv:2310.19812) use it: sensors of any
number and order, in any session, are mapped to a fixed number of channels. A sensor that is absent or bad has no weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from braindecode_suite.core.checks import check_shape
from braindecode_suite.learning.routing import RoutingBlock, RoutingConfig

MARGIN = 0.2
WIDTH = 1.4


def fourier_code(positions: Tensor, n_frequencies: int = 32) -> Tensor:
    """Encode places on the unit square by cosines and sines of ``2 pi (k (x + 0.2) + l (y + 0.2)) / 1.4``.

    Parameters
    ----------
    positions : Tensor of shape (..., 2)
        In [0, 1]. Places outside, down to the margin of 0.2, are still told apart; NaN is encoded as the place 0, 0.
    n_frequencies : int
        k and l go from 0 to this less one.

    Returns
    -------
    Tensor of shape (..., 2 * n_frequencies**2)

    Examples
    --------
    >>> fourier_code(torch.zeros(3, 2), n_frequencies=4).shape
    torch.Size([3, 32])
    """
    steps = torch.arange(n_frequencies, device=positions.device, dtype=positions.dtype)
    x, y = (2 * math.pi / WIDTH * (torch.nan_to_num(positions) + MARGIN)).unbind(dim=-1)
    phase = (x[..., None, None] * steps[:, None] + y[..., None, None] * steps).flatten(-2)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def split_missing(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return signals with zeros for sensors that hold NaN, and which sensors hold none.

    Parameters
    ----------
    x : Tensor of shape (batch, sensors, times)

    Returns
    -------
    (Tensor of shape (batch, sensors, times), Tensor of bool of shape (batch, sensors))
        A sensor with NaN at one time is missing at all of them.
    """
    seen = ~torch.isnan(x).any(dim=2)
    return torch.where(seen[:, :, None], x, 0.0), seen


def ban_disc(positions: Tensor, usable: Tensor, radius: float, centre: Tensor) -> Tensor:
    """Return which sensors are left when those around a centre are banned; a layout that would lose all keeps all.

    Parameters
    ----------
    positions : Tensor of shape (layouts, sensors, 2)
    usable : Tensor of bool of shape (layouts, sensors)
    radius : float
        A sensor at this distance is banned too.
    centre : Tensor of shape (2,)

    Returns
    -------
    Tensor of bool of shape (layouts, sensors)
    """
    far = torch.nan_to_num(positions).sub(centre).square().sum(dim=2) > radius**2
    left = usable & far
    return torch.where(left.any(dim=1, keepdim=True), left, usable)


class SensorAttention(nn.Module):
    """Virtual channels as weighted means of sensors; the weights are functions of where the sensors lie.

    ``out = softmax(heads code(positions)^T) x``. The weights do not depend on the signals: in evaluation they are computed once
    for the layouts at hand and kept until the heads change.

    Parameters
    ----------
    channels : int
        Virtual channels.
    n_frequencies : int
        See `fourier_code`.
    dropout : float
        Radius of the disc, around a random centre each batch, whose sensors are not looked at in training.

    Examples
    --------
    >>> attention = SensorAttention(5, n_frequencies=4).eval()
    >>> positions = torch.rand(1, 7, 2)
    >>> attention(torch.zeros(2, 7, 9), positions, torch.zeros(2, dtype=torch.long)).shape
    torch.Size([2, 5, 9])
    """

    def __init__(self, channels: int = 270, *, n_frequencies: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.n_frequencies, self.dropout = n_frequencies, dropout
        width = 2 * n_frequencies**2
        self.heads = nn.Parameter(torch.randn(channels, width) * width**-0.5)
        self._code: tuple[Tensor, Tensor] | None = None
        self._kept: tuple[Tensor, int, Tensor] | None = None

    def forward(self, x: Tensor, positions: Tensor, layout: Tensor, seen: Tensor | None = None) -> Tensor:
        """Map sensors to virtual channels.

        Parameters
        ----------
        x : Tensor of shape (batch, sensors, times)
            Without NaN, see `split_missing`.
        positions : Tensor of shape (layouts, sensors, 2)
            In [0, 1]; NaN where a layout has no such sensor.
        layout : Tensor of int of shape (batch,)
            Layout of each row.
        seen : Tensor of bool of shape (batch, sensors), optional
            Sensors with a signal; all that the layout has by default.

        Returns
        -------
        Tensor of shape (batch, channels, times)
            0 for rows of which nothing can be seen.
        """
        check_shape("positions", positions, "layouts sensors coordinates", sensors=x.shape[1], coordinates=2)
        if seen is not None and bool((seen | ~find_usable(positions)[layout]).all()):
            seen = None
        if seen is not None:
            scores = self.scores(positions)[layout].masked_fill(~seen[:, None], -torch.inf)
            return torch.bmm(scores.softmax(dim=-1).nan_to_num().to(x), x)
        weights = self.weights(positions).to(x)
        if len(positions) == 1:
            return nn.functional.conv1d(x, weights[0][:, :, None])  # (batch, channels, times)
        return torch.bmm(weights[layout], x)

    def weights(self, positions: Tensor) -> Tensor:
        """Return what each virtual channel takes of each sensor: (layouts, channels, sensors), summing to 1 over sensors."""
        if self.training or torch.is_grad_enabled():
            return self.scores(positions).softmax(dim=-1)
        if self._kept is None or self._kept[0] is not positions or self._kept[1] != self.heads._version:
            self._kept = positions, self.heads._version, self.scores(positions).softmax(dim=-1)
        return self._kept[2]

    def scores(self, positions: Tensor) -> Tensor:
        """Return the logits of the weights, (layouts, channels, sensors) in float32; -infinity where nothing can be seen."""
        if self._code is None or self._code[0] is not positions:
            self._code = positions, fourier_code(positions.float(), self.n_frequencies)
        usable = find_usable(positions)
        if self.training and self.dropout:
            usable = ban_disc(positions, usable, self.dropout, torch.rand(2).to(positions))
        with torch.autocast(positions.device.type, enabled=False):
            scores = self.heads.float() @ self._code[1].transpose(1, 2)
        return scores.masked_fill(~usable[:, None], -torch.inf)

    def train(self, mode: bool = True) -> SensorAttention:
        """Forget weights that were kept."""
        self._kept = None
        return super().train(mode)


class SensorRouting(nn.Module):
    """Virtual channels by attention to what sensors say and where they lie: the block of attention-routing over sensors.

    A sensor's token is a linear function of its own time course, the same for all sensors; its place is added to the keys. What
    a virtual channel's query gathers is read as a time course, by the same linear function for all. Not in the papers.

    Parameters
    ----------
    channels, n_times : int
    n_frequencies, dropout
        As of `SensorAttention`.
    config : RoutingConfig

    Examples
    --------
    >>> config = RoutingConfig(width=8, heads=2, feed_forward=8)
    >>> routing = SensorRouting(5, 9, config, n_frequencies=4).eval()
    >>> positions = torch.rand(1, 7, 2)
    >>> routing(torch.zeros(2, 7, 9), positions, torch.zeros(2, dtype=torch.long)).shape
    torch.Size([2, 5, 9])
    """

    def __init__(
        self,
        channels: int,
        n_times: int,
        config: RoutingConfig,
        *,
        n_frequencies: int = 32,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.n_frequencies, self.dropout = n_frequencies, dropout
        self.enter = nn.Parameter(torch.randn(n_times, config.width) * n_times**-0.5)
        self.place = nn.Linear(2 * n_frequencies**2, config.width, bias=False)
        self.block = RoutingBlock(channels, config)
        self.leave = nn.Linear(config.width, n_times)

    def forward(self, x: Tensor, positions: Tensor, layout: Tensor, seen: Tensor | None = None) -> Tensor:
        """Map sensors to virtual channels, see `SensorAttention.forward`; fewer times than the model has are the first of them."""
        tokens, places, usable, anything = self._tokens(x, positions, layout, seen)
        gathered = self.block(tokens, places, usable)  # (batch, channels, width)
        n_times = x.shape[2]
        signals = nn.functional.linear(gathered, self.leave.weight[:n_times], self.leave.bias[:n_times])
        return signals * anything  # (batch, channels, times)

    def attention(self, x: Tensor, positions: Tensor, layout: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return where each virtual channel looks: (batch, heads, channels, sensors), summing to 1 over sensors."""
        tokens, places, usable, _ = self._tokens(x, positions, layout, seen)
        return self.block.attention(tokens, places, usable)

    def _tokens(
        self, x: Tensor, positions: Tensor, layout: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        usable = find_usable(positions)
        if self.training and self.dropout:
            usable = ban_disc(positions, usable, self.dropout, torch.rand(2).to(positions))
        usable = usable[layout] if seen is None else usable[layout] & seen
        anything = usable.any(dim=1)
        usable = usable | ~anything[:, None]  # attention to nothing is NaN; the row becomes 0
        tokens = x @ self.enter[: x.shape[2]]
        places = self.place(fourier_code(positions.float(), self.n_frequencies))[layout]
        return tokens, places, usable[:, None, None], anything[:, None, None]


def find_usable(positions: Tensor) -> Tensor:
    """Return which sensors have a place, Tensor of bool of shape (layouts, sensors)."""
    return ~torch.isnan(positions).any(dim=2)

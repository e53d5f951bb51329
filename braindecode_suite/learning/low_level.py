"""The low-level branch: from the residual stream to the generator's own latents, laid out as an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.layers import SMALL_START, Share, TokenHead, UpBlock


class LowLevelConfig(Config):
    """Architecture of the low-level branch.

    Attributes
    ----------
    channels : int
        Channels at the coarsest resolution, halved at each doubling (not below 16).
    doublings : int
        How often the resolution is doubled; fewer where the latents are too small for it.
    dropout : float
    skip : bool
        Whether a linear path leads from the voxels straight to the latents.
    """

    channels: PositiveInt = 64
    doublings: PositiveInt = 3
    dropout: Share = 0.3
    skip: bool = True


def grid_side(tokens: int) -> int:
    """Return the side of a square grid of `tokens` positions, or raise if they make none."""
    side = isqrt(tokens)
    if side * side != tokens:
        raise InputError(
            "target of role 'init'", expected="tokens that make a square image", found=f"{tokens} tokens"
        )
    return side


class LowLevelBranch(nn.Module):
    """Decode latents of an image from the residual stream: a coarse grid, convolutions, doublings.

    Parameters
    ----------
    n_units : sequence of int
        Units of each subject, for the linear path.
    hidden : int
    tokens, width : int
        Positions (height times width, square) and channels of the latents.
    config : LowLevelConfig

    Examples
    --------
    >>> branch = LowLevelBranch([5], hidden=8, tokens=64, width=4, config=LowLevelConfig(channels=16))
    >>> branch(torch.zeros(2, 8), [torch.zeros(2, 5)]).shape
    torch.Size([2, 64, 4])
    """

    def __init__(
        self, n_units: Sequence[int], hidden: int, tokens: int, width: int, config: LowLevelConfig
    ) -> None:
        super().__init__()
        side = grid_side(tokens)
        doublings = 0
        while doublings < config.doublings and side % 2 == 0 and side // 2 >= 2:
            side, doublings = side // 2, doublings + 1
        self.side, self.channels = side, config.channels
        self.linear = nn.Linear(hidden, config.channels * side * side)
        self.dropout, self.norm = nn.Dropout(config.dropout), nn.GroupNorm(1, config.channels)
        sizes = [max(config.channels >> k, min(16, config.channels)) for k in range(doublings + 1)]
        self.up = nn.Sequential(*(UpBlock(a, b) for a, b in pairwise(sizes)))
        self.out = nn.Conv2d(sizes[-1], width, 3, padding=1)
        self.head = TokenHead(n_units, hidden, tokens, width, skip=True) if config.skip else None

    def forward(self, hidden: Tensor, responses: Sequence[Tensor]) -> Tensor:
        """Map the stream (batch, hidden) to latents of shape (batch, tokens, width)."""
        x = self.dropout(self.linear(hidden)).unflatten(1, (self.channels, self.side, self.side))
        x = self.out(nn.functional.silu(self.up(self.norm(x))))  # (batch, width, height, width)
        latents = x.flatten(2).transpose(1, 2)  # (batch, tokens, width)
        return latents if self.head is None else latents + self.head(hidden, responses)

    @torch.no_grad()
    def set_linear(self, subject: int, coef: Tensor, intercept: Tensor) -> None:
        """Start as the linear map of one subject, ``x @ coef + intercept``; the convolutions' share starts small."""
        if self.head is None:
            raise InputError("`skip`", expected="a low-level branch with a linear path", found="skip=False")
        self.head.set_linear(subject, coef, intercept)
        if subject == 0:
            self.out.weight.mul_(SMALL_START / self.out.out_channels**0.5)
            assert self.out.bias is not None
            self.out.bias.zero_()

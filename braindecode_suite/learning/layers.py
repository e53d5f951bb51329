"""Layers shared by the models: a residual MLP, a projector per token, a convolutional upsampler for latents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError

Share = Annotated[float, Field(ge=0, lt=1)]
SMALL_START = 0.05
"""Size of a correction's first output, relative to tokens of unit length: small, yet every tensor has a gradient."""


class BackboneConfig(Config):
    """Architecture only; sizes that come from the data are arguments of the model.

    Attributes
    ----------
    hidden, n_blocks : int
        Width of the residual stream; number of residual blocks.
    dropout_in, dropout : float
        After the subject's input layer; inside each block.
    """

    hidden: PositiveInt = 4096
    n_blocks: PositiveInt = 4
    dropout_in: Share = 0.5
    dropout: Share = 0.15


class ResidualBlock(nn.Module):
    """``x + Dropout(GELU(LayerNorm(Linear(x))))``: the block's width is normalised, never an axis of length one."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width) to (batch, width)."""
        return x + self.dropout(nn.functional.gelu(self.norm(self.linear(x))))


class SubjectLinear(nn.Module):
    """One linear layer per subject into a shared space.

    Parameters
    ----------
    n_units : sequence of int
        Number of units (voxels) of each subject.
    width : int

    Examples
    --------
    >>> layer = SubjectLinear([5, 7], 3)
    >>> layer([torch.zeros(2, 5), torch.zeros(4, 7)]).shape
    torch.Size([6, 3])
    """

    def __init__(self, n_units: Sequence[int], width: int) -> None:
        super().__init__()
        self.n_units = tuple(n_units)
        self.subjects = nn.ModuleList(nn.Linear(n, width) for n in n_units)

    def forward(self, responses: Sequence[Tensor]) -> Tensor:
        """Map responses of each subject, (rows of the subject, units), to (batch, width), subjects one after another.

        A subject without rows in the batch has a tensor of shape (0, units).
        """
        if len(responses) != len(self.n_units):
            raise InputError(
                "`responses`",
                expected=f"one tensor for each of {len(self.n_units)} subjects",
                found=str(len(responses)),
            )
        mapped = []
        for rows, units, layer in zip(responses, self.n_units, self.subjects, strict=True):
            check_shape("responses", rows, "rows units", units=units)
            mapped.append(layer(rows))
        return torch.cat(mapped)  # (batch, width)


class Backbone(nn.Module):
    """Map voxels of several subjects to one residual stream.

    Parameters
    ----------
    n_units : sequence of int
        Number of units of each subject.
    config : BackboneConfig

    Examples
    --------
    >>> model = Backbone([5], BackboneConfig(hidden=8, n_blocks=2))
    >>> model([torch.zeros(2, 5)]).shape
    torch.Size([2, 8])
    """

    def __init__(self, n_units: Sequence[int], config: BackboneConfig) -> None:
        super().__init__()
        self.subject_in = SubjectLinear(n_units, config.hidden)
        self.norm, self.dropout = nn.LayerNorm(config.hidden), nn.Dropout(config.dropout_in)
        self.blocks = nn.Sequential(
            *(ResidualBlock(config.hidden, config.dropout) for _ in range(config.n_blocks))
        )

    def forward(self, responses: Sequence[Tensor]) -> Tensor:
        """Map each subject's (rows, units) to (batch, hidden)."""
        x = self.subject_in(responses)  # (batch, hidden)
        x = self.dropout(nn.functional.gelu(self.norm(x)))
        return self.blocks(x)  # (batch, hidden)


class TokenHead(nn.Module):
    """A linear layer from the residual stream to tokens, with an optional linear path straight from the voxels.

    The linear path makes the model start as a linear decoder (see `set_linear`) that the MLP then corrects. Its inputs are
    divided by the square root of their number: Adam's steps, the same for all weights, then move a map of thousands of
    small ones as slowly as the rest.

    Parameters
    ----------
    n_units : sequence of int
    hidden, tokens, width : int
    skip : bool
        Whether there is a linear path from the voxels.
    """

    def __init__(self, n_units: Sequence[int], hidden: int, tokens: int, width: int, *, skip: bool) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.linear = nn.Linear(hidden, tokens * width)
        self.skip = SubjectLinear(n_units, tokens * width) if skip else None

    def forward(self, hidden: Tensor, responses: Sequence[Tensor]) -> Tensor:
        """Map the stream (batch, hidden) and the voxels behind it to (batch, tokens, width)."""
        flat = self.linear(hidden)  # (batch, tokens * width)
        if self.skip is not None:
            flat = flat + self.skip([rows * rows.shape[1] ** -0.5 for rows in responses])
        return flat.unflatten(1, (self.tokens, self.width))  # (batch, tokens, width)

    @torch.no_grad()
    def set_linear(self, subject: int, coef: Tensor, intercept: Tensor) -> None:
        """Start as the linear map ``x @ coef + intercept`` of one subject; the MLP's share starts small, not at zero.

        Parameters
        ----------
        subject : int
        coef : Tensor of shape (units, tokens * width)
        intercept : Tensor of shape (tokens * width,)
        """
        if self.skip is None:
            raise InputError("`skip`", expected="a head with a linear path", found="skip=False")
        layer = self.skip.subjects[subject]
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(coef.T * len(coef) ** 0.5)
        layer.bias.copy_(intercept)
        if subject == 0:
            self.linear.weight.mul_(SMALL_START / self.width**0.5)
            self.linear.bias.zero_()


class Projector(nn.Module):
    """Three linear layers per token, each behind LayerNorm and GELU.

    Parameters
    ----------
    width, hidden : int
    residual : bool
        Whether the input is added to the output, which then starts as almost the identity.

    Examples
    --------
    >>> Projector(4, hidden=8)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, width: int, hidden: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        sizes = [width, hidden, hidden, width]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.LayerNorm(size_in), nn.GELU(), nn.Linear(size_in, size_out)]
        self.layers = nn.Sequential(*layers)
        if residual:
            last = layers[-1]
            assert isinstance(last, nn.Linear)
            with torch.no_grad():
                last.weight.mul_(SMALL_START / width**0.5)
                last.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, tokens, width) to (batch, tokens, width)."""
        projected = self.layers(tokens)
        return tokens + projected if self.residual else projected


class UpBlock(nn.Module):
    """Residual convolution, then twice the resolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels_in)
        self.convolution = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.out = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, height, width) to (batch, channels_out, 2 height, 2 width)."""
        x = x + self.convolution(nn.functional.silu(self.norm(x)))
        return self.out(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters in two: matrices of linear and convolution layers decay, everything else does not."""
    decayed = {
        id(module.weight)
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d)
    }
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in decayed], "weight_decay": 0.0},
    ]

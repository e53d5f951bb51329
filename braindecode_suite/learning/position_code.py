"""The sine code of a place on a grid (Carion et al. 2020, DETR, arXiv:2005.12872; after Vaswani et al. 2017)."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from braindecode_suite.core.errors import InputError

TEMPERATURE = 10_000.0


def sine_code(height: int, width: int, channels: int) -> Tensor:
    """Code the row of each place in the first half of the channels, its column in the second.

    Row i of h stands at ``y = 2 pi i / h``, i from 1; channel pair k of a half of n channels is ``sin(y / T^(2k/n)),
    cos(y / T^(2k/n))`` with T = 10000, sine and cosine in turn; columns likewise.

    Parameters
    ----------
    height, width : int
        Rows and columns of the grid.
    channels : int
        A multiple of 4.

    Returns
    -------
    Tensor of float32 of shape (height * width, channels)
        Row by row from the top left.

    Examples
    --------
    >>> sine_code(1, 4, 4)[0]  # y = 2 pi, x = pi / 2
    tensor([-2.4493e-16,  1.0000e+00,  1.0000e+00,  6.1232e-17])
    """
    if channels % 4:
        raise InputError("`channels`", expected="a multiple of 4", found=str(channels))
    rows, columns = _line_code(height, channels // 2), _line_code(width, channels // 2)
    code = torch.cat(
        [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=2
    )  # (height, width, channels)
    return code.flatten(0, 1).float()


def _line_code(length: int, channels: int) -> Tensor:
    """Code places along a line: (length, channels)."""
    place = 2 * pi * torch.arange(1, length + 1, dtype=torch.float64) / length
    rate = TEMPERATURE ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
    angle = place[:, None] * rate  # (length, channels / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)

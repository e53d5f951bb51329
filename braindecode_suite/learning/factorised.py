"""A readout in two factors: where on the image a unit looks, and which features it weighs there (Klindt et al. 2017).

``r_v = sum_xy M_q(x, y) sum_k a_vk phi_k(x, y) + b_v``; the mask M belongs to the unit v itself or to its region q, and is the
same for every image: attention that has to decide before it has seen anything.

The paper sets an L1 penalty on masks and on feature weights. What it leaves open, or what depends on features that are given
instead of learned, is our choice: one mask a source of features; masks start flat (mean pooling); they may be negative unless
``mask="softmax"``; penalties are means over masks and units, so that they do not depend on their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.features import Grid
from braindecode_suite.learning.regressors import placed_tokens
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.routing import GatheredReadout

Mask = Literal["free", "positive", "softmax"]


class SpatialMask(nn.Module):
    """Tokens of one source pooled by a mask for each query.

    Parameters
    ----------
    n_queries : int
    grid : Grid
        Tokens that show padding, and the class token, have no part.
    width : int
    mask : {'free', 'positive', 'softmax'}
        Any numbers, their magnitudes, or a distribution over tokens.
    """

    placed: Tensor
    token_mean: Tensor
    token_gain: Tensor

    def __init__(self, n_queries: int, grid: Grid, width: int, mask: Mask) -> None:
        super().__init__()
        placed = torch.from_numpy(placed_tokens(grid))
        self.kind, self.tokens, self.width = mask, grid.tokens, width
        n = int(placed.sum())
        start = torch.zeros(n_queries, n) if mask == "softmax" else torch.ones(n_queries, n)
        self.weight = nn.Parameter(start)
        self.register_buffer("placed", placed.nonzero()[:, 0], persistent=False)
        self.register_buffer("token_mean", torch.zeros(width))
        self.register_buffer("token_gain", torch.ones(width))

    def maps(self) -> Tensor:
        """Return the masks, (queries, placed tokens)."""
        if self.kind == "softmax":
            return self.weight.softmax(dim=1)
        weight = self.weight.abs() if self.kind == "positive" else self.weight
        return weight / self.weight.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool standardised tokens (batch, tokens, width) by each mask: (batch, queries, width)."""
        return self.maps() @ self.enter(tokens)  # (batch, queries, width)

    def enter(self, tokens: Tensor) -> Tensor:
        """Return the tokens that have a place, standardised, (batch, placed tokens, width)."""
        check_shape("tokens", tokens, "batch tokens width", tokens=self.tokens, width=self.width)
        return (tokens[:, self.placed] - self.token_mean) * self.token_gain


class FactorisedReadout(nn.Module):
    """Masks of queries and feature weights of units, over one or more sources of features.

    Parameters
    ----------
    routes : Routes
        Which query speaks for which unit.
    grids : sequence of Grid
    widths : sequence of int
        Of the sources' tokens.
    mask : {'free', 'positive', 'softmax'}

    Examples
    --------
    >>> import numpy as np
    >>> network = FactorisedReadout(Routes(("a", "b"), np.array([0, 1, 1])), [Grid(2, 2)], [5], "free")
    >>> network([torch.zeros(4, 4, 5)]).shape
    torch.Size([4, 3])
    """

    def __init__(self, routes: Routes, grids: Sequence[Grid], widths: Sequence[int], mask: Mask) -> None:
        super().__init__()
        pairs = zip(grids, widths, strict=True)
        self.masks = nn.ModuleList(SpatialMask(len(routes.names), grid, width, mask) for grid, width in pairs)
        self.readout = GatheredReadout(sum(widths), routes)

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Map the tokens of each source, (batch, tokens, width), to the modelled units, (batch, units)."""
        if self.readout.each == 1 and self.readout.mixing is None:
            return self._weigh_first(tokens)
        pooled = [mask(x) for mask, x in zip(self.masks, tokens, strict=True)]
        return self.readout(torch.cat(pooled, dim=2))  # (batch, units)

    def _weigh_first(self, tokens: Sequence[Tensor]) -> Tensor:
        """The same where each unit has a mask of its own: one product weighs features, then places are summed, in half the time."""
        head = cast(nn.Linear, self.readout.heads[0])
        masks = [cast(SpatialMask, mask) for mask in self.masks]
        values = head.bias
        weights = head.weight.split([mask.width for mask in masks], dim=1)
        for mask, x, weight in zip(masks, tokens, weights, strict=True):
            weighed = mask.enter(x) @ weight.T  # (batch, placed tokens, units)
            values = values + (weighed * mask.maps().T).sum(dim=1)
        return values.index_select(1, self.readout.place)  # (batch, units)

    def penalties(self) -> Mapping[str, Tensor]:
        """Return the L1 norms of masks (mean over masks) and of feature weights (mean over units)."""
        masks = [cast(SpatialMask, mask).maps().abs().sum(dim=1).mean() for mask in self.masks]
        heads = [cast(nn.Linear, head).weight for head in self.readout.heads]
        n_units = sum(len(weight) for weight in heads)
        return {
            "masks": torch.stack(masks).mean(),
            "features": torch.stack([weight.abs().sum() for weight in heads]).sum() / n_units,
        }

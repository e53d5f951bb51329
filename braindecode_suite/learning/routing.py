"""Attention that routes image tokens to brain areas, and areas to latents: learned queries look at tokens.

From images to the brain, queries look at an image and each unit reads its own; from the brain to images, every area is a token
and latents read theirs (`encoders.brain_routing`). The block between tokens and readout is the same.

After Adeli, Sun & Kriegeskorte 2025 (arXiv:2505.17329): the decoder of DETR (Carion et al. 2020) without self-attention
between queries. A query belongs to a region, a unit, a channel...; it attends to the tokens by their content and, through the
sine code that is added to the keys only, by their place. What it gathers becomes a token of the region, of which every unit of
the region is a linear function.

The readout is a product per region (of its token with the weights of its own units), never of every token with every unit.
Tensors that could not be trained do not exist: self-attention, a norm of the all-zero input of the first layer, a bias of the
keys (softmax does not see it), queries of empty regions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid
from braindecode_suite.learning.layers import Share
from braindecode_suite.learning.position_code import sine_code
from braindecode_suite.learning.routes import Routes


class RoutingConfig(Config):
    """Architecture only; sizes that come from the data are arguments of the model.

    Attributes
    ----------
    width : int
        Of queries and attention; features of another width are mapped to it by a linear layer.
    heads, n_layers : int
        Attention heads; cross-attention layers.
    feed_forward : int
        Hidden width of the feed-forward part.
    dropout : float
        Of attention weights, and of what attention and feed-forward parts add.
    values : {'projected', 'tokens'}
        What attention averages: a projection of the tokens, as in transformers, or the tokens themselves, heads being slices
        of their features. The second has no norm at the end and adds nothing to what is attended.
    standardise : bool
        Whether features are standardised by the training images' mean and deviation, feature by feature.
    """

    width: PositiveInt = 768
    heads: PositiveInt = 16
    n_layers: PositiveInt = 1
    feed_forward: PositiveInt = 1024
    dropout: Share = 0.1
    values: Literal["projected", "tokens"] = "projected"
    standardise: bool = False


class CrossAttention(nn.Module):
    """Multi-head attention of queries to tokens; places are added to the keys only.

    Parameters
    ----------
    width, heads : int
    dropout : float
        Of the attention weights.
    project_values : bool
        Without, each head averages its own slice of the tokens' features.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, project_values: bool) -> None:
        super().__init__()
        if width % heads:
            raise InputError("`heads`", expected=f"a divisor of the width {width}", found=str(heads))
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width) if project_values else None
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, tokens: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        """Attend.

        Parameters
        ----------
        query : Tensor of shape (batch or 1, queries, width)
        tokens : Tensor of shape (batch, tokens, width)
        places : Tensor of shape (tokens, width)
        mask : Tensor of bool of shape (1, tokens), or broadcastable to (batch, heads, queries, tokens), or None
            True where a token may be attended to.

        Returns
        -------
        Tensor of shape (batch, queries, width)
        """
        q, k = self._query_key(query, tokens, places)
        v = self._split(tokens if self.value is None else self.value(tokens))
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )  # (batch, heads, queries, width / heads)
        return self.out(attended.transpose(1, 2).flatten(2))  # (batch, queries, width)

    def weights(self, query: Tensor, tokens: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        """Return attention weights of shape (batch, heads, queries, tokens); they sum to 1 over tokens."""
        q, k = self._query_key(query, tokens, places)
        score = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if mask is not None:
            score = score.masked_fill(~mask, float("-inf"))
        return score.softmax(dim=-1)

    def _query_key(self, query: Tensor, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        q = self._split(self.query(query)).expand(len(tokens), -1, -1, -1)
        return q, self._split(self.key(tokens + places))

    def _split(self, x: Tensor) -> Tensor:
        """Split the last axis in heads: (batch, heads, length, width / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class RoutingLayer(nn.Module):
    """Cross-attention, then a feed-forward part, each behind a layer norm; the first layer has nothing to norm.

    Parameters
    ----------
    config : RoutingConfig
    first : bool
    """

    def __init__(self, config: RoutingConfig, *, first: bool) -> None:
        super().__init__()
        width = config.width
        self.adds = config.values == "projected"
        self.norm = None if first else nn.LayerNorm(width)
        self.attention = CrossAttention(width, config.heads, config.dropout, project_values=self.adds)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, config.feed_forward),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feed_forward, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, state: Tensor | None, query: Tensor, tokens: Tensor, places: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Update the queries' state (batch, queries, width); None before the first layer."""
        attended = self.dropout(self.attention(self.ask(state, query), tokens, places, mask))
        state = attended if state is None or not self.adds else state + attended
        return state + self.dropout(self.feed(self.feed_norm(state)))

    def ask(self, state: Tensor | None, query: Tensor) -> Tensor:
        """Return what is asked of the tokens, (batch or 1, queries, width)."""
        return query[None] if state is None or self.norm is None else self.norm(state) + query


class GatheredReadout(nn.Module):
    """Every unit as a linear function of its own segment's token: one matrix product a segment.

    Parameters
    ----------
    width : int
    routes : Routes

    Examples
    --------
    >>> readout = GatheredReadout(8, Routes(("a", "b"), np.array([1, 0, 1, -1])))
    >>> readout(torch.zeros(5, 2, 8)).shape
    torch.Size([5, 3])
    """

    mixing: Tensor | None
    place: Tensor

    def __init__(self, width: int, routes: Routes) -> None:
        super().__init__()
        segment, sizes = routes.segment[routes.modelled], routes.sizes
        self.each = (
            int(sizes[0]) if (sizes == sizes[0]).all() else None
        )  # segments of one size: one batched product
        heads = sizes.tolist() if self.each is None else [int(sizes.sum())]
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in heads)
        order = np.argsort(segment, kind="stable")  # units of a segment side by side
        self.register_buffer("place", torch.from_numpy(np.argsort(order)), persistent=False)
        mixing = None if routes.mixing is None else torch.from_numpy(routes.mixing)
        self.register_buffer("mixing", mixing, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the queries' tokens (batch, queries, width) to the modelled units in their order, (batch, units)."""
        if self.mixing is not None:
            tokens = self.mixing.to(tokens.dtype) @ tokens  # (batch, segments, width)
        if self.each is not None:
            head = self.heads[0]
            assert isinstance(head, nn.Linear)
            weight = head.weight.unflatten(0, (-1, self.each))  # (segments, units of each, width)
            values = torch.einsum("bsw,suw->bsu", tokens, weight).flatten(1) + head.bias
        else:
            pairs = zip(self.heads, tokens.unbind(dim=1), strict=True)
            values = torch.cat([head(token) for head, token in pairs], dim=1)
        return values.index_select(1, self.place)  # (batch, units)


class GatheredTokens(nn.Module):
    """Every region's token as a linear function of its own units: `GatheredReadout` the other way round.

    A unit of several regions has the same weights in each; its share in them is that of `Routes.mixing`.

    Parameters
    ----------
    width : int
    routes : Routes

    Examples
    --------
    >>> gather = GatheredTokens(8, Routes(("a", "b"), np.array([1, 0, 1, -1])))
    >>> gather(torch.zeros(5, 4)).shape
    torch.Size([5, 2, 8])
    """

    mixing: Tensor | None
    order: Tensor

    def __init__(self, width: int, routes: Routes) -> None:
        super().__init__()
        self.n_units, sizes = len(routes.segment), routes.sizes
        self.sizes = sizes.tolist()
        self.one_each = bool((sizes == 1).all())
        heads = [nn.Linear(n, width, bias=False) for n in self.sizes if not self.one_each]
        self.heads = nn.ModuleList(heads)
        self.weight = nn.Parameter(torch.empty(len(sizes), width).uniform_(-1, 1)) if self.one_each else None
        self.bias = nn.Parameter(torch.zeros(len(routes.names), width))
        order = np.argsort(routes.segment, kind="stable")[int((~routes.modelled).sum()) :]
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        mixing = None if routes.mixing is None else torch.from_numpy(routes.mixing)
        self.register_buffer("mixing", mixing, persistent=False)

    def forward(self, responses: Tensor) -> Tensor:
        """Map responses (rows, units) to the regions' tokens (rows, regions, width)."""
        check_shape("responses", responses, "rows units", units=self.n_units)
        x = responses.index_select(1, self.order)  # (rows, modelled units), segment by segment
        if self.weight is not None:
            tokens = x[:, :, None] * self.weight
        else:
            pairs = zip(self.heads, x.split(self.sizes, dim=1), strict=True)
            tokens = torch.stack([head(part) for head, part in pairs], dim=1)  # (rows, segments, width)
        if self.mixing is not None:
            tokens = self.mixing.T.to(tokens.dtype) @ tokens
        return tokens + self.bias


class RoutingBlock(nn.Module):
    """Learned queries that look at tokens: cross-attention layers one after another, and a norm.

    Parameters
    ----------
    n_queries : int
    config : RoutingConfig

    Examples
    --------
    >>> block = RoutingBlock(3, RoutingConfig(width=8, heads=2, feed_forward=8))
    >>> tokens, places = torch.zeros(5, 4, 8), torch.zeros(4, 8)
    >>> block(tokens, places).shape, block.attention(tokens, places).shape
    (torch.Size([5, 3, 8]), torch.Size([5, 2, 3, 4]))
    """

    def __init__(self, n_queries: int, config: RoutingConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(n_queries, config.width))
        self.layers = nn.ModuleList(RoutingLayer(config, first=k == 0) for k in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width) if config.values == "projected" else None
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, tokens: Tensor, places: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what the queries gathered, (batch, queries, width).

        Parameters
        ----------
        tokens : Tensor of shape (batch, tokens, width)
        places : Tensor of shape (tokens, width)
            Added to the keys only.
        mask : Tensor of bool of shape (1, tokens), or broadcastable to (batch, heads, queries, tokens), or None
            True where a token may be attended to.
        """
        state: Tensor | None = None
        for layer in self.layers:
            state = layer(state, self.queries, tokens, places, mask)  # (batch, queries, width)
        assert state is not None
        return state if self.norm is None else self.norm(state)

    def attention(
        self, tokens: Tensor, places: Tensor, mask: Tensor | None = None, layer: int = -1
    ) -> Tensor:
        """Return where each query looks in one of the layers: (batch, heads, queries, tokens), summing to 1 over tokens."""
        state: Tensor | None = None
        chosen = range(len(self.layers))[layer]
        for before in list(self.layers)[:chosen]:
            state = before(state, self.queries, tokens, places, mask)
        asking = self.layers[chosen]
        assert isinstance(asking, RoutingLayer)
        return asking.attention.weights(asking.ask(state, self.queries), tokens, places, mask)


class RoutingNetwork(nn.Module):
    """Tokens of an image to responses of units.

    Parameters
    ----------
    routes : Routes
    grid : Grid
        Where the tokens lie; those that show padding are not attended to.
    token_width : int
        Width of the features.
    config : RoutingConfig

    Examples
    --------
    >>> routes = Routes(("a", "b"), np.array([0, 1, 1]))
    >>> network = RoutingNetwork(routes, Grid(2, 2), 6, RoutingConfig(width=8, heads=2, feed_forward=8))
    >>> network(torch.zeros(3, 4, 6)).shape, network.attention(torch.zeros(3, 4, 6)).shape
    (torch.Size([3, 3]), torch.Size([3, 2, 2, 4]))
    """

    token_mean: Tensor
    token_gain: Tensor
    places: Tensor
    mask: Tensor | None

    def __init__(self, routes: Routes, grid: Grid, token_width: int, config: RoutingConfig) -> None:
        super().__init__()
        width = config.width
        self.tokens, self.token_width = grid.tokens, token_width
        self.resize = nn.Linear(token_width, width) if token_width != width else None
        self.block = RoutingBlock(len(routes.names), config)
        self.readout = GatheredReadout(width, routes)
        places = torch.cat([torch.zeros(int(grid.has_cls), width), sine_code(grid.height, grid.width, width)])
        self.register_buffer("places", places, persistent=False)
        mask = None if grid.mask.all() else torch.from_numpy(grid.mask)[None]
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("token_mean", torch.zeros(token_width) if config.standardise else None)
        self.register_buffer("token_gain", torch.ones(token_width) if config.standardise else None)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, tokens, token width) to responses of the modelled units, (batch, units)."""
        return self.readout(self.block(self._enter(tokens), self.places, self.mask))

    def attention(self, tokens: Tensor, layer: int = -1) -> Tensor:
        """Return where each query looks: (batch, heads, queries, tokens), summing to 1 over tokens.

        Parameters
        ----------
        tokens : Tensor of shape (batch, tokens, token width)
        layer : int
            Which of the cross-attention layers; the last by default.
        """
        return self.block.attention(self._enter(tokens), self.places, self.mask, layer)

    def _enter(self, tokens: Tensor) -> Tensor:
        check_shape("tokens", tokens, "batch tokens width", tokens=self.tokens, width=self.token_width)
        if self.token_mean is not None:
            tokens = (tokens - self.token_mean) * self.token_gain
        return tokens if self.resize is None else self.resize(tokens)

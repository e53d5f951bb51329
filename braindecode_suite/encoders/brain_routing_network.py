"""The network of brain-routing: units to tokens of regions, to what latent queries gather, to latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from braindecode_suite.core.errors import InputError
from braindecode_suite.encoders.brain_routing_config import BrainRoutingConfig
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.routing import GatheredReadout, GatheredTokens, RoutingBlock


class RegionTokens(nn.Module):
    """Units of each subject to tokens of the subject's regions.

    Parameters
    ----------
    width : int
    routes : sequence of Routes
        By subject.
    """

    def __init__(self, width: int, routes: Sequence[Routes]) -> None:
        super().__init__()
        self.subjects = nn.ModuleList(GatheredTokens(width, of) for of in routes)

    def forward(self, responses: Sequence[Tensor]) -> list[Tensor]:
        """Map each subject's (rows, units) to (rows, regions of the subject, width)."""
        if len(responses) != len(self.subjects):
            raise InputError(
                "`responses`",
                expected=f"one tensor for each of {len(self.subjects)} subjects",
                found=str(len(responses)),
            )
        return [gather(rows) for gather, rows in zip(self.subjects, responses, strict=True)]


class BrainRoutingNetwork(nn.Module):
    """Regions of several subjects to latents: every latent token has a query, and reads what the query gathered.

    Subjects share everything but the way from units to tokens. A region has a learned code that is added to its keys, as
    the place of an image token is in the other direction; regions of one name share it.

    Parameters
    ----------
    routes : sequence of Routes
        By subject: regions, and which units they have.
    roles : mapping of role to (int, int)
        Tokens and width of each target.
    config : BrainRoutingConfig

    Examples
    --------
    >>> routes = [Routes(("a", "b"), np.array([0, 1, 1])), Routes(("b",), np.array([0, 0]))]
    >>> config = BrainRoutingConfig(network={"width": 8, "heads": 2, "feed_forward": 8})
    >>> network = BrainRoutingNetwork(routes, {"retrieval": (5, 4)}, config)
    >>> network([torch.zeros(3, 3), torch.zeros(1, 2)])["retrieval"].shape
    torch.Size([4, 5, 4])
    >>> network.attention(0, torch.zeros(3, 3)).shape
    torch.Size([3, 2, 5, 2])
    """

    def __init__(
        self, routes: Sequence[Routes], roles: Mapping[str, tuple[int, int]], config: BrainRoutingConfig
    ) -> None:
        super().__init__()
        width = config.network.width
        self.roles, self.n_units = dict(roles), tuple(len(of.segment) for of in routes)
        self.names = tuple(dict.fromkeys(name for of in routes for name in of.names))
        self.own = [[self.names.index(name) for name in of.names] for of in routes]
        self.subject_in = RegionTokens(width, routes)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout_in)
        self.codes = nn.Parameter(torch.randn(len(self.names), width))
        self.block = RoutingBlock(sum(tokens for tokens, _ in roles.values()), config.network)
        self.readouts = nn.ModuleDict(
            {role: GatheredReadout(width, _own_tokens(*shape)) for role, shape in roles.items()}
        )
        with (
            torch.no_grad()
        ):  # latents are scaled to tokens of unit length: predictions start no longer than that
            for role, (_, features) in roles.items():
                for parameter in self.readouts[role].parameters():
                    parameter.mul_(features**-0.5)

    def forward(self, responses: Sequence[Tensor]) -> dict[str, Tensor]:
        """Map each subject's (rows, units), subjects one after another in the batch, to (batch, tokens, width) by role."""
        tokens = [self._standardise(x) for x in self.subject_in(responses)]
        pairs = zip(tokens, self.own, strict=True)
        return self._read(torch.cat([self.block(x, self.codes[own]) for x, own in pairs]))

    def without(self, subject: int, responses: Tensor, region: int) -> dict[str, Tensor]:
        """Map rows of one subject as `forward` does, when no query may look at one of the subject's regions."""
        tokens, places = self._tokens(subject, responses)
        seen = torch.arange(len(places), device=places.device)[None] != region
        return self._read(self.block(tokens, places, seen))

    def attention(self, subject: int, responses: Tensor, layer: int = -1) -> Tensor:
        """Return where each query looks, for rows of one subject: (rows, heads, queries, regions), summing to 1 over regions."""
        return self.block.attention(*self._tokens(subject, responses), layer=layer)

    def _tokens(self, subject: int, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Return one subject's tokens (rows, regions, width) and codes (regions, width)."""
        gather = self.subject_in.subjects[subject]
        return self._standardise(gather(responses)), self.codes[self.own[subject]]

    def _standardise(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.norm(tokens))

    def _read(self, state: Tensor) -> dict[str, Tensor]:
        """Read every role from its own queries, of (batch, queries, width)."""
        parts = state.split([n for n, _ in self.roles.values()], dim=1)
        return {
            role: self.readouts[role](part).unflatten(1, shape)
            for (role, shape), part in zip(self.roles.items(), parts, strict=True)
        }


def _own_tokens(tokens: int, width: int) -> Routes:
    """Return the routes of a target's numbers: all of a token are read from the token's query."""
    return Routes(tuple(f"token-{k}" for k in range(tokens)), np.repeat(np.arange(tokens), width))

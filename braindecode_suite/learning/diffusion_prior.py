"""The network of the diffusion prior: a transformer over brain tokens, a time token and noisy image tokens.

Architecture of the prior of MindEye (Scotti et al. 2023), after DALL-E 2's (Ramesh et al. 2022): multi-query attention by
cosine similarity with rotary positions, a learned null key and bucketed relative positions; SwiGLU feed-forward layers.
It reads its prediction of the clean image tokens at the places of the noisy ones. What is learned with it and how it is
sampled is in `learning.diffusion`.
"""

from __future__ import annotations

from math import log

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.config import Config

ROTARY = 32
N_BUCKETS, FARTHEST = 32, 128
ATTENTION_SCALE = 16.0


class PriorConfig(Config):
    """Architecture of the prior's network; tokens and width come from the target.

    Attributes
    ----------
    depth, heads, dim_head, ff_mult : int
    residual : bool
        Whether the brain tokens are added to the prediction, so that the network corrects them. The paper's does not.
    """

    depth: PositiveInt = 6
    heads: PositiveInt = 12
    dim_head: PositiveInt = 64
    ff_mult: PositiveInt = 4
    residual: bool = False


class Gain(nn.Module):
    """LayerNorm with a gain and no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return nn.functional.layer_norm(x, x.shape[-1:], self.gain)


class Attention(nn.Module):
    """Multi-query self-attention: many query heads, one key and value head, one learned null key."""

    def __init__(self, width: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.norm, self.out_norm = Gain(width), Gain(width)
        self.null = nn.Parameter(torch.randn(2, dim_head))
        self.to_query = nn.Linear(width, heads * dim_head, bias=False)
        self.to_key_value = nn.Linear(width, 2 * dim_head, bias=False)
        self.out = nn.Linear(heads * dim_head, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Attend within (batch, length, width); `bias` is (heads, length, length + 1), the null key first."""
        batch, length, _ = x.shape
        x = self.norm(x)
        query = (
            self.to_query(x).unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2)
        )  # (batch, heads, length, dim)
        key, value = self.to_key_value(x).chunk(2, dim=-1)  # (batch, length, dim)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        null_key, null_value = (null.expand(batch, 1, -1).to(key.dtype) for null in self.null)
        key, value = (
            torch.cat([null_key, key], dim=1),
            torch.cat([null_value, value], dim=1),
        )  # (batch, length + 1, dim)
        query = ATTENTION_SCALE * nn.functional.normalize(query, dim=-1).flatten(
            1, 2
        )  # (batch, heads * length, dim)
        similarity = query @ nn.functional.normalize(key, dim=-1).transpose(1, 2)
        similarity = (
            similarity.unflatten(1, (self.heads, length)) + bias
        )  # (batch, heads, length, length + 1)
        weights = similarity.softmax(dim=-1).to(value.dtype)
        attended = (weights.flatten(1, 2) @ value).unflatten(1, (self.heads, length))
        return self.out_norm(self.out(attended.transpose(1, 2).flatten(2)))  # (batch, length, width)


class FeedForward(nn.Module):
    """SwiGLU: ``Linear(a * SiLU(b))`` with a, b two halves of a linear layer."""

    def __init__(self, width: int, multiple: int) -> None:
        super().__init__()
        self.norm = Gain(width)
        self.inner = nn.Linear(width, 2 * multiple * width, bias=False)
        self.out = nn.Linear(multiple * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        a, b = self.inner(self.norm(x)).chunk(2, dim=-1)
        return self.out(a * nn.functional.silu(b))


class PriorNetwork(nn.Module):
    """Predict clean image tokens from noisy ones, the time and brain tokens.

    Parameters
    ----------
    tokens, width : int
        Of the target.
    config : PriorConfig

    Examples
    --------
    >>> network = PriorNetwork(2, 8, PriorConfig(depth=1, heads=2, dim_head=8))
    >>> network(torch.zeros(3, 2, 8), torch.zeros(3, dtype=torch.long), torch.zeros(3, 2, 8)).shape
    torch.Size([3, 2, 8])
    """

    def __init__(self, tokens: int, width: int, config: PriorConfig) -> None:
        super().__init__()
        self.tokens, self.width, self.config = tokens, width, config
        scale = width**-0.5
        self.query_places = nn.Parameter(torch.randn(tokens, width) * scale)
        self.null_brain = nn.Parameter(torch.randn(tokens, width) * scale)
        self.null_image = nn.Parameter(torch.randn(tokens, width) * scale)
        self.time_mlp = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
        )
        self.relative_bias = nn.Embedding(N_BUCKETS, config.heads)
        self.attention = nn.ModuleList(
            Attention(width, config.heads, config.dim_head) for _ in range(config.depth)
        )
        self.feed_forward = nn.ModuleList(FeedForward(width, config.ff_mult) for _ in range(config.depth))
        self.norm_out = Gain(width)
        self.out = nn.Linear(width, width, bias=False)
        if config.residual:
            with torch.no_grad():
                self.out.weight.mul_(0.05)

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        brain: Tensor,
        drop_brain: Tensor | None = None,
        drop_image: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean tokens.

        Parameters
        ----------
        noisy, brain : Tensor of shape (batch, tokens, width)
        time : Tensor of int of shape (batch,)
        drop_brain, drop_image : Tensor of bool of shape (batch,), optional
            Rows whose brain (noisy image) tokens are replaced by learned null tokens.

        Returns
        -------
        Tensor of shape (batch, tokens, width)
        """
        check_shape("noisy", noisy, "batch tokens width", tokens=self.tokens, width=self.width)
        check_shape(
            "brain", brain, "batch tokens width", batch=len(noisy), tokens=self.tokens, width=self.width
        )
        brain = replace_rows(brain, drop_brain, self.null_brain)
        noisy = replace_rows(noisy, drop_image, self.null_image) + self.query_places
        when = self.time_mlp(sinusoids(time, self.width))[:, None]  # (batch, 1, width)
        x = torch.cat([brain, when, noisy], dim=1)  # (batch, 2 * tokens + 1, width)
        length = x.shape[1]
        bias = self.relative_bias(relative_buckets(length, x.device)).permute(
            2, 0, 1
        )  # (heads, length, length + 1)
        rotary = rotary_angles(length, min(ROTARY, self.config.dim_head), x.device)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x = x + attention(x, bias, rotary)
            x = x + feed_forward(x)
        predicted = self.out(self.norm_out(x[:, -self.tokens :]))  # (batch, tokens, width)
        return brain + predicted if self.config.residual else predicted


def replace_rows(x: Tensor, drop: Tensor | None, null: Tensor) -> Tensor:
    """Put `null` (tokens, width) in the place of the rows of `x` (batch, tokens, width) where `drop` (batch,) is true."""
    return x if drop is None else torch.where(drop[:, None, None], null.to(x.dtype), x)


def sinusoids(time: Tensor, width: int) -> Tensor:
    """Embed times of shape (batch,) as sines and cosines of shape (batch, width)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=time.device) * -(log(10000) / max(half - 1, 1)))
    angles = time.float()[:, None] * rates
    embedded = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(embedded, (0, width - 2 * half))


def rotary_angles(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of shape (length, width // 2) for `rotate`."""
    rates = 10000.0 ** (-torch.arange(0, width - width % 2, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn pairs of the first features of `x` (..., length, dim) by an angle that grows with the position."""
    turned, rest = x[..., : 2 * cosine.shape[-1]], x[..., 2 * cosine.shape[-1] :]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    pairs = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return torch.cat([pairs.flatten(-2).to(x.dtype), rest], dim=-1)


def relative_buckets(length: int, device: torch.device) -> Tensor:
    """Return the bucket of each (query, key) pair, of shape (length, length + 1); the null key stands first.

    T5's buckets (Raffel et al. 2020), the non-causal form reduced to distances behind the query as DALL-E 2's prior has
    it: half of them hold single distances, the others grow logarithmically up to `FARTHEST`.
    """
    query, key = torch.arange(length, device=device)[:, None], torch.arange(length + 1, device=device)[None]
    distance = (query - key).clamp_min(0)
    exact = N_BUCKETS // 2
    far = (
        exact
        + (torch.log(distance.clamp_min(1) / exact) / log(FARTHEST / exact) * (N_BUCKETS - exact)).long()
    )
    return torch.where(distance < exact, distance, far.clamp_max(N_BUCKETS - 1))

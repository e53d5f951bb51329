"""Contrastive losses over in-batch negatives, across devices: InfoNCE in its one- and two-sided forms, and SigLIP.

Softmax and similarities are in float32 whatever the autocast. Two rows of one image (two people saw it) are no negatives of each
other. Where `torch.distributed` is initialised, the rows of all devices are candidates, and gradients flow back to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor, nn

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.losses import unit_rows

ContrastName = Literal["one-sided", "symmetric", "siglip"]


def number_ids(ids: Sequence[str]) -> Tensor:
    """Return a number for each stimulus id, the same on every device: Tensor of int64 of shape (ids,)."""
    return torch.tensor(
        [int.from_bytes(blake2b(i.encode(), digest_size=8).digest(), "little") >> 1 for i in ids]
    )


class _Gather(torch.autograd.Function):
    """All devices' rows; backwards, the sum of what all devices want of mine."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all devices, in order of rank; every device must have the same number. Alone: `x` itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def match_ids(ids: Sequence[str], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the candidate that belongs to each row of this device, and which candidates show the row's image.

    Returns
    -------
    (Tensor of int of shape (batch,), Tensor of bool of shape (batch, candidates))
    """
    numbers = number_ids(ids).to(device)
    everyone = gather_rows(numbers)
    rank = torch.distributed.get_rank() if len(everyone) > len(numbers) else 0
    own = torch.arange(len(numbers), device=numbers.device) + rank * len(numbers)
    return own, numbers[:, None] == everyone


def info_nce(
    predicted: Tensor,
    true: Tensor,
    ids: Sequence[str],
    *,
    scale: Tensor | float = 1.0,
    normalise: Literal["true", "both"] = "true",
    symmetric: bool = False,
) -> Tensor:
    """Contrast brains with images.

    ``-mean_i log softmax_j(scale * s(p_i, t_j))`` at j = i, where other rows that show the image of i are left out.
    ``normalise='true'``: ``s = p . t / |t|``, so that the length of a prediction plays the part of an inverse temperature
    (Benchetrit et al. 2024 chose this one, with a scale of 1 and from brain to image only). ``'both'``: the cosine.

    Parameters
    ----------
    predicted, true : Tensor of shape (batch, ...)
    ids : sequence of str
        Stimulus id of each row.
    scale : Tensor of shape () or float
        Inverse temperature.
    normalise : {'true', 'both'}
    symmetric : bool
        Whether the contrast from image to brain is averaged with the other.

    Returns
    -------
    Tensor of shape ()

    Examples
    --------
    >>> info_nce(torch.zeros(4, 3), torch.eye(4, 3), ["a", "b", "c", "d"])
    tensor(1.3863)
    """
    with torch.autocast(predicted.device.type, enabled=False):
        p = unit_rows(predicted) if normalise == "both" else predicted.flatten(1).float()
        t = unit_rows(true)
        own, same = match_ids(ids, p.device)
        other = same.scatter(1, own[:, None], value=False)
        loss = _cross_entropy(p @ gather_rows(t).T * scale, own, other)
        if symmetric:
            loss = (loss + _cross_entropy(t @ gather_rows(p).T * scale, own, other)) / 2
        return loss


def _cross_entropy(logits: Tensor, own: Tensor, left_out: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.masked_fill(left_out, -torch.inf), own)


def sig_lip(
    predicted: Tensor, true: Tensor, ids: Sequence[str], *, scale: Tensor | float, bias: Tensor | float
) -> Tensor:
    """Tell matching from other pairs one by one (Zhai et al. 2023, arXiv:2303.15343, Eq. 1).

    ``-1/N sum_ij log sigmoid(y_ij (scale * cos(p_i, t_j) + bias))``; y is 1 where j shows the image of i, also in another row,
    else -1.

    Parameters
    ----------
    predicted, true : Tensor of shape (batch, ...)
    ids : sequence of str
    scale, bias : Tensor of shape () or float

    Returns
    -------
    Tensor of shape ()
    """
    with torch.autocast(predicted.device.type, enabled=False):
        p, t = unit_rows(predicted), unit_rows(true)
        _, same = match_ids(ids, p.device)
        logits = p @ gather_rows(t).T * scale + bias
        return -nn.functional.logsigmoid(torch.where(same, logits, -logits)).sum() / len(p)


class LogitScale(nn.Module):
    """The learned temperature (and bias) of a contrast, part of the model as in CLIP.

    Parameters
    ----------
    kind : {'symmetric', 'siglip'}
        Starts at a scale of 1 / 0.07, or at a scale of 10 and a bias of -10.
    """

    LARGEST = math.log(100)

    def __init__(self, kind: ContrastName) -> None:
        super().__init__()
        start = math.log(10) if kind == "siglip" else math.log(1 / 0.07)
        self.log_scale = nn.Parameter(torch.tensor(start))
        self.bias = nn.Parameter(torch.tensor(-10.0)) if kind == "siglip" else None

    def forward(self) -> Tensor:
        """Return the scale, at most 100."""
        return self.log_scale.clamp(max=self.LARGEST).exp()


def contrast(
    kind: ContrastName, predicted: Tensor, true: Tensor, ids: Sequence[str], logit: LogitScale | None = None
) -> Tensor:
    """Return one of the contrasts by name: ``one-sided`` has nothing to learn, the others take their `LogitScale`."""
    if kind == "one-sided":
        return info_nce(predicted, true, ids)
    if logit is None:
        raise InputError("`logit`", expected=f"the learned scale of {kind!r}", found="None")
    if kind == "symmetric":
        return info_nce(predicted, true, ids, scale=logit(), normalise="both", symmetric=True)
    assert logit.bias is not None
    return sig_lip(predicted, true, ids, scale=logit(), bias=logit.bias)

"""Contrastive losses between predicted and true latents: BiMixCo and SoftCLIP, in float32 whatever the autocast.

A row of a batch is a pair (brain, image). The same image may occur twice (two people saw it): such pairs are no
negatives of each other, they share their label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from braindecode_suite.core.checks import check_shape


@dataclass(frozen=True)
class Mixing:
    """How rows were mixed: row i became ``weight[i] * x[i] + (1 - weight[i]) * x[partner[i]]``.

    Attributes
    ----------
    partner : Tensor of int of shape (batch,)
        Row of the whole batch, of the same subject.
    weight : Tensor of shape (batch,)
        One where a row was left alone.
    """

    partner: Tensor
    weight: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Mix `x` of shape (batch, ...) in the same way."""
        weight = self.weight.to(x).view(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * x[self.partner]


def draw_mixing(
    counts: Sequence[int], generator: torch.Generator, *, concentration: float = 0.15, share: float = 0.5
) -> Mixing:
    """Draw partners within each subject and weights from Beta(concentration, concentration).

    Parameters
    ----------
    counts : sequence of int
        Rows of each subject in the batch, one subject after another.
    generator : torch.Generator
        On the CPU.
    concentration : float
    share : float
        Probability that a row is mixed at all.

    Returns
    -------
    Mixing

    Examples
    --------
    >>> mixing = draw_mixing([2, 3], torch.Generator().manual_seed(0))
    >>> bool((mixing.partner[2:] >= 2).all())
    True
    """
    start, partners = 0, []
    for count in counts:
        partners.append(torch.randperm(count, generator=generator) + start)
        start += count
    gammas = torch._standard_gamma(
        torch.full((2, start), concentration, dtype=torch.float64), generator=generator
    )
    beta = (gammas[0] / gammas.sum(dim=0).clamp_min(1e-300)).float()
    mixed = torch.rand(start, generator=generator) < share
    partner = torch.cat(partners) if partners else torch.empty(0, dtype=torch.long)
    return Mixing(partner, torch.where(mixed, beta, torch.ones_like(beta)))


def mixing_labels(mixing: Mixing, same_image: Tensor | None = None) -> Tensor:
    """Return which images each mixed brain row shows, of shape (batch, batch); every row sums to one.

    The two shares are added, so that a row mixed with itself keeps its whole label. Columns of one image share equally.

    Parameters
    ----------
    mixing : Mixing
    same_image : Tensor of bool of shape (batch, batch), optional
        Which rows show the same image, see `find_same_image`.
    """
    n = len(mixing.weight)
    labels = torch.zeros(n, n, device=mixing.weight.device)
    labels.scatter_add_(1, torch.arange(n, device=labels.device)[:, None], mixing.weight[:, None].float())
    labels.scatter_add_(1, mixing.partner[:, None], 1 - mixing.weight[:, None].float())
    if same_image is not None:
        shares = same_image.float()
        labels = labels @ (shares / shares.sum(dim=1, keepdim=True))
    return labels


def find_same_image(ids: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """Return which rows show the same image, a boolean tensor of shape (batch, batch)."""
    numbers: dict[str, int] = {}
    index = torch.tensor([numbers.setdefault(i, len(numbers)) for i in ids], device=device)
    return index[:, None] == index[None]


def bimixco(
    predicted: Tensor, true: Tensor, labels: Tensor | None = None, *, temperature: float = 0.006
) -> Tensor:
    """Contrast mixed brains with images in both directions.

    ``-1/2N sum_ij labels_ij (log softmax_j(p_i t_j / T) + log softmax_i(p_i t_j / T))`` with unit vectors p and t.

    Parameters
    ----------
    predicted, true : Tensor of shape (batch, ...)
        Flattened and scaled to unit length.
    labels : Tensor of shape (batch, batch), optional
        Share of image j in brain i, see `mixing_labels`; the identity by default.
    temperature : float

    Returns
    -------
    Tensor of shape ()
    """
    with torch.autocast(predicted.device.type, enabled=False):
        logits = unit_rows(predicted) @ unit_rows(true).T / temperature  # (batch, batch)
        if labels is None:
            labels = torch.eye(len(logits), device=logits.device)
        check_shape("labels", labels, "batch images", batch=len(logits), images=len(logits))
        by_brain = -(labels * logits.log_softmax(dim=1)).sum()
        by_image = -(labels * logits.log_softmax(dim=0)).sum()
        return (by_brain + by_image) / (2 * len(logits))


def soft_clip(predicted: Tensor, true: Tensor, *, temperature: float) -> Tensor:
    """Contrast brains with images, with the images' own similarities as soft labels, in both directions.

    The labels are ``softmax(t_i t_j / T)``, so that an image that occurs twice shares its label by itself.

    Parameters
    ----------
    predicted, true : Tensor of shape (batch, ...)
        Flattened and scaled to unit length.
    temperature : float

    Returns
    -------
    Tensor of shape ()
    """
    with torch.autocast(predicted.device.type, enabled=False):
        p, t = unit_rows(predicted), unit_rows(true)
        labels = (t @ t.T / temperature).softmax(dim=1)  # (batch, batch)
        logits = p @ t.T / temperature
        by_brain = -(labels * logits.log_softmax(dim=1)).sum(dim=1).mean()
        by_image = -(labels * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
        return (by_brain + by_image) / 2


def unit_rows(x: Tensor) -> Tensor:
    """Flatten each row and scale it to unit length, in float32."""
    return torch.nn.functional.normalize(x.flatten(1).float(), dim=1)


def cosine_ramp(start: float, stop: float, progress: float) -> float:
    """Go from `start` to `stop` along half a cosine as `progress` goes from 0 to 1.

    Examples
    --------
    >>> cosine_ramp(0.004, 0.0075, 0.0), cosine_ramp(0.004, 0.0075, 1.0)
    (0.004, 0.0075)
    """
    return stop + (start - stop) * (1 + cos(pi * min(max(progress, 0.0), 1.0))) / 2

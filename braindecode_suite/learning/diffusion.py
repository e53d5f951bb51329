"""Gaussian diffusion of latents: noise schedule, training objective and deterministic sampler.

Neither knows the network: it is a function ``predict(noisy, time) -> clean``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError

Denoiser = Callable[[Tensor, Tensor], Tensor]


def cosine_signal(timesteps: int, *, offset: float = 0.008, largest_beta: float = 0.999) -> Tensor:
    """Return the share of signal variance left after each step of the cosine schedule (Nichol & Dhariwal 2021, eq. 17).

    Returns
    -------
    Tensor of float64 of shape (timesteps,)
        Falling from almost 1 to almost 0.
    """
    time = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    level = torch.cos((time + offset) / (1 + offset) * pi / 2) ** 2
    beta = (1 - level[1:] / level[:-1]).clamp(max=largest_beta)
    return torch.cumprod(1 - beta, dim=0)


def add_noise(clean: Tensor, noise: Tensor, time: Tensor, signal: Tensor) -> Tensor:
    """Return ``sqrt(signal_t) clean + sqrt(1 - signal_t) noise`` for (batch, tokens, width) and times (batch,)."""
    share = signal.to(clean.device)[time].view(-1, *[1] * (clean.ndim - 1))
    return share.sqrt().to(clean.dtype) * clean + (1 - share).sqrt().to(clean.dtype) * noise


def denoising_error(predict: Denoiser, clean: Tensor, noise: Tensor, time: Tensor, signal: Tensor) -> Tensor:
    """Return the mean squared error of the predicted clean latents (x0-prediction), one a row.

    Parameters
    ----------
    predict : callable
        (batch, tokens, width) noisy latents and (batch,) times to clean latents.
    clean, noise : Tensor of shape (batch, tokens, width)
    time : Tensor of int of shape (batch,)
    signal : Tensor of shape (timesteps,)

    Returns
    -------
    Tensor of shape (batch,)
    """
    check_shape("noise", noise, "batch tokens width", batch=len(clean), width=clean.shape[-1])
    predicted = predict(add_noise(clean, noise, time, signal), time)
    return (predicted.float() - clean.float()).square().flatten(1).mean(dim=1)


@torch.no_grad()
def sample_ddim(predict: Denoiser, noise: Tensor, signal: Tensor, *, steps: int) -> Tensor:
    """Follow the deterministic path (DDIM, eta 0) from noise to a clean sample in a few steps.

    All randomness is in `noise`; nothing else is drawn (Song et al. 2021, eq. 12 with sigma 0).

    Parameters
    ----------
    predict : callable
        As for `denoising_error`.
    noise : Tensor of shape (batch, tokens, width)
    signal : Tensor of shape (timesteps,)
    steps : int
        Evenly spaced over the schedule, at most its length.

    Returns
    -------
    Tensor of shape (batch, tokens, width)
    """
    if not 1 <= steps <= len(signal):
        raise InputError(
            "`steps`", expected=f"1 to {len(signal)}, the length of the schedule", found=str(steps)
        )
    times = torch.linspace(len(signal) - 1, 0, steps + 1).round().long()[:-1] if steps < len(signal) else None
    if times is None:
        times = torch.arange(len(signal) - 1, -1, -1)
    x = noise
    for k, time in enumerate(times):
        here = float(signal[time])
        clean = predict(x, torch.full((len(x),), int(time), device=x.device))
        if k + 1 == len(times):
            return clean
        there = float(signal[times[k + 1]])
        direction = (x - here**0.5 * clean) / (1 - here) ** 0.5  # the noise this sample still holds
        x = there**0.5 * clean + (1 - there) ** 0.5 * direction
    return x


def seeded_noise(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal noise of shape (len(seeds), *shape), each row a function of its own seed alone."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, *shape)

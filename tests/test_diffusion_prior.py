"""The prior's schedule, objective and sampler against closed forms; its network's size, gradients and symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from numpy.testing import assert_allclose

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.diffusion import (
    add_noise,
    cosine_signal,
    denoising_error,
    sample_ddim,
    seeded_noise,
)
from braindecode_suite.learning.diffusion_prior import (
    PriorConfig,
    PriorNetwork,
    relative_buckets,
    rotary_angles,
    rotate,
    sinusoids,
)

SMALL = PriorConfig(depth=2, heads=3, dim_head=8, ff_mult=2)


def test_the_schedule_is_the_cosine_one() -> None:
    signal = cosine_signal(100)
    level = [math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(101)]
    assert_allclose(signal[:98], [x / level[0] for x in level[1:99]], rtol=1e-9)
    assert (signal.diff() < 0).all()
    assert signal[-1] > 0, "beta is clipped below one"


def test_the_published_prior_has_its_published_size() -> None:
    with torch.device("meta"):
        network = PriorNetwork(257, 768, PriorConfig())
    assert sum(p.numel() for p in network.parameters()) == 56_055_168


@pytest.mark.parametrize("residual", [False, True])
def test_every_tensor_of_the_network_has_a_gradient(residual: bool) -> None:
    torch.manual_seed(0)
    network = PriorNetwork(4, 16, SMALL.model_copy(update={"residual": residual}))
    x, brain = torch.randn(2, 8, 4, 16)
    drop = torch.arange(8) % 2 == 0
    network(x, torch.arange(8), brain, drop, ~drop).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_dropped_rows_do_not_see_what_was_dropped() -> None:
    torch.manual_seed(0)
    network = PriorNetwork(4, 16, SMALL)
    x, brain, other = torch.randn(3, 2, 4, 16)
    time, drop, keep = torch.tensor([3, 7]), torch.tensor([True, False]), torch.tensor([False, False])
    one, two = network(x, time, brain, drop), network(x, time, other, drop)
    assert_allclose(one[0].detach(), two[0].detach(), atol=1e-6)
    assert (one[1] - two[1]).abs().max() > 1e-3
    one, two = network(x, time, brain, keep, drop), network(other, time, brain, keep, drop)
    assert_allclose(one[0].detach(), two[0].detach(), atol=1e-6)
    assert (one[1] - two[1]).abs().max() > 1e-3


def test_the_prediction_depends_on_time_brain_and_image() -> None:
    torch.manual_seed(0)
    network = PriorNetwork(2, 16, SMALL)
    x, brain, other = torch.randn(3, 1, 2, 16)
    time = torch.tensor([5])
    start = network(x, time, brain)
    for changed in (network(other, time, brain), network(x, time + 60, brain), network(x, time, other)):
        assert (changed - start).abs().max() > 1e-4


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    network = PriorNetwork(3, 16, SMALL)
    x, brain = torch.randn(2, 5, 3, 16)
    time = torch.arange(5)
    whole = network(x, time, brain)
    alone = torch.cat([network(x[i : i + 1], time[i : i + 1], brain[i : i + 1]) for i in range(5)])
    assert_allclose(whole.detach(), alone.detach(), atol=1e-5)


def test_another_number_of_tokens_is_refused() -> None:
    network = PriorNetwork(3, 16, SMALL)
    with pytest.raises(
        InputError, match=r"`noisy`: expected shape \(batch, tokens=3, width=16\); found \(1, 4, 16\)"
    ):
        network(torch.zeros(1, 4, 16), torch.zeros(1, dtype=torch.long), torch.zeros(1, 3, 16))


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    x = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).double()
    angles = rotary_angles(12, 6, x.device)
    turned = rotate(x, *(a.double() for a in angles))
    assert_allclose(turned.norm(dim=1), x.norm(dim=1), rtol=1e-6)
    assert_allclose(turned[:, 6:], x[:, 6:])
    same = rotate(x[:1].expand(12, -1), *(a.double() for a in angles))
    products = same @ same.T
    assert_allclose(products[0, 3], products[5, 8], rtol=1e-5)


def test_relative_buckets_are_single_then_logarithmic() -> None:
    buckets = relative_buckets(300, torch.device("cpu"))
    assert buckets.shape == (300, 301)
    assert buckets[20, 21:].eq(0).all()  # keys at or after the query
    assert buckets[299, 299 - 15].item() == 15
    assert buckets[299, 299 - 127].item() == 31
    assert buckets[299, 0].item() == 31
    assert buckets.unique().tolist() == list(range(32))


def test_times_are_embedded_differently() -> None:
    embedded = sinusoids(torch.arange(100), 17)
    assert embedded.shape == (100, 17)
    assert torch.cdist(embedded, embedded)[~torch.eye(100, dtype=torch.bool)].min() > 0.05


def test_noise_is_added_in_the_schedules_proportions() -> None:
    signal = cosine_signal(10)
    clean, noise = torch.ones(2, 1, 3), torch.full((2, 1, 3), 2.0)
    time = torch.tensor([0, 9])
    expected = signal[time].sqrt() + 2 * (1 - signal[time]).sqrt()
    assert_allclose(add_noise(clean, noise, time, signal)[:, 0, 0], expected, rtol=1e-6)


def test_the_error_of_a_perfect_denoiser_is_zero_and_of_a_blind_one_the_variance() -> None:
    clean, noise = torch.randn(2, 64, 3, 5, generator=torch.Generator().manual_seed(0))
    time, signal = torch.arange(64), cosine_signal(100)
    assert denoising_error(lambda x, t: clean, clean, noise, time, signal).max() == 0
    blind = denoising_error(lambda x, t: torch.zeros_like(x), clean, noise, time, signal)
    assert_allclose(blind, clean.square().mean(dim=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 20, 100])
def test_the_sampler_reaches_what_a_certain_denoiser_knows(steps: int) -> None:
    answer = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    noise = seeded_noise([1, 2, 3, 4], (2, 3))
    found = sample_ddim(lambda x, t: answer, noise, cosine_signal(100), steps=steps)
    assert_allclose(found, answer, atol=1e-6)


def test_samples_of_a_gaussian_have_its_mean_and_spread() -> None:
    """The denoiser of N(m, s^2) is known, so its deterministic path must carry N(0, 1) to N(m, s^2)."""
    mean, spread, signal = 1.5, 0.4, cosine_signal(100)

    def denoise(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        a = signal[time].float().view(-1, 1, 1)
        gain = a.sqrt() * spread**2 / (a * spread**2 + 1 - a)
        return mean + gain * (x - a.sqrt() * mean)

    drawn = sample_ddim(denoise, seeded_noise(list(range(2000)), (1, 2)), signal, steps=100)
    assert_allclose(drawn.mean(), mean, atol=0.03)
    assert_allclose(drawn.std(), spread, rtol=0.08)


def test_noise_is_a_function_of_each_rows_own_seed() -> None:
    noise = seeded_noise([5, 6, 7], (2, 3))
    assert torch.equal(seeded_noise([7, 5], (2, 3)), noise[[2, 0]])
    assert seeded_noise([], (2, 3)).shape == (0, 2, 3)


def test_the_sampler_draws_nothing_itself() -> None:
    torch.manual_seed(0)
    network = PriorNetwork(2, 8, SMALL)
    noise, brain = seeded_noise([1, 2], (2, 8)), torch.randn(2, 2, 8)
    one, two = (
        sample_ddim(lambda x, t: network(x, t, brain), noise, cosine_signal(100), steps=4) for _ in range(2)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("steps", [0, 101])
def test_an_impossible_number_of_steps_is_refused(steps: int) -> None:
    with pytest.raises(InputError, match=f"1 to 100, the length of the schedule; found {steps}"):
        sample_ddim(lambda x, t: x, torch.zeros(1, 1, 1), cosine_signal(100), steps=steps)

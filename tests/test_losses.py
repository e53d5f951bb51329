"""Contrastive losses against their formulas; regressions for the mixup faults of the official code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.losses import (
    Mixing,
    bimixco,
    cosine_ramp,
    draw_mixing,
    find_same_image,
    mixing_labels,
    soft_clip,
    unit_rows,
)


def pairs(n: int = 6, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(n, 2, width, generator=generator)
    return true + 0.5 * torch.randn(n, 2, width, generator=generator), true


def test_mixing_labels_are_added_so_that_fixed_points_keep_their_whole_label() -> None:
    mixing = Mixing(torch.tensor([0, 2, 1]), torch.tensor([0.3, 0.6, 1.0]))
    expected = [[1.0, 0.0, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]
    assert_allclose(mixing_labels(mixing), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_every_label_row_sums_to_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixing = draw_mixing([5, 0, 9, 2], generator, share=0.9)
    ids = [str(i % 7) for i in range(16)]
    for same in (None, find_same_image(ids)):
        assert_allclose(mixing_labels(mixing, same).sum(dim=1), 1, rtol=1e-6)


def test_partners_of_a_subject_are_rows_of_that_subject() -> None:
    counts = [4, 6, 5]
    mixing = draw_mixing(counts, torch.Generator().manual_seed(0))
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    assert torch.equal(owner[mixing.partner], owner)
    assert sorted(mixing.partner.tolist()) == list(range(15))


def test_labels_point_at_the_images_that_were_mixed_for_every_subject() -> None:
    counts = [4, 6, 5]
    mixing = draw_mixing(counts, torch.Generator().manual_seed(3), share=1.0)
    images = torch.eye(15)
    assert_allclose(mixing_labels(mixing) @ images, mixing.apply(images), atol=1e-6)


def test_weights_are_beta_distributed_and_half_of_the_rows_are_left_alone() -> None:
    mixing = draw_mixing([40000], torch.Generator().manual_seed(0))
    weight = mixing.weight.double().numpy()
    assert abs((weight == 1).mean() - 0.5) < 0.02
    from scipy.stats import beta, kstest

    mixed = draw_mixing([4000], torch.Generator().manual_seed(1), share=1.0).weight.double().numpy()
    mixed = mixed[(mixed > 1e-4) & (mixed < 1 - 1e-4)]  # float32 rounds the rest to the ends
    law = beta(0.15, 0.15)
    low, high = law.cdf(1e-4), law.cdf(1 - 1e-4)
    assert kstest(mixed, lambda x: (law.cdf(x) - low) / (high - low)).pvalue > 0.01


def test_mixing_is_a_function_of_the_generator() -> None:
    one, two = (draw_mixing([8], torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one.partner, two.partner)
    assert torch.equal(one.weight, two.weight)


def test_without_mixing_bimixco_is_the_symmetric_cross_entropy() -> None:
    predicted, true = pairs()
    logits = unit_rows(predicted) @ unit_rows(true).T / 0.1
    each = torch.arange(6)
    expected = (
        torch.nn.functional.cross_entropy(logits, each) + torch.nn.functional.cross_entropy(logits.T, each)
    ) / 2
    assert_allclose(bimixco(predicted, true, temperature=0.1), expected, rtol=1e-6)


def test_bimixco_follows_the_published_formula() -> None:
    predicted, true = pairs()
    mixing = draw_mixing([6], torch.Generator().manual_seed(0), share=1.0)
    p, t = unit_rows(predicted).double().numpy(), unit_rows(true).double().numpy()
    weight, partner, tau = mixing.weight.double().numpy(), mixing.partner.numpy(), 0.2
    exponents = np.exp(p @ t.T / tau)
    total = 0.0
    for i in range(6):
        rows, columns = exponents[i].sum(), exponents[:, i].sum()
        total -= weight[i] * math.log(exponents[i, i] / rows)
        total -= (1 - weight[i]) * math.log(exponents[i, partner[i]] / rows)
        total -= weight[i] * math.log(exponents[i, i] / columns)
        for other in np.flatnonzero(partner == i):  # brains into which image i was mixed
            total -= (1 - weight[other]) * math.log(exponents[other, i] / columns)
    assert_allclose(bimixco(predicted, true, mixing_labels(mixing), temperature=tau), total / 12, rtol=1e-5)


def test_an_image_seen_twice_is_no_negative_of_itself() -> None:
    _, true = pairs()
    true = torch.cat([true, true[:1]])
    same = find_same_image(["a", "b", "c", "d", "e", "f", "a"])
    nothing = Mixing(torch.arange(7), torch.ones(7))
    labels = mixing_labels(nothing, same)
    assert_allclose(labels[0], [0.5, 0, 0, 0, 0, 0, 0.5])
    shared = bimixco(true.clone().requires_grad_(), true, labels, temperature=0.05)
    assert_allclose(float(shared.detach()), 2 * math.log(2) / 7, rtol=1e-3)  # the least a shared label allows
    predicted = true.clone().requires_grad_()
    (naive,) = torch.autograd.grad(bimixco(predicted, true, temperature=0.05), predicted)
    predicted = true.clone().requires_grad_()
    (masked,) = torch.autograd.grad(bimixco(predicted, true, labels, temperature=0.05), predicted)
    assert masked[0].norm() < 0.1 * naive.norm()


def test_soft_clip_is_the_cross_entropy_with_the_images_own_similarities() -> None:
    predicted, true = pairs()
    p, t = unit_rows(predicted).double().numpy(), unit_rows(true).double().numpy()

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    tau = 0.1
    labels = np.exp(log_softmax(t @ t.T / tau))
    expected = -(labels * log_softmax(p @ t.T / tau)).sum(axis=1).mean()
    expected += -(labels * log_softmax(t @ p.T / tau)).sum(axis=1).mean()
    assert_allclose(soft_clip(predicted, true, temperature=tau), expected / 2, rtol=1e-5)


def test_soft_clip_is_least_where_the_prediction_is_the_truth() -> None:
    _, true = pairs()
    predicted = true.clone().requires_grad_()
    soft_clip(predicted, true, temperature=0.05).backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().max() < 1e-5


@pytest.mark.parametrize("loss", [bimixco, soft_clip])
def test_the_softmax_is_in_float32_under_autocast(loss) -> None:
    predicted, true = pairs(32)
    expected = loss(predicted, true, temperature=0.006)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(predicted, true, temperature=0.006)
    assert found.dtype == torch.float32
    assert_allclose(found, expected, rtol=1e-6)


def test_the_temperature_follows_half_a_cosine() -> None:
    values = [cosine_ramp(0.004, 0.0075, x) for x in (-1, 0, 0.5, 1, 2)]
    assert_allclose(values, [0.004, 0.004, 0.00575, 0.0075, 0.0075])


def test_labels_of_another_batch_are_refused() -> None:
    predicted, true = pairs()
    with pytest.raises(InputError, match=r"`labels`: expected shape \(batch=6, images=6\); found \(5, 5\)"):
        bimixco(predicted, true, torch.eye(5))

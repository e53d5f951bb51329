"""Contrastive losses against their formulas, false negatives, autocast, several devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from numpy.testing import assert_allclose
from torch import Tensor

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.contrast import (
    LogitScale,
    contrast,
    gather_rows,
    info_nce,
    number_ids,
    sig_lip,
)

KINDS: tuple[Any, ...] = ("one-sided", "symmetric", "siglip")
IDS = ["a", "b", "c", "a", "d", "e"]


def draw(rows: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted, true = torch.randn(2, rows, 2, 5, generator=generator)
    return predicted, true


def formula(scores: np.ndarray, ids: list[str]) -> float:
    """Mean negative log softmax of the diagonal over all candidates of other images and itself."""
    total = 0.0
    for i, row in enumerate(scores):
        kept = [j for j in range(len(ids)) if ids[j] != ids[i] or j == i]
        total += np.log(np.exp(row[kept]).sum()) - row[i]
    return total / len(scores)


def unit(x: Tensor) -> np.ndarray:
    flat = x.flatten(1).double().numpy()
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))


def test_one_sided_info_nce_normalises_the_image_only_and_leaves_out_the_same_image() -> None:
    predicted, true = draw()
    scores = predicted.flatten(1).double().numpy() @ unit(true).T
    assert_allclose(info_nce(predicted, true, IDS), formula(scores, IDS), rtol=1e-5)
    assert_allclose(contrast("one-sided", predicted, true, IDS), formula(scores, IDS), rtol=1e-5)
    assert formula(scores, IDS) != pytest.approx(formula(scores, list("uvwxyz")))


def test_the_symmetric_contrast_is_the_mean_of_both_directions_at_its_temperature() -> None:
    predicted, true = draw()
    scores = unit(predicted) @ unit(true).T / 0.07
    expected = (formula(scores, IDS) + formula(scores.T, IDS)) / 2
    assert_allclose(
        contrast("symmetric", predicted, true, IDS, LogitScale("symmetric")).detach(), expected, rtol=1e-5
    )


def test_siglip_is_a_logistic_regression_over_pairs_in_which_the_same_image_matches() -> None:
    predicted, true = draw()
    logits = 10 * unit(predicted) @ unit(true).T - 10
    sign = np.array([[1.0 if a == b else -1.0 for b in IDS] for a in IDS])
    expected = np.log1p(np.exp(-sign * logits)).sum() / len(IDS)
    assert_allclose(sig_lip(predicted, true, IDS, scale=10.0, bias=-10.0), expected, rtol=1e-5)
    assert_allclose(
        contrast("siglip", predicted, true, IDS, LogitScale("siglip")).detach(), expected, rtol=1e-5
    )


def test_a_learned_scale_is_asked_for_and_does_not_exceed_100() -> None:
    with pytest.raises(InputError, match="`logit`: expected the learned scale of 'siglip'"):
        contrast("siglip", *draw(), IDS)
    logit = LogitScale("symmetric")
    with torch.no_grad():
        logit.log_scale.fill_(50.0)
    assert_allclose(logit().detach(), 100.0, rtol=1e-5)


@pytest.mark.parametrize("kind", ["one-sided", "symmetric", "siglip"])
def test_the_softmax_is_in_single_precision_under_autocast(kind: Any) -> None:
    predicted, true = draw()
    logit = None if kind == "one-sided" else LogitScale(kind)
    plain = contrast(kind, predicted, true, IDS, logit)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = contrast(kind, predicted, true, IDS, logit)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("kind", ["symmetric", "siglip"])
def test_the_learned_scale_has_a_gradient(kind: Any) -> None:
    logit = LogitScale(kind)
    contrast(kind, *draw(), IDS, logit).backward()
    assert all(p.grad is not None and float(p.grad.abs()) > 0 for p in logit.parameters())


def test_numbers_of_ids_depend_on_the_id_alone() -> None:
    assert number_ids(["a", "b"]).tolist() == number_ids(["b", "a"]).tolist()[::-1]
    assert len(set(number_ids([str(k) for k in range(1000)]).tolist())) == 1000


def test_alone_nothing_is_gathered() -> None:
    x = torch.randn(3, 2)
    assert gather_rows(x) is x


def _work(rank: int, folder: str) -> None:
    """Take one half of the batch on one of two devices; write the loss and the gradients of its own rows."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    predicted, true = draw()
    mine = slice(3 * rank, 3 * rank + 3)
    for kind in KINDS:
        logit = None if kind == "one-sided" else LogitScale(kind)
        own = predicted[mine].clone().requires_grad_()
        loss = contrast(kind, own, true[mine], IDS[mine], logit)
        loss.backward()
        torch.save({"loss": loss.detach(), "gradient": own.grad}, f"{folder}/{kind}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_devices_contrast_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(_work, args=(str(tmp_path),), nprocs=2)
    for kind in KINDS:
        parts = [torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        predicted, true = draw()
        predicted.requires_grad_()
        whole = contrast(kind, predicted, true, IDS, None if kind == "one-sided" else LogitScale(kind))
        whole.backward()
        assert_allclose((parts[0]["loss"] + parts[1]["loss"]) / 2, whole.detach(), rtol=1e-5)
        # data-parallel training averages the devices' gradients
        gradient = torch.cat([part["gradient"] for part in parts]) / 2
        assert predicted.grad is not None
        assert_allclose(gradient, predicted.grad, atol=1e-6)

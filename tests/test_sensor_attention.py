"""From sensors to virtual channels: the code of places, masks, dropout of a disc, weights kept in evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.routing import RoutingConfig
from braindecode_suite.learning.sensor_attention import (
    SensorAttention,
    SensorRouting,
    ban_disc,
    fourier_code,
    split_missing,
)

NAN = float("nan")


@pytest.fixture(params=["attention", "routing"])
def layer(request: pytest.FixtureRequest) -> SensorAttention | SensorRouting:
    torch.manual_seed(0)
    if request.param == "attention":
        return SensorAttention(6, n_frequencies=5).eval()
    config = RoutingConfig(width=16, heads=2, feed_forward=16)
    return SensorRouting(6, 11, config, n_frequencies=5).eval()


def draw(rows: int = 3, sensors: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, sensors, 11, generator=generator), torch.rand(1, sensors, 2, generator=generator)


FIRST = torch.zeros(3, dtype=torch.long)


def test_the_code_of_a_place_is_that_of_the_formula() -> None:
    x, y = 0.3, 0.85
    phases = [2 * math.pi * (k * (x + 0.2) + m * (y + 0.2)) / 1.4 for k in range(32) for m in range(32)]
    expected = np.array([*np.cos(phases), *np.sin(phases)])
    code = fourier_code(torch.tensor([x, y], dtype=torch.float64))
    assert code.shape == (2048,)
    assert_allclose(code, expected, atol=1e-10)


def test_weights_are_the_softmax_of_the_heads_product_with_the_code() -> None:
    x, positions = draw()
    layer = SensorAttention(6, n_frequencies=5)
    assert layer.heads.shape == (6, 50)
    code = fourier_code(positions[0], 5).numpy()
    scores = layer.heads.detach().numpy() @ code.T
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = np.einsum("cs,bst->bct", weights, x.numpy())
    assert_allclose(layer.eval()(x, positions, FIRST).detach(), expected, atol=1e-5)


def test_the_order_of_sensors_does_not_matter(layer: SensorAttention | SensorRouting) -> None:
    x, positions = draw()
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    assert_allclose(
        layer(x[:, order], positions[:, order], FIRST).detach(),
        layer(x, positions, FIRST).detach(),
        atol=1e-5,
    )


@pytest.mark.parametrize("value", [0.0, 1e6, NAN])
def test_a_sensor_without_a_place_has_no_weight_whatever_it_says(
    layer: SensorAttention | SensorRouting, value: float
) -> None:
    x, positions = draw()
    without = layer(x[:, :6], positions[:, :6], FIRST)
    x[:, 6:], positions[:, 6:] = value, NAN
    filled, seen = split_missing(x)
    assert_allclose(layer(filled, positions, FIRST, seen).detach(), without.detach(), atol=1e-5)
    if isinstance(layer, SensorAttention):
        assert (layer.weights(positions)[:, :, 6:] == 0).all()
    else:
        assert (layer.attention(filled, positions, FIRST, seen)[:, :, :, 6:] == 0).all()


def test_a_sensor_that_is_missing_in_one_trial_is_masked_in_that_trial_only(
    layer: SensorAttention | SensorRouting,
) -> None:
    x, positions = draw()
    whole = layer(x, positions, FIRST)
    without = layer(x[1:2, :7], positions[:, :7], FIRST[:1])
    x[1, 7, 4] = NAN
    filled, seen = split_missing(x)
    assert seen.sum() == seen.numel() - 1
    found = layer(filled, positions, FIRST, seen)
    assert_allclose(found[[0, 2]].detach(), whole[[0, 2]].detach(), atol=1e-5)
    assert_allclose(found[1:2].detach(), without.detach(), atol=1e-5)


def test_a_trial_in_which_nothing_can_be_seen_is_zero(layer: SensorAttention | SensorRouting) -> None:
    x, positions = draw()
    x[2] = NAN
    filled, seen = split_missing(x)
    found = layer(filled, positions, FIRST, seen)
    assert (found[2] == 0).all()
    assert torch.isfinite(found).all()


def test_each_trial_is_seen_through_its_own_layout(layer: SensorAttention | SensorRouting) -> None:
    x, positions = draw()
    two = torch.cat([positions, positions.flip(1)])
    mixed = layer(x, two, torch.tensor([1, 0, 1]))
    for row, which in enumerate((1, 0, 1)):
        alone = layer(x[row : row + 1], two[which : which + 1], FIRST[:1])
        assert_allclose(mixed[row : row + 1].detach(), alone.detach(), atol=1e-5)


def test_weights_are_computed_once_in_evaluation_and_again_when_the_heads_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, (x, positions) = SensorAttention(6, n_frequencies=5).eval(), draw()
    calls: list[int] = []
    scores = layer.scores

    def counted(where: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return scores(where)

    monkeypatch.setattr(layer, "scores", counted)
    with torch.no_grad():
        first = layer(x, positions, FIRST)
        assert torch.equal(layer(x, positions, FIRST), first)
        assert len(calls) == 1
        layer.heads.mul_(2)
        assert not torch.allclose(layer(x, positions, FIRST), first)
        assert len(calls) == 2
        layer(x, positions.clone(), FIRST)
        assert len(calls) == 3
        layer.train().eval()
        layer(x, positions, FIRST)
        assert len(calls) == 4


def test_sensors_in_the_disc_are_banned_and_a_layout_inside_it_keeps_all() -> None:
    positions = torch.tensor([[[0.5, 0.5], [0.5, 0.7], [0.5, 0.71]], [[0.5, 0.5], [0.6, 0.5], [NAN, NAN]]])
    usable = torch.tensor([[True, True, True], [True, True, False]])
    left = ban_disc(positions, usable, 0.2, torch.tensor([0.5, 0.5]))
    assert left.tolist() == [[False, False, True], [True, True, False]]


def test_dropout_bans_sensors_in_training_only() -> None:
    layer, (_, positions) = SensorAttention(6, n_frequencies=5), draw(sensors=40)
    torch.manual_seed(0)
    banned = [(layer.weights(positions)[0] == 0).any(dim=0).sum() for _ in range(20)]
    assert max(banned) > 1
    with torch.no_grad():
        assert (layer.eval().weights(positions) > 0).all()
    layer.dropout = 0.0
    assert (layer.train().weights(positions) > 0).all()


def test_positions_of_another_number_of_sensors_are_refused() -> None:
    x, positions = draw()
    with pytest.raises(InputError, match=r"`positions`: expected shape \(layouts, sensors=8"):
        SensorAttention(6, n_frequencies=5)(x, positions[:, :5], FIRST)


def test_routing_looks_at_what_sensors_say() -> None:
    torch.manual_seed(0)
    layer = SensorRouting(6, 11, RoutingConfig(width=16, heads=2, feed_forward=16), n_frequencies=5).eval()
    x, positions = draw()
    before, after = layer.attention(x, positions, FIRST), layer.attention(3 * x.flip(2), positions, FIRST)
    assert (before - after).abs().max() > 1e-3
    assert_allclose(before.sum(dim=3).detach(), 1.0, rtol=1e-5)


def test_routing_of_a_window_that_ends_early_does_not_know_what_follows() -> None:
    torch.manual_seed(0)
    layer = SensorRouting(6, 11, RoutingConfig(width=16, heads=2, feed_forward=16), n_frequencies=5).eval()
    x, positions = draw()
    other = x.clone()
    other[:, :, 7:] = 100.0
    assert_allclose(
        layer(x[:, :, :7], positions, FIRST).detach(), layer(other[:, :, :7], positions, FIRST).detach()
    )
    assert layer(x[:, :, :7], positions, FIRST).shape == (3, 6, 7)

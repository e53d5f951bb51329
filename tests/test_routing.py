"""The routing network: against torch's own attention and decoder, the dense readout, the closed form of the position code."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid
from braindecode_suite.encoders.attention_routing_config import PRESETS
from braindecode_suite.learning.position_code import sine_code
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.routing import (
    CrossAttention,
    GatheredReadout,
    RoutingConfig,
    RoutingLayer,
    RoutingNetwork,
)

ATOL = 1e-5


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(**changes):
    return RoutingConfig(**({"width": 16, "heads": 4, "feed_forward": 24, "dropout": 0.0} | changes))


@pytest.fixture
def overlapping():
    """Seven units, three regions A, B, C; unit 2 is in A and B, unit 6 nowhere."""
    table = np.array([[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0]], bool)
    return table


def dense_readout(weight, bias, tokens, mask):
    """Map every token to every unit, keep those of the unit's regions, and add: (batch, units)."""
    every = torch.einsum("bqd,ud->bqu", tokens, weight) + bias
    return (every * mask).sum(dim=1)


# ------------------------------------------------------------------------------------------------ position code


def test_the_position_code_is_its_closed_form():
    height, width, channels = 3, 5, 16
    code = sine_code(height, width, channels).reshape(height, width, channels)
    for y in range(height):
        for x in range(width):
            for k in range(channels // 2):
                rate = 10_000 ** (-2 * (k // 2) / (channels // 2))
                wave = cos if k % 2 else sin
                assert code[y, x, k] == pytest.approx(wave(2 * pi * (y + 1) / height * rate), abs=1e-6)
                assert code[y, x, channels // 2 + k] == pytest.approx(
                    wave(2 * pi * (x + 1) / width * rate), abs=1e-6
                )


def test_every_place_has_a_code_of_its_own():
    distance = torch.cdist(sine_code(31, 31, 768), sine_code(31, 31, 768)) + torch.eye(961) * 9
    assert distance.min() > 0.1


def test_channels_that_cannot_be_split_are_refused():
    with pytest.raises(InputError, match="`channels`: expected a multiple of 4; found 6"):
        sine_code(2, 2, 6)


# ---------------------------------------------------------------------------------------------------- attention


def test_attention_is_torchs_multi_head_attention():
    ours = CrossAttention(16, 4, 0.0, project_values=True)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, random(16, seed=9), ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    query, tokens, places = random(1, 3, 16), random(5, 7, 16, seed=1), random(7, 16, seed=2)
    mask = torch.tensor([[True] * 5 + [False, True]])
    expected, weights = theirs(
        query.expand(5, -1, -1), tokens + places, tokens, key_padding_mask=~mask.expand(5, -1),
        average_attn_weights=False,
    )  # fmt: skip
    assert_allclose(ours(query, tokens, places, mask).detach(), expected.detach(), atol=ATOL)
    assert_allclose(ours.weights(query, tokens, places, mask).detach(), weights.detach(), atol=ATOL)


def test_a_layer_is_torchs_decoder_layer_without_self_attention():
    layers = [RoutingLayer(small(), first=first) for first in (True, False)]
    tokens, places, query = random(5, 7, 16), random(7, 16, seed=1), random(3, 16, seed=2)
    state = torch.zeros(5, 3, 16)
    for layer in layers:
        reference = nn.TransformerDecoderLayer(16, 4, 24, 0.0, batch_first=True, norm_first=True).eval()
        with torch.no_grad():
            attention, own = reference.multihead_attn, layer.attention
            attention.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
            attention.in_proj_bias.copy_(torch.cat([own.query.bias, torch.zeros(16), own.value.bias]))
            attention.out_proj.load_state_dict(own.out.state_dict())
            for there, here in (
                ("linear1", layer.feed[0]),
                ("linear2", layer.feed[3]),
                ("norm3", layer.feed_norm),
            ):
                getattr(reference, there).load_state_dict(here.state_dict())
            # self-attention adds nothing; torch's block puts places into neither keys nor queries, so they are added here
            asked = (torch.zeros(5, 3, 16) if layer.norm is None else layer.norm(state)) + query
            expected = state + attention(asked, tokens + places, tokens, need_weights=False)[0]
            expected = expected + reference._ff_block(reference.norm3(expected))
            found = layer(None if layer.norm is None else state, query, tokens, places, None)
        assert_allclose(found, expected, atol=ATOL)
        state = expected


def test_without_a_value_projection_heads_average_slices_of_the_tokens():
    attention = CrossAttention(8, 2, 0.0, project_values=False)
    query, tokens, places = random(1, 3, 8), random(2, 5, 8, seed=1), random(5, 8, seed=2)
    weights = attention.weights(query, tokens, places, None)  # (batch, heads, queries, tokens)
    averaged = torch.cat([weights[:, h] @ tokens[..., 4 * h : 4 * h + 4] for h in range(2)], dim=2)
    assert_allclose(
        attention(query, tokens, places, None).detach(), attention.out(averaged).detach(), atol=ATOL
    )


def test_without_a_value_projection_nothing_is_added_to_what_is_attended():
    layer = RoutingLayer(small(values="tokens"), first=False)
    state, query, tokens, places = (
        random(2, 3, 16),
        random(3, 16, seed=1),
        random(2, 5, 16, seed=2),
        random(5, 16, seed=3),
    )
    attended = layer.attention(layer.norm(state) + query, tokens, places, None)
    expected = attended + layer.feed(layer.feed_norm(attended))
    assert_allclose(layer(state, query, tokens, places, None).detach(), expected.detach(), atol=ATOL)
    network = RoutingNetwork(Routes(("a",), np.zeros(3, int)), Grid(2, 2), 16, small(values="tokens"))
    assert network.block.norm is None


def test_places_reach_keys_only():
    network = RoutingNetwork(Routes(("a",), np.zeros(3, int)), Grid(2, 2), 16, small())
    tokens = random(1, 1, 16).expand(
        1, 4, 16
    )  # the same everywhere: whatever is attended to, the values are one
    moved = RoutingNetwork(Routes(("a",), np.zeros(3, int)), Grid(4, 1), 16, small())
    moved.load_state_dict(network.state_dict())
    assert_allclose(network(tokens).detach(), moved(tokens).detach(), atol=ATOL)
    assert not np.allclose(network.attention(tokens).detach(), moved.attention(tokens).detach(), atol=1e-3)


@pytest.mark.parametrize("values", ["projected", "tokens"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_attention_sums_to_one_and_leaves_padding_out(values, n_layers):
    seen = np.ones((3, 3), bool)
    seen[2] = False
    grid = Grid(3, 3, has_cls=True, seen=seen)
    network = RoutingNetwork(
        Routes(("a", "b"), np.array([0, 1, 1])), grid, 6, small(values=values, n_layers=n_layers)
    ).eval()
    tokens = random(4, 10, 6)
    for layer in range(n_layers):
        weights = network.attention(tokens, layer)
        assert weights.shape == (4, 4, 2, 10)
        assert_allclose(weights.sum(dim=-1).detach(), 1, atol=1e-6)
        assert (weights[..., ~grid.mask] == 0).all()
        assert (weights[..., grid.mask] > 0).all()
    changed = tokens.clone()
    changed[:, ~grid.mask] += 5
    assert_allclose(network(changed).detach(), network(tokens).detach(), atol=ATOL)


def test_the_weights_shown_are_those_that_were_used():
    network = RoutingNetwork(Routes(("a", "b"), np.array([0, 1])), Grid(2, 3), 16, small(n_layers=2)).eval()
    tokens, layer = random(5, 6, 16), network.block.layers[1]
    given = []
    layer.attention.out.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    network(tokens)
    values = layer.attention._split(layer.attention.value(tokens))
    expected = (network.attention(tokens) @ values).transpose(1, 2).flatten(2)
    assert_allclose(given[0].detach(), expected.detach(), atol=ATOL)


# ------------------------------------------------------------------------------------------------------ readout


@pytest.mark.parametrize("overlap", ["first", "mean", "sum"])
def test_the_gathered_readout_is_the_dense_masked_one(overlapping, overlap):
    from braindecode_suite.core.spaces import UnitSpace
    from braindecode_suite.learning.routes import route_units

    space = UnitSpace(7, dict(zip("ABC", overlapping, strict=True)))
    routes = route_units(space, overlap=overlap, rest=False)
    readout = GatheredReadout(16, routes)
    tokens = random(5, 3, 16).requires_grad_()
    found = readout(tokens)
    found.square().sum().backward()
    mask = torch.from_numpy(overlapping.astype(np.float32))
    if overlap == "first":
        mask = mask * (mask.cumsum(dim=0) == 1)
    if overlap == "mean":
        mask = mask / mask.sum(dim=0).clamp_min(1)
    segment = routes.segment[routes.modelled]
    place = [int((segment[:u] == segment[u]).sum()) for u in range(6)]
    weight = torch.stack([readout.heads[s].weight[k] for s, k in zip(segment, place, strict=True)])
    bias = torch.stack([readout.heads[s].bias[k] for s, k in zip(segment, place, strict=True)])
    again = tokens.detach().clone().requires_grad_()
    # the official readout adds the bias once for every region a unit is in; here it is added once
    expected = dense_readout(weight, torch.zeros(6), again, mask[:, :6]) + bias
    expected.square().sum().backward()
    assert_allclose(found.detach(), expected.detach(), atol=ATOL)
    assert_allclose(tokens.grad, again.grad, atol=1e-4)


def test_a_query_for_each_unit_is_the_diagonal_of_tokens_by_units():
    readout = GatheredReadout(16, Routes(tuple("abcd"), np.array([2, 0, -1, 3, 1])))
    tokens = random(6, 4, 16)
    (head,) = readout.heads
    every = torch.einsum("bqd,ud->bqu", tokens, head.weight) + head.bias
    assert_allclose(
        readout(tokens).detach(), every.diagonal(dim1=1, dim2=2)[:, [2, 0, 3, 1]].detach(), atol=ATOL
    )


# ------------------------------------------------------------------------------------------------------ network


@pytest.mark.parametrize("values", ["projected", "tokens"])
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("token_width", [16, 6])
def test_every_parameter_has_a_gradient(values, n_layers, token_width):
    mixing = np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 1, 0]], np.float32)
    routes = Routes(("a", "b", "c"), np.array([0, 1, 1, 2, -1]), mixing)
    network = RoutingNetwork(
        routes, Grid(2, 3, has_cls=True), token_width, small(values=values, n_layers=n_layers, dropout=0.1)
    )
    network(random(8, 7, token_width)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-7, name


def test_features_are_standardised_by_what_was_set():
    network = RoutingNetwork(Routes(("a",), np.zeros(2, int)), Grid(2, 2), 16, small(standardise=True))
    plain = RoutingNetwork(Routes(("a",), np.zeros(2, int)), Grid(2, 2), 16, small())
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("token_")})
    tokens, mean, gain = random(3, 4, 16), random(16, seed=1), random(16, seed=2).abs()
    network.token_mean.copy_(mean)
    network.token_gain.copy_(gain)
    assert_allclose(network(tokens).detach(), plain((tokens - mean) * gain).detach(), atol=ATOL)


def test_a_class_token_alone_is_all_there_is_to_look_at():
    network = RoutingNetwork(Routes(("a", "b"), np.array([0, 1])), Grid(0, 0, has_cls=True), 6, small())
    assert network(random(3, 1, 6)).shape == (3, 2)
    assert (network.attention(random(3, 1, 6)) == 1).all()


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(InputError, match="`heads`: expected a divisor of the width 16; found 3"):
        RoutingNetwork(Routes(("a",), np.zeros(2, int)), Grid(2, 2), 16, small(heads=3))


def test_tokens_of_another_grid_are_refused():
    network = RoutingNetwork(Routes(("a",), np.zeros(2, int)), Grid(2, 2), 16, small())
    with pytest.raises(InputError, match=r"`tokens`: expected shape \(batch, tokens=4, width=16\)"):
        network(torch.zeros(1, 5, 16))


def test_the_papers_model_has_34_million_weights_for_subject_1():
    """Subject 1 of the Natural Scenes Dataset in the challenge's space: regions with vertices, and a rest a hemisphere.

    The published count of 36.8 million holds self-attention (2.36) and a convolution (0.05) that never get a gradient.
    """
    left, right = 19004, 20544
    queries = 2 * (24 + 1) - 4 * 2 - 2 - 1  # four regions are empty on both sides, two left, one right
    segment = np.concatenate([np.arange(left) % 19, 19 + np.arange(right) % 20])
    routes = Routes(tuple(f"query-{k}" for k in range(queries)), segment)
    with torch.device("meta"):
        network = RoutingNetwork(routes, Grid(31, 31), 768, PRESETS["paper"].network)

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    (layer,) = network.block.layers
    assert count(network.readout) == (left + right) * (768 + 1) == 30_412_412
    assert count(layer.attention) == 4 * 768**2 + 3 * 768 == 2_361_600
    assert count(layer.feed) == 2 * 768 * 1024 + 1024 + 768 == 1_574_656
    assert network.block.queries.numel() == queries * 768 == 29_952
    assert count(layer.feed_norm) + count(network.block.norm) == 4 * 768
    assert network.resize is None
    assert layer.norm is None
    assert count(network) == 34_381_692
    assert round(count(network) / 1e6, 1) == 34.4

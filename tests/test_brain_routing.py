"""Brain-routing: tokens of regions against dense products, what the routing finds, names, sizes, saving, bad input."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.features import Grid
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.spaces import ParcelSpace, UnitSpace
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.brain_routing import BrainRouting, name_tokens
from braindecode_suite.encoders.brain_routing_config import PRESETS, BrainRoutingConfig
from braindecode_suite.encoders.brain_routing_network import BrainRoutingNetwork
from braindecode_suite.encoders.brain_routing_task import BrainRoutingTask
from braindecode_suite.encoders.latent_task import TargetLatents, fit_scalers
from braindecode_suite.learning.losses import Mixing
from braindecode_suite.learning.routes import Routes, route_units
from braindecode_suite.learning.routing import GatheredReadout, GatheredTokens, RoutingBlock
from braindecode_suite.learning.synthetic import (
    TableFeatures,
    TableTarget,
    make_latents,
    make_regional_study,
    make_study,
    rows_of,
)
from braindecode_suite.learning.training import Moment

CARRIERS = (2, 0, 3, -1, 1)
"""Which token each of five regions carries; the fourth carries none."""
ATOL = 1e-5


def tiny(**changes: Any) -> BrainRoutingConfig:
    """The preset with small sizes."""
    config = PRESETS["tiny"]
    network = {"width": 32, "heads": 4, "feed_forward": 32} | changes.pop("network", {})
    training = {"epochs": 30, "batch_size": 32} | changes.pop("training", {})
    return config.model_copy(
        update={
            "network": config.network.model_copy(update=network),
            "training": config.training.model_copy(update=training),
            **changes,
        }
    )


def cohorts(study: Any, *edges: int) -> list[Cohort]:
    return [Cohort.of(study, rows_of(study, *span)) for span in pairwise(edges)]


def fit(config: BrainRoutingConfig, folder: Path, parts: list[Cohort], **targets: Any) -> BrainRouting:
    return BrainRouting(config, FitContext(work_dir=folder)).fit(parts[0], parts[1], targets)


# ---------------------------------------------------------------------------------------------- tokens of regions


@pytest.mark.parametrize("overlap", ["first", "mean", "sum"])
def test_tokens_are_the_dense_masked_product_of_units_and_regions(overlap: Any) -> None:
    table = np.array([[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0]], bool)
    routes = route_units(UnitSpace(7, dict(zip("ABC", table, strict=True))), overlap=overlap, rest=False)
    gather = GatheredTokens(8, routes)
    with torch.no_grad():
        gather.bias.normal_()
    x = torch.randn(5, 7).requires_grad_()
    found = gather(x)
    found.square().sum().backward()
    weight = torch.zeros(7, 8)
    for s, head in enumerate(gather.heads):
        weight[torch.from_numpy(np.flatnonzero(routes.segment == s))] = head.weight.detach().T
    share = table.astype(np.float32)
    if overlap == "first":
        share *= share.cumsum(axis=0) == 1
    if overlap == "mean":
        share /= np.maximum(share.sum(axis=0), 1)
    again = x.detach().clone().requires_grad_()
    expected = torch.einsum("bu,uw,ru->brw", again, weight, torch.from_numpy(share)) + gather.bias
    expected.square().sum().backward()
    assert_allclose(found.detach(), expected.detach(), atol=ATOL)
    assert_allclose(x.grad, again.grad, atol=1e-4)
    assert_array_equal(x.grad[:, 6], 0)  # in no region


def test_a_token_for_each_unit_is_the_unit_times_its_weights() -> None:
    gather = GatheredTokens(8, Routes(tuple("abc"), np.array([2, 0, -1, 1])))
    x = torch.randn(5, 4)
    assert gather.weight is not None
    expected = x[:, [1, 3, 0], None] * gather.weight + gather.bias
    assert_allclose(gather(x).detach(), expected.detach(), atol=ATOL)


def test_a_region_alone_changes_its_own_token() -> None:
    gather = GatheredTokens(8, Routes(("a", "b"), np.array([0, 1, 1, 0])))
    x, changed = torch.randn(1, 4), torch.zeros(1, 4)
    changed[0, 1] = 3
    difference = (gather(x + changed) - gather(x)).abs().amax(dim=2)[0]
    assert difference[0] == 0 < difference[1]


def test_both_directions_have_the_same_block_and_readout() -> None:
    network = BrainRoutingNetwork(
        [Routes(("a",), np.zeros(4, int))], {"retrieval": (3, 5), "init": (2, 4)}, tiny()
    )
    assert isinstance(network.block, RoutingBlock)
    assert all(isinstance(readout, GatheredReadout) for readout in network.readouts.values())
    outputs = network([torch.randn(6, 4)])
    assert {role: tuple(values.shape) for role, values in outputs.items()} == {
        "retrieval": (6, 3, 5),
        "init": (6, 2, 4),
    }


def test_a_latent_token_reads_its_own_query_only() -> None:
    network = BrainRoutingNetwork([Routes(("a", "b"), np.array([0, 1, 1]))], {"retrieval": (3, 5)}, tiny())
    network.eval()
    x = [torch.randn(4, 3)]
    before = network(x)["retrieval"]
    with torch.no_grad():
        network.block.queries[1] += 3
    changed = (network(x)["retrieval"] - before).abs().amax(dim=(0, 2))
    assert changed[0] == changed[2] == 0 < changed[1]


@pytest.mark.parametrize("values", ["projected", "tokens"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_every_tensor_is_trained(values: str, n_layers: int) -> None:
    mixing = np.array([[1, 0], [0.5, 0.5]], np.float32)
    routes = [Routes(("a", "b"), np.array([0, 1, 1, -1]), mixing), Routes(("b", "c"), np.array([0, 1]))]
    config = tiny(network={"values": values, "n_layers": n_layers})
    network = BrainRoutingNetwork(routes, {"retrieval": (3, 5), "init": (2, 4)}, config)
    outputs = network([torch.randn(5, 4), torch.randn(6, 2)])
    torch.stack([value.square().mean() for value in outputs.values()]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-7, name


def test_regions_of_one_name_share_their_code_and_absent_ones_have_no_weights() -> None:
    routes = [Routes(("V1", "FFA"), np.array([0, 1])), Routes(("FFA",), np.array([0, 0]))]
    network = BrainRoutingNetwork(routes, {"retrieval": (1, 4)}, tiny())
    assert network.names == ("V1", "FFA")
    assert network.codes.shape == (2, 32)
    assert network.attention(1, torch.randn(3, 2)).shape == (3, 4, 1, 1)
    assert len(network.subject_in.subjects[1].bias) == 1


def test_the_papers_size_for_all_tokens_of_vit_l() -> None:
    segment = np.sort(np.arange(15_724) % 50)
    routes = [Routes(tuple(f"region-{k}" for k in range(50)), segment)]
    with torch.device("meta"):
        network = BrainRoutingNetwork(routes, {"retrieval": (257, 768)}, PRESETS["paper"])

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(network.subject_in) == 15_724 * 768 + 50 * 768
    assert network.codes.numel() == 50 * 768
    assert count(network.readouts) == 257 * (768 + 1) * 768
    assert count(network.block) == 257 * 768 + 2_361_600 + 1_574_656 + 4 * 768
    assert count(network) == 168_073_216


# ------------------------------------------------------------------------------------------------------ training


def test_what_the_squared_errors_aim_at_is_mixed_as_the_responses_were() -> None:
    latents = make_latents(60, 2, 6)
    parts = cohorts(make_study(latents, n_units=20, n_repeats=2), 0, 40, 60)
    target = TableTarget("toy", latents)
    ids = [list(part.stimulus_ids) for part in parts]
    config = tiny()
    network = BrainRoutingNetwork([Routes(("all",), np.zeros(20, int))], {"retrieval": (2, 6)}, config)
    task = BrainRoutingTask(
        network,
        config,
        *parts,
        {"retrieval": TargetLatents(target, parts[0].stimuli, *ids)},
        fit_scalers(parts[0], weight_by_signal=True),
        "cpu",
    )
    some = list(task.images[0].ids[:4])
    true = task.targets(some)["retrieval"]
    mixing = Mixing(torch.tensor([1, 0, 3, 2]), torch.tensor([0.3, 0.8, 0.5, 1.0]))
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    parts_of = task.losses({"retrieval": mixing.apply(true)}, {"retrieval": true}, some, mixing, moment)
    assert float(parts_of["retrieval_error"]) < 1e-10
    parts_of = task.losses({"retrieval": true}, {"retrieval": true}, some, mixing, moment)
    assert float(parts_of["retrieval_error"]) > 1e-2
    assert float(parts_of["loss"]) == pytest.approx(
        float(parts_of["contrast"] + parts_of["retrieval_error"]), rel=1e-5
    )


# ------------------------------------------------------------------------------------------------------ recovery


@pytest.fixture(scope="module")
def regional() -> tuple[list[Cohort], TableTarget]:
    latents = np.random.default_rng(0).standard_normal((400, 4, 8)).astype(np.float32)
    study = make_regional_study(latents, CARRIERS)
    return cohorts(study, 0, 280, 330, 400), TableTarget("toy", latents)


@pytest.fixture(scope="module")
def recovered(regional: Any, tmp_path_factory: pytest.TempPathFactory) -> BrainRouting:
    parts, target = regional
    return fit(tiny(), tmp_path_factory.mktemp("recovery"), parts, retrieval=target)


def test_each_latent_looks_at_the_region_that_carries_it(regional: Any, recovered: BrainRouting) -> None:
    weights = recovered.routing(regional[0][2]).mean(axis=0)  # (queries, regions)
    right = [CARRIERS.index(token) for token in range(4)]
    assert weights.shape == (4, 5)
    assert_array_equal(weights.argmax(axis=1), right)
    assert weights[range(4), right].min() > 0.5  # chance: 0.2
    assert weights[:, CARRIERS.index(-1)].max() < 0.2


def test_without_a_link_between_brain_and_latents_no_region_stands_out(
    regional: Any, recovered: BrainRouting, tmp_path: Path
) -> None:
    parts, target = regional
    order = np.random.default_rng(3).permutation(len(target.latents))
    model = fit(tiny(), tmp_path, parts, retrieval=TableTarget("toy", target.latents[order]))
    weights = model.routing(parts[2]).mean(axis=0)
    right = [CARRIERS.index(token) for token in range(4)]
    assert weights[range(4), right].mean() < 0.3
    found = recovered.routing(parts[2]).mean(axis=0)
    assert weights[range(4), right].mean() < found[range(4), right].mean() - 0.25


def test_the_routing_is_given_per_head_and_as_a_table(regional: Any, recovered: BrainRouting) -> None:
    test = regional[0][2]
    heads, mean = recovered.routing(test, per_head=True), recovered.routing(test)
    assert heads.shape == (70, 4, 4, 5)
    assert_allclose(heads.sum(axis=-1), 1, atol=1e-5)
    assert_allclose(heads.mean(axis=1), mean, atol=1e-6)
    table = recovered.routing_table(test)
    assert len(table) == 4 * 5
    assert set(table["units"]) == {12}
    assert tuple(table["region"][:5]) == recovered.region_names() == tuple(f"region-{k}" for k in range(5))
    assert tuple(table["query"][::5]) == tuple(name for _, name in recovered.query_names())
    assert_allclose(table["weight"].to_numpy().reshape(4, 5), mean.mean(axis=0), atol=1e-6)
    assert_allclose(table["spread"].to_numpy().reshape(4, 5), mean.std(axis=0), atol=1e-5)


def test_a_prediction_changes_most_without_the_region_that_carries_it(
    regional: Any, recovered: BrainRouting
) -> None:
    test = regional[0][2]
    change = recovered.changes(test)
    right = [CARRIERS.index(token) for token in range(4)]
    assert_array_equal(change.argmax(axis=1), right)
    others = np.sort(change, axis=1)[:, :-1]
    assert (change[range(4), right] > 4 * others.mean(axis=1)).all()
    assert_allclose(recovered.routing_table(test)["change"].to_numpy().reshape(4, 5), change)


def test_a_region_that_is_left_out_is_not_looked_at() -> None:
    network = BrainRoutingNetwork([Routes(("a", "b"), np.array([0, 1, 1]))], {"retrieval": (2, 5)}, tiny())
    network.eval()
    x = torch.randn(4, 3)
    other = x.clone()
    other[:, 1:] += 3
    assert_allclose(
        network.without(0, x, 1)["retrieval"].detach(), network.without(0, other, 1)["retrieval"].detach()
    )
    assert not np.allclose(network([x])["retrieval"].detach(), network([other])["retrieval"].detach())


def test_rows_of_several_subjects_are_routed_by_their_own_regions(tmp_path: Path) -> None:
    latents = make_latents(90, 1, 8)
    studies = []
    for subject, n in (("01", 24), ("02", 18)):
        study = make_study(latents, n_units=n, ncsnr=1.0, subject=subject, seed=n)
        units = np.arange(n)
        rois = {"A": units < 9, "B": units >= 9} if subject == "01" else {"A": units < 9, "B": units < 0}
        studies.append(replace(study, space=UnitSpace(n, rois)))
    parts = [
        Cohort(tuple(studies), tuple(rows_of(study, *span) for study in studies))
        for span in ((0, 60), (60, 75), (75, 90))
    ]
    model = fit(tiny(training={"epochs": 2}), tmp_path, parts, retrieval=TableTarget("toy", latents))
    assert model.region_names("01") == ("A", "B")
    assert model.region_names("02") == ("A", "rest")
    assert model.routing(parts[2], "02").shape == (45, 1, 2)
    with pytest.raises(InputError, match="`subject`: expected one of 01, 02; found none"):
        model.routing(parts[2])


# --------------------------------------------------------------------------------------------------------- names


def test_tokens_are_named_by_their_place() -> None:
    def names(n: int) -> list[tuple[str, str]]:
        return name_tokens(TableTarget("toy", np.zeros((2, n, 3))))

    assert names(1) == [("pooled", "pooled")]
    assert names(4)[1] == ("row 1 column 2", "upper right")
    clip = names(257)
    assert clip[0] == ("class", "class")
    assert clip[1 + 16 * 15] == ("row 16 column 1", "lower left")
    assert names(9)[4] == ("row 2 column 2", "middle middle")
    assert names(7) == [(f"token {k}", "tokens") for k in range(1, 8)]
    wide = TableFeatures("wide", np.zeros((2, 9, 3)), Grid(2, 4, has_cls=True))
    assert name_tokens(wide)[-1] == ("row 2 column 4", "lower right")


# ------------------------------------------------------------------------------------------- saving, other tokens


@pytest.mark.parametrize("tokens", ["units", "parcels", "channels", "times", "rois"])
def test_other_tokens_are_fitted_saved_and_loaded(tmp_path: Path, tokens: Any) -> None:
    latents = make_latents(60, 1, 6)
    study = make_study(latents, n_units=12, n_repeats=1, ncsnr=2.0)
    n = 12
    changes: dict[str, Any] = {"tokens": tokens}
    if tokens == "parcels":
        study = replace(study, space=ParcelSpace("toy", tuple(f"parcel-{k}" for k in range(12)), 1.0))
        n = 11  # the first is constant
    elif tokens in ("channels", "times"):
        responses = np.asarray(study.responses).reshape(-1, 4, 3)
        study = replace(study, responses=responses, space=UnitSpace(4, unit="channel"), noise=None)
        n = {"channels": 4, "times": 3}[tokens]
    elif tokens == "rois":
        units = np.arange(12)
        study = replace(study, space=UnitSpace(12, {"A": units < 7, "B": units > 4, "none": units < 0}))
        changes["overlap"], n = "mean", 2
    else:
        n = 11
    parts = cohorts(study, 0, 40, 50, 60)
    target = TableTarget("toy", latents)
    model = fit(tiny(training={"epochs": 2}, **changes), tmp_path / "work", parts, retrieval=target)
    weights = model.routing(parts[2])
    assert weights.shape == (10, 1, n)
    model.save(tmp_path / "model")
    loaded = BrainRouting.load(tmp_path / "model", parts[2], targets={"retrieval": target})
    predicted = model.predict(parts[2])["retrieval"]
    assert_array_equal(loaded.predict(parts[2])["retrieval"].values, predicted.values)
    assert_array_equal(loaded.routing(parts[2]), weights)
    assert loaded.region_names() == model.region_names()
    assert loaded.n_parameters == model.n_parameters


# ----------------------------------------------------------------------------------------------------- bad input


def test_what_cannot_be_routed_is_refused(regional: Any, recovered: BrainRouting, tmp_path: Path) -> None:
    parts, target = regional
    bare = [Cohort.of(replace(part.studies[0], space=UnitSpace(60)), part.rows[0]) for part in parts]
    with pytest.raises(InputError, match="`rois`: expected a space with regions, for 'rois'; found none"):
        fit(tiny(), tmp_path, bare, retrieval=target)
    with pytest.raises(UnknownName, match=r"`roi`: expected one of .*; found 'V9'"):
        fit(tiny(rois=("V9",)), tmp_path, parts, retrieval=target)
    with pytest.raises(InputError, match="`tokens`: expected a space of parcels, for 'parcels'"):
        fit(tiny(tokens="parcels"), tmp_path, parts, retrieval=target)
    nothing = Cohort(parts[1].studies, (np.empty(0, int),))
    with pytest.raises(InputError, match="validation rows to stop on; found none"):
        fit(tiny(), tmp_path, [parts[0], nothing], retrieval=target)
    with pytest.raises(InputError, match="standardise is for image features"):
        build(BrainRoutingConfig, {"network": {"standardise": True}}, "settings")
    with pytest.raises(InputError, match="`layer`: expected one of 1; found 1"):
        recovered.routing(parts[2], layer=1)
    with pytest.raises(InputError, match="`cohort`: expected rows to average over; found none"):
        recovered.routing_table(nothing)
    with pytest.raises(InputError, match="`heads`: expected a divisor of the width 32; found 5"):
        fit(tiny(network={"heads": 5}), tmp_path, parts, retrieval=target)

"""The MEG module and its relatives: sizes, layers against formulas, masks, windows, people it does not know, training."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders import ENCODERS, atm, nice
from braindecode_suite.encoders.atm import AtmNetwork, SensorMixing
from braindecode_suite.encoders.latent_task import TargetLatents
from braindecode_suite.encoders.meg_module import MegModule
from braindecode_suite.encoders.meg_module_config import PRESETS, MegModuleConfig
from braindecode_suite.encoders.meg_module_network import (
    ConvolutionBlock,
    MegModuleNetwork,
    SubjectLayer,
    TimePooling,
)
from braindecode_suite.encoders.nice import NiceConfig, NiceNetwork
from braindecode_suite.encoders.sensor_encoder import SensorWarning
from braindecode_suite.encoders.sensor_task import RoleTarget, SensorTask
from braindecode_suite.learning.contrast import contrast
from braindecode_suite.learning.low_rank import LowRankLatents
from braindecode_suite.learning.routing import RoutingConfig
from braindecode_suite.learning.sensor_trials import sensor_space
from braindecode_suite.learning.synthetic import (
    TableTarget,
    make_latents,
    make_sensor_study,
    make_study,
    rows_of,
)
from braindecode_suite.learning.target_space import fit_target_scaler
from braindecode_suite.learning.temporal_spatial import TemporalSpatialConfig, TemporalSpatialConvolution
from braindecode_suite.learning.training import Moment, TrainingConfig, _Shell

NAN = float("nan")
SMALL: dict[str, Any] = {"channels": 8, "n_frequencies": 3, "hidden": 8, "features": 16, "low_rank": None}


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def small(**changes: Any) -> MegModuleConfig:
    """The paper's structure in small sizes."""
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "ema_decay": 0.0, "patience": 0}
    return build(MegModuleConfig, {**SMALL, "training": training, **changes})


class World:
    """Two people, another layout in the last session, latents of two roles."""

    def __init__(self, n_images: int = 60, **kwargs: Any) -> None:
        image, low = make_latents(n_images, 1, 8), make_latents(n_images, 4, 6, seed=1)
        self.targets = {"retrieval": TableTarget("clip", image), "init": TableTarget("vae", low)}
        self.studies = tuple(
            make_sensor_study(image, n_sensors=n, n_times=20, n_repeats=2, subject=s, seed=n, **kwargs)
            for s, n in (("01", 12), ("02", 9))
        )
        self.train, self.validation, self.test = (
            self.cohort(0, 40),
            self.cohort(40, 50),
            self.cohort(50, n_images),
        )

    def cohort(self, first: int, last: int) -> Cohort:
        return Cohort(self.studies, tuple(rows_of(study, first, last) for study in self.studies))

    def task(self, config: MegModuleConfig, shortest: int = 5) -> SensorTask:
        ids = list(self.train.stimulus_ids), list(self.validation.stimulus_ids)
        roles = {
            role: RoleTarget(TargetLatents(target, self.train.stimuli, *ids), None, target.tokens)
            for role, target in self.targets.items()
        }
        torch.manual_seed(0)
        network = MegModuleNetwork(2, 20, {"retrieval": 8, "init": 24}, config)
        return SensorTask(network, config, self.train, self.validation, roles, shortest, "cpu")

    def fitted(self, folder: Path, config: Any = None, name: str = "meg-module") -> Any:
        model = ENCODERS[name](config or small(), FitContext(work_dir=folder, split_hash="abc"))
        return model.fit(self.train, self.validation, self.targets)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def fitted(world: World, tmp_path_factory: pytest.TempPathFactory) -> MegModule:
    config = small(window="growing", unknown_subjects="mean", shortest_window=0.05)
    model: MegModule = world.fitted(tmp_path_factory.mktemp("meg"), config)
    return model


def inputs(rows: int = 4, sensors: int = 7, times: int = 20) -> list[torch.Tensor]:
    """Return trials, positions, layouts and subjects."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, sensors, times, generator=generator)
    return [
        x,
        torch.rand(1, sensors, 2, generator=generator),
        torch.zeros(rows, dtype=torch.long),
        torch.arange(rows) % 2,
    ]


def moment(seed: int = 0) -> Moment:
    return Moment(0, 0.0, torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------- sizes


def test_the_papers_preset_has_the_published_sizes_row_by_row() -> None:
    with torch.device("meta"):
        network = MegModuleNetwork(4, 181, {"retrieval": 768}, PRESETS["paper"])
        two = MegModuleNetwork(4, 181, {"retrieval": 768, "image": 768}, PRESETS["paper"])
    assert count(network.sensors) == 552_960
    assert count(network.mix) == 73_170
    assert count(network.subjects) == 291_600
    assert [count(block) for block in network.blocks] == [1_183_360, 1_231_360]
    assert count(network.expand) + count(network.pool.widen) == 1_518_208
    assert count(network.pool.affine) == 182
    assert count(network.heads) == 1_573_632
    assert count(network) == 6_424_472
    assert count(two) == 7_998_104


def test_the_papers_preset_is_trained_as_published() -> None:
    config = PRESETS["paper"]
    assert config.contrast == "one-sided"
    training = config.training
    assert (training.learning_rate, training.batch_size, training.patience) == (3e-4, 128, 10)
    assert (training.schedule, training.weight_decay, training.betas) == ("constant", 0.0, (0.9, 0.999))
    assert config.departures() == []
    assert len(PRESETS["tiny"].departures()) >= 3


def test_nice_and_atm_have_the_sizes_of_their_tables() -> None:
    with torch.device("meta"):
        nice_network = NiceNetwork(63, 250, {"retrieval": 768}, nice.PRESETS["paper"])
        atm_network = AtmNetwork(10, 63, 250, {"retrieval": 1024}, atm.PRESETS["paper"])
    assert count(nice_network.convolution) == 1_040 + 80 + 100_840 + 80 + 1_640
    assert nice_network.convolution.width == 1440
    assert count(nice_network.heads) == 1_697_280 + 1_536
    assert count(nice_network) == 1_802_497
    assert count(atm_network.mixing) == 62_750 + 2_500 + 249_494 + 129_006 + 500
    assert count(atm_network) == 3_075_163


# ------------------------------------------------------------------------------------------------------------ layers


def test_a_block_is_two_residual_dilated_convolutions_and_a_gated_one() -> None:
    torch.manual_seed(0)
    block: Any
    block, x = ConvolutionBlock(5, 5, 2, 0.0).eval(), torch.randn(2, 5, 30)
    y = x
    for k, dilation in ((0, 4), (1, 8)):
        weight, bias = block.convolutions[k].weight, block.convolutions[k].bias
        padded = nn.functional.pad(y, (dilation, dilation))
        taps = [padded[:, :, j * dilation : j * dilation + 30] for j in range(3)]
        convolved = sum(torch.einsum("oi,bit->bot", weight[:, :, j], taps[j]) for j in range(3))
        normed = (convolved + bias[:, None]) / (1 + block.norms[k].eps) ** 0.5
        y = y + nn.functional.gelu(normed)
    gated = nn.functional.conv1d(y, block.gated.weight, block.gated.bias, padding=1)
    assert_allclose(block(x).detach(), (gated[:, :5] * gated[:, 5:].sigmoid()).detach(), atol=1e-5)
    assert ConvolutionBlock(4, 5, 0, 0.0)(torch.randn(2, 4, 30)).shape == (2, 5, 30)


def test_a_sample_of_the_last_block_sees_35_samples() -> None:
    torch.manual_seed(0)
    network = MegModuleNetwork(1, 80, {"retrieval": 3}, small()).eval()
    x = torch.randn(1, 8, 80)
    before, seen = network.blocks(x)[:, :, 40], []
    for t in range(80):
        other = x.clone()
        other[:, :, t] += 10
        seen.append(not torch.equal(network.blocks(other)[:, :, 40], before))
    assert [t for t in range(80) if seen[t]] == list(range(40 - 17, 40 + 18))


@pytest.mark.parametrize("kind", ["affine", "mean", "attention"])
def test_pooling_is_that_of_its_formula_on_the_widened_samples(kind: str) -> None:
    torch.manual_seed(0)
    pool, x = TimePooling(6, 10, 13, kind), torch.randn(3, 6, 13)
    wide = pool.widen(x)  # (batch, features, times)
    if kind == "affine":
        assert pool.affine is not None
        expected = pool.affine(wide)[:, :, 0]
    elif kind == "mean":
        expected = wide.mean(dim=2)
    else:
        assert pool.attention is not None
        first, last = pool.attention[0], pool.attention[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        scores = torch.tanh(wide.transpose(1, 2) @ first.weight.T + first.bias) @ last.weight[0]
        expected = (wide * scores.softmax(dim=1)[:, None]).sum(dim=2)
    assert_allclose(pool(x).detach(), expected.detach(), atol=1e-5)


def test_affine_weights_of_a_window_are_those_of_its_samples_at_the_same_total_size() -> None:
    pool = TimePooling(6, 10, 13, "affine")
    assert pool.affine is not None
    whole, part = pool.weights(13).detach(), pool.weights(5).detach()
    assert_allclose(part.abs().sum(), whole.abs().sum(), rtol=1e-5)
    assert_allclose(part / part[0], whole[:5] / whole[0], rtol=1e-4)


def test_a_person_who_is_not_known_has_the_mean_of_the_others_matrices() -> None:
    layer, x = SubjectLayer(3, 4), torch.randn(4, 4, 5)
    mean = layer.matrices.mean(dim=0)
    alone = layer(x, torch.full((4,), -1))
    assert_allclose(alone.detach(), torch.einsum("bct,cd->bdt", x, mean).detach(), atol=1e-5)
    mixed = layer(x, torch.tensor([-1, 2, 0, -1]))
    assert_allclose(mixed[[0, 3]].detach(), alone[[0, 3]].detach(), atol=1e-5)
    assert_allclose(mixed[1].detach(), (layer.matrices[2].T @ x[1]).detach(), atol=1e-5)


@pytest.mark.parametrize("sensors", ["attention", "routing"])
@pytest.mark.parametrize("pooling", ["affine", "mean", "attention"])
def test_every_tensor_is_trained_but_the_bias_that_a_norm_cancels(sensors: str, pooling: str) -> None:
    config = small(
        sensors=sensors,
        pooling=pooling,
        contrast="symmetric",
        routing={"width": 8, "heads": 2, "feed_forward": 8},
    )
    torch.manual_seed(0)
    network = MegModuleNetwork(2, 20, {"retrieval": 5, "image": 6}, config)
    outputs = network(*inputs())
    assert network.logit is not None
    (sum(out.square().sum() for out in outputs.values()) * network.logit()).backward()
    largest = {n: float(p.grad.abs().max()) for n, p in network.named_parameters() if p.grad is not None}
    silent = [n for n, _ in network.named_parameters() if largest.get(n, 0.0) < 1e-5 * max(largest.values())]
    cancelled = ["pool.affine.bias"] * (pooling == "affine")
    # a bias before a batch norm is cancelled by it too
    assert [n for n in silent if ".convolutions." not in n] == cancelled


# ------------------------------------------------------------------------------------------- what must not matter


@pytest.mark.parametrize(
    "config", [small(), small(sensors="routing", pooling="attention"), small(subject_layer=False)]
)
def test_the_order_of_sensors_does_not_matter_and_evaluation_is_deterministic(
    config: MegModuleConfig,
) -> None:
    torch.manual_seed(0)
    network = MegModuleNetwork(2, 20, {"retrieval": 5}, config).eval()
    x, positions, layout, subject = inputs()
    order = torch.randperm(7)
    found = network(x, positions, layout, subject)["retrieval"]
    assert torch.equal(network(x, positions, layout, subject)["retrieval"], found)
    shuffled = network(x[:, order], positions[:, order], layout, subject)["retrieval"]
    assert_allclose(shuffled.detach(), found.detach(), atol=1e-5)


@pytest.mark.parametrize("name", ["meg-module", "nice", "atm"])
@pytest.mark.parametrize("value", [NAN, 0.0, 1e4])
def test_what_a_sensor_without_a_place_says_does_not_matter(name: str, value: float) -> None:
    torch.manual_seed(0)
    x, positions, layout, subject = inputs()
    network = {
        "meg-module": lambda: MegModuleNetwork(2, 20, {"retrieval": 5}, small()),
        "nice": lambda: NiceNetwork(7, 20, {"retrieval": 5}, nice.PRESETS["tiny"]),
        "atm": lambda: AtmNetwork(2, 7, 20, {"retrieval": 5}, atm.PRESETS["tiny"]),
    }[name]().eval()
    positions[0, 3] = NAN
    before = network(x, positions, layout, subject)["retrieval"]
    assert torch.isfinite(before).all()
    x[:, 3] = value
    assert_allclose(network(x, positions, layout, subject)["retrieval"].detach(), before.detach(), atol=1e-5)


def test_attention_among_sensors_is_as_if_a_missing_one_did_not_exist() -> None:
    torch.manual_seed(0)
    mixing = SensorMixing(2, 20, atm.PRESETS["tiny"]).eval()
    x, *_, subject = inputs()
    seen = torch.ones(x.shape[:2], dtype=torch.bool)
    seen[:, 3] = False
    others = [k for k in range(7) if k != 3]
    found = mixing(torch.where(seen[:, :, None], x, 0.0), seen, subject)[:, others]
    assert_allclose(
        found.detach(), mixing(x[:, others], seen[:, others], subject).detach(), rtol=1e-4, atol=1e-5
    )


def test_a_convolution_over_sensors_that_say_the_same_is_the_same_without_some_of_them() -> None:
    torch.manual_seed(0)
    config = TemporalSpatialConfig(kernels=3, time_kernel=5, pool=4, pool_stride=2)
    layer = TemporalSpatialConvolution(6, 20, config).eval()
    with torch.no_grad():
        layer.space.weight[:] = layer.space.weight[:, :, :1]  # every sensor counts alike
    x = torch.randn(2, 1, 20).expand(2, 6, 20)
    seen = torch.ones(2, 6, dtype=torch.bool)
    whole = layer(x, seen)
    seen[0, :4] = False
    assert_allclose(layer(x, seen).detach(), whole.detach(), rtol=1e-4, atol=1e-5)


def test_sensors_that_are_missing_are_none_of_what_a_batch_is_normalised_by() -> None:
    torch.manual_seed(0)
    config = TemporalSpatialConfig(kernels=3, time_kernel=5, pool=4, pool_stride=2, dropout=0.0)
    layer = TemporalSpatialConvolution(6, 20, config)
    x, seen = torch.randn(4, 6, 20), torch.ones(4, 6, dtype=torch.bool)
    seen[:, 5], seen[1, :3] = False, False
    found = {}
    for filled in (0.0, 50.0):
        trained = deepcopy(layer).train()
        found[filled] = trained(torch.where(seen[:, :, None], x, filled), seen)
        pooled = layer.pool(layer.time(x[:, None])).transpose(1, 2)[seen]  # (seen, kernels, windows)
        values = pooled.detach().double().transpose(0, 1).flatten(1)
        norm: Any = trained.time_norm
        assert_allclose(norm.running_mean, 0.1 * values.mean(dim=1), rtol=1e-5)
        assert_allclose(norm.running_var, 0.9 + 0.1 * values.var(dim=1), rtol=1e-5)
    assert torch.equal(found[0.0], found[50.0])
    found[0.0].square().sum().backward()
    assert trained.eval()(x, torch.zeros_like(seen)).isfinite().all()


def test_a_batch_in_which_nothing_is_missing_is_normalised_as_published() -> None:
    torch.manual_seed(0)
    layer = TemporalSpatialConvolution(
        6, 20, TemporalSpatialConfig(kernels=3, time_kernel=5, pool=4, dropout=0.0)
    )
    x, seen = torch.randn(4, 6, 20), torch.ones(4, 6, dtype=torch.bool)
    normal = nn.functional.batch_norm(layer.pool(layer.time(x[:, None])), None, None, training=True)
    mapped = nn.functional.elu(
        nn.functional.batch_norm(layer.space(nn.functional.elu(normal)), None, None, training=True)
    )
    published = layer.project(mapped)[:, :, 0].transpose(1, 2).flatten(1)
    assert_allclose(layer(x, seen).detach(), published.detach(), rtol=1e-4, atol=1e-5)
    one_by_one = layer._of_seen(layer.pool(layer.time(x[:, None])), seen)
    assert_allclose(one_by_one.detach(), nn.functional.elu(normal).detach(), rtol=1e-4, atol=1e-5)


def test_without_a_subject_layer_people_do_not_matter() -> None:
    torch.manual_seed(0)
    network = MegModuleNetwork(2, 20, {"retrieval": 5}, small(subject_layer=False)).eval()
    x, positions, layout, subject = inputs()
    assert torch.equal(
        network(x, positions, layout, subject)["retrieval"],
        network(x, positions, layout, 1 - subject)["retrieval"],
    )


def test_a_longer_trial_than_the_network_has_is_refused() -> None:
    network = MegModuleNetwork(2, 20, {"retrieval": 5}, small())
    with pytest.raises(InputError, match="`x`: expected at most 20 times; found 21"):
        network(*inputs(times=21))


# ---------------------------------------------------------------------------------------------------------- training


def test_an_item_is_a_single_trial_seen_through_its_session(world: World) -> None:
    task = world.task(small())
    assert task.n_items == len(world.train)
    assert len(task.positions) == 4  # two people, two sessions: each loses sensors in the second
    items = np.array([0, task.n_items - 1])
    x, layout, subject = task._batch([(0, task.row[items[:1]]), (1, task.row[items[1:]])])
    assert x.shape == (2, 12, 20)
    assert_array_equal(x[0], world.studies[0].read(task.row[:1])[0])
    assert torch.isnan(x[1, 9:]).all()
    assert subject.tolist() == [0, 1]
    space = world.studies[1].space
    assert isinstance(space, SensorSpace)
    assert_array_equal(task.positions[layout[1], :9], space.positions["2"])
    assert task.names(items)[1].startswith("sub-02/row-")


def test_the_loss_is_the_weighted_sum_of_contrast_and_mean_squared_errors(world: World) -> None:
    task = world.task(small(contrast_weight=0.25, regress_retrieval=True))
    parts = task.loss(np.arange(40), moment())
    errors = (parts["retrieval_error"] + parts["init_error"]) / 2
    assert_allclose(parts["loss"].detach(), (0.25 * parts["contrast"] + 0.75 * errors).detach(), rtol=1e-5)
    ids = list(task.ids[:5])
    true = task.targets["init"].of(ids)
    outputs = {"init": torch.from_numpy(true + 0.5)}
    parts = task.losses(outputs, ids)
    assert_allclose(parts["init_error"], 0.25 * 24 / 4, rtol=1e-5)  # the squared distance a token
    assert_allclose(parts["loss"], parts["init_error"], rtol=1e-6)


def test_a_batch_in_which_people_are_shuffled_keeps_each_trial_with_its_own_image(world: World) -> None:
    task = world.task(small(sensor_dropout=0.0, dropout=0.0, regress_retrieval=True))
    items = np.random.default_rng(0).permutation(task.n_items)[:30]
    assert len(np.unique(task.subject[items])) == 2
    assert np.any(np.diff(task.subject[items]) < 0)
    shuffled, sorted_ = (task.loss(some, moment()) for some in (items, np.sort(items)))
    for name, value in sorted_.items():
        assert_allclose(shuffled[name].detach(), value.detach(), rtol=1e-4, err_msg=name)


def test_trials_read_lazily_and_from_memory_are_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = world.task(small())
    monkeypatch.setattr("braindecode_suite.learning.sensor_trials.PRELOAD_BYTES", 0)
    lazy = world.task(small())
    assert kept.trials[0].values is not None
    assert lazy.trials[0].values is None
    rows = np.random.default_rng(0).permutation(kept.trials[1].kept)[:7]
    assert_array_equal(lazy.trials[1].read(rows), kept.trials[1].read(rows))
    assert_array_equal(kept.trials[1].read(rows), world.studies[1].read(rows))


def test_a_trial_without_sensors_is_left_out_of_the_loss() -> None:
    world = World()
    np.asarray(world.studies[0].responses)[world.train.rows[0][3]] = NAN
    task, whole = world.task(small()), World().task(small())
    parts = task.loss(np.arange(20), moment())
    assert torch.isfinite(parts["loss"])
    others = whole.loss(np.delete(np.arange(20), 3), moment())
    assert_allclose(parts["init_error"].detach(), others["init_error"].detach(), rtol=1e-4)


def test_a_tiny_network_learns_256_random_trials_by_heart() -> None:
    rng = np.random.default_rng(0)
    config = PRESETS["tiny"].model_copy(update={"dropout": 0.0, "sensor_dropout": 0.0})
    torch.manual_seed(0)
    network = MegModuleNetwork(1, 24, {"retrieval": 32}, config)
    x = torch.from_numpy(rng.standard_normal((256, 30, 24)).astype(np.float32))
    true = torch.from_numpy(rng.standard_normal((256, 32)).astype(np.float32))
    positions = torch.from_numpy(rng.uniform(size=(1, 30, 2)).astype(np.float32))
    zeros, ids = torch.zeros(256, dtype=torch.long), [str(k) for k in range(256)]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        out = network(x, positions, zeros, zeros)["retrieval"]
        contrast(config.contrast, out, true, ids, network.logit).backward()
        optimiser.step()
    with torch.no_grad():
        found = network.eval()(x, positions, zeros, zeros)["retrieval"]
    right = (found @ nn.functional.normalize(true, dim=1).T).argmax(dim=1) == torch.arange(256)
    assert float(right.float().mean()) > 0.95


def test_training_follows_a_constant_rate_where_asked() -> None:
    class Task:
        network = nn.Linear(2, 2)

    shell = _Shell(Task(), TrainingConfig(schedule="constant", betas=(0.5, 0.9), weight_decay=0.0), 0)  # type: ignore[arg-type]

    class Trainer:
        precision = "32-true"

    shell._trainer = Trainer()  # type: ignore[assignment]
    optimiser = shell.configure_optimizers()
    assert isinstance(optimiser, torch.optim.AdamW)
    assert optimiser.param_groups[0]["betas"] == (0.5, 0.9)


def test_the_validation_score_does_not_change_with_the_length_of_retrieval_predictions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = world.task(small(regress_retrieval=True))
    task.network.eval()
    forward, length = task.network.forward, 1.0

    def scaled(*inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        found = forward(*inputs)
        return {**found, "retrieval": length * found["retrieval"]}

    monkeypatch.setattr(task.network, "forward", scaled)
    once = task.validate()
    length = 30.0
    again = task.validate()
    assert again["retrieval_r2"] == pytest.approx(once["retrieval_r2"], rel=1e-3, abs=1e-6)
    assert 0 < once["retrieval_r2"] < 1
    gain, predicted, true = task.retrieval_gain(task.network), [], []
    for s, images in enumerate(task.held_out):
        for rows, stimulus_id in zip(images.rows, images.ids, strict=True):
            predicted.append(gain * task._predict(s, rows, task.n_times)["retrieval"].mean(dim=0))
            true.append(torch.from_numpy(task.targets["retrieval"].of([stimulus_id]))[0])
    error = (torch.stack(predicted) - torch.stack(true)).square().sum()
    assert again["retrieval_r2"] == pytest.approx(
        float(1 - error.detach() / torch.stack(true).square().sum()), abs=1e-5
    )


# ----------------------------------------------------------------------------------------------------------- windows


def test_growing_windows_are_of_random_length_and_validated_at_several(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, lengths = world.task(small(window="growing"), shortest=5), []
    forward = task.network.forward

    def noted(x: torch.Tensor, *others: torch.Tensor) -> Any:
        lengths.append(x.shape[2])
        return forward(x, *others)

    monkeypatch.setattr(task.network, "forward", noted)
    for seed in range(200):
        task.loss(np.arange(8), moment(seed))
    assert set(lengths) == set(range(5, 21))
    assert 0.43 < np.mean(np.array(lengths) == 20) < 0.63  # half of the batches, and a 16th of the others
    assert task.ends() == [5, 10, 15, 20]
    assert world.task(small()).ends() == [20]
    assert set(task.validate()) == {"score", "top1", "information", "init_r2"}


def test_a_window_that_ends_early_does_not_know_what_follows(world: World, fitted: MegModule) -> None:
    changed = [replace(study, responses=np.array(study.responses)) for study in world.studies]
    for study in changed:
        np.asarray(study.responses)[:, :, 12:] = 50.0
    cohort = Cohort(tuple(changed), world.test.rows)
    times = sensor_space(world.studies[0]).times
    before, after = (fitted.predict(c, until=times[11]) for c in (world.test, cohort))
    for role in before:
        assert_array_equal(before[role].values, after[role].values)
    later = fitted.predict(cohort, until=times[12])
    assert np.abs(later["retrieval"].values - after["retrieval"].values).max() > 1e-3
    whole, last = fitted.predict(world.test), fitted.predict(world.test, until=times[-1])
    assert_array_equal(whole["init"].values, last["init"].values)


def test_a_model_of_whole_trials_cannot_be_asked_earlier(
    world: World, tmp_path: Path, fitted: MegModule
) -> None:
    with pytest.raises(InputError, match=r"`until`: expected at least -0\.05 seconds; found -1"):
        fitted.predict(world.test, until=-1.0)
    model = MegModule(small(), FitContext(work_dir=tmp_path))
    model.facts_, model.network_ = fitted.facts_, fitted.network_
    with pytest.raises(
        InputError, match="`until`: expected a model of growing windows; found one of whole trials"
    ):
        model.predict(world.test, until=0.1)


# ----------------------------------------------------------------------------------- people and sessions it does not know


def test_somebody_else_is_refused_or_predicted_by_the_mean_with_a_warning(
    world: World, fitted: MegModule, tmp_path: Path
) -> None:
    stranger = Cohort.of(replace(world.studies[0], subject="09"), world.test.rows[0])
    with pytest.warns(SensorWarning, match=r"sub-09 is none of the people .* \(01, 02\): the mean of theirs"):
        found = fitted.predict(stranger)
    assert any("sub-09" in text for text in fitted.warnings_)
    assert np.isfinite(found["retrieval"].values).all()
    known = fitted.predict(Cohort.of(world.studies[0], world.test.rows[0]))
    assert np.abs(found["retrieval"].values - known["retrieval"].values).max() > 1e-3
    fitted.save(tmp_path)
    loaded = MegModule.load(tmp_path)
    with pytest.warns(SensorWarning, match="sub-09"):
        again = loaded.predict(stranger)
    assert_array_equal(again["retrieval"].values, found["retrieval"].values)
    strict = small(unknown_subjects="refuse", window="growing")
    loaded.config = strict
    with pytest.raises(InputError, match=r"\['01', '02'\]; found subjects = \['09'\]"):
        loaded.predict(stranger)


def test_a_trial_without_sensors_is_predicted_with_a_warning(world: World, fitted: MegModule) -> None:
    responses = np.array(world.studies[0].responses)
    responses[world.test.rows[0][2]] = NAN
    cohort = Cohort.of(replace(world.studies[0], responses=responses), world.test.rows[0])
    with pytest.warns(SensorWarning, match=r"1 of 20 trials have no sensor without NaN"):
        found = fitted.predict(cohort)["retrieval"].values
    assert np.isfinite(found).all()
    other = np.delete(np.arange(20), 2)
    expected = fitted.predict(Cohort.of(world.studies[0], world.test.rows[0]))["retrieval"].values
    assert_allclose(found[other], expected[other], atol=1e-5)


def test_a_new_session_is_seen_through_its_own_places(world: World, fitted: MegModule) -> None:
    study = world.studies[0]
    space = study.space
    assert isinstance(space, SensorSpace)
    trials = study.trials.assign(session="new")
    with pytest.raises(InputError, match=r"session 'new'"):
        fitted.predict(Cohort.of(replace(study, trials=trials)))
    order = np.random.default_rng(0).permutation(12)
    moved = replace(space, positions={"new": np.asarray(space.positions["1"])[order]})
    first = rows_of(study, 0, 10)[:10]
    other = replace(study, trials=trials, space=moved, responses=np.array(study.responses)[:, order])
    before = fitted.predict(Cohort.of(study, first))["retrieval"].values
    assert_allclose(fitted.predict(Cohort.of(other, first))["retrieval"].values, before, atol=1e-4)
    nowhere = replace(space, positions={"new": np.full((12, 2), NAN)})
    with pytest.raises(
        InputError, match="session new: expected at least one sensor with a place; found none of 12"
    ):
        fitted.predict(Cohort.of(replace(other, space=nowhere)))


def test_people_with_other_times_or_no_sensors_are_refused(world: World, tmp_path: Path) -> None:
    model = MegModule(small(), FitContext(work_dir=tmp_path))
    longer = make_sensor_study(world.targets["retrieval"].latents, n_sensors=9, n_times=25, subject="02")
    studies = (world.studies[0], longer)
    cohort = Cohort(studies, tuple(rows_of(s, 0, 40) for s in studies))
    with pytest.raises(InputError, match=r"sub-02: expected times = .*20\]; found times = .*25\]"):
        model.fit(cohort, cohort, world.targets)
    voxels = Cohort.of(make_study(world.targets["retrieval"].latents, n_units=5))
    with pytest.raises(InputError, match=r"expected sensors with places \(MEG or EEG\); found UnitSpace"):
        model.fit(voxels, voxels, world.targets)


@pytest.mark.parametrize("name", ["nice", "atm"])
def test_networks_that_number_sensors_refuse_another_order(world: World, name: str, tmp_path: Path) -> None:
    def rename(study: Study) -> Study:
        space = study.space
        assert isinstance(space, SensorSpace)
        return replace(study, space=replace(space, names=("EOG", *space.names[1:])))

    studies = (world.studies[0], rename(world.studies[1]))
    cohort = Cohort(studies, world.train.rows)
    model = ENCODERS[name](ENCODERS[name].preset("tiny"), FitContext(work_dir=tmp_path))
    with pytest.raises(InputError, match="sub-02: expected sensor 1 to be 'S000'; found 'EOG'"):
        model.fit(cohort, cohort, world.targets)


def test_a_trial_too_short_for_the_kernels_is_refused() -> None:
    assert TemporalSpatialConfig().n_windows(250) == 36
    with pytest.raises(
        InputError, match="`times`: expected at least 75 samples for kernels of 25 and 51; found 74"
    ):
        TemporalSpatialConfig().n_windows(74)
    with pytest.raises(InputError, match="window"):
        build(NiceConfig, {"window": "growing"})


# ----------------------------------------------------------------------------------------------------------- targets


def test_wide_targets_are_predicted_through_principal_components(world: World, tmp_path: Path) -> None:
    model = world.fitted(tmp_path, small(low_rank=6))
    basis = model._bases["init"]
    images = list(dict.fromkeys(world.train.stimulus_ids))
    true = world.targets["init"].embed(world.train.stimuli, images).flat
    scaled = (true - true.mean(axis=0)) / true.std(axis=0) / 6**0.5
    _, _, directions = np.linalg.svd(scaled, full_matrices=False)
    assert_allclose(np.abs((basis @ directions[:6].T).round(4)), np.eye(6), atol=2e-3)
    found = model.predict(world.test)["init"].flat
    centred = (found - true.mean(axis=0)) / true.std(axis=0) / 6**0.5
    assert_allclose(centred @ basis.T @ basis, centred, atol=1e-4)
    assert "retrieval" not in model._bases
    assert model.facts_["widths"] == {"retrieval": 8, "init": 6}


def test_the_explained_share_counts_what_components_leave_out() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((9, 2, 5)).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((10, 3)))[0].T.astype(np.float32)
    low_rank = LowRankLatents(lambda ids: values[[int(i) for i in ids]], list("012345678"), basis)
    target = RoleTarget(None, low_rank, 2)  # type: ignore[arg-type]
    ids = ["4", "2", "7"]
    flat = values[[4, 2, 7]].reshape(3, -1)
    predicted = rng.standard_normal((3, 3)).astype(np.float32)
    true = torch.from_numpy(target.of(ids))
    beyond, whole = target.left_out(ids, true)
    missed = float((torch.from_numpy(predicted) - true).square().sum()) + beyond
    assert_allclose(missed, np.square(predicted @ basis - flat).sum(), rtol=1e-4)
    assert_allclose(whole, np.square(flat).sum(), rtol=1e-5)


def test_targets_are_standardised_by_training_images(world: World) -> None:
    ids = list(world.train.stimulus_ids), list(world.validation.stimulus_ids)
    target = world.targets["init"]
    latents = TargetLatents(target, world.train.stimuli, *ids, each_dimension=True)
    train = target.embed(world.train.stimuli, ids[0]).values
    expected = (train - train.mean(axis=0)) / train.std(axis=0) / 6**0.5
    unique = list(dict.fromkeys(ids[0]))
    assert_allclose(latents.of(unique), expected, atol=1e-4)
    assert_allclose(latents.scaler.undo(latents.of(unique)), train, atol=1e-4)
    constant = np.ones((4, 1, 2), np.float32)
    constant[:, 0, 1] = np.arange(4)
    assert_array_equal(fit_target_scaler(constant, each_dimension=True).apply(constant)[:, 0, 0], 0)


def test_the_length_of_retrieval_predictions_is_the_least_squares_one_on_validation_images(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = world.task(small())
    noise = np.random.default_rng(0).standard_normal((2, 200, 8)).astype(np.float32)

    def predict(sign: float) -> Any:
        def of(subject: int, rows: np.ndarray, end: int) -> dict[str, torch.Tensor]:
            true = task.targets["retrieval"].of(list(world.studies[subject].stimulus_ids[rows]))
            return {"retrieval": torch.from_numpy(sign * true + 0.1 * noise[subject, rows])}

        return of

    monkeypatch.setattr(task, "_predict", predict(0.25))
    means, truths = [], []
    for s, images in enumerate(task.held_out):
        for rows, stimulus_id in zip(images.rows, images.ids, strict=True):
            means.append(predict(0.25)(s, rows, 20)["retrieval"].mean(dim=0).numpy())
            truths.append(task.targets["retrieval"].of([stimulus_id])[0])
    gain = np.linalg.lstsq(np.concatenate(means)[:, None], np.concatenate(truths), rcond=None)[0][0]
    assert gain > 2
    assert task.retrieval_gain(task.network) == pytest.approx(gain, rel=1e-4)
    monkeypatch.setattr(task, "_predict", predict(-1.0))
    assert task.retrieval_gain(task.network) == 1.0


def test_retrieval_predictions_are_as_long_as_the_gain_says_and_others_are_not(
    world: World, fitted: MegModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: dict[str, np.ndarray] = {}
    long: dict[str, np.ndarray] = {}
    for gain, found in ((1.0, plain), (3.0, long)):
        monkeypatch.setitem(fitted.facts_, "retrieval_gain", gain)
        for role, latents in fitted.predict(world.test).items():
            found[role] = fitted._target_scalers[role].apply(latents.values)
    assert_allclose(long["retrieval"], 3 * plain["retrieval"], rtol=1e-3, atol=1e-4)
    assert_array_equal(long["init"], plain["init"])


def test_routing_over_sensors_can_be_fitted_saved_and_loaded(world: World, tmp_path: Path) -> None:
    config = small(sensors="routing", routing=RoutingConfig(width=8, heads=2, feed_forward=8).model_dump())
    model = world.fitted(tmp_path / "work", config)
    model.save(tmp_path / "model")
    loaded = MegModule.load(tmp_path / "model", world.test)
    for role, latents in model.predict(world.test).items():
        assert_array_equal(loaded.predict(world.test)[role].values, latents.values)

"""MindEye: sizes, gradients, the linear start, mixing, resume; regressions for the faults of the official code."""

from __future__ import annotations

from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.encoders.latent_task import (
    TargetLatents,
    fit_scalers,
    mix_responses,
    retrieval_scores,
)
from braindecode_suite.encoders.mindeye import MindEyeEncoder, find_roles, noise_seed
from braindecode_suite.encoders.mindeye_config import PRESETS, MindEyeConfig
from braindecode_suite.encoders.mindeye_network import MindEyeNetwork, Outputs, Roles, join_state, split_state
from braindecode_suite.encoders.mindeye_task import MindEyeTask, predict_rows
from braindecode_suite.learning.layers import Backbone, BackboneConfig, Projector, SubjectLinear
from braindecode_suite.learning.losses import Mixing
from braindecode_suite.learning.low_level import LowLevelBranch, LowLevelConfig
from braindecode_suite.learning.synthetic import TableTarget, make_latents, make_study, rows_of
from braindecode_suite.learning.training import Moment


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(name: str, **training: Any) -> MindEyeConfig:
    """A preset with its structure and small sizes."""
    config = PRESETS[name]
    backbone = config.backbone.model_copy(update={"hidden": 24, "n_blocks": 2})
    prior = (
        None
        if config.prior is None
        else config.prior.model_copy(update={"depth": 1, "heads": 2, "dim_head": 8})
    )
    low_level = None if config.low_level is None else config.low_level.model_copy(update={"channels": 16})
    return config.model_copy(
        update={
            "backbone": backbone,
            "prior": prior,
            "low_level": low_level,
            "projector_hidden": 16,
            "training": config.training.model_copy(update={"epochs": 4, "batch_size": 16, **training}),
        }
    )


class World:
    """Latents, targets and two subjects."""

    def __init__(self, tokens: int = 1, n_images: int = 90) -> None:
        image, low = make_latents(n_images, tokens, 8), make_latents(n_images, 64, 4, seed=1)
        other = make_latents(n_images, 2, 6, seed=2)
        self.targets = {
            "retrieval": TableTarget("clip", image),
            "image": TableTarget("clip", image),
            "init": TableTarget("vae", low),
        }
        self.other = TableTarget("other", other)
        self.studies = tuple(
            make_study(image, n_units=n, ncsnr=1.0, subject=s, seed=n) for s, n in (("01", 30), ("02", 20))
        )
        self.train, self.validation, self.test = (
            self.cohort(*span) for span in pairwise_spans(0, 60, 75, n_images)
        )

    def cohort(self, first: int, last: int) -> Cohort:
        return Cohort(self.studies, tuple(rows_of(study, first, last) for study in self.studies))

    def task(self, config: MindEyeConfig, targets: dict[str, TableTarget], seed: int = 0) -> MindEyeTask:
        torch.manual_seed(seed)
        shapes = {r: {"name": t.name, "tokens": t.tokens, "width": t.width} for r, t in targets.items()}
        scalers = fit_scalers(self.train, weight_by_signal=True)
        network = MindEyeNetwork([30, 20], find_roles(shapes, config), config)
        ids = list(self.train.stimulus_ids), list(self.validation.stimulus_ids)
        latents = {role: TargetLatents(target, self.train.stimuli, *ids) for role, target in targets.items()}
        return MindEyeTask(network, config, self.train, self.validation, latents, scalers, "cpu")


def pairwise_spans(*edges: int) -> list[tuple[int, int]]:
    return list(pairwise(edges))


def moment(epoch: int, seed: int = 0) -> Moment:
    return Moment(epoch, epoch / 4, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_the_papers_preset_has_the_published_size_for_subject_1() -> None:
    with torch.device("meta"):
        roles = Roles(retrieval=(257, 768), image=None, has_prior=True, init=None)
        network = MindEyeNetwork([15724], roles, PRESETS["paper"])
    assert network.prior is not None
    assert count(network.backbone) + count(network.head) == 940_225_280
    assert count(network.projector) == 7_354_624
    assert count(network.prior) == 56_055_168
    assert count(network) == 1_003_635_072


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("another_image_target", [False, True])
def test_every_tensor_is_trained_in_both_phases(
    world: World, preset: str, another_image_target: bool
) -> None:
    config = small(preset)
    targets = {"retrieval": world.targets["retrieval"]}
    if another_image_target:
        targets["image"] = world.other
    if config.low_level is not None:
        targets["init"] = world.targets["init"]
    task = world.task(config, targets)
    for epoch in (0, 3):
        assert (epoch < task.n_mixco_epochs) == (epoch == 0)
        task.network.zero_grad()
        task.loss(np.arange(task.n_items), moment(epoch))["loss"].backward()
        silent = [
            n for n, p in task.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
        ]
        assert silent == []


def test_the_backbone_is_not_affine() -> None:
    torch.manual_seed(0)
    backbone = Backbone([6], BackboneConfig(hidden=16, n_blocks=2, dropout=0, dropout_in=0))
    a, b, zero = torch.randn(4, 6), torch.randn(4, 6), torch.zeros(4, 6)
    gap = backbone([a + b]) - backbone([a]) - backbone([b]) + backbone([zero])
    assert gap.abs().max() > 0.1
    changed = backbone([a])
    with torch.no_grad():
        next(backbone.blocks[-1].parameters()).mul_(2)
    assert (backbone([a]) - changed).abs().max() > 1e-3


def test_subjects_have_input_layers_of_their_own() -> None:
    layer = SubjectLinear([3, 5], 4)
    x, y = torch.randn(2, 3), torch.randn(4, 5)
    mapped = layer([x, y])
    assert_allclose(mapped[:2].detach(), layer.subjects[0](x).detach())
    assert_allclose(mapped[2:].detach(), layer.subjects[1](y).detach())
    with pytest.raises(InputError, match="one tensor for each of 2 subjects; found 1"):
        layer([x])
    with pytest.raises(InputError, match=r"shape \(rows, units=5\); found \(2, 3\)"):
        layer([x, x])


def test_a_residual_projector_starts_as_almost_the_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 2, 12)
    assert (Projector(12, 32, residual=True)(x) - x).norm() < 0.1 * x.norm()
    assert (Projector(12, 32)(x) - x).norm() > 0.5 * x.norm()


@pytest.mark.parametrize(("side", "doublings", "coarsest"), [(8, 3, 2), (64, 3, 8), (5, 3, 5), (6, 2, 3)])
def test_the_low_level_branch_fits_latents_of_any_square_size(
    side: int, doublings: int, coarsest: int
) -> None:
    config = LowLevelConfig(channels=16, doublings=doublings, skip=False)
    branch = LowLevelBranch([3], 8, side * side, 4, config)
    assert branch.side == coarsest
    assert branch(torch.zeros(2, 8), [torch.zeros(2, 3)]).shape == (2, side * side, 4)


def test_latents_that_are_no_square_image_are_refused() -> None:
    with pytest.raises(InputError, match="tokens that make a square image; found 60 tokens"):
        LowLevelBranch([3], 8, 60, 4, LowLevelConfig())


def test_mixed_rows_and_their_labels_agree_for_every_subject() -> None:
    first, second = torch.randn(3, 5), torch.randn(2, 7)
    mixing = Mixing(torch.tensor([1, 0, 2, 4, 3]), torch.tensor([0.2, 1.0, 0.5, 0.7, 0.1]))
    mixed = mix_responses([first, second], mixing)
    assert_allclose(mixed[0][0], 0.2 * first[0] + 0.8 * first[1], rtol=1e-5)
    assert_allclose(mixed[0][1:], first[1:], rtol=1e-5)
    assert_allclose(mixed[1][1], 0.1 * second[1] + 0.9 * second[0], rtol=1e-5)


def test_regression_and_low_level_targets_are_mixed_before_their_losses(world: World) -> None:
    task = world.task(small("tiny"), world.targets)
    ids = list(task.images[0].ids[:4]) + list(task.images[1].ids[:3])
    targets = task.targets(ids)
    mixing = Mixing(torch.tensor([2, 1, 0, 3, 5, 4, 6]), torch.tensor([0.3, 1.0, 0.6, 0.9, 0.5, 0.5, 1.0]))
    perfect = {role: mixing.apply(target) for role, target in targets.items()}
    parts = task.losses(Outputs(perfect["retrieval"], None, perfect["init"]), targets, ids, mixing, moment(0))
    assert float(parts["low_level"]) < 1e-10
    assert float(parts["regression"]) < 1e-10
    parts = task.losses(Outputs(targets["retrieval"], None, targets["init"]), targets, ids, mixing, moment(0))
    assert float(parts["low_level"]) > 1e-3
    assert float(parts["regression"]) > 1e-3


def test_a_step_sees_one_repeat_of_each_image_of_the_right_subject(world: World) -> None:
    task = world.task(small("tiny").model_copy(update={"repeats": "one"}), world.targets)
    items = np.random.default_rng(0).permutation(task.n_items)[:20]
    batch, ids = task.draw(items, torch.Generator().manual_seed(0))
    assert [len(rows) for rows in batch] == [int((task.subject[items] == s).sum()) for s in (0, 1)]
    position = 0
    for s, rows in enumerate(batch):
        for row in rows:
            mine = task.images[s].rows[list(task.images[s].ids).index(ids[position])]
            candidates = task.responses[s].read(mine)
            assert np.isclose(candidates, row.numpy(), atol=1e-6).all(axis=1).sum() == 1
            position += 1
    other, _ = task.draw(items, torch.Generator().manual_seed(1))
    assert any(not torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def test_a_mean_of_random_repeats_is_one_of_their_means(world: World) -> None:
    config = small("tiny").model_copy(update={"repeats": "random-mean"})
    task = world.task(config, world.targets)
    batch, ids = task.draw(np.arange(10), torch.Generator().manual_seed(0))
    for row, stimulus_id in zip(batch[0], ids, strict=True):
        values = task.responses[0].read(task.images[0].rows[list(task.images[0].ids).index(stimulus_id)])
        masks = [[i for i in range(3) if m >> i & 1] for m in range(1, 8)]
        means = np.stack([values[chosen].mean(axis=0) for chosen in masks])
        assert np.isclose(means, row.numpy(), atol=1e-5).all(axis=1).any()


def test_responses_read_lazily_and_from_memory_are_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = world.task(small("tiny"), world.targets)
    for module in ("encoders.latent_task", "learning.responses"):
        monkeypatch.setattr(f"braindecode_suite.{module}.PRELOAD_BYTES", 0)
    lazy = world.task(small("tiny"), world.targets)
    assert lazy.responses[0].values is None
    assert lazy.latents["init"].values is None
    items = np.arange(40)
    ours = kept.loss(items, moment(0))
    theirs = lazy.loss(items, moment(0))
    torch.manual_seed(0)
    batches = [task.draw(items, torch.Generator().manual_seed(5)) for task in (kept, lazy)]
    assert batches[0][1] == batches[1][1]
    for a, b in zip(batches[0][0], batches[1][0], strict=True):
        assert_allclose(a, b, atol=1e-6)
    assert ours.keys() == theirs.keys()
    for a, b in zip(kept.targets(["3", "70"]).values(), lazy.targets(["3", "70"]).values(), strict=True):
        assert_allclose(a, b, atol=1e-6)


def test_the_linear_start_is_ridge(world: World, tmp_path: Path) -> None:
    context = FitContext(work_dir=tmp_path)
    config = small("tiny", epochs=1, learning_rate=1e-9)
    deep = (
        MindEyeEncoder(config, context).fit(world.train, world.validation, world.targets).predict(world.test)
    )
    ridge = ENCODERS["ridge"]
    linear_config = ridge.preset("default").model_copy(update={"alphas": config.ridge_alphas})
    linear = (
        ridge(linear_config, context).fit(world.train, world.validation, world.targets).predict(world.test)
    )
    for role in ("retrieval", "init"):
        a, b = deep[role].flat, linear[role].flat
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97


def test_it_learns_beyond_a_linear_start(tmp_path: Path) -> None:
    latents = make_latents(700, 1, 16, rank=16)
    study = make_study(latents, n_units=150, ncsnr=0.4, curvature=3.0)
    target = TableTarget("clip", latents)
    spans = [Cohort.of(study, rows_of(study, a, b)) for a, b in pairwise_spans(0, 450, 550, 700)]
    tiny = PRESETS["tiny"]
    training = tiny.training.model_copy(update={"epochs": 10, "batch_size": 50})
    config = tiny.model_copy(update={"training": training, "prior": None})
    encoder = MindEyeEncoder(config, FitContext(work_dir=tmp_path)).fit(
        spans[0], spans[1], {"retrieval": target}
    )
    first, best = encoder.history_[0], encoder.history_[encoder.best_epoch_]
    assert best["validation_information"] > first["validation_information"] + 0.005
    predicted = encoder.predict(spans[2])["retrieval"].mean_by_stimulus()
    true = target.embed(spans[2].stimuli, list(predicted.ids)).values - latents.mean(axis=0)
    scores = retrieval_scores(torch.from_numpy(predicted.values), torch.from_numpy(true), list(predicted.ids))
    assert scores["top1"] > 0.2


def test_an_interrupted_fit_ends_as_the_uninterrupted_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("tiny", checkpoint_seconds=0, epochs=3)

    def fit(folder: str) -> MindEyeEncoder:
        encoder = MindEyeEncoder(config, FitContext(work_dir=tmp_path / folder))
        return encoder.fit(world.train, world.validation, world.targets)

    whole = fit("whole")
    loss = MindEyeTask.loss

    def cut(self: MindEyeTask, items: np.ndarray, when: Moment) -> dict[str, torch.Tensor]:
        if when.epoch == 2:
            raise KeyError("the machine is switched off")
        return loss(self, items, when)

    monkeypatch.setattr(MindEyeTask, "loss", cut)
    with pytest.raises(KeyError, match="switched off"):
        fit("cut")
    monkeypatch.setattr(MindEyeTask, "loss", loss)
    resumed = fit("cut")
    assert resumed.resumed_from_ == 2
    for role, latents in whole.predict(world.test).items():
        assert_allclose(resumed.predict(world.test)[role].values, latents.values, atol=1e-6)


def test_samples_depend_on_seed_and_image_but_not_on_the_batch(world: World, tmp_path: Path) -> None:
    encoder = MindEyeEncoder(small("tiny", epochs=1), FitContext(work_dir=tmp_path))
    encoder.fit(world.train, world.validation, world.targets)
    cohort = Cohort.of(world.studies[0], world.test.rows[0])
    whole, other = encoder.predict(cohort, seed=0), encoder.predict(cohort, seed=1)
    assert np.abs(whole["image"].values - other["image"].values).max() > 1e-3
    assert_array_equal(whole["retrieval"].values, other["retrieval"].values)
    part = encoder.predict(Cohort.of(world.studies[0], world.test.rows[0][5:6]), seed=0)
    assert_allclose(part["image"].values[0], whole["image"].values[5], atol=1e-5)
    assert noise_seed(0, 0, "7") == noise_seed(0, 0, "7") != noise_seed(0, 0, "8")


def test_what_departs_from_the_paper_is_said() -> None:
    assert PRESETS["paper"].departures() == []
    assert any("ridge" in words for words in PRESETS["tiny"].departures())


def test_the_papers_preset_needs_retrieval_alone(tmp_path: Path) -> None:
    world = World(tokens=3)
    encoder = MindEyeEncoder(small("paper", epochs=1), FitContext(work_dir=tmp_path))
    encoder.fit(world.train, world.validation, {"retrieval": world.targets["retrieval"]})
    assert encoder.network_.prior is not None
    latents = encoder.predict(world.test)
    assert set(latents) == {"retrieval"}
    assert latents["retrieval"].values.shape[1:] == (3, 8)


@pytest.mark.parametrize("name", ["ridge", "mindeye"])
def test_a_checkpoint_of_another_target_is_refused_naming_both(
    world: World, tmp_path: Path, name: str
) -> None:
    config = (
        small("tiny", epochs=1).model_copy(update={"prior": None})
        if name == "mindeye"
        else ENCODERS[name].preset("default")
    )
    targets = {"retrieval": world.targets["retrieval"]}
    ENCODERS[name](config, FitContext(work_dir=tmp_path)).fit(world.train, world.validation, targets).save(
        tmp_path / "m"
    )
    ENCODERS[name].load(tmp_path / "m", targets=targets)
    with pytest.raises(InputError, match="role 'retrieval': 'clip'; found 'other'"):
        ENCODERS[name].load(tmp_path / "m", targets={"retrieval": world.other})


@pytest.mark.parametrize(
    ("change", "roles", "message"),
    [
        ({}, ("image",), "a target of role 'retrieval'; found image"),
        ({"prior": None}, ("retrieval", "image"), "a prior for the role 'image'"),
        ({"low_level": None}, ("retrieval", "init"), "a low-level branch for the role 'init'"),
    ],
)
def test_roles_that_the_config_cannot_serve_are_refused(
    world: World, tmp_path: Path, change: dict, roles: tuple[str, ...], message: str
) -> None:
    encoder = MindEyeEncoder(small("tiny").model_copy(update=change), FitContext(work_dir=tmp_path))
    with pytest.raises(InputError, match=message):
        encoder.fit(world.train, world.validation, {role: world.targets[role] for role in roles})


def test_without_validation_rows_nothing_is_fitted(world: World, tmp_path: Path) -> None:
    empty = Cohort(world.studies, (np.empty(0, int), np.empty(0, int)))
    with pytest.raises(InputError, match="validation rows to stop on; found none"):
        MindEyeEncoder(small("tiny"), FitContext(work_dir=tmp_path)).fit(world.train, empty, world.targets)


def test_the_state_is_parted_by_subject_and_joined_again(world: World) -> None:
    network = world.task(small("tiny"), world.targets | {"image": world.other}).network
    state = network.state_dict()
    shared, own = split_state(state, 2)
    assert len(own[0]) == len(own[1]) == 8  # input layer, three linear paths: weight and bias each
    assert all(30 in value.shape or value.ndim == 1 for value in own[0].values())
    assert not any("subjects" in key for key in shared)
    joined = join_state(shared, own)
    assert joined.keys() == state.keys()
    assert all(torch.equal(joined[key], state[key]) for key in state)


def test_subjects_are_predicted_by_their_own_layers(world: World) -> None:
    network = world.task(small("tiny"), world.targets).network.eval()
    x, y = np.random.default_rng(0).standard_normal((2, 5, 30)).astype(np.float32)
    y = y[:, :20]
    both = network([torch.from_numpy(x), torch.from_numpy(y)])
    assert_allclose(
        predict_rows(network, 1, y, "cpu").projected.detach(), both.projected[5:].detach(), atol=1e-5
    )


def test_the_validation_score_is_the_exact_expectation_over_galleries() -> None:
    torch.manual_seed(0)
    true = torch.randn(150, 1, 6)
    predicted = true + 1.5 * torch.randn(150, 1, 6)
    scores = retrieval_scores(predicted, true, [str(i) for i in range(150)])
    p, t = (predicted - predicted.mean(dim=0)).flatten(1), true.flatten(1)
    similarity = torch.nn.functional.cosine_similarity(p[:, None], t[None], dim=2)
    above = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    expected = np.mean([comb(149 - int(r), 99) / comb(149, 99) for r in above])
    assert scores["top1"] == pytest.approx(expected, abs=1e-6)
    assert 0 < scores["information"] < 1
    chance = retrieval_scores(torch.randn(150, 1, 6), true, [str(i) for i in range(150)])
    assert chance["information"] < 0.02


def test_an_image_of_two_subjects_stands_once_in_the_gallery() -> None:
    torch.manual_seed(0)
    true = torch.randn(20, 1, 6)
    twice = torch.cat([true, true])
    scores = retrieval_scores(twice, twice, [str(i) for i in range(20)] * 2)
    assert scores["top1"] == pytest.approx(1.0)

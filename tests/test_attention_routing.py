"""The attention-routing encoder: what it recovers, what it looks at, how members are weighted, what it is trained on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.features import Grid
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders import attention_routing
from braindecode_suite.encoders.attention_routing import AttentionRouting
from braindecode_suite.encoders.attention_routing_config import PRESETS, AttentionRoutingConfig
from braindecode_suite.encoders.attention_routing_task import (
    RoutingTask,
    TrainingResponses,
    fit_token_statistics,
    held_out_r,
)
from braindecode_suite.learning.ensembles import softmax_weights
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.responses import ImageRows, fit_scaler, image_means
from braindecode_suite.learning.ridge import ridge_cv
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.routing import RoutingNetwork
from braindecode_suite.learning.synthetic import (
    TableFeatures,
    make_latents,
    make_routed_study,
    make_study,
    rows_of,
)
from braindecode_suite.learning.training import Moment
from braindecode_suite.metrics.encoding import encoding_r


def tiny(**changes: Any) -> AttentionRoutingConfig:
    config = PRESETS["tiny"]
    training, network = changes.pop("training", {}), changes.pop("network", {})
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "network": config.network.model_copy(update=network),
            **changes,
        }
    )


def cohort(study: Any, first: int, last: int) -> Cohort:
    return Cohort.of(study, rows_of(study, first, last))


# ----------------------------------------------------------------------------------------------------- recovery


@pytest.fixture(scope="module")
def routed() -> Any:
    return make_routed_study(500)


@pytest.fixture(scope="module")
def recovered(routed: Any, tmp_path_factory: pytest.TempPathFactory) -> AttentionRouting:
    config = tiny(network={"width": 32, "heads": 4, "feed_forward": 32}, training={"epochs": 60})
    model = AttentionRouting(config, FitContext(work_dir=tmp_path_factory.mktemp("recovery")))
    return model.fit(cohort(routed.study, 0, 340), cohort(routed.study, 340, 400), [routed.features])


def test_routing_beats_any_fixed_pooling_where_content_decides(
    routed: Any, recovered: AttentionRouting
) -> None:
    table = routed.features.table.latents
    truth = routed.study.read(np.arange(400, 500))
    r = encoding_r(truth, recovered.predict({"tokens": table[400:]}))
    place, content = (routed.study.space.rois[name] for name in ("place", "content"))
    assert r[place].mean() > 0.75
    assert r[content].mean() > 0.75
    for pooled in (table.mean(axis=1), table.max(axis=1), table.reshape(500, -1)):
        fit = ridge_cv(pooled[:400], routed.study.read(np.arange(400)), folds=group_folds(np.arange(400), 5))
        rival = encoding_r(truth, fit.predict(pooled[400:]))
        assert r[content].mean() > rival[content].mean() + 0.3


def test_its_maps_lie_on_what_the_regions_look_at(routed: Any, recovered: AttentionRouting) -> None:
    maps = recovered.attention({"tokens": routed.features.table.latents[400:]})
    assert recovered.query_names() == ("place", "content")
    assert maps.shape == (100, 2, 25)
    truth = routed.marked[400:]
    assert (maps[:, 0].argmax(axis=1) == routed.fixed).mean() > 0.95
    assert (maps[:, 1].argmax(axis=1) == truth).mean() > 0.9
    assert maps[np.arange(100), 1, truth].mean() > 10 / 25  # chance: 1 / 25
    mean_map = maps.mean(axis=0)
    variance = np.var(maps, axis=0).sum(axis=1) / np.var(maps, axis=(0, 2)) / 25
    assert variance[0] < 0.1 < 0.5 < variance[1]  # location against content
    assert mean_map[0, routed.fixed] > mean_map[1].max()


def test_maps_are_given_per_head_and_from_images(routed: Any, recovered: AttentionRouting) -> None:
    ids = ["3", "7", "255"]
    features = {"tokens": routed.features.rows(routed.study.stimuli, ids)}
    heads = recovered.attention(features, per_head=True)
    assert heads.shape == (3, 4, 2, 25)
    assert_allclose(heads.sum(axis=-1), 1, atol=1e-5)
    assert_allclose(heads.mean(axis=1), recovered.attention(features), atol=1e-6)
    from_images = recovered.attention(routed.study.stimuli.images(ids))
    assert_allclose(from_images, recovered.attention(features), atol=1e-3)
    assert recovered.attention({"tokens": features["tokens"][:0]}).shape == (0, 2, 25)
    with pytest.raises(InputError, match="`layer`: expected one of 1; found 1"):
        recovered.attention(features, layer=1)
    with pytest.raises(UnknownName, match="`source`: expected one of tokens; found 'others'"):
        recovered.attention(features, source="others")


# ----------------------------------------------------------------------------------------------------- ensembles


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two sources of features, each explaining the units of one region; an ensemble of two seeds each."""
    rng = np.random.default_rng(0)
    tables = rng.standard_normal((2, 240, 4, 16))
    parts = [2 * table.mean(axis=1) @ rng.standard_normal((16, 20)) / 4 for table in tables]
    responses = np.concatenate(parts, axis=1) + 0.1 * rng.standard_normal((240, 40))
    routed = make_routed_study(240)
    study = replace(routed.study, responses=responses.astype(np.float32))
    features = [TableFeatures(name, table, Grid(2, 2)) for name, table in zip("ab", tables, strict=True)]
    config = tiny(
        n_seeds=2,
        network={"width": 16, "heads": 4, "feed_forward": 16},
        training={"epochs": 15, "batch_size": 16},
    )
    seen: list[Any] = []
    weighed: list[np.ndarray] = []
    patch = pytest.MonkeyPatch()

    class Spy(RoutingTask):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.append((self.held_out, self.held_out_features))

    def spied_weights(scores: np.ndarray, temperature: float) -> np.ndarray:
        weighed.append(scores)
        return softmax_weights(scores, temperature)

    patch.setattr(attention_routing, "RoutingTask", Spy)
    patch.setattr(attention_routing, "softmax_weights", spied_weights)
    context = FitContext(work_dir=tmp_path_factory.mktemp("two-layers"))
    model = AttentionRouting(config, context).fit(cohort(study, 0, 180), cohort(study, 180, 210), features)
    patch.undo()
    return {"model": model, "study": study, "features": features, "stopping": seen, "scores": weighed}


def test_each_unit_listens_to_the_layer_that_explains_it(two_layers: dict[str, Any]) -> None:
    weights = two_layers["model"]._models["01"].weights
    assert weights.shape == (2, 40)
    assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    assert weights[0, :20].mean() > 0.95
    assert weights[1, 20:].mean() > 0.95


def test_what_weighs_has_not_stopped_the_training(two_layers: dict[str, Any]) -> None:
    model, study, features = (two_layers[k] for k in ("model", "study", "features"))
    table = features[0].table.latents[180:210]
    stopping = two_layers["stopping"][0][1]
    assert len(two_layers["stopping"]) == 4
    assert len(stopping) == 15
    stopped = [k for k in range(30) if any(np.array_equal(table[k], row) for row in stopping)]
    assert len(stopped) == 15
    others = np.array([180 + k for k in range(30) if k not in stopped])
    images = ImageRows.of(study, others)
    fitted = model._models["01"]
    truth = image_means(study, images, fitted.scaler)
    for k, source in enumerate(features):
        z = model._average(fitted.networks[source.name], source.rows(study.stimuli, list(images.ids)))
        assert_allclose(two_layers["scores"][0][k], held_out_r(z, truth), atol=1e-6)


def test_a_prediction_is_the_weighted_mean_of_layers_whose_seeds_are_averaged(
    two_layers: dict[str, Any],
) -> None:
    model, features = two_layers["model"], two_layers["features"]
    fitted = model._models["01"]
    rows = {source.name: source.table.latents[200:] for source in features}
    by_source = [
        np.mean([network(_tensor(rows[name])).detach().numpy() for network in networks], axis=0)
        for name, networks in fitted.networks.items()
    ]
    z = (fitted.weights * np.stack(by_source, axis=1)).sum(axis=1)
    expected = z / fitted.scaler.gain + fitted.scaler.mean
    assert_allclose(model.predict(rows), expected, atol=1e-4)
    first, second = fitted.networks["a"]
    assert not np.allclose(first.block.queries.detach(), second.block.queries.detach(), atol=1e-3)


def test_maps_of_several_layers_are_asked_for_by_name(two_layers: dict[str, Any]) -> None:
    model = two_layers["model"]
    rows = {source.name: source.table.latents[:4] for source in two_layers["features"]}
    with pytest.raises(InputError, match="`source`: expected one of a, b; found none"):
        model.attention(rows)
    maps = model.attention({"b": rows["b"]}, source="b")
    each = [
        n.attention(_tensor(rows["b"])).detach().numpy().mean(axis=1)
        for n in model._models["01"].networks["b"]
    ]
    assert_allclose(maps, np.mean(each, axis=0), atol=1e-6)


def test_the_history_tells_networks_apart(two_layers: dict[str, Any]) -> None:
    history = two_layers["model"].history_
    assert {(row["source"], row["member"]) for row in history} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert all({"subject", "epoch", "validation_score"} <= set(row) for row in history)


def test_too_few_validation_images_are_refused(two_layers: dict[str, Any], tmp_path: Path) -> None:
    study, features = two_layers["study"], two_layers["features"]
    model = AttentionRouting(tiny(), FitContext(work_dir=tmp_path))
    with pytest.raises(InputError, match="`validation`: expected at least 6 images; found 5"):
        model.fit(cohort(study, 0, 180), cohort(study, 180, 185), features)
    with pytest.raises(InputError, match="`validation`: expected at least 3 images; found 2"):
        model.fit(cohort(study, 0, 180), cohort(study, 180, 182), features[:1])


def _tensor(rows: np.ndarray) -> Any:
    return torch.from_numpy(np.asarray(rows, np.float32))


# ------------------------------------------------------------------------------------------------------ training


@pytest.fixture
def trained_on() -> Any:
    study = make_study(make_latents(20, 1, 8), n_units=6, n_repeats=3)
    images = ImageRows.of(study, rows_of(study, 0, 12))
    return study, images, fit_scaler(study, images, weight_by_signal=False)


def test_items_are_means_over_repeats_or_single_trials(trained_on: Any) -> None:
    study, images, scaler = trained_on
    modelled = scaler.gain > 0
    means = TrainingResponses(study, images, scaler, modelled, "mean")
    assert len(means) == 12
    assert_allclose(
        means.read(np.array([5, 2])), image_means(study, images, scaler)[[5, 2]][:, modelled], atol=1e-6
    )
    each = TrainingResponses(study, images, scaler, modelled, "each")
    assert len(each) == 36
    assert_array_equal(np.bincount(each.image), 3)
    trials = np.concatenate(images.rows)
    assert_allclose(each.read(np.arange(36)), scaler.apply(study.read(trials))[:, modelled], atol=1e-6)
    assert_array_equal(images.ids[each.image], study.stimulus_ids[trials])


def test_the_loss_is_the_mean_squared_error_in_z_scores(trained_on: Any) -> None:
    study, images, scaler = trained_on
    modelled = scaler.gain > 0
    features = np.random.default_rng(0).standard_normal((12, 4, 16)).astype(np.float16)
    network = RoutingNetwork(
        Routes(("a",), np.where(modelled, 0, -1)),
        Grid(2, 2),
        16,
        tiny(network={"width": 16, "standardise": False}).network,
    )
    responses = TrainingResponses(study, images, scaler, modelled, "mean")
    task = RoutingTask(network, responses, features, responses.read(np.arange(12)), features, "cpu")
    items = np.array([7, 1, 4])
    predicted = network(_tensor(features[items])).detach().numpy()
    expected = np.square(predicted - image_means(study, images, scaler)[items][:, modelled]).mean()
    assert float(task.loss(items, Moment(0, 0.0, torch.Generator()))["loss"].detach()) == pytest.approx(
        expected, rel=1e-5
    )
    every = network(_tensor(features)).detach().numpy()
    r = np.nanmean(encoding_r(responses.read(np.arange(12)), every))
    assert task.validate()["score"] == pytest.approx(r, abs=1e-6)
    assert task.names(items) == [f"sub-01/{images.ids[k]}" for k in items]


def test_features_are_standardised_over_images_and_seen_tokens() -> None:
    seen = np.array([[True, True], [True, False]])
    grid = Grid(2, 2, seen=seen)
    features = np.random.default_rng(0).normal(3, 2, (50, 4, 16)).astype(np.float16)
    features[:, 3] = 100
    features[:, :, 5] = 7
    network = RoutingNetwork(Routes(("a",), np.zeros(2, int)), grid, 16, tiny(network={"width": 16}).network)
    fit_token_statistics(network, features, grid.mask)
    used = features[:, :3].astype(np.float64).reshape(-1, 16)
    assert_allclose(network.token_mean, used.mean(axis=0), rtol=1e-4)
    expected = np.where(np.arange(16) == 5, 0, 1 / np.maximum(used.std(axis=0), 1e-9))
    assert_allclose(network.token_gain, expected, rtol=1e-4)


def test_features_are_read_once_for_all_seeds(routed: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    class Counting(TableFeatures):
        def rows(self, stimuli: Any, ids: Any) -> np.ndarray:
            asked.extend(ids)
            return super().rows(stimuli, ids)

        def embed_images(self, images: np.ndarray) -> np.ndarray:
            raise AssertionError("features are cached")

    source = Counting("tokens", routed.features.table.latents, routed.features.grid)
    config = tiny(n_seeds=2, network={"width": 16, "heads": 2, "feed_forward": 16}, training={"epochs": 1})
    AttentionRouting(config, FitContext(work_dir=tmp_path)).fit(
        cohort(routed.study, 0, 40), cohort(routed.study, 40, 60), [source]
    )
    assert sorted(map(int, asked)) == list(range(60))


def test_other_responses_to_the_same_images_are_not_taken_for_a_run_to_go_on_with(
    routed: Any, tmp_path: Path
) -> None:
    config = tiny(network={"width": 16, "heads": 2, "feed_forward": 16}, training={"epochs": 2})
    shuffled = np.asarray(routed.study.responses).copy()
    shuffled[:40] = shuffled[:40][::-1]
    losses = []
    for study in (routed.study, replace(routed.study, responses=shuffled)):
        model = AttentionRouting(config, FitContext(work_dir=tmp_path))
        model.fit(cohort(study, 0, 40), cohort(study, 40, 60), [routed.features])
        losses.append(model.history_[-1]["train_loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("queries", ["units", "hemispheres"])
def test_other_queries_are_fitted_saved_and_loaded(routed: Any, tmp_path: Path, queries: str) -> None:
    study = routed.study
    half = np.arange(study.n_units) % 2 == 0
    space = UnitSpace(study.n_units, {**study.space.rois, "lh": half, "rh": ~half})
    study = replace(study, space=space)
    config = tiny(
        queries=queries, network={"width": 16, "heads": 2, "feed_forward": 16}, training={"epochs": 1}
    )
    model = AttentionRouting(config, FitContext(work_dir=tmp_path / "work")).fit(
        cohort(study, 0, 40), cohort(study, 40, 60), [routed.features]
    )
    assert len(model.query_names()) == {"units": 40, "hemispheres": 2}[queries]
    model.save(tmp_path / "model")
    loaded = AttentionRouting.load(tmp_path / "model")
    rows = {"tokens": routed.features.table.latents[:5]}
    assert_array_equal(loaded.predict(rows), model.predict(rows))
    assert_array_equal(loaded.attention(rows), model.attention(rows))


@pytest.mark.parametrize("overlap", ["mean", "sum"])
def test_overlapping_regions_and_padding_are_saved_and_loaded(
    routed: Any, tmp_path: Path, overlap: str
) -> None:
    study, seen = routed.study, np.ones((5, 5), bool)
    seen[4] = False
    both = {"place": study.space.rois["place"], "all": np.ones(study.n_units, bool)}
    study = replace(study, space=UnitSpace(study.n_units, both))
    source = TableFeatures("tokens", routed.features.table.latents, Grid(5, 5, seen=seen))
    config = tiny(
        overlap=overlap, network={"width": 16, "heads": 2, "feed_forward": 16}, training={"epochs": 1}
    )
    model = AttentionRouting(config, FitContext(work_dir=tmp_path / "work")).fit(
        cohort(study, 0, 40), cohort(study, 40, 60), [source]
    )
    model.save(tmp_path / "model")
    loaded = AttentionRouting.load(tmp_path / "model")
    rows = {"tokens": source.table.latents[:5]}
    assert (loaded.attention(rows)[..., 20:] == 0).all()
    assert_array_equal(loaded.predict(rows), model.predict(rows))


def test_studies_without_stimuli_are_refused(routed: Any, tmp_path: Path) -> None:
    study = replace(routed.study, stimuli=None)
    with pytest.raises(InputError, match="subject 01: expected stimuli; found unlabelled recordings"):
        AttentionRouting(tiny(), FitContext(work_dir=tmp_path)).fit(
            cohort(study, 0, 40), cohort(study, 40, 60), [routed.features]
        )


def test_the_papers_settings_are_as_published() -> None:
    paper = PRESETS["paper"]
    network, training = paper.network, paper.training
    assert (network.width, network.heads, network.n_layers, network.feed_forward) == (768, 16, 1, 1024)
    assert (training.learning_rate, training.weight_decay, training.gradient_clip) == (5e-4, 1e-4, 0.1)
    assert (training.epochs, training.batch_size, paper.overlap, paper.temperature) == (15, 16, "sum", 50.0)


@pytest.mark.filterwarnings("default::braindecode_suite.learning.ridge_warnings.RidgeWarning")  # a tiny study
def test_the_examples_of_the_guide_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(__file__).parents[1] / "docs" / "encoding.md"
    examples = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for kind in ("indoor", "outdoor"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        Image.new("RGB", (64, 64), "grey").save(tmp_path / "photos" / kind / "one.png")
    names: dict[str, Any] = {}
    for code in examples:
        exec(code, names)
    assert names["responses"].shape == (2, names["study"].n_units)
    assert names["maps"].shape == (2, len(names["model"].query_names()), 8, 8)
    assert AttentionRouting.load(tmp_path / "model").query_names() == names["model"].query_names()
    assert names["stack"].weights()
    assert names["predicted"].space.n_units == names["study"].n_units
    assert names["weights"].shape == (
        len(names["test"]),
        names["tokens"].tokens,
        len(names["reader"].region_names()),
    )

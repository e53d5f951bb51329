"""Each rival of attention routing against its closed form, scikit-learn or the plain sum that defines it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders import IMAGE_ENCODERS, receptive_field
from braindecode_suite.encoders.receptive_field import ReceptiveFieldConfig
from braindecode_suite.learning import kernel, regressors
from braindecode_suite.learning.factorised import FactorisedReadout
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.kernel import inner_products, kernel_coordinates
from braindecode_suite.learning.receptive_fields import candidate_fields, field_weights, pool_by_fields
from braindecode_suite.learning.regressors import FlatTokens, fit_regressors, pool_tokens
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.synthetic import NumberedStimuli, TableFeatures, rows_of
from braindecode_suite.learning.training import TrainingConfig

N_TRAIN, N_VALIDATION, N_IMAGES = 120, 30, 200
PADDED = np.array([[True, True, True, False]] * 3 + [[False] * 4])
GRID = Grid(4, 4, has_cls=True, seen=PADDED)  # 3 x 3 tokens on the image


@pytest.fixture(scope="module")
def tokens():
    """Tokens of 17 places, 5 features each of its own scale; what shows padding is wild."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((N_IMAGES, 17, 5)) * [0.3, 1, 3, 1, 10] + [0, 5, 0, -2, 1]
    tokens[:, ~GRID.mask] = 1e3 * rng.standard_normal((N_IMAGES, int((~GRID.mask).sum()), 5))
    tokens[:, :, 3] = 4  # a feature that never varies
    return tokens.astype(np.float32)


@pytest.fixture
def sources(tokens):
    return [TableFeatures("tokens", tokens, GRID)]


def make(signal, *, noise=1.0, n_repeats=2, seed=0):
    """A study of units that carry `signal` (images, units), z-scored, and noise."""
    rng = np.random.default_rng(seed)
    signal = (signal - signal.mean(axis=0)) / signal.std(axis=0)
    image = np.tile(np.arange(len(signal)), n_repeats)
    responses = 7 + 2 * signal[image] + 2 * noise * rng.standard_normal((len(image), signal.shape[1]))
    trials = pd.DataFrame({"stimulus_id": [str(k) for k in image]})
    for column in ("session", "run", "repeat"):
        trials[column] = np.repeat(np.arange(n_repeats), len(signal)) + 1
    trials["onset"] = np.arange(len(image), dtype=float)
    n = signal.shape[1]
    space = UnitSpace(n, {"even": np.arange(n) % 2 == 0, "odd": np.arange(n) % 2 == 1})
    return Study(
        dataset="synthetic",
        subject="01",
        responses=responses.astype(np.float32),
        trials=trials,
        stimuli=NumberedStimuli(len(signal)),
        space=space,
        unit="z-score",
    )


@pytest.fixture
def study(tokens):
    weights = np.random.default_rng(1).standard_normal((17 * 5, 6)) / 3
    weights[np.repeat(~GRID.mask, 5)] = 0
    return make((tokens / tokens.std(axis=(0, 1)).clip(1e-3)).reshape(N_IMAGES, -1) @ weights)


def fit(name, study, sources, tmp_path, **settings):
    cls = IMAGE_ENCODERS[name]
    config = cls.preset("tiny").model_copy(update=settings)
    train, held = rows_of(study, 0, N_TRAIN), rows_of(study, N_TRAIN, N_TRAIN + N_VALIDATION)
    context = FitContext(work_dir=tmp_path)
    return cls(config, context).fit(Cohort.of(study, train), Cohort.of(study, held), sources)


def means(study, first=0, last=N_TRAIN):
    """Mean responses to images by hand, (images, units)."""
    return np.stack([study.read(rows_of(study, k, k + 1)).mean(axis=0) for k in range(first, last)])


def by_scikit_learn(X, study, alphas, new):
    """Standardise, choose the penalty of each unit on folds, fit: scikit-learn, unit by unit.

    Returns predictions of `new` in the study's units, and the number of the penalty of each unit.
    """
    scaler = StandardScaler().fit(X)
    X, new, Y = scaler.transform(X), scaler.transform(new), means(study)
    folds = group_folds(np.arange(len(X)), 5)
    errors = np.zeros((len(alphas), Y.shape[1]))
    for k, alpha in enumerate(alphas):
        for fold in range(5):
            model = Ridge(alpha).fit(X[folds != fold], Y[folds != fold])
            errors[k] += np.square(model.predict(X[folds == fold]) - Y[folds == fold]).sum(axis=0)
    best = errors.argmin(axis=0)
    predicted = [Ridge(alphas[k]).fit(X, Y[:, unit]).predict(new) for unit, k in enumerate(best)]
    return np.stack(predicted, axis=1), best, errors.min(axis=0)


def mean_eigenvalue(X, n_dimensions):
    return np.square(StandardScaler().fit_transform(X)).sum() / n_dimensions


GRID_OF_PENALTIES = np.logspace(-5, 4, 19)


@pytest.mark.parametrize("pools", [("cls",), ("mean",), ("max",), ("min",), ("mean", "max", "min")])
def test_ridge_on_pooled_tokens_is_scikit_learns_on_the_same_columns(tokens, study, sources, tmp_path, pools):
    if pools == ("cls",):
        X, model = tokens[:, 0], fit("cls-ridge", study, sources, tmp_path)
    else:
        shown = tokens[:, 1:][:, PADDED.ravel()]
        X = np.concatenate([getattr(shown, pool)(axis=1) for pool in pools], axis=1)
        model = fit("pooled-ridge", study, sources, tmp_path, pools=pools)
    alphas = GRID_OF_PENALTIES * mean_eigenvalue(X[:N_TRAIN], X.shape[1])
    expected, _, _ = by_scikit_learn(X[:N_TRAIN], study, alphas, X[-20:])
    assert_allclose(model.predict({"tokens": tokens[-20:]}), expected, atol=2e-3)


def test_kernel_ridge_is_scikit_learns_ridge_on_all_tokens(tokens, study, sources, tmp_path):
    X = tokens[:, GRID.mask].reshape(N_IMAGES, -1)
    assert X.shape[1] == 50
    alphas = GRID_OF_PENALTIES * mean_eigenvalue(X[:N_TRAIN], 40)  # ten columns never vary
    expected, _, _ = by_scikit_learn(X[:N_TRAIN], study, alphas, X[-20:])
    model = fit("kernel-ridge", study, sources, tmp_path)
    assert_allclose(model.predict({"tokens": tokens[-20:]}), expected, atol=5e-3)
    assert np.corrcoef(expected.ravel(), means(study, 180, 200).ravel())[0, 1] > 0.5


def test_kernel_ridge_holds_with_more_regressors_than_images(study, tmp_path):
    wide = np.random.default_rng(2).standard_normal((N_IMAGES, 9, 40)).astype(np.float32)
    study = make(wide.reshape(N_IMAGES, -1) @ np.random.default_rng(3).standard_normal((360, 3)), noise=0.3)
    model = fit("kernel-ridge", study, [TableFeatures("tokens", wide, Grid(3, 3))], tmp_path)
    X = wide.reshape(N_IMAGES, -1)
    alphas = GRID_OF_PENALTIES * mean_eigenvalue(X[:N_TRAIN], N_TRAIN - 1)
    expected, best, _ = by_scikit_learn(X[:N_TRAIN], study, alphas, X[-20:])
    assert_allclose(model.predict({"tokens": wide[-20:]}), expected, atol=5e-3)
    assert len(set(best)) > 1 or best[0] not in (0, 18)


def test_inner_products_are_streamed_in_blocks_that_fit(tokens, monkeypatch):
    sizes = []

    class Watched:
        shape, dtype = tokens.shape, np.dtype(np.float16)

        def __len__(self):
            return len(tokens)

        def __getitem__(self, rows):
            part = tokens[rows].astype(np.float16)
            sizes.append(len(part))
            return part

    monkeypatch.setattr(kernel, "REGRESSORS_AT_ONCE", 7)
    monkeypatch.setattr(regressors, "BLOCK_BYTES", 17 * 50 * 4)
    flat = FlatTokens({"tokens": Watched()}, {"tokens": GRID.mask}).fit(standardise=True)
    X = tokens.astype(np.float16)[:, GRID.mask].reshape(N_IMAGES, -1).astype(np.float64)
    X = StandardScaler().fit_transform(X) / np.sqrt(40)
    products = inner_products(flat, block_bytes=17 * 50 * 4)
    assert max(sizes) <= 17
    assert_allclose(products, X @ X.T, atol=2e-6)
    assert_allclose(inner_products(flat, flat, block_bytes=13 * 50 * 4), X @ X.T, atol=2e-6)


def test_coordinates_have_the_same_inner_products_as_the_features():
    X = np.random.default_rng(0).standard_normal((20, 50))
    X -= X.mean(axis=0)
    Z, projection = kernel_coordinates(X @ X.T)
    assert Z.shape == (20, 19)
    assert_allclose(Z @ Z.T, X @ X.T, atol=1e-9)
    assert_allclose(X @ X.T @ projection, Z, atol=1e-9)


def test_sources_of_any_scale_and_width_count_the_same():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((100, 3)), 1e3 * rng.standard_normal((100, 30)) + 50]
    for standardise in (True, False):
        X = fit_regressors(parts, standardise=standardise).apply(np.concatenate(parts, axis=1))
        assert_allclose([X[:, :3].var(axis=0).sum(), X[:, 3:].var(axis=0).sum()], 1, rtol=1e-5)
    ratio = X[:, 3:].std(axis=0) / parts[1].std(axis=0)
    assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_the_scaler_of_streamed_tokens_is_that_of_columns(tokens):
    other = np.random.default_rng(0).standard_normal((N_IMAGES, 2, 3)).astype(np.float32)
    features, masks = {"a": tokens, "b": other}, {"a": GRID.mask, "b": np.ones(2, bool)}
    columns = [tokens[:, GRID.mask].reshape(N_IMAGES, -1), other.reshape(N_IMAGES, -1)]
    for standardise in (True, False):
        streamed = FlatTokens(features, masks).fit(standardise=standardise).scaler
        expected = fit_regressors(columns, standardise=standardise)
        assert_allclose(streamed.mean, expected.mean, rtol=1e-5, atol=1e-6)
        assert_allclose(streamed.gain, expected.gain, rtol=1e-4)


@pytest.mark.parametrize("name", ["pooled-ridge", "kernel-ridge", "receptive-field", "factorised"])
def test_what_shows_padding_changes_nothing(tokens, study, tmp_path, name):
    settings = {"training": TrainingConfig(epochs=2, batch_size=16)} if name == "factorised" else {}
    changed = tokens.copy()
    changed[:, ~GRID.mask] = 0
    predicted = [
        fit(name, study, [TableFeatures("tokens", table, GRID)], tmp_path / str(k), **settings).predict(
            {"tokens": table[-20:]}
        )
        for k, table in enumerate((tokens, changed))
    ]
    assert_allclose(predicted[0], predicted[1], atol=1e-6)


# ----------------------------------------------------------------------------------------------- receptive fields


def test_a_field_weighs_tokens_by_its_gaussian_over_the_image_that_is_seen():
    fields = np.array([[0.3, 0.6, 0.2], [0.9, 0.1, 0.05]])
    weights = field_weights(GRID, fields)
    for (x, y, sigma), row in zip(fields, weights, strict=True):
        expected = np.zeros((4, 4))
        for i in range(3):
            for j in range(3):
                square = ((j + 0.5) / 3 - x) ** 2 + ((i + 0.5) / 3 - y) ** 2
                expected[i, j] = np.exp(-square / (2 * sigma**2))
        assert_allclose(row[1:].reshape(4, 4), expected / expected.sum(), atol=1e-6)
        assert row[0] == 0
    assert_array_equal(
        field_weights(GRID, np.array([[0.5, 0.5, 1e-4]]))[0, 1:].reshape(4, 4)[1], [0, 1, 0, 0]
    )


def test_pooling_by_fields_is_the_weighted_sum_of_tokens(tokens):
    weights = field_weights(GRID, candidate_fields(2, [0.1, 0.3]))
    assert_allclose(
        pool_by_fields(tokens, weights), np.einsum("ft,itw->fiw", weights, tokens), rtol=1e-4, atol=1e-3
    )


@pytest.fixture
def retinotopic(tokens):
    """Units that each look through one of three fields, and which one."""
    config = ReceptiveFieldConfig(n_centres=3, sigmas=(0.1, 0.25))
    fields = candidate_fields(3, config.sigmas)
    own = np.array([0, 5, 13, 0, 5, 13])
    pooled = pool_by_fields(tokens, field_weights(GRID, fields))  # (fields, images, width)
    weights = np.random.default_rng(4).standard_normal((5, 6))
    signal = np.stack(
        [StandardScaler().fit_transform(pooled[f]) @ w for f, w in zip(own, weights.T, strict=True)], axis=1
    )
    return make(signal, noise=0.4), fields, own, pooled


def test_the_field_of_each_unit_is_found_and_its_weights_are_scikit_learns(
    tokens, sources, retinotopic, tmp_path, monkeypatch
):
    study, fields, own, pooled = retinotopic
    model = fit("receptive-field", study, sources, tmp_path, n_centres=3, sigmas=(0.1, 0.25))
    assert_allclose(model.receptive_fields(), fields[own])
    predicted = model.predict({"tokens": tokens[-20:]})
    scores = []
    for X in pooled:
        alphas = GRID_OF_PENALTIES * mean_eigenvalue(X[:N_TRAIN], 5)
        expected, _, error = by_scikit_learn(X[:N_TRAIN], study, alphas, X[-20:])
        scores.append(error)
        units = own == len(scores) - 1
        assert_allclose(predicted[:, units], expected[:, units], atol=2e-3)
    assert_array_equal(np.argmin(scores, axis=0), own)
    monkeypatch.setattr(receptive_field, "POOLED_BYTES", 1)  # one candidate at a time
    again = fit("receptive-field", study, sources, tmp_path, n_centres=3, sigmas=(0.1, 0.25))
    assert_array_equal(again.predict({"tokens": tokens[-20:]}), predicted)


def test_one_field_pools_maps_of_any_resolution(tmp_path):
    """The same image at 8 x 8 and 4 x 4 tokens: units look at one place in both."""
    rng = np.random.default_rng(0)
    fine = rng.standard_normal((N_IMAGES, 8, 8, 3)).astype(np.float32)
    coarse = fine.reshape(N_IMAGES, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    signal = fine[:, 2:4, 4:6].mean(axis=(1, 2)) @ rng.standard_normal((3, 4))
    sources = [
        TableFeatures("fine", fine.reshape(N_IMAGES, 64, 3), Grid(8, 8)),
        TableFeatures("coarse", coarse.reshape(N_IMAGES, 16, 3), Grid(4, 4)),
    ]
    model = fit(
        "receptive-field", make(signal, noise=0.3), sources, tmp_path, n_centres=4, sigmas=(0.08, 0.3)
    )
    assert_allclose(model.receptive_fields(), [[0.625, 0.375, 0.08]] * 4)


# ------------------------------------------------------------------------------------------------------ factorised


@pytest.mark.parametrize("mask", ["free", "positive", "softmax"])
def test_the_factorised_readout_is_the_double_sum_that_defines_it(tokens, mask):
    routes = Routes(("a", "b"), np.array([1, 0, -1, 1]))
    network = FactorisedReadout(routes, [GRID], [5], mask)
    with torch.no_grad():
        network.masks[0].weight.normal_()
        network.masks[0].token_mean.normal_()
        network.masks[0].token_gain.uniform_(0.5, 2)
    pooled = network.masks[0]
    raw = pooled.weight.detach().numpy().astype(np.float64)
    maps = {
        "free": raw / 9,
        "positive": np.abs(raw) / 9,
        "softmax": np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True),
    }[mask]
    x = (tokens[:4] - pooled.token_mean.numpy()) * pooled.token_gain.numpy()
    shown = np.flatnonzero(GRID.mask)[1:]
    units_of = {0: [1], 1: [0, 3]}
    expected = np.zeros((4, 4))
    for query, units in units_of.items():
        head = network.readout.heads[query]
        for row, unit in enumerate(units):
            a, b = head.weight[row].detach().numpy(), float(head.bias[row].detach())
            expected[:, unit] = b + sum(maps[query, t] * (x[:, token] @ a) for t, token in enumerate(shown))
    got = network([torch.from_numpy(tokens[:4])]).detach().numpy()
    assert_allclose(got, expected[:, [0, 1, 3]], rtol=1e-4, atol=1e-4)
    norms = network.penalties()
    assert_allclose(float(norms["masks"]), np.abs(maps).sum(axis=1).mean(), rtol=1e-5)
    every = np.concatenate([head.weight.detach().numpy() for head in network.readout.heads])
    assert_allclose(float(norms["features"]), np.abs(every).sum(axis=1).mean(), rtol=1e-5)


def test_units_with_a_mask_each_are_the_double_sum_over_all_sources(tokens):
    routes = Routes(("a", "b", "c"), np.array([2, -1, 0, 1]))
    network = FactorisedReadout(routes, [GRID, GRID], [5, 5], "free")
    with torch.no_grad():
        for mask in network.masks:
            mask.weight.normal_()
            mask.token_mean.normal_()
    shown = np.flatnonzero(GRID.mask)[1:]
    (head,) = network.readout.heads
    sources = [tokens[:4], tokens[4:8]]
    expected = np.zeros((4, 3))
    for place, query in enumerate((2, 0, 1)):  # units 0, 2 and 3
        expected[:, place] = float(head.bias[query].detach())
        for k, x in enumerate(sources):
            seen = (x[:, shown] - network.masks[k].token_mean.numpy()) @ head.weight[
                query, 5 * k : 5 * k + 5
            ].detach().numpy()
            expected[:, place] += seen @ network.masks[k].maps()[query].detach().numpy()
    got = network([torch.from_numpy(x) for x in sources]).detach().numpy()
    assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_on_a_single_token_without_penalties_it_is_least_squares(tmp_path):
    X = np.random.default_rng(0).standard_normal((N_IMAGES, 1, 4)).astype(np.float32)
    study = make(X[:, 0] @ np.random.default_rng(1).standard_normal((4, 3)), noise=0.5)
    training = TrainingConfig(epochs=120, batch_size=120, learning_rate=0.03, weight_decay=0, ema_decay=0)
    model = fit(
        "factorised",
        study,
        [TableFeatures("tokens", X, Grid(1, 1))],
        tmp_path,
        mask_penalty=0.0,
        feature_penalty=0.0,
        training=training,
    )
    expected = Ridge(1e-9).fit(X[:N_TRAIN, 0], means(study)).predict(X[-20:, 0])
    predicted = model.predict({"tokens": X[-20:]})
    assert (predicted - expected).std() < 0.05 * expected.std()


def test_masks_lie_where_units_look_and_the_penalty_makes_them_sparse(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_IMAGES, 9, 4)).astype(np.float32)
    places = np.array([2, 7])  # of even and of odd units
    weights = rng.standard_normal((6, 4))
    signal = np.stack([X[:, places[u % 2]] @ weights[u] for u in range(6)], axis=1)
    study, source = make(signal, noise=0.3), [TableFeatures("tokens", X, Grid(3, 3))]
    spread = {}
    for penalty in (0.0, 0.05):
        model = fit(
            "factorised",
            study,
            source,
            tmp_path,
            queries="rois",
            mask_penalty=penalty,
            training=TrainingConfig(
                epochs=60, batch_size=40, learning_rate=0.02, weight_decay=0, ema_decay=0
            ),
        )
        assert model.query_names() == ("even", "odd")
        maps = np.abs(model.masks("tokens"))
        assert_array_equal(maps.argmax(axis=1), places)
        spread[penalty] = 1 - (maps.max(axis=1) / maps.sum(axis=1)).mean()
        r = np.corrcoef(model.predict({"tokens": X[150:]}).ravel(), means(study, 150, 200).ravel())[0, 1]
        assert r > 0.8
    assert spread[0.05] < 0.7 * spread[0.0]


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_source_without_what_a_model_needs_is_left_out_or_refused(tokens, study, sources, tmp_path):
    plain = TableFeatures("plain", tokens[:, 1:10], Grid(3, 3))
    vector = TableFeatures("vector", tokens[:, :1], Grid(0, 0, has_cls=True))
    model = fit("cls-ridge", study, [*sources, plain, vector], tmp_path)
    assert list(model.facts_["targets"]) == ["tokens", "vector"]
    assert list(fit("pooled-ridge", study, [*sources, plain, vector], tmp_path).facts_["targets"]) == [
        "tokens",
        "plain",
    ]
    with pytest.raises(InputError, match="`features`: expected a source with a class token; found plain"):
        fit("cls-ridge", study, [plain], tmp_path)
    for name in ("pooled-ridge", "receptive-field", "factorised"):
        with pytest.raises(InputError, match="a source with tokens that lie on the image; found vector"):
            fit(name, study, [vector], tmp_path)
    with pytest.raises(InputError, match="`features`: expected a class token; found none"):
        pool_tokens(tokens[:, 1:10], Grid(3, 3), ["cls"])


def test_a_study_without_a_usable_unit_is_refused(study, sources, tmp_path):
    constant = replace(study, responses=np.ones_like(study.responses))
    with pytest.raises(InputError, match="a unit whose responses vary and are all there; found none"):
        fit("pooled-ridge", constant, sources, tmp_path)


def test_too_few_validation_images_to_stop_on_are_refused(study, sources, tmp_path):
    cls = IMAGE_ENCODERS["factorised"]
    train, held = Cohort.of(study, rows_of(study, 0, 50)), Cohort.of(study, rows_of(study, 50, 52))
    with pytest.raises(InputError, match="`validation`: expected at least 3 images; found 2"):
        cls(cls.preset("tiny"), FitContext(work_dir=tmp_path)).fit(train, held, sources)


def test_sizes_that_are_not_positive_are_refused():
    with pytest.raises(InputError, match=r"`sigmas`: expected positive sizes; found \[0.1, 0.0\]"):
        candidate_fields(2, [0.1, 0.0])

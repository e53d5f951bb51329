"""Retrieval and the nearest training image, against scikit-learn and against searching by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file
from sklearn.metrics.pairwise import cosine_similarity

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.protocols import Retriever
from braindecode_suite.decoders import nearest
from braindecode_suite.decoders.nearest import NearestTrain, TrainingIndex, read_training_index
from braindecode_suite.decoders.retrieval import CosineRetriever

KINDS = ("cosine", "cosine-centred", "csls")


def latents(n, kind, seed, prefix="s", target="space", shape=(2, 6)):
    values = np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32) + 1
    return Latents(values, np.array([f"{prefix}{k}" for k in range(n)], dtype=object), target, kind)


@pytest.fixture
def rows():
    return {
        "predicted": latents(30, "predicted", 0),
        "true": latents(25, "true", 1),
        "queries": latents(7, "predicted", 2, "q"),
        "gallery": latents(9, "true", 3, "g"),
    }


def test_raw_and_centred_cosine_equal_scikit_learn(rows):
    q, g = rows["queries"].flat.astype(float), rows["gallery"].flat.astype(float)
    fitted = {kind: CosineRetriever(kind).fit(rows["predicted"], rows["true"]) for kind in KINDS}
    raw = fitted["cosine"].similarity(rows["queries"], rows["gallery"])
    assert_allclose(raw, cosine_similarity(q, g), atol=1e-12)
    means = [rows[name].flat.astype(float).mean(axis=0) for name in ("predicted", "true")]
    centred = fitted["cosine-centred"].similarity(rows["queries"], rows["gallery"])
    assert_allclose(centred, cosine_similarity(q - means[0], g - means[1]), atol=1e-12)


def test_csls_equals_its_formula_with_hubs_of_the_rows_it_was_given(rows):
    q, g, p, t = (rows[name].flat.astype(float) for name in ("queries", "gallery", "predicted", "true"))
    around_q = np.sort(cosine_similarity(q, t), axis=1)[:, -10:].mean(axis=1)
    around_g = np.sort(cosine_similarity(g, p), axis=1)[:, -10:].mean(axis=1)
    expected = 2 * cosine_similarity(q, g) - around_q[:, None] - around_g
    found = (
        CosineRetriever("csls")
        .fit(rows["predicted"], rows["true"])
        .similarity(rows["queries"], rows["gallery"])
    )
    assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_ranking_is_by_falling_similarity(rows, kind):
    retriever = CosineRetriever(kind).fit(rows["predicted"], rows["true"])
    assert isinstance(retriever, Retriever)
    ranking = retriever.rank(rows["queries"], rows["gallery"])
    similarity = retriever.similarity(rows["queries"], rows["gallery"])
    assert list(ranking.queries) == list(rows["queries"].ids)
    assert (np.diff(ranking.scores, axis=1) <= 0).all()
    for row, ids in enumerate(ranking.ids):
        assert sorted(ids) == sorted(rows["gallery"].ids)
        assert ids[0] == rows["gallery"].ids[similarity[row].argmax()]
        assert_allclose(ranking.scores[row, 0], similarity[row].max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_ranks_the_same_whoever_stands_beside_it(rows, kind):
    retriever = CosineRetriever(kind).fit(rows["predicted"], rows["true"])
    alone = rows["queries"].select(["q4"])
    assert_allclose(
        retriever.similarity(alone, rows["gallery"])[0],
        retriever.similarity(rows["queries"], rows["gallery"])[4],
        atol=1e-12,
    )


def test_centring_removes_what_all_predictions_share():
    rng = np.random.default_rng(0)
    true = latents(200, "true", 5, shape=(1, 20))
    shrunk = 0.2 * (true.values - 1) + 0.05 * rng.standard_normal(true.values.shape) + 3 * np.arange(20) / 20
    predicted = Latents(shrunk.astype(np.float32), true.ids, "space", "predicted")
    train, test = true.ids[:100], true.ids[100:]
    first = {}
    for kind in ("cosine", "cosine-centred"):
        retriever = CosineRetriever(kind).fit(predicted.select(train), true.select(train))
        ranking = retriever.rank(predicted.select(test), true.select(test))
        first[kind] = (ranking.ids[:, 0] == ranking.queries).mean()
    assert first["cosine-centred"] > 0.95
    assert first["cosine"] < first["cosine-centred"]


def test_other_targets_and_wrong_kinds_are_refused(rows):
    other = latents(9, "true", 3, target="elsewhere")
    retriever = CosineRetriever().fit(rows["predicted"], rows["true"])
    with pytest.raises(InputError, match="expected one target space, 'space'; found also 'elsewhere'"):
        retriever.rank(rows["queries"], other)
    both = Latents(rows["queries"].values, rows["queries"].ids, "elsewhere", "predicted")
    with pytest.raises(InputError, match="`queries`: expected latents of 'space'; found 'elsewhere'"):
        retriever.rank(both, other)
    with pytest.raises(InputError, match="expected predicted latents, then true ones"):
        CosineRetriever().fit(rows["true"], rows["predicted"])
    with pytest.raises(InputError, match=r"retriever 'csls': expected fit\(\) on training rows first"):
        CosineRetriever("csls").rank(rows["queries"], rows["gallery"])
    with pytest.raises(UnknownName, match="did you mean 'cosine-centred'"):
        CosineRetriever("cosine-centered")


def test_raw_cosine_needs_no_training_rows(rows):
    assert CosineRetriever("cosine").rank(rows["queries"], rows["gallery"]).ids.shape == (7, 9)


# ------------------------------------------------------------------------------------------- the nearest training image


def picture_of(name: str) -> np.ndarray:
    number = int(name.lstrip("s"))
    return np.full((4, 4, 3), number if name.startswith("s") else number - 1000, np.uint8)


def images_of(ids):
    return np.stack([picture_of(i) for i in ids])


@pytest.fixture
def index_file(tmp_path):
    rng = np.random.default_rng(8)
    embeddings = rng.integers(-127, 128, (300, 12), dtype=np.int8)
    file = tmp_path / "training_index.safetensors"
    scale = np.full(12, 0.02, np.float32)
    save_file({"seeds": np.arange(1000, 1300), "embeddings": embeddings, "scale": scale}, file)
    return file


def test_the_nearest_training_image_is_found_and_shown():
    train = latents(40, "true", 1, shape=(1, 12))
    predicted = latents(6, "predicted", 2, "q", shape=(1, 12))
    found = NearestTrain(CosineRetriever("cosine"), train, images_of).find(predicted)
    rows = cosine_similarity(predicted.flat, train.flat).argmax(axis=1)
    assert list(found.ids) == [f"s{row}" for row in rows]
    assert set(found.source) == {"study"}
    assert_array_equal(found.images[:, 0, 0, 0], rows)


def test_the_generators_own_training_images_are_searched_too(index_file, monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 64)
    train = latents(20, "true", 1, shape=(1, 12))
    predicted = latents(30, "predicted", 2, "q", shape=(1, 12))
    index = read_training_index(index_file, "space")
    drawn = []

    def redraw(seeds):
        drawn.extend(seeds)
        return images_of([str(seed) for seed in seeds])

    found = NearestTrain(CosineRetriever("cosine"), train, images_of, index, redraw).find(predicted)
    own = index.embeddings.astype(float) * 0.02
    similarity = cosine_similarity(predicted.flat, np.concatenate([train.flat, own]))
    rows = similarity.argmax(axis=1)
    assert list(found.ids) == [f"s{row}" if row < 20 else str(1000 + row - 20) for row in rows]
    assert list(found.source) == ["study" if row < 20 else "generator" for row in rows]
    assert set(found.source) == {"study", "generator"}
    assert_allclose(found.similarity, similarity.max(axis=1), atol=1e-6)
    assert_array_equal(found.images[:, 0, 0, 0], [row if row < 20 else row - 20 for row in rows])
    assert drawn == [1000 + row - 20 for row in rows if row >= 20]


@pytest.mark.parametrize("shape", [(), (300,), (12,), (300, 1)])
def test_an_index_may_be_scaled_as_a_whole_by_image_or_by_feature(index_file, tmp_path, shape):
    scale = np.random.default_rng(0).uniform(0.01, 0.02, shape).astype(np.float32)
    plain = read_training_index(index_file, "space")
    file = tmp_path / "scaled.safetensors"
    save_file({"seeds": plain.seeds, "embeddings": plain.embeddings, "scale": np.asarray(scale)}, file)
    by = scale[:, None] if shape == (300,) else scale
    found = read_training_index(file, "space").latents(slice(5, 9))
    assert_allclose(found.values[:, 0], (plain.embeddings * by)[5:9], rtol=1e-6)
    assert list(found.ids) == ["1005", "1006", "1007", "1008"]


def test_an_index_of_another_target_is_refused(index_file):
    train = latents(5, "true", 1, shape=(1, 12))
    index = read_training_index(index_file, "elsewhere")
    search = NearestTrain(CosineRetriever("cosine"), train, images_of, index, images_of)
    with pytest.raises(InputError, match="expected one target space"):
        search.find(latents(3, "predicted", 2, shape=(1, 12)))


def test_bad_searches_are_refused(index_file, tmp_path):
    train = latents(5, "true", 1)
    index = TrainingIndex(np.arange(3), np.zeros((3, 12), np.int8), np.ones((3, 12), np.float32), "space")
    with pytest.raises(InputError, match="expected both or neither; found an index that cannot be drawn"):
        NearestTrain(CosineRetriever("cosine"), train, images_of, index)
    with pytest.raises(InputError, match="expected true latents of training images"):
        NearestTrain(CosineRetriever("cosine"), latents(5, "predicted", 1), images_of)
    with pytest.raises(InputError, match="an index of a generator's training images; found nothing there"):
        read_training_index(tmp_path / "none.safetensors", "space")
    file = tmp_path / "other.safetensors"
    save_file({"seeds": np.arange(3)}, file)
    with pytest.raises(
        InputError, match="expected safetensors with seeds, embeddings and scale; found 'embeddings'"
    ):
        read_training_index(file, "space")
    file.write_bytes(b"x" * 40)
    with pytest.raises(InputError, match="expected safetensors with seeds, embeddings and scale"):
        read_training_index(file, "space")

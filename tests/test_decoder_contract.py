"""One contract over every entry of the decoders' catalogues."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.protocols import Generator, Retriever
from braindecode_suite.decoders import DECODERS, GENERATORS
from braindecode_suite.decoders.retrieval import CosineRetriever

PRETRAINED = ("tiny-kandinsky", "kandinsky-2-2")
"""Generators that are loaded and draw from an open_clip embedding; others of the catalogue are fitted to a study."""


def latents(n, kind, target, shape=(1, 16), seed=0, prefix="s"):
    values = np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)
    return Latents(values, np.array([f"{prefix}{k}" for k in range(n)], dtype=object), target, kind)


@pytest.mark.parametrize("registry", [DECODERS, GENERATORS], ids=lambda registry: registry.kind)
def test_every_entry_is_documented(registry):
    assert len(registry)
    for name in registry:
        text = inspect.getdoc(registry[name]) or ""
        assert len(text.split(".")[0]) > 15, name


@pytest.mark.parametrize("registry", [DECODERS, GENERATORS], ids=lambda registry: registry.kind)
def test_names_are_lower_case_with_hyphens_and_unknown_ones_are_refused(registry):
    for name in registry:
        assert name == name.lower()
        assert "_" not in name
        assert registry.resolve(name.replace("-", "_")) == name
    with pytest.raises(UnknownName, match=f"{registry.kind}: expected one of"):
        registry["no-such-entry"]


# ------------------------------------------------------------------------------------------------- retrievers

RETRIEVERS = [name for name in DECODERS if hasattr(DECODERS[name], "rank")]


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_retriever_finds_the_truth_where_predictions_are_true(name):
    true, test = latents(40, "true", "space", seed=1), latents(12, "true", "space", seed=2, prefix="t")
    seen = Latents(true.values, true.ids, "space", "predicted")
    retriever = DECODERS[name]().fit(seen, true)
    assert isinstance(retriever, Retriever)
    ranking = retriever.rank(Latents(test.values, test.ids, "space", "predicted"), test)
    assert list(ranking.ids[:, 0]) == list(test.ids)
    assert ranking.scores.shape == (12, 12)
    assert retriever.similarity(test, test).shape == (12, 12)


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_retriever_does_not_change_what_it_is_given_and_repeats_itself(name):
    true, queries = latents(40, "true", "space", seed=1), latents(5, "predicted", "space", seed=2)
    before = true.values.copy(), queries.values.copy()
    retriever = DECODERS[name]().fit(latents(40, "predicted", "space", seed=3), true)
    first, second = (retriever.rank(queries, true) for _ in range(2))
    assert_array_equal(first.ids, second.ids)
    assert_array_equal(first.scores, second.scores)
    assert_array_equal(before[0], true.values)
    assert_array_equal(before[1], queries.values)


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_retriever_refuses_another_target(name):
    retriever = DECODERS[name]().fit(latents(40, "predicted", "space"), latents(40, "true", "space"))
    with pytest.raises(InputError, match="expected one target space"):
        retriever.rank(latents(3, "predicted", "space"), latents(3, "true", "elsewhere"))


def test_the_nearest_training_image_of_a_true_training_latent_is_itself():
    train = latents(15, "true", "space", seed=1)
    pictures = {i: np.full((2, 2, 3), k, np.uint8) for k, i in enumerate(train.ids)}
    search = DECODERS["nearest-train"](
        CosineRetriever("cosine"), train, lambda ids: np.stack([pictures[i] for i in ids])
    )
    found = search.find(Latents(train.values[::-1].copy(), train.ids[::-1], "space", "predicted"))
    assert list(found.ids) == list(train.ids[::-1])
    assert_allclose(found.similarity, 1, atol=1e-6)
    assert_array_equal(found.images[:, 0, 0, 0], np.arange(15)[::-1])


# ------------------------------------------------------------------------------------------------- generators


@pytest.fixture
def generator(request, kandinsky_folder, open_clip_folder, tmp_path, monkeypatch):
    from braindecode_suite.decoders import generators

    source = generators.find_open_clip(str(open_clip_folder))
    monkeypatch.setattr(generators, "find_open_clip", lambda name, weights: source)
    return GENERATORS[request.param](tmp_path / "cache", kandinsky_folder)


@pytest.mark.parametrize("generator", PRETRAINED, indirect=True)
def test_a_generator_draws_one_uint8_image_a_row_the_same_for_the_same_seed(generator):
    assert isinstance(generator, Generator)
    assert generator.name
    assert list(generator.inputs) == ["image"]
    given = {"image": latents(3, "predicted", generator.inputs["image"])}
    first = generator.generate(given, [1, 2, 3])
    assert first.dtype == np.uint8
    assert first.shape == (3, generator.config.size, generator.config.size, 3)
    assert_array_equal(first, generator.generate(given, [1, 2, 3]))
    assert (first != generator.generate(given, [4, 5, 6])).any()


@pytest.mark.parametrize("generator", PRETRAINED, indirect=True)
def test_a_generators_own_latent_space_is_a_target(generator, small_stimuli):
    target = generator.init_target
    assert isinstance(target, Target)
    true = target.embed(small_stimuli, small_stimuli.ids)
    assert true.values.shape == (6, target.tokens, target.width)
    assert generator.decode_init(true).shape == (6, generator.config.size, generator.config.size, 3)
    image = latents(6, "predicted", generator.inputs["image"])
    image = Latents(image.values, true.ids, image.target, "predicted")
    assert generator.generate({"image": image, "init": true}, range(6)).shape[0] == 6


@pytest.mark.parametrize("generator", PRETRAINED, indirect=True)
def test_a_generator_refuses_another_target(generator):
    with pytest.raises(InputError, match="role 'image': expected latents of"):
        generator.generate({"image": latents(2, "predicted", "elsewhere")}, [1, 2])
    with pytest.raises(InputError, match="expected the role 'image'"):
        generator.generate({}, [])


def test_every_pretrained_generator_is_in_the_catalogue():
    loaded = {
        name
        for name in GENERATORS
        if GENERATORS.where(name).startswith("braindecode_suite.decoders.generators:")
    }
    assert loaded == set(PRETRAINED)

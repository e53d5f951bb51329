"""Targets: names, shapes, one cached row per stimulus, captions."""

from __future__ import annotations

import shutil

import numpy as np
import open_clip
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core import networks
from braindecode_suite.core.embed import BLOCK, unique_ids
from braindecode_suite.core.errors import InputError, MissingWeights, UnknownName
from braindecode_suite.core.latents import Target, check_same_target
from braindecode_suite.encoders import TARGETS
from braindecode_suite.encoders.targets import make_target, split_name, target_name

KINDS = {"pooled": (1, 16), "patches": (16, 24), "tokens": (17, 16), "tokens-norm": (17, 16), "text": (1, 16)}


@pytest.fixture
def targets(open_clip_folder, tmp_path):
    return {
        kind: make_target(f"open-clip:{open_clip_folder}:{kind}", tmp_path / "cache")
        for kind in networks.KINDS
    }


@pytest.mark.parametrize("kind", networks.KINDS)
def test_every_kind_obeys_the_contract_of_a_target(targets, small_stimuli, kind):
    target = targets[kind]
    assert isinstance(target, Target)
    assert (target.tokens, target.width) == KINDS[kind]
    latents = target.embed(small_stimuli, ["im3", "im0", "im3", "im5"])
    assert list(latents.ids) == ["im3", "im0", "im5"]
    assert latents.values.shape == (3, *KINDS[kind])
    assert latents.values.dtype == np.float32
    assert (latents.target, latents.kind) == (target.name, "true")
    assert np.isfinite(latents.values).all()
    assert not np.allclose(latents.values[0], latents.values[1], atol=1e-6)


def test_names_tell_kinds_models_and_library_apart(targets, open_clip_folder):
    names = [target.name for target in targets.values()]
    assert len(set(names)) == len(names)
    assert all(name.endswith(f"open_clip-{open_clip.__version__}") for name in names)
    assert target_name("tiny-clip:tokens", open_clip_folder) == targets["tokens"].name
    assert target_name(f"open-clip:{open_clip_folder}") == targets["pooled"].name


def test_two_kinds_cannot_be_mixed(targets, small_stimuli):
    pooled, patches = (targets[kind].embed(small_stimuli, ["im0"]) for kind in ("pooled", "patches"))
    with pytest.raises(InputError, match="expected one target space"):
        check_same_target(pooled, patches)


def test_each_stimulus_is_embedded_once(targets, small_stimuli, tmp_path, open_clip_folder):
    ids = ["im1", "im2", "im1"]
    first = targets["pooled"].embed(small_stimuli, ids)
    again = make_target("tiny-clip", tmp_path / "cache", open_clip_folder).embed(small_stimuli, ids)
    assert_array_equal(first.values, again.values)
    assert small_stimuli.asked == {"im0": 0, "im1": 1, "im2": 1, "im3": 0, "im4": 0, "im5": 0}
    assert isinstance(again.values, np.memmap)
    assert not again.values.flags.writeable


def test_other_images_under_the_same_ids_are_embedded_anew(targets, small_stimuli):
    targets["pooled"].embed(small_stimuli, ["im1"])
    small_stimuli.fingerprint = "others"
    targets["pooled"].embed(small_stimuli, ["im1"])
    assert small_stimuli.asked["im1"] == 2


def test_embedding_stimuli_equals_embedding_their_images(targets, small_stimuli):
    ids = small_stimuli.ids[::-1]
    expected = targets["tokens"].embed_images(small_stimuli.images(ids))
    assert_allclose(targets["tokens"].embed(small_stimuli, ids).values, expected, atol=2e-5)


def test_many_stimuli_are_read_in_blocks(targets, small_stimuli):
    sizes = []
    ids = [str(k) for k in range(BLOCK + 7)]
    small_stimuli.images = lambda some: (
        sizes.append(len(some)) or np.stack([np.full((32, 32, 3), int(i) % 256, np.uint8) for i in some])
    )
    values = targets["pooled"].embed(small_stimuli, ids).values
    assert sizes == [BLOCK, 7]
    assert_allclose(values[[3, BLOCK + 3]], values[[3, 3]], atol=2e-5)
    assert not np.allclose(values[3], values[4], atol=1e-6)


def test_text_is_the_mean_of_the_captions_at_unit_length(targets, small_stimuli):
    latents = targets["text"].embed(small_stimuli, ["im0", "im1"])
    rows = targets["text"].model.embed_text(["a red dog", "a dog on the beach"])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert_allclose(latents.values[0, 0], rows[0], atol=2e-6)
    assert_allclose(latents.values[1, 0], rows.mean(axis=0), atol=2e-6)


def test_changed_captions_are_embedded_anew(targets, small_stimuli):
    before = targets["text"].embed(small_stimuli, ["im0"]).values.copy()
    small_stimuli.captions = lambda i: ["a blue cup"]
    assert not np.allclose(targets["text"].embed(small_stimuli, ["im0"]).values, before, atol=1e-4)


def test_stimuli_without_captions_have_no_text_target(targets, small_stimuli):
    small_stimuli.captions = lambda i: []
    with pytest.raises(
        InputError, match="expected a caption for each, for a text target; found none for 'im2'"
    ):
        targets["text"].embed(small_stimuli, ["im2"])
    with pytest.raises(InputError, match="expected a layer of the image tower; found 'text'"):
        targets["text"].embed_images(np.zeros((1, 32, 32, 3), np.uint8))


def test_no_stimuli_are_refused(targets, small_stimuli):
    with pytest.raises(InputError, match="`ids`: expected at least one stimulus"):
        targets["pooled"].embed(small_stimuli, [])


def test_ids_keep_the_order_of_first_appearance():
    assert unique_ids(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tiny-clip", ("tiny-clip", "", "pooled")),
        ("tiny_clip:tokens", ("tiny-clip", "", "tokens")),
        ("open-clip:ViT-L-14/openai", ("open-clip", "ViT-L-14/openai", "pooled")),
        ("open-clip:ViT-L-14/openai:tokens-norm", ("open-clip", "ViT-L-14/openai", "tokens-norm")),
        (
            "open-clip:ViT-bigG-14/laion2b_s39b_b160k:patches",
            ("open-clip", "ViT-bigG-14/laion2b_s39b_b160k", "patches"),
        ),
        ("open-clip:/data/clip:text", ("open-clip", "/data/clip", "text")),
    ],
)
def test_names_are_split_into_entry_model_and_kind(name, parts):
    assert split_name(name) == parts


def test_bad_names_are_refused(tmp_path):
    with pytest.raises(
        UnknownName, match=r"target: expected one of .*; found 'tiny-clp' .did you mean 'tiny-clip'"
    ):
        make_target("tiny-clp", tmp_path)
    with pytest.raises(InputError, match="expected open-clip:MODEL/TAG; found 'open-clip'"):
        make_target("open-clip", tmp_path)
    with pytest.raises(
        InputError, match=r"target 'tiny-clip': expected a layer, one of pooled.*; found 'token'"
    ):
        make_target("tiny-clip:token", tmp_path)


def test_missing_weights_are_an_error_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_in_hub_cache", lambda trained: None)
    with pytest.raises(MissingWeights, match="ViT-L-14/openai"):
        make_target("open-clip:ViT-L-14/openai:tokens", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_catalogue_lists_both_families():
    assert {"tiny-clip", "open-clip"} <= set(TARGETS)


def test_a_retrained_model_does_not_meet_old_cache_rows(open_clip_folder, tmp_path, small_stimuli):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "random-clip"
    shutil.copytree(open_clip_folder, folder)
    old = make_target("tiny-clip", tmp_path / "cache", folder).embed(small_stimuli, ["im0"])
    file = folder / "open_clip_model.safetensors"
    save_file({key: value * 1.5 for key, value in load_file(file).items()}, file)
    new = make_target("tiny-clip", tmp_path / "cache", folder).embed(small_stimuli, ["im0"])
    assert new.target != old.target
    assert not np.allclose(new.values, old.values, atol=1e-3)

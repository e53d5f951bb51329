"""The image networks: open_clip against open_clip called by hand, scoring networks against torchvision called by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import models, transforms

from braindecode_suite.core import networks
from braindecode_suite.core.errors import InputError, MissingWeights, UnknownName
from braindecode_suite.core.networks import find_open_clip, load_open_clip, same_network
from braindecode_suite.core.networks_scoring import FEATURE_NETWORKS, feature_network, weights_present

ATOL = 2e-5


@pytest.fixture(scope="module")
def clip(open_clip_folder):
    return load_open_clip(str(open_clip_folder))


@pytest.fixture(scope="module")
def reference(open_clip_folder):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{open_clip_folder}")
    return model.eval(), preprocess


def pictures(n, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 48), (20, 50)])
def test_images_are_prepared_as_open_clip_does(clip, reference, height, width):
    images = pictures(3, height, width)
    expected = torch.stack([reference[1](Image.fromarray(image)) for image in images])
    assert torch.equal(clip.prepare(images), expected)


def test_pooled_equals_open_clips_own_image_embedding(clip, reference):
    model, preprocess = reference
    images = pictures(5, 40, 48)
    with torch.no_grad():
        expected = model.encode_image(torch.stack([preprocess(Image.fromarray(image)) for image in images]))
    found = clip.embed(images, "pooled", batch=2)
    assert found.dtype == np.float32
    assert_allclose(found[:, 0], expected.numpy(), atol=ATOL)


def test_tokens_are_the_last_norm_and_the_projection_of_every_position(clip, reference):
    model, _ = reference
    images = pictures(3, 32, 32)
    with torch.no_grad():
        out = model.visual.forward_intermediates(
            clip.prepare(images),
            indices=1,
            normalize_intermediates=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        patches = out["image_intermediates"][0]
        every = torch.cat([out["image_intermediates_prefix"][0], patches], dim=1) @ model.visual.proj
    assert_allclose(clip.embed(images, "patches"), patches.numpy(), atol=ATOL)
    assert_allclose(clip.embed(images, "tokens"), every.numpy(), atol=ATOL)
    norm = every[:, :1].norm(dim=2, keepdim=True)
    assert_allclose(clip.embed(images, "tokens-norm"), (every / norm).numpy(), atol=ATOL)


def test_the_first_token_is_the_pooled_embedding(clip):
    images = pictures(4, 32, 32)
    assert_allclose(clip.embed(images, "tokens")[:, 0], clip.embed(images, "pooled")[:, 0], atol=ATOL)


@pytest.mark.parametrize("kind", ["pooled", "patches", "tokens", "tokens-norm"])
def test_shapes_are_as_declared_and_batches_do_not_matter(clip, kind):
    images = pictures(7, 36, 36)
    found = clip.embed(images, kind, batch=7)
    assert found.shape == (7, *clip.shape(kind))
    assert_allclose(clip.embed(images, kind, batch=3), found, atol=ATOL)


def test_text_equals_open_clips_own_text_embedding(clip, reference, open_clip_folder):
    captions = ["a red dog", "the cup on the beach", "a blue cup"]
    tokens = open_clip.get_tokenizer(f"local-dir:{open_clip_folder}")(captions)
    with torch.no_grad():
        expected = reference[0].encode_text(tokens).numpy()
    assert_allclose(clip.embed_text(captions, batch=2), expected, atol=ATOL)
    assert np.linalg.norm(expected[0] - expected[1]) > 0.01


def test_the_zero_embedding_is_that_of_the_mean_colour(clip):
    grey = np.empty((1, 32, 32, 3), np.float32)
    grey[:] = clip.preprocess.mean
    near = clip.embed(np.rint(grey * 255).astype(np.uint8))[0, 0]
    zero = clip.embed_zero()
    assert_allclose(near, zero, atol=0.02)
    assert np.linalg.norm(zero - clip.embed(pictures(1, 32, 32))[0, 0]) > 0.05


def test_a_target_is_named_by_model_weights_layer_and_library(clip, open_clip_folder, tmp_path):
    name = clip.target_name("tokens")
    assert name.startswith("open-clip:random-clip/")
    assert name.endswith(f":tokens:open_clip-{open_clip.__version__}")
    other = tmp_path / "random-clip"
    shutil.copytree(open_clip_folder, other)
    assert find_open_clip(str(other)).target_name("tokens") == name
    weights = other / "open_clip_model.safetensors"
    state = {key: value + 1 for key, value in load_file(weights).items()}
    save_file(state, weights)
    assert find_open_clip(str(other)).target_name("tokens") != name


def test_a_weights_file_of_a_built_in_architecture_is_loaded(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("RN50")
    file = tmp_path / "rn50.safetensors"
    save_file(model.state_dict(), file)
    found = load_open_clip("RN50", file)
    file.unlink()
    images = pictures(1, 224, 224)
    with torch.no_grad():
        expected = model.eval().encode_image(found.prepare(images)).numpy()
    assert_allclose(found.embed(images)[:, 0], expected, atol=1e-4)
    with pytest.raises(
        InputError, match="a vision transformer with a class token, for 'tokens'; found ModifiedResNet"
    ):
        found.embed(images, "tokens")


def test_tags_trained_with_quick_gelu_say_so(tmp_path, monkeypatch):
    file = tmp_path / "some.safetensors"
    file.write_bytes(b"")
    monkeypatch.setattr(networks, "_in_hub_cache", lambda trained: file)
    assert find_open_clip("ViT-L-14/openai").quick_gelu
    assert not find_open_clip("ViT-bigG-14/laion2b_s39b_b160k").quick_gelu
    assert find_open_clip("ViT-bigG-14/laion2b_s39b_b160k").width == 1280


def test_a_network_is_known_by_architecture_and_weights_whatever_its_resolution(tmp_path, monkeypatch):
    file = tmp_path / "some.safetensors"
    file.write_bytes(b"")
    monkeypatch.setattr(networks, "_in_hub_cache", lambda trained: file)
    openai = find_open_clip("ViT-L-14/openai").network
    assert openai == "ViT-L-14/openai"
    for name in ("ViT-L-14-336/openai", "ViT-L-14-quickgelu/openai", "ViT-L-14-336-quickgelu/openai"):
        assert same_network(find_open_clip(name).network, openai)
    for name in (
        "ViT-L-14/dfn2b",
        "ViT-L-14-CLIPA-336/datacomp1b",
        "ViT-B-16/openai",
        "ViT-H-14-378-quickgelu/dfn5b",
    ):
        assert not same_network(find_open_clip(name).network, openai)
    assert same_network(find_open_clip("ViT-L-14", file).network, openai)  # a file may hold any weights
    assert not same_network(find_open_clip("ViT-B-16", file).network, openai)


@pytest.mark.parametrize(
    ("architecture", "same"), [("ViT-L-14-336", True), ("ViT-L-16", False), ("ViT-B-32", False)]
)
def test_a_network_in_a_folder_is_known_by_its_image_tower(tmp_path, architecture, same):
    folder = tmp_path / "my-clip"
    folder.mkdir()
    config = open_clip.get_model_config(architecture) or open_clip.get_model_config("ViT-L-14")
    config["vision_cfg"]["patch_size"] = int(architecture.split("-")[2])
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), encoding="utf-8")
    (folder / "open_clip_model.safetensors").write_bytes(b"weights")
    assert same_network(find_open_clip(str(folder)).network, "ViT-L-14/openai") is same


def test_weights_that_are_not_here_are_missed_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_in_hub_cache", lambda trained: None)
    with pytest.raises(
        MissingWeights, match=r"ViT-L-14/openai: expected its weights in the local hub cache .*found none"
    ):
        load_open_clip("ViT-L-14/openai")
    with pytest.raises(MissingWeights, match=r"no open_clip_config\.json"):
        load_open_clip("tiny-clip", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14/opnai", r"open_clip tag of ViT-L-14: expected one of openai.*; found 'opnai'"),
        ("ViT-L-14", r"open_clip tag of ViT-L-14: .*found ''"),
        ("no-such-model/x", r"open_clip model: expected MODEL/TAG.*found 'no-such-model/x'"),
    ],
)
def test_unknown_open_clip_models_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_open_clip(name)


def test_broken_folders_are_refused(open_clip_folder, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(open_clip_folder, folder)
    (folder / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="expected weights of local-dir"):
        load_open_clip(str(folder))
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"expected one \.safetensors file of weights; found none"):
        load_open_clip(str(folder))
    (folder / "open_clip_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"expected open_clip's configuration \(JSON\)"):
        load_open_clip(str(folder))


def test_images_of_another_type_or_shape_are_refused(clip):
    with pytest.raises(InputError, match="`images`: expected type uint8; found float64"):
        clip.embed(np.zeros((2, 32, 32, 3)))
    with pytest.raises(InputError, match=r"shape \(rows, height, width, colours=3\)"):
        clip.embed(np.zeros((2, 3, 32, 32), np.uint8))
    with pytest.raises(UnknownName, match="`kind`"):
        clip.embed(pictures(1, 32, 32), "penultimate")


# ------------------------------------------------------------------------------------------- networks that score


def random_network(name):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if name.startswith("alexnet"):
            return models.alexnet(weights=None).eval()
        if name == "inception":
            return models.inception_v3(weights=None, transform_input=True, init_weights=False).eval()
        return (models.efficientnet_b1 if name == "effnet" else models.resnet50)(weights=None).eval()


CASES = {
    "alexnet2": (256, lambda network: network.features[4], 192 * 31 * 31),
    "alexnet5": (256, lambda network: network.features[11], 256 * 15 * 15),
    "inception": (342, lambda network: network.avgpool, 2048),
    "effnet": (255, lambda network: network.avgpool, 1280),
    "swav": (224, lambda network: network.avgpool, 2048),
}


@pytest.mark.parametrize("name", CASES)
def test_scoring_networks_read_the_published_layer_of_the_published_resizing(name, tmp_path):
    size, layer_of, n_features = CASES[name]
    network = random_network(name)
    state = network.state_dict()
    if name == "swav":
        state = {f"module.{key}": value for key, value in state.items() if not key.startswith("fc.")}
        state["module.projection_head.0.weight"] = torch.zeros(1)
    file = tmp_path / f"{name}.pth"
    torch.save(state, file)
    images = torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    try:
        found = feature_network(name, file)(images)
    finally:
        file.unlink()
    kept = []
    layer_of(network).register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))
    prepare = transforms.Compose(
        [
            transforms.Resize(size, antialias=False),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad():
        network(prepare(images))
    assert found.shape == (2, n_features)
    assert_allclose(found.numpy(), kept[0].flatten(1).numpy(), rtol=1e-4, atol=1e-5)


def test_the_clip_score_reads_the_image_embedding_after_a_bilinear_resizing(open_clip_folder, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(open_clip_folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["vision_cfg"] |= {"image_size": 224, "patch_size": 32}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    images = torch.rand(2, 3, 90, 90, generator=torch.Generator().manual_seed(0))
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    prepare = transforms.Compose([transforms.Resize(224, antialias=False), transforms.Normalize(mean, std)])
    with torch.no_grad():
        expected = model.encode_image(prepare(images))
    assert_allclose(feature_network("clip", folder)(images).numpy(), expected.numpy(), atol=ATOL)


def test_a_missing_network_says_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(networks, "_in_hub_cache", lambda trained: None)
    for name in FEATURE_NETWORKS:
        assert not weights_present(name)
    with pytest.raises(
        MissingWeights, match=r"network 'swav': expected swav_800ep_pretrain\.pth\.tar .*put https://.* into"
    ):
        feature_network("swav")
    with pytest.raises(
        MissingWeights, match="network 'clip': expected the weights of open_clip ViT-L-14/openai"
    ):
        feature_network("clip")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"not weights")
    assert weights_present("alexnet2")
    with pytest.raises(InputError, match="expected a PyTorch state dict"):
        feature_network("alexnet2")


def test_unknown_networks_and_wrong_ranges_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'alexnet5'"):
        feature_network("alexnet_5")
    file = tmp_path / "effnet.pth"
    torch.save(random_network("effnet").state_dict(), file)
    try:
        network = feature_network("effnet", file)
    finally:
        file.unlink()
    with pytest.raises(InputError, match=r"expected floats in \[0, 1\]"):
        network(torch.full((1, 3, 8, 8), -0.5))


def test_resnet_weights_of_another_network_are_not_taken_for_swav(tmp_path):
    file = tmp_path / "resnet18.pth"
    torch.save({"module.layer9.weight": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="expected SwAV weights of a ResNet-50; found mismatch at"):
        feature_network("swav", file)

"""Layers of image networks against the networks called by hand; their names; features kept in half precision by rows."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file
from torchvision import models
from torchvision.transforms import functional

from braindecode_suite.core import features as core_features
from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.features import FeatureRows, FeatureSource, FeatureStore, Grid, rows_by_source
from braindecode_suite.core.networks_layers import Layer, padded_grid, square
from braindecode_suite.encoders.targets import make_features, make_target, target_name
from braindecode_suite.learning.synthetic import TableFeatures

ATOL = 2e-5
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def pictures(n, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def vit_weights(tmp_path_factory):
    """timm's smallest vision transformer (160 pixels, 16-pixel patches, 6 blocks of width 64), random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_vit").eval()
    file = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(network.state_dict(), file)
    return network, file


@pytest.fixture(scope="module")
def squeezenet_weights(tmp_path_factory):
    """torchvision's smallest convolutional network (5 MB), random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.squeezenet1_1().eval()
    file = tmp_path_factory.mktemp("squeezenet") / "squeezenet.pth"
    torch.save(network.state_dict(), file)
    return network, file


# ------------------------------------------------------------------------------------------------- open_clip


@pytest.fixture(scope="module")
def clip(open_clip_folder):
    return open_clip.create_model(f"local-dir:{open_clip_folder}").eval()


@pytest.mark.parametrize("block", [1, 2])
def test_a_block_of_open_clip_is_what_open_clip_gives_of_it(clip, open_clip_folder, tmp_path, block):
    source = make_features(f"open-clip:{open_clip_folder}:block-{block}:with-cls", tmp_path)
    images = pictures(3, 32, 32)
    with torch.no_grad():
        out = clip.visual.forward_intermediates(
            source.reader.backbone.prepare(images),
            indices=[block - 1],
            output_fmt="NLC",
            output_extra_tokens=True,
        )
    patches, cls = out["image_intermediates"][0], out["image_intermediates_prefix"][0]
    expected = torch.cat([cls, patches], dim=1).numpy()
    assert_allclose(source.embed_images(images), expected, atol=ATOL)
    assert (source.grid.height, source.grid.width, source.grid.has_cls) == (4, 4, True)
    for part, rows in (("", slice(1, None)), (":cls", slice(0, 1))):
        other = make_features(f"open-clip:{open_clip_folder}:block-{block}{part}", tmp_path)
        assert_allclose(other.embed_images(images), expected[:, rows], atol=ATOL)


def test_the_last_block_normed_is_the_target_of_patches(open_clip_folder, tmp_path):
    images = pictures(3, 32, 32)
    normed = make_features(f"open-clip:{open_clip_folder}:block-2:normed", tmp_path).embed_images(images)
    patches = make_target(f"open-clip:{open_clip_folder}:patches", tmp_path).embed_images(images)
    assert_allclose(normed, patches, atol=ATOL)


def test_queries_of_open_clip_are_the_projection_of_the_blocks_normed_input(clip, open_clip_folder, tmp_path):
    images, kept = pictures(2, 32, 32), []
    block = clip.visual.transformer.resblocks[1]
    handle = block.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    source = make_features(f"open-clip:{open_clip_folder}:block-2:queries", tmp_path)
    with torch.no_grad():
        clip.encode_image(source.reader.backbone.prepare(images))
        handle.remove()
        width = block.attn.embed_dim
        weight, bias = block.attn.in_proj_weight[:width], block.attn.in_proj_bias[:width]
        expected = block.ln_1(kept[0]) @ weight.T + bias
    assert_allclose(source.embed_images(images), expected[:, 1:].numpy(), atol=ATOL)


def test_the_embedded_default_has_early_and_late_layers(tmp_path):
    images = pictures(4, 64, 64)
    early, late = (make_features(f"tiny-clip:block-{k}", tmp_path) for k in (1, 4))
    assert (early.tokens, early.width) == (64, 96)
    assert (early.grid.height, early.grid.width) == (8, 8)
    assert not np.allclose(early.embed_images(images), late.embed_images(images), atol=1e-2)


# ------------------------------------------------------------------------------------------------------ timm


@pytest.mark.parametrize(("word", "third"), [("queries", 0), ("keys", 1), ("values", 2)])
def test_projections_of_timm_are_thirds_of_qkv_for_patches_only(vit_weights, tmp_path, word, third):
    network, file = vit_weights
    images, kept = pictures(2, 160, 160), []
    handle = network.blocks[3].attn.qkv.register_forward_hook(lambda module, given, out: kept.append(out))
    with torch.no_grad():
        network(square(images, 160, (0.5,) * 3, (0.5,) * 3))
    handle.remove()
    source = make_features(f"timm:test_vit:block-4:{word}", tmp_path, file)
    found = source.embed_images(images)
    assert found.shape == (2, 100, 64)
    assert_allclose(found, kept[0][:, 1:, 64 * third : 64 * (third + 1)].numpy(), atol=ATOL)


def test_images_of_another_size_are_padded_with_zeros_to_whole_patches(vit_weights, tmp_path):
    _, file = vit_weights
    with torch.no_grad():
        resized = timm.create_model(
            "test_vit", img_size=144, pretrained=True, pretrained_cfg_overlay={"file": str(file)}
        ).eval()
        images = pictures(2, 137, 137)
        x = torch.zeros(2, 3, 144, 144)
        x[:, :, :137, :137] = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        expected = resized.forward_intermediates(
            x, indices=[1], intermediates_only=True, output_fmt="NLC", norm=False
        )[0]
    source = make_features("timm:test_vit:block-2:137px", tmp_path, file)
    assert_allclose(source.embed_images(images), expected.numpy(), atol=ATOL)
    assert source.grid.tokens == 81
    assert_array_equal(
        np.flatnonzero(~source.grid.mask), [80]
    )  # 0.56 of a patch each way: the corner is padding


def test_tokens_that_show_padding_for_the_most_part_are_not_seen():
    grid = padded_grid(425, 14)
    assert (grid.height, grid.width) == (31, 31)
    seen = np.ones((31, 31), bool)
    seen[30], seen[:, 30] = False, False
    assert_array_equal(grid.on_image(grid.mask), seen)
    assert padded_grid(434, 14).seen is None


def test_registers_are_left_out_and_are_no_class_token(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_vit2").eval().requires_grad_(False)  # one register, no class token
    file = tmp_path / "vit2.safetensors"
    save_file(network.state_dict(), file)
    images, kept = pictures(1, 160, 160), []
    network.blocks[0].register_forward_hook(lambda module, given, out: kept.append(out))
    network(square(images, 160, (0.5,) * 3, (0.5,) * 3))
    source = make_features("timm:test_vit2:block-1", tmp_path, file)
    assert kept[0].shape[1] == 101
    assert_allclose(source.embed_images(images), kept[0][:, 1:].numpy(), atol=ATOL)
    with pytest.raises(InputError, match="expected a layer with a class token"):
        make_features("timm:test_vit2:block-1:cls", tmp_path, file)


def test_weights_of_another_timm_model_are_refused_not_left_random(vit_weights, tmp_path):
    _, file = vit_weights
    with pytest.raises(InputError, match="expected weights of test_resnet; found"):
        make_features("timm:test_resnet:layer1", tmp_path, file)
    state = timm.create_model("test_vit").state_dict()
    del state["blocks.5.attn.qkv.weight"]
    save_file(state, tmp_path / "holes.safetensors")
    with pytest.raises(InputError, match=r"expected weights of test_vit; found .*blocks\.5\.attn\.qkv"):
        make_features("timm:test_vit:block-1", tmp_path, tmp_path / "holes.safetensors")


# ----------------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("layer", [1, 8])
def test_a_layer_of_torchvision_is_torchvisions_own_map_row_by_row(squeezenet_weights, tmp_path, layer):
    network, file = squeezenet_weights
    images = pictures(2, 224, 224)
    x = functional.normalize(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, *IMAGENET)
    with torch.no_grad():
        maps = network.features[: layer + 1](x)
    source = make_features(f"torchvision:squeezenet1_1:features.{layer}", tmp_path, file)
    assert (source.grid.height, source.grid.width) == tuple(maps.shape[2:])
    found = source.grid.on_image(source.embed_images(images).transpose(0, 2, 1))
    assert_allclose(found, maps.numpy(), atol=ATOL)


def test_other_sizes_are_resized_and_seen_whole(squeezenet_weights, tmp_path):
    network, file = squeezenet_weights
    images = pictures(2, 90, 120)
    resized = functional.resize(torch.from_numpy(images).permute(0, 3, 1, 2), [330, 330], antialias=True)
    with torch.no_grad():
        maps = network.features(functional.normalize(resized / 255, *IMAGENET))
    source = make_features("torchvision:squeezenet1_1:features.12:330px", tmp_path, file)
    assert_allclose(source.embed_images(images), maps.flatten(2).transpose(1, 2).numpy(), atol=1e-4)


def test_a_vector_is_one_token_without_a_place(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.shufflenet_v2_x0_5().eval()
    torch.save(network.state_dict(), tmp_path / "shufflenet.pth")
    images = pictures(2, 224, 224)
    with torch.no_grad():
        expected = network(square(images, 224, *IMAGENET)).numpy()
    source = make_features("torchvision:shufflenet_v2_x0_5:fc", tmp_path, tmp_path / "shufflenet.pth")
    assert_allclose(source.embed_images(images), expected[:, None], atol=ATOL)
    assert source.grid.describe() == {"height": 0, "width": 0, "has_cls": True, "seen": None}


def test_blocks_and_projections_of_torchvisions_vision_transformer(tmp_path, monkeypatch):
    def small(weights=None, image_size=224):
        return models.VisionTransformer(image_size, 32, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)

    small.__module__ = models.vit_b_32.__module__
    small.__annotations__ = {"weights": models.ViT_B_32_Weights}
    monkeypatch.setitem(models._api.BUILTIN_MODELS, "vit_b_32", small)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small().eval().requires_grad_(False)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    images, kept = pictures(1, 224, 224), {}
    first = network.encoder.layers[0]
    first.register_forward_hook(lambda module, given, out: kept.update(block=out))
    first.ln_1.register_forward_hook(lambda module, given, out: kept.update(normed=out))
    network(square(images, 224, *IMAGENET))
    weight, bias = first.self_attention.in_proj_weight[8:16], first.self_attention.in_proj_bias[8:16]
    block = make_features("torchvision:vit_b_32:block-1:with-cls", tmp_path, tmp_path / "vit.pth")
    assert_allclose(block.embed_images(images), kept["block"].numpy(), atol=ATOL)
    keys = make_features("torchvision:vit_b_32:block-1:keys", tmp_path, tmp_path / "vit.pth")
    expected = (kept["normed"] @ weight.T + bias)[:, 1:]
    assert_allclose(keys.embed_images(images), expected.numpy(), atol=ATOL)
    with pytest.raises(InputError, match="expected its own size, 224px; found 256px"):
        make_features("torchvision:vit_b_32:block-1:256px", tmp_path, tmp_path / "vit.pth")


# ---------------------------------------------------------------------------------------------- pooling, names


def test_a_pooled_grid_is_the_average_of_its_bins(tmp_path):
    images = pictures(2, 64, 64)
    full = make_features("tiny-clip:block-1:with-cls", tmp_path)
    pooled = make_features("tiny-clip:block-1:with-cls:4x2", tmp_path)
    maps = full.embed_images(images)
    bins = maps[:, 1:].reshape(2, 4, 2, 2, 4, 96).mean(axis=(2, 4)).reshape(2, 8, 96)
    assert_allclose(pooled.embed_images(images)[:, 1:], bins, atol=ATOL)
    assert_allclose(pooled.embed_images(images)[:, :1], maps[:, :1], atol=ATOL)
    assert (pooled.grid.height, pooled.grid.width) == (4, 2)


def test_padding_has_no_part_in_pooled_tokens(vit_weights, tmp_path):
    _, file = vit_weights
    images = pictures(1, 132, 132)
    full = make_features("timm:test_vit:block-1:132px", tmp_path, file)
    pooled = make_features("timm:test_vit:block-1:132px:3x3", tmp_path, file)
    assert full.grid.mask.sum() == 64  # 8 of 9 rows and columns
    maps = full.grid.on_image(full.embed_images(images).transpose(0, 2, 1))
    last = maps[0, :, 6:8, 6:8].mean(axis=(1, 2))
    assert_allclose(pooled.embed_images(images)[0, -1], last, atol=ATOL)
    assert pooled.grid.mask.all()


@pytest.mark.parametrize(
    "name",
    [
        "tiny-clip:block-1",
        "tiny-clip:block-4:queries",
        "tiny-clip:block-2:with-cls:4x4",
        "tiny-clip:visual.conv1",
    ],
)
def test_names_are_known_without_loading_and_hold_everything(name, tmp_path):
    source = make_features(name, tmp_path)
    assert source.name == target_name(name)
    assert source.name.startswith("open-clip:tiny-clip/")
    assert source.name.endswith(f":{name.removeprefix('tiny-clip:')}:open_clip-{open_clip.__version__}")
    assert isinstance(source, FeatureSource)


def test_names_of_timm_and_torchvision_tell_weights_apart(vit_weights, squeezenet_weights, tmp_path):
    name = target_name("timm:test_vit:block-2:16x16:150px:queries", vit_weights[1])
    assert name.startswith("timm:test_vit/")
    assert name.endswith(f":block-2:queries:150px:16x16:timm-{timm.__version__}")
    other = tmp_path / "other.safetensors"
    save_file({k: v + 1 for k, v in vit_weights[0].state_dict().items()}, other)
    assert target_name("timm:test_vit:block-2", other) != target_name("timm:test_vit:block-2", vit_weights[1])


def test_tags_are_found_in_the_local_caches(squeezenet_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = "torchvision:squeezenet1_1/IMAGENET1K_V1:features.0"
    with pytest.raises(
        MissingWeights, match=r"torchvision squeezenet1_1/IMAGENET1K_V1: expected squeezenet1_1-b8a52dc0\.pth"
    ):
        make_features(name, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").symlink_to(squeezenet_weights[1])
    assert target_name("torchvision:squeezenet1_1/DEFAULT:features.0") == target_name(name)
    assert make_features(name, tmp_path).name.startswith(
        "torchvision:squeezenet1_1/IMAGENET1K_V1:features.0:torchvision-"
    )


def test_weights_that_are_not_here_are_missed_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("braindecode_suite.core.networks_backbones.in_hub_cache", lambda *_: None)
    with pytest.raises(
        MissingWeights, match=r"lvd142m: expected its weights in the local cache \(timm/vit_base"
    ):
        make_features("timm:vit_base_patch14_dinov2.lvd142m:block-12:queries:425px", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "dinov2_vitb14_pretrain.pth").write_bytes(b"here")
    found = target_name("timm:vit_base_patch14_dinov2.lvd142m:block-12:queries:425px")
    assert found == f"timm:vit_base_patch14_dinov2.lvd142m:block-12:queries:425px:timm-{timm.__version__}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny-clip", "features: expected a layer with its grid of tokens; found 'tiny-clip'"),
        ("tiny-clip:block-9", "expected a vision transformer of at least 9 blocks; found 4 blocks"),
        ("tiny-clip:block-1:values:queries", "expected one projection; found 'queries'"),
        ("tiny-clip:block-1:blurred", "expected queries, keys, .* a grid such as 16x16; found 'blurred'"),
        ("tiny-clip:block-1:32x32", "layer: expected a grid of at most 8x8; found 32x32"),
        ("tiny-clip:block-1:224px", "expected no size: open_clip models see images at their own; found 224px"),
        ("tiny-clip:visual.conv9", r"expected a module's path, starting with one of .*; found 'visual\.conv9'"),
        ("tiny-clip:visual.conv1:queries", "expected block-K, for queries, keys, values and normed"),
        ("tiny-clip:visual.conv1:cls", "expected a layer with a class token; found shape"),
        ("tiny-clip:visual.transformer.resblocks.0.mlp.c_fc:with-cls:9", "layer: expected queries"),
        ("timm:resnet50", "target: expected timm:MODEL:LAYER; found 'timm:resnet50'"),
        ("timm:resnet-51.a1:layer4", r"timm model: expected MODEL\.TAG of timm's list"),
        ("timm:resnet50.zz:layer4", "timm tag of resnet50: expected one of .*; found 'zz'"),
        ("timm:resnet50:layer4", r"expected MODEL\.TAG, or weights; found no tag \(timm's default is resnet50\.a1_in1k"),
        ("torchvision:resnet51/X:layer4", "torchvision model: expected MODEL/TAG of torchvision's list"),
        ("torchvision:resnet50/X:layer4", "torchvision tag of resnet50: expected one of IMAGENET1K_V1, .*; found 'X'"),
    ],
)  # fmt: skip
def test_bad_names_are_refused(name, message, tmp_path):
    with pytest.raises(InputError, match=message):
        make_features(name, tmp_path)


def test_a_layer_that_images_do_not_go_through_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a layer that images go through"):
        make_features("tiny-clip:visual.transformer.resblocks.0.attn.out_proj", tmp_path)


def test_bad_words_of_layers_are_refused():
    with pytest.raises(
        InputError, match="layer: expected block-K or a module's dotted path; found 'block-0'"
    ):
        Layer.parse("block-0")


def test_images_of_another_type_are_refused(squeezenet_weights, tmp_path):
    source = make_features("torchvision:squeezenet1_1:features.0", tmp_path, squeezenet_weights[1])
    with pytest.raises(InputError, match="`images`: expected type uint8; found float64"):
        source.embed_images(np.zeros((1, 8, 8, 3)))


# ----------------------------------------------------------------------------------------------------- on disk


def test_each_image_is_read_once_whichever_others_are_asked_for(small_stimuli, tmp_path):
    source = make_features("tiny-clip:block-1", tmp_path)
    first = source.rows(small_stimuli, ["im3", "im0", "im3"])
    assert (first.shape, first.dtype, len(first)) == ((3, 64, 96), np.float16, 3)
    again = make_features("tiny-clip:block-1", tmp_path).rows(small_stimuli, ["im0", "im1", "im3"])
    assert small_stimuli.asked == {"im0": 1, "im1": 1, "im2": 0, "im3": 1, "im4": 0, "im5": 0}
    expected = source.embed_images(small_stimuli.images(["im0", "im1", "im3"])).astype(np.float16)
    assert_array_equal(again[:], expected)
    assert_array_equal(first[np.array([2, 0, 1])], expected[[2, 2, 0]])
    make_features("tiny-clip:block-2", tmp_path).rows(small_stimuli, ["im0"])
    small_stimuli.fingerprint = "others"
    source.rows(small_stimuli, ["im0"])
    assert small_stimuli.asked["im0"] == 4  # once more by hand, for another layer, for other images


def test_the_latents_of_a_layer_are_its_rows_in_single_precision(small_stimuli, tmp_path):
    source = make_features("tiny-clip:block-1", tmp_path)
    latents = source.embed(small_stimuli, ["im2", "im1", "im2"])
    assert (list(latents.ids), latents.target, latents.values.dtype) == (
        ["im2", "im1"],
        source.name,
        np.float32,
    )
    assert_array_equal(latents.values, source.rows(small_stimuli, ["im2", "im1"])[:])


class Counted:
    """Features that count how often each id was computed."""

    def __init__(self, n):
        self.table = np.random.default_rng(0).standard_normal((n, 3, 5)).astype(np.float16)
        self.asked = []

    def __call__(self, ids):
        self.asked += ids
        return self.table[[int(i) for i in ids]].astype(np.float32)


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(core_features, "BLOCK_BYTES", 4 * 3 * 5 * 2)  # four images a block
    return Counted(10)


def test_blocks_are_mapped_and_read_by_rows(counted, tmp_path):
    store = FeatureStore(tmp_path, {"layer": 1}, tokens=3, width=5)
    rows = store.rows([str(k) for k in range(10)], counted)
    blocks = sorted(store.folder.glob("*.npy"))
    assert len(blocks) == 3
    manifest = json.loads(blocks[0].with_suffix(".json").read_text())
    assert manifest["dtype"] == "float16"
    assert manifest["key"]["layer"] == 1
    assert isinstance(rows._open(0), np.memmap)
    order = np.random.default_rng(1).permutation(10)
    assert_array_equal(rows[order], counted.table[order])
    assert_array_equal(rows[2:9:3], counted.table[2:9:3])
    assert rows[np.empty(0, int)].shape == (0, 3, 5)


def test_what_a_crash_left_is_kept_and_a_broken_block_is_made_again(counted, tmp_path):
    store = FeatureStore(tmp_path, {"layer": 1}, tokens=3, width=5)

    def crash(ids):
        if "5" in ids:
            raise KeyboardInterrupt("a crash")
        return counted(ids)

    with pytest.raises(KeyboardInterrupt, match="a crash"):
        store.rows([str(k) for k in range(10)], crash)
    store.rows([str(k) for k in range(10)], counted)
    assert counted.asked == [str(k) for k in range(10)]
    block = sorted(store.folder.glob("*.npy"))[0]
    lost = json.loads(block.with_suffix(".json").read_text())["key"]["ids"]
    block.write_bytes(block.read_bytes()[:100])
    assert_array_equal(store.rows([str(k) for k in range(10)], counted)[:], counted.table)
    assert counted.asked[10:] == lost


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4])
def test_features_that_half_precision_cannot_hold_are_refused(tmp_path, value):
    features = np.zeros((2, 3, 5), np.float32)
    features[1, 2, 3] = value
    store = FeatureStore(tmp_path, {}, tokens=3, width=5)
    with pytest.raises(
        InputError, match=r"half precision can hold; found others in 1 of 2 images, e\.g\. 'b'"
    ):
        store.rows(["a", "b"], lambda ids: features)
    assert not list(store.folder.glob("*.npy"))


def test_features_of_another_shape_are_refused(tmp_path):
    store = FeatureStore(tmp_path, {}, tokens=3, width=5)
    with pytest.raises(InputError, match=r"`features`: expected shape \(images=1, tokens=3, width=5\)"):
        store.rows(["a"], lambda ids: np.zeros((1, 3, 4)))


# ------------------------------------------------------------------------------------------ what models are given


def test_images_and_their_features_are_the_same_to_a_model():
    table = np.random.default_rng(0).standard_normal((9, 4, 3)).astype(np.float16)
    source = TableFeatures("toy", table, Grid(2, 2))
    images = np.stack([np.full((2, 2, 3), k, np.uint8) for k in (7, 2, 5)])
    rows = rows_by_source(images, {"toy": (4, 3)}, {"toy": source})["toy"]
    assert (rows.shape, rows.dtype, len(rows)) == ((3, 4, 3), np.float16, 3)
    assert_array_equal(rows[np.array([2, 0])], table[[5, 7]])
    assert rows[:0].shape == (0, 4, 3)
    given = rows_by_source({"toy": table, "more": table}, {"toy": (4, 3)}, {})
    assert list(given) == ["toy"]
    assert given["toy"] is table


def test_features_that_lack_or_differ_are_refused():
    table = np.zeros((9, 4, 3), np.float16)
    shapes = {"a": (4, 3), "b": (4, 3)}
    with pytest.raises(InputError, match="features 'b': expected features of these images; found none"):
        rows_by_source({"a": table}, shapes, {})
    with pytest.raises(InputError, match="features 'a': expected a source to read images with; found none"):
        rows_by_source(np.zeros((1, 2, 2, 3), np.uint8), shapes, {})
    with pytest.raises(
        InputError, match=r"`features b`: expected shape \(images=9, tokens=4, width=3\); found \(8, 4, 3\)"
    ):
        rows_by_source({"a": table, "b": table[:8]}, shapes, {})


def test_a_grid_leaves_the_class_token_out_of_the_image():
    grid = Grid(2, 3, has_cls=True, seen=np.array([[True, True, False], [True, True, False]]))
    assert grid.tokens == 7
    assert_array_equal(grid.mask, [True, True, True, False, True, True, False])
    assert_array_equal(grid.on_image(np.arange(14).reshape(2, 7))[1], [[8, 9, 10], [11, 12, 13]])
    with pytest.raises(InputError, match="`values`: expected 7 tokens last; found"):
        grid.on_image(np.zeros(6))
    with pytest.raises(InputError, match=r"`seen`: expected shape \(height=2, width=2\)"):
        Grid(2, 2, seen=np.ones((3, 2), bool))


def test_rows_are_opened_a_few_blocks_at_a_time(tmp_path):
    places = []
    for k in range(core_features.OPEN_BLOCKS + 5):
        np.save(tmp_path / f"{k}.npy", np.full((1, 2, 2), k, np.float16))
        places.append((tmp_path / f"{k}.npy", 0))
    rows = FeatureRows(places, (2, 2))
    assert_array_equal(rows[:][:, 0, 0], np.arange(len(places)))
    assert rows._open.cache_info().currsize == core_features.OPEN_BLOCKS

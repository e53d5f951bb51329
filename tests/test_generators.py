"""Generators against diffusers called by hand with the same seeds; and what they refuse."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import KandinskyV22Img2ImgPipeline, KandinskyV22Pipeline
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import load_file, save_file

from braindecode_suite.core.errors import InputError, MissingWeights, UnknownName
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.networks import find_open_clip, load_open_clip
from braindecode_suite.decoders import generators
from braindecode_suite.decoders.generators import AnyChannelsImg2Img, make_generator
from braindecode_suite.decoders.seeds import candidate_seed, image_seed

SEEDS = [7, 8, 9, 10, 11]


@pytest.fixture(scope="module")
def generator(kandinsky_folder, open_clip_folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return make_generator("tiny-kandinsky", cache, kandinsky_folder, open_clip_folder)


@pytest.fixture(scope="module")
def pipeline(kandinsky_folder):
    pipe = KandinskyV22Pipeline.from_pretrained(kandinsky_folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def conditions(generator, n=5, seed=0, init=False, ids=None):
    rng = np.random.default_rng(seed)
    names = np.array(ids or [f"im{k}" for k in range(n)], dtype=object)
    image = rng.standard_normal((n, 1, 16)).astype(np.float32)
    found = {"image": Latents(image, names, generator.inputs["image"], "predicted")}
    if init:
        target = generator.init_target
        values = rng.standard_normal((n, target.tokens, target.width)).astype(np.float32)
        found["init"] = Latents(values, names, target.name, "predicted")
    return found


def seeded(seeds):
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def as_uint8(images):
    return np.rint(images * 255).astype(np.uint8)


def close(a, b):
    """Equal but for rounding: at most one grey level, almost everywhere none."""
    difference = np.abs(a.astype(int) - b.astype(int))
    return difference.max() <= 1 and (difference > 0).mean() < 0.01


def direct(pipe, latents, seeds, **more):
    embeds = torch.from_numpy(latents["image"].values[:, 0])
    return pipe(
        image_embeds=embeds,
        negative_image_embeds=torch.zeros_like(embeds),
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=2.0,
        generator=seeded(seeds),
        output_type="pt",
        **more,
    ).images


def test_images_equal_those_of_diffusers_with_the_same_seeds(generator, pipeline):
    latents = conditions(generator)
    expected = direct(pipeline, {"image": latents["image"].select(["im0", "im1", "im2", "im3"])}, SEEDS[:4])
    assert expected.min() < -0.5  # text-to-image tensors lie in [-1, 1]
    expected = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    found = generator.generate(latents, SEEDS)
    assert found.dtype == np.uint8
    assert found.shape == (5, 64, 64, 3)
    assert_array_equal(found[:4], as_uint8(expected))


def test_images_from_a_low_level_start_equal_those_of_diffusers(generator, pipeline):
    latents = conditions(generator, n=4, init=True)
    stock = KandinskyV22Img2ImgPipeline(**pipeline.components)
    stock.set_progress_bar_config(disable=True)
    start = torch.from_numpy(latents["init"].values).transpose(1, 2).unflatten(2, (8, 8))
    with torch.no_grad():
        decoded = pipeline.movq.decode(start, force_not_quantize=True).sample
    expected = direct(stock, latents, SEEDS[:4], image=(decoded / 2 + 0.5).clamp(0, 1), strength=0.75)
    assert expected.min() >= 0  # image-to-image tensors lie in [0, 1]
    found = generator.generate(latents, SEEDS[:4])
    assert_array_equal(found, as_uint8(expected.permute(0, 2, 3, 1).numpy()))
    assert not close(found, generator.generate({"image": latents["image"]}, SEEDS[:4]))


def test_the_pipeline_for_any_number_of_channels_equals_diffusers_for_four(generator, pipeline):
    latents = conditions(generator, n=2)
    start = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for cls in (KandinskyV22Img2ImgPipeline, AnyChannelsImg2Img):
        pipe = cls(**pipeline.components)
        pipe.set_progress_bar_config(disable=True)
        found.append(direct(pipe, latents, [1, 2], image=start, strength=0.5))
    assert torch.equal(*found)


def test_eight_latent_channels_work_both_ways(kandinsky_folder_of_eight_channels, open_clip_folder, tmp_path):
    generator = make_generator(
        "tiny-kandinsky", tmp_path, kandinsky_folder_of_eight_channels, open_clip_folder
    )
    assert (generator.init_target.tokens, generator.init_target.width) == (64, 8)
    latents = conditions(generator, n=2, init=True)
    started = generator.generate(latents, [1, 2])
    assert started.shape == (2, 64, 64, 3)
    assert not close(started, generator.generate({"image": latents["image"]}, [1, 2]))


@pytest.mark.parametrize("init", [False, True])
def test_an_image_depends_on_its_latents_and_its_seed_only(generator, init):
    latents = conditions(generator, init=init)
    every = generator.generate(latents, SEEDS)
    assert_array_equal(every, generator.generate(latents, SEEDS))
    for row in (0, 3, 4):
        alone = {role: latent.select([f"im{row}"]) for role, latent in latents.items()}
        assert close(generator.generate(alone, [SEEDS[row]])[0], every[row])
    backwards = {role: latent.select([f"im{k}" for k in (4, 3, 2, 1, 0)]) for role, latent in latents.items()}
    assert close(generator.generate(backwards, SEEDS[::-1])[::-1], every)
    assert not close(generator.generate(latents, [seed + 1 for seed in SEEDS]), every)


def test_no_global_random_state_is_touched(generator):
    before = torch.random.get_rng_state()
    generator.generate(conditions(generator, init=True), SEEDS)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_generators_own_latents_are_those_of_the_autoencoder(generator, pipeline, small_stimuli):
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        expected = pipeline.movq.encode(x).latents
        round_trip = pipeline.movq.decode(expected, force_not_quantize=True).sample
    target = generator.init_target
    found = target.embed_images(images)
    assert found.shape == (5, 64, 4)
    assert_allclose(found.transpose(0, 2, 1).reshape(5, 4, 8, 8), expected.numpy(), atol=1e-4)
    latents = Latents(found, np.array(list("abcde"), dtype=object), target.name, "true")
    expected_images = as_uint8((round_trip / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
    assert close(generator.decode_init(latents), expected_images)
    embedded = target.embed(small_stimuli, ["im2", "im0", "im2"])
    assert list(embedded.ids) == ["im2", "im0"]
    assert embedded.values.shape == (2, 64, 4)
    assert embedded.target == target.name


def test_latents_of_another_target_are_refused(generator):
    latents = conditions(generator, n=2, init=True)
    other = Latents(latents["image"].values, latents["image"].ids, "open-clip:other", "predicted")
    with pytest.raises(
        InputError, match=r"role 'image': expected latents of 'open-clip:random-clip.*found 'open-clip:other'"
    ):
        generator.generate({"image": other}, [1, 2])
    wrong = Latents(latents["init"].values, latents["init"].ids, "movq:other", "predicted")
    with pytest.raises(InputError, match="role 'init': expected latents of 'movq:random-kandinsky"):
        generator.generate({"image": latents["image"], "init": wrong}, [1, 2])
    with pytest.raises(InputError, match="role 'init'"):
        generator.decode_init(other)
    with pytest.raises(InputError, match="expected the role 'image'; found init"):
        generator.generate({"init": latents["init"]}, [1, 2])
    with pytest.raises(InputError, match="the same rows for 'image' and 'init'"):
        generator.generate(
            {"image": latents["image"], "init": latents["init"].select(["im1", "im0"])}, [1, 2]
        )
    with pytest.raises(InputError, match="`seeds`: expected 2, one a row; found 3"):
        generator.generate(latents, [1, 2, 3])


class RedTarget:
    """A space of one feature beside a constant: how red an image is."""

    name, tokens, width = "red", 1, 2

    def embed(self, stimuli, ids):
        raise AssertionError("the true images must not be asked for")

    def embed_images(self, images):
        red = images[..., 0].mean(axis=(1, 2)) / 255 - 0.5
        return np.stack([red, np.full(len(red), 0.1)], axis=1)[:, None].astype(np.float32)


def test_the_best_of_several_is_the_one_nearest_to_the_predicted_embedding(generator):
    latents = conditions(generator)
    wish = Latents(np.tile(np.float32([[[1.0, 0.1]]]), (5, 1, 1)), latents["image"].ids, "red", "predicted")
    best = generator.generate_best(latents, SEEDS, n_candidates=3, chooser=RedTarget(), predicted=wish)
    every = np.stack([generator.generate(latents, [candidate_seed(s, k) for s in SEEDS]) for k in range(3)])
    red = every[..., 0].mean(axis=(2, 3))  # (candidates, rows)
    assert_array_equal(best.chosen, red.argmax(axis=0))
    assert len(set(best.chosen)) > 1
    assert_array_equal(best.images, every[best.chosen, np.arange(5)])
    assert best.similarities.shape == (5, 3)
    one = generator.generate_best(latents, SEEDS, n_candidates=1, chooser=RedTarget(), predicted=wish)
    assert_array_equal(one.images, generator.generate(latents, SEEDS))


def test_a_predicted_caption_weighs_in_the_choice_among_candidates(generator):
    latents = conditions(generator)
    red, cyan = (
        Latents(np.tile(np.float32([[[value, 0.1]]]), (5, 1, 1)), latents["image"].ids, name, "predicted")
        for value, name in ((2.0, "red"), (-0.7, "red:text"))
    )

    def choose(**text):
        asked = {"n_candidates": 3, "chooser": RedTarget(), "predicted": red}
        return generator.generate_best(latents, SEEDS, **asked, **text)

    plain, other = choose(), choose(text=cyan, text_weight=1.0)
    every = np.stack([generator.generate(latents, [candidate_seed(s, k) for s in SEEDS]) for k in range(3)])
    assert_array_equal(other.chosen, every[..., 0].mean(axis=(2, 3)).argmin(axis=0))
    both = choose(text=cyan, text_weight=0.3)
    assert_allclose(both.similarities, 0.7 * plain.similarities + 0.3 * other.similarities, atol=1e-6)
    assert_array_equal(choose(text=cyan).similarities, plain.similarities)
    with pytest.raises(InputError, match="`text_weight`: expected between 0 and 1; found 2"):
        choose(text=cyan, text_weight=2)
    with pytest.raises(
        InputError, match=r"`text`: expected predicted latents of shape \(5, 1, 2\); found true"
    ):
        choose(text=Latents(cyan.values, cyan.ids, "red:text", "true"), text_weight=0.5)


def test_candidates_are_chosen_by_the_true_image_for_the_ceiling_alone(generator):
    latents = conditions(generator)
    ids = latents["image"].ids
    truth = Latents(np.ones((5, 1, 2), np.float32), ids, "red", "true")
    with pytest.raises(InputError, match="latents predicted from the brain; found true latents"):
        generator.generate_best(latents, SEEDS, n_candidates=2, chooser=RedTarget(), predicted=truth)
    wish = Latents(truth.values, ids, "red", "predicted")
    ceiling, plain = (
        generator.generate_best(
            latents, SEEDS, n_candidates=2, chooser=RedTarget(), predicted=wanted, ceiling=asked
        )
        for wanted, asked in ((truth, True), (wish, False))
    )
    assert_array_equal(ceiling.images, plain.images)  # the ceiling is drawn and chosen in the same way
    with pytest.raises(InputError, match="true latents, for the ceiling; found predicted latents"):
        generator.generate_best(
            latents, SEEDS, n_candidates=2, chooser=RedTarget(), predicted=wish, ceiling=True
        )
    blue = Latents(np.ones((5, 1, 2), np.float32), ids, "blue", "predicted")
    with pytest.raises(InputError, match="expected latents of 'red'; found 'blue'"):
        generator.generate_best(latents, SEEDS, n_candidates=2, chooser=RedTarget(), predicted=blue)
    red = Latents(np.ones((4, 1, 2), np.float32), ids[:4], "red", "predicted")
    with pytest.raises(InputError, match="expected at least 1, and 5 rows; found 2, and 4 rows"):
        generator.generate_best(latents, SEEDS, n_candidates=2, chooser=RedTarget(), predicted=red)


def test_settings_are_the_folders_unless_changed(kandinsky_folder, open_clip_folder, tmp_path):
    generator = make_generator(
        "tiny_kandinsky", tmp_path, kandinsky_folder, open_clip_folder, settings={"steps": 3, "guidance": 1.0}
    )
    assert generator.config.model_dump() == {
        "steps": 3,
        "guidance": 1.0,
        "strength": 0.75,
        "size": 64,
        "batch": 4,
    }
    assert generator.generate(conditions(generator, n=1), [0]).shape == (1, 64, 64, 3)
    with pytest.raises(InputError, match="generator settings: expected a known config key; found 'step'"):
        make_generator("tiny-kandinsky", tmp_path, kandinsky_folder, open_clip_folder, settings={"step": 3})
    with pytest.raises(InputError, match=r"`strength`: expected at least one step; found 0\.2 of 4"):
        make_generator(
            "tiny-kandinsky", tmp_path, kandinsky_folder, open_clip_folder, settings={"strength": 0.2}
        )
    with pytest.raises(InputError, match="`size`: expected a multiple of 8 pixels; found 60"):
        make_generator("tiny-kandinsky", tmp_path, kandinsky_folder, open_clip_folder, settings={"size": 60})


def test_weights_kept_in_half_precision_are_computed_in_single(kandinsky_folder, open_clip_folder, tmp_path):
    folder = tmp_path / "decoder"
    shutil.copytree(kandinsky_folder, folder)
    for file in folder.glob("*/*.safetensors"):
        save_file(
            {key: value.half() for key, value in load_file(file).items()}, file, metadata={"format": "pt"}
        )
    generator = make_generator("tiny-kandinsky", tmp_path, folder, open_clip_folder)
    assert {generator.from_noise.unet.dtype, generator.from_image.movq.dtype} == {torch.float32}
    assert generator.generate(conditions(generator, n=1, init=True), [0]).shape == (1, 64, 64, 3)


def test_no_image_is_zeros_for_the_tiny_decoder_and_a_zero_image_for_kandinsky(
    kandinsky_folder, open_clip_folder, tmp_path, monkeypatch
):
    tiny = make_generator("tiny-kandinsky", tmp_path, kandinsky_folder, open_clip_folder)
    assert not tiny._negative.any()
    source = generators.find_open_clip(str(open_clip_folder))
    monkeypatch.setattr(generators, "find_open_clip", lambda name, weights: source)
    big = make_generator("kandinsky-2-2", tmp_path, kandinsky_folder)
    assert_allclose(big._negative.numpy(), load_open_clip(str(open_clip_folder)).embed_zero(), atol=1e-5)
    assert big.inputs == {"image": source.target_name("pooled")}


def test_a_decoder_trained_on_another_image_model_is_refused(kandinsky_folder, open_clip_folder, tmp_path):
    folder = tmp_path / "decoder"
    shutil.copytree(kandinsky_folder, folder)
    (folder / "generator.json").write_text(json.dumps({"target": "tiny-clip/0123456789ab"}), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"expected a decoder trained on embeddings of random-clip/.*; found tiny-clip/0123"
    ):
        make_generator("tiny-kandinsky", tmp_path, folder, open_clip_folder)
    for known in ("random-clip", find_open_clip(str(open_clip_folder)).identity):
        (folder / "generator.json").write_text(json.dumps({"target": known}), encoding="utf-8")
        assert make_generator("tiny-kandinsky", tmp_path, folder, open_clip_folder).config.steps == 20


def test_missing_and_broken_decoders_are_refused(kandinsky_folder, open_clip_folder, tmp_path, monkeypatch):
    with pytest.raises(
        MissingWeights, match="expected a folder, or a model in the local hub cache; found neither"
    ):
        make_generator("tiny-kandinsky", tmp_path, tmp_path / "nowhere", open_clip_folder)
    folder = tmp_path / "decoder"
    shutil.copytree(kandinsky_folder, folder)
    (folder / "movq" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"decoder: expected a Kandinsky 2\.2 decoder saved by diffusers"):
        make_generator("tiny-kandinsky", tmp_path, folder, open_clip_folder)
    (folder / "generator.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"generator\.json: expected a JSON object; found list"):
        make_generator("tiny-kandinsky", tmp_path, folder, open_clip_folder)
    with pytest.raises(UnknownName, match="did you mean 'tiny-kandinsky'"):
        make_generator("tiny-kandinski", tmp_path)
    monkeypatch.setattr("braindecode_suite.core.networks._in_hub_cache", lambda trained: None)
    with pytest.raises(MissingWeights, match="ViT-bigG-14/laion2b_s39b_b160k"):
        make_generator("kandinsky-2-2", tmp_path, kandinsky_folder)


def test_seeds_differ_between_runs_images_and_candidates():
    seeds = [image_seed(run, f"im{k}") for run in range(3) for k in range(50)]
    candidates = [candidate_seed(seeds[0], k) for k in range(20)]
    assert len({*seeds, *candidates}) == len(seeds) + len(candidates) - 1
    assert candidates[0] == seeds[0]
    assert all(0 <= seed < 2**63 for seed in [*seeds, *candidates])

"""The tiny image models that ship with the package: their size, their cards, and that they do what the cards say."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import KandinskyV22Pipeline, VQModel
from safetensors.torch import load_file

import braindecode_suite
from braindecode_suite.core.errors import MissingWeights
from braindecode_suite.core.tiny_eval import TinyEval, load_tiny_eval
from braindecode_suite.datasets.simulate_scenes import (
    CATEGORIES,
    COLOURS,
    GENERATOR_SEEDS,
    PLACES,
    VALIDATION_SEEDS,
    Scene,
    captions,
    draw_scene,
    main_object,
    render,
)

ASSETS = Path(braindecode_suite.__file__).parent / "assets"
MODELS = ("tiny-clip", "tiny-kandinsky", "tiny-eval")


@cache
def held_out(n: int) -> list[Scene]:
    """Scenes that no model was trained on, nor measured on for its card."""
    return [draw_scene(seed) for seed in VALIDATION_SEEDS[500_000 : 500_000 + n]]


def pictures(scenes: list[Scene]) -> torch.Tensor:
    """Pictures of shape (scenes, 3, 64, 64) in [0, 1]."""
    return torch.tensor(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def embed(images: torch.Tensor) -> torch.Tensor:
    clip = open_clip.create_model(f"local-dir:{ASSETS / 'tiny-clip'}").eval()
    return clip.encode_image(images * 2 - 1)


def right(answers: dict[str, torch.Tensor], scenes: list[Scene]) -> dict[str, float]:
    """Share of right categories and colours, and the median position error, of the main objects."""
    main = [s.objects[main_object(s)] for s in scenes]
    category = torch.tensor([CATEGORIES.index(o.category) for o in main])
    colour = torch.tensor([list(COLOURS).index(o.colour) for o in main])
    place = torch.tensor([PLACES.index(s.place) for s in scenes])
    shift = (answers["position"] - torch.tensor([[o.x, o.y] for o in main])).norm(dim=1)
    return {
        "category": float((answers["category"].argmax(1) == category).float().mean()),
        "colour": float((answers["colour"].argmax(1) == colour).float().mean()),
        "place": float((answers["place"].argmax(1) == place).float().mean()),
        "position": float(shift.median()),
    }


def test_all_models_together_are_small_and_hold_no_pickle() -> None:
    files = [f for f in ASSETS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 25e6
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".md"}


def test_the_index_of_the_generators_scenes_is_small() -> None:
    assert (ASSETS / "tiny-kandinsky" / "training_index.safetensors").stat().st_size < 6e6


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_card_with_measured_figures(name: str) -> None:
    card = (ASSETS / name / "README.md").read_text()
    measured = json.loads((ASSETS / name / "measured.json").read_text())
    assert "How it was made" in card
    assert measured
    for title, figures in measured.items():
        assert title in card
        for label, value in figures.items():
            assert f"| {label.replace('_', ' ')} | {value:.3f} |" in card


def test_the_cards_keep_the_bars() -> None:
    clip = next(iter(json.loads((ASSETS / "tiny-clip" / "measured.json").read_text()).values()))
    assert min(clip["image_to_text_top1_of_100"], clip["text_to_image_top1_of_100"]) >= 0.90
    decoded, trip, drawn = json.loads((ASSETS / "tiny-kandinsky" / "measured.json").read_text()).values()
    assert trip["psnr_db"] >= 24
    assert min(decoded["category"], decoded["colour"]) >= 0.85
    assert decoded["position_error_median"] <= 0.10
    assert min(drawn["category"], drawn["colour"]) >= 0.95


def test_tiny_clip_finds_the_caption_of_a_picture_and_the_picture_of_a_caption() -> None:
    scenes = held_out(100)
    name = f"local-dir:{ASSETS / 'tiny-clip'}"
    clip, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    with torch.no_grad():
        images = clip.encode_image(pictures(scenes) * 2 - 1, normalize=True)
        texts = clip.encode_text(tokenizer([captions(s, 1, seed=9)[0] for s in scenes]), normalize=True)
    similarity, truth = images @ texts.T, torch.arange(100)
    assert float((similarity.argmax(1) == truth).float().mean()) >= 0.90
    assert float((similarity.argmax(0) == truth).float().mean()) >= 0.90


def test_tiny_clip_knows_every_word_of_the_captions() -> None:
    tokenizer = open_clip.get_tokenizer(f"local-dir:{ASSETS / 'tiny-clip'}")
    tokens = tokenizer([text for s in held_out(100) for text in captions(s, 4, seed=3)])
    assert not (tokens == tokenizer.tokenizer.unk_token_id).any()
    assert (tokens == tokenizer.tokenizer.eos_token_id).any(1).all(), "a caption is cut off"


def test_an_embedding_has_features_of_mean_square_one() -> None:
    assert float(embed(pictures(held_out(32))).pow(2).mean()) == pytest.approx(1, rel=0.1)


def test_the_movq_gives_a_picture_back() -> None:
    movq = VQModel.from_pretrained(
        ASSETS / "tiny-kandinsky", subfolder="movq", torch_dtype=torch.float32
    ).eval()
    truth = pictures(held_out(32))
    with torch.no_grad():
        latents = movq.encode(truth * 2 - 1).latents
        back = movq.decode(latents, force_not_quantize=True).sample
    error = ((back.clamp(-1, 1) * 0.5 + 0.5) - truth).pow(2).mean((1, 2, 3))
    assert float((-10 * torch.log10(error)).mean()) >= 24
    assert float(latents.std()) == pytest.approx(1, rel=0.1)
    assert float(latents.mean()) == pytest.approx(0, abs=0.1)
    assert movq.config.scaling_factor == 1


def test_tiny_eval_judges_drawn_scenes_well() -> None:
    scenes = held_out(100)
    with torch.no_grad():
        answers = load_tiny_eval()(pictures(scenes))
    found = right(answers, scenes)
    assert min(found["category"], found["colour"], found["place"]) >= 0.93
    assert found["position"] < 0.05
    sizes = torch.tensor([s.objects[main_object(s)].size for s in scenes])
    assert float((answers["size"] - sizes).abs().median()) < 0.05


def test_tiny_evals_features_are_wide_and_decide_its_answers() -> None:
    model = load_tiny_eval()
    images = pictures(held_out(4))
    features = model.features(images)
    assert features.shape[0] == 4
    assert features.shape[1] >= 128
    torch.testing.assert_close(model.heads["category"](features), model(images)["category"])


def test_every_tensor_of_tiny_eval_learns() -> None:
    model = TinyEval(["car", "cup"], ["red", "blue"], ["beach", "snow"], widths=(4, 4, 4), n_features=16)
    sum(answer.pow(2).sum() for answer in model(torch.rand(6, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_pictures_of_another_size_are_refused_by_tiny_eval() -> None:
    with pytest.raises(ValueError, match=r"images.*height=64.*32"):
        load_tiny_eval().features(torch.zeros(1, 3, 32, 32))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"config\.json: expected a file of tiny-eval"):
        load_tiny_eval(tmp_path)


def test_the_index_finds_the_scene_an_embedding_came_from() -> None:
    table = load_file(ASSETS / "tiny-kandinsky" / "training_index.safetensors")
    seeds, known = table["seeds"], table["embeddings"].float() * table["scale"]
    assert len(seeds) == len(known) > 10_000
    assert int(seeds.min()) in GENERATOR_SEEDS
    assert int(seeds.max()) in GENERATOR_SEEDS
    rows = torch.arange(0, len(seeds), len(seeds) // 25)
    queries = embed(pictures([draw_scene(int(seeds[k])) for k in rows]))
    unit = torch.nn.functional.normalize(known, dim=1)
    nearest = (torch.nn.functional.normalize(queries, dim=1) @ unit.T).argmax(1)
    assert float((nearest == rows).float().mean()) > 0.9


def test_the_pipeline_loads_offline_and_keeps_to_its_seed() -> None:
    pipeline = KandinskyV22Pipeline.from_pretrained(ASSETS / "tiny-kandinsky", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    embeddings = embed(pictures(held_out(2)))

    def draw(seed: int) -> torch.Tensor:
        return pipeline(
            image_embeds=embeddings,
            negative_image_embeds=torch.zeros_like(embeddings),
            height=64,
            width=64,
            num_inference_steps=4,
            guidance_scale=1.5,
            generator=[torch.Generator().manual_seed(seed + k) for k in range(2)],
            output_type="pt",
        ).images

    assert draw(0).shape == (2, 3, 64, 64)
    torch.testing.assert_close(draw(0), draw(0))
    assert not torch.allclose(draw(0), draw(7))


@pytest.mark.slow
def test_the_true_embedding_decodes_to_the_right_object() -> None:
    scenes = held_out(60)
    chosen = json.loads((ASSETS / "tiny-kandinsky" / "generator.json").read_text())
    pipeline = KandinskyV22Pipeline.from_pretrained(ASSETS / "tiny-kandinsky", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    embeddings = embed(pictures(scenes))
    made = pipeline(
        image_embeds=embeddings,
        negative_image_embeds=torch.zeros_like(embeddings),
        height=64,
        width=64,
        num_inference_steps=chosen["steps"],
        guidance_scale=chosen["guidance"],
        generator=[torch.Generator().manual_seed(k) for k in range(60)],
        output_type="pt",
    ).images
    with torch.no_grad():
        found = right(load_tiny_eval()((made * 0.5 + 0.5).clamp(0, 1)), scenes)
    assert min(found["category"], found["colour"]) >= 0.85
    assert found["position"] <= 0.10

"""Measure the tiny image models on held-out scenes and write their cards.

Pictures are decoded from the true embedding through `KandinskyV22Pipeline` and judged by tiny-eval, whose own answers on the
drawn scenes and on the movq's round trips stand beside. No figure in a card is typed.

    python tools/evaluate_tiny_models.py --n 400 --grid grid.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from tiny_common import ASSETS, scenes, to_float
from torch import Tensor

from braindecode_suite.core.tiny_eval import load_tiny_eval
from braindecode_suite.datasets.simulate_scenes import GENERATOR_SEEDS, STUDY_SEEDS_START, VALIDATION_SEEDS

CLASSES = ("category", "colour", "place")


def load_pipeline() -> DiffusionPipeline:
    """Load tiny-kandinsky as any Kandinsky 2.2 decoder is loaded from a folder."""
    pipeline = DiffusionPipeline.from_pretrained(ASSETS / "tiny-kandinsky", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def decode(pipeline: DiffusionPipeline, embeddings: Tensor, steps: int, guidance: float) -> Tensor:
    """Draw one picture (batch, 3, 64, 64) in [0, 1] for each embedding, with seed k for the k-th."""
    pictures = []
    for start in range(0, len(embeddings), 50):
        part = embeddings[start : start + 50]
        made = pipeline(
            image_embeds=part,
            negative_image_embeds=torch.zeros_like(part),
            height=64,
            width=64,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(start + k) for k in range(len(part))],
            output_type="pt",
        ).images
        pictures.append((made * 0.5 + 0.5).clamp(0, 1))
    return torch.cat(pictures)


@torch.no_grad()
def judge(pictures: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Compare tiny-eval's answers on the pictures with the true labels of the scenes."""
    model = load_tiny_eval()
    parts = [model(p) for p in pictures.split(100)]
    answers = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    truth = torch.tensor(labels)
    figures = {n: float((answers[n].argmax(1) == truth[:, k]).float().mean()) for k, n in enumerate(CLASSES)}
    shift = (answers["position"] - truth[:, 3:5]).norm(dim=1)
    size = (answers["size"] - truth[:, 5]).abs()
    return figures | {
        "position_error_median": float(shift.median()),
        "size_error_median": float(size.median()),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Mean over pictures of the correlation of their pixels."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean())


@torch.no_grad()
def embed(pictures: Tensor) -> Tensor:
    """Embed pictures in [0, 1] with tiny-clip, not normalised."""
    clip = open_clip.create_model(f"local-dir:{ASSETS / 'tiny-clip'}").eval()
    return torch.cat([clip.encode_image(p * 2 - 1) for p in pictures.split(200)])


@torch.no_grad()
def clip_figures(work: Path) -> dict[str, float]:
    """Retrieval among 100 over twenty galleries, and linear readouts of the embedding."""
    name = f"local-dir:{ASSETS / 'tiny-clip'}"
    clip, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    held = scenes(work, "validation")
    images = embed(to_float(held["images"]))
    texts = torch.cat(
        [
            clip.encode_text(tokenizer([str(t) for t in part]))
            for part in np.array_split(held["captions"][:, 0], 10)
        ]
    )
    images_unit, texts_unit = (torch.nn.functional.normalize(x, dim=1) for x in (images, texts))
    hits = []
    for rows in torch.arange(len(images)).split(100):
        similarity = images_unit[rows] @ texts_unit[rows].T
        right = torch.arange(len(rows))
        hits.append([float((s.argmax(1) == right).float().mean()) for s in (similarity, similarity.T)])
    forward, backward = np.mean(hits, axis=0)
    train = scenes(work, "train")
    known, x, y = embed(to_float(train["images"][:6000])).numpy(), images.numpy(), held["labels"]
    figures = {"image_to_text_top1_of_100": float(forward), "text_to_image_top1_of_100": float(backward)}
    for k, label in enumerate(CLASSES):
        readout = LogisticRegression(max_iter=300).fit(known, train["labels"][:6000, k])
        figures[f"linear_{label}"] = float((readout.predict(x) == y[:, k]).mean())
    place = Ridge(1.0).fit(known, train["labels"][:6000, 3:5]).predict(x)
    figures["linear_position_error_median"] = float(np.median(np.linalg.norm(place - y[:, 3:5], axis=1)))
    return figures


def made_by(folder: Path) -> str:
    """Tell how the model was trained, a line a run, from what the scripts recorded."""
    lines = []
    for stage in json.loads((folder / "training.json").read_text())["stages"]:
        resumed = ", continued from the line before" if stage.get("resumed") else ""
        note = f"; {stage['note']}" if stage.get("note") else ""
        lines.append(
            f"- `{stage['command']}`: {stage['steps']} steps of {stage['batch']}, {stage['minutes']} minutes, "
            f"seed {stage['seed']}, on {stage['machine']}{resumed}{note}"
        )
    return "\n".join(lines)


def table(rows: dict[str, float]) -> str:
    """Format figures as a table."""
    return "\n".join(
        [
            "| figure | value |",
            "|---|---|",
            *(f"| {k.replace('_', ' ')} | {v:.3f} |" for k, v in rows.items()),
        ]
    )


CARDS = {
    "tiny-clip": """# tiny-clip

A small open_clip model (vision transformer, patch 8, 64 x 64 pixels, embedding of 128) of procedural scenes and captions.

Load: `open_clip.create_model("local-dir:<this folder>")`; pictures as `2 * pixels - 1`. An embedding that is not normalised has
features of mean square one.

Trained contrastively. Linear heads on the image embedding (category, colour, position, size, pose of the main object; the other
objects; the place) and on patch tokens were trained beside it and thrown away, so that the embedding carries these things
linearly: it is a friendlier target for decoding than a purely contrastive one.
""",
    "tiny-kandinsky": """# tiny-kandinsky

A Kandinsky 2.2 decoder of procedural scenes: `UNet2DConditionModel` on 8 x 8 x 8 latents, conditioned on tiny-clip's image
embedding (not normalised), and a `VQModel` of factor 8. Load: `KandinskyV22Pipeline.from_pretrained(<this folder>)`.

The null condition (`negative_image_embeds`) is zeros. The UNet predicts the sample; its second half of output channels is zero.
Latents have unit variance and the movq's codebook is untrained and unused. diffusers' own img2img pipeline assumes latents of four
channels, so it needs a subclass for these. `training_index.safetensors` holds the seeds of the scenes the generator was
trained on and their quantised embeddings (`embedding = int8 * scale`), so that the nearest one can be found and drawn again.
""",
    "tiny-eval": """# tiny-eval

A small residual network that classifies and locates the main object of a 64 x 64 scene and names the place; another architecture
and another objective than tiny-clip's. It only scores. Load: `braindecode_suite.core.tiny_eval.load_tiny_eval()`.

Trained on drawn scenes, half of them blurred and noisy. The main object is the one that covers most pixels.
""",
}


def write_card(name: str, made: str, measured: dict[str, Any]) -> None:
    """Write `measured.json` and the card of one model."""
    folder = ASSETS / name
    (folder / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    parts = [f"### {title}\n\n{table(rows)}\n" for title, rows in measured.items()]
    seeds = (
        f"Scenes: `braindecode_suite.datasets.simulate_scenes`; trained on seeds within {GENERATOR_SEEDS.start} to "
        f"{GENERATOR_SEEDS.stop - 1}, measured on seeds from {VALIDATION_SEEDS.start}, studies draw theirs from {STUDY_SEEDS_START}.\n"
    )
    measured_by = "## Measured on held-out scenes\n\nBy `tools/evaluate_tiny_models.py`.\n"
    text = "\n".join([CARDS[name], "## How it was made\n", made, "", seeds, measured_by, *parts])
    (folder / "README.md").write_text(text.rstrip() + "\n")


def write_grid(truth: Tensor, decoded: Tensor, file: Path, n: int = 48) -> None:
    """Write rows of true scenes, each above what was decoded from its embedding."""
    rows = []
    for start in range(0, n, 12):
        rows += [torch.cat(list(x[start : start + 12]), 2) for x in (truth, decoded)]
    picture = (torch.cat(rows, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(picture).resize(
        (picture.shape[1] * 2, picture.shape[0] * 2), Image.Resampling.NEAREST
    ).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=400, help="held-out scenes to decode")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--work-dir", type=Path, default=Path("tiny_models_work"))
    parser.add_argument("--grid", type=Path, help="write a picture of truths and decoded pictures")
    parser.add_argument("--no-cards", action="store_true", help="decode and print only")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = json.loads((ASSETS / "tiny-kandinsky" / "generator.json").read_text())
    steps = options.steps or chosen["steps"]
    guidance = chosen["guidance"] if options.guidance is None else options.guidance
    held = scenes(options.work_dir, "validation")
    truth, labels = to_float(held["images"][: options.n]), held["labels"][: options.n]
    pipeline = load_pipeline()
    decoded = decode(pipeline, embed(truth), steps, guidance)
    with torch.no_grad():
        latents = [pipeline.movq.encode(p * 2 - 1).latents for p in truth.split(50)]
        trip = torch.cat([pipeline.movq.decode(z, force_not_quantize=True).sample for z in latents])
    trip = (trip * 0.5 + 0.5).clamp(0, 1)
    psnr = float((-10 * torch.log10((trip - truth).pow(2).mean((1, 2, 3)))).mean())
    settings = f"{options.n} scenes, {steps} steps, guidance {guidance:g}"
    kandinsky: dict[str, dict[str, float]] = {
        f"Decoded from the true embedding ({settings}), judged by tiny-eval": judge(decoded, labels)
        | {"pixcorr": correlation(decoded, truth)},
        "The movq's round trip, judged by tiny-eval": judge(trip, labels) | {"psnr_db": psnr},
        "The drawn scenes themselves, judged by tiny-eval": judge(truth, labels),
    }
    print(json.dumps(kandinsky, indent=1))
    if options.grid:
        write_grid(truth, decoded, options.grid)
    if options.no_cards:
        return
    folder = ASSETS / "tiny-kandinsky"
    made = "\n".join(f"{part}:\n\n{made_by(folder / part)}\n" for part in ("movq", "unet"))
    write_card("tiny-kandinsky", made, kandinsky)
    write_card(
        "tiny-clip",
        made_by(ASSETS / "tiny-clip"),
        {"2000 scenes, galleries of 100": clip_figures(options.work_dir)},
    )
    everything = judge(to_float(held["images"]), held["labels"])
    write_card("tiny-eval", made_by(ASSETS / "tiny-eval"), {"2000 drawn scenes": everything})


if __name__ == "__main__":
    main()

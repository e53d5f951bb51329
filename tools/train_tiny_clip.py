"""Train tiny-clip: a small open_clip model on procedural scenes and their captions.

Contrastive loss on (picture, caption) pairs. Linear heads on the unit-length image embedding, thrown away afterwards, are
trained beside it to tell the objects' categories, colours and positions and the place, so that the embedding carries them
linearly; another on the patch tokens of the last but one layer tells what each patch shows, which makes shapes come sooner.

    python tools/train_tiny_clip.py --minutes 25
"""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from tiny_common import (
    ASSETS,
    Clock,
    arguments,
    batches,
    patch_maps,
    record,
    save_half,
    scenes,
    set_rate,
    to_float,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from braindecode_suite.datasets.simulate_scenes import CATEGORIES, COLOURS, PLACES

FOLDER = ASSETS / "tiny-clip"
EMBEDDING, WIDTH, CONTEXT = 128, 96, 40
HEADS = {
    "category": len(CATEGORIES),
    "colour": len(COLOURS),
    "place": len(PLACES),
    "geometry": 6,
    "others": 2 * 23,
}


def write_tokenizer(texts: np.ndarray, folder: Path) -> int:
    """Write a tokenizer of whole words that knows the captions' vocabulary; return its size."""
    words = sorted(
        {word for text in texts.ravel() for word in text.replace(",", " ").replace(":", " ").split()}
    )
    vocabulary = {word: k for k, word in enumerate(["<pad>", "<unk>", "<start>", *words, "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    ends = [("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=CONTEXT,
    ).save_pretrained(folder)
    return len(vocabulary)


def write_config(vocabulary: int, folder: Path) -> None:
    """Write open_clip's own configuration of the model."""
    config = {
        "model_cfg": {
            "embed_dim": EMBEDDING,
            "vision_cfg": {"image_size": 64, "layers": 4, "width": WIDTH, "head_width": 48, "patch_size": 8},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary,
                "hf_tokenizer_name": ".",
                "width": WIDTH,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "size": 64,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def auxiliary_loss(out: torch.Tensor, labels: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Loss of the linear heads; `out` is (batch, sum of HEADS)."""
    category, colour, place, geometry, other = out.split(list(HEADS.values()), 1)
    loss = sum(
        functional.cross_entropy(head, labels[:, k].long())
        for k, head in enumerate((category, colour, place))
    )
    x, y, size, pose, mirror = labels[:, 3:].unbind(1)
    wanted = torch.stack([4 * (x - 0.5), 4 * (y - 0.5), 8 * (size - 0.5), pose / 20, 2 * mirror - 1], 1)
    weight = torch.tensor([2.0, 2.0, 1.0, 0.5, 0.2], device=out.device)
    loss = loss + (weight * (geometry[:, :5] - wanted) ** 2).mean()
    for slot, head in enumerate(other.split(23, 1)):
        there = others[:, slot, 0] >= 0
        loss = loss + 0.2 * functional.binary_cross_entropy_with_logits(head[:, 22], there.float())
        if there.any():
            head, row = head[there], others[there, slot]
            loss = loss + 0.1 * functional.cross_entropy(head[:, :12], row[:, 0].long())
            loss = loss + 0.1 * functional.cross_entropy(head[:, 12:20], row[:, 1].long())
            loss = loss + 0.3 * functional.mse_loss(head[:, 20:22], 4 * (row[:, 2:] - 0.5))
    return loss


def patch_loss(out: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Loss of the head on the patch tokens; `out` is (batch, 64, 13 + 8), `maps` (batch, 2, 8, 8)."""
    category, colour = maps.flatten(2).long().unbind(1)
    there = category > 0
    weight = torch.ones(len(CATEGORIES) + 1, device=out.device)
    weight[0] = 0.3
    loss = functional.cross_entropy(out[..., :13].flatten(0, 1), category.flatten(), weight)
    return loss + 0.3 * functional.cross_entropy(out[..., 13:][there], colour[there])


def main() -> None:
    parser = arguments(__doc__ or "", minutes=25, batch=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true", help="start from the checkpoint in the work folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train, validation = scenes(options.work_dir, "train"), scenes(options.work_dir, "validation")
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_config(write_tokenizer(train["captions"], FOLDER), FOLDER)
    name = f"local-dir:{FOLDER}"
    model = open_clip.create_model(name, load_weights=False).to(options.device)
    tokenizer = open_clip.get_tokenizer(name)
    heads = nn.Linear(EMBEDDING, sum(HEADS.values())).to(options.device)
    patch_head = nn.Linear(WIDTH, 13 + len(COLOURS)).to(options.device)
    inner: list[torch.Tensor] = []
    checkpoint = options.work_dir / "clip.pt"
    if options.resume:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])

    tokens = tokenizer([str(t) for t in train["captions"].ravel()]).view(len(train["seeds"]), -1, CONTEXT)
    labels, others = torch.tensor(train["labels"]), torch.tensor(train["others"])
    n_check = 500
    check = to_float(validation["images"][:n_check]).to(options.device) * 2 - 1
    check_tokens = tokenizer([str(t) for t in validation["captions"][:n_check, 0]]).to(options.device)
    check_labels = torch.tensor(validation["labels"][:n_check])
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters(), *patch_head.parameters()],
        lr=options.rate,
        weight_decay=0.02,
        betas=(0.9, 0.98),
    )
    maps = torch.tensor(patch_maps(options.work_dir))
    model.visual.transformer.resblocks[2].register_forward_hook(
        lambda module, args, output: inner.append(output)
    )
    clock = Clock(options.minutes, options.export_every)

    def export(step: int) -> None:
        """Export with the image tower scaled so that an embedding's features have mean square one."""
        state = {k: v.clone() for k, v in model.state_dict().items()}
        with torch.no_grad():
            size = model.encode_image(check).pow(2).mean().sqrt()
        inner.clear()
        state["visual.proj"] = state["visual.proj"] / size.to(state["visual.proj"])
        save_half(state, FOLDER / "open_clip_model.safetensors")
        torch.save({"model": model.state_dict(), "heads": heads.state_dict()}, checkpoint)
        record(FOLDER, clock, options, step)

    for step, rows in enumerate(batches(len(labels), options.batch, options.seed)):
        if clock.share >= 1:
            break
        set_rate(optimiser, clock.rate(step, options.rate))
        pick = torch.randint(tokens.shape[1], (len(rows),))
        pictures = to_float(train["images"][rows.numpy()]).to(options.device) * 2 - 1
        with torch.autocast(options.device.split(":")[0], torch.bfloat16):
            image = model.encode_image(pictures)
            text = model.encode_text(tokens[rows, pick].to(options.device))
        image, text = functional.normalize(image.float(), dim=1), functional.normalize(text.float(), dim=1)
        logits = model.logit_scale.exp() * image @ text.T
        target = torch.arange(len(rows), device=options.device)
        contrastive = (
            functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        ) / 2
        out = heads(image * EMBEDDING**0.5)
        auxiliary = auxiliary_loss(out, labels[rows].to(options.device), others[rows].to(options.device))
        patches = patch_loss(patch_head(inner.pop()[:, 1:].float()), maps[rows].to(options.device))
        optimiser.zero_grad(set_to_none=True)
        (contrastive + 0.5 * auxiliary + 0.5 * patches).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(50))
        if step % 100 == 0:
            model.eval()
            with torch.no_grad():
                image = model.encode_image(check, normalize=True)
                text = model.encode_text(check_tokens, normalize=True)
                out = heads(image * EMBEDDING**0.5).cpu()
                similarity = (image[:100] @ text[:100].T).cpu()
            inner.clear()
            model.train()
            diagonal = torch.arange(100)
            hits = [float((s.argmax(1) == diagonal).float().mean()) for s in (similarity, similarity.T)]
            right = [
                round(float((o.argmax(1) == check_labels[:, k]).float().mean()), 3)
                for k, o in enumerate(out.split(list(HEADS.values()), 1)[:3])
            ]
            shift = (out[:, 32:34] / 4 + 0.5 - check_labels[:, 3:5]).norm(dim=1).median()
            print(
                f"{step} {clock.elapsed:.1f}min loss {contrastive.item():.3f} {auxiliary.item():.3f} {patches.item():.3f} top1 {hits} "
                f"category, colour, place {right} position {shift:.3f}",
                flush=True,
            )
        if clock.export_is_due():
            export(step)
    export(step)


if __name__ == "__main__":
    main()

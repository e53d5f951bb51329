"""Train tiny-kandinsky's UNet: latents of a scene from tiny-clip's embedding of it.

The network predicts the clean latents. One condition in ten is the null embedding (zeros), for classifier-free guidance, and
a little noise is added to the others, so that embeddings predicted from a brain are met with patience. The Kandinsky
pipelines expect twice as many output channels as input channels; the second half is fixed at zero. Embeddings and latents
are computed once, before the first step. Run the scripts of tiny-clip and the movq first.

    python tools/train_tiny_unet.py --minutes 70
"""

import argparse
import json
import time
from pathlib import Path

import open_clip
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel, VQModel
from safetensors.torch import save_file
from tiny_common import (
    ASSETS,
    Average,
    Clock,
    arguments,
    batches,
    record,
    save_half,
    scenes,
    set_rate,
    to_float,
)
from torch import Tensor, nn

from braindecode_suite.datasets.simulate_scenes import GENERATOR_SEEDS

FOLDER = ASSETS / "tiny-kandinsky"
LATENT, EMBEDDING = 8, 128
CONDITION_DROPOUT, CONDITION_NOISE = 0.1, 0.2


def build() -> UNet2DConditionModel:
    """Return an untrained UNet of Kandinsky 2.2's kind on 8 x 8 x 8 latents."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT,
        out_channels=2 * LATENT,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(96, 144),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=48,
        time_embedding_dim=256,
        cross_attention_dim=64,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="image",
        addition_embed_type_num_heads=64,
        encoder_hid_dim=EMBEDDING,
        encoder_hid_dim_type="image_proj",
    )


def build_scheduler() -> DDPMScheduler:
    """Return the noise schedule: Kandinsky 2.2's betas; the network predicts the sample."""
    return DDPMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
        variance_type="fixed_small",
    )


@torch.no_grad()
def encode_latents(images: Tensor, device: str) -> Tensor:
    """Encode uint8 pictures (scenes, 64, 64, 3) with the movq: latents of shape (scenes, 8, 8, 8)."""
    movq = VQModel.from_pretrained(FOLDER, subfolder="movq", torch_dtype=torch.float32).to(device)
    latents = []
    for part in images.split(50):
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            latents.append(movq.encode(to_float(part).to(device) * 2 - 1).latents.float().cpu())
    return torch.cat(latents)


@torch.no_grad()
def encode_embeddings(images: Tensor, device: str) -> Tensor:
    """Embed uint8 pictures (scenes, 64, 64, 3) with tiny-clip: embeddings of shape (scenes, 128)."""
    clip = open_clip.create_model(f"local-dir:{ASSETS / 'tiny-clip'}").to(device).eval()
    return torch.cat(
        [clip.encode_image(to_float(part).to(device) * 2 - 1).cpu() for part in images.split(100)]
    )


def encoded(options: argparse.Namespace, part: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Return embeddings and latents of a part's scenes, from the work folder unless `--encode-again` is given."""
    results = []
    for name, function in (("latents", encode_latents), ("embeddings", encode_embeddings)):
        file = options.work_dir / f"{name}_{part}.pt"
        if options.encode_again or not file.exists():
            images = torch.tensor(scenes(options.work_dir, part)["images"][:limit])
            torch.save(function(images, options.device), file)
        results.append(torch.load(file, weights_only=True))
    return results[1], results[0]


def write_index(seeds: Tensor, embeddings: Tensor) -> None:
    """Store the training scenes' seeds and quantised embeddings, for the memorisation check."""
    scale = embeddings.abs().amax() / 127
    table = {"seeds": seeds, "embeddings": (embeddings / scale).round().to(torch.int8), "scale": scale}
    save_file(table, FOLDER / "training_index.safetensors")


def write_pipeline() -> None:
    """Write what `KandinskyV22Pipeline.from_pretrained` reads beside the networks."""
    build_scheduler().save_config(FOLDER / "scheduler")
    parts = {"movq": "VQModel", "scheduler": "DDPMScheduler", "unet": "UNet2DConditionModel"}
    index = {"_class_name": "KandinskyV22Pipeline", "_diffusers_version": "0.35.0"}
    text = json.dumps(index | {k: ["diffusers", v] for k, v in parts.items()}, indent=2)
    (FOLDER / "model_index.json").write_text(text + "\n")
    chosen = {
        "target": "tiny-clip",
        "negative": "zeros",
        "steps": 12,
        "guidance": 1.5,
        "strength": 0.8,
        "size": 64,
    }
    (FOLDER / "generator.json").write_text(json.dumps(chosen, indent=1) + "\n")


def exchange(model: nn.Module, worker: int, folder: Path) -> None:
    """Average the weights with those that the other of two processes wrote last, and write the result for it.

    Two processes of one thread each do more steps than one of two threads where the cores are not idle.
    """
    theirs, mine = (folder / f"worker_{k}.pt" for k in (1 - worker, worker))
    if theirs.exists() and time.time() - theirs.stat().st_mtime < 300:
        other = torch.load(theirs, weights_only=True)
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.lerp_(other[name].to(value), 0.5)
    part = mine.with_suffix(".part")
    torch.save(model.state_dict(), part)
    part.replace(mine)


def main() -> None:
    parser = arguments(__doc__ or "", minutes=70, batch=64)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--resume", type=Path, help="start from this checkpoint")
    parser.add_argument(
        "--worker", type=int, choices=(0, 1), help="one of two processes that average their weights"
    )
    parser.add_argument("--flat", type=float, default=0.4, help="share of the time before the rate goes down")
    parser.add_argument(
        "--encode-again", action="store_true", help="ignore the embeddings and latents of an earlier run"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    embeddings, latents = encoded(options, "train")
    held_embeddings, held_latents = encoded(options, "validation", 256)
    if options.worker != 1:
        write_pipeline()
        write_index(torch.arange(len(embeddings)) + GENERATOR_SEEDS.start, embeddings)
    spread = embeddings.std(0)
    print(
        "latents",
        latents.mean().item(),
        latents.std().item(),
        "embeddings",
        embeddings.std().item(),
        flush=True,
    )
    model = build().to(options.device)
    with torch.no_grad():
        model.conv_out.weight[LATENT:] = 0
        model.conv_out.bias[LATENT:] = 0
    if options.resume:
        model.load_state_dict(torch.load(options.resume, weights_only=True))
    average = Average(model, 0.995)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=options.rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    clock = Clock(options.minutes, options.export_every)
    cumulative = build_scheduler().alphas_cumprod.to(options.device)
    kind = options.device.split(":")[0]

    def predict(network: nn.Module, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16):
            out = network(
                noisy, t, encoder_hidden_states=None, added_cond_kwargs={"image_embeds": condition}
            ).sample
        return out[:, :LATENT].float()

    def export(step: int) -> None:
        if options.worker == 1:
            return
        build().save_config(FOLDER / "unet")
        save_half(average.state, FOLDER / "unet" / "diffusion_pytorch_model.safetensors")
        torch.save(average.state, options.work_dir / "unet.pt")
        parameters = sum(p.numel() for p in model.parameters())
        record(FOLDER / "unet", clock, options, step, parameters=parameters)

    total = 0.0
    for step, rows in enumerate(batches(len(latents), options.batch, options.seed)):
        if clock.share >= 1:
            break
        set_rate(optimiser, clock.rate(step, options.rate, flat=options.flat))
        clean, condition = latents[rows].to(options.device), embeddings[rows]
        condition = condition + CONDITION_NOISE * torch.rand(len(rows), 1) * spread * torch.randn_like(
            condition
        )
        condition = condition * (torch.rand(len(rows), 1) >= CONDITION_DROPOUT)
        t = (1000 * (1 - torch.rand(len(rows)) ** 1.5)).long().clamp(0, 999).to(options.device)
        level = cumulative[t].view(-1, 1, 1, 1)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * torch.randn_like(clean)
        error = (predict(model, noisy, t, condition.to(options.device)) - clean) ** 2
        weight = 1 + (level / (1 - level)).clamp(max=4.0)
        loss = (weight * error).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if options.worker is not None and step % 50 == 49:
            exchange(model, options.worker, options.work_dir)
        if step % 4 == 0:
            average.update(model)
        total += loss.item()
        if step % 200 == 0:
            with torch.no_grad():
                noise = torch.randn(held_latents.shape, generator=torch.Generator().manual_seed(0))
                t = torch.full((len(noise),), 999, device=options.device)
                first = predict(model.eval(), noise.to(options.device), t, held_embeddings.to(options.device))
                model.train()
            held = (first - held_latents.to(options.device)).pow(2).mean()
            print(
                f"{step} {clock.elapsed:.1f}min loss {total / (200 if step else 1):.4f} held-out x0 {held:.4f}",
                flush=True,
            )
            total = 0.0
        if clock.export_is_due():
            export(step)
    export(step)


if __name__ == "__main__":
    main()

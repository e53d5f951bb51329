"""Train tiny-kandinsky's movq: an autoencoder of procedural scenes in diffusers' `VQModel`.

Trained without its codebook, which the Kandinsky pipelines never use. The latents are normalised by the batch while it
trains and a little noise is added to them, which keeps the latent space smooth; at the end mean and standard deviation are
folded into `quant_conv`, so that latents have unit variance and the scaling factor is one.

    python tools/train_tiny_movq.py --minutes 20
"""

import torch
from diffusers import VQModel
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
from torch import nn
from torch.nn import functional

FOLDER = ASSETS / "tiny-kandinsky"
LATENT = 8
NOISE = 0.15


def build() -> VQModel:
    """Return an untrained autoencoder: 64 x 64 pixels to 8 x 8 x 8."""
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 48, 96),
        layers_per_block=1,
        latent_channels=LATENT,
        sample_size=64,
        num_vq_embeddings=2,
        norm_num_groups=8,
        scaling_factor=1.0,
        mid_block_add_attention=True,
    )


def fold(
    state: dict[str, torch.Tensor], mean: torch.Tensor, deviation: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Fold the latents' mean and standard deviation, shape (channels,), into the last convolution of the encoder."""
    state = {k: v.clone() for k, v in state.items()}
    weight, bias = state["quant_conv.weight"], state["quant_conv.bias"]
    state["quant_conv.weight"] = weight / deviation[:, None, None, None]
    state["quant_conv.bias"] = (bias - mean) / deviation
    return state


def weighted_loss(decoded: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """Squared error, three times as heavy on saturated pixels (the objects), plus that of the pixel differences."""
    weight = 1 + 2 * ((picture.amax(1, keepdim=True) - picture.amin(1, keepdim=True)) > 0.9).float()
    error = decoded - picture
    edges = error.diff(dim=2).pow(2).mean() + error.diff(dim=3).pow(2).mean()
    return (weight * error**2).mean() + 0.5 * edges


def main() -> None:
    parser = arguments(__doc__ or "", minutes=20, batch=16)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--resume", action="store_true", help="start from the checkpoint in the work folder")
    parser.add_argument(
        "--decoder-only", action="store_true", help="leave the encoder, hence all latents, as they are"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    images = scenes(options.work_dir, "train")["images"]
    check = to_float(scenes(options.work_dir, "validation")["images"][:200]).to(options.device) * 2 - 1
    model = build().to(options.device)
    checkpoint = options.work_dir / "movq.pt"
    if options.resume:
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
    average = Average(model, 0.998)
    if options.decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.rate, weight_decay=1e-4, betas=(0.9, 0.98))
    clock = Clock(options.minutes, options.export_every)
    kind = options.device.split(":")[0]

    @torch.no_grad()
    def export(step: int) -> float:
        """Export the average, folded, and return its round trip's PSNR on the check scenes."""
        copy = build().to(options.device)
        copy.load_state_dict(average.state)
        reference = to_float(images[:2000]).to(options.device) * 2 - 1
        latents = torch.cat([copy.encode(part).latents for part in reference.split(100)])
        state = fold(copy.state_dict(), latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        copy.load_state_dict(state)
        normal = torch.cat(
            [copy.decode(copy.encode(p).latents, force_not_quantize=True).sample for p in check.split(50)]
        )
        psnr = -10 * torch.log10(((normal.clamp(-1, 1) - check) / 2).pow(2).mean((1, 2, 3))).mean()
        copy.save_config(FOLDER / "movq")
        save_half(copy.state_dict(), FOLDER / "movq" / "diffusion_pytorch_model.safetensors")
        torch.save(average.state, checkpoint)
        record(FOLDER / "movq", clock, options, step, decoder_only=options.decoder_only)
        return float(psnr)

    for step, rows in enumerate(batches(len(images), options.batch, options.seed)):
        if clock.share >= 1:
            break
        set_rate(optimiser, clock.rate(step, options.rate))
        picture = to_float(images[rows.numpy()]).to(options.device) * 2 - 1
        with torch.autocast(kind, torch.bfloat16):
            latents = model.encode(picture).latents.float()
            centre, spread = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)
            normal = (latents - centre) / (spread + 1e-5)
            normal = normal + NOISE * torch.rand(len(rows), 1, 1, 1, device=normal.device) * torch.randn_like(
                normal
            )
            decoded = model.decode(normal, force_not_quantize=True).sample.float()
        loss = weighted_loss(decoded, picture)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        average.update(model)
        if step % 100 == 0:
            print(
                f"{step} {clock.elapsed:.1f}min loss {loss.item():.4f} mse {functional.mse_loss(decoded, picture):.4f}",
                flush=True,
            )
        if clock.export_is_due():
            print(f"exported at step {step}: PSNR {export(step):.2f} dB", flush=True)
    print(f"exported at step {step}: PSNR {export(step):.2f} dB", flush=True)


if __name__ == "__main__":
    main()

"""Train tiny-eval: a small residual network that classifies and locates the main object of a scene.

Many of the pictures are bent, blurred and made noisy, so that the network also judges pictures that are less sharp than drawn
ones. It never sees a picture that went through the movq or the generator.

    python tools/train_tiny_eval.py --minutes 10
"""

import json

import torch
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
from torch.nn import functional

from braindecode_suite.core.tiny_eval import CONFIG, WEIGHTS, TinyEval, load_tiny_eval
from braindecode_suite.datasets.simulate_scenes import CATEGORIES, COLOURS, PLACES

FOLDER = ASSETS / "tiny-eval"


def wobble(pictures: Tensor) -> Tensor:
    """Bend the pictures by up to a pixel or two, smoothly."""
    shift = 0.05 * torch.rand(len(pictures), 1, 1, 1) * torch.randn(len(pictures), 2, 9, 9)
    shift = functional.interpolate(shift, size=(64, 64), mode="bicubic").permute(0, 2, 3, 1)
    grid = functional.affine_grid(
        torch.eye(2, 3).expand(len(pictures), 2, 3), [len(pictures), 3, 64, 64], align_corners=False
    )
    grid = (grid + shift).to(pictures.device)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def roughen(pictures: Tensor) -> Tensor:
    """Bend half of the pictures, blur three fifths of them by different amounts and add noise to half."""
    pictures = pictures.clone()
    pictures[::2] = wobble(pictures[::2])
    fifth = len(pictures) // 5
    for k, low in enumerate((1.5, 2.0, 3.0)):
        part = slice(k * fifth, (k + 1) * fifth)
        factor = low * (1 + 0.6 * float(torch.rand(1)))
        small = functional.interpolate(
            pictures[part], scale_factor=1 / factor, mode="bilinear", antialias=True
        )
        rough = functional.interpolate(small, size=(64, 64), mode="bilinear")
        share = torch.rand(len(rough), 1, 1, 1, device=pictures.device) ** 0.3
        pictures[part] = share * rough + (1 - share) * pictures[part]
    noise = 0.06 * torch.rand(len(pictures), 1, 1, 1, device=pictures.device) * torch.randn_like(pictures)
    noise[::2] = 0
    return (pictures + noise).clamp(0, 1)


def loss_of(answers: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropies plus squared errors in units of the training set's spread."""
    names = ("category", "colour", "place")
    loss = torch.stack(
        [functional.cross_entropy(answers[n], labels[:, k].long()) for k, n in enumerate(names)]
    ).sum()
    position = functional.mse_loss(answers["position"] / 0.15, labels[:, 3:5] / 0.15)
    return loss + position + 0.5 * functional.mse_loss(answers["size"] / 0.08, labels[:, 5] / 0.08)


def main() -> None:
    parser = arguments(__doc__ or "", minutes=10, batch=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--resume", action="store_true", help="start from the exported weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    data, held_out = scenes(options.work_dir, "train"), scenes(options.work_dir, "validation")
    labels = torch.tensor(data["labels"])
    check, check_labels = to_float(held_out["images"][:500]), torch.tensor(held_out["labels"][:500])
    model = TinyEval(list(CATEGORIES), list(COLOURS), list(PLACES)).to(options.device)
    if options.resume:
        model.load_state_dict(load_tiny_eval(FOLDER).state_dict())
        model.train()
    average = Average(model, 0.995)
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.02)
    clock = Clock(options.minutes, options.export_every)

    def export(step: int) -> None:
        copy = TinyEval(**model.config())
        copy.load_state_dict(average.state)
        copy.eval()
        FOLDER.mkdir(parents=True, exist_ok=True)
        save_half(copy.state_dict(), FOLDER / WEIGHTS)
        (FOLDER / CONFIG).write_text(json.dumps(copy.config(), indent=1) + "\n")
        with torch.no_grad():
            answers = copy(check)
        names = ("category", "colour", "place")
        right = [
            float((answers[n].argmax(1) == check_labels[:, k]).float().mean()) for k, n in enumerate(names)
        ]
        shift = (answers["position"] - check_labels[:, 3:5]).norm(dim=1).median()
        print(
            f"exported at step {step}: {dict(zip(names, right, strict=True))} position {shift:.3f}",
            flush=True,
        )
        record(FOLDER, clock, options, step)

    for step, rows in enumerate(batches(len(labels), options.batch, options.seed)):
        if clock.share >= 1:
            break
        set_rate(optimiser, clock.rate(step, options.rate))
        pictures = roughen(to_float(data["images"][rows.numpy()]).to(options.device))
        with torch.autocast(options.device.split(":")[0], torch.bfloat16):
            answers = model(pictures)
        loss = loss_of({k: v.float() for k, v in answers.items()}, labels[rows].to(options.device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        if step % 100 == 0:
            print(f"{step} {clock.elapsed:.1f}min loss {loss.item():.3f}", flush=True)
        if clock.export_is_due():
            export(step)
    export(step)


if __name__ == "__main__":
    main()

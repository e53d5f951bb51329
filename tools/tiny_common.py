"""What the training scripts of the tiny image models share: the scenes, their labels, the clock, the export."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from braindecode_suite.datasets.simulate_scenes import (
    CATEGORIES,
    COLOURS,
    GENERATOR_SEEDS,
    PLACES,
    VALIDATION_SEEDS,
    captions,
    draw_scene,
    main_object,
    object_masks,
    render,
)

ASSETS = Path(__file__).resolve().parents[1] / "braindecode_suite" / "assets"
N_TRAIN, N_VALIDATION = 40_000, 2_000
CAPTIONS_PER_SCENE = 4
LABELS = ("category", "colour", "place", "x", "y", "size", "pose", "mirror")
"""Columns of the label table; the first three are indices into the scene vocabulary, for the main object."""
OTHER_LABELS = ("category", "colour", "x", "y")
"""Columns of each further object; -1 where there is none."""


def arguments(description: str, minutes: float, batch: int) -> argparse.ArgumentParser:
    """Return the parser of the options that every training script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=minutes, help="wall time to train for")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("tiny_models_work"), help="scenes and checkpoints"
    )
    parser.add_argument("--export-every", type=float, default=5.0, help="minutes between exports")
    return parser


def _label_scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    scene = draw_scene(seed)
    index = main_object(scene)
    main = scene.objects[index]
    colours = list(COLOURS)
    labels = np.array(
        [
            CATEGORIES.index(main.category),
            colours.index(main.colour),
            PLACES.index(scene.place),
            main.x,
            main.y,
            main.size,
            main.pose,
            main.mirror,
        ],
        np.float32,
    )
    others = np.full((2, len(OTHER_LABELS)), -1, np.float32)
    for k, o in enumerate(o for i, o in enumerate(scene.objects) if i != index):
        others[k] = CATEGORIES.index(o.category), colours.index(o.colour), o.x, o.y
    return render(scene), labels, others, captions(scene, CAPTIONS_PER_SCENE, 0)


def scenes(work: Path, part: str) -> dict[str, np.ndarray]:
    """Draw the scenes of a part once and keep them on disk.

    Parameters
    ----------
    work : Path
    part : {"train", "validation"}

    Returns
    -------
    dict
        seeds (scenes,), images uint8 (scenes, 64, 64, 3), labels float32 (scenes, 8), others float32 (scenes, 2, 4),
        captions str (scenes, 4).
    """
    seeds = GENERATOR_SEEDS[:N_TRAIN] if part == "train" else VALIDATION_SEEDS[:N_VALIDATION]
    file = work / f"scenes_{part}_{len(seeds)}.npz"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        with get_context("spawn").Pool(min(os.cpu_count() or 1, 8)) as pool:
            drawn = pool.map(_label_scene, seeds, chunksize=500)
        images, labels, others, texts = (np.stack([np.asarray(d[k]) for d in drawn]) for k in range(4))
        part_file = file.with_suffix(f".{os.getpid()}.npz")
        np.savez(
            part_file, seeds=np.array(seeds), images=images, labels=labels, others=others, captions=texts
        )
        part_file.replace(file)
    with np.load(file) as data:
        return {name: data[name] for name in data.files}


def _patch_map(seed: int) -> np.ndarray:
    scene = draw_scene(seed)
    cover = object_masks(scene).reshape(-1, 8, 8, 8, 8).mean((2, 4))  # (objects, rows, columns)
    best = cover.argmax(0)
    names = list(COLOURS)
    pairs = np.array([(1 + CATEGORIES.index(o.category), names.index(o.colour)) for o in scene.objects])
    found = pairs[best].transpose(2, 0, 1)
    found[0][cover.max(0) < 0.25] = 0
    return found.astype(np.uint8)


def patch_maps(work: Path) -> np.ndarray:
    """Tell what each 8 x 8 patch of the training scenes shows.

    Returns
    -------
    array of uint8 of shape (scenes, 2, 8, 8)
        Category + 1, or 0 for the place; colour.
    """
    file = work / f"patches_{N_TRAIN}.npy"
    if not file.exists():
        with get_context("spawn").Pool(min(os.cpu_count() or 1, 8)) as pool:
            np.save(file, np.stack(pool.map(_patch_map, GENERATOR_SEEDS[:N_TRAIN], chunksize=500)))
    return np.load(file)


def to_float(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Turn uint8 (batch, height, width, 3) into float (batch, 3, height, width) in [0, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255


def batches(n: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield row numbers for ever, each epoch in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % size].split(size)


class Clock:
    """Wall time as a share of what was asked for; the learning rate follows it."""

    def __init__(self, minutes: float, export_every: float) -> None:
        self.start, self.minutes, self.export_every = time.time(), minutes, export_every
        self.exported = 0.0

    @property
    def elapsed(self) -> float:
        """Minutes since the start."""
        return (time.time() - self.start) / 60

    @property
    def share(self) -> float:
        """Share of the time that is over."""
        return self.elapsed / self.minutes

    def export_is_due(self) -> bool:
        """Tell, once in `export_every` minutes, that it is time to export."""
        if self.elapsed - self.exported < self.export_every:
            return False
        self.exported = self.elapsed
        return True

    def rate(self, step: int, peak: float, warmup: int = 200, flat: float = 0.4) -> float:
        """Learning rate: linear warm-up by step, flat, then down to 2 % along a half cosine by time."""
        down = min(max((self.share - flat) / (1 - flat), 0.0), 1.0)
        return peak * min((step + 1) / warmup, 1.0) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * down)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set one learning rate for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


class Average:
    """Exponential moving average of a module's parameters."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.999) -> None:
        self.decay, self.step = decay, 0
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Move the average towards the module; faster in the first steps."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


def save_half(state: dict[str, torch.Tensor], file: Path) -> None:
    """Write tensors as float16 safetensors, through a temporary file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
    part = file.with_suffix(".part")
    save_file(half, part, metadata={"format": "pt"})
    part.replace(file)


def record(folder: Path, clock: Clock, options: argparse.Namespace, steps: int, **values: object) -> None:
    """Write this run into the folder's `training.json`, from which its card is made; a resumed run is added to the others."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "training.json"
    stages = json.loads(file.read_text())["stages"] if file.exists() else []
    resumed = bool(getattr(options, "resume", None))
    hidden = ("--work-dir", "--threads", "--minutes", "--export-every", "--seed")
    told = [
        Path(a).name if "/" in a else a
        for k, a in enumerate(sys.argv)
        if k and a not in hidden and sys.argv[k - 1] not in hidden
    ]
    stage = {
        "started": round(clock.start),
        "command": " ".join([f"python tools/{Path(sys.argv[0]).name}", *told]),
        "steps": steps,
        "batch": options.batch,
        "minutes": round(clock.elapsed, 1),
        "seed": options.seed,
        "machine": machine(options.device, options.threads),
        "resumed": resumed,
        **values,
    }
    if stages and stages[-1]["started"] == stage["started"]:
        stages = stages[:-1]
    elif not resumed:
        stages = []
    file.write_text(json.dumps({"stages": [*stages, stage]}, indent=1) + "\n")


def machine(device: str, threads: int) -> str:
    """Name the kind of machine, for the card."""
    return (
        torch.cuda.get_device_name()
        if device.startswith("cuda")
        else f"{threads} CPU core(s), {platform.machine()}"
    )

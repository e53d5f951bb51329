"""What do the gathered readout and cached features save, at the size of the transformer brain encoder's paper?

961 tokens of 768 features, 50 queries (25 regions a hemisphere), 39,548 vertices, batches of 16 images. The variants take turns in
one process, on one thread unless told otherwise; the least seconds of each count: on the CPU those that the processor spent, which
a shared machine does not stretch (ratios of wall seconds are printed too), on a GPU wall seconds.

- Readout, forward and backward: a product per region against a product of every token with every vertex of its hemisphere that
  is masked and added up. Transient memory is the most that is held at once by tensors that are gone at the end (the gradients
  stay), as torch's profiler records them.
- Step: cached features are read from disk, the network runs forward and backward, gradients are clipped, AdamW moves every
  weight; with either readout. The losses of the same weights on the same batch are compared.
- Epoch on cached features against one that computes them by a ViT-B/14 of random weights (DINOv2's architecture, query
  projections of its last block, images of 425 pixels): a step against a step with the network's time per image, measured on a
  few images, times the batch. An epoch is so many steps, so the ratio is that of epochs; validation is left out on both sides.

    python benchmarks/routing_step.py [--json FILE] [--threads N] [--repeats 3] [--device cpu]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.profiler import profile

from braindecode_suite.core.features import FeatureStore, Grid, Rows
from braindecode_suite.core.files import write_json
from braindecode_suite.core.memory import reuse_freed_memory
from braindecode_suite.encoders.attention_routing_config import PRESETS
from braindecode_suite.encoders.attention_routing_task import to_tensor
from braindecode_suite.encoders.targets import make_features
from braindecode_suite.learning.layers import parameter_groups
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.routing import RoutingNetwork

VERTICES = (19_004, 20_544)
REGIONS, WIDTH, SIDE = 25, 768, 31
BACKBONE = "timm:vit_base_patch14_dinov2:block-12:queries:425px"


class DenseReadout(nn.Module):
    """Every token to every vertex of its hemisphere, masked by region and added up; weights of a `GatheredReadout`."""

    def __init__(self, network: RoutingNetwork, routes: Routes) -> None:
        super().__init__()
        self.sides = nn.ModuleList()
        first = np.cumsum([0, *VERTICES])
        for side, n in enumerate(VERTICES):
            segment = routes.segment[first[side] : first[side + 1]] - side * REGIONS
            heads = network.readout.heads[side * REGIONS : (side + 1) * REGIONS]
            linear = nn.Linear(WIDTH, n)
            order = np.argsort(np.argsort(segment, kind="stable"))  # of the vertices among those of all heads
            with torch.no_grad():
                linear.weight.copy_(torch.cat([head.weight for head in heads])[order])
                linear.bias.copy_(torch.cat([head.bias for head in heads])[order])
            self.sides.append(linear)
            mask = torch.from_numpy(np.arange(REGIONS)[:, None] == segment).float()
            self.register_buffer(f"mask_{side}", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, queries, width) to (batch, vertices)."""
        left, right = tokens.split(REGIONS, dim=1)
        return torch.cat(
            [
                (self.sides[0](left) * self.mask_0).sum(dim=1),
                (self.sides[1](right) * self.mask_1).sum(dim=1),
            ],
            dim=1,
        )


class Seconds(NamedTuple):
    """Least seconds of a run, by either clock."""

    cpu: float
    wall: float


def take_turns(runs: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, Seconds]:
    """Return the least seconds of each run; they take turns, after one turn that does not count."""
    best = {name: Seconds(float("inf"), float("inf")) for name in runs}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for turn in range(repeats + 1):
        for name, run in runs.items():
            wait()
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            wait()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if turn:
                best[name] = Seconds(min(best[name].cpu, cpu), min(best[name].wall, wall))
    return best


def transient_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes held at once, during a run, by blocks that are freed before it ends."""
    with profile(profile_memory=True, record_shapes=True) as recorded:
        run()
    changes, born = [], {}
    waiting = list(recorded.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.name == "[memory]":
            changes.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    blocks = []  # (time, bytes) of blocks that are born and die within the run
    for when, place, size in sorted(changes):
        if size > 0:
            born[place] = when, size
        elif place in born:
            start, size = born.pop(place)
            blocks += [(start, size), (when, -size)]
    return int(np.cumsum([size for _, size in sorted(blocks)]).max())


def make_routes() -> Routes:
    """Return 25 regions a hemisphere of unlike sizes, their vertices scattered."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(REGIONS, 2.0), 2)
    parts = [
        np.r_[np.arange(REGIONS), rng.choice(REGIONS, n - REGIONS, p=share[side])] + side * REGIONS
        for side, n in enumerate(VERTICES)
    ]
    return Routes(tuple(f"region-{k}" for k in range(2 * REGIONS)), np.concatenate(parts))


def make_cache(folder: Path, n_images: int) -> Rows:
    """Write random features of a few batches, as `ImageFeatures` keeps them."""
    rng = np.random.default_rng(0)
    store = FeatureStore(folder, {"features": "random"}, tokens=SIDE * SIDE, width=WIDTH)
    ids = [str(k) for k in range(n_images)]
    return store.rows(
        ids, lambda some: rng.standard_normal((len(some), SIDE * SIDE, WIDTH), dtype=np.float32)
    )


def make_step(
    network: RoutingNetwork, features: Rows, target: Tensor, batch: int, device: str
) -> Callable[[], float]:
    """Return one step of training on the next batch of cached features."""
    training = PRESETS["paper"].training
    optimiser = torch.optim.AdamW(
        parameter_groups(network, training.weight_decay), lr=training.learning_rate, fused=True
    )
    starts = iter(range(10**9))

    def step() -> float:
        first = next(starts) * batch % len(features)
        tokens = to_tensor(features[np.arange(first, first + batch)], device)
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(network(tokens), target)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
        optimiser.step()
        return float(loss.detach())

    return step


def measure_backbone(folder: Path, n_images: int, repeats: int, device: str) -> Seconds:
    """Return the least seconds for `n_images` of reading the query projections of a ViT-B/14 of random weights."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model(BACKBONE.split(":")[1], pretrained=False).state_dict()
    weights = folder / "random.safetensors"
    save_file(state, weights)
    source = make_features(BACKBONE, folder, weights, device)
    assert source.tokens == SIDE * SIDE
    images = np.random.default_rng(0).integers(0, 256, (n_images, 425, 425, 3), dtype=np.uint8)
    return take_turns({"backbone": lambda: source.embed_images(images)}, repeats, device)["backbone"]


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=2, help="images given to the ViT-B/14")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, device, repeats = arguments.batch, arguments.device, arguments.repeats

    torch.manual_seed(0)
    routes = make_routes()
    config = PRESETS["paper"].network.model_copy(update={"dropout": 0.0})  # so that losses can be compared
    networks = {k: RoutingNetwork(routes, Grid(SIDE, SIDE), WIDTH, config) for k in ("gathered", "dense")}
    networks["dense"].load_state_dict(networks["gathered"].state_dict())
    networks["dense"].readout = DenseReadout(networks["dense"], routes)
    for network in networks.values():
        network.to(device)
    target = torch.randn(batch, sum(VERTICES), device=device)
    tokens = torch.randn(batch, 2 * REGIONS, WIDTH, device=device, requires_grad=True)

    def read_out(name: str) -> Callable[[], None]:
        readout = networks[name].readout

        def run() -> None:
            tokens.grad = None
            readout.zero_grad(set_to_none=True)
            nn.functional.mse_loss(readout(tokens), target).backward()

        return run

    with tempfile.TemporaryDirectory() as folder, reuse_freed_memory():  # as `learning.training.train` does
        readouts = {name: read_out(name) for name in networks}
        readout_s = take_turns(readouts, max(repeats, 5), device)
        memory = {name: transient_bytes(run) for name, run in readouts.items()}
        features = make_cache(Path(folder), 4 * batch)
        first = to_tensor(features[np.arange(batch)], device)
        with torch.no_grad():
            loss = {k: float(nn.functional.mse_loss(n(first).double(), target)) for k, n in networks.items()}
        steps = {k: make_step(network, features, target, batch, device) for k, network in networks.items()}
        step_s = take_turns(steps, repeats, device)
        images_s = measure_backbone(Path(folder), arguments.images, repeats, device)

    def ratios(clock: str) -> dict[str, float]:
        readout, step, backbone = (
            {name: getattr(seconds, clock) for name, seconds in measured.items()}
            for measured in (readout_s, step_s, {"images": images_s})
        )
        recomputed = step["gathered"] + batch * backbone["images"] / arguments.images
        return {
            "speedup_readout": readout["dense"] / readout["gathered"],
            "speedup_step": step["dense"] / step["gathered"],
            "speedup_cached_epoch": recomputed / step["gathered"],
        }

    own = "wall" if device == "cuda" else "cpu"
    figures = {
        **ratios(own),
        "readout_memory_ratio": memory["gathered"] / memory["dense"],
        "loss_difference": abs(loss["dense"] - loss["gathered"]),
        **{f"{name}_wall": value for name, value in ratios("wall").items()},
        **{f"readout_{name}_s": getattr(seconds, own) for name, seconds in readout_s.items()},
        **{f"readout_{name}_mb": size / 1e6 for name, size in memory.items()},
        **{f"step_{name}_s": getattr(seconds, own) for name, seconds in step_s.items()},
        "backbone_image_s": getattr(images_s, own) / arguments.images,
        "parameters": sum(p.numel() for p in networks["gathered"].parameters()),
        "threads": arguments.threads,
        "repeats": repeats,
        "device": device,
    }
    for name, value in figures.items():
        print(f"{name:<26} {value:.4g}" if isinstance(value, float) else f"{name:<26} {value}")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()

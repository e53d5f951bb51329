"""How far is one MindEye training step from what this machine can do at all?

The step is the real one: a batch is drawn, mixed, run through backbone, projector and prior, and AdamW moves every tensor.
The bound is the sum of its matrix products, each timed alone in its own shape, and of the optimiser's memory traffic (seven
reads and writes of every parameter) at the copy speed measured here.

    python benchmarks/mindeye_step.py [--json FILE] [--threads N] [--repeats 3]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from braindecode_suite.core.files import write_json
from braindecode_suite.core.memory import reuse_freed_memory
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.latent_task import TargetLatents, fit_scalers
from braindecode_suite.encoders.mindeye import find_roles
from braindecode_suite.encoders.mindeye_config import PRESETS
from braindecode_suite.encoders.mindeye_network import MindEyeNetwork
from braindecode_suite.encoders.mindeye_task import MindEyeTask
from braindecode_suite.learning.diffusion_prior import Attention
from braindecode_suite.learning.layers import parameter_groups
from braindecode_suite.learning.synthetic import TableTarget, make_latents, make_study, rows_of
from braindecode_suite.learning.training import Moment

Shape = tuple[int, ...]


def best_of(run: Callable[[], object], repeats: int) -> float:
    """Return the least seconds of `repeats` runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def make_task(voxels: int, hidden: int, tokens: int, width: int, batch: int) -> MindEyeTask:
    """Build the paper's model with another hidden width, on random data."""
    paper = PRESETS["paper"]
    config = paper.model_copy(update={"backbone": paper.backbone.model_copy(update={"hidden": hidden})})
    study = make_study(make_latents(batch + 8, 1, 8), n_units=voxels)
    train, validation = (
        Cohort.of(study, rows_of(study, 0, batch)),
        Cohort.of(study, rows_of(study, batch, batch + 8)),
    )
    latents = np.random.default_rng(0).standard_normal((batch + 8, tokens, width), dtype=np.float32)
    target = TableTarget("random", latents)
    torch.manual_seed(0)
    roles = find_roles({"retrieval": {"name": target.name, "tokens": tokens, "width": width}}, config)
    network = MindEyeNetwork([voxels], roles, config)
    table = TargetLatents(target, train.stimuli, list(train.stimulus_ids), list(validation.stimulus_ids))
    scalers = fit_scalers(train, weight_by_signal=True)
    return MindEyeTask(network, config, train, validation, {"retrieval": table}, scalers, "cpu")


def matrix_products(task: MindEyeTask, step: Callable[[], object]) -> Counter[tuple[Shape, Shape]]:
    """Run a step and return the shapes of its matrix products, forward and backward, and how often each occurs."""
    products: Counter[tuple[Shape, Shape]] = Counter()

    def linear(module: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        rows, n_in, n_out = inputs[0].numel() // inputs[0].shape[-1], module.in_features, module.out_features
        products[(rows, n_in), (n_in, n_out)] += 1
        products[(n_out, rows), (rows, n_in)] += 1  # gradient of the weight
        if inputs[0].requires_grad:
            products[(rows, n_out), (n_out, n_in)] += 1  # gradient of the input

    def attention(module: Attention, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        batch, length, _ = inputs[0].shape
        rows, keys, width = module.heads * length, length + 1, module.dim_head
        for n_in, n_out in ((width, keys), (keys, width)):
            products[(batch, rows, n_in), (batch, n_in, n_out)] += 1
            products[(batch, n_in, rows), (batch, rows, n_out)] += 1
            products[(batch, rows, n_out), (batch, n_out, n_in)] += 1

    handles = []
    for module in task.network.modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(linear))
        elif isinstance(module, Attention):
            handles.append(module.register_forward_hook(attention))
    step()
    for handle in handles:
        handle.remove()
    return products


def measure_step(task: MindEyeTask, batch: int, repeats: int) -> tuple[float, Counter[tuple[Shape, Shape]]]:
    """Return the least seconds of a training step, and the matrix products that it makes."""
    optimiser = torch.optim.AdamW(parameter_groups(task.network, 1e-2), lr=1e-5, fused=True)
    items = np.arange(batch)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        task.loss(items, Moment(0, 0.0, torch.Generator().manual_seed(0)))["loss"].backward()
        optimiser.step()

    task.network.train()
    products = matrix_products(task, step)  # warms up too
    return best_of(step, repeats), products


def copy_speed(repeats: int, n: int = 1 << 26) -> float:
    """Return bytes read and written per second by a copy of `n` floats."""
    source, sink = torch.ones(n), torch.empty(n)
    return 2 * 4 * n / best_of(lambda: sink.copy_(source), repeats)


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--voxels", type=int, default=15724)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=257)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    task = make_task(arguments.voxels, arguments.hidden, arguments.tokens, arguments.width, arguments.batch)
    n_parameters = sum(p.numel() for p in task.network.parameters())
    with reuse_freed_memory():  # as `learning.training.train` does; the bound's products too
        step_s, products = measure_step(task, arguments.batch, arguments.repeats)
        task.network.zero_grad(set_to_none=True)
        products_s = 0.0
        for (left, right), count in products.items():
            a, b = torch.randn(left), torch.randn(right)
            products_s += count * best_of(partial(torch.matmul, a, b), arguments.repeats)
        optimiser_s = 7 * 4 * n_parameters / copy_speed(arguments.repeats)
    bound_s = products_s + optimiser_s
    flops = sum(count * 2 * float(np.prod(left)) * right[-1] for (left, right), count in products.items())
    figures = {
        "step_s": step_s,
        "products_s": products_s,
        "optimiser_s": optimiser_s,
        "bound_s": bound_s,
        "step_over_bound": step_s / bound_s,
        "parameters": n_parameters,
        "teraflops_per_step": flops / 1e12,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
    }
    for name, value in figures.items():
        print(f"{name:<20} {value:.4g}" if isinstance(value, float) else f"{name:<20} {value}")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()

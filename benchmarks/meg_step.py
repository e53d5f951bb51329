"""How far is one training step of the MEG module from what this machine can do at all?

The step is the real one at the paper's size: single trials of 272 sensors x 181 times are drawn, run through attention over places,
the convolutions and a head, contrasted, and Adam moves every tensor. The bound is the sum of its matrix products, each timed alone in
its own shape (a convolution of length k is the product of a matrix of k times the channels, its gradients two more), and of the
optimiser's memory traffic at the copy speed measured here. Steps and products take turns, so that both see the same machine.

    python benchmarks/meg_step.py [--json FILE] [--threads N] [--repeats 3] [--batch 128]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from braindecode_suite.core.files import write_json
from braindecode_suite.core.memory import reuse_freed_memory
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.latent_task import TargetLatents
from braindecode_suite.encoders.meg_module_config import PRESETS
from braindecode_suite.encoders.meg_module_network import MegModuleNetwork
from braindecode_suite.encoders.sensor_task import RoleTarget, SensorTask
from braindecode_suite.learning.layers import parameter_groups
from braindecode_suite.learning.synthetic import TableTarget, make_latents, make_sensor_study
from braindecode_suite.learning.training import Moment

Shape = tuple[int, ...]


def seconds_of(run: Callable[[], object]) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def make_task(sensors: int, times: int, hidden: int, width: int, batch: int) -> SensorTask:
    """Build the paper's model on random trials of one person."""
    config = PRESETS["paper"].model_copy(update={"hidden": hidden})
    study = make_sensor_study(
        make_latents(batch + 8, 1, 8), n_sensors=sensors, n_times=times, n_repeats=1, n_missing=0
    )
    rows = np.arange(batch + 8)
    train, validation = Cohort.of(study, rows[:batch]), Cohort.of(study, rows[batch:])
    values = np.random.default_rng(0).standard_normal((batch + 8, 1, width), dtype=np.float32)
    latents = TargetLatents(
        TableTarget("random", values),
        train.stimuli,
        list(train.stimulus_ids),
        list(validation.stimulus_ids),
    )
    torch.manual_seed(0)
    network = MegModuleNetwork(1, times, {"retrieval": width}, config)
    return SensorTask(
        network, config, train, validation, {"retrieval": RoleTarget(latents, None, 1)}, times, "cpu"
    )


def matrix_products(task: SensorTask, step: Callable[[], object]) -> Counter[tuple[Shape, Shape]]:
    """Run a step and return the shapes of its matrix products, forward and backward, and how often each occurs."""
    products: Counter[tuple[Shape, Shape]] = Counter()

    def note(rows: int, n_in: int, n_out: int, needs_input: bool) -> None:
        products[(rows, n_in), (n_in, n_out)] += 1
        products[(n_out, rows), (rows, n_in)] += 1  # gradient of the weight
        if needs_input:
            products[(rows, n_out), (n_out, n_in)] += 1  # gradient of the input

    def linear(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = inputs[0].numel() // inputs[0].shape[-1]
        note(rows, module.in_features, module.out_features, inputs[0].requires_grad)

    def convolution(module: nn.Conv1d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows, taps = output.shape[0] * output.shape[2], module.kernel_size[0]
        note(rows, taps * module.in_channels, module.out_channels, inputs[0].requires_grad)

    network: Any = task.network
    handles = [
        module.register_forward_hook(linear if isinstance(module, nn.Linear) else convolution)
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv1d)
        and module not in (network.pool.affine, network.pool.widen)
    ]
    step()
    for handle in handles:
        handle.remove()
    batch, times = task.n_items, task.n_times
    sensors, heads = task.layouts.n_sensors, network.sensors.heads
    channels, widen = network.mix.in_channels, network.pool.widen
    note(sensors, heads.shape[1], channels, False)  # what each channel takes of each sensor
    products[(batch * times, sensors), (sensors, channels)] += 1  # of the signals: they need no gradient
    products[(channels, batch * times), (batch * times, sensors)] += 1
    note(batch * times, channels, channels, True)  # a person's matrix
    note(batch, widen.in_channels, widen.out_channels, True)
    return products


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sensors", type=int, default=272)
    parser.add_argument("--times", type=int, default=181)
    parser.add_argument("--hidden", type=int, default=320)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    task = make_task(arguments.sensors, arguments.times, arguments.hidden, arguments.width, arguments.batch)
    n_parameters = sum(p.numel() for p in task.network.parameters())
    optimiser = torch.optim.AdamW(parameter_groups(task.network, 0.0), lr=1e-5, fused=True)
    items = np.arange(arguments.batch)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        task.loss(items, Moment(0, 0.0, torch.Generator().manual_seed(0)))["loss"].backward()
        optimiser.step()

    task.network.train()
    steps: list[float] = []
    alone: dict[tuple[Shape, Shape], float] = {}
    source, sink = torch.ones(1 << 24), torch.empty(1 << 24)
    copies: list[float] = []
    with reuse_freed_memory():  # as `learning.training.train` does; the bound's products too
        products = matrix_products(task, step)  # warms up too
        for _ in range(arguments.repeats):
            steps.append(seconds_of(step))
            for left, right in products:
                a, b = torch.randn(left), torch.randn(right)
                took = seconds_of(lambda a=a, b=b: a @ b)  # type: ignore[misc]
                alone[left, right] = min(took, alone.get((left, right), took))
            copies.append(seconds_of(lambda: sink.copy_(source)))
    products_s = sum(count * alone[shapes] for shapes, count in products.items())
    optimiser_s = 7 * 4 * n_parameters / (2 * 4 * len(source) / min(copies))
    bound_s = products_s + optimiser_s
    flops = sum(count * 2 * float(np.prod(left)) * right[-1] for (left, right), count in products.items())
    figures = {
        "step_s": min(steps),
        "products_s": products_s,
        "optimiser_s": optimiser_s,
        "bound_s": bound_s,
        "step_over_bound": min(steps) / bound_s,
        "parameters": n_parameters,
        "teraflops_per_step": flops / 1e12,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
    }
    for name, value in figures.items():
        print(f"{name:<20} {value:.4g}" if isinstance(value, float) else f"{name:<20} {value}")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()

"""How much memory do the 79,392 training trials of THINGS-MEG take, of 272 sensors x 181 times (15.6 GB on disk, preprocessed)?

Four people of 120 runs, each of 417,600 samples at 1200 Hz, are continuous runs that have been filtered and resampled to 120 Hz, and trials
are windows of their memory maps, as `bids-meg` and `things-meg` read them. The path is the real one: the recipe (robust scale by session, baseline,
clip) is fitted on the training rows and applied once to every trial, into a memory map for each person (the stage `task`; it takes 15.6 GB below
--folder, and is removed), batches of all four people are drawn from the maps at random as the trainer draws them, the MEG module at the paper's size
is trained on some and predicts in blocks. Anonymous memory (RssAnon, sampled at 20 Hz) is what is measured, the libraries' own included; pages of
the maps belong to the files and can be taken back at any time. `trials_peak_gb` is the most up to the network: what opening, scaling, writing the
maps and reading take.
`anon_peak_gb` is the most of all, with the activations of a batch of 128 and Adam's state, which hardly depend on the number of trials. The bar of
2 GB is held against the first.

What is passed over, to take minutes instead of hours: all 480 maps are links to one file of noise (45 MB in place of 21.8 GB), filtering is not
run (`tests/test_bids_meg.py` holds its memory), an epoch of 496 batches is drawn to an eighth and --steps of them are trained on (their rows
are of all), and every --every-th trial is predicted. Shapes, numbers of rows and of maps are those of the whole.

    python benchmarks/meg_memory.py [--json FILE] [--threads N] [--people 4] [--steps 12] [--every 128] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.files import write_json
from braindecode_suite.core.manifest import PeakMemory, anonymous_kb
from braindecode_suite.core.memory import reuse_freed_memory
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.datasets.meg_runs import EpochRows, Run, Windows
from braindecode_suite.encoders.latent_task import TargetLatents
from braindecode_suite.encoders.meg_module_config import PRESETS
from braindecode_suite.encoders.meg_module_network import MegModuleNetwork
from braindecode_suite.encoders.sensor_task import RoleTarget, SensorTask
from braindecode_suite.learning.layers import parameter_groups
from braindecode_suite.learning.responses import read_blocks
from braindecode_suite.learning.synthetic import NumberedStimuli, TableTarget
from braindecode_suite.learning.training import Moment

SESSIONS, RUNS, IMAGES = 12, 10, 19_848
SENSORS, SAMPLES, SFREQ, WIDTH, BATCH, BLOCK = 272, 417_600, 1200.0, 768, 128, 256
BAR = 2.0
NAMES = tuple(f"M{k:03d}" for k in range(SENSORS))
SIGNAL = SignalRecipe((Filter(0.1), Resample(120.0)), SFREQ)


def make_runs(folder: Path, person: int, noise: Path) -> list[Run]:
    """Return the runs of one person, preprocessed by now: each one's map is a link to the noise."""
    runs = []
    for session in range(1, SESSIONS + 1):
        for number in range(1, RUNS + 1):
            name = f"ses-{session:02d}_run-{number:02d}"
            run = Run(
                name=name,
                session=f"{session:02d}",
                path=folder / name,
                read=lambda: None,
                names=NAMES,
                kinds=("mag",) * SENSORS,
                bad=(),
                n_samples=SAMPLES,
                signal=SIGNAL,
                fingerprint=f"person {person}",
                folder=folder,
            )
            os.link(noise, run.file)
            write_json(run.file.with_suffix(".json"), {"flagged": {}})
            runs.append(run)
    return runs


def make_study(folder: Path, person: int, noise: Path) -> Study:
    """Return a person's study: every image once, spread over all runs."""
    runs, windows = make_runs(folder, person, noise), Windows.of(-0.5, 1.0, 120.0)
    run_of_row = np.arange(IMAGES) * len(runs) // IMAGES
    within = np.arange(IMAGES) - np.searchsorted(run_of_row, run_of_row)
    first = within * ((runs[0].length - windows.n_times) // (within.max() + 1))
    rng = np.random.default_rng(person)
    session = np.array([run.session for run in runs])[run_of_row]
    trials = pd.DataFrame({"stimulus_id": rng.permutation(IMAGES).astype(str), "session": session})
    trials["run"], trials["repeat"], trials["onset"] = run_of_row, 1, first / 120.0
    places = np.random.default_rng(0).uniform(0, 1, (SENSORS, 2)).astype(np.float32)
    return Study(
        dataset="things-meg",
        subject=f"P{person + 1}",
        responses=EpochRows(runs, run_of_row, first, windows.n_times, NAMES),
        trials=trials,
        stimuli=NumberedStimuli(IMAGES),
        space=SensorSpace(
            names=NAMES,
            kinds=("mag",) * SENSORS,
            positions={run.session: places for run in runs},
            sfreq=120.0,
            times=windows.times,
            layout="drawn",
        ),
        unit="tesla",
        signal=SIGNAL,
    )


class Stages:
    """Peaks of anonymous memory and seconds, stage by stage."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {"before_gb": (anonymous_kb() or 0) / 2**20}

    def run(self, name: str, work):
        """Run one stage and return what it returns."""
        start, memory = time.perf_counter(), PeakMemory()
        with memory:
            found = work()
        self.figures[f"{name}_peak_gb"] = (memory.peak_kb or 0) / 2**20
        self.figures[f"{name}_s"] = time.perf_counter() - start
        print(
            f"{name:<8} {self.figures[f'{name}_peak_gb']:.3f} GB, {self.figures[f'{name}_s']:.1f} s",
            flush=True,
        )
        return found


def main() -> int:
    """Measure, print, write the figures where asked; return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--people", type=int, default=4, help="of 3.9 GB on disk each")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    people = arguments.people
    stages = Stages()
    with tempfile.TemporaryDirectory(prefix="meg-memory-", dir=arguments.folder) as name:
        folder = Path(name)
        noise = folder / "noise.npy"
        out = np.lib.format.open_memmap(noise, "w+", np.float32, (SIGNAL.length(SAMPLES), SENSORS))
        rng = np.random.default_rng(0)
        for start in range(0, len(out), 4096):
            out[start : start + 4096] = 1e-13 * rng.standard_normal(out[start : start + 4096].shape)
        out.flush()
        del out
        studies = stages.run("open", lambda: [make_study(folder, k, noise) for k in range(people)])
        shape = studies[0].responses.shape
        held = [np.flatnonzero(study.stimulus_ids.astype(int) % 5 == 0) for study in studies]
        fitted = [np.setdiff1d(np.arange(IMAGES), rows) for rows in held]
        steps = (RobustScale(by="session"), Baseline(studies[0].space.times, None, 0.0), Clip(20.0))

        def prepare() -> list[Study]:
            return [s.prepared(Recipe(steps), rows) for s, rows in zip(studies, fitted, strict=True)]

        prepared = tuple(stages.run("recipe", prepare))
        train, validation = Cohort(prepared, tuple(fitted)), Cohort(prepared, tuple(held))

        def make_task() -> SensorTask:
            config = PRESETS["paper"]
            latents = np.random.default_rng(1).standard_normal((IMAGES, 1, WIDTH), dtype=np.float32)
            target = TargetLatents(
                TableTarget("random", latents),
                train.stimuli,
                list(train.stimulus_ids),
                list(validation.stimulus_ids),
            )
            torch.manual_seed(0)
            network = MegModuleNetwork(people, shape[2], {"retrieval": WIDTH}, config)
            return SensorTask(
                network,
                config,
                train,
                validation,
                {"retrieval": RoleTarget(target, None, 1)},
                shape[2],
                "cpu",
                folder / "trials",
            )

        task = stages.run("task", make_task)
        mapped = sum(path.stat().st_size for path in (folder / "trials").iterdir()) / 1e9
        mixed = np.random.default_rng(2).permutation(task.n_items)
        order = mixed[: arguments.steps * BATCH]

        def draw() -> int:
            for start in range(0, len(mixed) // 8, BATCH):
                items = mixed[start : start + BATCH]
                for k in range(people):
                    task.trials[k].read(task.row[items[task.subject[items] == k]])
            return len(mixed) // 8

        drawn = stages.run("draw", draw)
        optimiser = torch.optim.AdamW(parameter_groups(task.network, 0.0), lr=1e-5, fused=True)

        def fit() -> None:
            task.network.train()
            with reuse_freed_memory():  # as `learning.training.train` does
                for items in np.array_split(order, arguments.steps):
                    optimiser.zero_grad(set_to_none=True)
                    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
                    task.loss(items, moment)["loss"].backward()
                    optimiser.step()

        stages.run("train", fit)

        @torch.no_grad()
        def predict() -> int:
            task.network.eval()
            count = 0
            for k, study in enumerate(prepared):
                rows = np.arange(0, IMAGES, arguments.every)
                for places, block in read_blocks(study, rows, BLOCK):
                    layout = torch.from_numpy(task.layouts.of_trial[k][rows[places]])
                    who = torch.full((len(block),), k)
                    task.network(torch.from_numpy(block), task.positions, layout, who)
                    count += len(block)
            return count

        predicted = stages.run("predict", predict)
    figures = {
        **stages.figures,
        "trials_peak_gb": max(
            stages.figures[f"{stage}_peak_gb"] for stage in ("open", "recipe", "task", "draw")
        ),
        "anon_peak_gb": max(v for k, v in stages.figures.items() if k.endswith("_peak_gb")),
        "mapped_gb": mapped,
        "trials": people * IMAGES,
        "drawn": drawn,
        "trained_on": len(order),
        "predicted": predicted,
        "threads": arguments.threads,
    }
    for key, value in figures.items():
        print(f"{key:<20} {value:.4g}" if isinstance(value, float) else f"{key:<20} {value}")
    if arguments.json:
        write_json(arguments.json, figures)
    return int(figures["trials_peak_gb"] > BAR)


if __name__ == "__main__":
    sys.exit(main())

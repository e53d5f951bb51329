"""Which settings of the MEG workflow do best on validation images of a simulated person on whom nothing is reported?

The preset `tiny` of the MEG module, and whether epochs are whitened, are chosen here: subject 03 of `simulated-meg`, its validation images (every
tenth training image, shown once or twice), never its test images. Each choice is fitted as `bds run --workflow meg` fits it, by the same class, and
its predictions are scored like test predictions: centred cosine, averaged over repeats. `top1` is the share of validation images that come first
among them all (180, chance 0.0056), `identification` the mean share of other images that are less similar (chance 0.5).

    python benchmarks/meg_preset.py [--json FILE] [--jitter 0 30] [--seeds 1] [--choices NAME ...] [--folder DIR]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.files import write_json
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.manifest import RunLog
from braindecode_suite.datasets import DATASETS
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred, ranks, relative_rank
from braindecode_suite.workflows.configuration import load_config
from braindecode_suite.workflows.decoding import Decoding
from braindecode_suite.workflows.fitting import Fitted
from braindecode_suite.workflows.job import Job
from braindecode_suite.workflows.meg import MegWorkflow
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.studies import open_study

SUBJECT = "03"
PLAIN, WHITENED = ["scale", "baseline", "clip"], ["scale", "whiten", "baseline", "clip"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is fitted: ridge or the module, on which epochs, with which changes to its preset."""

    deep: bool
    order: list[str] = field(default_factory=lambda: WHITENED)
    sensors: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


CHOICES = {
    "ridge, not whitened": Choice(deep=False, order=PLAIN),
    "ridge": Choice(deep=False),
    "ridge, whole epochs are the noise": Choice(deep=False, sensors={"noise_until": None}),
    "module, not whitened": Choice(deep=True, order=PLAIN),
    "module": Choice(deep=True),
    "module, no sensor dropout": Choice(deep=True, changes={"sensor_dropout": 0.0}),
    "module, 128 channels": Choice(deep=True, changes={"channels": 128}),
    "module, 128 hidden": Choice(deep=True, changes={"hidden": 128}),
    "module, dropout 0.2": Choice(deep=True, changes={"dropout": 0.2}),
    "module, growing windows, no batch whole": Choice(
        deep=True, changes={"window": "growing", "whole_share": 0.0}
    ),
    "module, growing windows": Choice(deep=True, changes={"window": "growing"}),
    "module, learning rate 0.002": Choice(deep=True, changes={"training": {"learning_rate": 0.002}}),
}


def score(model: Fitted, true: Latents, train_true: Latents) -> dict[str, float]:
    """Return how well validation images are found by a model's predictions of them."""
    reference = TrainingReference(predicted=model.train.flat, true=train_true.flat)
    found = ranks(cosine_centred(model.validation.flat, true.flat, reference), np.arange(len(true)))
    return {
        "top1": float((found == 0).mean()),
        "identification": float(1 - relative_rank(found, len(true)).mean()),
    }


def compare(names: list[str], jitter: int, seeds: list[int], folder: Path) -> dict[str, float]:
    """Fit the choices to one study and return their scores, named after jitter, choice and seed."""
    dataset, data_dir = DATASETS["simulated-meg"], folder / f"jitter-{jitter}"
    dataset.write(data_dir, size="demo", jitter_ms=jitter)
    job = Job(
        dataset=dataset,
        data_dir=data_dir,
        output_dir=folder,
        work_dir=folder / f"work-{jitter}",
        subject=SUBJECT,
    )
    figures: dict[str, float] = {}
    for name in names:
        choice = CHOICES[name]
        workflow: Any = MegWorkflow
        config: Any = load_config(workflow, "simulated")
        sensors = config.sensors.model_copy(update={"order": tuple(choice.order), **choice.sensors})
        config = config.model_copy(update={"sensors": sensors, "encoder_settings": choice.changes})
        decoding, steps = (
            Decoding(config, job, "meg"),
            Steps(job.work_dir / "steps", RunLog([]), {"subject": SUBJECT}),
        )
        targets, _ = decoding.targets(steps)
        study = open_study(job, config.dataset_options)
        prepared = decoding.prepare(study, decoding.split(study, decoding.protocol, targets["retrieval"]))
        ids = {part: prepared.stimulus_ids[part] for part in ("train", "validation")}
        true = {
            part: targets["retrieval"].embed(prepared.cohort(part).stimuli, list(i))
            for part, i in ids.items()
        }
        for seed in seeds if choice.deep else seeds[:1]:
            model = (
                decoding.fit_deep(steps, prepared, targets, seed)
                if choice.deep
                else decoding.fit_baseline(steps, prepared, targets)
            )
            line = score(
                model, true["validation"].select(model.validation.ids), true["train"].select(model.train.ids)
            )
            label = f"{jitter} ms, {name}" + (f", seed {seed}" if choice.deep else "")
            figures |= {f"{label}: {key}": value for key, value in line.items()}
            print(f"{label:50} " + "  ".join(f"{key} {value:.3f}" for key, value in line.items()), flush=True)
    return figures


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jitter", nargs="+", type=int, default=[0, 30])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument(
        "--folder", type=Path, help="where studies and models are kept; a temporary one by default"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures: dict[str, float] = {}
        for jitter in options.jitter:
            figures |= compare(options.choices, jitter, options.seeds, options.folder or Path(scratch))
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()

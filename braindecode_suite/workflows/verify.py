"""``bds verify``: the figures of a saved model's card, recomputed from the saved model and the data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_file, check_folder, check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import DATASETS, PROTOCOLS
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.encoders.targets import make_features, make_target
from braindecode_suite.workflows.encode_fitting import mean_tokens
from braindecode_suite.workflows.encode_verify import encoding_figures_again
from braindecode_suite.workflows.fitting import prepare
from braindecode_suite.workflows.image_prior import recompute_figures
from braindecode_suite.workflows.job import Job
from braindecode_suite.workflows.model_card import FIGURE_KEYS, figures
from braindecode_suite.workflows.scoring import Predicted, Settings, score_retrieval
from braindecode_suite.workflows.sensor_recipe import SensorRecipe
from braindecode_suite.workflows.studies import filtered


def verify_model(
    model_dir: Path,
    data_dir: Path,
    *,
    subject: str | None = None,
    work_dir: Path | None = None,
    device: str = "cpu",
) -> int:
    """Recompute the card's figures, print both beside each other, and return 0 if they are the same, 1 otherwise.

    Parameters
    ----------
    model_dir : Path
        ``OUTPUT_DIR/models/sub-XX_desc-<workflow>``.
    data_dir : Path
    subject : str, optional
        By default the one the model was fitted on; another one is refused by the checkpoint.
    work_dir : Path, optional
        For caches; a temporary folder by default.
    device : str

    Raises
    ------
    InputError
        If the folder is no model of `bds run`, or the data are not those it was fitted on.
    """
    config = read_model_config(check_folder(model_dir, "a model folder"))
    check_folder(data_dir, "the folder of the data (`--data-dir`)")
    workflow = config["run"].get("workflow")
    check_option("workflow", workflow, RECOMPUTED)
    recompute, tolerance = RECOMPUTED[workflow]
    with tempfile.TemporaryDirectory() as scratch:
        again = recompute(
            model_dir,
            config,
            data_dir,
            work_dir or Path(scratch),
            subject or config["run"]["subject"],
            device,
        )
    found = {tuple(figure[key] for key in FIGURE_KEYS): figure["value"] for figure in again}
    wrong = 0
    for figure in config["figures"]:
        value = found.get(tuple(figure[key] for key in FIGURE_KEYS))
        same = value is not None and abs(value - figure["value"]) <= tolerance
        wrong += not same
        gallery = f" gallery {figure['gallery']}" if figure["gallery"] else ""
        name = f"{figure['model']} seed {figure['seed'] or '-'} {figure['metric']}{gallery}"
        shown = "not recomputed" if value is None else f"{value:.6f}"
        print(f"{name}: card {figure['value']:.6f}, recomputed {shown}, {'same' if same else 'DIFFERENT'}")
    print(f"{len(config['figures']) - wrong} of {len(config['figures'])} figures verified")
    return 1 if wrong or not config["figures"] else 0


def read_model_config(model_dir: Path) -> dict[str, Any]:
    """Read a model folder's ``config.json``; one without a run or figures is an `InputError`."""
    path = check_file(model_dir / "config.json", "the config of a model saved by `bds run`")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(path, expected="JSON", found=str(error)) from error
    missing = [
        key for key in ("models", "run", "figures") if not isinstance(config, dict) or key not in config
    ]
    if missing:
        raise InputError(path, expected="models, run and figures", found=f"no {', '.join(missing)}")
    return dict(config)


def recompute_retrieval(
    model_dir: Path, config: Mapping[str, Any], data_dir: Path, work_dir: Path, subject: str, device: str
) -> list[dict[str, Any]]:
    """Return the retrieval figures of every model of the folder."""
    run = config["run"]
    study = open_study(run, data_dir, work_dir, subject)
    stimuli = study.stimuli
    if stimuli is None:
        raise InputError(data_dir, expected="images that were shown", found="unlabelled recordings")
    weights = run["weights"].get("retrieval")
    target = make_target(
        run["targets"]["retrieval"],
        work_dir / "cache",
        weights=None if weights is None else Path(weights),
        device=device,
    )

    def vectors_of(ids: Any) -> np.ndarray:
        return np.asarray(target.embed(stimuli, list(ids)).select(list(ids)).flat)

    split: Split = PROTOCOLS[run["protocol"]]([study], seed=run["seed"], vectors_of=vectors_of)[0]
    sensors = SensorRecipe(**run["sensors"]) if "sensors" in run else None
    prepared = prepare(study, split, run["zscore_by"], run.get("keep_reliable"), sensors)
    true = {
        part: target.embed(stimuli, list(prepared.stimulus_ids[part])).select(prepared.stimulus_ids[part])
        for part in ("train", "test")
    }
    models = []
    for entry in config["models"].values():
        encoder = ENCODERS[entry["model"]].load(
            model_dir, prepared.cohort("test"), device, seed=entry["seed"]
        )
        known = entry["facts"]["targets"]["retrieval"]["name"]
        if known != target.name:
            raise InputError(model_dir, expected=f"target {known!r}", found=repr(target.name))
        models.append(
            Predicted(
                model=entry["model"],
                seed="" if not encoder.history_ else str(entry["seed"]),
                test=encoder.predict(prepared.cohort("test"), seed=entry["seed"])["retrieval"],
                train=encoder.predict(prepared.cohort("train"), seed=entry["seed"])[
                    "retrieval"
                ].mean_by_stimulus(),
            )
        )
    check_split(run, split, data_dir)
    settings = Settings(
        subject=subject, split=split.protocol, gallery_sizes=tuple(run["gallery_sizes"]), brief=True
    )
    return [
        figure
        for model in models
        for figure in figures(
            score_retrieval([model], true["train"], true["test"], settings).scores, split.protocol
        )
    ]


def recompute_reconstructions(
    model_dir: Path, config: Mapping[str, Any], data_dir: Path, work_dir: Path, subject: str, device: str
) -> list[dict[str, Any]]:
    """Return the figures of the reconstructions of every model of the folder."""
    run = config["run"]
    study = open_study(run, data_dir, work_dir, subject)
    split: Split = PROTOCOLS[run["protocol"]]([study], seed=run["seed"])[0]
    check_split(run, split, data_dir)
    job = Job(
        dataset=DATASETS[run["dataset"]],
        data_dir=data_dir,
        output_dir=work_dir,
        work_dir=work_dir,
        subject=subject,
        seed=run["seed"],
    )
    return recompute_figures(model_dir, run, split, job)


def recompute_encoding(
    model_dir: Path, config: Mapping[str, Any], data_dir: Path, work_dir: Path, subject: str, device: str
) -> list[dict[str, Any]]:
    """Return the mean r over units of every model of the folder."""
    run = config["run"]
    study = open_study(run, data_dir, work_dir, subject)
    sources = [
        make_features(
            name,
            work_dir / "cache",
            weights=Path(run["weights"][name]) if name in run["weights"] else None,
            device=device,
        )
        for name in run["features"]
    ]
    vectors_of = mean_tokens(sources[-1], study)
    split: Split = PROTOCOLS[run["protocol"]]([study], seed=run["seed"], vectors_of=vectors_of)[0]
    check_split(run, split, data_dir)
    return encoding_figures_again(model_dir, config, prepare(study, split, run["zscore_by"]), sources, device)


def open_study(run: Mapping[str, Any], data_dir: Path, work_dir: Path, subject: str) -> Study:
    """Open the study that a model was fitted on, with the same options."""
    return filtered(DATASETS[run["dataset"]].open(data_dir, subject, work_dir, **run["dataset_options"]))


def check_split(run: Mapping[str, Any], split: Split, data_dir: Path) -> None:
    """Raise unless the data give the split that the model was fitted on."""
    if split.hash != run["split_hash"]:
        raise InputError(
            data_dir,
            expected=f"the data of the model (split {run['split_hash']})",
            found=f"other data (split {split.hash})",
        )


RECOMPUTED: Mapping[str, tuple[Callable[..., list[dict[str, Any]]], float]] = {
    "mindeye": (recompute_retrieval, 1e-6),
    "meg": (recompute_retrieval, 1e-5),
    # a grey value that another processor rounds the other way moves PixCorr and SSIM of an image by less than this
    "image-prior": (recompute_reconstructions, 1e-4),
    "encode": (recompute_encoding, 1e-5),
}
"""How a workflow's figures are made again, and by how much they may differ."""

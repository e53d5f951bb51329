"""What a saved model needs to decode a running recording, frozen at the end of a fit: the folder ``stream/`` beside its files.

``stream.json`` holds what is words and numbers, ``stream.safetensors`` what is arrays; both carry one token, so that a save that was
killed between two renames is noticed. See the page on live decoding for what is in them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from braindecode_suite import __version__
from braindecode_suite.core.checks import check_file, check_match, check_option, check_shape
from braindecode_suite.core.epoch_steps import Baseline
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside, write_json
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.protocols import BrainEncoder
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.signal import SignalRecipe
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.metrics.evidence import FEWEST, Evidence, fit_evidence
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred

FORMAT = "braindecode_suite-stream-1"
STRIDE = 0.025
"""Seconds between two windows of the calibration: the shortest hop."""
MULTIPLES = (1, 2, 3, 4)
"""Hops that evidence is calibrated for, in strides."""
FIRST = 0.1
"""Seconds after the onset at which the first window ends, unless the baseline ends later: before, there is nothing to see."""
MOST_REFERENCE = 2000
"""Reference trials that means are taken over; more are left out evenly."""
MOST_SIMILARITIES = 20_000_000
"""Similarities of the calibration held at a time; more trials than fit are left out evenly."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamBundle:
    """Everything that is frozen, apart from the encoder's own files.

    Attributes
    ----------
    model, seed : str, int
        Which entry of the model folder.
    dataset, subject, session, run : str
        Whose calibration run it is.
    role, target : str
        The latents that are retrieved by, and the name of their space.
    space : SensorSpace
        With the positions of the calibration session.
    signal : SignalRecipe
        Causal.
    recipe : Recipe or None
        Of epochs, fitted.
    windows : array of int of shape (windows,)
        Samples of the epoch that each growing window holds.
    gallery : Latents
    pictures : array of uint8 of shape (gallery, height, width, 3) or None
        For the page.
    predicted_mean : array of shape (windows, features)
        Mean prediction of the reference trials on each window, which similarities are centred by.
    true_mean : array of shape (features,)
    evidence : dict of int to Evidence
        For each hop, in strides of `windows`; its windows are every so many-th, counted from the last.
    masks_missing : bool
        Whether the encoder has an answer without a sensor, see `takes_missing`.
    facts : dict
        For the card: numbers of calibration trials and of reference trials, and whether the former chose the epoch at which training
        stopped (older folders do not say).
    """

    model: str
    seed: int
    dataset: str
    subject: str
    session: str
    run: str
    role: str
    target: str
    space: SensorSpace
    signal: SignalRecipe
    recipe: Recipe | None
    windows: np.ndarray
    gallery: Latents
    predicted_mean: np.ndarray
    true_mean: np.ndarray
    evidence: Mapping[int, Evidence]
    pictures: np.ndarray | None = None
    masks_missing: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stride(self) -> float:
        """Seconds from a window to the next; the whole epoch where there is one window."""
        step = int(np.diff(self.windows)[0]) if len(self.windows) > 1 else len(self.space.times)
        return step / self.space.sfreq

    def windows_of(self, multiple: int) -> np.ndarray:
        """Return the numbers of the windows at a hop of so many strides, the last one always among them."""
        return every(len(self.windows), multiple)

    def ends(self) -> np.ndarray:
        """Return the end of each window, in seconds from the onset."""
        return np.asarray(self.space.times)[self.windows - 1]

    def template(self) -> Study:
        """Return a study of no rows in the space, and through the preprocessing, of this model."""
        return Study(
            dataset=self.dataset,
            subject=self.subject,
            responses=np.empty((0, self.space.n_units, len(self.space.times)), np.float32),
            trials=empty_trials(),
            stimuli=None,
            space=self.space,
            unit="as recorded",
            recipe=self.recipe,
            signal=self.signal,
        )


def empty_trials() -> pd.DataFrame:
    """Return a table of no trials."""
    return pd.DataFrame({k: [] for k in ("stimulus_id", "session", "run", "repeat", "onset")})


def every(n_windows: int, multiple: int) -> np.ndarray:
    """Return every so many-th window, counted from the last.

    Examples
    --------
    >>> every(6, 4)
    array([1, 5])
    """
    return np.arange(n_windows - 1, -1, -multiple)[::-1]


def lay_out_windows(
    times: np.ndarray, sfreq: float, *, stride: float = STRIDE, first: float = FIRST
) -> np.ndarray:
    """Return how many samples of the epoch each window holds: the last all of them, the others `stride` apart before it.

    Examples
    --------
    >>> lay_out_windows(np.arange(-5, 11) / 10, 10.0, stride=0.3, first=0.2)
    array([10, 13, 16])
    """
    step = max(round(stride * sfreq), 1)
    least = int((times < first - 1e-9).sum()) + 1
    return np.arange(len(times), max(least, 1) - 1, -step)[::-1]


def predict_window(
    encoder: BrainEncoder, cohort: Cohort, role: str, n_samples: int, times: np.ndarray
) -> Latents:
    """Return latents of one role from the first samples of each epoch."""
    if n_samples == len(times):
        return encoder.predict(cohort, 0)[role]
    growing: Any = encoder
    latents: Latents = growing.predict(cohort, 0, until=float(times[n_samples - 1]))[role]
    return latents


def save_stream_bundle(
    model_dir: Path,
    encoder: BrainEncoder,
    calibration: Cohort,
    gallery: Latents,
    target: Target,
    *,
    model: str,
    seed: int = 0,
    reference: Cohort | None = None,
    role: str = "retrieval",
    stride: float = STRIDE,
    pictures: np.ndarray | None = None,
    chose_model: bool = False,
    dataset_options: Mapping[str, Any] | None = None,
    generator: Mapping[str, Any] | None = None,
) -> StreamBundle:
    """Calibrate a fitted encoder for live decoding and write ``MODEL_DIR/stream``, whole or not at all.

    Parameters
    ----------
    model_dir : Path
        Where the encoder has been saved.
    encoder : BrainEncoder
        One of growing windows is asked at each of them; any other once, at the end of the epoch.
    calibration : Cohort
        Rows of one study, read through its fitted recipe and cut from signals that were preprocessed causally. None that the encoder
        was fitted on, or evidence is worth less than it says; see also `chose_model`. The last session among them, and the last run of it, are those whose
        scaling and positions live trials take.
    gallery : Latents
        True latents of the candidates.
    target : Target
        Their space, for the latents of the pictures that were seen.
    model, seed : str, int
        Name and seed of the encoder in `model_dir`.
    reference : Cohort, optional
        Training rows, whose means similarities are centred by; `calibration` by default.
    role : str
    stride : float
        Seconds between windows.
    pictures : array of uint8 of shape (gallery, height, width, 3), optional
        Small pictures of the gallery, for the page.
    chose_model : bool
        Whether the calibration trials chose the epoch at which training stopped: evidence is slightly optimistic then, and says so.
    dataset_options : dict, optional
        How the study was opened, so that a replay can be compared with it.
    generator : dict, optional
        ``name``, and where they are not the released ones ``weights`` and ``clip_weights``, of what draws previews.
    """
    study, rows = _one_study(calibration)
    space, signal = study.space, study.signal
    if not isinstance(space, SensorSpace) or signal is None or not signal.causal:
        raise InputError(
            f"{study.dataset} sub-{study.subject}",
            expected="sensors whose signals went through causal filters, to be decoded live",
            found="another kind of space" if not isinstance(space, SensorSpace) else _kind(signal),
            hint="the dataset's options of filtering",
        )
    if pictures is not None:
        check_shape("pictures", pictures, "gallery height width colours", gallery=len(gallery), colours=3)
    growing = getattr(getattr(encoder, "config", None), "window", "none") == "growing"
    steps = () if study.recipe is None else study.recipe.steps
    first = max([FIRST, *(step.tmax for step in steps if isinstance(step, Baseline))])  # a whole baseline
    windows = np.array([len(space.times)])
    if growing:
        windows = lay_out_windows(space.times, space.sfreq, stride=stride, first=first)
    rows = _evenly(rows, max(MOST_SIMILARITIES // (len(windows) * len(gallery)), FEWEST))
    used = Cohort.of(study, rows)
    centre = used if reference is None else _thin(reference, MOST_REFERENCE)
    check_option("role", role, ("retrieval", "image", "text", "init"))
    ids = list(dict.fromkeys(centre.stimulus_ids))
    true = np.asarray(target.embed(centre.stimuli, ids).select(ids).flat, np.float64)
    means, scores, seen = [], [], None
    own = target.embed(used.stimuli, list(dict.fromkeys(used.stimulus_ids))).select(used.stimulus_ids)
    for n_samples in windows:
        middle = np.asarray(
            predict_window(encoder, centre, role, int(n_samples), space.times).flat, np.float64
        )
        means.append(middle.mean(axis=0))
        predicted = predict_window(encoder, used, role, int(n_samples), space.times)
        if predicted.target != gallery.target:
            check_match(model_dir, {"gallery": predicted.target}, {"gallery": gallery.target})
        at_reference = TrainingReference(predicted=means[-1][None], true=true)
        score = cosine_centred(predicted.flat, gallery.flat, at_reference)  # (trials, gallery)
        mine = np.einsum(
            "tf,tf->t",
            _unit(predicted.flat - means[-1]),
            _unit(own.flat - true.mean(axis=0)),
        )
        seen = _place_truth(score, mine, used.stimulus_ids, gallery.ids)
        scores.append(score)
    similarities = np.stack(scores, axis=1)
    assert seen is not None
    evidence = {
        multiple: fit_evidence(similarities[:, every(len(windows), multiple)], seen, used.stimulus_ids)
        for multiple in (MULTIPLES if len(windows) > 1 else (1,))
    }
    session, run = (str(study.trials[column].iloc[int(rows.max())]) for column in ("session", "run"))
    bundle = StreamBundle(
        model=ENCODERS.resolve(model),
        seed=seed,
        dataset=study.dataset,
        subject=study.subject,
        session=session,
        run=run,
        role=role,
        target=gallery.target,
        space=replace(space, positions={session: space.positions[session]}, rois={}),
        signal=signal,
        recipe=study.recipe,
        windows=windows,
        gallery=Latents(np.asarray(gallery.values, np.float32), gallery.ids, gallery.target, "true"),
        predicted_mean=np.stack(means),
        true_mean=true.mean(axis=0),
        evidence=evidence,
        pictures=pictures,
        masks_missing=takes_missing(encoder, study, int(rows[0]), role),
        facts={
            "calibration_trials": len(rows),
            "reference_trials": len(centre),
            "calibration_chose_model": chose_model,
            "version": __version__,
            "dataset_options": dict(dataset_options or {}),
            "generator": dict(generator or {}),
        },
    )
    _write(model_dir / "stream", bundle)
    return bundle


def read_stream_bundle(model_dir: Path, device: str = "cpu") -> tuple[StreamBundle, BrainEncoder]:
    """Read ``MODEL_DIR/stream`` and the encoder it was made for; one that does not fit it is an error naming both sides."""
    folder = model_dir / "stream"
    path = folder / "stream.json"
    if model_dir.is_dir() and not path.is_file():
        raise InputError(
            path,
            expected="what live decoding needs, written at the end of a fit",
            found="nothing there",
            hint="`bds run` with --set live=true writes it, into the model folder whose name ends in `live`",
        )
    check_file(path, "what live decoding needs, written at the end of a fit")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(path, expected="JSON", found=str(error)) from error
    check_match(path, {"format": FORMAT}, data if isinstance(data, dict) else {})
    arrays = _read_arrays(folder / "stream.safetensors", data["token"])
    sensors = data["sensors"]
    space = SensorSpace(
        names=tuple(sensors["names"]),
        kinds=tuple(sensors["kinds"]),
        positions={data["session"]: arrays["positions"]},
        sfreq=sensors["sfreq"],
        times=arrays["times"],
        locations=arrays.get("locations"),
        coil_types=arrays.get("coil_types"),
        layout=sensors["layout"],
    )
    numbers = {k.removeprefix("recipe."): v for k, v in arrays.items() if k.startswith("recipe.")}
    evidence = {
        int(multiple): Evidence(
            facts["memory"],
            arrays[f"evidence.{multiple}.weights"],
            facts["calibration_error"],
            arrays[f"evidence.{multiple}.log_loss"],
            facts["n_trials"],
            facts["n_candidates"],
        )
        for multiple, facts in data["evidence"].items()
    }
    bundle = StreamBundle(
        **{key: data[key] for key in ("model", "seed", "dataset", "subject", "session", "role", "target")},
        run=str(data.get("run", "1")),  # older folders lack it
        space=space,
        signal=SignalRecipe.from_description(data["signal"]),
        recipe=None if data["recipe"] is None else Recipe.from_frozen(data["recipe"], numbers),
        windows=arrays["windows"],
        gallery=Latents(arrays["gallery"], np.array(data["gallery"], dtype=object), data["target"], "true"),
        predicted_mean=arrays["predicted_mean"],
        true_mean=arrays["true_mean"],
        evidence=evidence,
        pictures=arrays.get("pictures"),
        masks_missing=data["masks_missing"],
        facts=data["facts"],
    )
    loader: Any = ENCODERS[bundle.model]
    encoder: Any = loader.load(model_dir, Cohort.of(bundle.template()), device, seed=bundle.seed)
    known = encoder.facts_["targets"].get(bundle.role, {}).get("name")
    check_match(path, {f"target of {bundle.role}": known}, {f"target of {bundle.role}": bundle.target})
    return bundle, encoder


def takes_missing(encoder: BrainEncoder, study: Study, row: int, role: str) -> bool:
    """Say whether the encoder has an answer to an epoch with a sensor that is missing (NaN): it masks it, or fills in what it knows."""
    epoch = np.array(study.responses[np.array([row])], np.float32)
    seen = np.flatnonzero(~np.isnan(epoch[0]).any(axis=1))
    if len(seen) < 2:
        return False
    epoch[0, seen[0]] = np.nan
    holed = replace(study, responses=epoch, trials=study.trials.iloc[[row]])
    try:
        values = encoder.predict(Cohort.of(holed), 0)[role].values
    except InputError:
        return False
    return bool(np.isfinite(values).all())


def _write(folder: Path, bundle: StreamBundle) -> None:
    token, space = uuid.uuid4().hex, bundle.space
    recipe, numbers = (None, {}) if bundle.recipe is None else bundle.recipe.frozen()
    arrays: dict[str, Any] = {
        "times": np.asarray(space.times, np.float64),
        "positions": np.asarray(space.positions[bundle.session], np.float64),
        "locations": space.locations,
        "coil_types": space.coil_types,
        "windows": bundle.windows.astype(np.int64),
        "gallery": bundle.gallery.values,
        "predicted_mean": bundle.predicted_mean,
        "true_mean": bundle.true_mean,
        "pictures": bundle.pictures,
        **{f"recipe.{k}": v for k, v in numbers.items()},
    }
    for multiple, one in bundle.evidence.items():
        arrays[f"evidence.{multiple}.weights"] = one.weights
        arrays[f"evidence.{multiple}.log_loss"] = one.log_loss
    data = {
        "format": FORMAT,
        "token": token,
        **{
            key: getattr(bundle, key)
            for key in (
                "model",
                "seed",
                "dataset",
                "subject",
                "session",
                "run",
                "role",
                "target",
                "masks_missing",
            )
        },
        "sensors": {"names": space.names, "kinds": space.kinds, "sfreq": space.sfreq, "layout": space.layout},
        "signal": bundle.signal.describe(),
        "recipe": recipe,
        "gallery": list(bundle.gallery.ids),
        "evidence": {
            str(multiple): {
                "hop_ms": 1000 * multiple * bundle.stride,
                "memory": one.memory,
                "calibration_error": one.calibration_error,
                "n_trials": one.n_trials,
                "n_candidates": one.n_candidates,
            }
            for multiple, one in bundle.evidence.items()
        },
        "facts": dict(bundle.facts),
    }
    plain = {k: np.ascontiguousarray(v) for k, v in arrays.items() if v is not None}
    with ExitStack() as renames:  # nothing is renamed before everything is written
        write_json(renames.enter_context(write_aside(folder / "stream.json")), data)
        tensors = renames.enter_context(write_aside(folder / "stream.safetensors"))
        save_file(plain, tensors, metadata={"token": token})


def _read_arrays(path: Path, token: str) -> dict[str, np.ndarray]:
    check_file(path, "the arrays of stream.json")
    try:
        with safe_open(path, framework="np") as file:
            found = (file.metadata() or {}).get("token")
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise InputError(path, expected="a whole safetensors file", found=str(error)) from error
    check_match(path, {"token": token}, {"token": found})
    return arrays


def _place_truth(score: np.ndarray, own: np.ndarray, ids: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the candidate of each trial's picture; one that the gallery lacks takes the place of another candidate, in `score`."""
    place = {stimulus_id: k for k, stimulus_id in enumerate(gallery)}
    truth = np.empty(len(ids), np.int64)
    for trial, stimulus_id in enumerate(ids):
        truth[trial] = place.get(stimulus_id, trial % len(gallery))
        if stimulus_id not in place:
            score[trial, truth[trial]] = own[trial]
    return truth


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))]


def _thin(cohort: Cohort, most: int) -> Cohort:
    return Cohort(
        cohort.studies,
        tuple(_evenly(np.asarray(rows), -(-most // len(cohort.rows))) for rows in cohort.rows),
    )


def _one_study(cohort: Cohort) -> tuple[Study, np.ndarray]:
    if len(cohort.studies) != 1 or not len(cohort):
        raise InputError(
            "`calibration`",
            expected="rows of one subject",
            found=f"{len(cohort.studies)} with {len(cohort)} rows",
        )
    return cohort.studies[0], np.asarray(cohort.rows[0])


def _kind(signal: SignalRecipe | None) -> str:
    return "signals of unknown preprocessing" if signal is None else "filters that need the future"


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))

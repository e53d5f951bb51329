"""Results folders for the report's tests, written through the code that writes real ones.

The scores are computed from drawn arrays: they say nothing about any model. `write_scene_results` looks like a simulated
scene study (retrieval, a generator, every control); `write_digit_results` like cross-validated 28 x 28 greyscale digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Latents
from braindecode_suite.core.manifest import library_versions
from braindecode_suite.core.score import FIRST_FIVE, Score
from braindecode_suite.core.spaces import UnitSpace, VoxelSpace
from braindecode_suite.metrics.bootstrap import bootstrap_mean, paired_difference
from braindecode_suite.metrics.identification import matched_identification, two_way_identification
from braindecode_suite.metrics.images import pixcorr, ssim
from braindecode_suite.workflows.results import ResultImage, SubjectResults, stage
from braindecode_suite.workflows.scoring import Predicted, Settings, score_retrieval

COLOURS = np.array(
    [[200, 60, 50], [60, 120, 200], [230, 190, 60], [90, 160, 90], [150, 90, 170], [240, 240, 240]]
)
PLACES = np.array(
    [[[150, 190, 230], [90, 130, 70]], [[240, 210, 160], [120, 90, 60]], [[60, 70, 100], [30, 30, 50]]]
)
RESAMPLES = 1000
Metadata = dict[str, Any]


def scene(
    rng: np.random.Generator, attributes: np.ndarray | None = None, side: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of one object on a place, and its attributes: place, colour, shape, x, y, size."""
    if attributes is None:
        attributes = np.array(
            [
                rng.integers(3),
                rng.integers(6),
                rng.integers(3),
                *rng.uniform(0.3, 0.7, 2),
                rng.uniform(0.15, 0.3),
            ]
        )
    place, colour, shape = attributes[:3].astype(int)
    y, x = np.mgrid[0:side, 0:side] / side
    sky, ground = PLACES[place]
    image = np.where(
        (y < 0.55)[..., None], sky * (1 - 0.3 * y[..., None]), ground * (0.8 + 0.4 * y[..., None])
    )
    dx, dy, size = x - attributes[3], y - attributes[4], attributes[5]
    inside = {
        0: dx**2 + dy**2 < size**2,
        1: np.maximum(np.abs(dx), np.abs(dy)) < size * 0.85,
        2: (dy > -size) & (dy < size) & (np.abs(dx) < (dy + size) / 2),
    }[int(shape)]
    image = np.where(inside[..., None], COLOURS[colour] * (1 - 0.5 * (dy - dx))[..., None], image)
    return np.clip(image, 0, 255).astype(np.uint8), attributes


def digit(
    rng: np.random.Generator, nine: bool, wobble: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a 28 x 28 greyscale six or nine, and what it was drawn with."""
    if wobble is None:
        wobble = rng.normal(0, 1, 4)
    y, x = np.mgrid[0:28, 0:28] - 13.5
    ring = np.abs(np.hypot(x - wobble[0], y - 4 - wobble[1] * 0.5) - 4.5 - 0.4 * wobble[2])
    tail = np.where(y < 2, np.abs(x + 4 - 0.25 * (y + 8 + wobble[3])), 9)
    stroke = np.exp(-np.square(np.minimum(ring, np.where(y > -11, tail, 9))) / 2.2)
    image = (stroke * 255).astype(np.uint8)
    return (image[::-1, ::-1] if nine else image), wobble


def interval_score(base: Score, values: np.ndarray, **changed: Any) -> Score:
    """Return a score row of values per image with its bootstrap interval."""
    found = bootstrap_mean(values, seed=0, n_resamples=RESAMPLES)
    return replace(base, value=found.value, ci_low=found.low, ci_high=found.high, **changed)


def difference_score(base: Score, first: np.ndarray, second: np.ndarray, **changed: Any) -> Score:
    """Return a paired difference, first minus second."""
    found = paired_difference(first, second, seed=0, n_resamples=RESAMPLES)
    return replace(base, value=found.value, ci_low=found.low, ci_high=found.high, **changed)


def retrieval(subject: str, ids: np.ndarray, noise: float, rng: np.random.Generator, split: str) -> Any:
    """Return retrieval scores of two models over drawn latents, by the workflow's own scoring."""
    n_train, width = 80, 24
    train_ids = np.array([f"{90000 + i}" for i in range(n_train)], dtype=object)
    truth = rng.normal(size=(len(ids), width)) + 1
    train = rng.normal(size=(n_train, width)) + 1
    held_ids = np.array([f"{80000 + i}" for i in range(30)], dtype=object)
    held = rng.normal(size=(len(held_ids), width)) + 1

    def latents(values: np.ndarray, names: np.ndarray, kind: Any) -> Latents:
        return Latents(values[:, None].astype(np.float32), names, "tiny-clip", kind)

    models = []
    for model, seeds, more in (("mindeye", "012", 0.0), ("ridge", "0", 0.35)):
        for seed in seeds:
            test = np.repeat(truth, 3, axis=0) + (noise + more) * rng.normal(size=(3 * len(ids), width)) + 0.5
            models.append(
                Predicted(
                    model=model,
                    seed=seed,
                    test=latents(test, np.repeat(ids, 3), "predicted"),
                    train=latents(train + noise * rng.normal(size=train.shape) + 0.5, train_ids, "predicted"),
                    validation=latents(
                        held + (noise + more) * rng.normal(size=held.shape) + 0.5, held_ids, "predicted"
                    ),
                )
            )
    shuffled = latents(rng.normal(size=(3 * len(ids), width)), np.repeat(ids, 3), "predicted")
    models.append(replace(models[0], control="shuffled-train", test=shuffled))
    settings = Settings(
        subject=subject,
        split=split,
        gallery_sizes=(20,),
        n_bootstrap=RESAMPLES,
        n_permutations=1000,
        ceilings={("brain_to_image", 20): 0.93, ("brain_to_image", len(ids)): 0.81},
    )
    return score_retrieval(
        models,
        latents(train, train_ids, "true"),
        latents(truth, ids, "true"),
        settings,
        validation_true=latents(held, held_ids, "true"),
    )


def facts(subject: str, **changed: Any) -> Metadata:
    """Return facts of a run as a workflow and the runner write them."""
    return {
        "subject": subject,
        "dataset": {
            "name": "simulated-nsd",
            "title": "Simulated study in NSD's layout",
            "modality": "fMRI betas (simulated)",
            "terms": "Simulated: no terms. Source code under BSD-3-Clause.",
            "size": "60 MB",
            "tree": "nsddata/ nsddata_betas/",
            "citation": "Allen et al. 2022, https://doi.org/10.1038/s41593-021-00962-x",
            "protocols": ["nsd-shared1000"],
            "workflow": "mindeye",
            "preset": "tiny",
            "simulated": True,
        },
        "workflow": "mindeye",
        "preset": "tiny",
        "simulated": True,
        "config": {"preset": "tiny", "model": {"hidden": 256, "n_blocks": 2}, "n_candidates": 4},
        "command": [
            "bds",
            "run",
            "simulated-nsd",
            "out folder",
            "participant",
            "--participant-label",
            subject,
        ],
        "versions": library_versions(),
        "seeds": [0, 1, 2],
        "study": {
            "n_trials": 2250,
            "n_units": 1834,
            "n_valid": 1820,
            "unit": "percent signal change",
            "n_images": 750,
            "sessions": 3,
            "repeats": {"3": 750},
            "rois": {"nsdgeneral": 1834, "V1": 410, "V2": 388, "FFA": 120, "PPA": 0},
            "warnings": [],
            "provenance": {"layout": "nsd", "betas": "betas_fithrf_GLMdenoise_RR", "files": 12},
        },
        "splits": [
            {
                "protocol": "nsd-shared1000",
                "label": "",
                "hash": "0123456789abcdef",
                "trials": {"train": 1800, "validation": 150, "test": 300},
                "images": {"train": 600, "validation": 50, "test": 100},
                "disjoint": ["stimulus"],
                "shared": {
                    "stimulus": {"train/test": 0, "validation/test": 0, "train/validation": 0},
                    "session": {"train/test": 3, "validation/test": 3, "train/validation": 3},
                    "run": {"train/test": 36, "validation/test": 30, "train/validation": 35},
                },
                "notes": ["Test images are interleaved in training runs."],
                "near_duplicates": {"pairs": 2, "test_images": ["1003", "1010"]},
            }
        ],
        "recipe": [{"name": "z-score", "scope": "train", "by": "session", "causal": True}],
        "models": [
            {
                "name": "mindeye",
                "seed": 0,
                "target": "tiny-clip",
                "n_parameters": 1203456,
                "seconds": 61.2,
                "chosen": {"epoch": 23},
            },
            {
                "name": "ridge",
                "seed": 0,
                "target": "tiny-clip",
                "n_parameters": 44016,
                "seconds": 1.4,
                "chosen": {"alpha": 120.0},
            },
        ],
        "targets": {"retrieval": "tiny-clip", "image": "tiny-clip", "init": "tiny-movq"},
        "generator": {"name": "tiny-kandinsky", "steps": 20, "guidance": 3.0, "candidates": 4},
        "scorers_missing": ["inception: its weights are not on this machine (torchvision, 104 MB)"],
        "hub_skewness": {"mindeye": {"cosine": 2.31, "cosine-centred": 0.44, "csls": 0.21}},
        "oracle": {"retrieval_brain_to_image_top1": {"gallery 20": 0.93}, "identification": 0.98},
        "steps": [
            {"name": "open the study", "status": "done", "seconds": 0.4, "detail": ""},
            {
                "name": "train mindeye",
                "status": "resumed",
                "seconds": 61.2,
                "detail": "from epoch 11",
                "epochs": 24,
            },
            {
                "name": "published networks",
                "status": "skipped",
                "seconds": 0.0,
                "detail": "weights are not here",
            },
        ],
        "methods": [
            "Responses were z-scored within session on training rows.",
            "A residual MLP maps voxels to tiny-clip.",
        ],
        "citations": [{"text": "Scotti et al. 2023, MindEye.", "url": "https://arxiv.org/abs/2305.18274"}],
        "notes": [],
        "random_examples": [],
        "peak_anonymous_kb": 1843200,
        "wall_s": 214.0,
        "cpu_s": 398.5,
    } | changed


def write_scene_results(
    output_dir: Path, subject: str = "01", *, n: int = 40, noise: float = 2.6, seed: int = 0, **changed: Any
) -> SubjectResults:
    """Write results that look like a simulated scene study with every control, and return what was written."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"{1000 + i}" for i in range(n)], dtype=object)
    drawn = [scene(rng) for _ in range(n)]
    truth, attributes = np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])
    split = "nsd-shared1000"
    scored = retrieval(subject, ids, noise, rng, split)
    scores = list(scored.scores)

    def decoded(wrong: float, jitter: float) -> np.ndarray:
        near = attributes + np.concatenate([np.zeros((n, 3)), jitter * rng.normal(size=(n, 3))], axis=1)
        near[:, 5] = np.clip(near[:, 5], 0.1, 0.35)
        for column, kinds in enumerate((3, 6, 3)):
            near[:, column] = np.where(rng.random(n) < wrong, rng.integers(0, kinds, n), near[:, column])
        return np.stack([scene(rng, row)[0] for row in near])

    def blurry(images: np.ndarray) -> np.ndarray:
        small = images.reshape(n, 8, 8, 8, 8, 3).mean((2, 4))
        return np.repeat(np.repeat(small, 8, 1), 8, 2).astype(np.uint8)

    mean = np.broadcast_to(truth.mean(0).astype(np.uint8), truth.shape)
    made = {
        ("brain", "final", "mindeye"): decoded(0.25, 0.05),
        ("brain", "low-level", "mindeye"): blurry(decoded(0.2, 0.08)),
        ("brain", "final", "ridge"): decoded(0.45, 0.09),
        ("shuffled-train", "final", "mindeye"): decoded(1.0, 0.3),
        ("null-condition", "final", ""): np.stack([scene(rng, attributes[0])[0]] * n),
        ("category-only", "final", ""): decoded(0.7, 0.3),
        ("nearest-train", "final", "mindeye"): decoded(0.5, 0.15),
        ("true-latent", "final", ""): decoded(0.05, 0.02),
        ("mean-image", "", ""): mean,
    }
    base = Score(
        subject=subject, metric="", value=0.0, ci_over="image", n=n, n_repeats=3, n_subjects=1, split=split
    )
    features = {
        key: images.reshape(n, -1)[:, ::7] + rng.normal(0, 30, (n, 1756)) for key, images in made.items()
    }
    true_features = truth.reshape(n, -1)[:, ::7].astype(float)
    distractors = np.stack([true_features[rng.choice(n, 5)] for _ in range(n)])
    values: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
    for key, drawn_images in made.items():
        control, level_stage, model = key
        row = replace(base, control=control, stage=level_stage, model=model, seed="0" if model else "")
        row = replace(row, level="mean-prediction" if model else "")
        mine = {"pixcorr": pixcorr(truth, drawn_images), "ssim": ssim(truth, drawn_images)}
        if level_stage != "low-level":
            mine["all"] = two_way_identification(true_features, features[key])
            mine["matched"] = matched_identification(true_features, features[key], distractors)
        values[key] = mine
        for metric in ("pixcorr", "ssim"):
            scores.append(interval_score(replace(row, metric=metric, chance=0.3, p_value=0.01), mine[metric]))
        for candidates in ("all", "matched"):
            if candidates in mine:
                named = replace(
                    row, metric="identification", candidates=candidates, scorer="tiny-eval", chance=0.5
                )
                scores.append(interval_score(replace(named, p_value=0.001), mine[candidates]))
    brain = ("brain", "final", "mindeye")
    shuffled = rng.permutation(n)
    values[("shuffled-test", "final", "")] = {
        name: two_way_identification(true_features, features[brain][shuffled]) for name in ("all", "matched")
    } | {name: values[brain][name][shuffled] for name in ("pixcorr", "ssim")}
    compared = {
        control: key for key in values for control in [key[0]] if control in (*FIRST_FIVE, "mean-image")
    }
    compared["ridge"] = ("brain", "final", "ridge")
    row = replace(base, stage="final", model="mindeye", seed="0", level="mean-prediction")
    for versus, key in compared.items():
        for name in ("all", "matched", "pixcorr", "ssim"):
            metric = {"all": "identification", "matched": "identification"}.get(name, name)
            more: dict[str, Any] = (
                {"candidates": name, "scorer": "tiny-eval"} if metric == "identification" else {}
            )
            scores.append(
                difference_score(
                    replace(row, metric=metric, versus=versus, **more), values[brain][name], values[key][name]
                )
            )
    scores.append(
        difference_score(
            replace(row, metric="pixcorr", stage="low-level", versus="mean-image"),
            values[("brain", "low-level", "mindeye")]["pixcorr"],
            values[("mean-image", "", "")]["pixcorr"],
        )
    )
    right = (rng.random(n) < 0.7).astype(float)
    scores.append(
        interval_score(replace(row, metric="category_accuracy", scorer="tiny-eval", chance=0.1), right)
    )
    scores.append(
        interval_score(
            replace(row, metric="position_error", scorer="tiny-eval", chance=0.2), 0.2 * rng.random(n)
        )
    )
    written = [ResultImage(stimulus_id=i, control="truth", pixels=truth[k]) for k, i in enumerate(ids)]
    shown = range(24)
    for key, pixels in made.items():
        control, level_stage, model = key
        if control == "mean-image":
            continue
        for k in shown:
            one: dict[str, Any] = {name: float(values[key][name][k]) for name in ("pixcorr", "ssim")}
            if "matched" in values[key] and control == "brain":
                one["identification"] = float(values[key]["all"][k])
            written.append(
                ResultImage(
                    stimulus_id=ids[k],
                    control=control,
                    pixels=pixels[k],
                    stage=level_stage,
                    model=model,
                    seed="0" if model else "",
                    source="study" if control == "nearest-train" else "",
                    **one,
                )
            )
    history = [
        {
            "model": "mindeye",
            "seed": str(k),
            "epoch": epoch,
            "train_loss": 4.2 * np.exp(-epoch / 6) + 0.3 + 0.05 * rng.random(),
            "val_loss": 3.6 * np.exp(-epoch / 6) + 1.1 + 0.08 * rng.random(),
            "val_top1": 0.6 * (1 - np.exp(-epoch / 7)) + 0.03 * rng.random(),
        }
        for k in range(3)
        for epoch in range(24)
    ]
    mask = np.zeros((20, 24, 16), bool)
    z, y, x = np.mgrid[-1:1:20j, -1:1:24j, -1:1:16j]
    mask[(z**2 + y**2 + x**2 < 0.9) & (y < 0.2) & (z**2 + y**2 + x**2 > 0.35)] = True
    affine = np.diag([1.8, 1.8, 1.8, 1.0])
    space = VoxelSpace(mask=mask, affine=affine)
    ncsnr = np.clip(0.4 + 0.25 * np.sin(6 * x[mask]) + 0.15 * rng.normal(size=mask.sum()), 0, None)
    random = [str(i) for i in rng.permutation(ids[:24])[:12]]
    told = facts(subject, random_examples=random, hub_skewness=scored.hub_skewness) | changed
    results = SubjectResults(
        scores=scores,
        facts=told,
        similarity=scored.similarity,
        retrieval=scored.rows,
        images=written,
        history=history,
        maps={"ncsnr": ncsnr},
        space=space,
    )
    stage(results, output_dir, subject, "mindeye")
    return results


def write_digit_results(
    output_dir: Path, subject: str = "01", *, n: int = 100, folds: int = 100
) -> SubjectResults:
    """Write results that look like ten times repeated ten-fold cross-validation on greyscale digits."""
    rng = np.random.default_rng(7)
    ids = [f"{i:03d}" for i in range(n)]
    drawn = [digit(rng, nine=i >= n // 2) for i in range(n)]
    truth = np.stack([d[0] for d in drawn])

    def decoded(amount: float, noise: float) -> np.ndarray:
        wobbles = [d[1] + amount * rng.normal(size=4) for d in drawn]
        images = np.stack([digit(rng, i >= n // 2, w)[0] for i, w in enumerate(wobbles)]).astype(float)
        return np.clip(images + noise * rng.normal(size=images.shape), 0, 255).astype(np.uint8)

    made = {
        ("brain", "image-prior"): decoded(0.4, 8),
        ("brain", "ridge-to-pixels"): decoded(0.8, 45),
        ("shuffled-within-class", "image-prior"): decoded(1.4, 8),
        ("mean-image", ""): np.broadcast_to(truth.mean(0).astype(np.uint8), truth.shape),
        ("nearest-train", "image-prior"): decoded(0.9, 0),
    }
    split = "digits69-10x10fold"
    base = Score(
        subject=subject, metric="", value=0.0, ci_over="image", n=n, n_repeats=1, n_subjects=1, split=split
    )
    base = replace(base, level="single")
    same = np.array([np.setdiff1d(np.arange(n // 2) + (n // 2) * (i >= n // 2), [i])[:40] for i in range(n)])
    flat = truth.reshape(n, -1).astype(float)
    scores, values = [], {}
    for (control, model), images in made.items():
        row = replace(base, control=control, model=model, stage="final" if control == "brain" else "")
        mine = {
            "pixcorr": pixcorr(truth, images),
            "ssim": ssim(truth, images),
            "identification": matched_identification(flat, images.reshape(n, -1).astype(float), flat[same]),
        }
        values[(control, model)] = mine
        for metric, per_image in mine.items():
            more: dict[str, Any] = {"chance": 0.4}
            if metric == "identification":
                more = {"chance": 0.5, "candidates": "within-class", "scorer": "pixels"}
            scores.append(interval_score(replace(row, metric=metric, p_value=0.001, **more), per_image))
    for versus, key in {
        "ridge-to-pixels": ("brain", "ridge-to-pixels"),
        "shuffled-within-class": ("shuffled-within-class", "image-prior"),
    }.items():
        for metric in ("pixcorr", "ssim", "identification"):
            more = {"candidates": "within-class", "scorer": "pixels"} if metric == "identification" else {}
            row = replace(base, metric=metric, model="image-prior", stage="final", versus=versus, **more)
            scores.append(
                difference_score(row, values[("brain", "image-prior")][metric], values[key][metric])
            )
    written = [
        ResultImage(stimulus_id=i, control="truth", pixels=truth[k][..., None]) for k, i in enumerate(ids)
    ]
    for (control, model), pixels in made.items():
        for k, i in enumerate(ids):
            if control != "mean-image":
                one: dict[str, Any] = {
                    name: float(values[(control, model)][name][k])
                    for name in ("pixcorr", "ssim", "identification")
                }
                written.append(
                    ResultImage(
                        stimulus_id=i,
                        control=control,
                        pixels=pixels[k][..., None],
                        stage="final" if control == "brain" else "",
                        model=model,
                        seed="0",
                        **one,
                    )
                )
    cards = [
        {
            "protocol": split,
            "label": f"repeat-{k // 10 + 1}_fold-{k % 10 + 1}",
            "hash": f"{k:016x}",
            "trials": {"train": 81, "validation": 9, "test": 10},
            "images": {"train": 81, "validation": 9, "test": 10},
            "disjoint": ["stimulus"],
            "shared": {"stimulus": {"train/test": 0, "validation/test": 0, "train/validation": 0}},
            "notes": ["One subject; folds are dependent."],
        }
        for k in range(folds)
    ]
    study = {
        "n_trials": 100,
        "n_units": 3092,
        "n_valid": 3092,
        "unit": "z-score",
        "n_images": 100,
        "sessions": 1,
        "repeats": {"1": 100},
        "rois": {},
        "warnings": [],
        "provenance": {},
    }
    dataset = {"name": "digits69", "title": "Handwritten 6 and 9", "modality": "fMRI", "simulated": False}
    dataset |= {"terms": "Donders data use agreement; local use only.", "citation": ""}
    told: Mapping[str, Any] = facts(
        subject,
        dataset=dataset,
        workflow="image-prior",
        simulated=False,
        study=study,
        splits=cards,
        generator={},
        oracle=None,
        hub_skewness={},
        targets={},
        models=[{"name": "image-prior", "seed": 0}, {"name": "ridge-to-pixels", "seed": 0}],
        random_examples=[ids[k] for k in rng.permutation(n)],
        seeds=[0],
    )
    results = SubjectResults(scores=scores, facts=dict(told), images=written, space=UnitSpace(n_units=3092))
    stage(results, output_dir, subject, "imageprior")
    return results

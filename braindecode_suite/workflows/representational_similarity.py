"""Image features against measured dissimilarities: which layer finds the same images alike as the brain does?

For studies that hold dissimilarities (`kriegeskorte92`). Nothing is fitted. The participant level compares one person's matrix
with each model's, between noise ceilings from the others; the group level draws images and people together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from braindecode_suite.core.checks import check_finite
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import Score
from braindecode_suite.core.study import Study
from braindecode_suite.encoders.targets import make_target
from braindecode_suite.metrics.permutation import PermutationTest, permutation_p
from braindecode_suite.metrics.rsa import (
    bootstrap_noise_ceiling,
    bootstrap_rsa,
    check_rdms,
    dissimilarity,
    permute_rsa,
    rsa,
    rsa_noise_ceiling,
    rsa_scores,
)
from braindecode_suite.workflows.facts import is_plain
from braindecode_suite.workflows.job import Job, Permutations, Resamples, WorkflowConfig
from braindecode_suite.workflows.results import SubjectResults, result_path
from braindecode_suite.workflows.steps import Arrays, Steps

PIXELS = "pixels"
RANKS = Literal["spearman", "kendall"]
TITLES = {"spearman": "Spearman's rho", "kendall": "Kendall's tau-a"}
DISSIMILARITIES = "dissimilarity to an image"
DRAWN_TOGETHER = "images and subjects drawn"


class SimilarityConfig(WorkflowConfig):
    """Config of the workflow.

    Attributes
    ----------
    models : tuple of str
        Targets or image features by name; the first is the headline's.
    weights : dict of str to str
        Local weights of a model, by its name.
    pixels : bool
        Whether the pixels themselves stand beside.
    method : {'spearman', 'kendall'}
        How dissimilarities are compared; kendall is tau-a.
    beside : tuple of the same
        Others that are printed too.
    n_bootstrap, n_permutations : int
    """

    models: tuple[str, ...] = Field(default=("tiny-clip:block-4", "tiny-clip:block-1"), min_length=1)
    weights: dict[str, str] = Field(default_factory=dict)
    pixels: bool = True
    method: RANKS = "spearman"
    beside: tuple[RANKS, ...] = ("kendall",)
    n_bootstrap: Resamples = 2000
    n_permutations: Permutations = 1000


class SimilarityWorkflow:
    """Representational similarity between image features and measured dissimilarities, between noise ceilings."""

    name: ClassVar[str] = "representational-similarity"
    label: ClassVar[str] = "representationalsimilarity"
    config_class: ClassVar[type[WorkflowConfig]] = SimilarityConfig

    def __init__(self, config: SimilarityConfig, job: Job) -> None:
        self.config, self.job = config, job

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, the headline's first."""
        return (*dict.fromkeys(self.config.models), *([PIXELS] if self.config.pixels else []))

    @property
    def methods(self) -> tuple[RANKS, ...]:
        """How dissimilarities are compared, the headline's first."""
        return tuple(dict.fromkeys((self.config.method, *self.config.beside)))

    def plan(self) -> Sequence[str]:
        """Return the names of the steps."""
        return ["open all subjects", *(f"dissimilarities of {name}" for name in self.names), "compare"]

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        job = self.job
        with steps.block("open all subjects"):
            labels = job.dataset.subjects(job.data_dir)
            study = self._open(job.subject)
            sessions = session_rdms(study)
            everyone = {
                label: mean_rdm(sessions if label == job.subject else session_rdms(self._open(label)))
                for label in labels
            }
            _check_same_images(everyone)
        models, targets = self._models(steps, study)
        results = SubjectResults(space=study.space)
        for method in self.methods:
            with steps.block(f"compare by {method}"):
                results.scores += self._rows(method, everyone, models, targets, sessions)
        results.similarity = {
            "ids": np.array(study.stimuli.ids if study.stimuli else [], dtype=str),
            "models": np.array(list(models), dtype=str),
            "model_rdms": np.stack(list(models.values())),
            "measured": everyone[job.subject],
        }
        results.facts = self._facts(study, sessions, targets)
        return results

    def _open(self, subject: str) -> Study:
        job = self.job
        return job.dataset.open(job.data_dir, subject, job.work_dir, **self.config.dataset_options)

    def _models(self, steps: Steps, study: Study) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return the dissimilarities of each model, and its exact name."""
        stimuli = study.stimuli
        if stimuli is None:
            raise InputError(f"sub-{study.subject}", expected="images", found="none")
        ids, found, targets = list(stimuli.ids), {}, {}
        for name in self.names:
            step = f"dissimilarities of {name}"
            if name == PIXELS:
                with steps.block(step):
                    rows = stimuli.images(ids).reshape(len(ids), -1)
                    found[name], targets[name] = dissimilarity(rows), "pixels, red, green and blue"
                continue
            weights = self.config.weights.get(name)
            target = make_target(
                name, self.job.work_dir / "cache", None if weights is None else Path(weights), self.job.device
            )

            def compute(target: Any = target) -> tuple[Arrays, dict[str, Any]]:
                latents = target.embed(stimuli, ids)
                return {"rdm": dissimilarity(latents.flat)}, {}

            key = {"target": target.name, "stimuli": stimuli.fingerprint}
            found[name], targets[name] = steps.arrays(step, key, compute)[0]["rdm"], target.name
            check_finite(f"dissimilarities of {name}", found[name])
        return found, targets

    def _rows(
        self,
        method: RANKS,
        everyone: Mapping[str, np.ndarray],
        models: Mapping[str, np.ndarray],
        targets: Mapping[str, str],
        sessions: Mapping[int, np.ndarray],
    ) -> list[Score]:
        config, job = self.config, self.job
        labels, own = list(everyone), everyone[job.subject][None]
        lower = upper = None
        if len(labels) > 1:
            ceilings = rsa_noise_ceiling(np.stack(list(everyone.values())), method=method)
            lower, upper = (float(part[labels.index(job.subject)]) for part in ceilings)
        rdms = np.stack(list(models.values()))
        base = _base(job.subject, method, len(own[0]), lower)
        rows = model_rows(base, rdms, own, models, targets, method, config, job.seed, over_subjects=False)
        for name, value in (("lower", lower), ("upper", upper)):
            if value is not None:
                ceiling = replace(base, metric="rsa_noise_ceiling", ceiling=None, ci_over="", value=value)
                rows.append(replace(ceiling, scorer=f"{method}, {name}", n_subjects=len(labels)))
        if len(sessions) == 2:
            first, second = sessions.values()
            reliability = rsa(first, second, method=method)
            rows.append(
                replace(base, metric="rsa_between_sessions", ceiling=None, ci_over="", value=reliability)
            )
        return rows

    def _facts(
        self, study: Study, sessions: Mapping[int, np.ndarray], targets: Mapping[str, str]
    ) -> dict[str, Any]:
        card, provenance = self.job.dataset.card, dict(study.provenance)
        n_images = len(next(iter(sessions.values())))
        return {
            "seeds": [self.job.seed],
            "study": {
                "n_trials": len(study.trials),
                "n_units": study.n_units,
                "unit": study.unit,
                "n_images": n_images,
                "sessions": len(sessions),
                "warnings": [str(warning) for warning in provenance.pop("warnings", [])],
                "provenance": {key: value for key, value in provenance.items() if is_plain(value)},
            },
            "splits": [],
            "recipe": [],
            "models": [{"name": name, "features": exact} for name, exact in targets.items()],
            "similarity": {"method": self.config.method, "models": list(targets)},
            "methods": _words(self.config, n_images, len(sessions)),
            "citations": [{"text": card.citation, "url": ""}, *CITATIONS],
            "notes": [
                "Nothing is fitted: there is no split. Two layers that are alike in similarity may still differ in what they encode."
            ],
        }

    @classmethod
    def group_scores(
        cls, output_dir: Path, subjects: Sequence[str], seed: int
    ) -> tuple[list[Score], dict[str, Any]]:
        """Return the rows of all subjects together: images and subjects drawn, images relabelled, both ceilings.

        Raises
        ------
        InputError
            If subjects were run with other models, images or settings than each other.
        """
        stored, facts = {}, {}
        for subject in subjects:
            path = result_path(output_dir, subject, cls.label, "similarity.npz")
            with np.load(path, allow_pickle=False) as arrays:
                stored[subject] = {name: arrays[name] for name in arrays.files}
            told = result_path(output_dir, subject, cls.label, "facts.json")
            facts[subject] = json.loads(told.read_text(encoding="utf-8"))
            first = stored[subjects[0]]
            for name in ("ids", "models", "model_rdms"):
                if not np.array_equal(stored[subject][name], first[name]):
                    raise InputError(
                        path,
                        expected=f"the {name} of sub-{subjects[0]}",
                        found="others",
                        hint="run all subjects again",
                    )
        first, told = stored[subjects[0]], facts[subjects[0]]
        config = SimilarityConfig(
            **{k: v for k, v in told["config"].items() if k in SimilarityConfig.model_fields}
        )
        models = dict(zip([str(name) for name in first["models"]], first["model_rdms"], strict=True))
        targets = {str(row["name"]): str(row["features"]) for row in told["models"]}
        measured = np.stack([stored[subject]["measured"] for subject in subjects])
        rows = []
        for method in dict.fromkeys((config.method, *config.beside)):
            base = replace(_base("group", method, measured.shape[1], None), n_subjects=len(subjects))
            ends = {}
            if len(subjects) > 1:
                drawn = bootstrap_noise_ceiling(
                    measured, method=method, n_resamples=config.n_bootstrap, seed=seed
                )
                observed = rsa_noise_ceiling(measured, method=method)
                for name, value, spread in zip(("lower", "upper"), observed, drawn, strict=True):
                    low, high = np.quantile(spread, [0.025, 0.975])
                    ends[name] = replace(
                        base,
                        metric="rsa_noise_ceiling",
                        scorer=f"{method}, {name}",
                        value=float(value.mean()),
                        ci_low=float(low),
                        ci_high=float(high),
                    )
            lower = ends["lower"].value if ends else None
            both = replace(
                base, ceiling=lower, scorer=f"{method}, {DRAWN_TOGETHER}", ci_over="image and subject"
            )
            rows += model_rows(
                both,
                np.stack(list(models.values())),
                measured,
                models,
                targets,
                method,
                config,
                seed,
                over_subjects=True,
            )
            rows += ends.values()
        return rows, {"similarity": {"method": config.method, "models": list(models)}}


def session_rdms(study: Study) -> dict[int, np.ndarray]:
    """Return the matrix of each session of a study whose rows are dissimilarities to its images."""
    if study.space.describe().get("name") != DISSIMILARITIES or study.stimuli is None:
        raise InputError(
            f"{study.dataset} sub-{study.subject}",
            expected="a study that holds dissimilarities between images, such as kriegeskorte92",
            found=f"responses in {study.unit}",
        )
    found = {}
    for session in sorted(study.trials["session"].unique()):
        rows = np.flatnonzero(study.trials["session"].to_numpy() == session)
        at = dict(zip(study.stimulus_ids[rows], rows, strict=True))
        found[int(session)] = study.read(np.array([at[i] for i in study.stimuli.ids])).astype(np.float64)
    return found


def mean_rdm(sessions: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the mean of a subject's matrices."""
    return check_rdms("dissimilarities", np.mean(list(sessions.values()), axis=0))[0]


def model_rows(
    base: Score,
    rdms: np.ndarray,
    measured: np.ndarray,
    models: Mapping[str, np.ndarray],
    targets: Mapping[str, str],
    method: RANKS,
    config: SimilarityConfig,
    seed: int,
    *,
    over_subjects: bool,
) -> list[Score]:
    """Return each model's mean correlation with the measured matrices, and the headline model minus each other.

    Parameters
    ----------
    base : Score
    rdms : array of shape (models, images, images)
    measured : array of shape (subjects, images, images)
    models, targets : mapping by name
    method, config, seed
    over_subjects : bool
        Whether subjects are drawn with the images.
    """
    values = rsa_scores(rdms, measured, method=method).mean(axis=1)
    spread = bootstrap_rsa(
        rdms,
        measured,
        method=method,
        over_subjects=over_subjects,
        n_resamples=config.n_bootstrap,
        seed=seed,
    )
    rows = []
    for k, name in enumerate(models):
        test: PermutationTest = permute_rsa(
            rdms[k], measured, method=method, n_permutations=config.n_permutations, seed=seed
        )
        low, high = np.quantile(spread[:, k], [0.025, 0.975])
        rows.append(
            replace(
                base,
                model=name,
                target=targets.get(name, ""),
                value=float(values[k]),
                ci_low=float(low),
                ci_high=float(high),
                chance=test.chance,
                p_value=test.p_value,
                p_correction=test.correction,
            )
        )
    names = list(models)
    for k, name in enumerate(names[1:], 1):
        gap = spread[:, 0] - spread[:, k]
        low, high = np.quantile(gap, [0.025, 0.975])
        about = gap - gap.mean()
        rows.append(
            replace(
                base,
                model=names[0],
                target=targets.get(names[0], ""),
                versus=name,
                ceiling=None,
                value=float(values[0] - values[k]),
                ci_low=float(low),
                ci_high=float(high),
                p_value=permutation_p(abs(float(values[0] - values[k])), np.abs(about)),
                p_correction="uncorrected, bootstrap",
            )
        )
    return rows


def _base(subject: str, method: str, n_images: int, ceiling: float | None) -> Score:
    return Score(
        subject=subject,
        metric="rsa",
        value=float("nan"),
        ci_over="image",
        ceiling=ceiling,
        n=n_images,
        n_subjects=1,
        scorer=method,
    )


def _check_same_images(everyone: Mapping[str, np.ndarray]) -> None:
    sizes = {label: len(rdm) for label, rdm in everyone.items()}
    if len(set(sizes.values())) > 1:
        raise InputError("dissimilarities", expected="the same images in all subjects", found=str(sizes))


def _words(config: SimilarityConfig, n_images: int, n_sessions: int) -> list[str]:
    beside = "".join(f", beside it {TITLES[name]}" for name in config.beside if name != config.method)
    return [
        f"Measured. The dissimilarities of {n_images} images (1 - r between response patterns), averaged over {n_sessions} sessions.",
        "Models. 1 - Pearson's r between the features of two images: all tokens of a layer side by side, or all pixels. No weights are "
        "fitted.",
        f"Comparison. {TITLES[config.method]} of the {n_images * (n_images - 1) // 2} pairs{beside}. Intervals draw images with replacement "
        f"({config.n_bootstrap} times), leaving out pairs of an image with its own copy; at the group level subjects are drawn too, which makes them "
        f"rather too wide. Chance and p relabel the model's images ({config.n_permutations} times). p of a difference comes from the same resamples, "
        "centred, two-sided.",
        "Noise ceilings. Lower: a person's correlation with the mean of the others. Upper: with the mean of all, the person included; for "
        "tau-a the mean of ranks is close to, not exactly, the best. A model below the lower ceiling misses something that people share.",
    ]


CITATIONS = [
    {
        "text": "Kriegeskorte, Mur, Bandettini 2008. Representational similarity analysis. Frontiers in Systems Neuroscience 2",
        "url": "https://doi.org/10.3389/neuro.06.004.2008",
    },
    {
        "text": "Nili et al. 2014. A toolbox for representational similarity analysis. PLoS Computational Biology 10",
        "url": "https://doi.org/10.1371/journal.pcbi.1003553",
    },
    {
        "text": "Schuett, Kipnis, Diedrichsen, Kriegeskorte 2023. Statistical inference on representational geometries. eLife 12",
        "url": "https://doi.org/10.7554/eLife.82566",
    },
]

"""Reconstruct by a linear encoding model and a prior over images, both learned inside the training part of every fold.

For each split: an encoding model (`inverted-encoding`) and a cloud of exemplars (`exemplar-prior`) are fitted on the training
part; how the posterior is read is chosen by cross-validation inside that part; then the test images are reconstructed.
Ridge to pixels, tuned on the same rows, and the controls stand beside. Scores are pooled over folds and averaged over
repetitions.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat

from braindecode_suite.core.config import Config, build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.minutes import Amount, first_minutes, naming
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.decoders.image_prior import (
    ExemplarPrior,
    ExemplarPriorConfig,
    Reading,
    as_images,
    choose_contrast,
    make_variants,
)
from braindecode_suite.encoders.inverted_encoding import InvertedEncoding, InvertedEncodingConfig
from braindecode_suite.encoders.pixels import GreyPixels
from braindecode_suite.encoders.ridge import RidgeConfig, RidgeEncoder
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.metrics.correlation import pairwise_pearson
from braindecode_suite.metrics.duplicates import near_duplicates, perceptual_hashes
from braindecode_suite.metrics.images import blurred, flat_grey
from braindecode_suite.metrics.permutation import relabel_training
from braindecode_suite.workflows.fitting import study_identity
from braindecode_suite.workflows.folded_scoring import (
    Folded,
    FoldedScores,
    FoldedSettings,
    Key,
    score_folded,
)
from braindecode_suite.workflows.job import Job, MinutesConfig, Permutations, Resamples, WorkflowConfig
from braindecode_suite.workflows.minutes import minutes_facts
from braindecode_suite.workflows.model_card import figure_table, image_figures
from braindecode_suite.workflows.results import ResultImage, SubjectResults
from braindecode_suite.workflows.steps import Arrays, Steps

PRIOR, GAUSSIAN, RIDGE = "image-prior", "inverted-encoding", "ridge"
RANDOM_EXAMPLES = 12
SHUFFLE_SEED = 71


class ReadingGrid(Config):
    """What the inner cross-validation chooses from, and by how many folds."""

    folds: Annotated[int, Field(ge=2)] = 5
    shrinkages: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.8, 0.9, 0.95)
    temperatures: tuple[PositiveFloat, ...] = (0.05, 0.07, 0.1, 0.14, 0.2)
    floors: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.05, 0.1, 0.15, 0.2)
    gains: tuple[PositiveFloat, ...] = (1.25, 1.5, 1.75, 2.0)


class ImagePriorConfig(MinutesConfig):
    """Config of the workflow.

    Attributes
    ----------
    second_protocols : tuple of str
        Scored and printed beside the headline's.
    encoder, prior, ridge
        Configs of the models; shrinkage, temperature, floor and gain are replaced by what `grid` chooses.
    grid : ReadingGrid
    shuffled_train_repetitions : int
        Repetitions refitted on shuffled pairs.
    n_bootstrap, n_permutations : int
    """

    second_protocols: tuple[str, ...] = ()
    encoder: InvertedEncodingConfig = InvertedEncodingConfig()
    prior: ExemplarPriorConfig = ExemplarPriorConfig()
    ridge: RidgeConfig = RidgeConfig()
    grid: ReadingGrid = ReadingGrid()
    shuffled_train_repetitions: NonNegativeInt = 2
    n_bootstrap: Resamples = 10_000
    n_permutations: Permutations = 1000


class ImagePriorWorkflow:
    """Linear encoding turned around, with a prior over images learned inside the training folds."""

    name: ClassVar[str] = "image-prior"
    label: ClassVar[str] = "imageprior"
    config_class: ClassVar[type[WorkflowConfig]] = ImagePriorConfig

    def __init__(self, config: ImagePriorConfig, job: Job) -> None:
        self.config, self.job = config, job
        self.protocols = (config.protocol or job.dataset.card.protocols[0], *config.second_protocols)

    def plan(self) -> Sequence[str]:
        """Return the names of the steps."""
        names = ["open the study"]
        for protocol in self.protocols:
            names += [
                f"{protocol}: fit, reconstruct and control, one step a repetition",
                f"{protocol}: score",
            ]
        names += [
            f"{self.protocols[0]}, first {minutes:g} minutes: every model, no controls"
            for minutes in self.config.minutes
        ]
        return [*names, "fit the saved models on the training part of the protocol that splits once"]

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        job = self.job
        with steps.block("open the study"):
            study = job.dataset.open(job.data_dir, job.subject, job.work_dir, **self.config.dataset_options)
            amounts = self._first_minutes(study)
            room = _Room(study, self.config, job)
        results = SubjectResults(space=study.space)
        cards, chosen, once = [], {}, None
        for protocol in self.protocols:
            splits = PROTOCOLS[protocol]([study], seed=job.seed)
            for split in splits:
                split.check_training_size()
            if len(splits) == 1 and once is None:
                once = splits[0]
            folded, facts = self._reconstruct(steps, room, protocol, splits)
            with steps.block(f"{protocol}: score"):
                scores = score_folded(folded, self._settings(room, protocol))
            _add(results, protocol, folded, scores, with_images=protocol == self.protocols[0])
            cards += [
                split.card() | {"near_duplicates": near}
                for split, near in zip(splits, facts["near"], strict=True)
            ]
            chosen[protocol] = facts["chosen"]
        for amount in amounts:
            where = f"{self.protocols[0]}, first {amount.minutes:g} minutes"
            folded, _ = self._reconstruct(steps, room, where, amount.splits, controls=False)
            with steps.block(f"{where}: score"):
                scores = score_folded(folded, self._settings(room, self.protocols[0]))
            results.scores += [replace(score, minutes=amount.minutes) for score in scores.scores]
            cards += [split.card() for split in amount.splits]
        if once is None:
            steps.skip(
                "fit the saved models",
                "each protocol has many splits, and no fold's model is that of the scores",
            )
        else:
            with steps.block(f"fit the saved models on the training part of {once.protocol}"):
                self._save_models(results, room, once)
        results.facts = self._facts(room, cards, chosen)
        if amounts:
            all_data = PROTOCOLS[self.protocols[0]]([study], seed=job.seed)
            results.facts["minutes"] = minutes_facts(all_data, None, amounts, [None] * len(amounts))
        return results

    def _first_minutes(self, study: Study) -> list[Amount]:
        """Restrict the splits of the first protocol before anything is fitted."""
        if not self.config.minutes:
            return []
        amounts = first_minutes(
            PROTOCOLS[self.protocols[0]]([study], seed=self.job.seed), self.config.minutes
        )
        for amount in amounts:
            with naming(amount.asked):
                for split in amount.splits:
                    split.check_training_size()
        return amounts

    def _settings(self, room: _Room, protocol: str) -> FoldedSettings:
        trials = room.study.trials
        return FoldedSettings(
            subject=self.job.subject,
            split=protocol,
            target=room.target.name,
            n_repeats=len(trials) / trials["stimulus_id"].nunique(),
            seed=self.job.seed,
            n_bootstrap=self.config.n_bootstrap,
            n_permutations=self.config.n_permutations,
        )

    def _reconstruct(
        self, steps: Steps, room: _Room, protocol: str, splits: Sequence[Split], *, controls: bool = True
    ) -> tuple[Folded, dict[str, Any]]:
        """Reconstruct the test images of every split, one step a repetition, and put repetitions side by side."""
        groups = repetitions(splits)
        recon: dict[Key, list[np.ndarray]] = {}
        first_ids: np.ndarray | None = None
        chosen: Counter[str] = Counter()
        near: list[dict[str, Any]] = []
        for number, group in enumerate(groups):
            name = protocol if len(groups) == 1 else f"{protocol} repetition {number + 1}"
            shuffle = controls and number < self.config.shuffled_train_repetitions
            work = partial(room.repetition, group, shuffle, controls)
            key = self._key(room, group, shuffle) | ({} if controls else {"controls": False})
            arrays, facts = steps.arrays(name, key, work)
            order = np.argsort(arrays["ids"])
            first_ids = arrays["ids"][order] if first_ids is None else first_ids
            if list(arrays["ids"][order]) != list(first_ids):
                raise InputError(
                    protocol, expected="the same test images in every repetition", found="others"
                )
            for entry, stack in arrays.items():
                if entry != "ids":
                    model, control = entry.split("__")
                    recon.setdefault((model, control), []).append(stack[order])
            chosen.update(facts["chosen"])
            near += facts["near_duplicates"]
        assert first_ids is not None
        ids = first_ids.astype(object)
        truth = room.grey(ids)
        stacks = {key: np.stack(parts) for key, parts in recon.items()}
        if controls:
            stacks["", "flat-grey"] = _uint8(flat_grey(truth))[None]
            stacks["", "blurred-truth"] = _uint8(blurred(truth))[None]
        looks_alike = {i for split in near for i in split["test_images"]}
        folded = Folded(
            ids=ids,
            truth=truth,
            classes=room.classes(ids),
            recon=stacks,
            near_duplicates=np.array([i in looks_alike for i in ids]),
        )
        return folded, {"chosen": dict(chosen.most_common()), "near": near}

    def _key(self, room: _Room, group: Sequence[Split], shuffle: bool) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", include={"encoder", "prior", "ridge", "grid"})
        return {
            "config": config,
            "splits": [split.hash for split in group],
            "study": room.identity,
            "shuffled": shuffle,
            "seed": self.job.seed,
        }

    def _save_models(self, results: SubjectResults, room: _Room, split: Split) -> None:
        """Save the models of the protocol that splits once, with their figures on its test part.

        Of a cross-validation no model is kept: each of its folds has one, its scores are pooled over all of them, and none of them
        gives those scores again.
        """
        folder = self.job.work_dir / f"sub-{self.job.subject}_desc-{self.label}" / "models"
        shutil.rmtree(folder, ignore_errors=True)
        encoder, _, _, reading = room.fit(_training(split), split.hash)
        ridge = room.fit_ridge(_training(split), split.hash)
        encoder.save(folder)
        ridge.save(folder)
        for path in sorted(folder.iterdir()):
            if path.suffix == ".safetensors":
                results.models[path.name] = path
        config, card = self.config, self.job.dataset.card
        results.model_config = {
            **json.loads((folder / "config.json").read_text(encoding="utf-8")),
            "run": {
                "workflow": self.name,
                "dataset": card.name,
                "subject": self.job.subject,
                "dataset_options": config.dataset_options,
                "protocol": split.protocol,
                "split_hash": split.hash,
                "seed": self.job.seed,
                "targets": {"image": room.target.name},
                "prior": config.prior.model_copy(update=vars(reading)).model_dump(mode="json"),
            },
            "figures": image_figures(results.scores, split.protocol),
        }
        lines = [
            f"# {self.name}, sub-{self.job.subject} of {card.name}",
            "",
            f"`{GAUSSIAN}` and `{RIDGE}` of one person's recordings ({room.study.n_units} units, {room.study.unit}), fitted on the training "
            f"and validation part of `{split.protocol}` (split {split.hash}): a cross-validation has no model that gives its pooled "
            "scores again.",
            "",
            f"`{PRIOR}` reads the same encoding model through exemplars, with temperature {reading.temperature:g}, floor "
            f"{reading.floor:g} and gain {reading.gain:g}. The exemplars are made anew from the training images, which are not part of "
            "this folder.",
            "",
            f"- data: {card.title}. Terms: {card.terms.rstrip('.')}. The mean and the axes of the training images are in this folder: the same terms apply "
            "to it.",
            "- intended use: research on decoding with the consent of the person recorded; not for reading anybody's mind",
            "",
            "Identification within the class, SSIM and PixCorr of the test images; `bds verify` recomputes these figures from this folder "
            "and the data.",
            "",
            *figure_table(results.model_config["figures"]),
        ]
        results.model_card = "\n".join(lines) + "\n"

    def _facts(self, room: _Room, cards: list[dict[str, Any]], chosen: Mapping[str, Any]) -> dict[str, Any]:
        study = room.study
        ids = sorted(set(study.stimulus_ids))
        rng = np.random.default_rng(self.job.seed)
        return {
            "seeds": [self.job.seed],
            "study": {
                "n_trials": len(study.trials),
                "n_units": study.n_units,
                "n_valid": study.n_units if study.valid is None else int(study.valid.sum()),
                "unit": study.unit,
                "n_images": len(ids),
                "sessions": int(study.trials["session"].nunique()),
                "repeats": dict(Counter(str(n) for n in Counter(study.stimulus_ids).values())),
                "warnings": list(study.provenance.get("warnings", [])),
                "provenance": {k: v for k, v in study.provenance.items() if k != "warnings"},
            },
            "splits": cards,
            "recipe": [],
            "models": [
                {"name": PRIOR, "target": room.target.name, "chosen inside the training parts": chosen},
                {"name": GAUSSIAN, "target": room.target.name, "units used in the last fit": room.units_used},
                {
                    "name": RIDGE,
                    "target": room.target.name,
                    "penalties": "one a pixel, 5-fold inside the training part",
                },
            ],
            "targets": {"image": room.target.name},
            "generator": {"name": PRIOR, "variants of each training image": self.config.prior.variants},
            "methods": METHODS,
            "citations": CITATIONS,
            "notes": NOTES,
            "random_examples": [str(i) for i in rng.permutation(ids)[:RANDOM_EXAMPLES]],
        }


class _Room:
    """A study with what all folds share: images, their target, and their deformed copies."""

    def __init__(self, study: Study, config: ImagePriorConfig, job: Job) -> None:
        if study.stimuli is None:
            raise InputError(f"sub-{study.subject}", expected="stimuli", found="unlabelled recordings")
        self.study, self.stimuli, self.config, self.job = study, study.stimuli, config, job
        first = self.stimuli.images([study.stimulus_ids[0]])
        self.height, self.width = first.shape[1:3]
        self.target = GreyPixels(self.height, self.width)
        self.variants = make_variants(config.prior)
        self.units_used = 0
        self.identity = study_identity(study)

    def grey(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return images as uint8 of shape (images, height, width)."""
        return self.stimuli.images(list(ids))[..., 0]

    def classes(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the category of each image; one and the same where none is known."""
        attributes = self.stimuli.attributes
        if attributes is None or "category" not in attributes.columns:
            return np.full(len(ids), "unknown", dtype=object)
        return np.asarray(attributes["category"].loc[list(ids)].to_numpy(dtype=object))

    def context(self, split_hash: str) -> FitContext:
        return FitContext(work_dir=self.job.work_dir, seed=self.job.seed, split_hash=split_hash)

    def repetition(
        self, splits: Sequence[Split], shuffle: bool, controls: bool = True
    ) -> tuple[Arrays, dict[str, Any]]:
        """Work on splits whose test parts do not overlap; return reconstructions and what was chosen."""
        parts: list[Arrays] = []
        chosen: Counter[str] = Counter()
        near = []
        for split in splits:
            arrays, choice = self.one_split(split, shuffle, controls)
            parts.append(arrays)
            chosen[choice] += 1
            near.append(self.near_duplicates(split))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return arrays, {"chosen": dict(chosen), "near_duplicates": near}

    def one_split(self, split: Split, shuffle: bool, controls: bool = True) -> tuple[Arrays, str]:
        """Fit on the training part, reconstruct the test images by every model and, if asked for, make the controls."""
        train, test = _training(split), split.cohort("test")
        encoder, prior, shrinkage, _ = self.fit(train, split.hash)
        ids, predicted, decoded = self.decode(encoder, prior, self.fit_ridge(train, split.hash), test)
        seeds = [0] * len(ids)

        def draw(latents: Latents) -> np.ndarray:
            return prior.generate({"image": latents}, seeds)[..., 0]

        reading = prior.reading
        choice = f"shrinkage {shrinkage:g}, temperature {reading.temperature:g}, floor {reading.floor:g}, gain {reading.gain:g}"
        recon = {f"{model}__brain": images for model, images in decoded.items()}
        if not controls:
            return {"ids": ids.astype(np.str_), **recon}, choice
        train_ids = list(dict.fromkeys(train.stimulus_ids))
        known = self.target.embed(self.stimuli, train_ids)
        truth = self.target.embed(self.stimuli, list(ids)).select(ids)
        recon |= {
            f"{PRIOR}__null-condition": draw(
                self.constant(known.flat.mean(axis=0)[None].repeat(len(ids), 0), ids)
            ),
            f"{PRIOR}__category-only": draw(self.constant(self.class_means(known, ids), ids)),
            f"{PRIOR}__nearest-train": self.grey(nearest(predicted, known)),
            f"{PRIOR}__true-latent": draw(truth),
            "__mean-image": self.plain(self.constant(known.flat.mean(axis=0)[None].repeat(len(ids), 0), ids)),
        }
        if shuffle:
            shuffled = self.shuffled(train, split)
            other, other_prior, _, _ = self.fit(shuffled, split.hash)
            wrong = other.predict(test)["image"].mean_by_stimulus().select(ids)
            recon[f"{PRIOR}__shuffled-train"] = other_prior.generate({"image": wrong}, seeds)[..., 0]
        return {"ids": ids.astype(np.str_), **recon}, choice

    def decode(
        self, encoder: InvertedEncoding, prior: ExemplarPrior, ridge: RidgeEncoder, test: Cohort
    ) -> tuple[np.ndarray, Latents, dict[str, np.ndarray]]:
        """Return ids, the encoder's latents, and the reconstructions of every model: uint8 of shape (images, height, width)."""
        predicted = encoder.predict(test)["image"].mean_by_stimulus()
        ids = predicted.ids
        linear = ridge.predict(test)["image"].mean_by_stimulus().select(ids)
        decoded = {
            PRIOR: prior.generate({"image": predicted}, [0] * len(ids))[..., 0],
            RIDGE: self.plain(linear),
            GAUSSIAN: self.plain(predicted),
        }
        return ids, predicted, decoded

    def fit(self, train: Cohort, split_hash: str) -> tuple[InvertedEncoding, ExemplarPrior, float, Reading]:
        """Choose shrinkage and reading inside the training part, then fit encoder and prior on all of it."""
        shrinkage, reading = self.choose(train, split_hash)
        encoder = (
            self.new_encoder(split_hash).fit(train, _empty(train), {"image": self.target}).shrink(shrinkage)
        )
        self.units_used = encoder.units_used_[self.study.subject]["image"]
        prior = self.new_prior(train).read_with(encoder.likelihood_of())
        prior.reading = reading
        return encoder, prior, shrinkage, reading

    def choose(self, train: Cohort, split_hash: str) -> tuple[float, Reading]:
        """Cross-validate inside the training part: shrinkage and temperature by squared error, contrast by PixCorr + SSIM."""
        grid = self.config.grid
        ids, rows = train.stimulus_ids, train.rows[0]
        folds = group_folds(ids, grid.folds, seed=self.job.seed)
        unique = list(dict.fromkeys(ids))
        place = {stimulus_id: k for k, stimulus_id in enumerate(unique)}
        truth = self.target.embed(self.stimuli, unique).flat
        shape = (len(grid.shrinkages), len(grid.temperatures), *truth.shape)
        means = np.empty(shape)
        for fold in range(grid.folds):
            inner, left = (
                Cohort.of(train.studies[0], rows[folds != fold]),
                Cohort.of(train.studies[0], rows[folds == fold]),
            )
            encoder = self.new_encoder(split_hash).fit(inner, _empty(inner), {"image": self.target})
            prior = self.new_prior(inner)
            for k, shrinkage in enumerate(grid.shrinkages):
                encoder.shrink(shrinkage)
                predicted = encoder.predict(left)["image"].mean_by_stimulus()
                at = [place[i] for i in predicted.ids]
                means[k][:, at] = prior.read_with(encoder.likelihood_of()).posterior_means(
                    predicted, grid.temperatures
                )
        error = np.square(means - truth).mean(axis=(2, 3))  # (shrinkages, temperatures)
        best, hot = np.unravel_index(error.argmin(), error.shape)
        size = (-1, self.height, self.width)
        posterior = means[best, hot].reshape(size)
        floor, gain = choose_contrast(posterior, truth.reshape(size), grid.floors, grid.gains)
        return grid.shrinkages[best], Reading(temperature=grid.temperatures[hot], floor=floor, gain=gain)

    def new_encoder(self, split_hash: str) -> InvertedEncoding:
        return InvertedEncoding(self.config.encoder, self.context(split_hash))

    def new_prior(self, train: Cohort) -> ExemplarPrior:
        images = self.stimuli.images(list(dict.fromkeys(train.stimulus_ids)))
        return ExemplarPrior(self.config.prior, self.target, self.height, self.width, self.variants).fit(
            images
        )

    def fit_ridge(self, train: Cohort, split_hash: str) -> RidgeEncoder:
        ridge = RidgeEncoder(self.config.ridge, self.context(split_hash))
        return ridge.fit(train, _empty(train), {"image": self.target})

    def shuffled(self, train: Cohort, split: Split) -> Cohort:
        """Return the training part with its images dealt to other responses."""
        study, rows = train.studies[0], train.rows[0]
        seed = int(
            np.random.SeedSequence([self.job.seed, SHUFFLE_SEED, int(split.hash[:8], 16)]).generate_state(1)[
                0
            ]
        )
        labels = study.stimulus_ids.copy()
        labels[rows] = relabel_training(labels[rows].astype(np.str_), seed=seed).astype(object)
        return Cohort((replace(study, trials=study.trials.assign(stimulus_id=labels)),), (rows,))

    def plain(self, latents: Latents) -> np.ndarray:
        """Return pixel latents as they are, clipped to grey values."""
        return as_images(latents.flat, self.height, self.width)[..., 0]

    def constant(self, pixels: np.ndarray, ids: np.ndarray) -> Latents:
        return Latents(pixels[:, None].astype(np.float32), ids, self.target.name, "true")

    def class_means(self, known: Latents, ids: np.ndarray) -> np.ndarray:
        """Return, for each image, the mean training latent of its class."""
        of, wanted = self.classes(known.ids), self.classes(ids)
        return np.stack([known.flat[of == name].mean(axis=0) for name in wanted])

    def near_duplicates(self, split: Split) -> dict[str, Any]:
        """Count the pairs of test and training images that a perceptual hash cannot tell apart."""
        test = sorted(split.keys("test", "stimulus"))
        train = sorted(split.keys("train", "stimulus") | split.keys("validation", "stimulus"))
        pairs = near_duplicates(perceptual_hashes(self.grey(test)), perceptual_hashes(self.grey(train)))
        return {"pairs": len(pairs), "test_images": sorted({test[i] for i, _ in pairs})}


def recompute_figures(
    model_dir: Path, run: Mapping[str, Any], split: Split, job: Job
) -> list[dict[str, Any]]:
    """Return the figures of a saved model's card, from the folder and the data; only the prior's exemplars are made again.

    Parameters
    ----------
    model_dir : Path
    run : mapping
        Of the folder's ``config.json``.
    split : Split
        The one that the models were fitted on.
    job : Job
    """
    prior_config = build(ExemplarPriorConfig, dict(run["prior"]), model_dir / "config.json")
    room = _Room(split.studies[0], ImagePriorConfig(prior=prior_config), job)
    test = split.cohort("test")
    encoder = InvertedEncoding.load(model_dir, test, seed=run["seed"])
    ridge = RidgeEncoder.load(model_dir, test, seed=run["seed"], targets={"image": room.target})
    prior = room.new_prior(_training(split)).read_with(encoder.likelihood_of())
    ids, _, decoded = room.decode(encoder, prior, ridge, test)
    folded = Folded(
        ids=ids,
        truth=room.grey(ids),
        classes=room.classes(ids),
        recon={(model, "brain"): images[None] for model, images in decoded.items()},
        near_duplicates=np.zeros(len(ids), bool),
    )
    settings = FoldedSettings(
        subject=job.subject,
        split=split.protocol,
        target=room.target.name,
        n_bootstrap=100,
        n_permutations=1000,
    )
    return image_figures(score_folded(folded, settings).scores, split.protocol)


def repetitions(splits: Sequence[Split]) -> list[list[Split]]:
    """Group splits, in order, so that no test image comes twice in a group."""
    groups: list[list[Split]] = []
    seen: set[Any] = set()
    for split in splits:
        test = split.keys("test", "stimulus")
        if not groups or seen & test:
            groups.append([])
            seen = set()
        groups[-1].append(split)
        seen |= test
    return groups


def nearest(predicted: Latents, known: Latents) -> np.ndarray:
    """Return the id of the training image that correlates most with each predicted latent."""
    return np.asarray(known.ids[pairwise_pearson(known.flat, predicted.flat).argmax(axis=1)])


def _training(split: Split) -> Cohort:
    """Return training and validation rows together: choices are made by cross-validation inside them."""
    rows = np.sort(np.concatenate([split.train[0], split.validation[0]]))
    return Cohort.of(split.studies[0], rows)


def _empty(cohort: Cohort) -> Cohort:
    return Cohort.of(cohort.studies[0], np.empty(0, np.int64))


def _uint8(images: np.ndarray) -> np.ndarray:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _add(
    results: SubjectResults, protocol: str, folded: Folded, scores: FoldedScores, *, with_images: bool
) -> None:
    """Put scores, arrays and images of one protocol into the results."""
    results.scores += scores.scores
    results.latents[f"{protocol}_ids"] = folded.ids
    results.latents[f"{protocol}_truth"] = folded.truth
    results.latents[f"{protocol}_classes"] = folded.classes
    results.similarity[f"{protocol}_ids"] = folded.ids
    for (model, control), stack in folded.recon.items():
        results.latents["_".join(part for part in (protocol, model, control) if part)] = stack
    for (model, metric), pairs in scores.pairs.items():
        results.similarity[f"{protocol}_{model}_{metric}"] = pairs
    if not with_images:
        return
    for k, stimulus_id in enumerate(folded.ids):
        results.images.append(
            ResultImage(stimulus_id=stimulus_id, control="truth", pixels=folded.truth[k, ..., None])
        )
        for (model, control), stack in folded.recon.items():
            values = scores.values[model, control]
            results.images.append(
                ResultImage(
                    stimulus_id=stimulus_id,
                    control=control,
                    pixels=stack[0, k][..., None],
                    stage="final" if model else "",
                    model=model,
                    seed="0" if model else "",
                    pixcorr=float(values["pixcorr"][0, k]),
                    ssim=float(values["ssim"][0, k]),
                    identification=float(values["identification"][0, k]),
                    source="study" if control == "nearest-train" else "",
                )
            )


METHODS = [
    "Responses are modelled as a linear function of the image's pixels plus noise: ridge from image to voxel, the penalty of "
    "each voxel chosen by leave-one-image-out error; voxels that are not predicted are left out. The covariance of the "
    "left-out residuals, drawn to its diagonal, is the noise. Read backwards this is the likelihood of an image.",
    "The prior is the training images and deformed copies of each (turned, scaled, sheared, shifted and bent a little). A "
    "reconstruction is their mean, weighted by the likelihood raised to a power below one, since the encoding weights are "
    "themselves estimates; its contrast is then stretched. The shrinkage of the noise and the power are chosen by squared "
    "error, the contrast by PixCorr plus SSIM, all by cross-validation inside the training part of each fold: no test image and "
    "no outside image is used. No network was trained.",
    "Beside it stand the same likelihood under a Gaussian prior (inverted-encoding) and ridge from voxels to pixels with a "
    "penalty for each pixel, fitted on the same rows. Every image is reconstructed once a repetition; its scores are averaged "
    "over repetitions before images are resampled. Identification: the share of the other true images of the same class that "
    "are less like the reconstruction (Pearson's r of pixels) than the true one. SSIM is two-dimensional with Gaussian "
    "weights of sigma 1.5, population covariance and data range 1.",
]
NOTES = [
    "One subject, folds dependent: intervals resample images and are conditional on the subject and on the set of images.",
    "Validation rows belong to the training part here: choices are made by cross-validation over training and validation rows.",
    "shuffled-test and shuffled-within-class are exact means over all other images (of the class), not one draw.",
    "nearest-train searches the training images of the fold; the prior's exemplars are copies of the same images.",
]
CITATIONS = [
    {
        "text": "van Gerven, de Lange, Heskes 2010. Neural decoding with hierarchical generative models. Neural Computation 22",
        "url": "https://doi.org/10.1162/NECO_a_00047",
    },
    {
        "text": "Schoenmakers, Barth, Heskes, van Gerven 2013. Linear reconstruction of perceived images from human brain "
        "activity. NeuroImage 83",
        "url": "https://doi.org/10.1016/j.neuroimage.2013.07.043",
    },
    {
        "text": "Naselaris, Prenger, Kay, Oliver, Gallant 2009. Bayesian reconstruction of natural images from human brain "
        "activity. Neuron 63",
        "url": "https://doi.org/10.1016/j.neuron.2009.09.006",
    },
    {
        "text": "Du, Du, Huang, He 2019. Reconstructing perceived images from human brain activities with Bayesian deep "
        "multiview learning. IEEE TNNLS 30",
        "url": "https://doi.org/10.1109/TNNLS.2018.2882456",
    },
]

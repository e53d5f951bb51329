"""The transformer brain encoder (Adeli, Sun & Kriegeskorte 2025, arXiv:2505.17329) as an `ImageEncoder`.

Known faults of the official code are not repeated: features are cached instead of recomputed, each unit is read from its own
query only, empty regions have no query, padding is not attended to, what weighs the members of an ensemble has not stopped
their training, and their weights sum to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.checks import check_match, check_option, check_shape, check_subject
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import (
    FeatureSource,
    Grid,
    Rows,
    check_sources,
    rows_by_source,
)
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort, Stimuli, Study
from braindecode_suite.encoders.attention_routing_config import PRESETS, AttentionRoutingConfig, preset
from braindecode_suite.encoders.attention_routing_task import (
    IMAGES_AT_ONCE,
    RoutingTask,
    TrainingResponses,
    fit_token_statistics,
    held_out_r,
    predict_units,
    to_tensor,
)
from braindecode_suite.learning.checkpoints import (
    SavedModel,
    describe_fit,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.ensembles import softmax_weights
from braindecode_suite.learning.model_tensors import (
    add_prefix,
    grid_tensors,
    restore_grids,
    restore_routes,
    restore_unit_scaler,
    route_tensors,
    take_prefix,
    unit_scaler_tensors,
)
from braindecode_suite.learning.responses import (
    ImageRows,
    UnitScaler,
    fit_scaler,
    flatten_times,
    image_means,
)
from braindecode_suite.learning.routes import Routes, route_units
from braindecode_suite.learning.routing import RoutingNetwork
from braindecode_suite.learning.training import TrainingResult
from braindecode_suite.learning.training import train as run_training

LEAST_HELD_OUT = 3
SEED_STEP = 1000


@dataclass(frozen=True, eq=False)
class _SubjectModel:
    """What was fitted to one subject.

    Attributes
    ----------
    networks : dict of str to list of RoutingNetwork
        By source of features, one a seed.
    weights : array of shape (sources, modelled units)
    shape : tuple of int
        Of one response.
    """

    scaler: UnitScaler
    routes: Routes
    networks: dict[str, list[RoutingNetwork]]
    weights: np.ndarray
    shape: tuple[int, ...]


class AttentionRouting:
    """Image tokens to brain responses: learned queries of regions (or units, channels, times) attend to the tokens.

    Each subject has networks of its own, one for each source of features and seed. Seeds are averaged, sources are weighted
    unit by unit by their r on held-out images: with several sources one half of the validation images stops the training
    and the other half weighs.

    Parameters
    ----------
    config : AttentionRoutingConfig
    context : FitContext

    Attributes
    ----------
    history_ : list of dict
        One row a validated epoch of each network, with ``subject``, ``source`` and ``member`` by number.
    """

    config_class: ClassVar[type[AttentionRoutingConfig]] = AttentionRoutingConfig
    PRESETS: ClassVar[tuple[str, ...]] = tuple(PRESETS)

    def __init__(self, config: AttentionRoutingConfig, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []

    @classmethod
    def preset(cls, name: str) -> AttentionRoutingConfig:
        """Return the config of a preset: tiny or paper."""
        return preset(name)

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters, of all networks."""
        self._check_fitted()
        every = [n for m in self._models.values() for group in m.networks.values() for n in group]
        return sum(parameter.numel() for network in every for parameter in network.parameters())

    def fit(self, train: Cohort, validation: Cohort, features: Sequence[FeatureSource]) -> AttentionRouting:
        """Train on training rows; keep the weights that predict validation images best.

        Parameters
        ----------
        train, validation : Cohort
            Of the same studies.
        features : sequence of FeatureSource
            All of them are used, see the class.
        """
        check_sources(features)
        check_match("`validation`", {"subjects": train.subjects}, {"subjects": validation.subjects})
        self._sources = {source.name: source for source in features}
        self._grids = {source.name: source.grid for source in features}
        self.facts_ = describe_fit(train, self._sources, self.context.split_hash)
        self.facts_["grids"] = {name: grid.describe() for name, grid in self._grids.items()}
        self.history_ = []
        models = {
            study.subject: self._fit_subject(number, study, rows, held_out)
            for number, ((study, rows), held_out) in enumerate(zip(train, validation.rows, strict=True))
        }
        self.facts_ |= {
            "queries": {subject: list(model.routes.names) for subject, model in models.items()},
            "shapes": {subject: list(model.shape) for subject, model in models.items()},
            "history": self.history_,
        }
        self._models, self._recipes = models, recipe_tensors(train)
        return self

    def _fit_subject(
        self, number: int, study: Study, rows: np.ndarray, held_out: np.ndarray
    ) -> _SubjectModel:
        """Train the networks of one subject and weigh their sources."""
        config, stimuli = self.config, study.stimuli
        if stimuli is None:
            raise InputError(f"subject {study.subject}", expected="stimuli", found="unlabelled recordings")
        flat, shape = flatten_times(study)
        images = ImageRows.of(study, rows)
        stopping, weighing = self._halve(ImageRows.of(study, held_out))
        scaler = fit_scaler(flat, images, weight_by_signal=False)
        routes = route_units(
            study.space,
            shape[1] if len(shape) == 2 else 1,
            queries=config.queries,
            rois=config.rois,
            overlap=config.overlap,
            rest=config.rest,
            hemispheres=config.hemispheres,
            alive=scaler.gain > 0,
        )
        responses = TrainingResponses(flat, images, scaler, routes.modelled, config.repeats)
        held = image_means(flat, stopping, scaler)[:, routes.modelled]
        some = responses.read(np.arange(min(len(responses), IMAGES_AT_ONCE)))
        data = data_hash([*images.ids, *stopping.ids], rows, held_out, some, held)
        networks: dict[str, list[RoutingNetwork]] = {}
        scores: list[np.ndarray] = []
        for k, (name, source) in enumerate(self._sources.items()):
            features = self._read(source, stimuli, images), self._read(source, stimuli, stopping)
            networks[name] = []
            for member in range(config.n_seeds):
                seed = self.context.seed + SEED_STEP * member
                network = self._build(routes, source.grid, source.width, seed)
                if config.network.standardise:
                    fit_token_statistics(network, features[0], source.grid.mask)
                task = RoutingTask(
                    network.to(self.context.device),
                    responses,
                    features[0],
                    held,
                    features[1],
                    self.context.device,
                )
                result = self._train(task, study.subject, name, seed, data)
                about = {"subject": float(number), "source": float(k), "member": float(member)}
                self.history_ += [about | row for row in result.history]
                networks[name].append(network)
            if len(self._sources) > 1:
                predicted = self._average(networks[name], self._read(source, stimuli, weighing))
                measured = image_means(flat, weighing, scaler)[:, routes.modelled]
                scores.append(held_out_r(predicted, measured))
        n_modelled = int(routes.modelled.sum())
        weights = softmax_weights(np.stack(scores or [np.zeros(n_modelled)]), config.temperature)
        return _SubjectModel(scaler, routes, networks, weights, shape)

    def _halve(self, images: ImageRows) -> tuple[ImageRows, ImageRows]:
        """Return the images that stop the training and, where several sources are to be weighted, others that weigh."""
        several = len(self._sources) > 1
        least = LEAST_HELD_OUT * (1 + several)
        if len(images) < least:
            raise InputError("`validation`", expected=f"at least {least} images", found=str(len(images)))
        order = np.random.default_rng([self.context.seed, 2]).permutation(len(images))
        cut = len(images) // 2 if several else len(images)
        first, second = (
            ImageRows(images.ids[part], [images.rows[k] for k in part])
            for part in (np.sort(order[:cut]), np.sort(order[cut:]))
        )
        return first, second

    def _read(self, source: FeatureSource, stimuli: Stimuli, images: ImageRows) -> Rows:
        features = source.rows(stimuli, list(images.ids))
        check_shape(
            f"features {source.name}",
            features,
            "images tokens width",
            images=len(images),
            tokens=source.grid.tokens,
            width=source.width,
        )
        return features

    def _build(self, routes: Routes, grid: Grid, width: int, seed: int) -> RoutingNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return RoutingNetwork(routes, grid, width, self.config.network)

    def _train(self, task: RoutingTask, subject: str, source: str, seed: int, data: str) -> TrainingResult:
        context = self.context
        config = self.config.model_dump(mode="json", exclude={"n_seeds", "temperature"})
        return run_training(
            task,
            self.config.training,
            work_dir=context.work_dir / "attention-routing",
            seed=seed,
            device=context.device,
            precision=context.precision,
            progress=context.progress,
            identity={
                "facts": self.facts_,
                "subject": subject,
                "source": source,
                "data": data,
                "config": config,
            },
        )

    def _average(self, networks: Sequence[RoutingNetwork], features: Rows) -> np.ndarray:
        """Return the mean prediction of the seeds, z-scores of shape (images, modelled units)."""
        device = self.context.device
        return np.mean([predict_units(n.to(device).eval(), features, device) for n in networks], axis=0)

    def predict(self, images: np.ndarray | Mapping[str, Rows], subject: str | None = None) -> np.ndarray:
        """Predict the responses of one subject to images, or to features by the name of their source.

        Units that no query speaks for are predicted by their training mean (constant ones) or as NaN (missing ones).

        Returns
        -------
        array of float32 of shape (images, units), or (images, channels, times)
        """
        model = self._model(subject)
        rows = self._rows(images, list(model.networks))
        n_images = len(next(iter(rows.values())))
        responses = np.repeat(model.scaler.mean[None], n_images, axis=0)  # (images, units)
        if n_images:
            z = sum(
                weights * self._average(networks, rows[name])
                for weights, (name, networks) in zip(model.weights, model.networks.items(), strict=True)
            )
            modelled = model.routes.modelled
            responses[:, modelled] += z / model.scaler.gain[modelled]
        return responses.reshape(n_images, *model.shape)

    @torch.no_grad()
    def attention(
        self,
        images: np.ndarray | Mapping[str, Rows],
        subject: str | None = None,
        *,
        source: str | None = None,
        per_head: bool = False,
        layer: int = -1,
    ) -> np.ndarray:
        """Return where each query looks, averaged over seeds (and over heads).

        Parameters
        ----------
        images
            As in `predict`.
        subject : str, optional
            Needed where there are several.
        source : str, optional
            Name of a source of features, needed where there are several.
        per_head : bool
        layer : int
            Which cross-attention layer; the last by default.

        Returns
        -------
        array of float32 of shape (images, queries, tokens), or (images, heads, queries, tokens)
            Sums to 1 over tokens. Queries are named by `query_names`; `Grid.on_image` lays tokens out.
        """
        model = self._model(subject)
        if source is None and len(model.networks) > 1:
            raise InputError("`source`", expected=f"one of {', '.join(model.networks)}", found="none")
        source = source or next(iter(model.networks))
        check_option("source", source, model.networks)
        if not -self.config.network.n_layers <= layer < self.config.network.n_layers:
            raise InputError("`layer`", expected=f"one of {self.config.network.n_layers}", found=str(layer))
        rows, device = self._rows(images, [source])[source], self.context.device
        maps: list[np.ndarray] = []
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            tokens = to_tensor(rows[start : start + IMAGES_AT_ONCE], device)
            weights = [n.to(device).eval().attention(tokens, layer) for n in model.networks[source]]
            mean = torch.stack(weights).mean(dim=0)  # (images, heads, queries, tokens)
            maps.append((mean if per_head else mean.mean(dim=1)).cpu().numpy())
        shape = (self.config.network.heads,) if per_head else ()
        empty = np.empty((0, *shape, len(model.routes.names), self._grids[source].tokens), np.float32)
        return np.concatenate([empty, *maps])

    def query_names(self, subject: str | None = None) -> tuple[str, ...]:
        """Return the names of the queries of one subject, e.g. ``lh.FFA-1``, in the order of the attention maps."""
        return self._model(subject).routes.names

    def _model(self, subject: str | None) -> _SubjectModel:
        self._check_fitted()
        return self._models[check_subject(subject, self._models)]

    def _rows(self, images: np.ndarray | Mapping[str, Rows], names: Sequence[str]) -> dict[str, Rows]:
        targets = self.facts_["targets"]
        shapes = {name: (targets[name]["tokens"], targets[name]["width"]) for name in names}
        return rows_by_source(images, shapes, self._sources)

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the networks of each subject, config.json and README.md."""
        self._check_fitted()
        saved = SavedModel.of(
            "attention-routing",
            self.config,
            self.context,
            self.facts_,
            adapters={subject: _to_tensors(model) for subject, model in self._models.items()},
            recipes=self._recipes,
            shared=grid_tensors(self._grids),
        )
        save_model(folder, saved, card)

    @classmethod
    def load(
        cls,
        folder: Path,
        cohort: Cohort | None = None,
        device: str = "cpu",
        *,
        seed: int | None = None,
        features: Sequence[FeatureSource] = (),
    ) -> AttentionRouting:
        """Read a saved model; one of other data than `cohort` or of other `features` is an error naming both sides."""
        saved = open_model(folder, "attention-routing", seed=seed, cohort=cohort, sources=features)
        model = cls(saved.read_config(AttentionRoutingConfig, folder), saved.context(folder, device))
        model.facts_, model._recipes = saved.facts, saved.recipes
        model.history_ = saved.facts["history"]
        model._sources = {source.name: source for source in features}
        model._grids = restore_grids(saved.shared, saved.facts["grids"])
        model._models = {s: model._from_tensors(s, tensors) for s, tensors in saved.adapters.items()}
        return model

    def _from_tensors(self, subject: str, tensors: Mapping[str, Tensor]) -> _SubjectModel:
        routes = restore_routes(tensors, self.facts_["queries"][subject])
        networks: dict[str, list[RoutingNetwork]] = {}
        for k, (name, grid) in enumerate(self._grids.items()):
            networks[name] = []
            for member in range(self.config.n_seeds):
                network = self._build(routes, grid, self.facts_["targets"][name]["width"], 0)
                network.load_state_dict(take_prefix(f"network.{k}.{member}.", tensors))
                networks[name].append(network.eval())
        return _SubjectModel(
            restore_unit_scaler(tensors, UnitScaler),
            routes,
            networks,
            tensors["weights"].numpy(),
            tuple(self.facts_["shapes"][subject]),
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "_models"):
            raise InputError(
                "attention-routing", expected="a fitted encoder", found="an unfitted one", hint="call fit"
            )


def _to_tensors(model: _SubjectModel) -> dict[str, Tensor]:
    """Return everything of one subject's model that is an array."""
    tensors = unit_scaler_tensors(model.scaler) | route_tensors(model.routes)
    tensors["weights"] = torch.from_numpy(model.weights)
    for k, networks in enumerate(model.networks.values()):
        for member, network in enumerate(networks):
            tensors |= add_prefix(f"network.{k}.{member}.", network.state_dict())
    return tensors

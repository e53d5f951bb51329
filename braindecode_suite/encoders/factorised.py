"""The factorised readout (Klindt, Ecker, Euler & Bethge 2017) on given features: a spatial mask times feature weights.

What of it is the paper's and what is our choice stands in `learning.factorised`. The features are frozen here, where the paper
learns them; the loss is the mean squared error of z-scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Rows
from braindecode_suite.core.files import data_hash
from braindecode_suite.encoders.attention_routing_task import (
    IMAGES_AT_ONCE,
    TrainingResponses,
    fit_token_statistics,
    held_out_r,
    to_tensor,
)
from braindecode_suite.encoders.image_model import ImageModel, Part, SubjectData
from braindecode_suite.learning.factorised import FactorisedReadout, Mask, SpatialMask
from braindecode_suite.learning.model_tensors import add_prefix, restore_routes, route_tensors, take_prefix
from braindecode_suite.learning.regressors import placed_tokens
from braindecode_suite.learning.routes import Overlap, Queries, Routes, route_units
from braindecode_suite.learning.training import Moment, TrainingConfig, train

LEAST_HELD_OUT = 3


class FactorisedConfig(Config):
    """Masks, penalties and training.

    Attributes
    ----------
    mask : {'free', 'positive', 'softmax'}
        Any numbers (the paper's, with the L1 penalty), their magnitudes, or a distribution over the tokens of an image (the
        linear model that Adeli et al. 2025 compare theirs with).
    queries, rois, overlap, rest, hemispheres
        What has a mask of its own, see `learning.routes.route_units`: by default each unit.
    mask_penalty, feature_penalty : float
        Weights of the L1 norms of masks and of feature weights, beside the mean squared error of z-scores.
    repeats : {'mean', 'each'}
        Training responses of an image: the mean over its repeats, or each repeat as an example of its own.
    standardise : bool
        Whether features are standardised by the training images' mean and deviation, feature by feature.
    training : TrainingConfig
        Weights with the best mean r on validation images are kept. Weight decay is an L2 penalty of the feature weights.
    """

    mask: Mask = "free"
    queries: Queries = "units"
    rois: tuple[str, ...] = ()
    overlap: Overlap = "first"
    rest: bool = True
    hemispheres: bool = True
    mask_penalty: NonNegativeFloat = 1e-3
    feature_penalty: NonNegativeFloat = 1e-3
    repeats: Literal["mean", "each"] = "mean"
    standardise: bool = True
    training: TrainingConfig = TrainingConfig(
        epochs=60, batch_size=64, learning_rate=3e-3, weight_decay=0.0, ema_decay=0.98, patience=10
    )


@dataclass(frozen=True, eq=False)
class FactorisedMap:
    """A trained readout of one subject.

    Attributes
    ----------
    network : FactorisedReadout
        Its sources are in the order of `sources`.
    sources : sequence of str
    routes : Routes
    modelled : array of bool of shape (units that vary,)
        Those of them that some query speaks for.
    device : str
    """

    network: FactorisedReadout
    sources: Sequence[str]
    routes: Routes
    modelled: np.ndarray
    device: str

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def predict(self, features: Mapping[str, Rows]) -> np.ndarray:
        """Return z-scores of shape (images, units that vary); 0, the training mean, for units without a query."""
        network = self.network.to(self.device).eval()
        n_images = len(features[self.sources[0]])
        z = np.zeros((n_images, len(self.modelled)), np.float32)
        z[:, self.modelled] = predict_readout(network, [features[name] for name in self.sources], self.device)
        return z

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's weights and the routes."""
        modelled = torch.from_numpy(self.modelled.astype(np.uint8))
        network = add_prefix("network.", self.network.state_dict())
        return {"modelled": modelled, **route_tensors(self.routes), **network}


class FactorisedTask:
    """Mean squared error of z-scores and two L1 penalties; the score is the mean over units of r on held-out images.

    Parameters
    ----------
    network : FactorisedReadout
    responses : TrainingResponses
    features : sequence of Rows of shape (training images, tokens, width)
        One a source.
    held_out : array of shape (held-out images, modelled units)
    held_out_features : sequence of Rows
    config : FactorisedConfig
    device : str
    """

    def __init__(
        self,
        network: FactorisedReadout,
        responses: TrainingResponses,
        features: Sequence[Rows],
        held_out: np.ndarray,
        held_out_features: Sequence[Rows],
        config: FactorisedConfig,
        device: str,
    ) -> None:
        self.network, self.responses, self.features = network, responses, features
        self.held_out, self.held_out_features = held_out, held_out_features
        self.config, self.device = config, device

    @property
    def n_items(self) -> int:
        return len(self.responses)

    def names(self, items: np.ndarray) -> list[str]:
        images = self.responses.image[items]
        return [f"sub-{self.responses.subject}/{self.responses.images.ids[k]}" for k in images]

    def loss(self, items: np.ndarray, moment: Moment) -> dict[str, Tensor]:
        """Return the penalised error of a batch, and its parts."""
        images = self.responses.image[items]
        tokens = [to_tensor(rows[images], self.device) for rows in self.features]
        target = torch.from_numpy(self.responses.read(items)).to(self.device)
        error = functional.mse_loss(self.network(tokens).float(), target)
        norms = self.network.penalties()
        penalty = self.config.mask_penalty * norms["masks"] + self.config.feature_penalty * norms["features"]
        return {"loss": error + penalty, "error": error, "penalty": penalty}

    def validate(self) -> dict[str, float]:
        """Return the mean over units of r between predicted and measured responses to held-out images."""
        predicted = predict_readout(self.network, self.held_out_features, self.device)
        return {"score": float(held_out_r(predicted, self.held_out).mean())}


class Factorised(ImageModel[FactorisedConfig, FactorisedMap]):
    """A fixed spatial mask and feature weights for each unit (or a mask for each region), trained together.

    Parameters
    ----------
    config : FactorisedConfig
    context : FitContext
    """

    name: ClassVar[str] = "factorised"
    config_class: ClassVar[type[FactorisedConfig]] = FactorisedConfig
    presets: ClassVar[Mapping[str, FactorisedConfig]] = {
        "tiny": FactorisedConfig(),
        "softmax-rois": FactorisedConfig(
            mask="softmax", queries="rois", mask_penalty=0.0, feature_penalty=1e-3
        ),
    }
    PRESETS: ClassVar[tuple[str, ...]] = tuple(presets)
    needs: ClassVar[Part] = "places"

    def masks(self, source: str, subject: str | None = None) -> np.ndarray:
        """Return the masks over the tokens of one source, float32 of shape (queries, tokens); `query_names` names them."""
        subject = self._subject(subject)
        check_option("source", source, self._grids)
        own = self._maps[subject]
        mask = own.network.masks[list(own.sources).index(source)]
        assert isinstance(mask, SpatialMask)
        maps = np.zeros((len(own.routes.names), self._grids[source].tokens), np.float32)
        maps[:, mask.placed.cpu().numpy()] = mask.maps().detach().cpu().numpy()
        return maps

    def query_names(self, subject: str | None = None) -> tuple[str, ...]:
        """Return what the masks belong to, e.g. ``lh.FFA-1``, in their order."""
        return self._maps[self._subject(subject)].routes.names

    def _fit_subject(self, number: int, data: SubjectData) -> FactorisedMap:
        config, context, subject = self.config, self.context, data.study.subject
        if len(data.held_out) < LEAST_HELD_OUT:
            found = str(len(data.held_out))
            raise InputError("`validation`", expected=f"at least {LEAST_HELD_OUT} images", found=found)
        routes = route_units(
            data.study.space,
            data.n_times,
            queries=config.queries,
            rois=config.rois,
            overlap=config.overlap,
            rest=config.rest,
            hemispheres=config.hemispheres,
            alive=data.modelled,
        )
        network = self._build(routes)
        features, held = data.features(data.images), data.features(data.held_out)
        if config.standardise:
            for mask, (name, rows) in zip(network.masks, features.items(), strict=True):
                fit_token_statistics(mask, rows, placed_tokens(self._grids[name]))  # type: ignore[arg-type]
        modelled = routes.modelled[data.modelled]
        responses = TrainingResponses(data.study, data.images, data.scaler, routes.modelled, config.repeats)
        measured = data.responses(data.held_out)[:, modelled]
        some = responses.read(np.arange(min(len(responses), IMAGES_AT_ONCE)))
        ids = [*data.images.ids, *data.held_out.ids]
        task = FactorisedTask(
            network.to(context.device),
            responses,
            list(features.values()),
            measured,
            list(held.values()),
            config,
            context.device,
        )
        facts = {key: value for key, value in self.facts_.items() if key not in ("queries", "history")}
        result = train(
            task,
            config.training,
            work_dir=context.work_dir / self.name,
            seed=context.seed,
            device=context.device,
            precision=context.precision,
            progress=context.progress,
            identity={
                "facts": facts,
                "subject": subject,
                "data": data_hash(ids, data.rows, data.held_out_rows, some, measured),
                "config": config.model_dump(mode="json"),
            },
        )
        self.history_ += [{"subject": float(number)} | row for row in result.history]
        self.facts_["queries"][subject] = list(routes.names)
        return FactorisedMap(network, list(features), routes, modelled, context.device)

    def _build(self, routes: Routes) -> FactorisedReadout:
        widths = [self.facts_["targets"][name]["width"] for name in self._grids]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.context.seed)
            return FactorisedReadout(routes, list(self._grids.values()), widths, self.config.mask)

    def _restore(self, subject: str, tensors: Mapping[str, Tensor]) -> FactorisedMap:
        routes = restore_routes(tensors, self.facts_["queries"][subject])
        network = self._build(routes)
        network.load_state_dict(take_prefix("network.", tensors))
        modelled = tensors["modelled"].numpy() > 0
        return FactorisedMap(network.eval(), list(self._grids), routes, modelled, self.context.device)


@torch.no_grad()
def predict_readout(network: FactorisedReadout, features: Sequence[Rows], device: str) -> np.ndarray:
    """Run `network` on all rows of each source: z-scores of its units, float32 of shape (images, units)."""
    outputs = []
    for start in range(0, len(features[0]), IMAGES_AT_ONCE):
        tokens = [to_tensor(rows[start : start + IMAGES_AT_ONCE], device) for rows in features]
        outputs.append(network(tokens).float().cpu().numpy())
    return np.concatenate(outputs)

"""How one routing network is trained: what a batch is, its loss, its validation scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from braindecode_suite.core.features import Rows
from braindecode_suite.core.study import Study
from braindecode_suite.learning.responses import ImageRows, SubjectResponses, UnitScaler
from braindecode_suite.learning.routing import RoutingNetwork
from braindecode_suite.learning.training import Moment
from braindecode_suite.metrics.encoding import encoding_r

IMAGES_AT_ONCE = 64
UNITS_AT_ONCE = 4096
STATISTICS_IMAGES = 1024


class TrainingResponses:
    """z-scored responses of one subject's modelled units, by training item.

    Parameters
    ----------
    study : Study
        Of responses (trials, units).
    images : ImageRows
        Training images.
    scaler : UnitScaler
    modelled : array of bool of shape (units,)
    repeats : {'mean', 'each'}
        Whether an item is an image (the mean over its repeats) or one of its trials.

    Attributes
    ----------
    image : array of int of shape (items,)
        Image of each item.
    """

    def __init__(
        self, study: Study, images: ImageRows, scaler: UnitScaler, modelled: np.ndarray, repeats: str
    ) -> None:
        self.subject, self.images, self.modelled = study.subject, images, modelled
        self.responses = SubjectResponses(study, scaler, np.concatenate(images.rows))
        if repeats == "mean":
            self.image, self.rows = np.arange(len(images)), images.rows
        else:
            self.image = np.repeat(np.arange(len(images)), [len(group) for group in images.rows])
            self.rows = [np.array([row]) for group in images.rows for row in group]

    def __len__(self) -> int:
        return len(self.image)

    def read(self, items: np.ndarray) -> np.ndarray:
        """Return responses of shape (items, modelled units), averaged over the rows of each item."""
        groups = [self.rows[k] for k in items]
        counts = np.array([len(group) for group in groups])
        values = self.responses.read(np.concatenate(groups))
        if counts.max() > 1:
            starts = np.cumsum([0, *counts[:-1]])
            values = np.add.reduceat(values, starts) / counts[:, None].astype(np.float32)
        return values[:, self.modelled]


class RoutingTask:
    """Mean squared error in z-scores on training items; the score is the mean over units of r on held-out images.

    Parameters
    ----------
    network : RoutingNetwork
    responses : TrainingResponses
    features : Rows of shape (training images, tokens, width)
    held_out : array of shape (held-out images, modelled units)
        Mean z-scored responses.
    held_out_features : Rows of shape (held-out images, tokens, width)
    device : str
    """

    def __init__(
        self,
        network: RoutingNetwork,
        responses: TrainingResponses,
        features: Rows,
        held_out: np.ndarray,
        held_out_features: Rows,
        device: str,
    ) -> None:
        self.network, self.responses, self.features = network, responses, features
        self.held_out, self.held_out_features, self.device = held_out, held_out_features, device

    @property
    def n_items(self) -> int:
        return len(self.responses)

    def names(self, items: np.ndarray) -> list[str]:
        images = self.responses.image[items]
        return [f"sub-{self.responses.subject}/{self.responses.images.ids[k]}" for k in images]

    def loss(self, items: np.ndarray, moment: Moment) -> dict[str, Tensor]:
        """Return the mean squared error of a batch."""
        tokens = to_tensor(self.features[self.responses.image[items]], self.device)
        target = torch.from_numpy(self.responses.read(items)).to(self.device)
        return {"loss": functional.mse_loss(self.network(tokens).float(), target)}

    def validate(self) -> dict[str, float]:
        """Return the mean over units of r between predicted and measured responses to held-out images."""
        predicted = predict_units(self.network, self.held_out_features, self.device)
        return {"score": float(held_out_r(predicted, self.held_out).mean())}


def held_out_r(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return r over images for each unit, 0 where the measurement is constant; `predicted` is (images, units)."""
    blocks = [
        encoding_r(measured[:, k : k + UNITS_AT_ONCE], predicted[:, k : k + UNITS_AT_ONCE])
        for k in range(0, measured.shape[1], UNITS_AT_ONCE)
    ]
    return np.nan_to_num(np.concatenate(blocks))


@torch.no_grad()
def predict_units(network: RoutingNetwork, features: Rows, device: str) -> np.ndarray:
    """Run `network` on all rows of `features`: z-scores of its units, float32 of shape (images, units)."""
    outputs = [
        network(to_tensor(features[start : start + IMAGES_AT_ONCE], device)).float().cpu().numpy()
        for start in range(0, len(features), IMAGES_AT_ONCE)
    ]
    return np.concatenate(outputs)


def fit_token_statistics(network: RoutingNetwork, features: Rows, mask: np.ndarray) -> None:
    """Set the mean and the gain by which the network standardises its features, from training images.

    Up to `STATISTICS_IMAGES` of them are read, evenly spaced; tokens that show padding have no part. Constant features get
    gain 0.
    """
    chosen = np.unique(np.linspace(0, len(features) - 1, STATISTICS_IMAGES).astype(int))
    total = square = np.zeros(features.shape[2])
    for start in range(0, len(chosen), IMAGES_AT_ONCE):
        block = np.asarray(features[chosen[start : start + IMAGES_AT_ONCE]], np.float64)[:, mask]
        total, square = total + block.sum(axis=(0, 1)), square + np.square(block).sum(axis=(0, 1))
    n = len(chosen) * int(mask.sum())
    mean = total / n
    variance = np.maximum(square / n - mean**2, 0)
    alive = variance > 1e-10 * np.maximum(square / n, 1e-30)
    gain = np.where(alive, 1 / np.sqrt(np.where(alive, variance, 1)), 0)
    network.token_mean.copy_(torch.from_numpy(mean))
    network.token_gain.copy_(torch.from_numpy(gain))


def to_tensor(features: np.ndarray, device: str) -> Tensor:
    """Return features as float32 on `device`; half precision travels as such."""
    return torch.from_numpy(np.ascontiguousarray(features)).to(device).float()

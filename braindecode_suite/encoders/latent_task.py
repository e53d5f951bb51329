"""How an encoder learns latents of images from several people's recordings: what a batch is, and the contrast.

Shared by the networks of this room: MindEye and brain-routing differ in their network, their losses and their scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.latents import Target
from braindecode_suite.core.study import Cohort, Stimuli
from braindecode_suite.encoders.brain_routing_config import BrainRoutingConfig
from braindecode_suite.encoders.mindeye_config import MindEyeConfig
from braindecode_suite.learning.losses import (
    Mixing,
    bimixco,
    cosine_ramp,
    draw_mixing,
    find_same_image,
    mixing_labels,
    soft_clip,
    unit_rows,
)
from braindecode_suite.learning.responses import (
    PRELOAD_BYTES,
    ImageRows,
    SubjectResponses,
    UnitScaler,
    fit_scaler,
)
from braindecode_suite.learning.target_space import TargetScaler, fit_target_scaler
from braindecode_suite.learning.training import Moment

GALLERY = 100
ROWS_AT_ONCE = 256


class TargetLatents:
    """True latents by stimulus id, scaled by the training images' statistics.

    Parameters
    ----------
    target : Target
    stimuli : Stimuli
    train_ids, validation_ids : sequence of str
    each_dimension : bool
        See `fit_target_scaler`.
    """

    def __init__(
        self,
        target: Target,
        stimuli: Stimuli,
        train_ids: Sequence[str],
        validation_ids: Sequence[str],
        *,
        each_dimension: bool = False,
    ) -> None:
        train = target.embed(stimuli, list(train_ids))
        self.scaler: TargetScaler = fit_target_scaler(train.values, each_dimension=each_dimension)
        both = list(dict.fromkeys([*train_ids, *validation_ids]))
        latents = target.embed(stimuli, both)
        self.position = {stimulus_id: k for k, stimulus_id in enumerate(latents.ids)}
        self.raw, self.values = latents.values, None
        if latents.values.size * 4 <= PRELOAD_BYTES:
            self.values = self.scaler.apply(latents.values)

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Return scaled latents of shape (len(ids), tokens, width)."""
        rows = np.array([self.position[i] for i in ids])
        return self.values[rows] if self.values is not None else self.scaler.apply(self.raw[rows])


class LatentTask(ABC):
    """Items are (subject, training image) pairs; each step draws a repeat of each, or the mean of some.

    Parameters
    ----------
    config : MindEyeConfig or BrainRoutingConfig
    train, validation : Cohort
    latents : dict of str to TargetLatents
        By role.
    scalers : sequence of UnitScaler
        By subject.
    device : str
    """

    def __init__(
        self,
        config: MindEyeConfig | BrainRoutingConfig,
        train: Cohort,
        validation: Cohort,
        latents: Mapping[str, TargetLatents],
        scalers: Sequence[UnitScaler],
        device: str,
    ) -> None:
        self.settings, self.latents, self.device = config, latents, device
        self.images = [ImageRows.of(study, rows) for study, rows in train]
        self.held_out = [ImageRows.of(study, rows) for study, rows in validation]
        self.responses = [
            SubjectResponses(study, scaler, np.concatenate([rows, validation_rows]))
            for (study, rows), validation_rows, scaler in zip(train, validation.rows, scalers, strict=True)
        ]
        self.subject = np.repeat(np.arange(len(self.images)), [len(images) for images in self.images])
        self.image = np.concatenate([np.arange(len(images)) for images in self.images])
        self.n_mixco_epochs = int(config.mixco_epochs * config.training.epochs)

    @abstractmethod
    def outputs(self, responses: Sequence[Tensor]) -> Any:
        """Run the network on each subject's rows, subjects one after another."""

    @abstractmethod
    def losses(
        self,
        outputs: Any,
        targets: Mapping[str, Tensor],
        ids: Sequence[str],
        mixing: Mixing | None,
        moment: Moment,
    ) -> dict[str, Tensor]:
        """Return the weighted loss and its parts; targets are mixed as the responses were, before any of them."""

    @property
    def n_items(self) -> int:
        return len(self.subject)

    def names(self, items: np.ndarray) -> list[str]:
        subjects = [response.study.subject for response in self.responses]
        return [
            f"sub-{subjects[s]}/{self.images[s].ids[k]}"
            for s, k in zip(self.subject[items], self.image[items], strict=True)
        ]

    def draw(self, items: np.ndarray, generator: torch.Generator) -> tuple[list[Tensor], list[str]]:
        """Read one repeat (or the mean of some) of each item: responses by subject, and the ids in the batch's order."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        batch, ids = [], []
        for s, (images, responses) in enumerate(zip(self.images, self.responses, strict=True)):
            mine = self.image[items[self.subject[items] == s]]
            repeats = [self.choose(images.rows[k], rng) for k in mine]
            rows = np.concatenate(repeats) if repeats else np.empty(0, int)
            values = responses.read(rows)
            if len(rows) > len(mine):
                starts = np.cumsum([0] + [len(r) for r in repeats[:-1]])
                values = (
                    np.add.reduceat(values, starts) / np.array([len(r) for r in repeats], np.float32)[:, None]
                )
            batch.append(torch.from_numpy(values).to(self.device))
            ids += list(images.ids[mine])
        return batch, ids

    def choose(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Choose which repeats of an image a step sees."""
        count = 1 if self.settings.repeats == "one" else int(rng.integers(1, len(rows) + 1))
        return rng.permutation(rows)[:count]

    def targets(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Return scaled true latents of every role, each of shape (batch, tokens, width)."""
        return {
            role: torch.from_numpy(latents.of(ids)).to(self.device) for role, latents in self.latents.items()
        }

    def loss(self, items: np.ndarray, moment: Moment) -> dict[str, Tensor]:
        """Return the weighted loss of a batch and its parts."""
        responses, ids = self.draw(items, moment.generator)
        targets = self.targets(ids)
        mixing = None
        if moment.epoch < self.n_mixco_epochs:
            counts = [len(rows) for rows in responses]
            mixing = draw_mixing(
                counts,
                moment.generator,
                concentration=self.settings.mixco_concentration,
                share=self.settings.mixco_share,
            )
            mixing = Mixing(mixing.partner.to(self.device), mixing.weight.to(self.device))
            responses = mix_responses(responses, mixing)
        return self.losses(self.outputs(responses), targets, ids, mixing, moment)

    def contrast(
        self,
        predicted: Tensor,
        true: Tensor,
        ids: Sequence[str],
        mixing: Mixing | None,
        moment: Moment,
    ) -> Tensor:
        """Return BiMixCo of mixed rows, SoftCLIP of others at the temperature of the moment."""
        config = self.settings
        if mixing is not None:
            labels = mixing_labels(mixing, find_same_image(ids, self.device))
            return bimixco(predicted, true, labels, temperature=config.mixco_temperature)
        start = self.n_mixco_epochs / config.training.epochs
        done = (moment.progress - start) / max(1 - start, 1e-9)
        return soft_clip(predicted, true, temperature=cosine_ramp(*config.soft_temperature, done))

    def held_out_blocks(self) -> Iterator[tuple[list[Tensor], Tensor, list[str]]]:
        """Yield scaled responses of validation rows (by subject, the others' empty), the image of each row, and image ids."""
        for s, (images, responses) in enumerate(zip(self.held_out, self.responses, strict=True)):
            for start in range(0, len(images), ROWS_AT_ONCE):
                rows = images.rows[start : start + ROWS_AT_ONCE]
                image = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(r) for r in rows]))
                values = responses.read(np.concatenate(rows))
                ids = list(images.ids[start : start + ROWS_AT_ONCE])
                yield one_subject(self.n_units, s, values, self.device), image, ids

    @property
    def n_units(self) -> list[int]:
        """Units of each subject."""
        return [len(responses.scaler.mean) for responses in self.responses]


def one_subject(n_units: Sequence[int], subject: int, scaled: np.ndarray, device: str) -> list[Tensor]:
    """Return scaled responses (rows, units) of one subject among those of all, the others' rows being empty."""
    batch = [torch.empty(0, n, device=device) for n in n_units]
    batch[subject] = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32)).to(device)
    return batch


def mix_responses(responses: Sequence[Tensor], mixing: Mixing) -> list[Tensor]:
    """Mix the responses of each subject; partners are rows of the whole batch and of the same subject."""
    mixed, start = [], 0
    for rows in responses:
        stop = start + len(rows)
        mixed.append(Mixing(mixing.partner[start:stop] - start, mixing.weight[start:stop]).apply(rows))
        start = stop
    return mixed


def mean_by(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Average `values` (rows, tokens, width) over rows of one group, in float32: (n_groups, tokens, width)."""
    sums = torch.zeros(n_groups, *values.shape[1:], device=values.device).index_add_(0, group, values.float())
    return sums / torch.bincount(group, minlength=n_groups).view(-1, 1, 1)


def explained(predicted: Tensor, true: Tensor) -> float:
    """Return the share of variance around the training mean (zero in scaled units) that is explained."""
    return 1 - float((predicted.float() - true).square().mean() / true.square().mean())


def retrieval_scores(predicted: Tensor, true: Tensor, ids: Sequence[str]) -> dict[str, float]:
    """Score centred cosine retrieval, brain to image; an image that several subjects saw stands once in the gallery.

    Returns
    -------
    dict
        ``top1``: exact expectation at a random gallery of 100 (or all, if fewer). ``information``: one minus the cross
        entropy of the softmaxed similarities, at the best of a few temperatures, over the log of the gallery size.
    """
    first: dict[str, int] = {}
    own = torch.tensor([first.setdefault(i, len(first)) for i in ids])
    gallery = torch.zeros(len(first), *true.shape[1:])
    gallery[own] = true.cpu()
    predicted = predicted.float().cpu()
    similarity = unit_rows(predicted - predicted.mean(dim=0)) @ unit_rows(gallery).T  # (rows, images)
    truth = similarity.gather(1, own[:, None])
    n, above = len(first), ((similarity >= truth).sum(dim=1) - 1).double()
    m = min(GALLERY, n)
    missed = torch.zeros(len(own), dtype=torch.float64)
    for k in range(m - 1):  # none of the m - 1 others lies above: prod (n - 1 - above - k) / (n - 1 - k)
        missed += torch.log(((n - 1 - above - k) / (n - 1 - k)).clamp_min(0))
    entropy = min(
        float(-(similarity / t).log_softmax(dim=1).gather(1, own[:, None]).mean())
        for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    )
    return {"top1": float(missed.exp().mean()), "information": 1 - entropy / float(np.log(max(n, 2)))}


def fit_scalers(train: Cohort, *, weight_by_signal: bool) -> list[UnitScaler]:
    """Fit a unit scaler to each subject's training rows."""
    return [
        fit_scaler(study, ImageRows.of(study, rows), weight_by_signal=weight_by_signal)
        for study, rows in train
    ]

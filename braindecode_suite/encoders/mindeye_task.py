"""How MindEye is trained: what a batch is, its losses, its validation scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.latents import Target
from braindecode_suite.core.study import Cohort, Stimuli
from braindecode_suite.encoders.mindeye_config import MindEyeConfig
from braindecode_suite.encoders.mindeye_network import MindEyeNetwork, Outputs
from braindecode_suite.learning.diffusion import cosine_signal, denoising_error, seeded_noise
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

VALIDATION_PRIOR_IMAGES = 128
GALLERY = 100


class TargetLatents:
    """True latents by stimulus id, scaled by the training images' statistics.

    Parameters
    ----------
    target : Target
    stimuli : Stimuli
    train_ids, validation_ids : sequence of str
    """

    def __init__(
        self, target: Target, stimuli: Stimuli, train_ids: Sequence[str], validation_ids: Sequence[str]
    ) -> None:
        train = target.embed(stimuli, list(train_ids))
        self.scaler: TargetScaler = fit_target_scaler(train.values)
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


class MindEyeTask:
    """Items are (subject, training image) pairs; each step draws a repeat of each.

    Parameters
    ----------
    network : MindEyeNetwork
    config : MindEyeConfig
    train, validation : Cohort
    latents : dict of str to TargetLatents
        By role.
    scalers : sequence of UnitScaler
        By subject.
    device : str
    """

    def __init__(
        self,
        network: MindEyeNetwork,
        config: MindEyeConfig,
        train: Cohort,
        validation: Cohort,
        latents: Mapping[str, TargetLatents],
        scalers: Sequence[UnitScaler],
        device: str,
    ) -> None:
        self.network, self.config, self.latents, self.device = network, config, latents, device
        self.images = [ImageRows.of(study, rows) for study, rows in train]
        self.held_out = [ImageRows.of(study, rows) for study, rows in validation]
        self.responses = [
            SubjectResponses(study, scaler, np.concatenate([rows, validation_rows]))
            for (study, rows), validation_rows, scaler in zip(train, validation.rows, scalers, strict=True)
        ]
        self.subject = np.repeat(np.arange(len(self.images)), [len(images) for images in self.images])
        self.image = np.concatenate([np.arange(len(images)) for images in self.images])
        self.n_mixco_epochs = int(config.mixco_epochs * config.training.epochs)
        self.signal = cosine_signal(config.timesteps)
        self.prior_role = "image" if "image" in latents else "retrieval"

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
        count = 1 if self.config.repeats == "one" else int(rng.integers(1, len(rows) + 1))
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
                concentration=self.config.mixco_concentration,
                share=self.config.mixco_share,
            )
            mixing = Mixing(mixing.partner.to(self.device), mixing.weight.to(self.device))
            responses = mix_responses(responses, mixing)
        return self.losses(self.network(responses), targets, ids, mixing, moment)

    def losses(
        self,
        outputs: Outputs,
        targets: Mapping[str, Tensor],
        ids: Sequence[str],
        mixing: Mixing | None,
        moment: Moment,
    ) -> dict[str, Tensor]:
        """Return the weighted loss and its parts; targets are mixed as the responses were, before any of them."""
        config = self.config
        mixed = (
            targets if mixing is None else {role: mixing.apply(target) for role, target in targets.items()}
        )
        if mixing is not None:
            labels = mixing_labels(mixing, find_same_image(ids, self.device))
            contrast = bimixco(
                outputs.projected, targets["retrieval"], labels, temperature=config.mixco_temperature
            )
        else:
            start = self.n_mixco_epochs / config.training.epochs
            done = (moment.progress - start) / max(1 - start, 1e-9)
            temperature = cosine_ramp(*config.soft_temperature, done)
            contrast = soft_clip(outputs.projected, targets["retrieval"], temperature=temperature)
        parts = {"contrast": contrast}
        weights = {"contrast": config.contrastive_weight}
        if config.regression_weight:
            error = (outputs.projected.float() - mixed["retrieval"]).square().sum(dim=-1).mean()
            parts["regression"], weights["regression"] = error, config.regression_weight
        if outputs.condition is not None:
            parts["prior"] = self.prior_error(outputs.condition, mixed[self.prior_role], moment.generator)
            weights["prior"] = config.prior_weight
        if outputs.low_level is not None:
            error = (outputs.low_level.float() - mixed["init"]).square().sum(dim=-1).mean()
            parts["low_level"], weights["low_level"] = error, config.low_level_weight
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts}

    def prior_error(self, condition: Tensor, true: Tensor, generator: torch.Generator) -> Tensor:
        """Return the prior's denoising error at random times, brain and image tokens dropped independently."""
        batch = len(condition)
        noise = torch.randn(true.shape, generator=generator).to(self.device)
        time = torch.randint(self.config.timesteps, (batch,), generator=generator).to(self.device)
        drop = (torch.rand(2, batch, generator=generator) < self.config.drop_probability).to(self.device)
        clean = true * true.shape[-1] ** 0.5
        errors = denoising_error(
            lambda x, t: self.network.denoise(x, t, condition, drop[0], drop[1]),
            clean,
            noise,
            time,
            self.signal,
        )
        return errors.mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Score mean predictions of validation images.

        Returns
        -------
        dict
            ``top1`` at a gallery of 100, ``information`` (share of the log gallery size that the similarities carry),
            ``prior_r2`` and ``low_level_r2`` (share of variance explained; the prior from pure noise), and their sum
            without ``top1``, the ``score``.
        """
        projected: list[Tensor] = []
        condition: list[Tensor] = []
        low_level: list[Tensor] = []
        ids: list[str] = []
        for s, (images, responses) in enumerate(zip(self.held_out, self.responses, strict=True)):
            for start in range(0, len(images), 256):
                rows = images.rows[start : start + 256]
                outputs = self.predict_rows(s, responses.read(np.concatenate(rows)))
                image = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(r) for r in rows]))
                for kept, values in zip(
                    (projected, condition, low_level),
                    (outputs.projected, outputs.condition, outputs.low_level),
                    strict=True,
                ):
                    if values is not None:
                        kept.append(mean_by(values, image.to(values.device), len(rows)))
                ids += list(images.ids[start : start + 256])
        targets = self.targets(ids)
        scores = retrieval_scores(torch.cat(projected), targets["retrieval"], ids)
        score = scores["information"]
        if condition:
            some, true = (
                torch.cat(condition)[:VALIDATION_PRIOR_IMAGES],
                targets[self.prior_role][:VALIDATION_PRIOR_IMAGES],
            )
            noise = seeded_noise(list(range(len(some))), tuple(true.shape[1:])).to(self.device)
            last = torch.full((len(some),), self.config.timesteps - 1, device=self.device)
            clean = self.network.denoise(noise, last, some).float() / true.shape[-1] ** 0.5
            scores["prior_r2"] = explained(clean, true)
            score += scores["prior_r2"]
        if low_level:
            scores["low_level_r2"] = explained(torch.cat(low_level), targets["init"])
            score += scores["low_level_r2"]
        return {"score": score, **scores}

    def predict_rows(self, subject: int, scaled: np.ndarray) -> Outputs:
        """Run the network on scaled responses of one subject, of shape (rows, units)."""
        return predict_rows(self.network, subject, scaled, self.device)


def predict_rows(network: MindEyeNetwork, subject: int, scaled: np.ndarray, device: str) -> Outputs:
    """Run `network` on scaled responses (rows, units) of one subject, the others' rows being empty."""
    batch = [torch.empty(0, n, device=device) for n in network.n_units]
    batch[subject] = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32)).to(device)
    outputs: Outputs = network(batch)
    return outputs


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

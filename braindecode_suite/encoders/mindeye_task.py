"""How MindEye is trained: its losses, its validation scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.latent_task import (
    LatentTask,
    TargetLatents,
    explained,
    mean_by,
    one_subject,
    retrieval_scores,
)
from braindecode_suite.encoders.mindeye_config import MindEyeConfig
from braindecode_suite.encoders.mindeye_network import MindEyeNetwork, Outputs
from braindecode_suite.learning.diffusion import cosine_signal, denoising_error, seeded_noise
from braindecode_suite.learning.losses import Mixing
from braindecode_suite.learning.responses import UnitScaler
from braindecode_suite.learning.training import Moment

VALIDATION_PRIOR_IMAGES = 128


class MindEyeTask(LatentTask):
    """The losses of MindEye and its scores on validation images, see `LatentTask`.

    Parameters
    ----------
    network : MindEyeNetwork
    config : MindEyeConfig
    train, validation, latents, scalers, device
        As in `LatentTask`.
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
        super().__init__(config, train, validation, latents, scalers, device)
        self.network, self.config = network, config
        self.signal = cosine_signal(config.timesteps)
        self.prior_role = "image" if "image" in latents else "retrieval"

    def outputs(self, responses: Sequence[Tensor]) -> Outputs:
        """Run the network on each subject's rows."""
        found: Outputs = self.network(responses)
        return found

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
        contrast = self.contrast(outputs.projected, targets["retrieval"], ids, mixing, moment)
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
        for responses, image, some_ids in self.held_out_blocks():
            outputs = self.outputs(responses)
            for kept, values in zip(
                (projected, condition, low_level),
                (outputs.projected, outputs.condition, outputs.low_level),
                strict=True,
            ):
                if values is not None:
                    kept.append(mean_by(values, image.to(values.device), len(some_ids)))
            ids += some_ids
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


def predict_rows(network: MindEyeNetwork, subject: int, scaled: np.ndarray, device: str) -> Outputs:
    """Run `network` on scaled responses (rows, units) of one subject, the others' rows being empty."""
    outputs: Outputs = network(one_subject(network.n_units, subject, scaled, device))
    return outputs

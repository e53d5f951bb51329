"""How brain-routing is trained: its losses, its validation scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.brain_routing_config import BrainRoutingConfig
from braindecode_suite.encoders.brain_routing_network import BrainRoutingNetwork
from braindecode_suite.encoders.latent_task import (
    LatentTask,
    TargetLatents,
    explained,
    mean_by,
    retrieval_scores,
)
from braindecode_suite.learning.losses import Mixing
from braindecode_suite.learning.responses import UnitScaler
from braindecode_suite.learning.training import Moment


class BrainRoutingTask(LatentTask):
    """A contrast of the role ``retrieval`` and a squared error of every role, see `LatentTask`.

    Parameters
    ----------
    network : BrainRoutingNetwork
    config : BrainRoutingConfig
    train, validation, latents, scalers, device
        As in `LatentTask`.
    """

    def __init__(
        self,
        network: BrainRoutingNetwork,
        config: BrainRoutingConfig,
        train: Cohort,
        validation: Cohort,
        latents: Mapping[str, TargetLatents],
        scalers: Sequence[UnitScaler],
        device: str,
    ) -> None:
        super().__init__(config, train, validation, latents, scalers, device)
        self.network = network

    def outputs(self, responses: Sequence[Tensor]) -> dict[str, Tensor]:
        """Run the network on each subject's rows."""
        found: dict[str, Tensor] = self.network(responses)
        return found

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        ids: Sequence[str],
        mixing: Mixing | None,
        moment: Moment,
    ) -> dict[str, Tensor]:
        """Return the weighted loss and its parts; targets of the squared errors are mixed as the responses were."""
        config = self.settings
        parts = {}
        if "retrieval" in outputs:
            parts["contrast"] = self.contrast(outputs["retrieval"], targets["retrieval"], ids, mixing, moment)
        for role, predicted in outputs.items():
            true = targets[role] if mixing is None else mixing.apply(targets[role])
            parts[f"{role}_error"] = (predicted.float() - true).square().sum(dim=-1).mean()
        weights = [
            config.contrastive_weight if name == "contrast" else config.regression_weight for name in parts
        ]
        total = torch.stack([w * part for w, part in zip(weights, parts.values(), strict=True)]).sum()
        return {"loss": total, **parts}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Score mean predictions of validation images.

        Returns
        -------
        dict
            ``top1`` at a gallery of 100, ``information`` (share of the log gallery size that the similarities carry), the
            share of variance explained of every other role (``image_r2``), and their sum without ``top1``, the ``score``.
        """
        kept: dict[str, list[Tensor]] = {role: [] for role in self.latents}
        ids: list[str] = []
        for responses, image, some in self.held_out_blocks():
            for role, values in self.outputs(responses).items():
                kept[role].append(mean_by(values, image.to(values.device), len(some)))
            ids += some
        targets, scores = self.targets(ids), {}
        for role, parts in kept.items():
            predicted = torch.cat(parts)
            if role == "retrieval":
                scores |= retrieval_scores(predicted, targets[role], ids)
            else:
                scores[f"{role}_r2"] = explained(predicted, targets[role])
        return {"score": sum(v for name, v in scores.items() if name != "top1"), **scores}

"""How a decoder of sensors is trained: single trials, a contrast, squared errors, windows that end at random, validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.latent_task import TargetLatents, mean_by, retrieval_scores
from braindecode_suite.encoders.meg_module_config import SensorTrainingConfig
from braindecode_suite.learning.contrast import contrast
from braindecode_suite.learning.low_rank import LowRankLatents
from braindecode_suite.learning.responses import ImageRows
from braindecode_suite.learning.sensor_trials import SubjectTrials, find_layouts, pad_sensors
from braindecode_suite.learning.training import Moment

ROWS_AT_ONCE = 128
WINDOWS = 4
"""Ends of growing windows that a validation looks at, evenly spaced, the last being the end of the trial."""


@dataclass(frozen=True, eq=False)
class RoleTarget:
    """What the head of one role is trained towards.

    Attributes
    ----------
    latents : TargetLatents
    low_rank : LowRankLatents or None
        Where the head predicts coefficients of principal components.
    tokens : int
    """

    latents: TargetLatents
    low_rank: LowRankLatents | None
    tokens: int

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Return what the head should give, of shape (ids, width of the head)."""
        if self.low_rank is not None:
            return self.low_rank.of(ids)
        return self.latents.of(ids).reshape(len(ids), -1)

    def left_out(self, ids: Sequence[str], true: Tensor) -> tuple[float, float]:
        """Return the squares summed over images that no prediction can reach, and those of the whole latents."""
        if self.low_rank is None:
            return 0.0, float(true.square().sum())
        whole = float(self.low_rank.squares(ids).sum())
        return whole - float(true.square().sum()), whole


class SensorTask:
    """Items are single trials.

    Parameters
    ----------
    network : nn.Module
        Takes (trials, positions, layouts, subjects), see `MegModuleNetwork.forward`; has ``n_times`` and ``logit``.
    config : SensorTrainingConfig
    train, validation : Cohort
    targets : dict of str to RoleTarget
        By role.
    shortest : int
        Samples that a growing window has at least.
    device : str
    maps_dir : Path, optional
        Of memory maps of preprocessed trials that are too many for memory, see `SubjectTrials`.
    """

    def __init__(
        self,
        network: nn.Module,
        config: SensorTrainingConfig,
        train: Cohort,
        validation: Cohort,
        targets: Mapping[str, RoleTarget],
        shortest: int,
        device: str,
        maps_dir: Path | None = None,
    ) -> None:
        self.network, self.config, self.targets, self.device = network, config, targets, device
        both = Cohort(
            train.studies,
            tuple(np.concatenate(rows) for rows in zip(train.rows, validation.rows, strict=True)),
        )
        self.trials = [SubjectTrials(study, rows, maps_dir) for study, rows in both]
        self.layouts = find_layouts(both)
        self.positions = torch.from_numpy(self.layouts.positions).to(device)
        self.held_out = [ImageRows.of(study, rows) for study, rows in validation]
        self.subject = np.repeat(np.arange(len(train.rows)), [len(rows) for rows in train.rows])
        self.row = np.concatenate(train.rows)
        self.ids = train.stimulus_ids
        self.n_times = int(network.n_times)  # type: ignore[arg-type]
        self.shortest = min(max(shortest, 1), self.n_times)

    @property
    def n_items(self) -> int:
        return len(self.row)

    def names(self, items: np.ndarray) -> list[str]:
        subjects = [trials.study.subject for trials in self.trials]
        return [
            f"sub-{subjects[s]}/row-{row}/{stimulus_id}"
            for s, row, stimulus_id in zip(self.subject[items], self.row[items], self.ids[items], strict=True)
        ]

    def ends(self) -> list[int]:
        """Return the lengths of the windows that are validated, in samples."""
        if self.config.window == "none":
            return [self.n_times]
        return [int(n) for n in np.unique(np.linspace(self.shortest, self.n_times, WINDOWS).round())]

    def loss(self, items: np.ndarray, moment: Moment) -> dict[str, Tensor]:
        """Return the weighted loss of a batch of trials and its parts; trials without any sensor are left out."""
        items = items[np.argsort(self.subject[items], kind="stable")]
        x, layout, subject = self._batch(
            [(s, self.row[items[self.subject[items] == s]]) for s in np.unique(self.subject[items])]
        )
        ids = self.ids[items]
        anything = (~torch.isnan(x).any(dim=2)).any(dim=1).cpu()
        if not bool(anything.all()):
            if int(anything.sum()) < 2:
                raise InputError("a batch", expected="trials with at least one sensor", found="NaN in all")
            x, layout, subject = x[anything], layout[anything], subject[anything]
            ids = ids[anything.numpy()]
        if self.config.window == "growing":
            x = x[:, :, : self._draw_end(moment.generator)]
        outputs = self.network(x, self.positions, layout, subject)
        return self.losses(outputs, list(ids))

    def _draw_end(self, generator: torch.Generator) -> int:
        if float(torch.rand((), generator=generator)) < self.config.whole_share:
            return self.n_times
        return int(torch.randint(self.shortest, self.n_times + 1, (1,), generator=generator))

    def losses(self, outputs: Mapping[str, Tensor], ids: Sequence[str]) -> dict[str, Tensor]:
        """Return ``lambda * contrast + (1 - lambda) * mean squared error of the roles`` and its parts."""
        config, parts = self.config, {}
        errors = []
        for role, predicted in outputs.items():
            true = torch.from_numpy(self.targets[role].of(ids)).to(self.device)
            if role == "retrieval":
                parts["contrast"] = contrast(config.contrast, predicted, true, ids, self.network.logit)  # type: ignore[arg-type]
            if role != "retrieval" or config.regress_retrieval:
                error = (predicted.float() - true).square().sum(dim=1).mean() / self.targets[role].tokens
                parts[f"{role}_error"] = error
                errors.append(error)
        weight = config.contrast_weight if errors and "contrast" in parts else float("contrast" in parts)
        total = torch.zeros((), device=self.device)
        if "contrast" in parts:
            total = total + weight * parts["contrast"]
        if errors:
            total = total + (1 - weight) * torch.stack(errors).mean()
        return {"loss": total, **parts}

    def _batch(self, parts: Sequence[tuple[int, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
        """Read (subject, rows) one after another: trials, their layouts and subjects."""
        values = pad_sensors([self.trials[s].read(rows) for s, rows in parts], self.layouts.n_sensors)
        layout = np.concatenate([self.layouts.of_trial[s][rows] for s, rows in parts])
        subject = np.repeat([s for s, _ in parts], [len(rows) for _, rows in parts])
        x = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        return x, torch.from_numpy(layout).to(self.device), torch.from_numpy(subject).to(self.device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Score mean predictions of validation images.

        Returns
        -------
        dict
            ``top1`` at a gallery of 100, ``information`` (share of the log gallery size that the similarities carry), the
            share of variance explained of every role with a squared error (``image_r2``; of ``retrieval`` with predictions of
            the best length, which is what the fitted model gives them), and their sum without ``top1``, the ``score``. Growing
            windows: the mean over `ends`.
        """
        found = [self._validate(end) for end in self.ends()]
        scores = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        return {"score": sum(v for name, v in scores.items() if name != "top1"), **scores}

    def _validate(self, end: int) -> dict[str, float]:
        ids: list[str] = []
        retrieved: list[Tensor] = []
        missed, whole = dict.fromkeys(self.targets, 0.0), dict.fromkeys(self.targets, 0.0)
        product, length = 0.0, 0.0
        for s, images in enumerate(self.held_out):
            for start in range(0, len(images), ROWS_AT_ONCE):
                groups = images.rows[start : start + ROWS_AT_ONCE]
                some = list(images.ids[start : start + ROWS_AT_ONCE])
                image = torch.repeat_interleave(
                    torch.arange(len(groups)), torch.tensor([len(group) for group in groups])
                ).to(self.device)
                outputs = self._predict(s, np.concatenate(groups), end)
                for role, values in outputs.items():
                    mean = mean_by(values[:, None], image, len(groups))[:, 0]
                    true = torch.from_numpy(self.targets[role].of(some)).to(self.device)
                    if role == "retrieval":
                        retrieved.append(mean)
                        product, length = (
                            product + float((mean * true).sum()),
                            length + float(mean.square().sum()),
                        )
                        if not self.config.regress_retrieval:
                            continue
                    beyond, square = self.targets[role].left_out(some, true)
                    missed[role] += float((mean - true).square().sum()) + beyond
                    whole[role] += square
                ids += some
        scores: dict[str, float] = {}
        if whole.get("retrieval"):
            explained = product**2 / length if product > 0 else 0.0
            missed["retrieval"] = whole["retrieval"] - explained
        if retrieved:
            true = torch.from_numpy(self.targets["retrieval"].of(ids))
            scores |= retrieval_scores(torch.cat(retrieved), true, ids)
        return scores | {
            f"{role}_r2": 1 - missed[role] / whole[role] for role in self.targets if whole[role] > 0
        }

    @torch.no_grad()
    def retrieval_gain(self, network: nn.Module) -> float:
        """Return the number that brings mean retrieval predictions of validation images nearest to the truth; 1 if none does."""
        product, square = 0.0, 0.0
        network.eval()
        for s, images in enumerate(self.held_out):
            for group, stimulus_id in zip(images.rows, images.ids, strict=True):
                mean = self._predict(s, group, self.n_times)["retrieval"].mean(dim=0).cpu()
                true = torch.from_numpy(self.targets["retrieval"].of([stimulus_id]))[0]
                product += float(mean @ true)
                square += float(mean @ mean)
        return product / square if product > 0 else 1.0

    def _predict(self, subject: int, rows: np.ndarray, end: int) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, len(rows), ROWS_AT_ONCE):
            x, layout, who = self._batch([(subject, rows[start : start + ROWS_AT_ONCE])])
            for role, values in self.network(x[:, :, :end], self.positions, layout, who).items():
                parts.setdefault(role, []).append(values.float())
        return {role: torch.cat(values) for role, values in parts.items()}

"""MindEye (Scotti et al. 2023, arXiv:2305.18274) as a `BrainEncoder`: contrastive retrieval, a diffusion prior, a blurry image.

Known faults of the official code are not repeated: every tensor is trained, labels of mixed rows are added and point at
the right subject's images, low-level targets are mixed before their loss, nothing is chosen on test rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders.latent_task import TargetLatents, fit_scalers
from braindecode_suite.encoders.mindeye_config import PRESETS, MindEyeConfig, preset
from braindecode_suite.encoders.mindeye_network import MindEyeNetwork, Roles, join_state, split_state
from braindecode_suite.encoders.mindeye_task import MindEyeTask, predict_rows
from braindecode_suite.learning.checkpoints import (
    SavedModel,
    check_cohort,
    describe_fit,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.diffusion import seeded_noise
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.model_tensors import (
    add_prefix,
    restore_target_scalers,
    restore_unit_scaler,
    take_prefix,
    target_scaler_tensors,
    unit_scaler_tensors,
)
from braindecode_suite.learning.responses import ImageRows, UnitScaler, image_means, read_blocks
from braindecode_suite.learning.ridge import cached_ridge_cv
from braindecode_suite.learning.training import train as run_training

ROLES = ("retrieval", "image", "init")
BLOCK = 256


class MindEyeEncoder:
    """Voxels to latents by a residual MLP, a projector, a diffusion prior and a low-level branch.

    Roles: ``retrieval`` is the projector's output, ``image`` a sample of the prior (its noise is a function of seed and
    stimulus id, so that repeats of an image share it), ``init`` the low-level latents.

    Parameters
    ----------
    config : MindEyeConfig
    context : FitContext

    Attributes
    ----------
    history_ : list of dict
        One row a validated epoch.
    best_epoch_, resumed_from_ : int
    network_ : MindEyeNetwork
    """

    config_class: ClassVar[type[MindEyeConfig]] = MindEyeConfig
    PRESETS: ClassVar[tuple[str, ...]] = tuple(PRESETS)
    ROLES: ClassVar[tuple[str, ...]] = ROLES

    def __init__(self, config: MindEyeConfig, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []
        self.best_epoch_, self.resumed_from_ = 0, 0

    @classmethod
    def preset(cls, name: str) -> MindEyeConfig:
        """Return the config of a preset: tiny, kandinsky or paper."""
        return preset(name)

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        self._check_fitted()
        return sum(parameter.numel() for parameter in self.network_.parameters())

    def fit(self, train: Cohort, validation: Cohort, targets: Mapping[str, Target]) -> MindEyeEncoder:
        """Train on training rows, keep the weights that are best on validation images."""
        for role in targets:
            check_option("role", role, ROLES)
        if "retrieval" not in targets:
            raise InputError(
                "`targets`", expected="a target of role 'retrieval'", found=", ".join(targets) or "none"
            )
        if not len(validation):
            raise InputError("`validation`", expected="validation rows to stop on", found="none")
        facts = describe_fit(train, targets, self.context.split_hash)
        train_ids, validation_ids = list(train.stimulus_ids), list(validation.stimulus_ids)
        latents = {
            role: TargetLatents(target, train.stimuli, train_ids, validation_ids)
            for role, target in targets.items()
        }
        self._scalers = fit_scalers(train, weight_by_signal=self.config.weight_by_signal)
        self._target_scalers = {role: latent.scaler for role, latent in latents.items()}
        n_units = [len(scaler.mean) for scaler in self._scalers]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.context.seed)
            network = MindEyeNetwork(n_units, find_roles(facts["targets"], self.config), self.config)
        if self.config.linear_start:
            self._start_from_ridge(network, train, targets)
        network.to(self.context.device)
        task = MindEyeTask(
            network, self.config, train, validation, latents, self._scalers, self.context.device
        )
        rows = data_hash(
            *[np.asarray(r, np.int64) for r in (*train.rows, *validation.rows)], train_ids, validation_ids
        )
        result = run_training(
            task,
            self.config.training,
            work_dir=self.context.work_dir / "mindeye",
            seed=self.context.seed,
            device=self.context.device,
            precision=self.context.precision,
            progress=self.context.progress,
            identity={"facts": facts, "rows": rows, "config": self.config.model_dump(mode="json")},
        )
        self.network_, self.history_ = network, result.history
        self.best_epoch_, self.resumed_from_ = result.best_epoch, result.resumed_from
        self.facts_ = facts | {"history": result.history, "best_epoch": result.best_epoch}
        self._recipes = recipe_tensors(train)
        return self

    def _start_from_ridge(
        self, network: MindEyeNetwork, train: Cohort, targets: Mapping[str, Target]
    ) -> None:
        """Set the linear paths to the ridge baseline's maps (the same fit, found in the cache where it has been made)."""
        has_low_level = network.low_level is not None and network.low_level.head is not None
        names = {role: t.name for role, t in targets.items() if role != "init" or has_low_level}
        unique = {t.name: t for role, t in targets.items() if role in names}
        for s, ((study, rows), scaler) in enumerate(zip(train, self._scalers, strict=True)):
            images = ImageRows.of(study, rows)
            X = image_means(study, images, scaler)
            Y = {
                name: t.embed(train.stimuli, list(images.ids)).select(images.ids).flat
                for name, t in unique.items()
            }
            fit = cached_ridge_cv(
                (self.context.cache_dir or self.context.work_dir) / "ridge",
                X,
                np.concatenate(list(Y.values()), axis=1, dtype=np.float32),
                folds=group_folds(np.arange(len(images)), min(5, len(images))),
                alphas=self.config.ridge_alphas,
            )
            ends = np.cumsum([0] + [y.shape[1] for y in Y.values()])
            columns = {name: slice(a, b) for name, (a, b) in zip(Y, pairwise(ends), strict=True)}
            maps = {}
            for role, name in names.items():
                to = self._target_scalers[role]
                intercept = (fit.intercept[columns[name]] - to.mean.ravel()) / to.scale
                coef = fit.coef[:, columns[name]] / to.scale
                maps[role] = torch.from_numpy(coef).float(), torch.from_numpy(intercept).float()
            network.start_from_linear(s, maps)

    @torch.no_grad()
    def predict(self, cohort: Cohort, seed: int = 0) -> dict[str, Latents]:
        """Return one row of latents for each row of the cohort, in order, for every role it was fitted to."""
        self._check_fitted()
        check_cohort(self.facts_, cohort, "cohort")
        network = self.network_.to(self.context.device).eval()
        parts: dict[str, list[np.ndarray]] = {role: [] for role in self.facts_["targets"]}
        for study, rows in cohort:
            subject = self.facts_["subjects"].index(study.subject)
            for places, block in read_blocks(study, rows, BLOCK):
                scaled = self._scalers[subject].apply(block)
                outputs = predict_rows(network, subject, scaled, self.context.device)
                parts["retrieval"].append(outputs.projected.float().cpu().numpy())
                if "image" in parts:
                    assert outputs.condition is not None
                    ids = study.stimulus_ids[rows[places]]
                    parts["image"].append(self._sample(outputs.condition, ids, seed))
                if "init" in parts:
                    assert outputs.low_level is not None
                    parts["init"].append(outputs.low_level.float().cpu().numpy())
        latents = {}
        for role, blocks in parts.items():
            target = self.facts_["targets"][role]
            shape = (0, target["tokens"], target["width"])
            values = self._target_scalers[role].undo(
                np.concatenate(blocks) if blocks else np.empty(shape, np.float32)
            )
            latents[role] = Latents(values, cohort.stimulus_ids, target["name"], "predicted")
        return latents

    def _sample(self, condition: torch.Tensor, ids: np.ndarray, seed: int) -> np.ndarray:
        draws = []
        for k in range(self.config.samples):
            seeds = [noise_seed(seed, k, str(stimulus_id)) for stimulus_id in ids]
            noise = seeded_noise(seeds, tuple(condition.shape[1:])).to(condition.device)
            draws.append(self.network_.sample(condition.float(), noise).float().cpu().numpy())
        return np.asarray(np.mean(draws, axis=0), dtype=np.float32)

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the trunk, one adapter a subject, config.json and README.md."""
        self._check_fitted()
        shared, own = split_state(self.network_.state_dict(), len(self._scalers))
        adapters = {
            subject: add_prefix("network.", tensors) | unit_scaler_tensors(scaler)
            for subject, tensors, scaler in zip(self.facts_["subjects"], own, self._scalers, strict=True)
        }
        saved = SavedModel.of(
            "mindeye",
            self.config,
            self.context,
            self.facts_,
            adapters=adapters,
            recipes=self._recipes,
            shared=add_prefix("network.", shared) | target_scaler_tensors(self._target_scalers),
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
        targets: Mapping[str, Target] | None = None,
    ) -> MindEyeEncoder:
        """Read a saved model; one of other data than `cohort` or of other `targets` is an error naming both sides."""
        saved = open_model(folder, "mindeye", seed=seed, cohort=cohort, targets=targets)
        model = cls(saved.read_config(MindEyeConfig, folder), saved.context(folder, device))
        model.facts_, model._recipes = saved.facts, saved.recipes
        model.history_, model.best_epoch_ = saved.facts["history"], saved.facts["best_epoch"]
        subjects = [saved.adapters[subject] for subject in saved.facts["subjects"]]
        model._scalers = [restore_unit_scaler(tensors, UnitScaler) for tensors in subjects]
        model._target_scalers = restore_target_scalers(saved.shared, saved.facts["targets"])
        roles = find_roles(saved.facts["targets"], model.config)
        model.network_ = MindEyeNetwork([len(scaler.mean) for scaler in model._scalers], roles, model.config)
        own = [take_prefix("network.", tensors) for tensors in subjects]
        state = join_state(take_prefix("network.", saved.shared), own)
        model.network_.load_state_dict(state)
        model.network_.eval()
        return model

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise InputError("mindeye", expected="a fitted encoder", found="an unfitted one", hint="call fit")


def find_roles(targets: Mapping[str, Mapping[str, Any]], config: MindEyeConfig) -> Roles:
    """Work out which parts the network needs for targets by role (``name``, ``tokens``, ``width``)."""

    def shape(role: str) -> tuple[int, int]:
        return targets[role]["tokens"], targets[role]["width"]

    another = "image" in targets and (
        config.own_image_head or targets["image"]["name"] != targets["retrieval"]["name"]
    )
    return Roles(
        retrieval=shape("retrieval"),
        image=shape("image") if another else None,
        has_prior="image" in targets or config.prior is not None,
        init=shape("init") if "init" in targets else None,
    )


def noise_seed(seed: int, sample: int, stimulus_id: str) -> int:
    """Return the seed of the prior's noise for one stimulus: the same for all its repeats, in any batch."""
    digest = blake2b(f"{seed}/{sample}/{stimulus_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

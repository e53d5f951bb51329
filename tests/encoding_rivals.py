"""An image encoder in a few lines, to test what the workflow does with any: least squares on mean-pooled tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file

from braindecode_suite.core.config import Config
from braindecode_suite.learning.responses import ImageRows, fit_scaler, image_means


class PooledConfig(Config):
    penalty: float = 10.0


class PooledRival:
    """Ridge of one penalty on the mean token of every source."""

    config_class: ClassVar[type[Config]] = PooledConfig
    PRESETS: ClassVar[tuple[str, ...]] = ("plain",)

    def __init__(self, config: PooledConfig, context: Any) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []

    @classmethod
    def preset(cls, name: str) -> PooledConfig:
        return PooledConfig()

    def fit(self, train: Any, validation: Any, features: Sequence[Any]) -> PooledRival:
        (study, rows), *_ = train
        images = ImageRows.of(study, rows)
        self.scaler = fit_scaler(study, images, weight_by_signal=False)
        self.names = [source.name for source in features]
        X = self.pool({source.name: source.rows(study.stimuli, list(images.ids)) for source in features})
        self.mean = X.mean(axis=0)
        X = X - self.mean
        gram = X.T @ X + self.config.penalty * np.eye(X.shape[1])
        self.coef = np.linalg.solve(gram, X.T @ image_means(study, images, self.scaler))
        return self

    def pool(self, rows: Mapping[str, Any]) -> np.ndarray:
        return np.concatenate([np.asarray(rows[name][:], np.float64).mean(axis=1) for name in self.names], axis=1)

    def predict(self, images: Mapping[str, Any], subject: str | None = None) -> np.ndarray:
        gain = np.where(self.scaler.gain > 0, self.scaler.gain, 1)
        return ((self.pool(images) - self.mean) @ self.coef / gain + self.scaler.mean).astype(np.float32)

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        folder.mkdir(parents=True)
        save_file({"coef": torch.from_numpy(self.coef.copy())}, folder / f"{type(self).__name__}.safetensors")
        config = {"models": {type(self).__name__: {"model": type(self).__name__}}}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


class WeakRival(PooledRival):
    """The same with a penalty that leaves little."""

    @classmethod
    def preset(cls, name: str) -> PooledConfig:
        return PooledConfig(penalty=1e7)

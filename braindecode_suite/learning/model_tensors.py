"""What fitted models are made of, as the tensors of a model folder and back: scalers, routes, masks of grids, parts by prefix."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.features import Grid
from braindecode_suite.learning.responses import UnitScaler
from braindecode_suite.learning.routes import Routes
from braindecode_suite.learning.target_space import TargetScaler

ScalerT = TypeVar("ScalerT", bound=UnitScaler)


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under longer names, so that they lie beside others.

    Examples
    --------
    >>> list(add_prefix("network.", {"weight": torch.zeros(1)}))
    ['network.weight']
    """
    return {f"{prefix}{key}": value for key, value in tensors.items()}


def take_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `add_prefix`: return the tensors whose names begin so, without that beginning.

    Examples
    --------
    >>> list(take_prefix("network.", {"network.weight": torch.zeros(1), "mean": torch.zeros(1)}))
    ['weight']
    """
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def unit_scaler_tensors(scaler: UnitScaler) -> dict[str, Tensor]:
    """Return ``mean`` and ``gain`` of shape (units,)."""
    return {"mean": torch.from_numpy(scaler.mean), "gain": torch.from_numpy(scaler.gain)}


def restore_unit_scaler(tensors: Mapping[str, Tensor], kind: type[ScalerT]) -> ScalerT:
    """Undo `unit_scaler_tensors`; `kind` is `UnitScaler` or a class derived from it."""
    return kind(tensors["mean"].numpy(), tensors["gain"].numpy())


def target_scaler_tensors(scalers: Mapping[str, TargetScaler]) -> dict[str, Tensor]:
    """Return ``target.ROLE.mean`` of shape (tokens, width) and ``target.ROLE.scale``, of one number or of that shape."""
    tensors: dict[str, Tensor] = {}
    for role, scaler in scalers.items():
        tensors[f"target.{role}.mean"] = torch.from_numpy(scaler.mean)
        tensors[f"target.{role}.scale"] = torch.as_tensor(np.atleast_1d(np.asarray(scaler.scale)))
    return tensors


def restore_target_scalers(tensors: Mapping[str, Tensor], roles: Collection[str]) -> dict[str, TargetScaler]:
    """Undo `target_scaler_tensors`."""
    scalers = {}
    for role in roles:
        mean, scale = tensors[f"target.{role}.mean"], tensors[f"target.{role}.scale"]
        scalers[role] = TargetScaler(mean.numpy(), float(scale) if scale.numel() == 1 else scale.numpy())
    return scalers


def route_tensors(routes: Routes) -> dict[str, Tensor]:
    """Return ``segment`` of shape (units,), and ``mixing`` of shape (segments, queries) where there is one."""
    tensors = {"segment": torch.from_numpy(routes.segment)}
    if routes.mixing is not None:
        tensors["mixing"] = torch.from_numpy(routes.mixing)
    return tensors


def restore_routes(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Routes:
    """Undo `route_tensors`; names of the queries are no tensor and stand in the model's facts."""
    mixing = tensors.get("mixing")
    return Routes(tuple(names), tensors["segment"].numpy(), None if mixing is None else mixing.numpy())


def grid_tensors(grids: Mapping[str, Grid]) -> dict[str, Tensor]:
    """Return ``seen.NAME`` of shape (height, width), 1 where a token shows the image, of each grid with tokens that do not."""
    masks = {name: grid.seen for name, grid in grids.items() if grid.seen is not None}
    return {f"seen.{name}": torch.from_numpy(mask.astype(np.uint8)) for name, mask in masks.items()}


def restore_grids(
    tensors: Mapping[str, Tensor], described: Mapping[str, Mapping[str, Any]]
) -> dict[str, Grid]:
    """Undo `grid_tensors`; the rest of each grid is as ``Grid.describe`` left it in the model's facts."""
    grids = {}
    for name, grid in described.items():
        seen = tensors.get(f"seen.{name}")
        mask = None if seen is None else np.asarray(seen.numpy() > 0)
        grids[name] = Grid(grid["height"], grid["width"], grid["has_cls"], mask)
    return grids

"""Where pretrained weights lie on this machine: the caches of the Hugging Face hub and of torch hub. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from braindecode_suite.core.errors import InputError


def in_hub_cache(repository: str, names: Sequence[str]) -> Path | None:
    """Return the first of the files `names` of a Hugging Face repository that is cached, or None."""
    for name in names if repository else ():
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def torch_hub_file(url: str) -> Path:
    """Return where torch hub keeps the file of `url`, whether or not it is there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def in_torch_hub(url: str) -> Path | None:
    """Return the file of `url` in torch hub's cache, or None."""
    file = torch_hub_file(url)
    return file if file.is_file() else None


def read_state(weights: Path) -> dict[str, Tensor]:
    """Read a PyTorch state dict, tensors only."""
    try:
        state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets the unpickler's own errors through
        raise InputError(
            weights, expected="a PyTorch state dict", found=" ".join(str(error).split())[:200]
        ) from error
    return state

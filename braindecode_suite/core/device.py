"""Where to compute: an argument everywhere, never a global."""

from __future__ import annotations

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError


def resolve_device(device: str = "auto") -> str:
    """Return ``'cuda'`` or ``'cpu'`` for ``auto | cpu | cuda``; cuda without a GPU is an `InputError`."""
    check_option("device", device, ("auto", "cpu", "cuda"))
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError(
            "`device`", expected="a CUDA device", found="none on this machine", hint="use --device auto"
        )
    return "cpu"

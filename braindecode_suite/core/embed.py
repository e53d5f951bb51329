"""Embedding stimuli once: what every `Target` shares, whichever room it lives in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.study import Stimuli

BLOCK = 256
"""Stimuli read and embedded at once, so that memory does not grow with the study."""


def unique_ids(ids: Sequence[str]) -> list[str]:
    """Return each id once, in order of first appearance."""
    return list(dict.fromkeys(str(i) for i in ids))


def embed_cached(
    target: Target,
    cache: ArrayCache,
    stimuli: Stimuli,
    ids: Sequence[str],
    compute: Callable[[Sequence[str]], np.ndarray],
    extra_key: Any = None,
) -> Latents:
    """Return the true latents of stimuli, computed at most once and memory-mapped afterwards.

    Parameters
    ----------
    target : Target
    cache : ArrayCache
    stimuli : Stimuli
    ids : sequence of str
        May repeat; each stimulus gets one row, in order of first appearance.
    compute : callable
        Ids to latents of shape (ids, tokens, width); called for blocks of `BLOCK` stimuli.
    extra_key : optional
        What the latents depend on besides the target and the image files.

    Returns
    -------
    Latents
        Of kind ``true``, its values memory-mapped read-only.
    """
    unique = unique_ids(ids)
    if not unique:
        raise InputError("`ids`", expected="at least one stimulus", found="none")
    shape = (len(unique), target.tokens, target.width)

    def everything() -> np.ndarray:
        cache.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache.folder) as scratch:
            values = np.memmap(scratch, np.float32, "w+", shape=shape)
        for start in range(0, len(unique), BLOCK):
            values[start : start + BLOCK] = compute(unique[start : start + BLOCK])
        return values

    key = {"target": target.name, "stimuli": stimuli.fingerprint, "ids": unique}
    if extra_key is not None:
        key["extra"] = extra_key
    values = cache.get(key, everything)
    return Latents(values, np.array(unique, dtype=object), target.name, "true")

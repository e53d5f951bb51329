"""Small folders in the formats of `bonner81` and `kriegeskorte92`, with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat
from scipy.spatial.distance import pdist, squareform

from braindecode_suite.datasets.bonner81 import FILE
from braindecode_suite.datasets.kriegeskorte92 import IMAGES, RDMS

REGIONS = ("seen", "named", "deaf")
"""Voxels that follow AlexNet's numbers, word2vec's, and nothing."""
INITIALS = ("BE", "KO", "SN")


def bonner81_arrays(n: int = 45, voxels: int = 8, noise: float = 0.7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    vectors = {
        "alexnet": rng.standard_normal((n, 4)) * [90, 50, 20, 10],
        "word2vec": rng.standard_normal((n, 5)),
    }
    parts = [(v / v.std(axis=0)) @ rng.standard_normal((v.shape[1], voxels)) / 2 for v in vectors.values()]
    betas = np.concatenate([*parts, np.zeros((n, voxels))], axis=1) + noise * rng.standard_normal(
        (n, 3 * voxels)
    )
    return {
        "betas": (betas - betas.mean(axis=0)).astype(np.float32),
        "roi_index": np.repeat(np.arange(1, 4), voxels).astype(np.int16),
        "roi_names": np.array(REGIONS),
        "categories": np.array([f"thing-{k:02d}" for k in range(n)]),
        **{name: rows.astype(np.float32) for name, rows in vectors.items()},
    }


def write_bonner81(folder: Path, **changes: Any) -> Path:
    """Write the one file; an array given as None is left out."""
    arrays = {**bonner81_arrays(), **changes}
    np.savez(folder / FILE, **{name: array for name, array in arrays.items() if array is not None})
    return folder


def write_kriegeskorte92(
    folder: Path,
    n: int = 40,
    *,
    subjects: tuple[str, ...] = INITIALS,
    rdms: dict[str, np.ndarray] | None = None,
    side: int = 12,
) -> Path:
    """Write both files: images of one colour each, and people to whom colours alike are alike; `rdms` replaces some by name."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (n, 3))
    entries, objects = [], []
    for subject in subjects:
        for session in (1, 2):
            name = f"hIT | {subject} | Session: {session}"
            noisy = squareform(pdist(colours + 60 * rng.standard_normal(colours.shape))) / 400
            entries.append({"RDM": (rdms or {}).get(name, noisy), "name": name, "color": np.zeros((1, 3))})
    for k, colour in enumerate(colours):
        image = np.clip(colour + rng.normal(0, 4, (side, side, 3)), 0, 255).astype(np.uint8)
        kind = {"human": k % 4 == 0, "face": k % 8 == 0, "animal": k % 2 == 0, "natural": k % 3 == 0}
        objects.append(
            {
                "category": "face" if kind["face"] else "thing",
                **{key: np.uint8(v) for key, v in kind.items()},
                "image": image,
            }
        )
    names = ("RDM", "name", "color")
    types = np.dtype([(name, object) for name in names])
    table = np.array([tuple(entry[name] for name in names) for entry in entries], types)
    savemat(folder / RDMS, {"RDMs": table.reshape(1, len(subjects), 2)}, do_compression=True)
    fields = np.dtype([(name, object) for name in objects[0]])
    shown = np.array([tuple(one.values()) for one in objects], fields)
    savemat(folder / IMAGES, {"stimuli_92objs": shown.reshape(1, -1)}, do_compression=True)
    return folder

"""Predicted responses to any folder of images as a `Study`: what a fitted encoder thinks a brain would do.

Everything that says what a study is says that this one was predicted: its dataset is ``in-silico``, its unit and its space carry the
word, every trial does, and there is no noise and no repeat. A checkpoint fitted to recordings refuses it, and the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_folder, check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import ImageEncoder
from braindecode_suite.core.spaces import ParcelSpace, Space, SurfaceSpace, UnitSpace, VoxelSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.image_files import IMAGE_SUFFIXES, ImageFiles, find_images

DATASET = "in-silico"
MARK = "predicted"


def predicted_study(
    encoder: ImageEncoder,
    folder: Path,
    like: Study,
    *,
    image_side: int | None = None,
    rois: tuple[str, ...] = (),
    batch: int = 64,
) -> Study:
    """Predict the responses of one subject to every image below a folder.

    Parameters
    ----------
    encoder : ImageEncoder
        Fitted to `like`, with the sources of its features (a loaded one needs `features`).
    folder : Path
        Searched with its subfolders. A stimulus is named by its file without the suffix; where every image lies in a subfolder, that
        is its ``category``.
    like : Study
        The recordings that the encoder was fitted to: whose brain it is, where its units lie, and in which unit they are.
    image_side : int, optional
        Resize every image to a square of so many pixels; without it all must be of one size.
    rois : tuple of str
        Keep the units of these regions only; by default all.
    batch : int
        Images at once.

    Returns
    -------
    Study
        One row an image, in the order of their names: float32 in memory, of shape (images, units) or (images, channels, times). Units
        that the encoder has no model of are 0, not ``valid``, and counted in the warnings.

    Raises
    ------
    InputError
        If there is no folder, no image in it or a damaged one, two images of one name or several sizes, a region that does not exist, or
        an encoder of another subject or number of units than `like`.
    """
    files = find_images(folder, check_folder(folder, "a folder of images"), stems=True)
    if not files:
        raise InputError(folder, expected=f"images ({', '.join(IMAGE_SUFFIXES)})", found="none")
    for name in rois:
        check_option("rois", name, like.space.rois)
    ids, category = list(files), _categories(folder, files)
    stimuli = ImageFiles(files, category, image_side)
    parts = []
    for start in range(0, len(ids), batch):
        part = encoder.predict(stimuli.images(ids[start : start + batch]), like.subject)
        axes = "images units" if part.ndim == 2 else "images units times"
        check_shape("encoder", part, axes, images=len(part), units=like.n_units)
        parts.append(np.asarray(part, np.float32))
    responses = np.concatenate(parts)
    finite = np.isfinite(responses).reshape(len(ids), like.n_units, -1)
    silent = np.asarray(~finite.all(axis=(0, 2)))
    responses[:, silent] = 0.0
    keep = np.ones(like.n_units, bool)
    if rois:
        keep = np.asarray(np.any([like.space.rois[name] for name in rois], axis=0))
        if not keep.any():
            raise InputError("`rois`", expected="regions with units", found=f"none in {', '.join(rois)}")
    valid = ~silent if like.valid is None else ~silent & like.valid
    name = str(getattr(encoder, "name", type(encoder).__name__))
    trials = pd.DataFrame({"stimulus_id": pd.Series(ids, dtype=object)})
    trials["session"] = trials["run"] = trials["repeat"] = 1
    trials["onset"], trials["origin"] = np.nan, MARK
    if category is not None:
        trials["category"] = category["category"].to_numpy()
    return Study(
        dataset=DATASET,
        subject=like.subject,
        responses=np.ascontiguousarray(responses[:, keep]),
        trials=trials,
        stimuli=stimuli,
        space=mark_space(like.space, None if keep.all() else keep),
        unit=f"{like.unit}{'' if like.recipe is None else ' after preprocessing'}, {MARK}",
        noise=None,
        valid=valid[keep],
        provenance={
            "predicted by": name,
            "fitted to": f"{like.dataset} sub-{like.subject}",
            "features": ", ".join(_features(encoder)),
            "images": str(folder),
            "warnings": [
                f"Predicted, not measured: {name} fitted to {like.dataset} sub-{like.subject} made every response. What it shows is a "
                "property of that model; it holds for a brain only as far as the model does.",
                "Predictions have no noise and no repeats: significance tests that treat them as trials mean nothing.",
                *(
                    [f"{int(silent[keep].sum())} units without a model are 0 and not valid."]
                    if silent[keep].any()
                    else []
                ),
            ],
        },
    )


def mark_space(space: Space, keep: np.ndarray | None = None) -> Space:
    """Return the space of predicted units: as it is but for its name, or only with some of its units.

    Parameters
    ----------
    space : Space
        Of voxels, vertices, parcels or units; of sensors only whole, and unmarked: its name is its sensors'.
    keep : array of bool of shape (units,), optional
    """
    chosen = np.ones(space.n_units, bool) if keep is None else keep
    rois = {name: np.asarray(member)[chosen] for name, member in space.rois.items()}
    if isinstance(space, UnitSpace):
        return UnitSpace(int(chosen.sum()), rois, f"{MARK} {space.unit}")
    if isinstance(space, VoxelSpace):
        mask = space.mask.copy()
        mask[space.mask] = chosen
        return replace(space, mask=mask, rois=rois, name=f"{space.name}:{MARK}")
    if keep is None:
        return replace(space, atlas=f"{space.atlas} ({MARK})") if isinstance(space, ParcelSpace) else space
    if isinstance(space, SurfaceSpace):
        left, right = space.left.copy(), space.right.copy()
        n_left = int(left.sum())
        left[left], right[right] = chosen[:n_left], chosen[n_left:]
        return replace(space, left=left, right=right, rois=rois)
    raise InputError(
        "`rois`",
        expected="voxels, vertices or units, to keep some of",
        found=str(space.describe().get("kind")),
    )


def _categories(folder: Path, files: Mapping[str, Path]) -> pd.DataFrame | None:
    """Return the subfolder of each image, where every one has one."""
    names = [path.parent.name if path.parent != folder else "" for path in files.values()]
    if not all(names):
        return None
    return pd.DataFrame({"category": names}, index=pd.Index(list(files), name="stimulus_id"))


def _features(encoder: Any) -> list[str]:
    facts = getattr(encoder, "facts_", {})
    return [str(name) for name in facts.get("targets", {})]

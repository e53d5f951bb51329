"""Pictures of a simulated study: drawn once, tabled with captions, and matched by distractors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.files import write_aside
from braindecode_suite.datasets.simulate_parameters import VoxelParameters
from braindecode_suite.datasets.simulate_scenes import (
    STUDY_SEEDS_START,
    Scene,
    captions,
    draw_matched,
    draw_scene,
    main_object,
    render,
    scene_params,
)
from braindecode_suite.datasets.simulate_voxels import Floats, picture_maps

_SEEDS_A_STUDY = 1_000_000
_DISTRACTOR_SEEDS, _REFERENCE_SEEDS, _DISTRACTORS_A_SCENE = 500_000, 900_000, 100
_BLOCK = 256


class Album:
    """Renders scenes at one size, and keeps the pictures until they take `limit` bytes."""

    def __init__(self, side: int, limit: int = 512 * 2**20) -> None:
        self.side, self._left = side, limit
        self._kept: dict[Scene, NDArray[np.uint8]] = {}

    def render(self, scenes: Sequence[Scene]) -> NDArray[np.uint8]:
        """Return pictures of shape (scenes, side, side, 3)."""
        return np.stack([self._kept[scene] if scene in self._kept else self._draw(scene) for scene in scenes])

    def _draw(self, scene: Scene) -> NDArray[np.uint8]:
        picture = render(scene, self.side)
        if picture.nbytes <= self._left:
            self._kept[scene] = picture
            self._left -= picture.nbytes
        return picture


@dataclass(frozen=True, eq=False)
class Pictured:
    """Scenes and the maps of their pictures, of shape (scenes, channels, cells)."""

    scenes: Sequence[Scene]
    maps: Floats


def picture(scenes: Sequence[Scene], album: Album, parameters: VoxelParameters) -> Pictured:
    """Render scenes and return them with the maps of their pictures."""
    blocks = [scenes[start : start + _BLOCK] for start in range(0, len(scenes), _BLOCK)]
    return Pictured(scenes, np.concatenate([picture_maps(album.render(b), parameters) for b in blocks]))


def study_seed(seed: int, number: int) -> int:
    """Return the seed of a study's scene: every study has its own."""
    return STUDY_SEEDS_START + seed * _SEEDS_A_STUDY + number


def draw_reference(seed: int, n: int) -> list[Scene]:
    """Draw scenes over which signals are scaled; the study does not show them."""
    return [draw_scene(study_seed(seed, _REFERENCE_SEEDS + k)) for k in range(n)]


def draw_distractors(
    scenes: Sequence[Scene], images: NDArray[np.int64], n: int, seed: int
) -> list[list[Scene]]:
    """Draw `n` scenes matched to each of the `images` of a study: same main category and place, all else afresh."""
    first = _DISTRACTOR_SEEDS + np.arange(len(images)) * _DISTRACTORS_A_SCENE
    return [
        [draw_matched(scenes[image], study_seed(seed, int(start) + k)) for k in range(n)]
        for image, start in zip(images, first, strict=True)
    ]


def scene_attributes(scene: Scene) -> dict[str, Any]:
    """Return what a table says of a scene: attributes of its main object, place, and the whole scene as JSON."""
    main = scene.objects[main_object(scene) if len(scene.objects) > 1 else 0]
    return {
        "category": main.category,
        "place": scene.place,
        "colour": main.colour,
        "x": main.x,
        "y": main.y,
        "size": main.size,
        "pose": main.pose,
        "mirror": int(main.mirror),
        "n_objects": len(scene.objects),
        "seed": scene.seed,
        "scene": json.dumps(scene_params(scene), separators=(",", ":")),
    }


def write_scenes(folder: Path, ids: Sequence[Any], scenes: Sequence[Scene], seed: int) -> None:
    """Write ``scenes.tsv`` with the attributes of each scene, and ``captions.tsv`` with three captions each."""
    rows, texts = [], []
    for stimulus_id, scene in zip(ids, scenes, strict=True):
        rows.append({"stimulus_id": stimulus_id, **scene_attributes(scene)})
        texts += [{"stimulus_id": stimulus_id, "caption": text} for text in captions(scene, 3, seed)]
    write_table(folder / "scenes.tsv", rows)
    write_table(folder / "captions.tsv", texts)


def write_distractors(
    folder: Path, ids: NDArray[Any], distractors: Sequence[Sequence[Scene]], album: Album
) -> None:
    """Write ``distractors.hdf5`` and ``distractors.tsv``: the images matched to each of `ids`."""
    rows = []
    with write_aside(folder / "distractors.hdf5") as aside, h5py.File(aside, "w") as file:
        file["stimulus_id"] = ids.astype("S") if ids.dtype.kind in "OU" else ids
        shape = (len(ids), len(distractors[0]), album.side, album.side, 3)
        images = file.create_dataset("images", shape, np.uint8)
        for k, (stimulus_id, matched) in enumerate(zip(ids, distractors, strict=True)):
            images[k] = album.render(matched)
            rows += [
                {"stimulus_id": stimulus_id, "distractor": j, **scene_attributes(s)}
                for j, s in enumerate(matched)
            ]
    write_table(folder / "distractors.tsv", rows)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as tab-separated values, whole or not at all."""
    with write_aside(path) as aside:
        pd.DataFrame(rows).to_csv(aside, sep="\t", index=False)

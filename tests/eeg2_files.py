"""THINGS-EEG2 in small: the two preprocessed layouts that are about, written as their makers do."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

CHANNELS = ["Pz", "P3", "P4", "O1", "Oz", "O2", "PO7"]


def write_eeg2(
    folder: Path, *, layout: str = "released", subjects: tuple[str, ...] = ("01",), images: bool = True
) -> dict[str, np.ndarray]:
    """Write `layout` 'released' (numpy.save of a dict, 100 Hz) or 'nice' (a bare pickle, 250 Hz, 300 times for 250 samples).

    Returns the data of the first subject by part, of shape (conditions, repeats, channels, times).
    """
    rng = np.random.default_rng(0)
    concepts = {
        "train": [f"{k // 2 + 1:05d}_thing{k // 2}" for k in range(60)],
        "test": [f"{k + 101:05d}_other{k}" for k in range(8)],
    }
    files = {part: [f"{c[6:]}_{k:02d}b.jpg" for k, c in enumerate(names)] for part, names in concepts.items()}
    metadata = {f"{part}_img_concepts": concepts[part] for part in concepts}
    metadata |= {f"{part}_img_files": files[part] for part in concepts}
    (folder / "image_set").mkdir(parents=True)
    np.save(folder / "image_set" / "image_metadata.npy", np.array(metadata), allow_pickle=True)
    n_times, times = (
        (20, np.arange(-4, 16) / 100) if layout == "released" else (250, np.arange(-50, 250) / 250)
    )
    first: dict[str, np.ndarray] = {}
    for subject in subjects:
        place = folder / ("preprocessed_data" if layout == "released" else "Preprocessed_data_250Hz")
        place = place / f"sub-{subject}"
        place.mkdir(parents=True)
        for part, name, repeats in (("train", "training", 4), ("test", "test", 6)):
            data = rng.normal(size=(len(files[part]), repeats, len(CHANNELS), n_times))
            first.setdefault(part, data)
            content = {"preprocessed_eeg_data": data, "ch_names": CHANNELS, "times": times}
            path = place / f"preprocessed_eeg_{name}.npy"
            if layout == "released":
                np.save(path, np.array(content), allow_pickle=True)
            else:
                path.write_bytes(pickle.dumps(content, protocol=4))
    for part, name in (("train", "training_images"), ("test", "test_images")):
        for concept, file in zip(concepts[part], files[part], strict=True):
            if images:
                (folder / "image_set" / name / concept).mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "image_set" / name / concept / file)
    return first

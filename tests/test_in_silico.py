"""Predicted responses to a folder of images: held to the ridge they come from, marked as predicted, usable as any study."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.spaces import ParcelSpace, SurfaceSpace, UnitSpace, VoxelSpace
from braindecode_suite.core.study import Cohort, Stimuli, Study
from braindecode_suite.datasets.image_files import ImageFiles, find_images
from braindecode_suite.datasets.in_silico import mark_space, predicted_study
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.encoders.ridge import RidgeConfig, RidgeEncoder
from braindecode_suite.learning.ridge import group_folds

ALPHA = 0.3


class QuadrantColours:
    """Mean red, green and blue of the quadrants of an image: four tokens of three numbers."""

    name, tokens, width, grid = "quadrant-colours", 4, 3, Grid(2, 2)

    def rows(self, stimuli: Stimuli, ids: Sequence[str]) -> np.ndarray:
        return self.embed_images(stimuli.images(list(ids)))

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        n, height, width, _ = images.shape
        quadrants = images.reshape(n, 2, height // 2, 2, width // 2, 3).mean(axis=(2, 4))
        return (quadrants.reshape(n, 4, 3) / 255).astype(np.float32)

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents:
        unique = list(dict.fromkeys(ids))
        return Latents(self.rows(stimuli, unique), np.array(unique, dtype=object), self.name, "true")


def write_images(folder: Path, names: Sequence[str], *, side: int = 8, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        tint = rng.integers(0, 256, 3)
        pixels = np.clip(rng.normal(tint, 30, (side, side, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Study:
    """Sixty images, seven voxels that see colours, one that is dead."""
    folder = write_images(tmp_path_factory.mktemp("seen"), [f"seen-{k:02d}" for k in range(60)])
    stimuli = ImageFiles(find_images(folder, folder, stems=True))
    rng = np.random.default_rng(1)
    colours = QuadrantColours().rows(stimuli, list(stimuli.ids)).mean(axis=1)
    responses = colours @ rng.standard_normal((3, 8)) + 0.05 * rng.standard_normal((60, 8))
    responses[:, 5] = 2.0
    trials = pd.DataFrame(
        {"stimulus_id": list(stimuli.ids), "session": 1, "run": 1, "repeat": 1, "onset": np.nan}
    )
    mask = np.zeros((3, 3, 2), bool)
    mask[:2, :2] = True
    rois = {"A": np.arange(8) < 3, "B": np.arange(8) >= 5, "none": np.zeros(8, bool)}
    return Study(
        dataset="lab",
        subject="07",
        responses=responses.astype(np.float32),
        trials=trials,
        stimuli=stimuli,
        space=VoxelSpace(mask, np.diag([2.0, 2, 2, 1]), rois, name="MNI152NLin2009cAsym:res-2"),
        unit="percent signal change",
    )


@pytest.fixture(scope="module")
def encoder(measured, tmp_path_factory) -> Any:
    cls = IMAGE_ENCODERS["pooled-ridge"]
    config = cls.preset("tiny").model_copy(update={"alphas": (ALPHA,)})
    model = cls(config, FitContext(work_dir=tmp_path_factory.mktemp("fit")))
    train, held = np.arange(50), np.arange(50, 60)
    return model.fit(Cohort.of(measured, train), Cohort.of(measured, held), [QuadrantColours()])


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_images(
        tmp_path / "new", [f"{kind}/{kind}-{k:02d}" for kind in ("day", "night") for k in range(15)], seed=7
    )


@pytest.mark.filterwarnings("ignore::braindecode_suite.learning.ridge_warnings.GridEdgeWarning")
def test_responses_are_those_of_ridge_by_scikit_learn(measured, encoder, folder):
    study = predicted_study(encoder, folder, measured, batch=7)
    seen = QuadrantColours().rows(measured.stimuli, list(measured.stimuli.ids))[:50].mean(axis=1)
    new = QuadrantColours().rows(study.stimuli, list(study.stimulus_ids)).mean(axis=1)
    scaler = StandardScaler().fit(seen)
    penalty = ALPHA * np.square(scaler.transform(seen)).sum() / 3
    by_hand = Ridge(alpha=penalty).fit(scaler.transform(seen), measured.read(slice(0, 50)))
    expected = by_hand.predict(scaler.transform(new))
    assert_allclose(study.read(slice(None)), expected, atol=2e-4)
    assert_allclose(study.read(slice(None))[:, 5], 2.0)  # a voxel that never varied is predicted by its mean


def test_rows_are_the_images_by_name_and_folders_are_categories(measured, encoder, folder):
    study = predicted_study(encoder, folder, measured)
    names = sorted(path.stem for path in folder.rglob("*.png"))
    assert sorted(study.stimulus_ids) == names
    assert study.trials["category"].tolist() == [name.split("-")[0] for name in study.stimulus_ids]
    first = study.stimuli.images([study.stimulus_ids[0]])[0]
    assert_array_equal(first, np.asarray(Image.open(next(folder.rglob(f"{study.stimulus_ids[0]}.png")))))
    flat = write_images(folder.parent / "flat", ["x", "y", "z"])
    assert "category" not in predicted_study(encoder, flat, measured).trials


def test_a_predicted_study_cannot_be_taken_for_a_measured_one(measured, encoder, folder, tmp_path):
    study = predicted_study(encoder, folder, measured)
    assert (study.dataset, study.subject) == ("in-silico", "07")
    assert study.unit == "percent signal change, predicted"
    assert study.noise is None
    assert set(study.trials["repeat"]) == {1}
    assert set(study.trials["origin"]) == {"predicted"}
    assert study.provenance["predicted by"] == "pooled-ridge"
    assert study.provenance["fitted to"] == "lab sub-07"
    assert "not measured" in study.provenance["warnings"][0]
    assert study.space.describe() != measured.space.describe()
    decoder = RidgeEncoder(RidgeConfig(), FitContext(work_dir=tmp_path))
    cohort = Cohort.of(measured, np.arange(60))
    decoder.fit(cohort, Cohort.of(measured, np.empty(0, int)), {"image": QuadrantColours()}).save(
        tmp_path / "model"
    )
    with pytest.raises(InputError, match="in-silico"):
        RidgeEncoder.load(tmp_path / "model", Cohort.of(study))


def test_results_go_back_to_the_same_voxels(measured, encoder, folder):
    study = predicted_study(encoder, folder, measured)
    assert study.space.template == measured.space.template
    values = study.read(slice(None)).mean(axis=0)
    assert_allclose(
        nib.Nifti1Image.get_fdata(study.space.inverse_transform(values)),
        measured.space.inverse_transform(values).get_fdata(),
    )


def test_regions_can_be_kept_alone(measured, encoder, folder):
    whole, part = (
        predicted_study(encoder, folder, measured),
        predicted_study(encoder, folder, measured, rois=("B", "A")),
    )
    keep = [0, 1, 2, 5, 6, 7]
    assert_array_equal(part.read(slice(None)), whole.read(slice(None))[:, keep])
    assert_array_equal(part.space.rois["A"], np.arange(6) < 3)
    values = np.arange(6.0)
    full = np.zeros(8)
    full[keep] = values
    assert_array_equal(
        part.space.inverse_transform(values).get_fdata(), measured.space.inverse_transform(full).get_fdata()
    )
    with pytest.raises(InputError, match="one of A, B, none; found 'V1'"):
        predicted_study(encoder, folder, measured, rois=("V1",))
    with pytest.raises(InputError, match="expected regions with units; found none in none"):
        predicted_study(encoder, folder, measured, rois=("none",))


def test_units_without_a_model_are_not_valid_and_counted(measured, encoder, folder):
    class Silent:
        name = "silent"

        def predict(self, images: np.ndarray, subject: str | None = None) -> np.ndarray:
            found = np.ones((len(images), 8), np.float32)
            found[:, 2] = np.nan
            return found

    study = predicted_study(Silent(), folder, measured)
    assert study.valid.tolist() == [True, True, False, True, True, True, True, True]
    assert_array_equal(study.read(slice(None))[:, 2], 0)
    assert "1 units without a model are 0 and not valid." in study.provenance["warnings"]


def test_categories_are_decoded_from_predictions_as_from_any_study(measured, encoder, tmp_path):
    """A ridge decoder of the colours, fitted on some predicted rows, finds those of the others."""
    folder = write_images(tmp_path / "many", [f"im-{k:02d}" for k in range(60)], seed=9)
    study = predicted_study(encoder, folder, measured)
    fold = group_folds(study.stimulus_ids, 3)
    decoder = RidgeEncoder(RidgeConfig(), FitContext(work_dir=tmp_path))
    train, test = np.flatnonzero(fold > 0), np.flatnonzero(fold == 0)
    decoder.fit(Cohort.of(study, train), Cohort.of(study, test[:1]), {"image": QuadrantColours()})
    found = decoder.predict(Cohort.of(study, test))["image"]
    true = QuadrantColours().embed(study.stimuli, list(study.stimulus_ids[test]))
    assert np.corrcoef(found.flat.ravel(), true.flat.ravel())[0, 1] > 0.9


def test_bad_folders_and_encoders_are_refused(measured, encoder, folder, tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a folder of images; found nothing there"):
        predicted_study(encoder, tmp_path / "nowhere", measured)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected images \(\.png, .*\); found none"):
        predicted_study(encoder, tmp_path / "empty", measured)
    other = write_images(tmp_path / "sizes", ["a"], side=8)
    write_images(other, ["b"], side=16)
    with pytest.raises(InputError, match=r"expected 8 x 8 pixels, as a\.png; found 16 x 16"):
        predicted_study(encoder, other, measured)
    assert len(predicted_study(encoder, other, measured, image_side=8).trials) == 2
    broken = shutil.copytree(folder, tmp_path / "broken")
    path = next(broken.rglob("*.png"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=f"{path.name}: expected a whole image"):
        predicted_study(encoder, broken, measured)
    smaller = Study(
        **{**vars(measured), "space": UnitSpace(5), "responses": np.asarray(measured.responses)[:, :5]}
    )
    with pytest.raises(InputError, match=r"`encoder`: expected shape \(images=30, units=5\)"):
        predicted_study(encoder, folder, smaller)
    somebody = Study(**{**vars(measured), "subject": "08"})
    with pytest.raises(InputError, match="'08'"):
        predicted_study(encoder, folder, somebody)


def test_spaces_of_every_kind_are_marked_or_cut():
    keep = np.array([True, False, True, True])
    cut = mark_space(UnitSpace(4, {"A": np.array([True, True, False, False])}), keep)
    assert (cut.n_units, cut.rois["A"].tolist()) == (3, [True, False, False])
    assert cut.describe()["name"] == "predicted voxel"
    left, right = np.zeros((2, 642), bool)
    left[:2] = right[:2] = True
    surface = mark_space(SurfaceSpace(left, right, mesh="fsaverage3"), keep)
    assert (int(surface.left.sum()), int(surface.right.sum())) == (1, 2)
    parcels = ParcelSpace("five", ("a", "b", "c", "d"), 0.8)
    assert mark_space(parcels).describe() != parcels.describe()
    with pytest.raises(InputError, match="to keep some of"):
        mark_space(parcels, keep)


def test_the_example_of_the_guide_runs(tmp_path):
    guide = (Path(__file__).parents[1] / "docs" / "encoding.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    (example,) = [block for block in blocks if "predicted_study" in block]
    setting = "\n".join(blocks[0].splitlines()).replace("attention-routing", "pooled-ridge")
    setting = setting[: setting.index("images = ")]
    write_images(
        tmp_path / "photos",
        [f"{kind}/{kind}-{k}" for kind in ("indoor", "outdoor") for k in range(3)],
        side=64,
    )
    code = f"{setting}\n{example}\nassert predicted.dataset == 'in-silico' and len(predicted.trials) == 6\nassert len(profile) == 2"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]

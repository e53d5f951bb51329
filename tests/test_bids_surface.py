"""bids-fmri on the surface: known amplitudes back from GIFTI and CIFTI, the derivative and back, regions, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import MESH_VERTICES, SurfaceSpace
from braindecode_suite.datasets.bids_fmri import BIDS_FMRI
from braindecode_suite.datasets.bids_surface import read_gifti_size
from tests.surface_files import (
    CORTEX,
    FSLR_32K,
    SIDES,
    T_R,
    TRIALS,
    VOLUMES,
    derived,
    series_of,
    write_cifti,
    write_gifti,
    write_raw,
    write_region,
    write_sidecar,
    write_surface_study,
)

EXACT = {"confounds": (), "estimator": "lsa"}
FEW = {"L": np.array([0, 7, 10_241]), "R": np.array([5, 6])}
NAMES = [f"picture{k % 4}" for k in range(TRIALS)]
SMALL = 642


def few_amplitudes(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Amplitudes at a few vertices of each side, 0 elsewhere."""
    rng = np.random.default_rng(seed)
    found = {}
    for side, vertices in FEW.items():
        found[side] = np.zeros((TRIALS, size))
        found[side][:, np.minimum(vertices, size - 1)] = rng.standard_normal((TRIALS, len(vertices)))
    return found


def in_percent(amplitudes: np.ndarray) -> np.ndarray:
    """Return amplitudes over the vertex's own mean, which the signal itself moves a little."""
    return amplitudes * 500 / series_of(amplitudes).mean(axis=0)


@pytest.fixture
def small(tmp_path) -> Path:
    return write_surface_study(
        tmp_path / "study",
        [few_amplitudes(SMALL, k) for k in range(3)],
        [NAMES] * 3,
        space="fsaverage3",
        noise=0.2,
    )


@pytest.mark.parametrize(
    "order", ["hemi-{side}_space-{space}_bold", "space-{space}_hemi-{side}_bold", "space-{space}_hemi-{side}"]
)
def test_known_amplitudes_come_back_from_a_pair_of_gifti_files(tmp_path, order):
    size = MESH_VERTICES["fsaverage5"]
    amplitudes = few_amplitudes(size)
    root = write_surface_study(tmp_path / "study", [amplitudes], [NAMES], name="{stem}_" + order)
    study = BIDS_FMRI.open(root, "01", tmp_path / "work", **EXACT)
    assert isinstance(study.space, SurfaceSpace)
    assert (study.space.mesh, study.n_units) == ("fsaverage5", 2 * size)
    betas = study.read(slice(None))
    expected = np.hstack([in_percent(amplitudes[side]) for side in SIDES])
    assert_allclose(betas, expected, atol=2e-3)
    assert np.abs(expected).max() > 1
    assert list(study.trials["stimulus_id"]) == NAMES
    back = study.space.inverse_transform(betas[2])
    assert back["left"].darrays[0].data[7] == pytest.approx(amplitudes["L"][2, 7], abs=0.05)
    assert back["right"].darrays[0].data[5] == pytest.approx(amplitudes["R"][2, 5], abs=0.05)


def test_one_array_of_vertices_by_volumes_is_read_the_same(small, tmp_path):
    plain = BIDS_FMRI.open(small, "01", tmp_path / "a").read(slice(None))
    for path in derived(small).glob("*.func.gii"):
        image = nib.load(path)
        values = np.stack([array.data for array in image.darrays], axis=1)
        one = nib.gifti.GiftiDataArray(
            values, intent="NIFTI_INTENT_TIME_SERIES", datatype="NIFTI_TYPE_FLOAT32"
        )
        nib.gifti.GiftiImage(darrays=[one]).to_filename(path)
        assert read_gifti_size(path) == (VOLUMES, SMALL)
    assert_array_equal(BIDS_FMRI.open(small, "01", tmp_path / "b").read(slice(None)), plain)


def write_both(root: Path, n_voxels: int = 7) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write one run as CIFTI and as GIFTI on the 32k mesh: the same cortex, with a medial wall that CIFTI leaves out."""
    rng = np.random.default_rng(3)
    stem = "sub-01_task-look_run-1"
    write_raw(root, stem, NAMES)
    parts = {}
    for side, n in (("L", 40), ("R", 30)):
        vertices = np.sort(rng.choice(FSLR_32K, n, replace=False))
        amplitudes = rng.standard_normal((TRIALS, n))
        parts[side] = (vertices, amplitudes)
        full = np.full((VOLUMES, FSLR_32K), np.nan, np.float32)
        full[:, vertices] = series_of(amplitudes)
        write_gifti(derived(root) / f"{stem}_hemi-{side}_space-fsLR_den-32k_bold.func.gii", full, side)
    series = {side: (vertices, series_of(amplitudes)) for side, (vertices, amplitudes) in parts.items()}
    write_cifti(derived(root) / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii", series, n_voxels)
    write_sidecar(root, f"{stem}_space-fsLR_den-91k_bold")
    write_sidecar(root, f"{stem}_hemi-L_space-fsLR_den-32k_bold")
    return parts


def test_the_cortex_of_a_cifti_file_is_that_of_the_gifti_files(tmp_path):
    root = tmp_path / "study"
    parts = write_both(root)
    with pytest.raises(
        InputError, match="option space: expected one of fsLR:den-32k, fsLR:den-91k; found none named"
    ):
        BIDS_FMRI.open(root, "01", tmp_path / "work")
    flat = BIDS_FMRI.open(root, "01", tmp_path / "work", space="fsLR:den-91k", prepare=True, **EXACT)
    assert isinstance(flat.space, SurfaceSpace)
    assert flat.space.mesh == "fsLR-32k"
    assert_array_equal(np.flatnonzero(flat.space.left), parts["L"][0])
    assert_array_equal(np.flatnonzero(flat.space.right), parts["R"][0])
    expected = np.hstack([in_percent(parts[side][1]) for side in SIDES])
    assert_allclose(flat.read(slice(None)), expected, atol=2e-3)
    assert any(
        "7 subcortical voxels of the CIFTI file are left out, its 70 cortical vertices are read" in text
        for text in flat.provenance["warnings"]
    )
    assert flat.valid.all()
    pair = BIDS_FMRI.open(root, "01", tmp_path / "work", space="fsLR:den-32k", prepare=True, **EXACT)
    inside = np.concatenate([flat.space.left, flat.space.right])
    assert_allclose(pair.read(slice(None))[:, inside], flat.read(slice(None)), atol=1e-6)
    assert_array_equal(pair.valid, inside)
    assert not pair.read(slice(None))[:, ~inside].any()
    assert (
        f"{2 * FSLR_32K - 70} of {2 * FSLR_32K} vertices are constant in some run"
        in pair.provenance["warnings"]
    )


def test_the_derivative_is_gifti_and_reads_back_as_the_same_study(small, tmp_path):
    study = BIDS_FMRI.open(small, "01", tmp_path / "work", prepare=True, hrf="library")
    root = Path(study.provenance["derivative"])
    start, end = "sub-01_task-look", "space-fsaverage3"
    assert sorted(path.name for path in (root / "sub-01/func").iterdir()) == sorted(
        [
            f"{start}_{end}_desc-singletrial_betas.h5",
            f"{start}_{end}_desc-singletrial_betas.json",
            f"{start}_{end}_desc-singletrial_events.tsv",
            *(f"{start}_hemi-{side}_{end}_desc-brain_mask.shape.gii" for side in SIDES),
            *(f"{start}_hemi-{side}_{end}_stat-ncsnr_statmap.shape.gii" for side in SIDES),
        ]
    )
    left = nib.load(root / f"sub-01/func/{start}_hemi-L_{end}_stat-ncsnr_statmap.shape.gii")
    assert_array_equal(left.darrays[0].data, study.noise.ncsnr[:SMALL])
    again = BIDS_FMRI.open(root, "01", tmp_path / "unused")
    pd.testing.assert_frame_equal(again.trials, study.trials)
    assert again.space.describe() == study.space.describe()
    assert_array_equal(again.noise.ncsnr, study.noise.ncsnr)
    assert_array_equal(again.valid, study.valid)
    assert_array_equal(again.read([9, 2]), study.read([9, 2]))
    assert {line.status for line in BIDS_FMRI.check(root)} == {"ok"}
    assert {line.status for line in BIDS_FMRI.check(small)} == {"ok"}


def test_betas_of_a_cifti_file_read_back_on_their_mesh(tmp_path):
    write_both(tmp_path / "study")
    study = BIDS_FMRI.open(
        tmp_path / "study", "01", tmp_path / "work", space="fsLR:den-91k", prepare=True, **EXACT
    )
    again = BIDS_FMRI.open(Path(study.provenance["derivative"]), "01", tmp_path / "unused")
    assert again.space.describe() == study.space.describe()
    assert_array_equal(again.read(slice(None)), study.read(slice(None)))


def test_opening_reads_no_series(small, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("BOLD was read")

    monkeypatch.setattr(nib.gifti.GiftiImage, "from_filename", refuse)
    study = BIDS_FMRI.open(small, "01", tmp_path)
    assert study.responses.shape == (3 * TRIALS, 2 * SMALL)
    with pytest.raises(AssertionError, match="BOLD was read"):
        study.read([0])


def test_masks_and_regions_are_a_file_a_hemisphere(small, tmp_path):
    inside, spot = {}, {}
    for side, other in zip(SIDES, ("lh", "rh"), strict=True):
        inside[side] = np.arange(SMALL) < (20 if side == "L" else 11)
        spot[side] = np.arange(SMALL) % 5 == 2
        write_region(tmp_path / f"cortex.{side}.shape.gii", inside[side])
        nib.save(
            nib.MGHImage(spot[side].astype(np.float32).reshape(SMALL, 1, 1), np.eye(4)),
            tmp_path / f"{other}.spot.mgz",
        )
        vertices = "".join(f"{v} 0.0 0.0 0.0 1.0\n" for v in np.flatnonzero(spot[side]))
        (tmp_path / f"{other}.spot.label").write_text(f"#! label\n{spot[side].sum()}\n{vertices}")
    options = {
        "mask": str(tmp_path / "cortex.{hemi}.shape.gii"),
        "rois": {"spot": str(tmp_path / "{hemi}.spot.mgz"), "again": str(tmp_path / "{hemi}.spot.label")},
    }
    study = BIDS_FMRI.open(small, "01", tmp_path / "a", **options)
    assert study.n_units == 31
    assert_array_equal(study.space.rois["spot"], np.r_[spot["L"][:20], spot["R"][:11]])
    assert_array_equal(study.space.rois["again"], study.space.rois["spot"])
    whole = BIDS_FMRI.open(small, "01", tmp_path / "b")
    kept = np.r_[inside["L"], inside["R"]]
    assert_array_equal(study.read([3]), whole.read([3])[:, kept])
    with pytest.raises(InputError, match=r"expected a mask for each hemisphere, with \{hemi\} in its name"):
        BIDS_FMRI.open(small, "01", tmp_path / "c", mask=str(tmp_path / "cortex.L.shape.gii"))
    write_region(tmp_path / "cortex.R.shape.gii", np.ones(12))
    with pytest.raises(
        InputError, match=r"cortex.R.shape.gii: expected a mask of 642 vertices, as the BOLD; found 12"
    ):
        BIDS_FMRI.open(small, "01", tmp_path / "c", mask=options["mask"])
    with pytest.raises(InputError, match=r"L.gone.gii: expected the region 'x'; found nothing there"):
        BIDS_FMRI.open(small, "01", tmp_path / "c", rois={"x": str(tmp_path / "{hemi}.gone.gii")})


def test_a_volume_is_taken_where_no_space_is_named_and_a_surface_by_its_name(tmp_path):
    from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study

    root = tmp_path / "study"
    write_bold_study(root, BoldParameters(shape=(4, 4, 3), images=8, repeats=1, sessions=(), runs=1))
    volume = BIDS_FMRI.open(root, "01", tmp_path / "work")
    (bold,) = root.glob("derivatives/fmriprep/sub-01/func/*_bold.nii.gz")
    n_volumes = nib.load(bold).shape[3]
    stem = bold.name.split("_space-")[0]
    for side in SIDES:
        values = np.random.default_rng(0).normal(1000, 5, (n_volumes, SMALL)).astype(np.float32)
        write_gifti(bold.with_name(f"{stem}_hemi-{side}_space-fsaverage3_bold.func.gii"), values, side)
    assert BIDS_FMRI.open(root, "01", tmp_path / "work").space.describe() == volume.space.describe()
    surface = BIDS_FMRI.open(root, "01", tmp_path / "work", space="fsaverage3")
    assert surface.n_units == 2 * SMALL
    # the repetition time and the start time of the volumes that the surface was sampled from
    assert surface.read([0]).shape == (1, 2 * SMALL)
    assert json.loads(surface.responses.files.sidecar.read_text())["RepetitionTime"] == [1.5]
    with pytest.raises(
        InputError, match="`space`: expected one of MNI152NLin2009cAsym, fsaverage3; found 'fsaverage5'"
    ):
        BIDS_FMRI.open(root, "01", tmp_path / "work", space="fsaverage5")


def gifti(study: Path, side: str, run: int = 1) -> Path:
    return derived(study) / f"sub-01_task-look_run-{run}_hemi-{side}_space-fsaverage3_bold.func.gii"


def no_right(study: Path) -> None:
    gifti(study, "R").unlink()


def no_left(study: Path) -> None:
    gifti(study, "L", 2).unlink()


def shorter_right(study: Path) -> None:
    write_gifti(gifti(study, "R"), np.ones((VOLUMES - 2, SMALL), np.float32), "R")


def other_density(study: Path) -> None:
    for side in SIDES:
        write_gifti(gifti(study, side, 2), np.ones((VOLUMES, 162), np.float32), side)


def late_event(study: Path) -> None:
    path = study / "sub-01/func/sub-01_task-look_run-1_events.tsv"
    path.write_text(path.read_text() + "999\t1\tpicture9\n")


def no_sidecar(study: Path) -> None:
    for path in derived(study).glob("*_bold.json"):
        path.unlink()


def not_gifti(study: Path) -> None:
    gifti(study, "L").write_text("<GIFTI Version='1.0'>")


def no_xml(study: Path) -> None:
    gifti(study, "L").write_bytes(bytes(300))


AT_OPENING = [
    (
        no_right,
        r"run-1_hemi-R_space-fsaverage3_bold.func.gii: expected a file of the run; found nothing there",
    ),
    (
        no_left,
        r"run-2_hemi-L_space-fsaverage3_bold.func.gii: expected a file of the run; found nothing there",
    ),
    (shorter_right, r"run-1_hemi-R.*: expected 56 volumes, as sub-01_task-look_run-1_hemi-L.*; found 54"),
    (other_density, r"run-2_hemi-L.*: expected 642 vertices, as fsaverage3 has; found 162"),
    (
        late_event,
        r"events.tsv: expected events within the run of 112 s; found 1 that begin later, the first at 999 s",
    ),
    (
        no_sidecar,
        r"hemi-L_space-fsaverage3_bold.json: expected a sidecar that states the RepetitionTime; found none",
    ),
    (not_gifti, r"run-1_hemi-L.*: expected BOLD as GIFTI; found no DataArray in it"),
    (no_xml, r"run-1_hemi-L.*: expected BOLD as GIFTI; found"),
]


@pytest.mark.parametrize(
    ("damage", "message"), AT_OPENING, ids=lambda value: getattr(value, "__name__", None)
)
def test_opening_refuses_in_one_line(small, tmp_path, damage, message):
    damage(small)
    with pytest.raises(InputError, match=message) as refused:
        BIDS_FMRI.open(small, "01", tmp_path / "work")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "work").exists()
    assert {"bad", "missing"} & {line.status for line in BIDS_FMRI.check(small)}


def truncated(study: Path) -> None:
    content = gifti(study, "R", 3).read_bytes()
    gifti(study, "R", 3).write_bytes(content[: len(content) // 2])


def partly_nan(study: Path) -> None:
    values = series_of(np.zeros((TRIALS, SMALL)))
    values[7, 20] = np.nan
    write_gifti(gifti(study, "L"), values, "L")


def a_volume_short(study: Path) -> None:
    image: Any = nib.load(gifti(study, "L"))
    text = gifti(study, "L").read_text()
    image.darrays.pop()
    image.to_filename(gifti(study, "L"))
    changed = gifti(study, "L").read_text().replace('NumberOfDataArrays="55"', 'NumberOfDataArrays="56"')
    assert changed != text
    gifti(study, "L").write_text(changed)


def short_confounds(study: Path) -> None:
    path = derived(study) / "sub-01_task-look_run-1_desc-confounds_timeseries.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))


AT_ESTIMATION = [
    (truncated, r"run-3_hemi-R.*: expected 56 whole volumes; found"),
    (partly_nan, r"run-1_hemi-L.*: expected finite BOLD .*; found 1 NaN .* the first in vertex 20, volume 8"),
    (a_volume_short, r"run-1_hemi-L.*: expected 56 (whole )?volumes"),
    (
        short_confounds,
        r"run-1_desc-confounds_timeseries.tsv: expected 56 rows, one a volume of .*hemi-L.*; found 53",
    ),
]


@pytest.mark.parametrize(
    ("damage", "message"), AT_ESTIMATION, ids=lambda value: getattr(value, "__name__", None)
)
def test_estimating_refuses_in_one_line_and_leaves_no_betas(small, tmp_path, damage, message):
    damage(small)
    with pytest.raises(InputError, match=message) as refused:
        BIDS_FMRI.open(small, "01", tmp_path / "work", prepare=True)
    assert "\n" not in str(refused.value)
    left = {path.name for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert left <= {"dataset_description.json"}
    if damage in (truncated, short_confounds):
        assert "bad" in {line.status for line in BIDS_FMRI.check(small)}


def cifti_of(root: Path) -> Path:
    return derived(root) / "sub-01_task-look_run-1_space-fsLR_den-91k_bold.dtseries.nii"


def other_time(path: Path, parts) -> None:
    write_cifti(path, parts, t_r=1.5)


def left_only(path: Path, parts) -> None:
    write_cifti(path, {"L": parts["L"]}, 3)


def wrong_mesh(path: Path, parts) -> None:
    write_cifti(path, {side: (v % 1000, s) for side, (v, s) in parts.items()}, size=59_292)


def parcellated(path: Path, parts) -> None:
    vertices = {CORTEX[side]: parts[side][0] for side in SIDES}
    axis = nib.cifti2.ParcelsAxis(
        ["a"], [np.zeros((0, 3), int)], [vertices], nvertices=dict.fromkeys(CORTEX.values(), FSLR_32K)
    )
    time = nib.cifti2.SeriesAxis(0, T_R, VOLUMES)
    nib.save(nib.Cifti2Image(np.ones((VOLUMES, 1), np.float32), (time, axis)), path)


def a_nifti(path: Path, parts) -> None:
    nib.save(nib.Nifti2Image(np.ones((2, 2, 2, 5), np.float32), np.eye(4)), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_time, "expected a repetition time of 2 s, as in .*_bold.json; found 1.5 s in the header"),
        (left_only, "expected both cortices; found CIFTI_STRUCTURE_CORTEX_LEFT"),
        (wrong_mesh, "expected 32492 vertices of the left cortex, as fsLR-32k has; found 59292"),
        (parcellated, "expected a dense series: time by brain models; found SeriesAxis by ParcelsAxis"),
        (a_nifti, "expected BOLD as CIFTI"),
    ],
)
def test_cifti_files_that_do_not_fit_are_refused(tmp_path, damage, message):
    root = tmp_path / "study"
    parts = {side: (v, series_of(a)) for side, (v, a) in write_both(root).items()}
    damage(cifti_of(root), parts)
    with pytest.raises(InputError, match=rf"space-fsLR_den-91k_bold.dtseries.nii: {message}"):
        BIDS_FMRI.open(root, "01", tmp_path / "work", space="fsLR:den-91k")
    assert "bad" in {line.status for line in BIDS_FMRI.check(root)}


def test_a_cifti_file_that_ends_early_is_refused(tmp_path):
    root = tmp_path / "study"
    write_both(root)
    content = cifti_of(root).read_bytes()
    cifti_of(root).write_bytes(content[:-5000])
    study = BIDS_FMRI.open(root, "01", tmp_path / "work", space="fsLR:den-91k", **EXACT)
    with pytest.raises(InputError, match=r"dtseries.nii: expected 56 whole volumes; found"):
        study.read([0])
    assert "bad" in {line.status for line in BIDS_FMRI.check(root)}


def test_glmsingle_is_refused_on_the_surface(small, tmp_path):
    home = small / "derivatives/glmsingle/sub-01"
    home.mkdir(parents=True)
    (home / "TYPEB_FITHRF.hdf5").write_bytes(b"")
    with pytest.raises(
        InputError, match="option estimator: expected lss or lsa on the surface; found glmsing"
    ):
        BIDS_FMRI.open(small, "01", tmp_path, estimator="glmsingle")


def test_a_surface_study_goes_through_to_a_report_with_its_maps_on_the_cortex(tmp_path):
    """Two categories told apart by a patch of the left occipital pole."""
    size = MESH_VERTICES["fsaverage5"]
    mesh = nib.load(fsaverage5("pial_left")).darrays[0].data
    near = np.argsort(mesh[:, 1])[:60]  # the most posterior vertices
    rng = np.random.default_rng(0)
    patterns = {"face": rng.standard_normal(60), "house": rng.standard_normal(60)}
    runs, stimuli, categories = [], [], []
    for run in range(4):
        order = rng.permutation(["face", "house"] * (TRIALS // 2))
        left = np.zeros((TRIALS, size))
        left[:, near] = np.stack([patterns[name] for name in order])
        runs.append({"L": left, "R": np.zeros((TRIALS, size))})
        stimuli.append([f"{name}-{run}-{k}" for k, name in enumerate(order)])
        categories.append(list(order))
    root = write_surface_study(tmp_path / "study", runs, stimuli, categories=categories, noise=1.0)
    patch = {"L": np.argsort(mesh[:, 1])[:300], "R": np.arange(100)}
    for side, vertices in patch.items():
        write_region(tmp_path / f"patch.{side}.shape.gii", np.isin(np.arange(size), vertices))
    out = tmp_path / "out"
    words = [
        "run",
        str(root),
        str(out),
        "participant",
        "--device",
        "cpu",
        "--set",
        "classifier=ridge",
        "--set",
        "beside=[]",
    ]
    options = f"dataset_options={{mask: '{tmp_path}/patch.{{hemi}}.shape.gii', estimator: lsa}}"
    assert main([*words, "--set", options, "--set", "n_bootstrap=200"]) == 0
    base = out / "sub-01/decoding/sub-01_desc-classicaldecoding"
    scores = pd.read_csv(f"{base}_scores.tsv", sep="\t")
    assert scores["value"].iloc[0] > 0.8
    left = nib.load(f"{base}_hemi-L_stat-pattern_statmap.shape.gii")
    values = np.stack([array.data for array in left.darrays])
    assert np.isfinite(values).all(axis=0).sum() == 300
    size_of = np.abs(values).mean(axis=0)
    assert size_of[near].mean() > 2 * size_of[np.setdiff1d(patch["L"], near)].mean()
    told = json.loads(Path(f"{base}_hemi-L_stat-pattern_statmap.json").read_text())
    assert told["Template"] == "fsaverage5"
    report = (out / "sub-01.html").read_text()
    assert "On the inflated cortex of fsaverage5; 400 vertices have a value" in report
    assert (
        "Lateral, medial and ventral views of both hemispheres: Activation patterns of face and house"
        in report
    )


def fsaverage5(name: str) -> str:
    from nilearn.datasets import fetch_surf_fsaverage

    return str(fetch_surf_fsaverage("fsaverage5")[name])

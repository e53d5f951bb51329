"""Maps in the report: which vertex and voxel shows which value, where they are drawn, and what is said where they are not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import MESH_VERTICES, ParcelSpace, SurfaceSpace, UnitSpace, VoxelSpace
from braindecode_suite.report.brain import brain_views, no_brain, view
from braindecode_suite.report.results import read_results
from braindecode_suite.report.slices import slice_figure
from braindecode_suite.report.stat_maps import Scale, read_volume
from braindecode_suite.report.subject import write_subject_report
from braindecode_suite.report.surfaces import meshes, on_shown_mesh, render, sampled
from braindecode_suite.workflows.brain_maps import BrainMap, write_maps
from braindecode_suite.workflows.results import SubjectResults, stage

GREY = Scale(low=0.0, high=1.0, palette="viridis", label="x")
OCCIPITAL = np.array(
    [[-2.0, 0, 0, 60], [0, 2, 0, -104], [0, 0, 2, -20], [0, 0, 0, 1]]
)  # stored from right to left


def results_of(folder: Path, space: Any, maps: dict[str, Any], **facts: Any):
    stage(SubjectResults(space=space, maps=maps, facts=facts), folder, "01", "test")
    return read_results(folder, "01", "test")


def occipital_space(name: str = "MNI152NLin2009cAsym:res-2") -> VoxelSpace:
    """A box around the occipital poles of MNI space, two planes of it left out."""
    mask = np.zeros((60, 30, 24), bool)
    mask[1:-1] = True
    return VoxelSpace(mask, OCCIPITAL, name=name)


def side_of(space: VoxelSpace) -> np.ndarray:
    """Return 1 for voxels of the left half of the brain, 2 for those of the right."""
    x = (np.argwhere(space.mask) @ space.affine[:3, :3].T + space.affine[:3, 3])[:, 0]
    return np.where(x < 0, 1.0, 2.0).astype(np.float32)


def test_a_volume_in_mni_space_is_sampled_on_the_right_side_and_outside_it_nothing():
    space = occipital_space()
    values = side_of(space)
    volume = type("V", (), {"values": space.unmask(values, np.nan)[None], "affine": space.affine})
    for side, value in (("left", 1.0), ("right", 2.0)):
        found = sampled(volume, side)[0]
        known = np.isfinite(found)
        y = nib.load(meshes()[f"pial_{side}"]).darrays[0].data[:, 1]
        assert 0.05 < known.mean() < 0.6
        assert y[known].max() < -35
        x = nib.load(meshes()[f"pial_{side}"]).darrays[0].data[:, 0]
        assert_allclose(found[known & (np.abs(x) > 6)], value)


def test_the_edge_of_a_mask_is_no_dip_to_zero():
    space = occipital_space()
    volume = type(
        "V", (), {"values": space.unmask(np.full(space.n_units, 5.0), np.nan)[None], "affine": space.affine}
    )
    found = sampled(volume, "left")[0]
    assert_allclose(found[np.isfinite(found)], 5.0, rtol=1e-5)


def test_finer_meshes_show_their_first_vertices_and_coarser_ones_the_nearest():
    fine = np.arange(163_842.0)[None]
    assert_array_equal(on_shown_mesh(fine, "fsaverage", "left"), np.arange(10_242.0)[None])
    sphere = nib.load(meshes()["sphere_right"]).darrays[0].data
    coarse = on_shown_mesh(np.arange(642.0)[None], "fsaverage3", "right")[0].astype(int)
    assert_array_equal(coarse[:642], np.arange(642))
    distance = np.linalg.norm(sphere - sphere[coarse], axis=1)
    assert distance.max() < 0.1 * 100  # of a sphere of radius 100, whose 642 vertices lie some 14 apart
    # nested: the first vertices of the packaged mesh alone cover the sphere evenly
    for n in (162, 642, 2562):
        gaps = np.sort(np.linalg.norm(sphere[:n, None] - sphere[None, : min(n, 162)], axis=2), axis=0)[1]
        assert gaps.max() < 1.3 * gaps.min()


def test_a_coloured_vertex_is_seen_where_it_lies():
    values = np.full(10_242, np.nan)
    y = nib.load(meshes()["infl_left"]).darrays[0].data[:, 1]
    values[y < np.quantile(y, 0.1)] = 1.0  # the occipital end
    pixels = render(values, "left", "lateral", GREY)
    yellow = (pixels[..., 0] > 200) & (pixels[..., 2] < 100) & (pixels[..., 3] > 0)
    places = np.flatnonzero(yellow.any(0)) / pixels.shape[1]
    assert places.min() > 0.75  # a left hemisphere from its side looks to the left
    assert 0.01 < yellow.mean() < 0.2
    assert not ((render(np.full(10_242, np.nan), "left", "medial", GREY)[..., 2] < 100) & yellow[0, 0]).any()


def test_values_beyond_the_threshold_are_not_coloured():
    values = np.array([0.001, 0.04, 0.2, np.nan])
    p = Scale(low=0, high=0.05, palette="viridis_r", label="p", threshold=0.05, hides="above")
    assert_array_equal(p.visible(values), [True, True, False, False])
    t = Scale(low=-5, high=5, palette="RdBu_r", label="t", threshold=2.0)
    assert_array_equal(t.visible(np.array([-3.0, 1.0, 2.5, np.nan])), [True, False, True, False])


def test_slices_lie_in_millimetres_with_left_on_the_left(tmp_path):
    space = occipital_space("own")
    space.inverse_transform(side_of(space)).to_filename(tmp_path / "map.nii.gz")
    space.inverse_transform(np.ones(space.n_units)).to_filename(tmp_path / "mask.nii.gz")
    volume = read_volume(tmp_path / "map.nii.gz", tmp_path / "mask.nii.gz")
    assert volume.affine[0, 0] > 0
    figure, n = slice_figure(volume, Scale(low=1, high=2, palette="viridis", label="side"))
    axis = figure.axes[0]
    drawn = np.ma.filled(axis.images[1].get_array(), np.nan)
    assert (drawn[:, 0] == 1).all()  # left of the picture
    assert (drawn[:, -1] == 2).all()
    assert (n, axis.get_title(loc="left")) == (12, "z = \u221220 mm")
    assert [bar.get_ylabel() for bar in figure.axes[-1:]] == ["side"]


def test_a_map_in_mni_space_is_on_slices_and_on_the_cortex(tmp_path):
    space = occipital_space()
    maps = {
        "side": BrainMap(
            values=side_of(space), title="Side", units="side", description="Which side.", low=0.0
        )
    }
    results = results_of(tmp_path, space, maps)
    (shown,) = brain_views(results)
    assert shown.reason == ""
    slices, surface = shown.figures
    assert "on the MNI152NLin2009cAsym template" in slices.caption
    assert slices.caption.startswith("Which side. On axial slices; the left of a slice is the subject's left")
    assert "Side, from 1 to 2 side." in slices.alt
    assert "MNI152 and fsaverage agree only roughly" in surface.caption
    assert surface.svg.count("data:image/png;base64") >= 6


def test_a_volume_of_the_subjects_own_space_says_why_there_is_no_surface(tmp_path):
    space = VoxelSpace(np.ones((4, 4, 4), bool), np.diag([2.0, 2, 2, 1]), name="func1pt8mm")
    (shown,) = brain_views(results_of(tmp_path, space, {"x": np.arange(64.0)}))
    assert len(shown.figures) == 1
    assert "the volume lies in the subject's own space (func1pt8mm)" in shown.reason


def test_vertices_of_the_challenge_are_drawn_on_fsaverage5_and_counted(tmp_path):
    left, right = np.zeros(163_842, bool), np.zeros(163_842, bool)
    left[:9000:3], right[100:400] = True, True
    space = SurfaceSpace(left, right)
    values = np.linspace(0.1, 0.9, space.n_units)
    (shown,) = brain_views(
        results_of(tmp_path, space, {"score": BrainMap(values=values, title="Score", units="r")})
    )
    (figure,) = shown.figures
    assert "whose vertices are every 16th of fsaverage's; 3\u202f300 vertices have a value" in figure.caption
    base = tmp_path / "sub-01/decoding/sub-01_desc-test_hemi-"
    assert json.loads(Path(f"{base}R_stat-score_statmap.json").read_text())["Units"] == "r"
    Path(f"{base}R_stat-score_statmap.shape.gii").unlink()
    (shown,) = brain_views(read_results(tmp_path, "01", "test"))
    assert (shown.figures, shown.reason) == ([], "Not shown: one hemisphere's file is missing.")


def test_a_mesh_that_nilearn_does_not_hold_is_written_and_said(tmp_path):
    member = np.zeros(MESH_VERTICES["fsLR-32k"], bool)
    member[5:9] = True
    (shown,) = brain_views(
        results_of(tmp_path, SurfaceSpace(member, member, mesh="fsLR-32k"), {"x": np.ones(8)})
    )
    assert shown.figures == []
    assert "how fsLR-32k lies on it needs files of others" in shown.reason
    assert (tmp_path / "sub-01/decoding/sub-01_desc-test_hemi-L_stat-x_statmap.shape.gii").is_file()


def test_parcels_are_drawn_where_their_image_is_known_and_tabled_otherwise(tmp_path):
    space = occipital_space()
    volume = np.where(space.mask, 1 + (np.arange(60)[:, None, None] > 29), 0)
    maps = {"x": BrainMap(values=np.array([[1.0, 2], [3, 4]]), title="Two", units="u", labels=("a", "b"))}
    known = ParcelSpace(
        "two", ("right", "left"), 1.0, volume=volume, affine=OCCIPITAL, template="MNI152NLin6Asym"
    )
    (shown,) = brain_views(results_of(tmp_path / "known", known, maps))
    assert [len(re.findall(r"<image", str(figure.svg))) > 1 for figure in shown.figures] == [True, True]
    assert "Two of a and b, from 1 to 4 u" in shown.figures[0].alt
    unknown = ParcelSpace("two", ("right", "left"), 1.0)
    results = results_of(tmp_path / "unknown", unknown, maps)
    assert brain_views(results) == []
    assert no_brain(results) == (
        "Two: made, but not shown: the image of the atlas is not known: values stand in a table, a parcel a row."
    )
    table = pd.read_csv(tmp_path / "unknown/sub-01/decoding/sub-01_desc-test_stat-x_parcels.tsv", sep="\t")
    assert table.to_dict("list") == {"parcel": ["right", "left"], "a": [1.0, 2.0], "b": [3.0, 4.0]}


def test_units_without_a_place_say_so(tmp_path):
    results = results_of(tmp_path, UnitSpace(3), {"x": np.ones(3)})
    assert no_brain(results) == "x: made, but not shown: the dataset does not record where its units lie."
    assert "On the brain" in write_subject_report(tmp_path, "01", "test").read_text()


def test_a_threshold_that_nothing_passes_is_said(tmp_path):
    space = VoxelSpace(np.ones((3, 3, 2), bool), np.eye(4), name="own")
    one = BrainMap(
        values=np.full(18, 0.4),
        title="P",
        units="p",
        low=0.0,
        threshold=0.05,
        hides="above",
        threshold_note="At most 0.05.",
    )
    (figure,) = brain_views(results_of(tmp_path, space, {"p": one}))[0].figures
    assert "At most 0.05. 0 of 18 units are coloured." in figure.caption
    assert "no value is beyond the threshold" in figure.alt


def test_the_whole_report_stays_one_small_file_with_every_map(tmp_path, monkeypatch):
    monkeypatch.setattr("braindecode_suite.report.stat_maps.MOST_LABELS", 2)
    space = occipital_space()
    values = side_of(space)
    maps: dict[str, Any] = {"ncsnr": values, "searchlight": values}
    maps["pattern"] = BrainMap(
        values=np.stack([values * k for k in range(-1, 2)]),
        title="Patterns",
        units="z",
        labels=tuple("abc"),
        diverging=True,
    )
    results_of(tmp_path, space, maps)
    text = write_subject_report(tmp_path, "01", "test").read_text()
    assert len(text.encode()) < 5_000_000
    assert "The first 2 of 3 maps; all are in the file." in text
    for name in ("ncsnr-slices", "ncsnr-surface", "searchlight-slices", "pattern-slices", "pattern-surface"):
        assert f'id="{name}-0"' in text
    assert text.index("ncsnr-surface-0") < text.index('id="brain"') < text.index("pattern-surface-0")
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text.split("<main")[1].split('id="methods"')[0])


def test_damaged_maps_and_wrong_names_are_refused(tmp_path):
    space = VoxelSpace(np.ones((3, 3, 2), bool), np.eye(4), name="own")
    results = results_of(tmp_path, space, {"x": np.ones(18)})
    (one,) = results.maps.values()
    assert one.volume is not None
    one.volume.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"stat-x_statmap.nii.gz: expected a map as NIfTI"):
        view(results, one)
    with pytest.raises(
        InputError, match="`maps`: expected BIDS labels, letters and digits only; found 'a-b'"
    ):
        write_maps(space, {"a-b": np.ones(18)}, lambda suffix: tmp_path / suffix)
    with pytest.raises(InputError, match=r"`maps\['x'\]`: expected shape \(maps, units=18\)"):
        write_maps(space, {"x": np.ones(17)}, lambda suffix: tmp_path / suffix)


def test_names_of_classes_are_shown_as_they_are(tmp_path):
    space = VoxelSpace(np.ones((3, 3, 2), bool), np.eye(4), name="own")
    hostile = ("a$b", "c$d<script>")
    maps = {
        "x": BrainMap(values=np.arange(36.0).reshape(2, 18), title="<b>T</b>", units="$u", labels=hostile)
    }
    results_of(tmp_path, space, maps)
    text = write_subject_report(tmp_path, "01", "test").read_text()
    assert "<script>" not in text
    assert "&lt;b&gt;T&lt;/b&gt; of a$b and c$d&lt;script&gt;" in text

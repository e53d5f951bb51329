"""kriegeskorte92 as it is, representational similarity from the command line, both levels, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.io import loadmat
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import read_scores
from braindecode_suite.datasets.kriegeskorte92 import IMAGES, KRIEGESKORTE92, RDMS, read_rdms
from braindecode_suite.encoders.targets import make_features
from braindecode_suite.metrics.rsa import rsa, rsa_noise_ceiling
from tests.category_files import INITIALS, write_kriegeskorte92

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "kriegeskorte92"
needs_real = pytest.mark.skipif(not (REAL / RDMS).is_file(), reason=f"{REAL / RDMS} is not here")


def triangle(rdm: np.ndarray) -> np.ndarray:
    return np.asarray(rdm[np.triu_indices(len(rdm), k=1)])


# ---------------------------------------------------------------------------------------------------------- the dataset


@needs_real
def test_the_real_files_are_four_people_in_two_sessions(tmp_path):
    assert KRIEGESKORTE92.subjects(REAL) == ["BE", "KO", "SN", "TI"]
    study = KRIEGESKORTE92.open(REAL, "SN", tmp_path)
    assert study.read(slice(None)).shape == (184, 92)
    assert study.trials["session"].value_counts().to_dict() == {1: 92, 2: 92}
    assert study.stimuli.images(["01", "92"]).shape == (2, 175, 175, 3)
    assert study.stimuli.attributes["animal"].sum() == 48
    assert {line.status for line in KRIEGESKORTE92.check(REAL)} == {"ok"}


@needs_real
def test_images_and_matrices_of_the_real_files_are_in_one_order():
    """The file of the images holds the published mean matrix of human cortex: that of the eight matrices."""
    published = loadmat(str(REAL / IMAGES))["RDMs_mIT_hIT_fig1"]["RDM"][0, 1].ravel()
    mean = np.mean(list(read_rdms(REAL / RDMS).values()), axis=0)
    assert spearmanr(triangle(mean), published)[0] > 0.999
    study = KRIEGESKORTE92.open(REAL, "BE", REAL)
    faces = np.flatnonzero(study.stimuli.attributes["face"])
    others = np.flatnonzero(~study.stimuli.attributes["face"])
    assert (
        mean[np.ix_(faces, faces)].sum() / (len(faces) * (len(faces) - 1))
        < 0.9 * mean[np.ix_(faces, others)].mean()
    )


def test_rows_are_the_matrix_of_each_session_in_the_order_of_images(tmp_path):
    write_kriegeskorte92(tmp_path)
    study = KRIEGESKORTE92.open(tmp_path, "KO", tmp_path)
    rdms = read_rdms(tmp_path / RDMS)
    assert_allclose(study.read(slice(40, 80)), rdms["KO", 2], rtol=1e-6)
    assert list(study.stimulus_ids[:2]) == ["01", "02"]
    assert study.trials["repeat"].tolist() == [1] * 40 + [2] * 40
    assert study.unit == "1 - r of response patterns"


def broken(kind: str) -> np.ndarray:
    rdm = squareform(pdist(np.random.default_rng(0).standard_normal((40, 3))))
    if kind == "asymmetric":
        rdm[0, 1] = 9
    elif kind == "nan":
        rdm[0, 1] = rdm[1, 0] = np.nan
    elif kind == "diagonal":
        rdm[3, 3] = 1
    elif kind == "oblong":
        rdm = rdm[:, :39]
    elif kind == "fewer":
        rdm = rdm[:39, :39]
    return rdm


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("asymmetric", "0 on its diagonal as 'hIT . BE . Session: 2'; found another"),
        ("nan", "found 2 NaN or infinite values"),
        ("diagonal", "found another"),
        ("oblong", r"found shape \(40, 39\)"),
        ("fewer", r"expected matrices of the 40 images; found \(39, 39\)"),
    ],
)
def test_a_matrix_that_is_none_is_refused(kind, message, tmp_path):
    write_kriegeskorte92(tmp_path, rdms={"hIT | BE | Session: 2": broken(kind)})
    with pytest.raises(InputError, match=message):
        KRIEGESKORTE92.open(tmp_path, "BE", tmp_path)
    assert "bad" in {line.status for line in KRIEGESKORTE92.check(tmp_path)}


def test_missing_and_foreign_files_are_named(tmp_path):
    write_kriegeskorte92(tmp_path)
    with pytest.raises(InputError, match="one of BE, KO, SN; found 'ZZ'"):
        KRIEGESKORTE92.open(tmp_path, "ZZ", tmp_path)
    whole = (tmp_path / RDMS).read_bytes()
    (tmp_path / RDMS).write_bytes((tmp_path / IMAGES).read_bytes())
    with pytest.raises(InputError, match="expected a MATLAB file with RDMs of name and RDM"):
        KRIEGESKORTE92.open(tmp_path, "BE", tmp_path)
    (tmp_path / RDMS).write_bytes(whole)
    (tmp_path / IMAGES).unlink()
    with pytest.raises(InputError, match="expected the images of kriegeskorte92; found nothing there"):
        KRIEGESKORTE92.open(tmp_path, "BE", tmp_path)
    assert [line.status for line in KRIEGESKORTE92.check(tmp_path)] == ["missing"]


# ---------------------------------------------------------------------------------------------------------- the workflow

FAST = ["n_bootstrap=100", "beside=[]", "models=[tiny-clip:block-1]"]


def words(folder: Path, level: str, *settings: str) -> list[str]:
    start = ["run", "kriegeskorte92", str(folder / "out"), level]
    if level == "participant":
        start += ["--data-dir", str(folder / "data"), "--work-dir", str(folder / "work")]
    return [*start, *(word for setting in settings for word in ("--set", setting))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    (folder / "data").mkdir()
    write_kriegeskorte92(folder / "data")
    assert main(words(folder, "participant", *FAST)) == 0
    assert main(words(folder, "group")) == 0
    return folder


def scores_of(folder: Path, subject: str):
    return read_scores(
        folder / f"out/sub-{subject}/decoding/sub-{subject}_desc-representationalsimilarity_scores.tsv"
    )


def mean_rdms(folder: Path) -> np.ndarray:
    rdms = read_rdms(folder / "data" / RDMS)
    return np.stack([(rdms[name, 1] + rdms[name, 2]) / 2 for name in INITIALS])


def test_a_persons_scores_are_those_of_the_formula(finished, tmp_path):
    study = KRIEGESKORTE92.open(finished / "data", "KO", tmp_path)
    ids, measured = list(study.stimuli.ids), mean_rdms(finished)
    table = scores_of(finished, "KO")
    rows = table[(table["metric"] == "rsa") & (table["versus"] == "")].set_index("model")
    pixels = squareform(pdist(study.stimuli.images(ids).reshape(40, -1).astype(float), "correlation"))
    assert_allclose(
        rows.loc["pixels", "value"], spearmanr(triangle(pixels), triangle(measured[1]))[0], rtol=1e-4
    )
    features = make_features("tiny-clip:block-1", tmp_path).rows(study.stimuli, ids)[:].astype(float)
    layer = squareform(pdist(features.reshape(40, -1), "correlation"))
    assert_allclose(
        rows.loc["tiny-clip:block-1", "value"],
        spearmanr(triangle(layer), triangle(measured[1]))[0],
        atol=2e-3,
    )
    lower, upper = rsa_noise_ceiling(measured)
    ceilings = table[table["metric"] == "rsa_noise_ceiling"].set_index("scorer")["value"]
    assert_allclose(
        [ceilings["spearman, lower"], ceilings["spearman, upper"]], [lower[1], upper[1]], rtol=1e-4
    )
    assert_allclose(rows["ceiling"], lower[1], rtol=1e-4)
    between = table[table["metric"] == "rsa_between_sessions"]["value"].item()
    sessions = read_rdms(finished / "data" / RDMS)
    assert_allclose(between, rsa(sessions["KO", 1], sessions["KO", 2]), rtol=1e-4)
    assert ((rows["ci_low"] < rows["value"]) & (rows["value"] < rows["ci_high"])).all()
    gap = table[(table["metric"] == "rsa") & (table["versus"] == "pixels")].iloc[0]
    assert_allclose(
        gap["value"], rows.loc["tiny-clip:block-1", "value"] - rows.loc["pixels", "value"], atol=2e-6
    )


def test_the_group_draws_images_and_subjects_and_keeps_every_subject(finished):
    table = read_scores(finished / "out" / "desc-representationalsimilarity_scores.tsv")
    group = table[(table["subject"] == "group") & (table["metric"] == "rsa") & (table["versus"] == "")]
    both = group[group["ci_over"] == "image and subject"].set_index("model")
    assert set(both.index) == {"tiny-clip:block-1", "pixels"}
    each = table[(table["subject"] != "group") & (table["metric"] == "rsa") & (table["versus"] == "")]
    for model, rows in each.groupby("model"):
        assert sorted(rows["subject"]) == list(INITIALS)
        assert_allclose(both.loc[model, "value"], rows["value"].mean(), rtol=1e-4)
    assert (both["p_value"] == 1 / 1001).all() or both["p_value"].max() < 0.05
    lower, upper = (part.mean() for part in rsa_noise_ceiling(mean_rdms(finished)))
    ends = table[
        (table["subject"] == "group") & (table["metric"] == "rsa_noise_ceiling") & table["ci_low"].notna()
    ]
    ends = ends[ends["ci_over"] == "image"].set_index("scorer")
    assert_allclose(ends["value"][["spearman, lower", "spearman, upper"]], [lower, upper], rtol=1e-4)
    assert_allclose(both["ceiling"], lower, rtol=1e-4)


def test_the_reports_show_models_between_ceilings(finished):
    page = (finished / "out" / "sub-KO.html").read_text(encoding="utf-8")
    for words_ in (
        "Models between noise ceilings",
        "The matrices",
        "noise ceiling, lower",
        "Nothing is fitted",
    ):
        assert words_ in page
    group = (finished / "out" / "group.html").read_text(encoding="utf-8")
    assert "Representational similarity, all subjects together" in group
    assert "95\u00a0% intervals over images and subjects" in group


def test_subjects_run_with_other_models_are_not_put_together(finished, tmp_path, capsys):
    out = shutil.copytree(finished / "out", tmp_path / "out")
    path = out / "sub-SN/decoding/sub-SN_desc-representationalsimilarity_similarity.npz"
    with np.load(path, allow_pickle=False) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    np.savez(path, **{**kept, "models": np.array(["clip", "pixels"])})
    assert main(["run", "kriegeskorte92", str(out), "group"]) == 2
    assert "expected the models of sub-BE; found others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["models=[tiny-clop]"], "tiny-clip"),
        (["models=[]"], "models"),
        (["method=pearson"], "method"),
        (["n_permutations=10"], "n_permutations"),
    ],
)
def test_wrong_settings_are_one_line(settings, message, finished, tmp_path, capsys):
    line = [
        "run",
        "kriegeskorte92",
        str(tmp_path / "out"),
        "participant",
        "--data-dir",
        str(finished / "data"),
    ]
    line += ["--participant-label", "BE", "--work-dir", str(tmp_path / "work")]
    assert main([*line, *(word for setting in settings for word in ("--set", setting))]) == 2
    assert message in capsys.readouterr().err


def test_a_study_of_responses_is_refused(simulated_folder, tmp_path, capsys):
    line = ["run", "nsd", str(tmp_path / "out"), "participant", "--participant-label", "01"]
    assert (
        main([*line, "--data-dir", str(simulated_folder), "--workflow", "representational-similarity"]) == 2
    )
    assert "expected a study that holds dissimilarities between images" in capsys.readouterr().err

"""bonner81 as it is, its protocols, the workflow `encode-vectors` on vectors with a known answer, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.score import read_scores
from braindecode_suite.core.study import DescribedStimuli
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.datasets.bonner81 import BONNER81, FILE
from braindecode_suite.learning.leave_one_out import leave_one_out_hat
from braindecode_suite.metrics.encoding import encoding_r, encoding_r2_split, resampled_r2_split
from braindecode_suite.metrics.identification import two_way_identification
from braindecode_suite.workflows.encode_vectors import draw_orders
from braindecode_suite.workflows.encode_vectors_fitting import out_of_fold, out_of_fold_relabelled, scale_by
from tests.category_files import REGIONS, bonner81_arrays, write_bonner81

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "bonner81"
needs_real = pytest.mark.skipif(not (REAL / FILE).is_file(), reason=f"{REAL / FILE} is not here")
GIVEN = {"EVC": 0.53, "OPA": 0.51, "PPA": 0.62, "LOC": 0.67, "OFA": 0.57, "FFA": 0.26}
"""What plain AlexNet ridge has given, leaving one category out, responses centred once."""
GIVEN_IDENTIFICATION = 0.858
PENALTY = 1e-3
pytestmark = pytest.mark.filterwarnings(
    "ignore::braindecode_suite.learning.ridge_warnings.GridEdgeWarning"  # little noise wants hardly a penalty
)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return write_bonner81(tmp_path / "data")


# ---------------------------------------------------------------------------------------------------------- the dataset


@needs_real
def test_the_real_file_is_81_categories_in_seven_regions(tmp_path):
    study = BONNER81.open(REAL, "01", tmp_path)
    sizes = {name: int(member.sum()) for name, member in study.space.rois.items()}
    assert sizes == {"EVC": 100, "OPA": 100, "PPA": 100, "LOC": 96, "PFS": 100, "OFA": 100, "FFA": 100}
    assert isinstance(study.stimuli, DescribedStimuli)
    assert {name: rows.shape for name, rows in study.stimuli.vectors.items()} == {
        "alexnet": (81, 20),
        "word2vec": (81, 30),
    }
    assert study.stimulus_ids[:2].tolist() == ["airplane", "armchair"]
    with np.load(REAL / FILE, allow_pickle=False) as stored:
        assert_array_equal(study.read(np.array([5, 0])), stored["betas"][[5, 0]])
    assert "mean 0 over all categories" in study.provenance["normalised"]
    (line,) = BONNER81.check(REAL)
    assert (line.status, line.found[:35]) == ("ok", "81 categories, 696 voxels (EVC 100,")


def test_images_are_refused_in_one_line(folder, tmp_path, capsys):
    study = BONNER81.open(folder, "01", tmp_path)
    with pytest.raises(
        InputError, match=r"expected stimuli with images.*found vectors alone: alexnet, word2vec"
    ):
        study.stimuli.images(["thing-00"])
    words = ["run", "bonner81", str(tmp_path / "out"), "participant", "--data-dir", str(folder)]
    assert main([*words, "--workflow", "mindeye", "--set", "preset=tiny"]) == 2
    assert "expected" in capsys.readouterr().err


def without(column: int) -> np.ndarray:
    return np.delete(bonner81_arrays()["betas"], column, axis=1)


def changed(name: str, at: tuple[int, ...], value: object) -> dict[str, np.ndarray]:
    array = bonner81_arrays()[name].copy()
    array[at] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alexnet": None}, "expected an array 'alexnet'; found none of that name"),
        ({"betas": without(0)}, r"betas of shape \(categories=45, voxels=24\); found \(45, 23\)"),
        ({"word2vec": np.zeros((44, 5))}, r"word2vec of shape \(categories=45, features\); found \(44, 5\)"),
        (changed("betas", (3, 4), np.nan), r"betas: expected finite values; found 1 NaN .* at \(3, 4\)"),
        (changed("alexnet", (0, 0), np.inf), "alexnet: expected finite values"),
        (changed("roi_index", (2,), 9), "expected region numbers from 1 to 3; found 9"),
        (changed("roi_index", (2,), 0), "expected region numbers from 1 to 3; found 0"),
        (changed("categories", (4,), "thing-00"), "expected each category once; found 'thing-00' again"),
        ({"betas": np.full((45, 24), "a")}, "expected numbers in 'betas'; found <U1"),
        ({"categories": np.array([{}] * 45, dtype=object)}, "expected a whole .npz of plain arrays"),
    ],
)
def test_a_file_of_other_contents_is_refused(changes, message, tmp_path):
    write_bonner81(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        BONNER81.open(tmp_path, "01", tmp_path)
    assert BONNER81.check(tmp_path)[0].status == "bad"


def test_bds_check_tells_that_the_release_was_centred(folder, capsys):
    assert main(["check", "bonner81", "--data-dir", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "normalised: every voxel has mean 0 over all categories" in shown
    assert "9 splits, each with train 35 rows" in shown
    assert "45 splits, each with" in shown
    assert "responses are centred once over all categories" in shown


# --------------------------------------------------------------------------------------------------------- the protocols


def test_nine_folds_test_every_category_once(folder, tmp_path):
    study = BONNER81.open(folder, "01", tmp_path)
    splits = PROTOCOLS["9-fold-by-category"]([study], seed=3)
    assert len(splits) == 9
    assert_array_equal(np.sort(np.concatenate([split.test[0] for split in splits])), np.arange(45))
    assert all(len(split.test[0]) == 5 for split in splits)
    for split, after in zip(splits, splits[1:] + splits[:1], strict=True):
        assert_array_equal(split.validation[0], after.test[0])
    other = PROTOCOLS["9-fold-by-category"]([study], seed=4)
    assert [split.hash for split in other] != [split.hash for split in splits]


def test_too_few_categories_for_nine_folds_are_refused(tmp_path):
    arrays = bonner81_arrays(n=45)
    few = {name: arrays[name][:8] for name in ("betas", "categories", "alexnet", "word2vec")}
    write_bonner81(tmp_path, **few)
    study = BONNER81.open(tmp_path, "01", tmp_path)
    with pytest.raises(InputError, match="at least 9 categories; found 8"):
        PROTOCOLS["9-fold-by-category"]([study])


# --------------------------------------------------------------------------------------------------------- leave-one-out


@pytest.mark.parametrize("intercept", [True, False])
def test_left_out_predictions_are_those_of_a_fit_without_the_row(intercept):
    rng = np.random.default_rng(5)
    X, Y = rng.standard_normal((20, 4)) + 3, rng.standard_normal((20, 6))
    centred = X - X.mean(axis=0)
    penalty = 0.2 * np.square(centred).sum() / 4
    found = leave_one_out_hat(X, alpha=0.2, intercept=intercept) @ Y
    for k in range(20):
        rest = np.arange(20) != k
        model = Ridge(alpha=penalty, fit_intercept=intercept).fit(centred[rest], Y[rest])
        assert_allclose(found[k], model.predict(centred[[k]])[0])


def test_a_bad_penalty_is_refused():
    with pytest.raises(InputError, match="a positive penalty; found 5, 0"):
        leave_one_out_hat(np.eye(5), alpha=0, intercept=True)


def test_an_intercept_of_each_fold_drives_r_far_below_zero_under_the_null():
    """The figures of docs/numbers.md: nothing can be predicted, and a strong penalty leaves the mean of the others."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((81, 20)), rng.standard_normal((81, 400))
    weak, strong = 1e-3, 100.0
    null = {
        (intercept, alpha): encoding_r(
            Y, leave_one_out_hat(X, alpha=alpha, intercept=intercept) @ (Y - Y.mean(axis=0))
        ).mean()
        for intercept in (False, True)
        for alpha in (weak, strong)
    }
    assert null[True, strong] < -0.8
    assert null[True, weak] < null[False, weak] - 0.015
    assert abs(null[False, strong]) < 0.06
    assert abs(null[False, weak]) < 0.06
    ceiling = leave_one_out_hat(X, alpha=1e9, intercept=True) @ Y
    assert_allclose(encoding_r(Y, ceiling), -1, atol=1e-6)


@needs_real
def test_the_null_of_the_guide_is_that_of_the_real_responses(tmp_path):
    """The table of docs/numbers.md, from fewer shuffles."""
    guide = (Path(__file__).parents[1] / "docs" / "numbers.md").read_text(encoding="utf-8")
    study = BONNER81.open(REAL, "01", tmp_path)
    X, Y = study.stimuli.vectors["alexnet"], study.read(slice(None)).astype(np.float64)
    Y -= Y.mean(axis=0)
    orders = draw_orders(81, 60, seed=1)
    for alpha in ("0.001", "1", "100"):
        found = []
        for intercept in (False, True):
            hat = leave_one_out_hat(X, alpha=float(alpha), intercept=intercept)
            found.append(np.mean([encoding_r(Y[order], hat @ Y[order]).mean() for order in orders]))
        (line,) = (row for row in guide.splitlines() if row.startswith(f"| penalty {alpha} |"))
        assert_allclose(found, [float(cell) for cell in line.split("|")[2:4]], atol=0.025)


@needs_real
def test_leave_one_out_gives_what_plain_ridge_has_given(tmp_path):
    study = BONNER81.open(REAL, "01", tmp_path)
    Y = study.read(slice(None)).astype(np.float64)
    Y -= Y.mean(axis=0)
    predicted = leave_one_out_hat(study.stimuli.vectors["alexnet"], alpha=PENALTY, intercept=False) @ Y
    r = encoding_r(Y, predicted)
    for name, given in GIVEN.items():
        assert abs(r[study.space.rois[name]].mean() - given) <= 0.02, name
    assert abs(two_way_identification(predicted, Y).mean() - GIVEN_IDENTIFICATION) <= 0.02
    more = leave_one_out_hat(study.stimuli.vectors["alexnet"], alpha=10 * PENALTY, intercept=False) @ Y
    change = [(encoding_r(Y, more) - r)[member].mean() for member in study.space.rois.values()]
    assert np.abs(change).max() <= 0.003


# -------------------------------------------------------------------------------------------------------------- the fits


def test_out_of_fold_predictions_know_nothing_of_their_own_category(folder, tmp_path):
    study = BONNER81.open(folder, "01", tmp_path)
    splits = PROTOCOLS["9-fold-by-category"]([study])
    settings = {"n_folds": 3, "n_gammas": 3, "seed": 0}
    vectors, Y = dict(study.stimuli.vectors), study.read(slice(None))
    before = out_of_fold(vectors, Y, splits, **settings)
    spoilt = Y.copy()
    spoilt[splits[0].test[0]] += 50
    after = out_of_fold(vectors, spoilt, splits, **settings)
    assert_array_equal(after.predicted[splits[0].test[0]], before.predicted[splits[0].test[0]])
    assert not np.allclose(after.predicted[splits[1].test[0]], before.predicted[splits[1].test[0]])
    parts = before.parts.sum(axis=0)[splits[0].test[0]]
    train = np.setdiff1d(np.arange(45), splits[0].test[0])
    assert_allclose(parts + Y[train].mean(axis=0), before.predicted[splits[0].test[0]], atol=1e-4)


def test_a_relabelling_is_the_fit_to_relabelled_responses(folder, tmp_path):
    study = BONNER81.open(folder, "01", tmp_path)
    splits = PROTOCOLS["9-fold-by-category"]([study])
    settings = {"n_folds": 3, "n_gammas": 3, "seed": 0}
    vectors, Y = dict(study.stimuli.vectors), study.read(slice(None))
    orders = np.stack([np.random.default_rng(k).permutation(45) for k in range(3)])
    together = out_of_fold_relabelled(vectors, Y, orders, splits, **settings)
    alone = out_of_fold(vectors, Y[orders[1]], splits, **settings)
    assert_allclose(together[1].predicted, alone.predicted, atol=1e-5)
    assert_allclose(together[1].parts, alone.parts, atol=1e-5)


def test_vectors_are_scaled_by_training_rows_alone():
    rows = np.random.default_rng(0).standard_normal((10, 3)) * [5, 1, 1] + 9
    train = np.arange(6)
    scaled = scale_by(rows, train)
    assert_allclose(scaled[train].mean(axis=0), 0, atol=1e-6)
    assert_allclose(np.square(scaled[train]).mean(), 1, rtol=1e-5)
    assert_allclose(
        scaled.std(axis=0)[0] / scaled.std(axis=0)[1], rows.std(axis=0)[0] / rows.std(axis=0)[1], rtol=1e-4
    )


def test_resampled_shares_are_the_shares_of_the_drawn_rows():
    rng = np.random.default_rng(2)
    truth, parts = rng.standard_normal((15, 4)), rng.standard_normal((2, 15, 4))
    truth[:, 3] = 1.0
    drawn = rng.integers(15, size=(3, 15))
    weights = np.stack([np.bincount(row, minlength=15) for row in drawn])
    found = resampled_r2_split(truth, parts, weights)
    for k, row in enumerate(drawn):
        assert_allclose(found[k], encoding_r2_split(truth[row], parts[:, row]))
    with pytest.raises(InputError, match=r"`weights`: expected shape \(resamples, images=15\)"):
        resampled_r2_split(truth, parts, weights[:, :3])


# ---------------------------------------------------------------------------------------------------------- the workflow

FAST = ["n_folds=3", "n_gammas=3", "n_bootstrap=200"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bonner")
    (folder / "data").mkdir()
    write_bonner81(folder / "data")
    words = ["run", "bonner81", str(folder / "out"), "participant", "--data-dir", str(folder / "data")]
    words += ["--work-dir", str(folder / "work"), *(word for setting in FAST for word in ("--set", setting))]
    assert main(words) == 0
    return folder


def rows_of(folder: Path, **wanted: object):
    table = read_scores(folder / "out/sub-01/decoding/sub-01_desc-encodevectors_scores.tsv")
    for column, value in {"versus": "", "split": "9-fold-by-category", **wanted}.items():
        table = table[table[column] == value]
    return table.set_index("roi")


def test_regions_are_predicted_by_the_vectors_that_made_them(finished):
    r = rows_of(finished, metric="encoding_r", model="banded-ridge")
    assert r.loc[["seen", "named"], "value"].min() > 0.4
    assert (r["p_value"] < 0.05).to_dict() == {"": True, "seen": True, "named": True, "deaf": False}
    assert ((r["ci_low"] < r["value"]) & (r["value"] < r["ci_high"])).all()
    assert (r["chance"] < 0).all()  # training-only centring
    assert set(r["p_correction"]) == {"uncorrected", "fdr-bh over rois"}
    for feature, region, other in (("alexnet", "seen", "named"), ("word2vec", "named", "seen")):
        alone = rows_of(finished, metric="encoding_r", model=f"ridge-{feature}")["value"]
        assert alone[region] > 0.4
        assert alone[other] < 0.2
        gap = rows_of(finished, metric="encoding_r", model="banded-ridge", versus=f"ridge-{feature}")
        assert gap.loc[other, "ci_low"] > 0
        assert gap.loc[other, "p_value"] < 0.05


def test_the_variance_split_names_the_right_vectors_and_adds_up(finished):
    rows = rows_of(finished, metric="encoding_r2")
    total = rows[rows["scorer"] == "mean over units"]["value"]
    parts = {name: rows[rows["scorer"].str.endswith(f"share of {name}")] for name in ("alexnet", "word2vec")}
    assert_allclose(sum(part["value"] for part in parts.values())[list(total.index)], total, atol=1e-5)
    assert parts["alexnet"].loc["seen", "ci_low"] > parts["word2vec"].loc["seen", "ci_high"]
    assert parts["word2vec"].loc["named", "ci_low"] > parts["alexnet"].loc["named", "ci_high"]
    for part in (*parts.values(), rows[rows["scorer"] == "mean over units"]):
        assert ((part["ci_low"] <= part["value"]) & (part["value"] <= part["ci_high"])).all()


def test_scores_can_be_computed_again_from_the_saved_predictions(finished):
    with np.load(finished / "out/sub-01/decoding/sub-01_desc-encodevectors_latents.npz") as saved:
        predicted, truth = saved["banded-ridge_predicted"], saved["truth"]
        loo = saved["ridge-alexnet_loo-centred_predicted"]
    r = rows_of(finished, metric="encoding_r", model="banded-ridge")["value"]
    assert_allclose(r["seen"], encoding_r(truth, predicted)[:8].mean(), rtol=1e-4)
    found = rows_of(finished, metric="pattern_identification", model="banded-ridge")["value"]
    assert_allclose(found[""], two_way_identification(predicted, truth).mean(), rtol=1e-4)
    beside = rows_of(finished, split="loo-centred", metric="encoding_r", model="ridge-alexnet")
    assert_allclose(beside.loc["seen", "value"], encoding_r(truth, loo)[:8].mean(), rtol=1e-4)
    assert abs(beside.loc["deaf", "chance"]) < 0.06  # centred once: chance is not driven below zero


def test_the_report_says_what_stands_beside_every_value(finished):
    page = (finished / "out" / "sub-01.html").read_text(encoding="utf-8")
    assert "Responses predicted from vectors" in page
    assert "banded ridge predicts responses to 45 held-out categories" in page.replace("Banded", "banded")
    assert "transductive: uses label-free statistics of the held-out block" in page
    assert "Which vectors explain what" in page
    for region in REGIONS:
        assert f">{region}<" in page
    assert "every voxel has mean 0 over all categories" in page
    assert "categorys" not in page


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rois=[V1]", "`rois`: expected one of deaf, named, seen; found 'V1'"),
        ("features=[clip]", "`features`: expected one of alexnet, word2vec; found 'clip'"),
        ("protocol=random-by-image", "expected splits by stimulus that test each row once"),
        ("n_refits=20", "n_refits"),
        ("leave_one_out_penalty=0", "leave_one_out_penalty"),
    ],
)
def test_wrong_settings_are_one_line(setting, message, folder, tmp_path, capsys):
    words = [
        "run",
        "bonner81",
        str(tmp_path / "out"),
        "participant",
        "--data-dir",
        str(folder),
        "--set",
        setting,
    ]
    assert main([*words, "--work-dir", str(tmp_path / "work")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "sub-01.html").exists()


def test_a_study_without_vectors_is_refused(simulated_folder, tmp_path, capsys):
    words = ["run", "nsd", str(tmp_path / "out"), "participant", "--participant-label", "01"]
    assert main([*words, "--data-dir", str(simulated_folder), "--workflow", "encode-vectors"]) == 2
    assert "expected stimuli that come with feature vectors; found images" in capsys.readouterr().err

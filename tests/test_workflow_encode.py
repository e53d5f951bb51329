"""The workflow `encode` on the smallest simulated study: attention routing, two of its rivals, their stack."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import bootstrap

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid
from braindecode_suite.core.minutes import restrict
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.score import IDENTITY, Score, read_scores
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Cohort
from braindecode_suite.datasets import DATASETS, PROTOCOLS
from braindecode_suite.datasets.simulate_scenes import Scene, SceneObject
from braindecode_suite.datasets.simulated_nsd import SIMULATED_NSD
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.encoders.targets import make_features
from braindecode_suite.learning.stacking import combine
from braindecode_suite.learning.synthetic import make_latents, make_study
from braindecode_suite.metrics.encoding import encoding_r, encoding_r2_nc
from braindecode_suite.report.subject import write_subject_report
from braindecode_suite.workflows.encode_fitting import features_of, halve_validation, measured
from braindecode_suite.workflows.encode_routing import (
    RELATIVE,
    Look,
    field_rows,
    map_rows,
    object_parts,
    routing_rows,
)
from braindecode_suite.workflows.encode_scoring import (
    BEST_RIVAL,
    CORRECTION,
    EncodingScores,
    Predictions,
    Settings,
    choose_best,
    corrected,
    find_sets,
)
from braindecode_suite.workflows.fitting import prepare
from tests.release_writers import write_algonauts

STEM = "sub-01/decoding/sub-01_desc-encode_"
RIVALS = ("cls-ridge", "pooled-ridge")
FAST = (
    "simulation={size: seconds, formats: [hdf5, nii.gz]}",
    "rivals=[cls-ridge, pooled-ridge]",
    "n_seeds=2",
    "n_bootstrap=200",
    "choosing_share=0.25",
    "n_examples=3",
    "settings.attention-routing={network: {width: 16, heads: 2, feed_forward: 16}, training: {epochs: 2, patience: 0}}",
)


def words(out: Path, data: Path, *more: str) -> list[str]:
    settings = [word for setting in FAST for word in ("--set", setting)]
    first = ["run", "simulated-nsd", str(out), "participant", "--participant-label", "01"]
    return [*first, "--data-dir", str(data), "--workflow", "encode", "--device", "cpu", *settings, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, simulated_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("encode") / "out"
    assert main(words(out, simulated_folder)) == 0
    return out


@pytest.fixture(scope="module")
def scores(finished: Path) -> pd.DataFrame:
    return read_scores(finished / f"{STEM}scores.tsv")


@pytest.fixture(scope="module")
def facts(finished: Path) -> dict:
    return json.loads((finished / f"{STEM}facts.json").read_text())


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / f"{STEM}latents.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_no_two_rows_are_the_same_score(scores: pd.DataFrame) -> None:
    assert not scores.duplicated(list(IDENTITY)).any()


def test_the_scores_follow_from_the_saved_predictions(
    finished: Path, scores: pd.DataFrame, facts: dict, simulated_folder: Path, tmp_path: Path
) -> None:
    kept, target = arrays(finished), facts["encoding"]["features"][0]
    study = SIMULATED_NSD.open(simulated_folder, "01", tmp_path)
    assert study.noise is not None
    ceiling = study.noise.ceiling(kept["repeats"])
    plain = scores[(scores["target"] == target) & (scores["versus"] == "") & scores["ci_low"].notna()]
    for model, seeds in (("attention-routing", (0, 1)), ("pooled-ridge", (0,)), ("stacked", (0, 1))):
        r = [encoding_r(kept["measured"], kept[f"{model}_seed-{seed}_predicted"]) for seed in seeds]
        for roi, member in (("", np.ones(300, bool)), ("PPA", study.space.rois["PPA"])):
            own = plain[(plain["model"] == model) & (plain["roi"] == roi)].set_index("scorer")["value"]
            normalised = [encoding_r2_nc(one[member], ceiling[member]) for one in r]
            expected = {
                "mean over units": np.mean([one[member].mean() for one in r]),
                "median over units": np.mean([np.median(one[member]) for one in r]),
                "clipped, mean over units": np.mean([n.clipped for n in normalised]),
                "unclipped, ratio of sums over units": np.mean([n.unclipped for n in normalised]),
            }
            for scorer, value in expected.items():
                assert own[scorer] == pytest.approx(value, rel=1e-4, abs=1e-6), (model, roi, scorer)


def test_the_best_rival_is_subtracted_with_an_interval_and_corrected_over_regions(
    scores: pd.DataFrame, facts: dict
) -> None:
    for target in facts["encoding"]["features"]:
        gaps = scores[(scores["scorer"] == f"mean over units, {BEST_RIVAL}") & (scores["target"] == target)]
        chosen = facts["encoding"]["chosen on validation images"]["best rival"][target]
        assert dict(zip(gaps["roi"], gaps["versus"], strict=True)) == chosen
        plain = scores[
            (scores["target"] == target) & (scores["scorer"] == "mean over units") & (scores["versus"] == "")
        ]
        value = plain[plain["ci_low"].notna()].set_index(["model", "roi"])["value"]
        for row in gaps.to_dict("records"):
            by_hand = value[row["model"], row["roi"]] - value[row["versus"], row["roi"]]
            assert row["value"] == pytest.approx(by_hand, abs=2e-6)
            assert row["ci_low"] < row["value"] < row["ci_high"]
            alone = row["roi"] in ("", "category regions", "early visual regions")
            assert row["p_correction"] == ("uncorrected" if alone else CORRECTION)


def test_gaps_by_number_of_objects_count_their_images(scores: pd.DataFrame) -> None:
    gaps = scores[scores["scorer"].str.startswith(f"mean over units, {BEST_RIVAL}, ") & (scores["roi"] == "")]
    n = gaps.assign(objects=gaps["scorer"].str.split(", ").str[-1]).groupby("objects")["n"].unique()
    assert n["1 object"][0] + n["2 or more objects"][0] == 40
    assert gaps["target"].nunique() == 3


def test_the_stack_is_a_convex_sum_of_the_models(finished: Path, scores: pd.DataFrame) -> None:
    kept = arrays(finished)
    weights = kept["stacked_seed-1_weights"]
    assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)
    assert weights.min() >= 0
    members = [
        kept["attention-routing_seed-1_predicted"],
        *(kept[f"{name}_seed-0_predicted"] for name in RIVALS),
    ]
    assert_allclose(kept["stacked_seed-1_predicted"], combine(weights, members), atol=1e-5)
    single = scores[scores["scorer"].str.endswith("best single model by validation")]
    assert set(single["model"]) == {"stacked"}
    assert single["p_correction"].isin([CORRECTION, "uncorrected"]).all()


def test_maps_models_and_a_report_are_there(finished: Path, facts: dict) -> None:
    for name in ("ncsnr", "attentionroutingR", "clsridgeR", "pooledridgeR", "stackedR"):
        assert name in facts["brain"]["maps"]
        assert (finished / f"{STEM}stat-{name}_statmap.nii.gz").is_file()
    models = finished / "models" / "sub-01_desc-encode"
    assert {"config.json", "README.md", "attention-routing_seed-1.safetensors"} <= {
        p.name for p in models.iterdir()
    }
    text = (finished / "sub-01.html").read_text()
    for part in (
        "table-encoding",
        "gaps-",
        "gap-by-objects-",
        "stack-",
        "routing-0-",
        "attentionroutingr-slices",
    ):
        assert f'id="{part}' in text, part
    assert "Attention routing predicts responses to 40 new images with a mean r of" in text
    write_subject_report(finished, "01", "encode")
    assert (finished / "sub-01.html").read_text() == text


def test_every_region_is_ablated_and_has_a_field_and_maps_by_head(
    finished: Path, scores: pd.DataFrame, facts: dict
) -> None:
    ablation = scores[scores["metric"].str.startswith("routing_ablation_")]
    regions = set(scores.loc[scores["metric"] == "routing_location_share", "roi"]) - {"rest"}
    for target in facts["encoding"]["routing"]["sources"]:
        own = ablation[ablation["target"] == target]
        assert set(own["roi"]) <= regions
        assert {"V1v", "FFA-1", "PPA"} <= set(own["roi"])
        change = own[own["metric"] == "routing_ablation_change"].pivot_table(
            index="roi", columns="scorer", values="value"
        )
        ratio = own[own["metric"] == "routing_ablation_ratio"].set_index("roi")
        assert (change["most attended tokens"] >= 0).all()
        assert (ratio["ci_low"] <= ratio["value"]).all()
        assert (ratio["value"] <= ratio["ci_high"]).all()
        assert set(own["n"]) == {40}
        assert set(own["seed"]) == {"0,1"}
    fields = scores[scores["metric"].str.startswith("routing_field_")]
    assert fields["value"].between(0, 1).all()
    assert set(fields["roi"]) == regions | {"rest"}
    kept = arrays(finished)
    assert kept["routing_0_heads"].shape[:3] == (3, 2, kept["routing_0"].shape[1])
    assert_allclose(kept["routing_0_heads"].sum(axis=(3, 4)), 1, atol=0.5)  # the rest is the class token's
    text = (finished / "sub-01.html").read_text()
    for part in ("routing-ablation-", "routing-fields-", "heads-0-", "table-ablation"):
        assert f'id="{part}' in text, part
    assert "They explain a prediction only where" in text


def test_the_summary_says_what_the_intervals_say_and_speaks_of_no_real_recordings(
    finished: Path, scores: pd.DataFrame
) -> None:
    text = (finished / "sub-01.html").read_text()
    shown = " ".join(html.unescape(re.sub("<[^>]+>", " ", text)).split())
    assert "The recordings are simulated" in shown
    assert "real recordings" not in shown.split("Data and split")[1].split("Responses to images")[0]
    assert "On scenes of 2 or more objects the gap in the category regions is" in shown
    stack = scores[scores["scorer"].str.endswith("best single model by validation")]
    stack = stack[~stack["roi"].isin(["", "category regions", "early visual regions"])]
    within = int((stack["ci_low"] >= -0.01).sum())
    assert f"at least −0.010 in {within} of {len(stack)} regions" in shown
    for heading in ("r², clipped", "p of r"):
        assert heading.split(",")[0] in shown
    assert 'id="table-encoding-tests' in text
    assert 'id="table-encoding-regions' in text


def test_the_cards_figures_are_recomputed_from_models_and_data(
    finished: Path, simulated_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished / "models" / "sub-01_desc-encode"
    assert main(["verify", str(folder), "--data-dir", str(simulated_folder)]) == 0
    figures = json.loads((folder / "config.json").read_text())["figures"]
    assert {(f["model"], f["seed"]) for f in figures} == {
        ("attention-routing", "0"),
        ("attention-routing", "1"),
        ("cls-ridge", ""),
        ("pooled-ridge", ""),
    }
    assert "4 of 4 figures verified" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert all(f"{figure['value']:.4f}" in card for figure in figures)


def test_a_surface_study_gives_a_file_a_hemisphere_and_a_drawing_of_the_cortex(tmp_path: Path) -> None:
    write_algonauts(tmp_path / "data", counts=(30, 26), n_train=60, n_test=12)
    out = tmp_path / "out"
    more = (
        "protocol=algonauts2023",
        "simulation={}",
        "zscore_by=null",
        'features=["tiny-clip:block-4:with-cls"]',
        "shuffled_train=false",
    )
    run = words(out, tmp_path / "data", *(word for setting in more for word in ("--set", setting)))
    run[1] = "algonauts2023"
    assert main(run) == 0
    for side in "LR":
        path = out / f"{STEM}hemi-{side}_stat-attentionroutingR_statmap.shape.gii"
        values = nib.gifti.GiftiImage.from_filename(path).darrays[0].data
        assert len(values) == 163842
        assert np.isfinite(values).sum() == (30 if side == "L" else 26)
    text = (out / "sub-01.html").read_text()
    assert 'id="attentionroutingr-surface' in text
    assert "No routing ratio" in text  # what lies where in a photograph is not known


def test_the_plan_names_every_step_and_computes_nothing(
    simulated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: dict
) -> None:
    out = tmp_path / "planned"
    assert main(words(out, simulated_folder, "--dry-run")) == 0
    printed = capsys.readouterr().out
    for step in facts["steps"]:
        assert step["name"] in printed, step["name"]
    assert not out.exists()


def test_finished_fits_are_read_back(
    finished: Path, scores: pd.DataFrame, simulated_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from braindecode_suite.encoders.attention_routing import AttentionRouting

    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(AttentionRouting, "fit", refuse)
    assert main(words(finished, simulated_folder)) == 0
    pd.testing.assert_frame_equal(read_scores(finished / f"{STEM}scores.tsv"), scores)


def test_the_curve_over_minutes_is_of_models_that_saw_no_more(
    finished: Path, scores: pd.DataFrame, simulated_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    assert main(words(out, simulated_folder, "--minutes", "60")) == 0
    table = read_scores(out / f"{STEM}scores.tsv")
    whole = table[table["minutes"].isna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, scores, check_dtype=False)

    rows = table[(table["minutes"] == 60) & (table["roi"] == "")]
    assert set(rows.loc[rows["versus"] == "", "model"]) == {"attention-routing", *RIVALS}
    assert set(rows.loc[rows["scorer"] == "mean over units", "versus"]) == {"", *RIVALS}
    row = rows[(rows["model"] == "cls-ridge") & (rows["versus"] == "")].iloc[0]

    study = DATASETS["simulated-nsd"].open(simulated_folder, "01", tmp_path / "work")
    (split,) = PROTOCOLS["nsd-shared1000"]([study])
    data = halve_validation(prepare(study, restrict(split, 60), "session"), 0.25, 0)
    names = ("tiny-clip:block-1:with-cls", "tiny-clip:block-4:with-cls")
    sources = [make_features(name, tmp_path / "cache") for name in names]
    model = IMAGE_ENCODERS["cls-ridge"](
        IMAGE_ENCODERS["cls-ridge"].preset("tiny"), FitContext(work_dir=tmp_path)
    )
    some = data.prepared.study
    train, validation = Cohort.of(some, data.prepared.split.train[0]), Cohort.of(some, data.stopping)
    model.fit(train, validation, sources)
    predicted = model.predict(features_of(data, sources, "test"))
    assert row["value"] == pytest.approx(
        np.nanmean(encoding_r(measured(data, "test")[0], predicted)), abs=1e-5
    )

    cards = [next((folder / "models").glob("*/config.json")) for folder in (out, finished)]
    figures, before = (json.loads(card.read_text())["figures"] for card in cards)
    assert figures == before  # models are saved of all data, and so are their figures
    minutes = json.loads((out / f"{STEM}facts.json").read_text())["minutes"]
    assert minutes["amounts"][0]["stimuli"] < minutes["all"]["stimuli"]
    assert "against minutes of training recording" in (out / "sub-01.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rivals=[pooled-rigde]", "did you mean 'pooled-ridge'"),
        ("rois=[V9]", "roi"),
        ("choosing_share=0.01", "at least 2 that stop models and as many that choose among them"),
        ("rivals=[attention-routing]", "other models than `encoder`"),
        ("settings.ridge.alpha=3", "must be of a model that is fitted"),
        ("rivals=[stacked]", "a stack of all models is made already"),
    ],
)
def test_a_users_mistake_is_one_line(
    setting: str, message: str, simulated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "out", simulated_folder, "--set", setting)) == 2
    errors = capsys.readouterr().err.strip()
    assert message in errors
    assert "Traceback" not in errors


# ----------------------------------------------------------------------------------------------------- the pieces


def predictions(name: str, *values: np.ndarray, choosing: np.ndarray | None = None) -> Predictions:
    seeds = tuple(str(k) for k in range(len(values)))
    held = (values[0] if choosing is None else choosing,) * len(values)
    return Predictions(model=name, target="x", seeds=seeds, test=values, choosing=held)


def scored(truth: np.ndarray, models: list[Predictions], **changed: Any) -> EncodingScores:
    settings = replace(Settings(subject="01", split="s", n_bootstrap=200), **changed)
    ceiling, repeats = np.full(truth.shape[1], 0.5), np.full(len(truth), 3)
    return EncodingScores(truth, repeats, ceiling, {"": np.ones(truth.shape[1], bool)}, models, settings)


def test_units_without_a_score_are_counted_by_their_reason() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.standard_normal((2, 30, 6)).astype(np.float32)
    truth[:, 0], truth[2, 1], predicted[:, 2] = 1.0, np.nan, np.nan
    found = scored(truth, [predictions("a", predicted)])
    assert found.facts == {
        "units": 6,
        "scored": 3,
        "not scored, missing responses": 1,
        "not scored, constant responses": 1,
        "not scored, not predicted": 1,
        "not scored, ceiling unknown": 0,
    }
    value = found.plain_rows(predictions("a", predicted))[0].value
    expected = np.mean([np.corrcoef(truth[:, u], predicted[:, u])[0, 1] for u in (3, 4, 5)])
    assert value == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match="responses to test images: expected units that vary; found none"):
        scored(np.ones((30, 6), np.float32), [predictions("a", predicted)])


def test_equal_models_do_not_differ_and_a_better_one_does() -> None:
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((60, 20)).astype(np.float32)
    good, alike = (truth + s * rng.standard_normal(truth.shape).astype(np.float32) for s in (1.0, 1.0))
    bad = truth + 4 * rng.standard_normal(truth.shape).astype(np.float32)
    models = [predictions("good", good), predictions("alike", alike), predictions("bad", bad)]
    rows = scored(truth, models, n_permutations=1000).paired_rows(
        models[0], models[1:], {"": "bad"}, BEST_RIVAL
    )
    best, same, better = rows
    assert best.scorer.endswith(BEST_RIVAL)
    assert best.value == better.value > 0.3
    assert better.ci_low is not None
    assert better.ci_low > 0.2
    assert better.p_value == pytest.approx(1 / 1001)
    assert same.ci_low is not None
    assert same.ci_high is not None
    assert same.ci_low < 0 < same.ci_high
    assert same.p_value is not None
    assert same.p_value > 0.05


def test_scores_without_some_images_are_those_of_the_others() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((60, 5))
    models = [predictions(name, truth + rng.standard_normal(truth.shape)) for name in ("a", "b")]
    out = np.arange(60) < 10
    rows = scored(truth, models).rows_without(out, models, {"": "b"}, BEST_RIVAL, "no-near-duplicates")
    plain = {row.model: row for row in rows if not row.versus and not row.roi}
    for model in models:
        row = plain[model.model]
        assert row.value == pytest.approx(encoding_r(truth[10:], model.test[0][10:]).mean())
        assert (row.n, row.candidates) == (50, "no-near-duplicates")
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.ci_low < row.value < row.ci_high
    (gap,) = (row for row in rows if row.versus and not row.roi)
    assert gap.value == pytest.approx(plain["a"].value - plain["b"].value)
    nobody = np.zeros(60, bool)
    assert (
        scored(truth, models).rows_without(nobody, models, {"": "b"}, BEST_RIVAL, "no-near-duplicates") == []
    )


def test_seeds_are_averaged_as_scores_not_as_predictions() -> None:
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((40, 5)).astype(np.float32)
    seeds = [truth + 2 * rng.standard_normal(truth.shape).astype(np.float32) for _ in range(3)]
    model = predictions("a", *seeds)
    row = scored(truth, [model]).plain_rows(model)[0]
    assert row.value == pytest.approx(np.mean([encoding_r(truth, s).mean() for s in seeds]), abs=1e-6)
    assert row.value < encoding_r(truth, np.mean(seeds, axis=0)).mean()
    assert row.seed == "0,1,2"


def test_the_choice_looks_at_validation_predictions_only() -> None:
    rng = np.random.default_rng(3)
    held, noise = rng.standard_normal((2, 30, 4)).astype(np.float32)
    by_test, by_validation = predictions("x", held, choosing=noise), predictions("y", noise, choosing=held)
    sets = scored(held, [by_test, by_validation]).sets
    assert choose_best([by_test, by_validation], held, sets) == {"": "y"}


def test_intervals_of_normalised_scores_are_the_bca_of_scipy() -> None:
    rng = np.random.default_rng(6)
    truth = rng.standard_normal((40, 3))
    predicted = 0.6 * truth + rng.standard_normal(truth.shape)
    model = predictions("a", predicted.astype(np.float32))
    rows = scored(truth.astype(np.float32), [model], n_bootstrap=6000).plain_rows(model)
    row = next(row for row in rows if row.scorer.startswith("unclipped"))

    def statistic(images: np.ndarray) -> float:
        r = encoding_r(truth[images.astype(int)], predicted[images.astype(int)])
        return float((np.sign(r) * r**2).sum() / (3 * 0.5))

    peer = bootstrap((np.arange(40),), statistic, vectorized=False, n_resamples=6000, rng=7)
    ends = peer.confidence_interval
    assert row.value == pytest.approx(statistic(np.arange(40)), abs=1e-6)
    assert (row.ci_low, row.ci_high) == pytest.approx((ends.low, ends.high), abs=0.02)
    assert (
        abs(np.quantile(peer.bootstrap_distribution, 0.025) - ends.low) > 0.02
    )  # a percentile interval is seen


def test_only_regions_are_corrected_for_their_number() -> None:
    rows = [
        Score(subject="01", metric="encoding_r", value=0, roi=roi, p_value=0.02)
        for roi in ("", "g", "a", "b")
    ]
    rows[3] = replace(rows[3], p_value=0.5)
    assert [row.p_value for row in corrected(rows, ("g",))] == [0.02, 0.02, 0.04, 0.5]


def test_sets_are_all_units_regions_and_groups() -> None:
    study = make_study(make_latents(5, 1, 3), n_units=4)
    rois = {"a": np.array([1, 0, 0, 0], bool), "b": np.array([0, 1, 0, 0], bool), "all": np.ones(4, bool)}
    study = replace(study, space=UnitSpace(4, {**rois, "none": np.zeros(4, bool)}))
    sets = find_sets(study, 8, (), {"both": ("a", "b", "absent"), "empty": ("absent",)})
    assert list(sets) == ["", "a", "b", "both"]
    assert sets["both"].tolist() == [True] * 4 + [False] * 4  # two times a unit
    with pytest.raises(InputError, match="`groups`: expected names that no region has; found 'a'"):
        find_sets(study, 4, (), {"a": ("b",)})


def test_maps_that_follow_the_face_are_found_in_scenes_with_a_face_and_another_object() -> None:
    rng = np.random.default_rng(0)
    scenes = []
    for k in range(30):
        corner = rng.permutation(4)
        x, y = 0.25 + 0.5 * (corner % 2), 0.25 + 0.5 * (corner // 2)
        names = ("face", "car") if k % 5 else ("car",)
        placed = [SceneObject(n, "red", x[i], y[i], 0.4, 0.0) for i, n in enumerate(names)]
        scenes.append(Scene("beach", tuple(placed), k))
    grid = Grid(4, 4)
    found = object_parts(scenes, "face", grid)
    assert found is not None
    images, parts = found
    assert_allclose(images, [k for k in range(30) if k % 5])
    maps = np.full((30, 2, 16), 1 / 16)
    maps[images, 1] = parts.own + 0.8 * rng.uniform(size=(24, 16))
    look = Look(
        model="m", seed="0", control="brain", target="t", maps=maps, queries=("lh.V1v", "rh.FFA-1"), grid=grid
    )
    rows = routing_rows(look, scenes, Settings(subject="01", split="s", n_bootstrap=200))
    assert [row.roi for row in rows] == ["FFA-1", "category regions"]  # nothing to be relative to
    assert rows[0].n == 24
    assert rows[0].ci_low is not None
    assert rows[0].ci_low > 2


def test_a_fixed_place_is_told_from_content_and_sides_are_named() -> None:
    rng = np.random.default_rng(0)
    grid = Grid(height=4, width=4)
    place = np.zeros(16)
    place[[0, 1]] = 0.5  # upper left, the same in every image
    content = np.eye(16)[rng.integers(16, size=400)]  # one token, another in each image
    maps = np.stack([np.tile(place, (400, 1)), content, (place + content) / 2], axis=1)
    look = Look(
        model="m",
        seed="0",
        control="brain",
        target="t",
        maps=maps,
        queries=("lh.a", "lh.b", "rh.c"),
        grid=grid,
    )
    rows = {
        (row.roi, row.metric): row
        for row in map_rows(look, Settings(subject="01", split="s", n_bootstrap=200))
    }
    assert rows["a", "routing_location_share"].value == pytest.approx(1)
    assert rows["b", "routing_location_share"].value < 0.01
    assert 0.2 < rows["c", "routing_location_share"].value < 0.5
    assert rows["a", "routing_entropy"].value == pytest.approx(np.log(2) / np.log(16))
    assert rows["a", "routing_left_minus_right"].value == rows["a", "routing_upper_minus_lower"].value == 1
    low, high = (getattr(rows["b", "routing_upper_minus_lower"], end) for end in ("ci_low", "ci_high"))
    assert low < 0 < high


def test_the_field_of_each_hemisphere_is_where_its_queries_look() -> None:
    grid = Grid(
        height=8, width=9, seen=np.arange(9)[None].repeat(8, axis=0) < 8
    )  # the last column is padding
    y, x = (np.indices((8, 9)) + 0.5) / 8
    sides = [np.exp(-((x - c) ** 2 + (y - 0.4) ** 2) / (2 * 0.12**2)) * grid.seen for c in (0.75, 0.25)]
    maps = np.stack([np.tile((side / side.sum()).ravel(), (12, 1)) for side in sides], axis=1)
    look = Look(
        model="m", seed="0", control="brain", target="t", maps=maps, queries=("lh.a", "rh.a"), grid=grid
    )
    rows = {
        (row.metric, row.scorer): row.value
        for row in field_rows(look, Settings(subject="01", split="s", n_bootstrap=200))
    }
    assert rows["routing_field_x", "left hemisphere"] == pytest.approx(0.75, abs=1e-3)
    assert rows["routing_field_x", "right hemisphere"] == pytest.approx(0.25, abs=1e-3)
    for side in ("left hemisphere", "right hemisphere"):
        assert rows["routing_field_y", side] == pytest.approx(0.4, abs=1e-3)
        assert rows["routing_field_sd", side] == pytest.approx(0.12, abs=1e-3)
        assert rows["routing_field_explained", side] == pytest.approx(1, abs=1e-4)
    assert rows["routing_field_explained", ""] < 0.8  # two bumps are no Gaussian


def test_routing_is_told_from_what_draws_the_regions_of_all_categories() -> None:
    rng = np.random.default_rng(1)
    scenes = []
    for k in range(60):
        corner = rng.permutation(4)
        x, y = 0.25 + 0.5 * (corner % 2), 0.25 + 0.5 * (corner // 2)
        placed = [SceneObject(n, "red", x[i], y[i], 0.4, 0.0) for i, n in enumerate(("face", "word"))]
        scenes.append(Scene("beach", tuple(placed), k))
    grid, queries = Grid(4, 4), ("lh.FFA-1", "lh.VWFA-1")
    found = object_parts(scenes, "face", grid)
    assert found is not None
    face, word = found[1].own, found[1].other
    settings = Settings(subject="01", split="s", n_bootstrap=200)

    def rows(*maps: np.ndarray) -> dict[tuple[str, bool], Score]:
        drawn = np.stack([m + 0.2 * rng.uniform(size=m.shape) for m in maps], axis=1)
        look = Look(model="m", seed="0", control="brain", target="t", maps=drawn, queries=queries, grid=grid)
        return {(row.roi, row.scorer == RELATIVE): row for row in routing_rows(look, scenes, settings)}

    both_see_faces = rows(3 * face + word, 3 * face + word)
    assert both_see_faces["FFA-1", False].ci_low > 2  # type: ignore[operator]
    assert both_see_faces["VWFA-1", False].ci_high < 0.5  # type: ignore[operator]
    for roi in ("FFA-1", "VWFA-1", "category regions"):
        row = both_see_faces[roi, True]
        assert row.ci_low < 1 < row.ci_high  # type: ignore[operator]
    each_its_own = rows(3 * face + word, face + 3 * word)
    assert each_its_own["category regions", True].ci_low > 2  # type: ignore[operator]

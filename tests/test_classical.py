"""Classical decoding: examples, folds, relabelled refits, regions, nuisances, and the whole workflow on blocks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from math import factorial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from braindecode_suite.cli import main
from braindecode_suite.core.config import build
from braindecode_suite.core.detrend import Detrend
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.core.score import Score, read_scores
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.datasets.haxby import HAXBY
from braindecode_suite.metrics.classification import confusion_matrix, count_labellings, permute_labels
from braindecode_suite.workflows.classical import ClassicalConfig
from braindecode_suite.workflows.classical_examples import make_examples, nuisance_columns
from braindecode_suite.workflows.classical_maps import pattern_map, region_map
from braindecode_suite.workflows.classical_scoring import (
    AccuracyTests,
    Decoder,
    draw_labellings,
    make_folds,
    nuisance_folds,
    recurrence,
    refitted_scores,
    relabelling_of,
)
from braindecode_suite.workflows.classical_words import chance_words
from tests.haxby_files import AFFINE, write_haxby, write_roi

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "haxby2001_slice"
BLOCKS = Recipe((Detrend(1), ZScore(by=("session", "run"), scope="heldout-block")))


def memory_study(
    n_runs: int = 6, signal: float = 1.0, seed: int = 0, images: bool = False, **columns
) -> Study:
    """A study of single trials: 3 classes, 4 trials a class and run, 15 units."""
    rng = np.random.default_rng(seed)
    label = np.tile(np.repeat(["a", "b", "c"], 4), n_runs)
    run = np.repeat(np.arange(n_runs), 12)
    stimulus = [f"{name}{k % 8}" for k, name in enumerate(label)] if images else label
    patterns = dict(zip("abc", rng.standard_normal((3, 15)), strict=True))
    values = signal * np.stack([patterns[name] for name in label]) + rng.standard_normal((len(label), 15))
    trials = pd.DataFrame({"stimulus_id": np.array(stimulus, object), "session": 1, "run": run})
    trials["repeat"] = trials.groupby("stimulus_id").cumcount() + 1
    trials["onset"] = np.tile(np.arange(12.0), n_runs)
    trials["category"] = label
    return Study(
        dataset="memory",
        subject="01",
        responses=values.astype(np.float32),
        trials=trials.assign(**columns),
        stimuli=None,
        space=UnitSpace(15),
        unit="z-score",
    )


def decoder_of(study: Study, name: str = "lda", recipe: Recipe = BLOCKS):
    examples = make_examples(study, "category", ["rest"], None)
    splits = PROTOCOLS["leave-one-run-out"]([study])
    folds = make_folds(study, examples, splits, recipe)
    y = np.unique(examples.labels.astype(str), return_inverse=True)[1]
    return Decoder(folds, name), examples, y, splits


def refitted_test(decoder: Decoder, y: np.ndarray, relabelling, n: int = 1000, seed: int = 0):
    scores = refitted_scores(decoder, draw_labellings(y, relabelling, n, seed))
    return AccuracyTests.of(scores, relabelling.n_distinct).accuracy


def test_a_straight_drift_is_taken_out_of_every_run_by_itself():
    rng = np.random.default_rng(0)
    study = memory_study()
    time = study.trials["onset"].to_numpy()
    slope = rng.standard_normal((6, 15))[study.trials["run"]]
    drifting = replace(
        study, responses=(study.responses + 5 * slope * time[:, None] + 3 * slope).astype(np.float32)
    )
    clean = drifting.prepared(Recipe((Detrend(1),)), np.arange(24)).read(slice(None))
    expected = study.prepared(Recipe((Detrend(1),)), np.arange(24)).read(slice(None))
    np.testing.assert_allclose(clean, expected, atol=2e-4)
    run = study.trials["run"] == 2
    X = np.column_stack([np.ones(12), time[run]])
    by_hand = study.responses[run] - X @ np.linalg.lstsq(X, study.responses[run], rcond=None)[0]
    np.testing.assert_allclose(expected[run], by_hand, atol=1e-5)
    np.testing.assert_array_equal(
        drifting.prepared(Recipe((Detrend(1),)), np.arange(24)).read(np.array([30, 3])), clean[[30, 3]]
    )


def test_detrending_without_times_or_unfitted_is_refused():
    study = memory_study()
    unknown = replace(study, trials=study.trials.assign(onset=np.nan))
    with pytest.raises(
        InputError, match="expected the time of every row, to detrend by; found unknown times"
    ):
        unknown.prepared(Recipe((Detrend(1),)), np.arange(24))
    with pytest.raises(InputError, match="expected a fitted step"):
        Detrend(1).apply(study.responses, study.trials)
    fitted = Detrend(1).fit(study.responses, study.trials[:24], np.arange(24))
    with pytest.raises(InputError, match="expected runs that were there when it was fitted; found run 1-3"):
        fitted.apply(study.responses[36:40], study.trials[36:40])


def test_blocks_are_averaged_and_rest_is_no_class(tmp_path):
    written = write_haxby(tmp_path)
    study = HAXBY.open(tmp_path, "01", tmp_path)
    examples = make_examples(study, "category", ["rest"], None)
    assert len(examples) == 24
    assert examples.classes == ["bottle", "cat", "chair", "face"]
    first = np.flatnonzero(written["labels"] != "rest")[:4]
    np.testing.assert_array_equal(examples.rows[0], first)
    np.testing.assert_allclose(
        examples.mean(study.read(slice(None)))[0],
        written["bold"][written["mask"]].T[first].mean(0),
        rtol=1e-6,
    )
    assert len(make_examples(study, "category", ["rest"], "")) == 96
    assert len(make_examples(study, "category", [], "block")) == 24 + 30


def test_labels_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"`label`: expected a column of the trials \(stimulus_id"):
        make_examples(memory_study(), "colour", [], None)
    with pytest.raises(InputError, match="column 'category': expected at least two classes; found c"):
        make_examples(memory_study(), "category", ["a", "b"], None)
    with pytest.raises(InputError, match="`average`: expected a column of the trials"):
        make_examples(memory_study(), "category", [], "blok")


def test_a_block_on_both_sides_of_a_split_is_refused():
    study = memory_study(images=True, block=np.tile(np.repeat([1, 2, 3], 4), 6))
    examples = make_examples(study, "category", [], "block")
    with pytest.raises(
        InputError, match="every stretch of one block on one side of the split; found rows of one on"
    ):
        make_folds(study, examples, PROTOCOLS["random-by-image"]([study]), Recipe())


def test_every_fold_decodes_as_scikit_learn_does_on_the_same_rows():
    study = memory_study(signal=0.6)
    decoder, _, y, _ = decoder_of(study)
    predicted, _ = decoder.decode(y)
    prepared = np.empty((72, 15))
    for run in range(6):
        inside = np.flatnonzero(study.trials["run"] == run)
        X = np.column_stack([np.ones(12), study.trials["onset"].to_numpy()[inside]])
        values = study.responses[inside] - X @ np.linalg.lstsq(X, study.responses[inside], rcond=None)[0]
        prepared[inside] = (values - values.mean(0)) / values.std(0)
    for run in range(6):
        test = (study.trials["run"] == run).to_numpy()
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(prepared[~test], y[~test])
        np.testing.assert_array_equal(predicted[test], theirs.predict(prepared[test]))


def test_relabelled_refits_find_chance_and_signal():
    decoder, examples, y, splits = decoder_of(memory_study(signal=0.6))
    relabelling = relabelling_of(examples, y, splits[0])
    test = refitted_test(decoder, y, relabelling)
    assert test.p_value == 1 / 1001
    assert abs(test.chance - 1 / 3) < 0.02
    assert test.n_distinct == (factorial(12) // factorial(4) ** 3) ** 6


def test_p_values_without_signal_are_uniform_enough():
    values = []
    for seed in range(12):
        decoder, examples, y, splits = decoder_of(memory_study(n_runs=3, signal=0.0, seed=seed))
        relabelling = relabelling_of(examples, y, splits[0])
        values.append(refitted_test(decoder, y, relabelling, seed=1).p_value)
    assert 0.25 < np.mean(values) < 0.75
    assert min(values) > 0.002


def test_where_images_are_known_whole_images_exchange_labels():
    study = memory_study(images=True)
    examples = make_examples(study, "category", [], None)
    y = np.unique(examples.labels.astype(str), return_inverse=True)[1]
    relabelling = relabelling_of(examples, y, PROTOCOLS["leave-one-run-out"]([study])[0])
    new = relabelling.draw(np.random.default_rng(0))
    assert all(len(set(new[examples.stimulus == i])) == 1 for i in set(examples.stimulus))
    assert (new != y).any()


def test_labels_are_exchanged_within_blocks_only():
    labels, within = np.array(list("aabbccab")), np.array([0, 0, 0, 1, 1, 1, 2, 2])
    seen = {tuple(permute_labels(labels, within, np.random.default_rng(k))) for k in range(300)}
    assert all(sorted(new[:3]) == ["a", "a", "b"] and sorted(new[6:]) == ["a", "b"] for new in seen)
    assert len(seen) == count_labellings(labels, within) == 3 * 3 * 2


def test_confusions_are_counted_true_classes_in_rows():
    counts = confusion_matrix(["a", "b", "b", "c"], ["a", "c", "b", "c"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    with pytest.raises(InputError, match="`predicted`: expected one of a, b; found 'd'"):
        confusion_matrix(["a"], ["d"], ["a", "b"])


def test_nuisances_are_found_by_name_and_decode_what_they_carry():
    study = memory_study(signal=0.0)
    speed = {"a": 0.4, "b": 0.6, "c": 0.8}
    times = np.array([speed[name] for name in study.trials["category"]])
    times += 0.02 * np.random.default_rng(1).standard_normal(72)
    times[[5, 40]] = np.nan
    study = replace(study, trials=study.trials.assign(response_time=times, rot_x=0.0))
    assert nuisance_columns(study) == {"motion": ["rot_x"], "reaction-time": ["response_time"]}
    decoder, examples, y, _ = decoder_of(study)
    predicted, _ = Decoder(nuisance_folds(study, examples, decoder.folds, ["response_time"]), "lda").decode(y)
    assert np.mean(predicted == y) > 0.9
    for fold in nuisance_folds(study, examples, decoder.folds, ["rot_x"]):
        assert not fold.features.any()
    brain, _ = decoder.decode(y)
    assert np.mean(brain == y) < 0.6


def image_study(n_images: int = 45, repeats: int = 4, own: float = 1.5, seed: int = 0) -> Study:
    """Trials of images that the recordings tell apart, whose classes they know nothing of: each image once a run."""
    rng = np.random.default_rng(seed)
    shown = np.concatenate([rng.permutation(n_images) for _ in range(repeats)])
    patterns = own * rng.standard_normal((n_images, 30))
    trials = pd.DataFrame(
        {"stimulus_id": pd.Series([f"i{k:02d}" for k in shown], dtype=object), "session": 1}
    )
    trials["run"] = np.repeat(np.arange(repeats), n_images)
    trials["repeat"] = trials["run"] + 1
    trials["onset"] = np.tile(np.arange(float(n_images)), repeats)
    trials["category"] = np.array(list("abc"))[shown % 3]
    return Study(
        dataset="memory",
        subject="01",
        responses=(patterns[shown] + rng.standard_normal((len(shown), 30))).astype(np.float32),
        trials=trials,
        stimuli=None,
        space=UnitSpace(30),
        unit="z-score",
    )


def half_shown(study: Study) -> Study:
    """Leave out half of the images in every other run, so that a run's images are new to some trials of the others."""
    early = np.array([int(i[1:]) < 23 for i in study.trials["stimulus_id"]])
    keep = np.flatnonzero(early == (study.trials["run"] % 2 == 0))
    return replace(
        study,
        responses=np.asarray(study.responses)[keep],
        trials=study.trials.iloc[keep].reset_index(drop=True),
    )


def test_recognising_images_lifts_the_chance_level_of_images_that_recur():
    study = half_shown(image_study(own=3.0, repeats=6))
    found = {}
    for protocol in ("leave-one-run-out", "leave-one-run-out-new-images"):
        examples = make_examples(study, "category", [], None)
        splits = PROTOCOLS[protocol]([study])
        folds = make_folds(
            study, examples, splits, Recipe((ZScore(by=("session", "run"), scope="heldout-block"),))
        )
        y = np.unique(examples.labels.astype(str), return_inverse=True)[1]
        test = refitted_test(Decoder(folds, "lda"), y, relabelling_of(examples, y, splits[0]), n=200)
        found[protocol] = test, recurrence(examples, folds)
    same, new = found.values()
    # the labels mean nothing: what is reached is reached by knowing the images again, and the null says so
    assert same[1] == 1.0
    assert same[0].chance > 0.6
    assert same[0].p_value > 0.05
    assert new[1] == 0.0
    assert abs(new[0].chance - 1 / 3) < 0.06
    words = " ".join(chance_words(same[0], [45, 45, 45], same[1], (0.3, new[0]), "run"))
    assert f"Chance is the mean of 200 refits on relabelled examples, {same[0].chance:.3f}" in words
    assert "equal guesses among 3 classes would be right in 0.333" in words
    assert "100 % of the test examples show an image that the training part shows too" in words
    assert f"accuracy 0.300, chance {new[0].chance:.3f}" in words
    assert (
        chance_words(same[0], [45, 45, 45], 1.0, "none left", "run")[-1]
        == "New images could not be tested: none left."
    )


def test_classes_that_are_not_equally_frequent_are_said_and_scored_balanced():
    study = memory_study(signal=0.0)
    names = study.trials["category"].replace("b", "a").astype(object)
    study = replace(study, trials=study.trials.assign(category=names, stimulus_id=names))
    decoder, examples, y, splits = decoder_of(study)
    scores = refitted_scores(decoder, draw_labellings(y, relabelling_of(examples, y, splits[0]), 200, 0))
    tests = AccuracyTests.of(scores, 10**6)
    assert tests.accuracy.chance > 0.55
    assert abs(tests.balanced.chance - 0.5) < 0.02
    predicted, _ = decoder.decode(y)
    by_class = [np.mean(predicted[y == k] == k) for k in (0, 1)]
    assert tests.balanced.observed == pytest.approx(np.mean(by_class))
    (first, second) = chance_words(tests.accuracy, [48, 24], 0.0, "", "run")
    assert "equal guesses among 2 classes would be right in 0.500" in first
    assert second.startswith("The classes are not equally frequent (24 to 48 test examples)")


def test_few_relabellings_of_the_searchlight_are_refused():
    assert ClassicalConfig(searchlight_permutations=0).searchlight_permutations == 0
    with pytest.raises(InputError, match="searchlight_permutations: 0, or at least 200 refits; found 100"):
        build(ClassicalConfig, {"searchlight_permutations": 100})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classical")
    written = write_haxby(folder / "data", signal=1.5)
    write_roi(folder / "data", "mask_left", written["left"])
    write_roi(folder / "data", "mask_right", ~written["left"])
    words = ["run", "haxby", str(folder / "out"), "participant", "--data-dir", str(folder / "data")]
    assert main([*words, "--set", "searchlight_radius=4", "--work-dir", str(folder / "work")]) == 0
    return folder / "out"


def test_the_workflow_scores_all_units_regions_and_classifiers(finished):
    scores = read_scores(finished / "sub-01/decoding/sub-01_desc-classicaldecoding_scores.tsv")
    plain = scores[scores["versus"] == ""].set_index(["model", "roi"])["value"]
    assert plain["lda", ""] > 0.8
    assert plain["lda", "mask_left"] > 0.8
    assert plain["lda", "all but mask_left"] < 0.5
    assert set(scores["model"]) == {"lda", "ridge", "linear-svm"}
    row = scores[(scores["model"] == "lda") & (scores["roi"] == "") & (scores["versus"] == "")].iloc[0]
    assert row["ci_over"] == "run"
    assert row["p_value"] == pytest.approx(1 / 1001, rel=1e-4)
    assert abs(row["chance"] - 0.25) < 0.02
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    alone = scores[scores["roi"].isin(["mask_left", "mask_right"])]
    assert set(alone["p_correction"]) == {"fdr-bh over regions"}


def test_the_predictions_give_the_accuracy_again(finished):
    base = finished / "sub-01/decoding/sub-01_desc-classicaldecoding_"
    predictions = pd.read_csv(f"{base}predictions.tsv", sep="\t")
    scores = read_scores(Path(f"{base}scores.tsv"))
    for model, own in predictions.groupby("model"):
        row = scores[(scores["model"] == model) & (scores["roi"] == "") & (scores["versus"] == "")].iloc[0]
        assert (own["truth"] == own["predicted"]).mean() == pytest.approx(row["value"], rel=1e-5)
        assert len(own) == row["n"] == 24


def test_the_report_shows_the_confusions_and_the_searchlight(finished):
    text = (finished / "sub-01.html").read_text()
    assert "Confusion matrix of 4 classes" in text
    assert 'id="classification"' in text
    assert (
        text.count('<p class="fine">Ceiling: none. The model that generated real recordings is not known')
        == 2
    )
    assert "Accuracy of a ridge classifier that sees only the voxels within 4 mm of each voxel" in text
    assert "Coloured where p is at most 0.05." in text
    assert "the covariance of the training examples times the weights" in text
    assert "Haufe et al. 2014" in text
    assert text.count("Not shown on a surface: the volume lies in the subject&#39;s own space (haxby)") == 2
    assert "shrinkage LDA names the right one of 4 classes" in text.replace("Shrinkage", "shrinkage")


def test_every_map_goes_back_to_the_brain_with_its_words(finished):
    base = finished / "sub-01/decoding/sub-01_desc-classicaldecoding_"
    mask = np.asarray(nib.load(f"{base}mask.nii.gz").dataobj) > 0
    maps, told = {}, {}
    for name in ("ncsnr", "reliability", "regions", "searchlight", "searchlightpfwe", "pattern"):
        image = nib.load(f"{base}stat-{name}_statmap.nii.gz")
        np.testing.assert_allclose(image.affine, AFFINE)
        maps[name] = np.asarray(image.dataobj)[mask]
        told[name] = json.loads(Path(f"{base}stat-{name}_statmap.json").read_text())
        assert told[name]["Space"]["name"] == "haxby"
        assert told[name]["Template"] == ""
    left = np.argwhere(mask)[:, 0] < 3
    scores = read_scores(Path(f"{base}scores.tsv")).set_index("roi")
    for region, inside in (("mask_left", left), ("mask_right", ~left)):
        np.testing.assert_allclose(maps["regions"][inside], scores.loc[region, "value"], rtol=1e-5)
    assert maps["searchlight"][left].mean() > maps["searchlight"][~left].mean() + 0.2
    assert (maps["searchlightpfwe"][left] <= 0.05).mean() > 0.5
    assert (maps["searchlightpfwe"][~left] <= 0.05).mean() < 0.2
    assert told["searchlightpfwe"]["Threshold"] == 0.05
    assert told["pattern"]["Labels"] == ["bottle", "cat", "chair", "face"]
    assert maps["pattern"].shape == (mask.sum(), 4)
    size = np.abs(maps["pattern"]).mean(axis=1)
    assert size[left].mean() > 1.5 * size[~left].mean()
    assert maps["reliability"][left].mean() > maps["reliability"][~left].mean() + 0.3
    assert told["pattern"]["Units"] == "z within run per s.d. of the output"


def test_a_pattern_is_the_mean_over_the_folds_that_train_on_its_class():
    decoder, examples, y, _ = decoder_of(memory_study(signal=1.0))
    whole = pattern_map(decoder, y, examples.classes, "z").values
    first = decoder.folds[0]
    kept = y[first.train] != 2
    folds = [replace(first, train=first.train[kept], groups=first.groups[kept]), *decoder.folds[1:]]
    some = pattern_map(Decoder(folds, "lda"), y, examples.classes, "z").values
    others = pattern_map(Decoder(folds[1:], "lda"), y, examples.classes, "z").values
    assert some.shape == whole.shape == (3, 15)
    np.testing.assert_allclose(some[2], others[2], rtol=1e-5)
    assert np.abs(some[0] - others[0]).max() > 1e-3
    means = np.stack([first.features[y == k].mean(axis=0) for k in range(3)])
    assert np.corrcoef(whole.ravel(), means.ravel())[0, 1] > 0.8


def test_where_regions_overlap_the_smaller_one_is_painted():
    rois = {"all": np.ones(4, bool), "one": np.array([False, True, False, False])}
    scores = [Score(subject="01", metric="accuracy", value=v, roi=r) for r, v in (("one", 0.3), ("all", 0.9))]
    np.testing.assert_allclose(region_map(scores, rois, 0.25).values, [0.9, 0.3, 0.9, 0.9], rtol=1e-6)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here")
def test_real_blocks_reach_the_accuracy_of_the_classifier_named_beforehand():
    decoder, examples, y, splits = decoder_of(HAXBY.open(REAL, "01", REAL))
    predicted, _ = decoder.decode(y)
    assert len(y) == 96
    assert np.mean(predicted == y) >= 0.885
    relabelling = relabelling_of(examples, y, splits[0])
    null = []
    for seed in range(40):
        labels = relabelling.draw(np.random.default_rng(seed))
        null.append(np.mean(decoder.decode(labels)[0] == labels))
    assert abs(np.mean(null) - 0.125) < 0.02
    assert max(null) < 0.5

"""A protocol with two test sets: one fit, the second set scored by the same models, by concept; the headline stays the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.cli import main
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.score import read_scores
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.datasets.things_meg import THINGS_MEG
from braindecode_suite.encoders.ridge import RidgeEncoder
from braindecode_suite.encoders.targets import make_target
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred, ranks
from braindecode_suite.report.results import read_results
from braindecode_suite.report.selection import pick
from braindecode_suite.workflows.fitting import prepare
from braindecode_suite.workflows.further_test_sets import train_alike
from braindecode_suite.workflows.results import model_dir, result_path
from tests.things_meg_files import TESTED, write_things_epochs

TOP1, LARGE = "retrieval_brain_to_image_top1", "things-meg-zero-shot (large)"
SMALL = [
    "n_seeds=1",
    "encoder_settings={channels: 8, hidden: 8, features: 16, training: {epochs: 1}}",
    "generator=''",
    "gallery_sizes=[8]",
    "shuffled_train=false",
    "occlusion=false",
    "n_bootstrap=200",
    "time={width: 0.25, stride: 0.25, generalisation_every: 0, growing_every: 0}",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    data, out = (tmp_path_factory.mktemp("things") / name for name in ("data", "out"))
    write_things_epochs(data)
    where = [str(out), "participant", "--participant-label", "P1", "--data-dir", str(data)]
    settings = [part for text in SMALL for part in ("--set", text)]
    assert main(["run", "things-meg", *where, "--workflow", "meg", *settings]) == 0
    return data, out


@pytest.fixture(scope="module")
def scores(folders: tuple[Path, Path]) -> pd.DataFrame:
    table = read_scores(result_path(folders[1], "P1", "meg", "scores.tsv"))
    return table[table["time_start"].isna() & (table["control"] == "brain") & (table["versus"] == "")]


def test_the_second_test_set_has_rows_of_its_own_by_concept_and_no_fit_of_its_own(
    scores: pd.DataFrame, folders: tuple[Path, Path]
) -> None:
    large = scores[scores["split"] == LARGE]
    assert set(large["n"]) == {3 * TESTED}
    assert set(large["ci_over"]) == {"concept"}
    small = scores[scores["split"] == "things-meg-zero-shot"]
    assert set(small["n"]) == {TESTED}
    assert set(small["ci_over"]) == {"image"}
    assert len([path for path in folders[1].rglob("fit-ridge-*") if path.is_dir()]) == 1


def test_its_score_is_that_of_the_saved_model_on_its_trials(
    scores: pd.DataFrame, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    data, out = folders
    study = THINGS_MEG.open(data, "P1", tmp_path)
    small, large = PROTOCOLS["things-meg-zero-shot"]([study], seed=0)
    prepared = replace(prepare(study, small, "session"), split=large)
    target = make_target("tiny-clip", tmp_path)
    ids = np.array(sorted(large.keys("test", "stimulus")), dtype=object)
    model = RidgeEncoder.load(model_dir(out, "P1", "meg"), prepared.cohort("test"))
    found = model.predict(prepared.cohort("test"))["retrieval"].mean_by_stimulus().select(ids)
    train = model.predict(prepared.cohort("train"))["retrieval"].mean_by_stimulus()

    assert study.stimuli is not None
    stimuli = study.stimuli

    def true(names: np.ndarray) -> Latents:
        return target.embed(stimuli, list(names)).select(names)

    reference = TrainingReference(predicted=train.flat, true=true(prepared.stimulus_ids["train"]).flat)
    first = ranks(cosine_centred(found.flat, true(ids).flat, reference), np.arange(len(ids))) < 5
    rows = scores[(scores["split"] == LARGE) & (scores["model"] == "ridge") & (scores["gallery"] == len(ids))]
    rows = rows[(rows["metric"] == TOP1.replace("top1", "top5")) & (rows["level"] == "mean-prediction")]
    assert rows["value"].iloc[0] == pytest.approx(first.mean(), abs=1e-6)


def test_the_headline_is_the_first_test_set_whatever_galleries_the_second_has(
    folders: tuple[Path, Path],
) -> None:
    results = read_results(folders[1], "P1", "meg")
    row = pick(results, TOP1, model="ridge")
    assert row is not None
    assert (row["split"], row["gallery"]) == ("things-meg-zero-shot", TESTED)
    cards = [(card["protocol"], card["label"]) for card in results.facts["splits"]]
    assert cards == [("things-meg-zero-shot", "small"), ("things-meg-zero-shot", "large")]


def test_folds_do_not_train_alike(folders: tuple[Path, Path], tmp_path: Path) -> None:
    study = THINGS_MEG.open(folders[0], "P1", tmp_path)
    splits = PROTOCOLS["things-meg-zero-shot"]([study], seed=0)
    assert train_alike(splits)
    assert train_alike(splits[:1])
    fewer = replace(splits[1], train=(splits[1].train[0][1:],))
    assert not train_alike([splits[0], fewer])

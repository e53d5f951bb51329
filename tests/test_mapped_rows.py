"""Preprocessed trials in memory maps: the numbers of the recipe, written once, whole or not at all, in blocks."""

from __future__ import annotations

import errno
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.manifest import RunLog
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.learning import mapped_rows
from braindecode_suite.learning.mapped_rows import SPARE_BYTES, NoRoom, map_rows, mapped_bytes, rows_key
from braindecode_suite.learning.sensor_trials import SlowReading, SubjectTrials
from braindecode_suite.learning.synthetic import TableTarget, make_latents, make_sensor_study, rows_of
from braindecode_suite.workflows.fitting import Prepared, encoder_config, fit_model, maps_folder
from braindecode_suite.workflows.steps import Steps

IMAGES = 60
ROWS = np.arange(0, 2 * IMAGES, 2)


def prepared_study(**changes: Any) -> Study:
    """Return a study whose last session lacks sensors, read through a recipe."""
    study = make_sensor_study(make_latents(IMAGES, 1, 8), n_sensors=12, n_times=20, n_repeats=2, seed=3)
    assert isinstance(study.space, SensorSpace)
    steps = (RobustScale(by="session"), Baseline(study.space.times, None, 0.0), Clip(20.0))
    return replace(study, **changes).prepared(Recipe(steps), ROWS)


@pytest.fixture
def study() -> Study:
    return prepared_study()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No study is held in memory, and trials are written seven at a time."""
    monkeypatch.setattr("braindecode_suite.learning.sensor_trials.PRELOAD_BYTES", 0)
    monkeypatch.setattr(mapped_rows, "BLOCK", 7)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows of every application of a recipe."""
    found: list[int] = []
    apply = Recipe.apply

    def counted(self: Recipe, values: np.ndarray, trials: Any) -> np.ndarray:
        found.append(len(values))
        return apply(self, values, trials)

    monkeypatch.setattr(Recipe, "apply", counted)
    return found


def fill(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Have a disk of so many free bytes."""
    monkeypatch.setattr(mapped_rows.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.mark.usefixtures("large")
def test_batches_from_a_map_are_those_of_the_recipe(study: Study, tmp_path: Path, reads: list[int]) -> None:
    trials = SubjectTrials(study, np.r_[ROWS[::-1], ROWS[:5]], tmp_path)
    written = len(reads)
    assert max(reads) == 7
    batch = np.random.default_rng(0).permutation(ROWS)[:17]
    found = trials.read(batch)
    assert len(reads) == written  # nothing is preprocessed again
    assert_array_equal(found, study.read(batch))
    assert np.isnan(found).any()
    assert found.flags.writeable
    assert found.base is None
    file = next(tmp_path.iterdir())
    assert file.stat().st_size == 128 + mapped_bytes(study, ROWS) == 128 + 4 * len(ROWS) * 12 * 20


def test_a_small_study_is_held_in_memory_and_nothing_is_written(study: Study, tmp_path: Path) -> None:
    trials = SubjectTrials(study, ROWS, tmp_path / "maps")
    assert_array_equal(trials.read(ROWS[::-1]), study.read(ROWS[::-1]))
    assert not (tmp_path / "maps").exists()


@pytest.mark.usefixtures("large")
def test_a_study_without_a_recipe_is_read_where_it_lies(study: Study, tmp_path: Path) -> None:
    plain = replace(study, recipe=None)
    assert_array_equal(SubjectTrials(plain, ROWS, tmp_path).read(ROWS[:3]), plain.read(ROWS[:3]))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("large")
def test_a_map_is_written_once_for_the_same_trials_and_anew_for_others(
    study: Study, tmp_path: Path, reads: list[int]
) -> None:
    other_pictures = study.trials.assign(stimulus_id=study.trials["stimulus_id"].to_numpy()[::-1])
    alike = replace(prepared_study(), trials=other_pictures)
    SubjectTrials(study, ROWS, tmp_path)
    (first,) = tmp_path.iterdir()
    before = len(reads), first.stat().st_mtime_ns
    SubjectTrials(alike, ROWS, tmp_path)
    assert len(reads) == before[0]
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [before[1]]

    responses = np.array(study.responses)
    responses[ROWS[-1], 5, 3] *= 1.001
    session = study.trials.assign(session=study.trials["session"].to_numpy()[::-1])
    assert study.recipe is not None
    clipped = Recipe((*study.recipe.steps[:-1], Clip(3.0)))
    keys = {
        rows_key(study, ROWS),
        rows_key(study, ROWS[1:]),
        rows_key(replace(study, responses=responses), ROWS),
        rows_key(replace(study, trials=session), ROWS),
        rows_key(replace(study, recipe=clipped), ROWS),
    }
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        (OSError(errno.ENOSPC, "full"), NoRoom, "GB of free space"),
        (OSError(errno.EIO, "broken"), OSError, "broken"),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    ],
    ids=["full", "broken", "stopped"],
)
def test_a_map_that_could_not_be_finished_leaves_nothing(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    error: type[BaseException],
    match: str,
) -> None:
    monkeypatch.setattr(mapped_rows, "BLOCK", 7)
    read = Study.read

    def fail(self: Study, rows: np.ndarray) -> np.ndarray:
        if rows[0] > ROWS[20]:
            raise fault
        return read(self, rows)

    monkeypatch.setattr(Study, "read", fail)
    with pytest.raises(error, match=match):
        map_rows(tmp_path / "map.npy", study, ROWS)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Study, "read", read)
    assert_array_equal(map_rows(tmp_path / "map.npy", study, ROWS), study.read(ROWS))


def test_a_disk_that_is_too_small_is_named_with_what_is_needed(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = mapped_bytes(study, ROWS) + SPARE_BYTES
    fill(monkeypatch, needed - 1)
    with pytest.raises(
        NoRoom, match=r"maps: expected 1\.1 GB of free space, 0\.0 GB of them for preprocessed"
    ):
        map_rows(tmp_path / "maps" / "map.npy", study, ROWS)
    fill(monkeypatch, needed)
    assert len(map_rows(tmp_path / "maps" / "map.npy", study, ROWS)) == len(ROWS)


@pytest.mark.usefixtures("large")
def test_without_room_for_a_map_training_goes_on_with_the_same_numbers(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch, 10)
    with pytest.warns(
        SlowReading, match=r"free space.* found 0\.0 GB .*every batch of sub-01 goes through its recipe again"
    ):
        trials = SubjectTrials(study, ROWS, tmp_path)
    assert trials.values is None
    assert_array_equal(trials.read(ROWS[::-1]), study.read(ROWS[::-1]))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("large")
def test_memory_holds_some_blocks_and_not_the_trials(tmp_path: Path) -> None:
    class Drawn:
        """As many rows as asked for, of numbers that depend on the row."""

        shape, dtype = (6000, 16, 50), np.dtype(np.float32)

        def __len__(self) -> int:
            return self.shape[0]

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            return np.sin(np.arange(800, dtype=np.float32) + rows[:, None]).reshape(-1, 16, 50)

    some = make_sensor_study(make_latents(6000, 1, 2), n_sensors=2, n_times=8, n_repeats=1)
    study = replace(some, responses=Drawn(), recipe=Recipe((Clip(0.5),)))
    rows = np.arange(6000)
    tracemalloc.start()
    try:
        trials = SubjectTrials(study, rows, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mapped_bytes(study, rows) == 19_200_000
    assert peak < 4_000_000
    assert_array_equal(trials.read(rows[5000:5003]), study.read(rows[5000:5003]))


@pytest.mark.usefixtures("large")
def test_seeds_and_shuffled_pairs_train_on_one_map_as_they_would_on_trials_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = make_latents(IMAGES, 1, 8)
    study = prepared_study()
    parts = [(rows_of(study, *ends),) for ends in ((0, 40), (40, 50), (50, IMAGES))]
    split = Split(
        protocol="synthetic",
        studies=(study,),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        disjoint=frozenset({"stimulus"}),
    )
    ids = {
        name: np.unique(study.stimulus_ids[rows[0]])
        for name, rows in zip(("train", "validation", "test"), parts, strict=True)
    }
    prepared = Prepared(study=study, split=split, stimulus_ids=ids)
    small = {"channels": 4, "n_frequencies": 2, "hidden": 4, "features": 8, "training": {"epochs": 1}}

    def fit(folder: str, seed: int = 0, **options: bool) -> tuple[Steps, np.ndarray]:
        steps = Steps(tmp_path / folder, RunLog([]), {})
        fitted = fit_model(
            steps,
            prepared,
            {"retrieval": TableTarget("toy", latents)},
            name="meg-module",
            config=encoder_config("meg-module", "tiny", small),
            context=FitContext(work_dir=tmp_path, seed=seed),
            label=f"fit {seed} {options}",
            **options,
        )
        return steps, fitted.test["retrieval"].values

    steps, mapped = fit("mapped")
    (file,) = maps_folder(steps, prepared).iterdir()
    made = file.stat().st_mtime_ns
    assert steps.log.steps[-1].figures == {"mapped_gigabytes": round(file.stat().st_size / 1e9, 3)}
    again, _ = fit("mapped", seed=1)
    fit("mapped", shuffled=True)
    assert again.log.steps[-1].figures == {}
    assert [(path, path.stat().st_mtime_ns) for path in maps_folder(steps, prepared).iterdir()] == [
        (file, made)
    ]
    fit("mapped", keep_maps=False)
    assert not maps_folder(steps, prepared).exists()
    monkeypatch.setattr("braindecode_suite.learning.sensor_trials.PRELOAD_BYTES", 1 << 30)
    steps, held = fit("held")
    assert not maps_folder(steps, prepared).exists()
    assert_array_equal(mapped, held)

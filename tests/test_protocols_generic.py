"""Protocols for any dataset: whole subjects, concepts and clusters held out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS


def study_of(subject: str, ids, **columns) -> Study:
    table = pd.DataFrame({"stimulus_id": pd.Series(list(ids), dtype=object), "session": 1, "run": 1})
    table["repeat"] = table.groupby("stimulus_id").cumcount() + 1
    return Study(
        dataset="any",
        subject=subject,
        responses=np.zeros((len(table), 2), np.float32),
        trials=table.assign(onset=np.nan, **columns),
        stimuli=None,
        space=UnitSpace(2),
        unit="none",
    )


def people(n: int = 4, n_images: int = 100) -> list[Study]:
    """Subjects who saw different, overlapping halves of the images, each twice."""
    ids = [f"i{k:03d}" for k in range(n_images)]
    studies = []
    for k in range(n):
        seen = np.random.default_rng(k).permutation(ids)[: n_images // 2]
        studies.append(study_of(f"{k + 1:02d}", [*seen, *seen]))
    return studies


def test_the_subject_and_the_images_left_out_are_new():
    studies = people()
    splits = PROTOCOLS["leave-one-subject-out"](studies, seed=3)
    assert [split.label for split in splits] == ["without-01", "without-02", "without-03", "without-04"]
    for k, split in enumerate(splits):
        assert [len(rows) > 0 for rows in split.test] == [i == k for i in range(4)]
        assert len(split.train[k]) == len(split.validation[k]) == 0
        assert split.disjoint == {"subject", "stimulus"}
        images = {part: split.keys(part, "stimulus") for part in ("train", "validation", "test")}
        assert not images["test"] & (images["train"] | images["validation"])
        assert len(images["train"]) > 2 * len(images["test"])
    assert [s.hash for s in splits] == [s.hash for s in PROTOCOLS["leave-one-subject-out"](studies, seed=3)]
    assert splits[0].hash != PROTOCOLS["leave-one-subject-out"](studies, seed=4)[0].hash


def test_conditions_stay_the_same_where_a_subject_is_left_out():
    studies = [study_of(f"{k}", ["face", "house", "cat"] * 5) for k in range(3)]
    splits = PROTOCOLS["leave-one-subject-out"](studies)
    for k, split in enumerate(splits):
        assert [len(rows) for rows in split.test] == [15 * (i == k) for i in range(3)]
        assert [len(rows) for rows in split.validation] == [15 * (i == (k + 1) % 3) for i in range(3)]
        assert split.disjoint == {"subject"}
        assert split.card()["shared"]["stimulus"]["train/test"] == 3
        assert "3 different conditions" in split.card()["notes"][0]


@pytest.mark.parametrize("studies", [people(2), [people(1)[0]] * 3])
def test_fewer_than_three_subjects_are_refused(studies):
    with pytest.raises(
        InputError, match="protocol 'leave-one-subject-out': expected at least 3 subjects; found"
    ):
        PROTOCOLS["leave-one-subject-out"](studies)


def test_whole_concepts_are_held_out_over_all_subjects():
    concept = {f"i{k:03d}": f"c{k % 20}" for k in range(100)}
    studies = []
    for study in people(3):
        names = [concept[i] for i in study.stimulus_ids]
        names[7] = names[50 + 7] = ""
        studies.append(study_of(study.subject, study.stimulus_ids, concept=names))
    (split,) = PROTOCOLS["concept-disjoint"](studies, seed=1)
    parts = {part: split.keys(part, "concept") for part in ("train", "validation", "test")}
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [14, 2, 4]
    assert not parts["train"] & parts["validation"]
    assert "" not in set.union(*parts.values())
    assert {"stimulus", "concept"} == split.disjoint
    assert "6 trials without a concept are in no part" in split.notes
    rows = [
        len(np.concatenate([a, b, c]))
        for a, b, c in zip(split.train, split.validation, split.test, strict=True)
    ]
    assert rows == [98, 98, 98]


def test_concepts_that_are_missing_or_contradict_are_refused():
    with pytest.raises(InputError, match="expected a column 'concept'; found stimulus_id, session"):
        PROTOCOLS["concept-disjoint"](people(1))
    with pytest.raises(InputError, match="expected concepts for every part; found 2 concepts"):
        PROTOCOLS["concept-disjoint"]([study_of("1", ["a", "b"], concept=["x", "y"])])
    ids = [f"i{k}" for k in range(60)]
    twice = study_of(
        "1", ids * 2, concept=[f"c{k % 30}" for k in range(60)] + [f"c{(k + 1) % 30}" for k in range(60)]
    )
    with pytest.raises(InputError, match="expected one concept for each stimulus; found several for 'i"):
        PROTOCOLS["concept-disjoint"]([twice])


def test_whole_clusters_of_the_target_are_held_out_for_any_dataset():
    studies = people(2)
    ids = sorted({i for study in studies for i in study.stimulus_ids})
    cluster = {i: k % 10 for k, i in enumerate(ids)}
    centres = 50 * np.random.default_rng(0).standard_normal((10, 6))

    def vectors_of(names):
        noise = [np.random.default_rng(int(i[1:])).standard_normal(6) for i in names]
        return np.stack([centres[cluster[i]] for i in names]) + 0.01 * np.array(noise)

    (split,) = PROTOCOLS["cluster-disjoint"](studies, seed=0, vectors_of=vectors_of)
    held = {
        part: {cluster[i] for i in split.keys(part, "stimulus")} for part in ("train", "validation", "test")
    }
    assert held["train"] | held["validation"] | held["test"] == set(range(10))
    assert sum(map(len, held.values())) == 10
    assert split.protocol == "cluster-disjoint"
    with pytest.raises(InputError, match="`vectors_of`: expected target vectors of the images"):
        PROTOCOLS["cluster-disjoint"](studies)
    with pytest.raises(InputError, match="protocol 'cluster-disjoint': expected at least 10 images; found 4"):
        PROTOCOLS["cluster-disjoint"]([study_of("1", "abcd")], vectors_of=vectors_of)


def test_the_images_of_the_run_left_out_train_nowhere():
    ids = [*"abcd", *"cdef", *"efab"] * 2
    study = study_of("01", ids)
    study.trials["run"] = np.repeat(np.arange(6), 4)
    splits = PROTOCOLS["leave-one-run-out-new-images"]([study])
    assert len(splits) == 6
    for k, split in enumerate(splits):
        assert split.disjoint == {"run", "stimulus"}
        assert set(study.trials["run"].iloc[split.test[0]]) == {k}
        used = np.concatenate([split.train[0], split.validation[0]])
        assert split.keys("test", "stimulus") == set(ids[4 * k : 4 * k + 4])
        # exactly the trials of other runs whose image the run left out does not show
        expected = [i for i, name in enumerate(ids) if i // 4 != k and name not in ids[4 * k : 4 * k + 4]]
        assert sorted(used) == expected
        assert len(split.validation[0])
    everything = study_of("01", list("abc") * 4)
    everything.trials["run"] = np.repeat(np.arange(4), 3)
    with pytest.raises(
        InputError,
        match="protocol 'leave-one-run-out-new-images', run 1: expected images that this run does not show, to train on; found 0",
    ):
        PROTOCOLS["leave-one-run-out-new-images"]([everything])
    with pytest.raises(InputError, match="expected at least 3 sessions"):
        PROTOCOLS["leave-one-session-out-new-images"]([study])

"""Protocols over arbitrary trial tables: what they declare disjoint stays so, and everybody ends up in one part."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from braindecode_suite.core.errors import InputError, LeakageError
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import PARTS, Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.datasets.protocols import (
    as_given,
    leave_one_run_out,
    leave_one_session_out,
    nsd_982,
    nsd_cluster_disjoint,
    nsd_shared515,
    nsd_shared1000,
    random_by_image,
)

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_study(subject: str, table: pd.DataFrame) -> Study:
    table = table.assign(repeat=table.groupby("stimulus_id").cumcount() + 1, onset=np.nan)
    return Study(
        dataset="any",
        subject=subject,
        responses=np.zeros((len(table), 2), np.float32),
        trials=table,
        stimuli=None,
        space=UnitSpace(2),
        unit="none",
    )


@st.composite
def cohorts(draw):
    """One to three subjects with arbitrary images, sessions and runs; whether an image is shared is a fact of the image."""
    n_images = draw(st.integers(4, 30))
    ids = [str(k) for k in range(n_images)]
    shared = draw(st.sets(st.sampled_from(ids), min_size=1, max_size=n_images - 2))
    everywhere = {i: draw(st.integers(0, 3)) for i in sorted(shared)}
    studies = []
    for k in range(draw(st.integers(1, 3))):
        n = draw(st.integers(n_images, 60))
        shown = ids + [draw(st.sampled_from(ids)) for _ in range(n - n_images)]
        table = pd.DataFrame(
            {
                "stimulus_id": pd.Series(draw(st.permutations(shown)), dtype=object),
                "session": sorted(draw(st.lists(st.integers(1, 45), min_size=n, max_size=n))),
                "run": draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)),
            }
        )
        table["shared"] = table["stimulus_id"].isin(shared)
        table["repeats_everywhere"] = [everywhere.get(i, 3) for i in table["stimulus_id"]]
        studies.append(make_study(f"{k + 1:02d}", table))
    return studies


def images_of(split: Split, part: str) -> set[str]:
    return split.keys(part, "stimulus")


def check_parts_are_apart(split: Split) -> None:
    parts = [images_of(split, part) for part in PARTS]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert "stimulus" in split.disjoint
    for rows in zip(split.train, split.validation, split.test, strict=True):
        joined = np.concatenate(rows)
        assert len(set(joined.tolist())) == len(joined)


@quick
@given(studies=cohorts(), seed=st.integers(0, 5))
def test_shared_images_are_tested_and_no_other_part_sees_them(studies, seed):
    (split,) = nsd_shared1000(studies, seed=seed)
    check_parts_are_apart(split)
    for study, test in zip(studies, split.test, strict=True):
        np.testing.assert_array_equal(test, np.flatnonzero(study.trials["shared"]))
    n_rest = len(images_of(split, "train") | images_of(split, "validation"))
    assert len(images_of(split, "validation")) == max(round(0.1 * n_rest), 1)


@quick
@given(studies=cohorts(), seed=st.integers(0, 5))
def test_nsd_982_uses_no_row_after_session_37(studies, seed):
    early_test = any((s.trials["shared"] & (s.trials["session"] <= 37)).any() for s in studies)
    if not early_test:
        with pytest.raises(InputError, match=r"protocol 'nsd-982': expected test images; found none"):
            nsd_982(studies, seed=seed)
        return
    (split,) = nsd_982(studies, seed=seed)
    check_parts_are_apart(split)
    for part in PARTS:
        for study, rows in zip(studies, getattr(split, part), strict=True):
            assert (study.trials["session"].to_numpy()[rows] <= 37).all()


@quick
@given(studies=cohorts(), seed=st.integers(0, 5))
def test_nsd_515_tests_only_what_everybody_saw_three_times(studies, seed):
    enough = any((s.trials["shared"] & (s.trials["repeats_everywhere"] >= 3)).any() for s in studies)
    if not enough:
        with pytest.raises(InputError, match=r"protocol 'nsd-shared515': expected test images; found none"):
            nsd_shared515(studies, seed=seed)
        return
    (split,) = nsd_shared515(studies, seed=seed)
    check_parts_are_apart(split)
    for study, *parts in zip(studies, split.train, split.validation, split.test, strict=True):
        assert (study.trials["repeats_everywhere"].to_numpy()[parts[2]] >= 3).all()
        assert not study.trials["shared"].to_numpy()[np.concatenate(parts[:2])].any()


@quick
@given(studies=cohorts(), seed=st.integers(0, 5))
def test_a_random_fifth_of_the_images_is_tested_in_all_subjects(studies, seed):
    (split,) = random_by_image(studies, seed=seed)
    check_parts_are_apart(split)
    everything = set.union(*(set(study.stimulus_ids) for study in studies))
    assert set.union(*(images_of(split, part) for part in PARTS)) == everything
    assert len(images_of(split, "test")) == max(round(0.2 * len(everything)), 1)
    assert sum(len(rows) for part in PARTS for rows in getattr(split, part)) == sum(
        len(s.trials) for s in studies
    )


@quick
@given(studies=cohorts(), seed=st.integers(0, 5))
def test_validation_images_do_not_depend_on_the_order_of_subjects(studies, seed):
    (one,) = nsd_shared1000(studies, seed=seed)
    (other,) = nsd_shared1000(studies[::-1], seed=seed)
    assert images_of(one, "validation") == images_of(other, "validation")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 3))
def test_whole_clusters_are_held_out(data, seed):
    n = data.draw(st.integers(60, 90))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    group = rng.integers(40, size=n)
    group[:40] = np.arange(40)
    centres = rng.normal(size=(40, 30)) * 50
    vectors = {str(k): centres[group[k]] + rng.normal(size=30) * 0.01 for k in range(n)}
    ids = pd.Series([str(k) for k in rng.integers(n, size=3 * n)], dtype=object)
    table = pd.DataFrame({"stimulus_id": ids, "session": 1, "run": 1})
    seen = len(set(ids))
    studies = [make_study("01", table)]
    (split,) = nsd_cluster_disjoint(
        studies, seed=seed, vectors_of=lambda names: np.stack([vectors[i] for i in names])
    )
    check_parts_are_apart(split)
    groups = {part: {int(group[int(i)]) for i in images_of(split, part)} for part in PARTS}
    if (
        len(set(group[[int(i) for i in set(ids)]])) == 40
    ):  # well apart and all there: k-means finds these very groups
        assert not groups["test"] & groups["train"]
        assert not groups["validation"] & groups["train"]
        assert not groups["test"] & groups["validation"]
    assert len(images_of(split, "test")) >= 0.2 * seen
    assert images_of(split, "validation")
    assert images_of(split, "train")


@quick
@given(
    sessions=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=6, max_size=40),
    n_images=st.integers(2, 6),
)
@pytest.mark.parametrize(
    ("protocol", "kind"), [(leave_one_run_out, "run"), (leave_one_session_out, "session")]
)
def test_every_block_is_tested_once_and_never_trained_on_then(protocol, kind, sessions, n_images):
    table = pd.DataFrame(sessions, columns=["session", "run"])
    table["stimulus_id"] = pd.Series([str(k % n_images) for k in range(len(table))], dtype=object)
    study = make_study("01", table)
    blocks = {tuple(b) if kind == "run" else b[0] for b in sessions}
    if len(blocks) < 3:
        with pytest.raises(InputError, match=f"expected at least 3 {kind}s"):
            protocol([study])
        return
    splits = protocol([study])
    assert len(splits) == len(blocks)
    assert sorted(np.concatenate([split.test[0] for split in splits]).tolist()) == list(range(len(table)))
    for split in splits:
        assert split.disjoint == {kind}
        assert not split.keys("train", kind) & split.keys("test", kind)
        assert not split.keys("train", kind) & split.keys("validation", kind)


def test_subjects_with_different_numbers_of_runs_cannot_leave_one_out():
    tables = [
        pd.DataFrame({"stimulus_id": list("abcdef")[:n], "session": 1, "run": range(n)}) for n in (4, 5)
    ]
    studies = [make_study(f"0{k}", table) for k, table in enumerate(tables)]
    with pytest.raises(
        InputError, match=r"expected at least 3 runs, as many in every subject; found 4 and 5"
    ):
        leave_one_run_out(studies)


@quick
@given(data=st.data())
def test_a_split_of_ones_own_is_kept_or_refused(data):
    n = data.draw(st.integers(4, 40))
    column = st.lists(st.sampled_from(["train", "test", "validation", "left out"]), min_size=n, max_size=n)
    table = pd.DataFrame(
        {
            "stimulus_id": pd.Series(
                data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n)), dtype=object
            ),
            "session": 1,
            "run": 1,
            "split": data.draw(column),
        }
    )
    parts = {part: set(table.loc[table["split"] == part, "stimulus_id"]) for part in PARTS}
    legal = parts["train"] and parts["test"]
    legal = legal and not (parts["train"] & parts["test"] or parts["train"] & parts["validation"])
    legal = legal and not parts["validation"] & parts["test"]
    if not legal:
        with pytest.raises(InputError, match="column 'split'"):
            as_given([make_study("01", table)])
        return
    (split,) = as_given([make_study("01", table)])
    check_parts_are_apart(split)
    np.testing.assert_array_equal(split.test[0], np.flatnonzero(table["split"] == "test"))
    if parts["validation"]:
        assert images_of(split, "train") == parts["train"]
    else:
        assert images_of(split, "train") | images_of(split, "validation") == parts["train"]


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if n.startswith("nsd")])
def test_a_protocol_says_which_column_or_vectors_it_lacks(name):
    table = pd.DataFrame({"stimulus_id": list("abcd"), "session": 1, "run": 1})
    with pytest.raises(InputError, match=r"expected (a column 'shared'|target vectors)"):
        PROTOCOLS[name]([make_study("01", table)])


def test_too_few_images_to_cluster_are_refused():
    table = pd.DataFrame({"stimulus_id": list("abcd"), "session": 1, "run": 1})
    with pytest.raises(InputError, match=r"expected at least 40 images; found 4"):
        nsd_cluster_disjoint([make_study("01", table)], vectors_of=lambda ids: np.zeros((len(ids), 2)))


def test_a_leaking_split_cannot_be_made():
    table = pd.DataFrame({"stimulus_id": ["a", "b", "a"], "session": 1, "run": 1})
    study = make_study("01", table)
    make = partial(
        Split,
        protocol="mine",
        studies=(study,),
        train=(np.array([0]),),
        validation=(np.array([1]),),
        test=(np.array([2]),),
    )
    make(disjoint=frozenset())
    with pytest.raises(LeakageError, match=r"protocol 'mine' declares stimulus disjoint; train/test share 1"):
        make(disjoint=frozenset({"stimulus"}))


def test_the_leakage_card_tells_interleaving_and_tuning(simulated_folder, tmp_path):
    from braindecode_suite.datasets.nsd import NSD

    studies = [NSD.open(simulated_folder, s, tmp_path) for s in ("01", "02", "03")]
    for protocol in (nsd_shared1000, nsd_982, nsd_shared515):
        (split,) = protocol(studies)
        notes = " ".join(split.card()["notes"])
        assert "same runs and sessions" in notes
        assert "b3 betas" in notes
        assert split.shared("stimulus") == {"train/test": 0, "validation/test": 0, "train/validation": 0}
    in_first_five = nsd_shared515(studies)[0].keys("test", "stimulus")
    thrice = [
        {i for i, n in s.trials[s.trials["session"] <= 5].groupby("stimulus_id").size().items() if n == 3}
        for s in studies
    ]
    assert in_first_five == set.intersection(*thrice) & set(
        studies[0].stimulus_ids[studies[0].trials["shared"]]
    )

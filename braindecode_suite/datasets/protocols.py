"""Named split protocols: who trains, who validates, who tests, and what is kept apart.

Validation images are drawn inside training by a hash of (seed, stimulus id), so that a subject's validation images hardly
depend on which other subjects are in the study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import VectorsOf
from braindecode_suite.core.split import MINIMUM_TRAINING_IMAGES, Split
from braindecode_suite.core.study import Study

VALIDATION_SHARE = 0.1
N_CLUSTERS = 40
FEWEST_CLUSTERS, IMAGES_A_CLUSTER = 10, 10
TEST_SHARE = 0.2
LAST_SESSION_982 = 37
BY_IMAGE = frozenset({"stimulus"})

INTERLEAVED = "test images were shown in the same runs and sessions as training images"

Bools = NDArray[np.bool_]


def nsd_shared1000(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on the images that every subject saw, with all repeats there are; train on each subject's own."""
    shared = [_shared(study) for study in studies]
    return [_by_test_rows("nsd-shared1000", studies, shared, [~s for s in shared], seed)]


def nsd_982(studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None) -> list[Split]:
    """Like `nsd_shared1000`, on sessions 1 to 37 only (MindEye, Brain-Diffuser: 982 images, 1 to 3 repeats)."""
    early = [study.trials["session"].to_numpy() <= LAST_SESSION_982 for study in studies]
    shared = [_shared(study) for study in studies]
    notes = (f"only sessions 1 to {LAST_SESSION_982}, for training too",)
    test = [s & e for s, e in zip(shared, early, strict=True)]
    train = [~s & e for s, e in zip(shared, early, strict=True)]
    return [_by_test_rows("nsd-982", studies, test, train, seed, notes)]


def nsd_shared515(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on the shared images that all subjects of the release saw three times; other shared images are left out."""
    shared = [_shared(study) for study in studies]
    test = [s & (_column(study, "repeats_everywhere") >= 3) for s, study in zip(shared, studies, strict=True)]
    notes = ("shared images that some subject saw less than three times are in no part",)
    return [_by_test_rows("nsd-shared515", studies, test, [~s for s in shared], seed, notes)]


def nsd_cluster_disjoint(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on whole clusters of images (k-means, 40 clusters of the target vectors) that are absent from training.

    Clusters are drawn by `seed` until a fifth of the images is for testing and a tenth for validation.
    """
    return [_by_cluster("nsd-cluster-disjoint", studies, seed, vectors_of, N_CLUSTERS)]


def cluster_disjoint(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Like `nsd_cluster_disjoint`, for any dataset: a cluster for every ten images, at least 10 and at most 40."""
    n_images = len({i for study in studies for i in study.stimulus_ids})
    n_clusters = min(max(n_images // IMAGES_A_CLUSTER, FEWEST_CLUSTERS), N_CLUSTERS)
    return [_by_cluster("cluster-disjoint", studies, seed, vectors_of, n_clusters)]


def concept_disjoint(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on a random fifth of the concepts, with all their images in all subjects; a tenth is for validation.

    Needs a column `concept` of the trials; rows without a concept are in no part.
    """
    name = "concept-disjoint"
    concepts = [_column(study, "concept") for study in studies]
    known = [np.array([isinstance(c, str) and c != "" for c in column], bool) for column in concepts]
    every = {str(c) for column, k in zip(concepts, known, strict=True) for c in column[k]}
    test_names = _draw(every, TEST_SHARE, seed, "test")
    validation_names = _draw(every - test_names, VALIDATION_SHARE, seed, "validation")
    if not test_names or not validation_names or not every - test_names - validation_names:
        raise InputError(
            f"protocol {name!r}", expected="concepts for every part", found=f"{len(every)} concepts"
        )
    test = [_named(column, test_names) for column in concepts]
    validation = [_named(column, validation_names) for column in concepts]
    train = [k & ~t & ~v for k, t, v in zip(known, test, validation, strict=True)]
    both = _ids(studies, test) & (_ids(studies, train) | _ids(studies, validation))
    if both:
        raise InputError(
            "column 'concept'", expected="one concept for each stimulus", found=f"several for {min(both)!r}"
        )
    dropped = sum(int((~k).sum()) for k in known)
    notes = [
        f"whole concepts held out: {len(test_names)} of {len(every)} for testing, {len(validation_names)} for validation",
        *([f"{dropped} trials without a concept are in no part"] if dropped else []),
        INTERLEAVED,
        *_tuning_notes(studies),
    ]
    return [_split(name, studies, train, validation, test, frozenset({"stimulus", "concept"}), notes=notes)]


def leave_one_subject_out(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on each subject in turn, train on the others: nothing of the subject left out is seen.

    A random fifth of the images (drawn by `seed`) is for testing only and a tenth for validation only, so that the images are
    new too. Where a study has repeated conditions or unlabelled series (fewer different stimuli than any training takes), all
    rows of the subject left out are for testing and those of the next subject for validation.
    """
    name = "leave-one-subject-out"
    if len({study.subject for study in studies}) < 3 or len(studies) < 3:
        raise InputError(f"protocol {name!r}", expected="at least 3 subjects", found=str(len(studies)))
    n = len(studies)
    ids = {i for study in studies for i in study.stimulus_ids}
    if len(ids) < MINIMUM_TRAINING_IMAGES:
        return [
            _split(
                name,
                studies,
                [np.full(len(s.trials), i not in (k, (k + 1) % n)) for i, s in enumerate(studies)],
                [np.full(len(s.trials), i == (k + 1) % n) for i, s in enumerate(studies)],
                [np.full(len(s.trials), i == k) for i, s in enumerate(studies)],
                frozenset({"subject"}),
                label=f"without-{left.subject}",
                notes=(f"{len(ids)} different conditions, shown to all subjects: they are in several parts",),
            )
            for k, left in enumerate(studies)
        ]
    test_ids = _draw(ids, TEST_SHARE, seed, "test")
    held_out = _draw(ids - test_ids, VALIDATION_SHARE, seed, "validation")
    tested = [_isin(study, test_ids) for study in studies]
    validated = [_isin(study, held_out) for study in studies]
    splits = []
    for k, left in enumerate(studies):
        if not tested[k].any():
            raise InputError(
                f"protocol {name!r}", expected=f"test images that subject {left.subject} saw", found="none"
            )
        splits.append(
            _split(
                name,
                studies,
                [~t & ~v & (i != k) for i, (t, v) in enumerate(zip(tested, validated, strict=True))],
                [v & (i != k) for i, v in enumerate(validated)],
                [t & (i == k) for i, t in enumerate(tested)],
                frozenset({"subject", "stimulus"}),
                label=f"without-{left.subject}",
                notes=(
                    f"{len(test_ids)} images for testing; the other subjects' trials of them, and the other trials of the subject "
                    "left out, are in no part",
                    *_tuning_notes(studies),
                ),
            )
        )
    return splits


def random_by_image(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on a random fifth of the images, all their trials in all subjects."""
    test_ids = _draw({i for study in studies for i in study.stimulus_ids}, TEST_SHARE, seed, "test")
    test = [_isin(study, test_ids) for study in studies]
    return [_by_test_rows("random-by-image", studies, test, [~t for t in test], seed)]


def leave_one_run_out(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on each run in turn, validate on the next one, train on the others; images may repeat across runs."""
    return _leave_one_out("leave-one-run-out", studies, ("session", "run"), "run")


def leave_one_session_out(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on each session in turn, validate on the next one, train on the others; images may repeat across sessions."""
    return _leave_one_out("leave-one-session-out", studies, ("session",), "session")


def leave_one_run_out_new_images(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on each run in turn; train and validate on other runs' trials of images that the run left out does not show."""
    return _leave_one_out_new_images("leave-one-run-out", studies, ("session", "run"), "run", seed)


def leave_one_session_out_new_images(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Test on each session in turn; train and validate on trials of images that the session left out does not show."""
    return _leave_one_out_new_images("leave-one-session-out", studies, ("session",), "session", seed)


def as_given(studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None) -> list[Split]:
    """Take the user's own column `split` of the trials: train, validation (optional) or test; others are left out.

    Without validation rows a tenth of the training images is drawn.
    """
    parts: dict[str, list[Bools]] = {"train": [], "validation": [], "test": []}
    for study in studies:
        column = _column(study, "split").astype(str)
        for part, rows in parts.items():
            rows.append(column == part)
    for part in ("train", "test"):
        if not any(rows.any() for rows in parts[part]):
            raise InputError("column 'split'", expected="rows 'train' and 'test'", found=f"no {part!r}")
    names = list(parts)
    for k, first in enumerate(names):
        for second in names[k + 1 :]:
            both = _ids(studies, parts[first]) & _ids(studies, parts[second])
            if both:
                raise InputError(
                    "column 'split'",
                    expected="each image in one part",
                    found=f"{len(both)} in {first} and {second}, e.g. {min(both)!r}",
                )
    if any(rows.any() for rows in parts["validation"]):
        return [_split("as-given", studies, parts["train"], parts["validation"], parts["test"], BY_IMAGE)]
    return [_by_test_rows("as-given", studies, parts["test"], parts["train"], seed, interleaved=False)]


def table_default(
    studies: Sequence[Study], *, seed: int = 0, vectors_of: VectorsOf | None = None
) -> list[Split]:
    """Take the user's column `split` where every subject has one (`as_given`), a random fifth otherwise (`random_by_image`)."""
    given = all("split" in study.trials.columns for study in studies)
    return (as_given if given else random_by_image)(studies, seed=seed)


def _by_cluster(
    name: str, studies: Sequence[Study], seed: int, vectors_of: VectorsOf | None, n_clusters: int
) -> Split:
    """Cluster the images by their target vectors and hold whole clusters out."""
    if vectors_of is None:
        raise InputError(
            "`vectors_of`", expected="target vectors of the images, to cluster them", found="None"
        )
    from sklearn.cluster import KMeans

    ids = sorted({i for study in studies for i in study.stimulus_ids})
    if len(ids) < n_clusters:
        raise InputError(f"protocol {name!r}", expected=f"at least {n_clusters} images", found=str(len(ids)))
    vectors = np.asarray(vectors_of(ids), np.float32)
    check_shape("vectors", vectors, "images features", images=len(ids))
    cluster = KMeans(n_clusters, n_init=4, random_state=seed).fit(vectors).labels_
    sizes = np.bincount(cluster, minlength=n_clusters)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(sizes))
    reached = np.cumsum(sizes[order]) / len(ids)
    n_test = int(np.searchsorted(reached, TEST_SHARE)) + 1
    n_held = int(np.searchsorted(reached, TEST_SHARE + VALIDATION_SHARE)) + 1
    n_held = max(n_held, n_test + 1)
    if n_held >= len(order):
        raise InputError(
            f"protocol {name!r}",
            expected="clusters left for training",
            found=f"{len(order)} clusters, the largest of {sizes.max()} of {len(ids)} images",
        )
    kept = {
        part: {i for i, c in zip(ids, cluster, strict=True) if c in set(order[a:b])}
        for part, a, b in (("test", 0, n_test), ("validation", n_test, n_held), ("train", n_held, None))
    }
    rows = {part: [_isin(study, kept[part]) for study in studies] for part in kept}
    notes = (
        f"whole clusters held out: {n_test} of {len(order)} for testing, {n_held - n_test} for validation",
        INTERLEAVED,
        *_tuning_notes(studies),
    )
    return _split(name, studies, rows["train"], rows["validation"], rows["test"], BY_IMAGE, notes=notes)


def _by_test_rows(
    name: str,
    studies: Sequence[Study],
    test: Sequence[Bools],
    rest: Sequence[Bools],
    seed: int,
    notes: tuple[str, ...] = (),
    *,
    interleaved: bool = True,
) -> Split:
    """Draw validation images out of `rest` and make the split."""
    if not any(rows.any() for rows in test):
        raise InputError(f"protocol {name!r}", expected="test images", found="none in these trials")
    held_out = _draw(_ids(studies, rest), VALIDATION_SHARE, seed, "validation")
    chosen = [_isin(study, held_out) for study in studies]
    validation = [r & c for r, c in zip(rest, chosen, strict=True)]
    train = [r & ~c for r, c in zip(rest, chosen, strict=True)]
    shared_runs = (INTERLEAVED, *_notes_of(studies, "shared_noise")) if interleaved else ()
    notes = (*notes, *shared_runs, *_tuning_notes(studies))
    return _split(name, studies, train, validation, test, BY_IMAGE, notes=notes)


def _blocks(
    name: str, studies: Sequence[Study], columns: tuple[str, ...], kind: str
) -> tuple[list[NDArray[np.int64]], int]:
    """Return the number of every trial's run or session, from 0, and how many there are."""
    blocks = [study.trials.groupby(list(columns), sort=True).ngroup().to_numpy() for study in studies]
    numbers = {int(block.max()) + 1 if len(block) else 0 for block in blocks}
    if len(numbers) != 1 or min(numbers) < 3:
        raise InputError(
            f"protocol {name!r}",
            expected=f"at least 3 {kind}s, as many in every subject",
            found=" and ".join(str(n) for n in sorted(numbers)),
        )
    return blocks, numbers.pop()


def _leave_one_out_new_images(
    base: str, studies: Sequence[Study], columns: tuple[str, ...], kind: str, seed: int
) -> list[Split]:
    name = f"{base}-new-images"
    blocks, n = _blocks(name, studies, columns, kind)
    splits = []
    for k in range(n):
        test = [block == k for block in blocks]
        shown = _ids(studies, test)
        rest = [~t & ~_isin(study, shown) for t, study in zip(test, studies, strict=True)]
        left = _ids(studies, rest)
        if len(left) < 2:
            raise InputError(
                f"protocol {name!r}, {kind} {k + 1}",
                expected=f"images that this {kind} does not show, to train on",
                found=str(len(left)),
            )
        held_out = _draw(left, VALIDATION_SHARE, seed, "validation")
        chosen = [_isin(study, held_out) for study in studies]
        splits.append(
            _split(
                name,
                studies,
                [r & ~c for r, c in zip(rest, chosen, strict=True)],
                [r & c for r, c in zip(rest, chosen, strict=True)],
                test,
                frozenset({kind, "stimulus"}),
                label=f"fold-{k + 1}",
                notes=(
                    f"other trials of the images of the {kind} left out are in no part",
                    *_tuning_notes(studies),
                ),
            )
        )
    return splits


def _leave_one_out(name: str, studies: Sequence[Study], columns: tuple[str, ...], kind: str) -> list[Split]:
    blocks, n = _blocks(name, studies, columns, kind)
    return [
        _split(
            name,
            studies,
            [(block != k) & (block != (k + 1) % n) for block in blocks],
            [block == (k + 1) % n for block in blocks],
            [block == k for block in blocks],
            frozenset({kind}),
            label=f"fold-{k + 1}",
            notes=_tuning_notes(studies),
        )
        for k in range(n)
    ]


def _split(
    name: str,
    studies: Sequence[Study],
    train: Sequence[Bools],
    validation: Sequence[Bools],
    test: Sequence[Bools],
    disjoint: frozenset[str],
    *,
    label: str = "",
    notes: Iterable[str] = (),
) -> Split:
    return Split(
        protocol=name,
        studies=tuple(studies),
        train=_rows(train),
        validation=_rows(validation),
        test=_rows(test),
        disjoint=disjoint,
        label=label,
        notes=tuple(notes),
    )


def _rows(part: Sequence[Bools]) -> tuple[NDArray[np.int64], ...]:
    return tuple(np.flatnonzero(rows) for rows in part)


def _draw(ids: Iterable[str], share: float, seed: int, purpose: str) -> set[str]:
    """Draw a share of `ids` (at least one of several), by a hash of seed and id."""
    ordered = sorted(ids, key=lambda i: hashlib.sha256(f"{purpose} {seed} {i}".encode()).digest())
    n = round(share * len(ordered))
    return set(ordered[: max(n, 1) if len(ordered) > 1 else 0])


def _ids(studies: Sequence[Study], rows: Sequence[Bools]) -> set[str]:
    return {i for study, some in zip(studies, rows, strict=True) for i in study.stimulus_ids[some]}


def _isin(study: Study, ids: set[str]) -> Bools:
    return np.fromiter((i in ids for i in study.stimulus_ids), bool, len(study.trials))


def _named(column: NDArray[Any], names: set[str]) -> Bools:
    return np.fromiter((c in names for c in column), bool, len(column))


def _column(study: Study, name: str) -> NDArray[Any]:
    if name not in study.trials.columns:
        raise InputError(
            f"trials of {study.dataset}, subject {study.subject}",
            expected=f"a column {name!r}",
            found=", ".join(map(str, study.trials.columns)),
        )
    return np.asarray(study.trials[name].to_numpy())


def _shared(study: Study) -> Bools:
    return _column(study, "shared").astype(bool)


def _tuning_notes(studies: Sequence[Study]) -> tuple[str, ...]:
    return _notes_of(studies, "tuned_on_test")


def _notes_of(studies: Sequence[Study], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for s in studies if (note := str(s.provenance.get(key, "")))))

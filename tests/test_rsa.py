"""Representational similarity against scipy, against counts by hand, and on data with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kendalltau, spearmanr

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.rsa import (
    bootstrap_noise_ceiling,
    bootstrap_rsa,
    kendall_tau_a,
    permute_rsa,
    rsa,
    rsa_noise_ceiling,
    rsa_scores,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def make_subjects(rng: np.random.Generator, n: int = 4, images: int = 12, noise: float = 0.5) -> np.ndarray:
    """People who share a geometry, and differ by noise."""
    shared = rng.standard_normal((images, 6))
    return np.stack([squareform(pdist(shared + noise * rng.standard_normal(shared.shape))) for _ in range(n)])


def upper(rdm: np.ndarray) -> np.ndarray:
    return np.asarray(rdm[np.triu_indices(len(rdm), k=1)])


def test_tau_a_counts_concordant_less_discordant_of_all_comparisons(rng):
    x, y = rng.integers(0, 5, 25), rng.integers(0, 5, 25)
    signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i in range(25) for j in range(i)]
    assert_allclose(kendall_tau_a(x, y), np.sum(signs) / len(signs))
    smooth = rng.standard_normal((2, 30))
    assert_allclose(kendall_tau_a(*smooth), kendalltau(*smooth).statistic)  # without ties they are the same
    assert kendall_tau_a(np.ones(5), np.arange(5)) == 0.0


def test_copies_of_a_pair_are_not_compared_with_each_other(rng):
    x, y = rng.standard_normal((2, 12))
    twice = np.repeat(np.arange(12), 2)
    assert_allclose(kendall_tau_a(x[twice], y[twice], copies=twice), kendall_tau_a(x, y))
    assert abs(kendall_tau_a(x[twice], y[twice])) < abs(kendall_tau_a(x, y))


def test_scores_of_every_model_and_subject_are_those_of_single_matrices(rng):
    subjects, models = make_subjects(rng), make_subjects(rng, 3)
    for method, reference in (("spearman", spearmanr), ("kendall", kendalltau)):
        expected = [[reference(upper(a), upper(b))[0] for b in subjects] for a in models]
        assert_allclose(rsa_scores(models, subjects, method=method), expected)


def test_the_lower_ceiling_leaves_the_subject_out_and_the_upper_one_does_not(rng):
    subjects = make_subjects(rng)
    ranks = np.stack([np.argsort(np.argsort(upper(rdm))) for rdm in subjects])
    lower, upper_ = rsa_noise_ceiling(subjects)
    for k, own in enumerate(ranks):
        assert_allclose(lower[k], spearmanr(np.delete(ranks, k, axis=0).mean(axis=0), own)[0])
        assert_allclose(upper_[k], spearmanr(ranks.mean(axis=0), own)[0])
    for method in ("spearman", "kendall", "pearson"):
        low, high = rsa_noise_ceiling(subjects, method=method)
        assert low.mean() < high.mean()
        assert rsa_scores(make_subjects(rng, 20), subjects, method=method).mean(axis=1).max() < high.mean()


def test_no_matrix_correlates_better_with_all_than_the_upper_ceiling(rng):
    subjects = make_subjects(rng, images=5)
    most = max(
        rsa_scores(squareform(rng.permutation(10).astype(float)), subjects).mean() for _ in range(2000)
    )
    assert most <= rsa_noise_ceiling(subjects)[1].mean() + 1e-12


def test_resamples_leave_pairs_of_an_image_with_its_copy_out(rng, monkeypatch):
    """Where images are two clusters and the model is right, self-pairs would be extreme in both and raise r."""
    subjects, model = make_subjects(rng, 3, noise=5.0), make_subjects(rng, 1)
    drawn = np.sort(rng.integers(12, size=12))
    monkeypatch.setattr("braindecode_suite.metrics.rsa.draw_images", lambda *_: drawn)
    found = bootstrap_rsa(model, subjects, over_subjects=False, n_resamples=100, seed=0)
    kept = [(i, j) for a, i in enumerate(drawn) for j in drawn[a + 1 :] if i != j]
    assert len(kept) < 66
    i, j = np.array(kept).T
    expected = np.mean([spearmanr(model[0][i, j], rdm[i, j])[0] for rdm in subjects])
    assert_allclose(found, expected)
    with_self = [(i, j) for a, i in enumerate(drawn) for j in drawn[a + 1 :]]
    i, j = np.array(with_self).T
    assert np.mean([spearmanr(model[0][i, j], rdm[i, j])[0] for rdm in subjects]) > expected + 0.1


def test_drawing_subjects_widens_the_interval_where_they_differ(rng):
    model = make_subjects(rng, 1, images=30)
    good, bad = model + 0.01 * make_subjects(rng, 1, images=30), make_subjects(rng, 1, images=30)
    subjects = np.concatenate([good, good, bad, bad])
    images = bootstrap_rsa(model, subjects, over_subjects=False, n_resamples=200, seed=1)
    both = bootstrap_rsa(model, subjects, over_subjects=True, n_resamples=200, seed=1)
    assert both.std() > 1.5 * images.std()


@pytest.mark.slow
def test_the_interval_covers_the_truth_at_its_level():
    """Images drawn from a population: the percentile interval over images covers the population's correlation."""
    rng = np.random.default_rng(3)
    hits, many, runs = 0, 400, 60

    def study(n: int) -> tuple[np.ndarray, np.ndarray]:
        features = rng.standard_normal((n, 5))
        other = features + 1.2 * rng.standard_normal((n, 5))
        return squareform(pdist(features)), squareform(pdist(other))

    truth = rsa(*study(many))
    for run in range(runs):
        model, subject = study(25)
        low, high = np.quantile(
            bootstrap_rsa(model[None], subject[None], over_subjects=False, n_resamples=200, seed=run),
            [0.025, 0.975],
        )
        hits += low <= truth <= high
    assert hits >= 51  # 95 % of 60 is 57; 51 or fewer has a chance below 0.01


def test_relabelled_images_give_the_p_value(rng):
    subjects = make_subjects(rng)
    right = permute_rsa(subjects.mean(axis=0), subjects, n_permutations=1000, seed=0)
    assert right.p_value == 1 / 1001
    assert abs(right.chance) < 0.03
    for method in ("spearman", "kendall"):
        test = permute_rsa(make_subjects(rng, 1), subjects, method=method, n_permutations=1000, seed=0)
        assert test.p_value > 0.02
        assert_allclose(test.null.std(), right.null.std(), rtol=0.6)
    order = np.random.default_rng(0).permutation(12)
    model = subjects[0]
    moved = rsa_scores(model[order][:, order], subjects).mean()
    assert_allclose(permute_rsa(model, subjects, n_permutations=1000, seed=0).null[0], moved)


def test_ceilings_are_resampled_around_their_value(rng):
    subjects = make_subjects(rng, images=25)
    lower, upper_ = bootstrap_noise_ceiling(subjects, n_resamples=100, seed=2)
    observed = [part.mean() for part in rsa_noise_ceiling(subjects)]
    assert np.quantile(lower, 0.01) < observed[0] < np.quantile(lower, 0.99)
    assert (lower < upper_).all()
    assert abs(upper_.mean() - observed[1]) < 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scores_and_ceilings_are_those_of_rsatoolbox(rng):
    toolbox = pytest.importorskip("rsatoolbox", reason="rsatoolbox is not part of the environment")
    subjects, model = make_subjects(rng), make_subjects(rng, 1)
    data, other = toolbox.rdm.RDMs(subjects), toolbox.rdm.RDMs(model)
    for method, name in (("spearman", "spearman"), ("kendall", "tau-a")):
        assert_allclose(
            rsa_scores(model, subjects, method=method)[0], toolbox.rdm.compare(other, data, method=name)[0]
        )
        low, high = toolbox.inference.noise_ceiling.boot_noise_ceiling(data, method=name)
        lower, upper_ = rsa_noise_ceiling(subjects, method=method)
        assert_allclose([lower.mean(), upper_.mean()], [low, high], atol=1e-6)


def test_bad_matrices_are_refused(rng):
    subjects = make_subjects(rng)
    with pytest.raises(InputError, match="`subjects`: expected at least 2 subjects; found 1"):
        rsa_noise_ceiling(subjects[:1])
    with pytest.raises(InputError, match=r"`subjects`: expected shape \(subjects, images=12, images=12\)"):
        rsa_scores(subjects, subjects[:, :5, :5])
    broken = subjects.copy()
    broken[1, 2, 3] = np.nan
    with pytest.raises(InputError, match=r"`subjects`: expected finite values; found 1 NaN"):
        rsa_noise_ceiling(broken)
    broken[1, 2, 3] = 9.0
    with pytest.raises(InputError, match="`models`: expected a symmetric matrix"):
        rsa_scores(broken, subjects)
    with pytest.raises(InputError, match="`n_permutations`: expected at least 1000; found 10"):
        permute_rsa(subjects[0], subjects, n_permutations=10, seed=0)
    with pytest.raises(InputError, match="`n_resamples`: expected at least 100; found 3"):
        bootstrap_rsa(subjects[:1], subjects, n_resamples=3, seed=0)
    with pytest.raises(InputError, match="one of kendall, pearson, spearman; found 'cosine'"):
        permute_rsa(subjects[0], subjects, method="cosine", seed=0)

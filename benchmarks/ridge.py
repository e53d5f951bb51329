"""How fast ridge with a penalty per target is, beside himalaya, scikit-learn and its own matrix products.

- `cv`: 8,000 rows x 768 features to 5,000 targets, 10 penalties, 5 folds, single precision. himalaya's ``RidgeCV`` in four
  settings (numpy or torch on the CPU, default or batched; the fastest of a first round goes on), and scikit-learn's leave-one-out
  ``RidgeCV(alpha_per_target=True)``.
- `subject`: a full Algonauts subject, 8,857 x 768 to 39,548 targets. The bound is the sum of the matrix products that the run
  makes, each timed alone in its own shape and precision.
- `banded`: 3,000 x 1,500 in three bands to 1,000 targets, 12 weightings given to both sides, against himalaya's ``GroupRidgeCV``
  (numpy or torch, the faster on one weighting).

All ratios are of minima over interleaved runs in this process, two threads each. Memory is the peak of anonymous memory in the
first run less what the data take. The peers need minutes: `--parts subject` runs without them.

    python benchmarks/ridge.py --json ridge.json
    python benchmarks/ridge.py --parts cv --repeats 1
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

THREADS = "2"
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = THREADS

import numpy as np
import torch
from himalaya.backend import set_backend
from himalaya.ridge import GroupRidgeCV as HimalayaBanded
from himalaya.ridge import RidgeCV as Himalaya
from sklearn.linear_model import RidgeCV as LeaveOneOut
from torch.utils._python_dispatch import TorchDispatchMode

from braindecode_suite.core.files import write_json
from braindecode_suite.core.manifest import PeakMemory, anonymous_kb
from braindecode_suite.learning.banded_ridge import banded_ridge_cv, sample_gammas
from braindecode_suite.learning.ridge import ridge_cv

ALPHAS = np.logspace(0, 5, 10)
BATCHED = {"n_targets_batch": 1000, "n_alphas_batch": 1}
Product = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def make_data(rows: int, features: int, targets: int, bands: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw correlated features, and targets of which noise is a tenth to all but a hundredth."""
    rng = np.random.default_rng(0)
    width = features // bands
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    X = np.concatenate(
        [
            (rng.standard_normal((rows, width), dtype=np.float32) * spectrum)
            @ rng.standard_normal((width, width), dtype=np.float32)
            for _ in range(bands)
        ],
        axis=1,
    )
    X /= X.std()
    Y = np.empty((rows, targets), np.float32)
    for start in range(0, targets, 1000):
        n = min(1000, targets - start)
        strength = np.sqrt(rng.dirichlet(np.full(bands, 0.5), n).T.repeat(width, axis=0), dtype=np.float32)
        signal = X @ (rng.standard_normal((features, n), dtype=np.float32) * strength)
        signal /= signal.std(axis=0)
        share = rng.uniform(0.01, 0.9, n).astype(np.float32)
        noise = rng.standard_normal((rows, n), dtype=np.float32)
        Y[:, start : start + n] = np.sqrt(share) * signal + np.sqrt(1 - share) * noise
    return X, Y


def seconds(run: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_of(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and by how many GB anonymous memory rose meanwhile."""
    before = anonymous_kb() or 0
    with PeakMemory() as memory:
        found = run()
    return found, ((memory.peak_kb or 0) - before) / 2**20


def folds_of(n: int) -> np.ndarray:
    """Return five folds of consecutive rows, as scikit-learn's ``KFold`` makes them."""
    return np.repeat(np.arange(5), [n // 5 + (k < n % 5) for k in range(5)])


class Products(TorchDispatchMode):
    """Counts the matrix products that torch makes, by shapes and precision."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in ("aten::mm", "aten::addmm", "aten::addmm_"):
            left, right = args[-2:]
            self.counts[tuple(left.shape), tuple(right.shape), left.dtype] += 1
        return func(*args, **(kwargs or {}))

    def bound(self, repeats: int) -> float:
        """Return the seconds of all products, each shape timed alone."""
        total = 0.0
        for (left, right, dtype), count in self.counts.items():
            a, b = torch.randn(left, dtype=dtype), torch.randn(right, dtype=dtype)
            out = torch.empty(left[0], right[1], dtype=dtype)
            total += count * min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(repeats + 1))  # noqa: B023
        return total


def himalaya_fit(backend: str, model: Any, X: np.ndarray, Y: np.ndarray) -> Any:
    """Fit one of himalaya's models under a backend."""
    set_backend(backend)
    return model.fit(X, Y)


def measure_cv(repeats: int) -> dict[str, float]:
    """Compare with himalaya and scikit-learn at 8,000 x 768 to 5,000."""
    X, Y = make_data(8000, 768, 5000)
    ours = partial(ridge_cv, X, Y, folds=folds_of(len(X)), alphas=ALPHAS, relative=False)
    fit, extra = peak_of(ours)

    def himalaya(backend: str, batches: dict[str, int]) -> Any:
        grid = ALPHAS.astype(np.float32)
        model = Himalaya(grid, fit_intercept=True, cv=5, solver_params={**batches, "warn": False})
        return himalaya_fit(backend, model, X, Y)

    settings = {
        f"{backend}{'_batched' if batches else ''}": partial(himalaya, backend, batches)
        for backend in ("numpy", "torch")
        for batches in ({}, BATCHED)
    }
    theirs = np.asarray(himalaya("numpy", BATCHED).best_alphas_)
    loo = LeaveOneOut(ALPHAS, alpha_per_target=True)
    times: dict[str, list[float]] = {"ours": [], "sklearn": [], **{name: [] for name in settings}}
    for _ in range(repeats):
        for name in settings:
            times[name].append(seconds(settings[name]))
            times["ours"].append(seconds(ours))
        best = min(settings, key=lambda name: min(times[name]))
        settings = {best: settings[best]}
        times["sklearn"].append(seconds(lambda: loo.fit(X, Y)))
    least = {name: min(found) for name, found in times.items()}
    peers = [value for name, value in least.items() if name not in ("ours", "sklearn")]
    return {
        "speedup_vs_himalaya": min(peers) / least["ours"],
        "speedup_vs_sklearn_loo": least["sklearn"] / least["ours"],
        "same_alpha_fraction": float(np.isclose(fit.alpha, theirs, rtol=1e-3).mean()),
        "extra_peak_gb": extra,
        **{f"cv_{name}_s": value for name, value in least.items()},
    }


def measure_subject(repeats: int) -> dict[str, float]:
    """Compare a full Algonauts subject with its matrix products."""
    X, Y = make_data(8857, 768, 39548)
    ours = partial(ridge_cv, X, Y, folds=folds_of(len(X)), alphas=ALPHAS, relative=False)
    products = Products()
    with products:
        extra = peak_of(ours)[1]
    bounds, times = [], []
    for _ in range(repeats):
        times.append(seconds(ours))
        bounds.append(products.bound(repeats))
    return {
        "full_subject_over_bound": min(times) / min(bounds),
        "full_subject_extra_peak_gb": extra,
        "full_subject_s": min(times),
        "full_subject_bound_s": min(bounds),
    }


def measure_banded(repeats: int) -> dict[str, float]:
    """Compare banded ridge with himalaya's at 3,000 x 1,500 in three bands to 1,000."""
    X, Y = make_data(3000, 1500, 1000, bands=3)
    gammas = sample_gammas(3, 12, concentration=[1.0])
    ours = partial(
        banded_ridge_cv, X, Y, bands=3, folds=folds_of(len(X)), gammas=gammas, alphas=ALPHAS, relative=False
    )

    def himalaya(backend: str, some: np.ndarray) -> Any:
        solver = {"n_iter": some.astype(np.float32), "alphas": ALPHAS.astype(np.float32), "warn": False}
        groups = np.repeat(np.arange(3), 500)
        model = HimalayaBanded(
            groups=groups, fit_intercept=True, cv=5, solver_params={**solver, "progress_bar": False}
        )
        return himalaya_fit(backend, model, X, Y)

    fit = ours()
    best = min(("numpy", "torch"), key=lambda backend: seconds(lambda: himalaya(backend, gammas[:1])))
    our_times, their_times, models = [], [], []
    for _ in range(repeats):
        their_times.append(seconds(lambda: models.append(himalaya(best, gammas))))
        our_times += [seconds(ours) for _ in range(2)]
    theirs = np.exp(np.asarray(models[0].deltas_, dtype=np.float64))
    theirs /= theirs.sum(axis=0)
    return {
        "banded_speedup_vs_himalaya": min(their_times) / min(our_times),
        "banded_same_winner": float(np.isclose(theirs, fit.gamma, atol=1e-4).all(axis=0).mean()),
        "banded_s": min(our_times),
        f"banded_himalaya_{best}_s": min(their_times),
    }


PARTS = {"cv": measure_cv, "subject": measure_subject, "banded": measure_banded}


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(int(THREADS))
    warnings.simplefilter("ignore")
    figures: dict[str, float] = {}
    for part in options.parts:
        figures |= PARTS[part](options.repeats)
    figures["load_per_core"] = os.getloadavg()[0] / (os.cpu_count() or 1)
    for name, value in figures.items():
        print(f"{name:32} {value:.4g}")
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()

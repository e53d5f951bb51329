"""``bds doctor``: what this machine has, and whether the package works on it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from braindecode_suite.core.device import resolve_device
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.manifest import library_versions


def examine(device: str) -> int:
    """Print versions, device, memory, weights, the cache folder and the result of a self-check; return the exit code."""
    for name, version in library_versions().items():
        print(f"{name:18} {version}")
    print(f"{'device':18} {_device(device)}")
    print(f"{'processors':18} {os.cpu_count()}")
    print(f"{'memory':18} {_memory()}")
    problems = 0
    for name, check in CHECKS.items():
        clock = time.perf_counter()
        try:
            found = check()
        except Exception as error:
            problems += 1
            found = f"FAILED: {' '.join(str(error).split())}"
        print(f"{name:18} {found} ({time.perf_counter() - clock:.1f} s)", flush=True)
    print("all is well" if not problems else f"{problems} problems")
    return 1 if problems else 0


def _device(device: str) -> str:
    import torch

    found = resolve_device(device)
    return f"{found} ({torch.cuda.get_device_name()})" if found == "cuda" else found


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GB"


def _cache() -> str:
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as name:
        Path(name, "probe").write_bytes(b"0")
    return f"{folder} can be written"


def _weights() -> str:
    assets = Path(__file__).resolve().parents[1] / "assets"
    found = {
        folder.name: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        for folder in assets.iterdir()
    }
    if not any(assets.rglob("*.safetensors")):
        raise InputError(assets, expected="the weights of the tiny image models", found="none")
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(found.items()) if size)


def _numerics() -> str:
    """Fit ridge on a linear problem with a known answer, retrieve, and compare."""
    from braindecode_suite.learning.folds import group_folds
    from braindecode_suite.learning.ridge import ridge_cv
    from braindecode_suite.metrics.retrieval import cosine, ranks

    rng = np.random.default_rng(0)
    X, weights = rng.standard_normal((300, 40)), rng.standard_normal((40, 8))
    Y = X @ weights
    fit = ridge_cv(X[:200], Y[:200], folds=group_folds(np.arange(200), 5))
    if (ranks(cosine(fit.predict(X[200:]), Y[200:]), np.arange(100)) > 0).any():
        raise InputError("self-check", expected="a linear problem solved by ridge", found="wrong ranks")
    return "a linear problem solved and retrieved"


def _pipeline() -> str:
    """Write the smallest simulated study, open it and fit ridge to the tiny target."""
    from braindecode_suite.core.protocols import FitContext
    from braindecode_suite.core.split import Split
    from braindecode_suite.datasets import DATASETS, PROTOCOLS
    from braindecode_suite.encoders import ENCODERS
    from braindecode_suite.encoders.targets import make_target

    dataset = DATASETS["simulated-nsd"]
    with tempfile.TemporaryDirectory() as name:
        data_dir, work_dir = Path(name, "data"), Path(name, "work")
        dataset.write(data_dir, size="seconds")
        study = dataset.open(data_dir, dataset.subjects(data_dir)[0], work_dir)
        split: Split = PROTOCOLS[dataset.card.protocols[0]]([study])[0]
        target = make_target("tiny-clip", work_dir)
        ridge = ENCODERS["ridge"]
        model = ridge(ridge.preset(ridge.PRESETS[0]), FitContext(work_dir=work_dir))
        model.fit(split.cohort("train"), split.cohort("validation"), {"retrieval": target})
        rows = len(model.predict(split.cohort("test"))["retrieval"])
    return f"a study simulated, read and decoded: {rows} test trials"


CHECKS: dict[str, Callable[[], str]] = {
    "cache": _cache,
    "weights": _weights,
    "numerics": _numerics,
    "pipeline": _pipeline,
}

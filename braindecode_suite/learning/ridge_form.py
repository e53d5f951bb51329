"""Which form of the ridge solution is the cheapest here, and how much of it fits in memory at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.fold_gram import FoldGram
from braindecode_suite.learning.leave_fold_out import DualRows, PrimalRows
from braindecode_suite.learning.ridge_problem import Problem, RidgeData

MAX_MEMORY = 2**30
BLOCK, MOST_ROWS = 2**25, 2048  # bytes, and rows, of a block on its way through
EIGH = 35.0  # an eigendecomposition of order p takes as long as products of this times p^3 operations
WELL_BELOW = 0.8  # share of the training rows up to which features leave residuals that can be divided by


@dataclass(frozen=True)
class Form:
    """One form, with estimates for one problem.

    Attributes
    ----------
    build : callable
        Takes the data and how many rows (dual: features) to read at once.
    block : int
        That number.
    operations : float
        Floating-point operations in the precision of the products.
    fixed, per_target : float
        Bytes taken beyond data and results.
    """

    build: Callable[[RidgeData, int], Problem]
    block: int
    operations: float
    fixed: float
    per_target: float


def forms(data: RidgeData, n_alphas: int, n_candidates: int, max_memory: int = MAX_MEMORY) -> list[Form]:
    """Return the forms that can solve a problem, cheapest first.

    Parameters
    ----------
    data : RidgeData
    n_alphas, n_candidates : int
        Penalties, and weightings of the bands, that are tried.
    max_memory : int
        Bytes; blocks take a small share.
    """
    n, p, v, k, item = data.n_rows, data.n_features, data.n_targets, data.n_folds, data.dtype.itemsize
    held = data.counts.astype(float)
    largest, squares, cubes = (float(x) for x in (held.max(initial=0), (held**2).sum(), (held**3).sum()))
    room = min(BLOCK, max_memory // 16) // 8
    rows, columns = min(n, MOST_ROWS, max(1, room // p)), min(p, max(1, room // n))
    tables = 8.0 * (3 * k + 2 * n_alphas)

    decompositions = (k + 1) * EIGH * p**3 + 8.0 * k * p**3
    products = (k * (4 + 1.25 * n_alphas) + 4) * p**2 * v
    gram = Form(
        build=FoldGram,
        block=rows,
        operations=4.0 * n * p**2 + 2.0 * n * p * v + n_candidates * (decompositions + products),
        fixed=p**2 * (8.0 * (k + 6) + 2.0 * item * (k + 1)) + 12.0 * rows * p,
        per_target=item * ((k + 9.0) * p + 3 * rows) + tables,
    )

    def trying(rank: int) -> float:
        each = 2 * (n * rank + squares) * v + 2 * squares * rank + 3 * cubes
        return EIGH * rank**3 + 2.0 * rank * (n + rank) * v + n_alphas * each * (k > 0)

    solving = largest * (24 * largest + 2 * item * data.tile)
    primal = Form(
        build=PrimalRows,
        block=rows,
        operations=4.0 * n * p**2 + n_candidates * (2.0 * n * p**2 + trying(p)),
        fixed=40.0 * p**2 + item * (n + largest) * p + 12.0 * rows * p + solving,
        per_target=item * (n + largest + 6.0 * p) + tables,
    )
    dual = Form(
        build=DualRows,
        block=columns,
        operations=2.0 * n**2 * p + n_candidates * trying(n) + 2.0 * n * p * v,
        fixed=n**2 * (8.0 * (data.n_bands + 4) + item) + item * largest * n + 12.0 * columns * n + solving,
        per_target=item * (5.0 * n + columns) + tables,
    )
    found = [gram, dual] + ([primal] if p <= WELL_BELOW * (n - largest) else [])
    return sorted(found, key=lambda form: form.operations)


def make_problem(data: RidgeData, n_alphas: int, n_candidates: int, max_memory: int) -> tuple[Problem, int]:
    """Build the cheapest form that fits, and say how many targets it takes at once.

    Raises
    ------
    InputError
        If not even one target fits in `max_memory`.
    """
    found, n_targets = forms(data, n_alphas, n_candidates, max_memory), data.n_targets
    for form in found:
        at_once = int((max_memory - form.fixed) // form.per_target)
        if at_once >= 1:
            return form.build(data, form.block), -(-n_targets // -(-n_targets // at_once))  # equal batches
    least = min(form.fixed + form.per_target for form in found)
    raise InputError(
        "`max_memory`",
        expected=f"at least {int(np.ceil(least)):,} bytes, what one target of this problem takes",
        found=f"{max_memory:,}",
    )

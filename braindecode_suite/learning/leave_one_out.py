"""Leave-one-out predictions of ridge with one penalty, without a fit for each row left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError


def leave_one_out_hat(X: ArrayLike, *, alpha: float, intercept: bool) -> NDArray[np.float64]:
    """Return the matrix that turns responses into the prediction of each row by a ridge fitted to all others.

    With H the hat matrix of ridge on all rows, the prediction of row i by the others is ``(H y - diag(H) y)_i / (1 - H_ii)``
    (Allen 1974, doi:10.2307/1267500); it is linear in the responses, so that relabelled ones cost a product.

    Parameters
    ----------
    X : array of shape (rows, features)
    alpha : float
        Penalty in units of the mean eigenvalue of the Gram matrix of the centred features.
    intercept : bool
        Whether every fit has its own, unpenalised intercept. Without one, features and responses must have been centred over
        all rows, the held-out one included; features are here.

    Returns
    -------
    array of shape (rows, rows)
        Zero on the diagonal: a row's own response has no part in its prediction.

    Raises
    ------
    InputError
        If the penalty is not positive, features are not finite, or there are fewer than three rows.

    Examples
    --------
    >>> leave_one_out_hat([[1.0], [2.0], [4.0]], alpha=1e9, intercept=True).round(3).tolist()
    [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    """
    rows = np.asarray(X, dtype=np.float64)
    check_shape("X", rows, "rows features")
    check_finite("`X`", rows)
    if len(rows) < 3 or not (alpha > 0 and np.isfinite(alpha)):
        raise InputError(
            "`X`, `alpha`", expected="three rows and a positive penalty", found=f"{len(rows)}, {alpha}"
        )
    centred = rows - rows.mean(axis=0)
    gram = centred.T @ centred
    penalty = alpha * np.trace(gram) / len(gram)
    hat = centred @ np.linalg.solve(gram + penalty * np.eye(len(gram)), centred.T)
    hat += 1 / len(rows) if intercept else 0.0
    own = np.diag(hat).copy()
    np.fill_diagonal(hat, 0.0)
    return np.asarray(hat / (1 - own)[:, None])

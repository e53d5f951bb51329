"""Maps of scores over the brain through nilearn."""

from __future__ import annotations

from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import VoxelSpace
from braindecode_suite.metrics.correlation import Floats


def searchlight_accuracy(
    space: VoxelSpace,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    radius: float,
) -> Floats:
    """Decode from a sphere around every voxel, leaving one group out at a time (Kriegeskorte et al. 2006).

    The classifier is scikit-learn's linear discriminant analysis with Ledoit-Wolf shrinkage: nothing is chosen over spheres.

    Parameters
    ----------
    space : VoxelSpace
    features : array of shape (examples, voxels)
        Preprocessed without any label.
    labels, groups : array of shape (examples,)
    radius : float
        Of the sphere, in millimetres.

    Returns
    -------
    array of shape (voxels,)
        Accuracy averaged over the groups left out.

    Raises
    ------
    InputError
        If the space has no volume, shapes differ, or there are fewer than three groups.
    """
    import warnings

    from nilearn.decoding import SearchLight
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import LeaveOneGroupOut

    if not isinstance(space, VoxelSpace):
        raise InputError("`space`", expected="voxels of a volume", found=str(space.describe()["kind"]))
    check_shape("features", features, "examples voxels", voxels=space.n_units)
    check_shape("labels", labels, "examples", examples=len(features))
    check_shape("groups", groups, "examples", examples=len(features))
    check_finite("`features`", features)
    if not radius > 0:
        raise InputError("`radius`", expected="millimetres above 0", found=str(radius))
    if len(np.unique(groups)) < 3:
        raise InputError("`groups`", expected="at least three", found=str(len(np.unique(groups))))
    mask: Any = space.inverse_transform(np.ones(space.n_units, np.float32))
    light = SearchLight(
        mask_img=mask,
        radius=radius,
        estimator=LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        scoring="accuracy",
        cv=LeaveOneGroupOut(),
        n_jobs=1,
    )
    names, index = np.unique(labels.astype(str), return_inverse=True)
    if len(names) < 2:
        raise InputError("`labels`", expected="at least two classes", found=", ".join(names))
    with warnings.catch_warnings():  # nilearn warns of every estimator but its own two
        warnings.filterwarnings("ignore", message="Use a custom estimator")
        light.fit(space.inverse_transform(features), index, groups=groups)
    return np.asarray(light.scores_, np.float64)[space.mask]

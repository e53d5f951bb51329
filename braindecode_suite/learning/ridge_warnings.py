"""What a ridge fit may warn of; each says how many targets are concerned."""

from __future__ import annotations


class RidgeWarning(UserWarning):
    """Something about a ridge fit that its reader should know."""


class GridEdgeWarning(RidgeWarning):
    """The best penalty of a predictable target lies at the edge of the grid."""


class ConditioningWarning(RidgeWarning):
    """The best penalty of a predictable target is the smallest that the precision of the predictors allows."""


class MissingTargetWarning(RidgeWarning):
    """Targets hold NaN or never vary: they are scored as missing."""

"""What a ridge fit may warn of; each says how many targets are concerned."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

INSIDE = (str(Path(__file__).parent), "_contextlib.py")  # this room, and torch's decorator around it


class RidgeWarning(UserWarning):
    """Something about a ridge fit that its reader should know."""


class GridEdgeWarning(RidgeWarning):
    """The best penalty of a predictable target lies at the edge of the grid."""


class ConditioningWarning(RidgeWarning):
    """The best penalty of a predictable target is the smallest that the precision of the predictors allows."""


class MissingTargetWarning(RidgeWarning):
    """Targets hold NaN or never vary: they are scored as missing."""


def warn(text: str, category: type[RidgeWarning]) -> None:
    """Warn at the line that called a fit, however many of our own functions lie between."""
    frame, level = sys._getframe(), 1
    while frame.f_back and (
        frame.f_code.co_filename.startswith(INSIDE[0]) or INSIDE[1] in frame.f_code.co_filename
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)

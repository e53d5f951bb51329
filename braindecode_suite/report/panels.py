"""A section of its own for a kind of analysis: a title, figures and tables with what to look for."""

from __future__ import annotations

from dataclasses import dataclass, field

from braindecode_suite.report.figures import FigureBlock
from braindecode_suite.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Part:
    """One heading with a figure or a table, or both, and what to look for in the table."""

    title: str
    figure: FigureBlock | None = None
    table: Table | None = None
    look_for: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A section of the report.

    Attributes
    ----------
    slug, title : str
    parts : list of Part
    """

    slug: str
    title: str
    parts: list[Part] = field(default_factory=list)

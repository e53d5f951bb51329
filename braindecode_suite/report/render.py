"""Templates to text: jinja2 with everything escaped that is not ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from braindecode_suite.report import wording


@cache
def environment() -> Environment:
    """Return the template environment: escaping on, an unknown name is an error."""
    env = Environment(
        loader=PackageLoader("braindecode_suite.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": wording.number,
        "integer": wording.integer,
        "seconds": wording.seconds,
        "plain": wording.plain,
        "links": links,
        "yaml": as_yaml,
        "slug": slug,
    }
    return env


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a page: the template with its stylesheet inlined."""
    style = files("braindecode_suite.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    page = environment().get_template(template).render(style=Markup(style), **context)
    return re.sub(r"\n\s*\n+", "\n", page)


def links(text: Any) -> Markup:
    """Return text escaped, with its web addresses as links.

    Examples
    --------
    >>> links("see <https://doi.org/10.1/x>.")
    Markup('see &lt;<a href="https://doi.org/10.1/x" rel="noopener noreferrer">https://doi.org/10.1/x</a>&gt;.')
    """
    parts = re.split(r"(https?://[^\s<>\"']*[^\s<>\"'.,;:)\]])", str(text))
    shown = [
        Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>').format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    ]
    return Markup("").join(shown)


def as_yaml(value: Any) -> str:
    """Return plain data as YAML."""
    return yaml.safe_dump(
        json.loads(json.dumps(value, default=str)), sort_keys=False, allow_unicode=True, width=100
    )


def slug(text: Any) -> str:
    """Return text as an id: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-") or "x"

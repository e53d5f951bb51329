"""A catalogue: readable names to things imported on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from braindecode_suite.core.errors import UnknownName


class Registry(Mapping[str, Any]):
    """A mapping ``name -> "module:attribute"`` that imports an entry when it is asked for.

    Parameters
    ----------
    kind : str
        What the entries are, for the messages.
    entries : dict of str to str
        Underscores in a requested name are read as hyphens.

    Examples
    --------
    >>> shelf = Registry("number", {"pi": "math:pi"})
    >>> round(shelf["pi"], 2), list(shelf)
    (3.14, ['pi'])
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind, self._entries = kind, dict(entries)

    def resolve(self, name: str) -> str:
        """Return the catalogue's spelling of `name`, or raise `UnknownName`."""
        plain = name.replace("_", "-")
        if plain in self._entries:
            return plain
        close = get_close_matches(plain, self._entries, n=1)
        raise UnknownName(
            self.kind,
            expected=f"one of {', '.join(sorted(self._entries))}",
            found=repr(name),
            hint=f"did you mean {close[0]!r}?" if close else "",
        )

    def __getitem__(self, name: str) -> Any:
        module, attribute = self._entries[self.resolve(name)].split(":")
        return getattr(import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.replace("_", "-") in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def where(self, name: str) -> str:
        """Return ``"module:attribute"`` of an entry without importing it."""
        return self._entries[self.resolve(name)]

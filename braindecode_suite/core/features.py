"""Image features: tokens on a grid over the image, what a source of them promises, and how they are kept on disk.

A source is a `Target` (name, tokens, width, `embed`) that also knows where its tokens lie and gives them row by row. Rows are
kept in half precision, in blocks that are memory-mapped and never rewritten: what a crash leaves is whole, and an image that
was read once is not read again, whichever others are asked for beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.embed import unique_ids
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import Target
from braindecode_suite.core.study import Responses, Stimuli

Rows = Responses
"""Anything with ``shape``, ``dtype`` and reading of rows by slice or index array; here of shape (images, tokens, width)."""

BLOCK_BYTES = 256 << 20
OPEN_BLOCKS = 64


@dataclass(frozen=True, eq=False)
class Grid:
    """Where tokens lie on the image: row by row from the top left, a class token before them where there is one.

    Attributes
    ----------
    height, width : int
        Rows and columns of tokens; 0 by 0 for a class token or a pooled vector alone.
    has_cls : bool
        Whether a token without a place comes first.
    seen : array of bool of shape (height, width) or None
        False where a token shows padding for the most part; None: every token shows the image.
    """

    height: int
    width: int
    has_cls: bool = False
    seen: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.seen is not None:
            check_shape("seen", self.seen, "height width", height=self.height, width=self.width)

    @property
    def tokens(self) -> int:
        """Number of tokens, the class token included."""
        return self.height * self.width + self.has_cls

    @property
    def mask(self) -> np.ndarray:
        """Which tokens may be attended to, booleans of shape (tokens,); the class token always."""
        seen = np.ones((self.height, self.width), bool) if self.seen is None else self.seen
        return np.concatenate([np.ones(int(self.has_cls), bool), seen.ravel()])

    def on_image(self, values: np.ndarray) -> np.ndarray:
        """Lay values (..., tokens) out as (..., height, width), the class token left out.

        Examples
        --------
        >>> Grid(1, 2, has_cls=True).on_image(np.array([9, 1, 2])).tolist()
        [[1, 2]]
        """
        if values.shape[-1:] != (self.tokens,):
            raise InputError("`values`", expected=f"{self.tokens} tokens last", found=str(values.shape))
        return values[..., int(self.has_cls) :].reshape(*values.shape[:-1], self.height, self.width)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the grid, as plain data."""
        seen = None if self.seen is None else data_hash(self.seen)
        return {"height": self.height, "width": self.width, "has_cls": self.has_cls, "seen": seen}


@runtime_checkable
class FeatureSource(Target, Protocol):
    """A target whose tokens lie on a grid over the image, and can be read row by row without loading them all."""

    @property
    def grid(self) -> Grid: ...

    def rows(self, stimuli: Stimuli, ids: Sequence[str]) -> Rows:
        """Return features of shape (ids, tokens, width), one row for each of `ids` in their order."""
        ...


class FeatureStore:
    """Features on disk by stimulus id: float16 blocks with a JSON manifest each, added to and never rewritten.

    Parameters
    ----------
    folder : Path
        Blocks lie in a folder of their own below it, named by the hash of `key`.
    key : dict
        What the features depend on besides the id: network, layer, image files.
    tokens, width : int

    Examples
    --------
    >>> import tempfile
    >>> store = FeatureStore(Path(tempfile.mkdtemp()), {"layer": 1}, tokens=2, width=3)
    >>> store.rows(["a", "b", "a"], lambda ids: np.ones((len(ids), 2, 3)))[1:].shape
    (2, 2, 3)
    """

    def __init__(self, folder: Path, key: dict[str, Any], *, tokens: int, width: int) -> None:
        self.folder, self.key, self.shape = folder / data_hash(key), key, (tokens, width)

    def rows(self, ids: Sequence[str], compute: Callable[[Sequence[str]], np.ndarray]) -> FeatureRows:
        """Return one row for each of `ids` (they may repeat), computing those that are not on disk, block by block.

        Parameters
        ----------
        ids : sequence of str
        compute : callable
            Ids to features of shape (ids, tokens, width).

        Raises
        ------
        InputError
            If a feature is not finite, or too large for half precision.
        """
        wanted = [str(i) for i in ids]
        places = self._places()
        missing = [i for i in unique_ids(wanted) if i not in places]
        size = max(1, BLOCK_BYTES // (2 * int(np.prod(self.shape))))
        cache = ArrayCache(self.folder)
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            key = {**self.key, "ids": some}
            cache.get(key, lambda some=some: self._halved(some, compute(some)))  # type: ignore[misc]
            places |= {i: (cache.path(key), row) for row, i in enumerate(some)}
        return FeatureRows([places[i] for i in wanted], self.shape)

    def _places(self) -> dict[str, tuple[Path, int]]:
        """Return the block and the row of every id on disk; a block that cannot be mapped whole does not count."""
        places: dict[str, tuple[Path, int]] = {}
        for manifest in sorted(self.folder.glob("*.json")):
            path, ids = manifest.with_suffix(".npy"), json.loads(manifest.read_text())["key"]["ids"]
            try:
                block = np.load(path, mmap_mode="r", allow_pickle=False)
            except (FileNotFoundError, ValueError, EOFError):
                path.unlink(missing_ok=True)
                continue
            if block.shape == (len(ids), *self.shape):
                places |= {i: (path, row) for row, i in enumerate(ids)}
        return places

    def _halved(self, ids: Sequence[str], features: np.ndarray) -> np.ndarray:
        tokens, width = self.shape
        check_shape("features", features, "images tokens width", images=len(ids), tokens=tokens, width=width)
        with np.errstate(over="ignore"):
            half = features.astype(np.float16)
        bad = ~np.isfinite(half).all(axis=(1, 2))
        if bad.any():
            raise InputError(
                "features",
                expected="finite numbers below 65504, which half precision can hold",
                found=f"others in {int(bad.sum())} of {len(ids)} images, e.g. {ids[int(bad.argmax())]!r}",
            )
        return half


class FeatureRows:
    """Rows of a `FeatureStore`, read from memory-mapped blocks when they are asked for.

    Attributes
    ----------
    shape : tuple of int
        (rows, tokens, width)
    dtype : dtype
        float16
    """

    dtype = np.dtype(np.float16)

    def __init__(self, places: Sequence[tuple[Path, int]], shape: tuple[int, int]) -> None:
        self.shape = (len(places), *shape)
        paths = list(dict.fromkeys(path for path, _ in places))
        number = {path: k for k, path in enumerate(paths)}
        self._block = np.array([number[path] for path, _ in places], np.int64)
        self._row = np.array([row for _, row in places], np.int64)
        self._open = lru_cache(OPEN_BLOCKS)(
            lambda k: np.load(paths[k], mmap_mode="r", allow_pickle=False)
        )  # each open map holds a file descriptor

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return features of `rows`, float16 of shape (rows, tokens, width)."""
        block, row = self._block[rows], self._row[rows]
        out = np.empty((len(block), *self.shape[1:]), self.dtype)
        for k in np.unique(block):
            here = np.flatnonzero(block == k)
            out[here] = self._open(int(k))[row[here]]
        return out


def check_sources(features: Sequence[FeatureSource]) -> None:
    """Raise unless there is at least one source, and no two of one name."""
    names = [source.name for source in features]
    if not names:
        raise InputError("`features`", expected="at least one source of features", found="none")
    again = [name for name in names if names.count(name) > 1]
    if again:
        raise InputError("`features`", expected="sources of different names", found=f"{again[0]!r} twice")


def check_known_sources(folder: Path, known: Collection[str], features: Sequence[FeatureSource]) -> None:
    """Raise if a source is not among those that the model saved in `folder` was fitted to."""
    for source in features:
        if source.name not in known:
            raise InputError(folder, expected=f"features {', '.join(known)}", found=repr(source.name))


def rows_by_source(
    images: np.ndarray | Mapping[str, Rows],
    shapes: Mapping[str, tuple[int, int]],
    sources: Mapping[str, FeatureSource],
) -> dict[str, Rows]:
    """Return features of images by source, lazily: those given, or read from the images when rows are asked for.

    Parameters
    ----------
    images : array of uint8 of shape (images, height, width, 3), or mapping of source name to Rows
    shapes : mapping of source name to (tokens, width)
        What a model was fitted to.
    sources : mapping of source name to FeatureSource
        Needed for images only.

    Raises
    ------
    InputError
        If features are missing, or of another shape or number than the others.
    """
    for name in shapes:
        if name not in (images if isinstance(images, Mapping) else sources):
            here = (
                "features of these images" if isinstance(images, Mapping) else "a source to read images with"
            )
            raise InputError(
                f"features {name!r}", expected=here, found="none", hint="give the model's features"
            )
    if not isinstance(images, Mapping):
        return {name: _RowsOfImages(sources[name], images) for name in shapes}
    n_images = len(images[next(iter(shapes))])
    for name, (tokens, width) in shapes.items():
        check_shape(
            f"features {name}",
            images[name],
            "images tokens width",
            images=n_images,
            tokens=tokens,
            width=width,
        )
    return {name: images[name] for name in shapes}


class _RowsOfImages:
    """Features of images in memory, computed when rows are asked for and rounded as those on disk are."""

    dtype = np.dtype(np.float16)

    def __init__(self, source: FeatureSource, images: np.ndarray) -> None:
        self.source, self.images = source, images
        self.shape = (len(images), source.tokens, source.width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        chosen = self.images[rows]
        return (
            self.source.embed_images(chosen).astype(np.float16)
            if len(chosen)
            else np.empty((0, *self.shape[1:]), np.float16)
        )

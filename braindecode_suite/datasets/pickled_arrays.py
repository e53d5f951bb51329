"""Dicts of arrays that were pickled, or saved with ``numpy.save`` of a dict: read without unpickling, arrays mapped where they lie.

As in `pickled_mapping`, the instructions are followed as data and nothing is looked up, imported or called. Large arrays are not
read: a pickle keeps their bytes in one piece, so that a map of the file shows them.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import DAMAGED, one_line
from braindecode_suite.datasets.pickled_mapping import _Named, _step

LARGE = 2**16
"""Longer strings of bytes are left in the file."""
MOST_INSTRUCTIONS = 2_000_000
KINDS = "biufU"


class _Span(bytes):
    """Bytes that were left in the file: where they begin and how many they are."""

    offset: int
    size: int

    def __len__(self) -> int:
        return self.size


class _Skipping:
    """A file whose long strings of bytes are skipped rather than read."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.size = stream, size

    def read(self, n: int) -> bytes:
        if n <= LARGE:
            return self.stream.read(n)
        span = _Span()
        span.offset = self.stream.tell()
        span.size = min(n, self.size - span.offset)
        self.stream.seek(span.size, 1)
        return span

    def readline(self) -> bytes:
        return self.stream.readline(LARGE)

    def tell(self) -> int:
        return self.stream.tell()


def read_arrays(path: Path) -> dict[str, Any]:
    """Return a dict of arrays, numbers, strings and lists of them from a pickle, bare or inside a ``.npy`` file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to value
        Arrays are read-only; large ones are maps of the file.

    Raises
    ------
    InputError
        If the file is damaged, or holds anything but such a dict; nothing of it is executed.
    """
    check_file(path, "a pickled dict of arrays")
    with path.open("rb") as stream:
        if stream.read(6) == b"\x93NUMPY":
            stream.seek(0)
            _skip_header(path, stream)
        else:
            stream.seek(0)
        content = _interpret(path, _Skipping(stream, path.stat().st_size))
    if not isinstance(content, dict) or not all(type(key) is str for key in content):
        raise InputError(path, expected="a dict with names as keys", found=type(content).__name__.lstrip("_"))
    return content


def _skip_header(path: Path, stream: IO[bytes]) -> None:
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
    except DAMAGED as error:
        raise InputError(path, expected="a .npy file", found=one_line(error)) from error
    if dtype != np.dtype(object) or shape != ():
        raise InputError(path, expected="one dict saved as .npy", found=f"an array of {dtype}, shape {shape}")


def _interpret(path: Path, stream: _Skipping) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
            if operation.name == "STOP":
                return _resolve(path, stack.pop())
            if count > MOST_INSTRUCTIONS:
                raise InputError(
                    path,
                    expected=f"at most {MOST_INSTRUCTIONS} instructions",
                    found="more",
                    hint="it was not run",
                )
            if operation.name in ("BINFLOAT", "BINBYTES8"):
                stack.append(argument)
            else:
                _step(path, operation.name, argument, stack, memo)
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, expected="a whole pickled dict of arrays", found=one_line(error)) from error
    raise InputError(path, expected="a whole pickled dict of arrays", found="a file that ends early")


def _resolve(path: Path, value: Any) -> Any:
    """Turn what numpy would make into arrays, in dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: _resolve(path, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_resolve(path, each) for each in value)
    if isinstance(value, _Named):
        return _array(path, value)
    return value


def _array(path: Path, made: _Named) -> Any:
    """Return the array that `made` stands for: its state is (version, shape, dtype, Fortran order, bytes or list)."""
    if not made.name.endswith("_reconstruct") or not isinstance(made.state, tuple) or len(made.state) != 5:
        raise InputError(path, expected="arrays of numbers", found=f"something {made.name}")
    _, shape, kind, fortran, content = made.state
    if isinstance(content, list):
        if shape == () and len(content) == 1:
            return _resolve(path, content[0])
        raise InputError(path, expected="arrays of numbers", found=f"an array of objects of shape {shape}")
    dtype = _dtype(path, kind)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if not isinstance(content, bytes) or len(content) != size:
        found = f"{len(content)} bytes" if isinstance(content, bytes) else type(content).__name__
        raise InputError(path, expected=f"{size} bytes of an array of shape {shape}", found=found)
    order: Any = "F" if fortran else "C"
    array: NDArray[Any]
    if isinstance(content, _Span):
        array = np.memmap(path, dtype, mode="r", offset=content.offset, shape=shape, order=order)
    else:
        array = np.frombuffer(content, dtype).reshape(shape, order=order)
    return array


def _dtype(path: Path, made: Any) -> np.dtype[Any]:
    """Return the type that `made` stands for: dtype(code, ...) filled with (version, byte order, ...)."""
    if not isinstance(made, _Named) or not made.name.endswith("dtype"):
        raise InputError(path, expected="arrays of numbers", found="an array without a type")
    code, order = made.arguments[0], made.state[1] if isinstance(made.state, tuple) else "="
    dtype = np.dtype(code)
    if dtype.kind not in KINDS:
        raise InputError(path, expected="arrays of numbers or text", found=f"an array of {dtype}")
    return dtype.newbyteorder("=" if order == "|" else order)

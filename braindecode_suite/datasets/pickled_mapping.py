"""Mappings from numbers to names that were saved with ``numpy.save`` of a dict, and are pickles therefore: read without unpickling.

A pickle is a program. `read_mapping` walks through its instructions as data, with a stack of its own: numbers, strings, dicts, and the
three names that numpy needs to wrap a dict as an array of no dimensions, which are noted and never looked up, imported or
called. Anything else ends the reading.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import DAMAGED, one_line

MAX_BYTES = 2**20
_NUMPY_NAMES = {
    f"{module} {name}"
    for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
    for name in ("_reconstruct", "ndarray", "dtype")
}
_PLAIN = {
    "BININT", "BININT1", "BININT2", "INT", "LONG1",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclass(eq=False)
class _Named:
    """A name of numpy, or what a pickle would make with it and `arguments`; `state` is what it would be filled with."""

    name: str
    arguments: Any = None
    state: Any = None


_MARK = object()


def read_mapping(path: Path) -> dict[int, str]:
    """Return a mapping of whole numbers to names from a ``.npy`` file that holds one pickled dict.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of int to str

    Raises
    ------
    InputError
        If the file is damaged, larger than a megabyte, or holds anything but a dict of whole numbers and strings; nothing of
        it is executed.
    """
    check_file(path, "a mapping of label values to names")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(path, expected=f"a mapping of at most {MAX_BYTES} bytes", found=f"{size}")
    stream = io.BytesIO(path.read_bytes())
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
    content = _interpret(path, stream.read())
    if not isinstance(content, dict):
        raise InputError(path, expected="a dict", found=type(content).__name__.lstrip("_"))
    for key, value in content.items():
        if type(key) is not int or type(value) is not str:
            raise InputError(path, expected="whole numbers to names", found=f"{key!r}: {value!r}"[:120])
    return content


def _interpret(path: Path, program: bytes) -> Any:
    """Follow the instructions of a pickle as data; return what numpy's array of no dimensions would hold."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for operation, argument, _ in pickletools.genops(program):
            if operation.name == "STOP":
                return _unwrap(path, stack.pop())
            _step(path, operation.name, argument, stack, memo)
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, expected="a whole pickled dict", found=one_line(error)) from error
    raise InputError(path, expected="a whole pickled dict", found="a file that ends early")


def _step(path: Path, name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in ("PROTO", "FRAME"):
        return
    if name in _PLAIN:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "TUPLE":
        stack.append(tuple(_pop_to_mark(stack)))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        n = int(name[-1])
        stack[-n:] = [tuple(stack[-n:])]
    elif name in ("SETITEM", "SETITEMS"):
        items = _pop_to_mark(stack) if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
        _expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
    elif name in ("APPEND", "APPENDS"):
        items = _pop_to_mark(stack) if name == "APPENDS" else [stack.pop()]
        _expect(stack[-1], list).extend(items)
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        if name == "STACK_GLOBAL":
            argument = " ".join(reversed([str(stack.pop()), str(stack.pop())]))
        if argument not in _NUMPY_NAMES:
            found = f"a pickle that would call {argument.replace(' ', '.')}"
            raise InputError(path, expected="a dict of numbers and names", found=found, hint="it was not run")
        stack.append(_Named(argument))
    elif name == "REDUCE":
        arguments = stack.pop()
        stack[-1] = _Named(f"made by {_expect(stack[-1], _Named).name}", arguments)
    elif name == "BUILD":
        state = stack.pop()
        _expect(stack[-1], _Named).state = state
    else:
        found = f"the pickle instruction {name}"
        raise InputError(path, expected="a dict of numbers and names", found=found, hint="it was not run")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    start = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[start + 1 :]
    del stack[start:]
    return items


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__.lstrip('_')} should be")
    return value


def _unwrap(path: Path, made: Any) -> Any:
    """Return the one element of numpy's array of no dimensions: its state is (version, shape, dtype, order, [element])."""
    if not isinstance(made, _Named):
        return made
    state = made.state
    if not (
        isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], list) and len(state[4]) == 1
    ):
        raise InputError(path, expected="one dict", found="another array")
    return state[4][0]

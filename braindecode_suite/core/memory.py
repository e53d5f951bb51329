"""Freed memory is kept while a network is trained on the CPU, instead of being returned to the system at every step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
DEFAULT_TRIM_THRESHOLD, DEFAULT_MMAP_MAX = 128 * 1024, 65536


@contextmanager
def reuse_freed_memory() -> Iterator[None]:
    """Keep large freed blocks for the next allocation.

    glibc maps and unmaps every large block, so that each activation of each training step is zeroed page by page by the
    kernel. Inside this context it does not; at the end everything free is returned. It does nothing with another C library
    (macOS, Windows, musl).

    Examples
    --------
    >>> with reuse_freed_memory():
    ...     pass
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)
        libc.malloc_trim(0)

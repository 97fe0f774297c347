"""How the process keeps and returns memory (glibc only; elsewhere nothing changes)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["return_freed_memory", "reused_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt` (malloc.h)."""
USUAL = {M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25, M_MMAP_MAX: 2**16}
"""The values that glibc itself arrives at in a process that has freed large tensors."""
REUSING = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_MAX: 0}


@contextmanager
def reused_memory() -> Iterator[None]:
    """A context in which the memory of a freed tensor stays in the process and is used again.

    Usually, glibc maps new pages for every large tensor. The system zeroes each page when it is
    first touched, which can take longer than the arithmetic: without it, a linear layer in bfloat16
    takes half the time. `return_freed_memory` returns what is free.
    """
    _set(REUSING)
    try:
        yield
    finally:
        _set(USUAL)
        return_freed_memory()


def return_freed_memory() -> None:
    """Return freed memory to the system; glibc would keep some of it."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _set(parameters: dict[int, int]) -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in parameters.items():
            mallopt(parameter, value)

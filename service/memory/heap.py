"""Giving memory that is free back to the system: what is let go of would stay the process's otherwise."""

import ctypes
import gc
from collections.abc import Callable


def _found() -> Callable[[int], int] | None:
    """Return glibc's way to give free pages back, if this is glibc."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


_trim = _found()


def collect() -> None:
    """Let go of what only holds itself. The more there is in memory, the longer this takes."""
    gc.collect()


def give_back() -> None:
    """Give free pages back, where that can be asked for."""
    if _trim:
        _trim(0)

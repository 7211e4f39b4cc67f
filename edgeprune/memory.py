"""Memory that was freed: kept for what is asked for next, or given back between steps that ask for different things."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER, _NONE = -1, 0


def keep_freed() -> bool:
    """Let this process keep what it frees; return whether it does from here on.

    glibc gives a block of more than 32 MB back to the kernel as soon as it is freed, and the next step of training gets
    it anew, page by page and zeroed: a quarter of the time that EfficientNet-Lite0 takes in batches of 16 on a
    processor. What the process held at its peak it then holds until ``give_back``. No result hangs on it. Left as it is
    where the C library is another, or where the user's environment says how memory is to be had.
    """
    library = _glibc()
    if library is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return False
    asked = ((_M_MMAP_MAX, _NONE), (_M_TRIM_THRESHOLD, _NEVER))
    return all([library.mallopt(option, value) == 1 for option, value in asked])


def give_back() -> None:
    """Give the kernel what this process has freed, in the arenas of all its threads, those that ended among them.

    Else what the workers of a search held at their peak stays beside what training takes. Nothing happens where the C
    library is not glibc.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None

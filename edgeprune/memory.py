"""Memory that was freed is kept for what is asked for next."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER, _NONE = -1, 0


def keep_freed() -> bool:
    """Let this process keep what it frees; return whether it does from here on.

    glibc gives a block of more than 32 MB back to the kernel as soon as it is freed, and the next step of training gets
    it anew, page by page and zeroed: a quarter of the time that EfficientNet-Lite0 takes in batches of 16 on a
    processor. What the process held at its peak it then holds to its end. No result hangs on it. Left as it is where
    the C library is another, or where the user's environment says how memory is to be had.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if told or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    asked = ((_M_MMAP_MAX, _NONE), (_M_TRIM_THRESHOLD, _NEVER))
    return all([library.mallopt(option, value) == 1 for option, value in asked])

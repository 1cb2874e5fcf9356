"""Keep memory that a training frees with the process, where the C library is glibc.

Of the tens of megabytes of gradients and activations that an update frees, glibc gives what is at the end
of its heap back to the system, and the next update has to have the pages cleared again: how many is chance.
"""

from __future__ import annotations

import ctypes
import sys

# mallopt's names for what to set (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 1 << 30
# The largest that glibc takes. (Where only the other is set, this no longer follows what is freed.)
_MAPPED_FROM = 32 << 20


def keep_freed_memory() -> None:
    """Keep up to 1 GiB of freed memory for what is allocated next; do nothing without glibc."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(_MMAP_THRESHOLD, _MAPPED_FROM)
        mallopt(_TRIM_THRESHOLD, _KEPT)

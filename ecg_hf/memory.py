"""Memory that was freed, given back to the machine."""

from __future__ import annotations

import ctypes
import sys

import pyarrow as pa

# Of glibc; other C libraries have no such call.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def release_unused() -> None:
    """Give back what Arrow and the C library keep of memory that was freed: of many records several times what is left
    of them."""
    pa.default_memory_pool().release_unused()
    if _trim is not None:
        _trim(0)


__all__ = ["release_unused"]

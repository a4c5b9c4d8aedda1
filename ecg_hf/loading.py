"""How the package loads its own modules when they are first used."""

from __future__ import annotations

import gc
import importlib
from types import ModuleType


def load(name: str) -> ModuleType:
    """The module `ecg_hf.<name>`, imported without the garbage collector.

    What torch and transformers make while they load stays until the end, and to look for garbage among it over and
    over takes a fifth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(f"{__package__}.{name}")
    finally:
        if collects:
            gc.enable()


__all__ = ["load"]

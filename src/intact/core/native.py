"""The compiled part of intact, where it was built."""

import importlib
from types import ModuleType

__all__ = ["native"]


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("intact._native")
    except ModuleNotFoundError:  # installed where no compiler was found
        return None


native = _load()

"""Name to class by file name: the only registry there is.

A plug-in named ``bn-thing`` lives in ``bn_thing.py`` of its folder and is the one class defined there that
carries a ``name`` equal to it. A file is imported only when its name is asked for, so an unused agent costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from edgeprune.errors import BadOption, nearest


def names(folder: str) -> list[str]:
    """Return the sorted names of everything found in ``edgeprune/<folder>``; imports nothing, for it reads the text."""
    files = (Path(__file__).parent / folder).glob("*.py")
    return sorted(name for f in files if _defines(f, name := f.stem.replace("_", "-")))


def _defines(file: Path, name: str) -> bool:
    """Return whether a file gives one of its classes this name."""
    return re.search(rf'^    name(: ClassVar\[str\])? = "{name}"$', file.read_text(encoding="utf-8"), re.M) is not None


def find(folder: str, name: str) -> type[Any]:
    """Import ``edgeprune/<folder>/<name>.py`` and return its class called ``name``.

    Raises BadOption naming the nearest known name.
    """
    if name not in names(folder):
        raise BadOption(f"unknown {folder.rstrip('s')} {name!r}{nearest(name, names(folder))}")
    module = importlib.import_module(f"edgeprune.{folder}.{name.replace('-', '_')}")
    for _, value in inspect.getmembers(module, inspect.isclass):
        if value.__module__ == module.__name__ and getattr(value, "name", None) == name:
            return value
    raise AssertionError(f"{module.__name__} defines no class whose name is {name!r}")

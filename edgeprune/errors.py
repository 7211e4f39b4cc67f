"""Every error edgeprune raises on purpose.

    EdgepruneError
    ├── BadInput            exit 2: something the user gave cannot be used
    │   ├── BadOption       an option, name or unit that is not understood
    │   ├── BadModel        a model file or module that cannot be loaded, run or exported
    │   │   └── UnsafeModel a file that would run code when loaded
    │   ├── BadData         a dataset that is missing, empty, damaged or of the wrong shape
    │   ├── BadBuild        a folder that is not, or no longer, a build edgeprune wrote
    │   └── UnmetRequirement  a pass or agent cannot work on this model with these options
    ├── Infeasible          exit 3: the budget lies outside the reachable range
    └── Lacking             exit 4: the environment lacks something
        ├── MissingPackage  an optional package is not installed
        └── NoSpace         the disk is full or read-only

Anything else that escapes is a bug: the command line shows its traceback and exits 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgepruneError(Exception):
    """Root of every error raised on purpose; its text says how to mend the cause."""

    exit_code = 1


class BadInput(EdgepruneError):
    """Raised when something the user gave cannot be used."""

    exit_code = 2


class BadOption(BadInput):
    """Raised when an option, a name or a unit is not understood."""


class BadModel(BadInput):
    """Raised when a model cannot be loaded, run, checked or exported."""


class UnsafeModel(BadModel):
    """Raised when loading a file would run code it carries."""


class BadData(BadInput):
    """Raised when a dataset is missing, empty, damaged or of the wrong shape."""


class BadBuild(BadInput):
    """Raised when a folder is not a build, or was changed since edgeprune wrote it."""


class UnmetRequirement(BadInput):
    """Raised by a pass or agent, before any work, when model or options do not suit it."""


class Infeasible(EdgepruneError):
    """Raised before the search when no plan can meet the budget; names the reachable range."""

    exit_code = 3


class Lacking(EdgepruneError):
    """Raised when the environment lacks a package, a permission or space."""

    exit_code = 4


class MissingPackage(Lacking):
    """Raised at the point of use when an optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}; install it with: pip install 'edgeprune[{extra}]'")


class NoSpace(Lacking):
    """Raised when a file cannot be written because the disk is full or read-only."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` or a list of what is known, to end a message with."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"

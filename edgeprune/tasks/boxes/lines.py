"""Text files that say what a dataset holds, read so that a mistake is named with its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import BadData

NAMED = 5
"""How many files a message names before it only counts."""


def text_of(file: Path) -> str:
    """Return a text file's content. Raises BadData if it cannot be read or is not text."""
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{file} is not text; replace or remove it") from error
    except OSError as error:
        raise BadData(f"{file} cannot be read ({error.strerror}); replace or remove it") from error


def number_of(word: str, where: str) -> float:
    """Return a finite number. Raises BadData, saying ``where``, for anything else."""
    try:
        value = float(word)
    except ValueError as error:
        raise BadData(f"{where}: {word[:40]!r} is not a number; mend the line or remove it") from error
    if not math.isfinite(value):
        raise BadData(f"{where}: {word[:40]!r} is not a finite number; mend the line or remove it")
    return value


def listed(files: Sequence[Path]) -> str:
    """Return up to five files as text, and how many more there are."""
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(map(str, files[:NAMED])) + more

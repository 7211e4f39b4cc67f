"""A builder alone in its process: one that fails can spoil the next build, and some graphs end it by a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.errors import BadModel, Lacking

_ROOT = Path(__file__).parents[2]  # where `edgeprune` lies, also for a source tree that is not installed
_SHOWN = 3


def ask(who: str, arguments: Sequence[str], timeout: float, task: str = "on this graph") -> dict[str, Any]:
    """Run Python with ``arguments`` and return the JSON object that it prints last; before it, libraries talk.

    ``who`` names the builder in messages, ``task`` what it was at. Raises BadModel where it crashes or returns
    ``errors``, and Lacking where it cannot run or is not done after ``timeout`` seconds.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=timeout, errors="replace", cwd=_ROOT
        )
    except subprocess.TimeoutExpired as error:
        raise Lacking(f"{who} did not finish within {timeout:g} s") from error
    if done.returncode < 0:
        raise BadModel(f"{who} crashed {task} (signal {-done.returncode})")
    try:
        told = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise Lacking(f"{who} cannot be run here: {lines[-1]}") from None
    assert isinstance(told, dict)
    if errors := told.get("errors"):
        more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise BadModel(f"{who} refuses this graph: {'; '.join(errors[:_SHOWN])}{more}")
    return told

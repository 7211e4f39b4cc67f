"""What threads share, for a while: how many torch computes with, and standard output."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch

_SILENCE = threading.Lock()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads within the block; it is a setting of the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what a library prints to standard output within the block, one block at a time in the whole process.

    ``sys.stdout`` is one for all threads: where two redirect it at once, as torchmetrics does too, the second to leave
    puts back what the first had set, and whatever the program prints from then on is lost.
    """
    with _SILENCE, redirect_stdout(StringIO()):
        yield

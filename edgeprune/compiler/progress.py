"""Progress for people: bars on a terminal, one line at either end of the work elsewhere. Always on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


class Bars:
    """A ``passes.base.Progress`` that draws one bar for each piece of work under way.

    Bars may be nested. A bar goes when its iterator ends, fails or is closed.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._open = 0

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield ``items`` while showing how many of ``total`` (default: their length, if they have one) are done."""
        count = total if total is not None else _length(items)
        return self._bar(items, what, count) if self._console.is_terminal else self._lines(items, what, count)

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _bar(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), console=self._console, transient=True,
            )
            self._progress.start()
        progress = self._progress
        task = progress.add_task(what, total=total)
        self._open += 1
        try:
            for item in items:
                yield item
                progress.advance(task)
        finally:
            progress.remove_task(task)
            self._open -= 1
            if self._open == 0:
                progress.stop()
                self._progress = None

    def _lines(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        self.note(f"{what} …" if total is None else f"{what}, {total} to do …")
        start, done = time.monotonic(), 0
        for item in items:
            yield item
            done += 1
        self.note(f"{what}: {done} done in {time.monotonic() - start:.1f} s")


def _length(items: Iterable[object]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None

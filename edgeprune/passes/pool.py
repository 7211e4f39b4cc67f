"""Where plans are scored, many at a time: one small contract, and this machine's threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar, TypeVar

from edgeprune.groups import Widths

Worth = TypeVar("Worth")
"""A number, or whatever else tells how good a plan is; never None."""
Score = Callable[[Widths], Worth]
"""What one plan is worth: a pure function, computed by whoever calls it on as many threads as torch has there."""
Scores = Callable[[Sequence[Widths]], Iterator[Worth]]
"""Yields one score a plan, in the plans' order, each as soon as it and those before it are known."""


class Pool(ABC):
    """Workers that score plans in parallel, one torch thread each. ``workers``, at least 1, is how many there are.

    Neither the workers' number nor their kind has a say in a score, or in the order that scores come in.
    """

    kind: ClassVar[str]
    """What the report calls these workers."""
    workers: int

    @abstractmethod
    def open(self, score: Score[Worth]) -> AbstractContextManager[Scores[Worth]]:
        """Hold the workers for scoring by ``score``. On leaving, whatever the reason, evaluations that have not begun
        are cancelled.

        What ``score`` raises on a worker is raised where its plan's score would have been yielded, or before.
        """

    def close(self) -> None:  # noqa: B027  (threads hold nothing between searches)
        """Let the workers go; the pool is not used afterwards."""


class Threads(Pool):
    """Threads of this process.

    They suffice on one machine, because nearly all of an evaluation is spent inside torch, which releases the
    interpreter; nothing needs to be pickled, so any user's module and task work. Whoever opens them sets torch to one
    thread, which counts for the whole process.
    """

    kind = "threads"

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, not {workers}")
        self.workers = workers

    @contextmanager
    def open(self, score: Score[Worth]) -> Iterator[Scores[Worth]]:
        """Start the threads; on leaving, wait for the evaluations that have begun."""
        threads = ThreadPoolExecutor(self.workers, thread_name_prefix="evaluate")
        try:
            yield lambda plans: threads.map(score, plans)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

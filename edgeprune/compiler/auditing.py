"""One task as a comparison sees it: the search split cut into images that choose and images that only report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from edgeprune.errors import UnmetRequirement
from edgeprune.model import Predict
from edgeprune.report import Score
from edgeprune.tasks.base import Split, SplitInfo, Task
from edgeprune.tasks.delegated import Delegated


class Audited(Delegated):
    """A task whose search split is a part of another's; the rest is for ``audit`` alone.

    Searches, their baselines and the choice of an epoch are given this task, so that no image of the audit can reach
    them: it has no index here. The part that searches is the first ``images`` of the permutation drawn with ``seed``,
    at most half of the split. Everything else is the given task's.

    Raises UnmetRequirement where the search split holds fewer than two images.
    """

    name = "audited"

    def __init__(self, task: Task, images: int, seed: int) -> None:
        super().__init__(task)
        self._seed = seed
        whole = next(split.n for split in task.splits() if split.name == "search")
        if whole < 2:
            raise UnmetRequirement(f"a comparison cuts the search split in two, and it holds {whole} image(s)")
        order = np.random.default_rng(seed).permutation(whole)
        searching = min(images, whole // 2)
        self.choosing = tuple(sorted(int(i) for i in order[:searching]))
        """Which images of the given task's search split choose."""
        self.withheld = tuple(sorted(int(i) for i in order[searching:]))
        """Which images of it report."""

    def audit(self, predict: Predict) -> Score:
        """Score a model on the images that choose nothing."""
        return self.given.score(predict, "search", self.withheld)

    def score(self, predict: Predict, split: Split, indices: Sequence[int] | None = None) -> Score:
        """Score a model on the part of the search split that chooses, or on test; ``indices`` are within that part."""
        if split != "search":
            return self.given.score(predict, split, indices)
        chosen = self.choosing if indices is None else [self.choosing[i] for i in indices]
        return self.given.score(predict, "search", chosen)

    def splits(self) -> tuple[SplitInfo, ...]:
        """Return train, search, test and audit, with what they are cut from."""
        train, search, test = self.given.splits()
        drawn = f"of {search.n}, drawn with seed {self._seed}: {search.origin}"
        return (
            train,
            SplitInfo("search", len(self.choosing), drawn),
            test,
            SplitInfo("audit", len(self.withheld), f"the rest of those {search.n}"),
        )

    def digest(self) -> str:
        """Return the sha256 over the given task's digest and the cut."""
        return hashlib.sha256(f"{self.given.digest()}|{self.choosing}".encode()).hexdigest()

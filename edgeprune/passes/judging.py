"""What a plan is worth: the model cut by it, its batch norms re-estimated, scored on images of the search split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, get_args

import numpy as np
import torch

from edgeprune import importance
from edgeprune.groups import Group, Widths
from edgeprune.memory import give_back
from edgeprune.model import Predict, Surgery, TorchModel
from edgeprune.passes.agreement import Agreement, agreement
from edgeprune.passes.base import Context
from edgeprune.passes.pool import Scores
from edgeprune.passes.ways import COMPARED, PLAIN, Arithmetic, Way, agreed
from edgeprune.profiles.board import Int8Layout
from edgeprune.recalibration import Control, controls, first_images, has_batch_norm, recalibrate
from edgeprune.reconstruction import Target, gathered, reconstruct, record
from edgeprune.report import Objective, Score
from edgeprune.rounding import round_off
from edgeprune.surgery import rebuild
from edgeprune.tasks.base import Task
from edgeprune.threads import threads

Operate = Callable[[TorchModel, Sequence[Group], Widths, importance.Scores], Surgery]
"""What a plan does to a model: ``Sparsify.surgery``."""

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
IMAGES: Mapping[Objective, int] = {"metric": 2000, "agreement": 256}
"""Of the search split, what plans are searched by where nothing else is said."""


@dataclass(frozen=True)
class Scorer:
    """All that a plan's score hangs on and nothing else: what travels to a worker elsewhere.

    ``indices`` are the images of the search split that are scored, ``calibration`` the training images that batch norms
    are re-estimated on; empty where there is nothing to re-estimate. ``told`` is what the model's own norms see there.
    ``targets`` are what weights are reconstructed by, on ``taught``; None leaves them as they are. With a ``layout``
    those of the layers ``lowered`` that a plan does not leave in float compute as they will in int8.
    """

    model: TorchModel
    groups: Sequence[Group]
    ranking: importance.Scores
    task: Task
    operate: Operate
    way: Way
    indices: Sequence[int]
    calibration: Sequence[torch.Tensor]
    told: Mapping[str, Control] = field(default_factory=dict)
    targets: Mapping[str, Target] | None = None
    taught: torch.Tensor | None = None
    layout: Int8Layout | None = None
    lowered: frozenset[str] = frozenset()
    agreement: Agreement | None = None

    def score(self, widths: Widths) -> float:
        """Return what a search goes by: one plan's agreement with the original where that is told, else its score."""
        if self.agreement is not None:
            return self.agreement.of(self.predict(widths))
        return self.scored(widths).value

    def scored(self, widths: Widths) -> Score:
        """Return one plan's score with what it is made of, image by image."""
        return self.task.score(self.predict(widths), "search", self.indices)

    def predict(self, widths: Widths) -> Predict:
        """Return what answers for a plan: its model, in int8 where plans choose that."""
        return partial(self.way.predict, self.rounded(self.smaller(widths)))

    def rounded(self, model: TorchModel) -> TorchModel:
        """Let a model compute as it will in int8, in place, where plans choose that."""
        if self.layout is not None:
            names = self.lowered.difference(model.surgery.floating)
            with self.way.computing():
                round_off(model.module, names, (self.way.batch(part) for part in self.calibration[:1]), self.layout)
        return model

    def smaller(self, widths: Widths) -> TorchModel:
        """Return the model cut to ``widths``, or masked, reconstructed if so wanted, its batch norms re-estimated and
        all of it laid out for the way.
        """
        cuts = self.operate(self.model, self.groups, widths, self.ranking)
        cut = rebuild(self.model, cuts)
        if self.targets is not None and self.taught is not None:
            reconstruct(cut.module, cut.surgery, self.targets, self.taught)
        self.way.dress(cut)
        if self.calibration:
            with self.way.computing():
                recalibrate(cut.module, map(self.way.batch, self.calibration), self.told, cuts.kept)
        return cut

    def by(self, way: Way) -> Scorer:
        """Return one that computes so; what the model's own norms see is looked at in the same way."""
        if not self.calibration:
            return replace(self, way=way)
        with way.computing():
            told = controls(way.dress(self.model.clone()).module, map(way.batch, self.calibration))
        return replace(self, way=way, told=told)


class Judge:
    """Scores plans in parallel on the context's pool.

    ``images`` of the ``whole`` search split are scored, batch norms are re-estimated on ``recalibration`` training
    images, both the same ones for every plan. A score is a pure function of the plan: the task's by the objective
    ``metric``, by ``agreement`` how near the outputs stay to the original's, which needs no labels. With
    ``reconstruction`` the layers that lost inputs are given the weights of least squares towards the original's
    outputs; of the layers ``lowered`` plans say which stay in float, and all others compute in the target's int8.
    """

    def __init__(
        self, model: TorchModel, groups: Sequence[Group], ranking: importance.Scores, ctx: Context, operate: Operate, *,
        images: int, recalibration: int, arithmetic: Arithmetic = "auto", objective: Objective = "metric",
        total: int = 0,
        reconstruction: bool = False, lowered: frozenset[str] | None = None,
    ) -> None:
        assert ctx.task is not None
        self._ctx, self._total, self.way = ctx, total, PLAIN
        self._bar: Any = None
        self._scores: Scores[float]
        self.whole = next(s.n for s in ctx.task.splits() if s.name == "search")
        self.images = min(images, self.whole)
        self._order = np.random.default_rng(ctx.seed).permutation(self.whole)
        calibration: list[torch.Tensor] = []
        if ctx.task.name != "synthetic":
            norms = has_batch_norm(model.module)
            seen = first_images(ctx.task.calibration_batches(), recalibration if norms else COMPARED)
            self.way = agreed(model, torch.cat(seen)[:COMPARED].numpy() if seen else np.zeros(0, np.float32),
                              arithmetic)  # fmt: skip
            calibration = seen if norms or lowered is not None else []
        taught = gathered(list(ctx.task.calibration_batches())) if reconstruction else None
        scorer = Scorer(
            model, groups, ranking, ctx.task, operate, self.way, self._images(0, self.images), calibration,
            targets=None if taught is None else record(ctx.original.module, taught), taught=taught,
            layout=ctx.board.int8 if lowered is not None else None, lowered=lowered or frozenset(),
        )  # fmt: skip
        with threads(1):  # as workers compute: the last bit of a score is no question of the machine's cores
            self._scorer = scorer.by(self.way)
        self.objective = objective
        if objective == "agreement":
            dense = self.way.dress(ctx.original.clone())
            with threads(1):  # as workers compute: the last bit of an answer is no question of the machine's cores
                told = agreement(ctx.task, partial(self.way.predict, dense), self._scorer.indices)
            self._scorer = replace(self._scorer, agreement=told)

    @contextmanager
    def running(self, total: int | None = None) -> Iterator[None]:
        """Hold the workers, for ``total`` evaluations or for all of them; on leaving, whatever the reason, evaluations
        not yet begun are cancelled.
        """
        count = self._total if total is None else total
        self._bar = iter(self._ctx.progress.track(range(count), "search: plans evaluated", count))
        try:
            with threads(1), self._ctx.pool.open(self._scorer.score) as self._scores:
                yield
        finally:
            close = getattr(self._bar, "close", None)
            if close:
                close()
            give_back()  # what the workers held, before the plan is cut and trained

    def scores(self, plans: Sequence[Widths]) -> Iterator[float]:
        """Yield one score a plan, in order, as soon as it and those before it are known."""
        for score in self._scores(plans):
            next(self._bar, None)
            yield score

    def scored(self, plans: Sequence[Widths], images: int) -> list[Score]:
        """Return the plans' scores by the task's metric, on ``images`` of the search split: those first that ``scores``
        does not look at.
        """
        self._ctx.progress.note(f"finalists: {len(plans)} plans on {images} other images")
        scorer = replace(self._scorer, indices=self._images(self.images, self.images + images))
        with threads(1), self._ctx.pool.open(scorer.scored) as scores:
            return list(scores(plans))

    def finished(self, model: TorchModel) -> float:
        """Return the score of a plan's model, trained or not, on the whole search split: in float32, or in int8 where
        plans choose that.
        """
        assert self._ctx.task is not None
        return self._ctx.task.score(self._plain.rounded(model.clone()).predict, "search").value

    def _images(self, first: int, end: int) -> list[int]:
        return sorted(int(i) for i in np.roll(self._order, -first)[: end - first])

    def cut(self, widths: Widths) -> TorchModel:
        """Return the model cut to ``widths``, or masked, with its batch norms re-estimated in plain float32."""
        return self._plain.smaller(widths)

    @cached_property
    def _plain(self) -> Scorer:
        return self._scorer.by(PLAIN)

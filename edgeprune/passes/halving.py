"""Short fine-tunes of the last candidates: a plan is worth what it comes to once it is trained.

How a plan scores before training says little about it after, where much was cut. Training every plan would cost the
search everything; the finalists are few, and most of them are told apart by little training: successive halving
(Jamieson and Talwalkar, 2016, algorithm 1), whose rungs all cost the same.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from edgeprune.agents.base import key
from edgeprune.groups import Widths
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.finalists import Finalist
from edgeprune.tasks.base import Batch, Task
from edgeprune.tasks.delegated import Delegated


class Brief(Delegated):
    """A task with a single epoch of so many batches: the first of the given task's, and of its next epochs."""

    def __init__(self, task: Task, steps: int) -> None:
        super().__init__(task)
        self._steps = steps

    def train_steps(self) -> int:
        """Return the number of batches."""
        return self._steps

    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield them; ``epoch`` has no say."""
        epochs = (self.given.train_batches(number, seed) for number in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(epochs), self._steps)


@dataclass(frozen=True)
class Halving:
    """Trains the first rung for ``epochs`` (above 0, in part where below 1) and each later one, of the better half,
    for twice as long, each time from the untrained cut and down to a learning rate of zero.

    ``cut`` makes a plan's model, ``training`` trains one for an epoch, whatever the task says that is, and ``score``
    judges it. ``name`` tells all that decides a cut: scores are kept in the context's journal under it, unless the
    training is a user's own, whose code a name does not tell.
    """

    cut: Callable[[Widths], TorchModel]
    training: Pass[TorchModel, TorchModel]
    score: Callable[[TorchModel], float]
    epochs: float
    ctx: Context
    name: str

    def ranked(self, finalists: Sequence[Finalist]) -> tuple[Finalist, ...]:
        """Return the finalists, best first, each with its score after training on the highest rung it came to.

        Who came further is better. Ties go to the earlier. A single finalist is not trained.
        """
        left, gone = list(finalists), list[Finalist]()
        epochs = self.epochs
        while len(left) > 1:
            self.ctx.progress.note(f"halving: {len(left)} plans, {epochs:g} epochs each")
            ran = [replace(one, trained=self._score(one.widths, epochs), epochs=epochs) for one in left]
            ran.sort(key=lambda one: -(one.trained or 0.0))
            half = (len(ran) + 1) // 2
            left, gone = ran[:half], [*ran[half:], *gone]
            epochs *= 2
        return (*left, *gone)

    def _score(self, widths: Widths, epochs: float) -> float:
        """Return a plan's score after so many epochs."""
        ctx, task = self.ctx, self.ctx.task
        assert task is not None
        steps = max(1, round(epochs * task.train_steps()))
        ours = type(self.training).__module__.startswith("edgeprune.")
        journal = ctx.journal if ours else lambda name: {}
        name = f"halving-{self.name}-{self.training}-{steps}-{ctx.seed}-{ctx.device}-{ctx.train_threads}"
        memo = journal(name)
        if key(widths) not in memo:
            told = hashlib.sha256(f"{name}|{key(widths)}".encode()).hexdigest()
            folder = ctx.workspace / f"halving-{told[:16]}"  # the same after a kill, so that training goes on
            folder.mkdir(exist_ok=True)
            inner = replace(ctx, task=Brief(task, steps), workspace=folder, record=lambda name, value: None)
            memo[key(widths)] = self.score(self.training.run(self.cut(widths), inner))
            shutil.rmtree(folder)
        return memo[key(widths)]

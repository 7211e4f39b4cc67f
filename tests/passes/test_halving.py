from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contexts import context
from networks import toy
from pruning_task import Answers

from edgeprune.agents.base import key
from edgeprune.groups import Widths
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context
from edgeprune.passes.finalists import Finalist
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.halving import Brief, Halving
from edgeprune.report import Score

WORTH = {(1,): 0.9, (2,): 0.1, (3,): 0.5, (4,): 0.3, (5,): 0.2}
"""Wrong answers of a plan's model, as a share, when trained to the end; the untrained order is the plans' own."""


@dataclass(frozen=True)
class Trained(Finetune):
    """Training that only counts: a model is marked with how much it was given, and comes nearer to its plan's worth."""

    given: list[tuple[float, int]] = field(default_factory=list, repr=False)
    stop_at: int = field(default=99, repr=False)
    resumed: list[float] = field(default_factory=list, repr=False)

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        assert ctx.task is not None
        plan = float(model.module.head.bias[0].detach())
        left = ctx.workspace / "epoch.pt"
        if len(self.given) == self.stop_at:
            left.write_text(str(plan))
            raise KeyboardInterrupt
        if left.exists():
            assert float(left.read_text()) == plan
            self.resumed.append(plan)
        self.given.append((plan, ctx.task.train_steps()))
        return model


class Known(Trained):
    """The same as if it were edgeprune's own, whose code the keys of all journals know."""

    __module__ = "edgeprune.passes.finetune"


def cut(widths: Widths) -> TorchModel:
    """A model that carries its plan in a bias and gets worse by it."""
    model = toy("Plain")
    with torch.no_grad():
        model.module.head.bias[0] = float(widths[0])
    return model


class Judged(Answers):
    """Scores a model by the plan that it carries."""

    def score(self, predict: Any, split: str, indices: Any = None) -> Score:
        assert split == "search" and indices is None
        plan = (round(float(predict.__self__.module.head.bias[0].detach())),)
        return Score(1 - WORTH[plan], 1, np.zeros(1))


def ranked(
    folder: Path, plans: list[Widths], training: Finetune, epochs: float = 0.5, **changes: Any
) -> tuple[Finalist, ...]:
    ctx, _ = context(folder, toy("Plain"), **{"task": Judged(toy("Plain"), 16), **changes})
    finalists = [Finalist(plan, 0.5, 0.5, 10) for plan in plans]
    task = ctx.task
    assert task is not None
    score = lambda model: task.score(model.predict, "search").value  # noqa: E731
    return Halving(cut, training, score, epochs, ctx, "test").ranked(finalists)


def test_the_better_half_is_trained_for_twice_as_long_until_one_is_left(tmp_path: Path) -> None:
    training = Trained()
    found = ranked(tmp_path, [(1,), (2,), (3,), (4,), (5,)], training)
    assert [one.widths for one in found] == [(2,), (5,), (4,), (3,), (1,)]
    assert [one.epochs for one in found] == [2.0, 2.0, 1.0, 0.5, 0.5]
    assert [one.trained for one in found] == pytest.approx([0.9, 0.8, 0.7, 0.5, 0.1])
    # Four batches are an epoch: five plans for two of them, three for four, two for eight.
    assert training.given == [(n, 2) for n in (1, 2, 3, 4, 5)] + [(n, 4) for n in (2, 5, 4)] + [(2, 8), (5, 8)]


def test_a_single_finalist_is_not_trained(tmp_path: Path) -> None:
    training = Trained()
    (only,) = ranked(tmp_path, [(1,)], training)
    assert (only.trained, only.epochs, training.given) == (None, 0.0, [])


def test_of_equals_the_earlier_is_the_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORTH, (3,), WORTH[4,])
    for plans in ([(3,), (4,)], [(4,), (3,)]):
        assert [one.widths for one in ranked(tmp_path, plans, Trained())] == plans


def test_an_interrupted_rung_goes_on_where_it_was(tmp_path: Path) -> None:
    journals: dict[str, dict[str, float]] = {}
    shared: dict[str, Any] = {"journal": lambda name: journals.setdefault(name, {})}
    plans: list[Widths] = [(1,), (2,), (3,), (4,)]
    first = Known(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        ranked(tmp_path, plans, first, **shared)
    second = Known()
    found = ranked(tmp_path, plans, second, **shared)
    assert second.given[0] == (4, 2) and len(first.given + second.given) == 4 + 2
    assert second.resumed == [4.0], "in the middle of its training, and no other in the middle of that"
    assert not list(tmp_path.iterdir()), "what a training leaves is cleared away"
    assert found == ranked(tmp_path, plans, Trained())


def test_other_training_or_another_seed_is_not_taken_for_the_same(tmp_path: Path) -> None:
    journals: dict[str, dict[str, float]] = {}
    shared: dict[str, Any] = {"journal": lambda name: journals.setdefault(name, {})}
    plans: list[Widths] = [(1,), (2,)]
    for changed in (Known(), Known(lr=0.5), Known(distillation=0.0)):
        ranked(tmp_path, plans, changed, **shared)
        assert len(changed.given) == 2
    for changes in ({"seed": 1}, {"train_threads": 2}):
        again = Known()
        ranked(tmp_path, plans, again, **shared, **changes)
        assert len(again.given) == 2
    kept = Known()
    ranked(tmp_path, plans, kept, **shared)
    for own in (Trained(), Trained()):
        ranked(tmp_path, plans, own, **shared)
        assert len(own.given) == 2, "what a user's own pass does is not told by its options"
    assert kept.given == [] and all(set(one) == {key((1,)), key((2,))} for one in journals.values())


def test_a_brief_task_is_the_first_batches_of_the_epochs_in_turn() -> None:
    whole = Answers(toy("Plain"), 16)
    wanted = [batch.inputs for epoch in (0, 1) for batch in whole.train_batches(epoch, 5)]
    for steps in (1, 4, 6):
        brief = Brief(whole, steps)
        found = [batch.inputs for batch in brief.train_batches(0, 5)]
        assert brief.train_steps() == len(found) == steps
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=False))
    assert (brief.name, brief.metric, brief.digest()) == (whole.name, whole.metric, whole.digest())
    assert brief.score(toy("Plain").predict, "search", [0, 1]).n == 2


def test_a_trial_is_the_first_steps_of_real_training_and_leaves_no_trace(tmp_path: Path) -> None:
    original = toy("Plain")
    task = Answers(original, 64)

    def faded(widths: Widths) -> TorchModel:
        model = original.clone()
        with torch.no_grad():
            model.module.head.weight.mul_(1.0 / widths[0])
        return model

    ctx, facts = context(tmp_path, original, task=task)
    training = Finetune(epochs=1, lr=0.05)
    score = lambda model: task.score(model.predict, "search").value  # noqa: E731
    found = Halving(faded, training, score, 0.75, ctx, "real").ranked([Finalist((n,), 0.0, 0.0, 64) for n in (50, 20)])
    for one in found:
        folder = tmp_path / key(one.widths)
        folder.mkdir()
        inner, _ = context(folder, original, task=Brief(task, 3))
        alone = training.run(faded(one.widths), inner)
        assert one.trained == task.score(alone.predict, "search").value
    assert facts == {}, "a trial's epochs are none of the report's"

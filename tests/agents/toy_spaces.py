"""A toy network's search space whose best plan is known by brute force, and a score for its plans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeprune.agents.actions import offering
from edgeprune.agents.base import Evaluator
from edgeprune.agents.env import Rules, SparsityEnv
from edgeprune.agents.space import Space
from edgeprune.groups import DROP, CostModel, Group, Member, Op, Widths, ladder
from edgeprune.tally import Tallied, Tally, Term

STRAIN = 0.2
_SENSITIVITY = (0.9, 0.05, 0.5, 0.1, 1.2, 0.05, 0.3, 0.6)


def member(module: str, side: str, channels: int) -> Member:
    index = np.arange(channels)
    return Member(module, side, index, index)  # type: ignore[arg-type]


def toy_cost(blocks: int = 2, plain: int = 4, channels: int = 32, multiple: int = 8) -> CostModel:
    """A locked stem, a chain of ``plain`` convolutions, and ``blocks`` residual blocks of three convolutions."""
    rungs = ladder(channels, (multiple,))

    def group(name: str, reader: str, **kind: str) -> Group:
        return Group(name, channels, (member(name, "out", channels), member(reader, "in", channels)), rungs, **kind)

    names = [f"conv{i}" for i in range(plain)] + ["tail"]
    ops = [Op("stem", channels, 3, 256.0, 9.0, shape={"kernel": 3, "stride": 1, "height": 16, "width": 16})]
    groups = [Group("stem", channels, (member("stem", "out", channels),), (channels,), locked="the stream reads it")]
    for i in range(plain):
        ops.append(Op(names[i], channels, channels, 256.0 / (1 + i), 9.0, shape={"kernel": 3, "stride": 1 + i % 2}))
        groups.append(group(names[i], names[i + 1]))
    ops.append(Op("tail", channels, channels, 64.0, 1.0))
    for block in (f"block{b}" for b in range(blocks)):
        ops += [Op(f"{block}.{layer}", channels, channels, 64.0, 9.0) for layer in "abc"]
        groups.append(group(f"{block}.a", f"{block}.b", block=block, inside=block))
        groups.append(group(f"{block}.b", f"{block}.c", inside=block))
    return CostModel(ops, groups)


def toy_space(share: float = 0.5, **shape: int) -> Space:
    cost = toy_cost(**shape)
    return Space(cost, {"macs": share * cost.full["macs"]})


def played_space(actions: str, share: float = 0.5, **shape: int) -> Space:
    """The toy as an action space spells it, its energy told: a picojoule a MAC and two a channel that comes out."""
    cost = toy_cost(**shape)
    axis = (4.0, 32.0)
    terms = [
        Term(op.name, axis, axis, np.array([[op.positions * op.kernel * o * i + 2.0 * o for i in axis] for o in axis]))
        for op in cost.ops
    ]
    cost = offering(Tallied(cost, [Tally("energy", terms)]), actions, 0.3)
    return Space(cost, {"macs": share * cost.full["macs"]})


def toy_score(space: Space, widths: Widths) -> float:
    """Losses that differ by a factor of 20 between groups, and neighbours interact; 0.9 for the original."""
    assert widths == space.canonical(widths)
    removed, cut = [], []
    for at, (options, width) in enumerate(zip(space.options, space.choices(widths), strict=True)):
        weight = _SENSITIVITY[at % len(_SENSITIVITY)]
        cut.append(1.0 - width / options[0])
        removed.append(weight * (0.15 if width == DROP else 0.3 * cut[-1] ** 2))
    strain = sum(a * b for a, b in itertools.pairwise(cut))  # cutting neighbours hurts more than the two alone
    return 0.9 - sum(removed) - STRAIN * strain


def best_plan(space: Space) -> tuple[float, Widths]:
    """Brute force over all feasible plans."""
    plans = {space.canonical(space.complete(choices, space.full())) for choices in itertools.product(*space.options)}
    return max((toy_score(space, plan), plan) for plan in plans if space.share(plan) <= 1.0)


@dataclass
class Scorer:
    """A score that remembers what it was asked."""

    space: Space
    batches: list[list[Widths]] = field(default_factory=list)

    def __call__(self, plans: Sequence[Widths]) -> list[float]:
        self.batches.append(list(plans))
        return [toy_score(self.space, plan) for plan in plans]


def toy_env(
    space: Space, limit: int = 10_000, memo: dict[str, float] | None = None, rules: Rules | None = None,
    earlier: dict[Widths, float] | None = None,
) -> tuple[SparsityEnv, Scorer]:
    scorer = Scorer(space)
    return SparsityEnv(space, Evaluator(scorer, limit, {} if memo is None else memo, earlier), rules=rules), scorer

"""A workshop whose answers follow from the cost target alone, to tell which candidates a build finishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tiny
from contexts import torch_model
from torch import nn

from edgeprune.budget import Budget
from edgeprune.groups import CostModel
from edgeprune.mixed import tallied
from edgeprune.passes.base import Silent
from edgeprune.report import Latency, Measurement, Score

ITEMS = 1000


@dataclass(frozen=True)
class Made:
    name: str
    passes: tuple[Any, ...]
    share: float
    wrong: int
    macs: float
    parameters: int
    asked: tuple[str, ...] = ()
    moved: dict[str, float] | None = None
    """How far each activation moves the outputs; the first step replaces "a", the second "b", the third "c"."""
    lowered: tuple[str, ...] = ()
    nonzero: None = None

    @property
    def size_bytes(self) -> int:
        whole = 4 if all(p.name != "quantize" for p in self.passes) else 1
        return 1000 + whole * self.parameters  # a header that no cut removes

    def counts(self) -> dict[str, float]:
        return {"size": self.size_bytes, "macs": self.macs, "parameters": self.parameters}

    @property
    def score(self) -> Score:
        right = np.ones(ITEMS)
        right[: self.wrong] = 0.0
        return Score(float(right.mean()), ITEMS, right)

    @property
    def model(self) -> Any:
        return SimpleNamespace(path=Path("none"))

    def fact(self, one: str, name: str) -> Any:
        known = {("sparsify", "asked"): {"here": dict.fromkeys(self.asked, 0.5)},
                 ("quantize", "lowered"): self.lowered, ("quantize", "method"): "percentile",
                 ("quantize", "precision"): "int8",
                 ("activation", "moved"): self.moved}  # fmt: skip
        return known.get((one, name))

    def facts(self, one: str, name: str) -> list[Any]:
        assert (one, name) == ("activation", "names")
        return [["a"], ["b"], ["c"]][: sum(p.name == "activation" for p in self.passes)]


def replaced(passes: Sequence[Any]) -> float:
    """Return the share of all activations that passes replace, each taking its share of what is left."""
    left = 1.0
    for one in passes:
        left *= 1.0 - one.share if one.name == "activation" else 1.0
    return 1.0 - left


@dataclass
class Shop:
    """Finishes a cut to a share of the MACs at once: ``loses`` and ``takes`` tell what becomes of it."""

    cost_model: CostModel
    budget: Budget
    cost: str = "macs"
    loses: Callable[[float], int] = lambda share: 0
    takes: Callable[[float], float] = lambda share: share
    preparation: tuple[str, ...] = ()
    smooth: bool = False
    rigid: bool = False
    """Whether nothing of the network can be cut."""
    cheaper: float = 1.0
    """What other activations make of the latency, and ``relu_loses`` of the accuracy once trained."""
    relu_loses: Callable[[float], int] = lambda share: 0
    moved: dict[str, float] | None = None
    lowered: tuple[str, ...] = ()
    table: Path | None = None
    bench: Any = None
    board: str = "a board"
    finished: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 3)) if self.rigid else tiny.network()
        if self.smooth:
            network = nn.Sequential(network, nn.SiLU())
        self.original = torch_model(network, (1, 3, 12, 12))
        board = SimpleNamespace(name=self.board, channel_multiples={"fp32": 8}, widest_multiple=8)
        self.means = SimpleNamespace(budget=self.budget, cost=self.cost, seed=0, board=board, progress=Silent(),
                                     table=self.table)  # fmt: skip
        self.source = self.finish("original", ())

    def finish(self, name: str, passes: Sequence[Any]) -> Made:
        search = next((p for p in passes if p.name == "sparsify"), None)
        share, asked = 1.0, ()
        if search is not None:
            full = self.cost_model.full
            full = tallied(self.cost_model, search.tallies).full
            share = min(limit / full[q] for q, limit in search.limits)
            asked = tuple(f"{search.limits} {i}" for i in range(search.evaluations))
        elif any(p.name == "recut" for p in passes):
            share = 0.05
        trained = any(p.name == "finetune" for p in passes)
        full = self.cost_model.full
        wrong = self.loses(share) if trained else 0
        wrong += self.relu_loses(replaced(passes)) if trained else 0
        made = Made(name, tuple(passes), share, wrong, share * full["macs"], int(share * full["parameters"]), asked,
                    self.moved, self.lowered)  # fmt: skip
        self.finished.append(made)
        return made

    def holds(self, candidate: Made) -> bool | None:
        return self.drop(candidate) <= (self.budget.max_accuracy_drop or 0.0)

    def drop(self, candidate: Made) -> float:
        return self.source.score.drop_to(candidate.score)[0]

    def recorded_measure(self, candidate: Made) -> Measurement:
        ratio = self.takes(candidate.share)
        ratio *= 1.0 - replaced(candidate.passes) * (1.0 - self.cheaper)
        return Measurement(source="measured", latency_ms=Latency(p50=ratio, p90=ratio, p99=ratio), ratio=ratio)

    def recorded_energy(self, candidate: Made) -> float:
        return 100.0 * candidate.share


CHEAPER: dict[str, Any] = {"cost": "measured", "smooth": True, "cheaper": 0.6}
"""A shop in which other activations pay."""

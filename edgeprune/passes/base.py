"""The contract of a pass, and what a pass may know besides its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from edgeprune.budget import Budget, Cost
from edgeprune.model import OnnxModel, Predict, TorchModel
from edgeprune.passes.pool import Pool, Threads
from edgeprune.profiles.board import Board
from edgeprune.report import Measurement, Score
from edgeprune.tasks.base import Task

In = TypeVar("In", TorchModel, OnnxModel)
Out = TypeVar("Out", TorchModel, OnnxModel)
T = TypeVar("T")


class Progress(Protocol):
    """Where long work says how far it is."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
        """Yield ``items`` while showing a bar called ``what``."""

    def note(self, text: str) -> None:
        """Say one line."""


class Silent:
    """Progress that says nothing: the default of the Python interface."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
        """Return ``items`` as they are."""
        return items

    def note(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Context:
    """All a pass may know besides the model.

    ``open`` and ``measure`` are injected by the driver and run on the target, so that passes never import backends.
    ``measure`` times the models interleaved; each Measurement's ratio is against the first of them. ``cost`` says who
    decides (see ``budget.Cost``). ``workspace`` is a folder of this pass's own that survives
    an interruption; ``journal`` opens a dictionary of scores, shared by every pass that names the same thing, that
    survives one too. ``threads`` are for inference on the target, ``train_threads`` for fine-tuning on ``device``,
    ``pool`` scores the plans of a search, many at a time. ``record`` notes a fact for the report.
    """

    board: Board
    task: Task | None
    budget: Budget
    seed: int
    original: TorchModel
    baseline: Score | None
    open: Callable[[OnnxModel], AbstractContextManager[Predict]]
    measure: Callable[[Mapping[str, OnnxModel]], Mapping[str, Measurement]]
    workspace: Path
    journal: Callable[[str], MutableMapping[str, float]] = lambda name: {}
    progress: Progress = field(default_factory=Silent)
    cost: Cost = "measured"
    threads: int = 1
    train_threads: int = 1
    device: str = "cpu"
    pool: Pool = field(default_factory=Threads)
    record: Callable[[str, Any], None] = lambda name, value: None


@dataclass(frozen=True)
class Pass(ABC, Generic[In, Out]):
    """One step of the compiler: a frozen dataclass whose fields are its options, its recipe line and its CLI syntax.

    A pass keeps no state between runs. It owns its argument (the pipeline cloned it), and what it returns is verified
    by the pipeline, not by itself.
    """

    name: ClassVar[str]
    takes: ClassVar[type]
    gives: ClassVar[type]

    def requires(self, model: In, ctx: Context) -> None:
        """Raise UnmetRequirement, before any work starts, if this pass cannot run on ``model``."""

    @abstractmethod
    def run(self, model: In, ctx: Context) -> Out:
        """Transform the model."""

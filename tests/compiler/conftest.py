"""One set of inputs and one finished build, shared by all tests of the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from comparing import Done, compared, write_target
from contexts import torch_model
from shop import Shop

import edgeprune
from edgeprune.benches.here import Here
from edgeprune.budget import Budget
from edgeprune.compiler import ceilings as ceilings_module
from edgeprune.compiler.driver import Build
from edgeprune.compiler.strategy import Strategy
from edgeprune.compiler.toolbox import toolbox
from edgeprune.groups import CostModel
from edgeprune.report import Report
from edgeprune.tasks.classification import Classification
from edgeprune.tracing import trace


@dataclass(frozen=True)
class Built:
    """A build under an accuracy floor alone: where it was made, and what it asked for on the way."""

    directory: Path
    inputs: Path
    cache: Path
    report: Report
    clock: tiny.Clock
    splits: list[str]


def arguments(**changes: Any) -> dict[str, Any]:
    """Options of ``edgeprune.compile`` for the files of ``inputs``, to be run inside that folder."""
    return {"model": "net.safetensors", "arch": "net.py:net", "data": "data.npz", **tiny.QUICK, **changes}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.py, net.safetensors and data.npz, and the target fine.toml."""
    folder = tiny.write_inputs(tmp_path_factory.mktemp("inputs"))
    write_target(folder)
    return folder


@pytest.fixture
def at(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work inside the folder of the inputs."""
    monkeypatch.chdir(inputs)
    return inputs


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> tiny.Clock:
    """Latency made of MACs, on a machine of one core."""
    clock = tiny.Clock()
    tiny.install(clock, monkeypatch.setattr)
    return clock


@pytest.fixture(scope="session")
def built(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The shared build."""
    out, cache, clock = tmp_path_factory.mktemp("built") / "b", tmp_path_factory.mktemp("shared-cache"), tiny.Clock()
    splits: list[str] = []
    score = Classification.score

    def counted(self: Classification, predict: Any, split: Any, indices: Any = None) -> Any:
        splits.append(split)
        return score(self, predict, split, indices)

    with pytest.MonkeyPatch.context() as patch:
        tiny.install(clock, patch.setattr)
        patch.setenv("EDGEPRUNE_CACHE", str(cache))
        patch.chdir(inputs)
        patch.setattr(Classification, "score", counted)
        build: Build = edgeprune.compile(**arguments(out=out))
    yield Built(out, inputs, cache, build.report, clock, splits)


@pytest.fixture(scope="module")
def cost_model() -> CostModel:
    """Return the groups of the tiny network, on multiples of eight."""
    return trace(torch_model(tiny.network(), (1, 3, 12, 12)), (8,))


@pytest.fixture
def decide(cost_model: CostModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the strategy in a shop and gives both back."""
    monkeypatch.setattr(ceilings_module, "lowerable_names", lambda path: ())

    def go(
        budget: Budget, evaluations: int = 60, data: bool = True, settings: dict[str, Any] | None = None, **shop: Any
    ) -> tuple[Shop, Any]:
        made = Shop(cost_model, budget, **shop)
        tools = toolbox(settings or {}, agent="uniform", evaluations=evaluations, epochs=1, effort="quick",
                        precision="auto", data=data, free_groups=4, task=Classification)  # fmt: skip
        return made, Strategy(made, tools).run()  # type: ignore[arg-type]

    return go


@pytest.fixture(scope="session")
def done(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three agents, two budgets, an epoch of fine-tuning, everything timed."""
    out, cache = tmp_path_factory.mktemp("compared") / "c", tmp_path_factory.mktemp("compared-cache")
    scored: list[tuple[str, tuple[int, ...] | None]] = []
    score = Classification.score

    def watched(self: Classification, predict: Any, split: Any, indices: Any = None) -> Any:
        scored.append((split, None if indices is None else tuple(indices)))
        return score(self, predict, split, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRUNE_CACHE", str(cache))
        patch.chdir(inputs)
        patch.setattr(Classification, "score", watched)
        patch.setattr(Here, "measure", lambda self, models: tiny.Clock().measure(models))
        report = compared(out=out, max_macs=("0.4x", "0.3x"), epochs=1, measure=True)
    return Done(report, out, cache, scored)

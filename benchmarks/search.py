"""How fast plans are searched on CIFAR-10's ResNets, where the time goes, and what the cost of a plan costs.

    python benchmarks/search.py [resnet20 resnet56] [--agent ppo] [--evaluations 60] [--workers N]

Weights and data come from the folder that EDGEPRUNE_DATA names. Seconds are CPU seconds of the thread that does the
work, so that neighbours on a shared machine count little; only evaluations per second go by the wall clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from conditions import conditions, data_pack, load, spread, table

from edgeprune import find
from edgeprune.agents.base import Agent, Evaluator
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.space import Space
from edgeprune.budget import Budget
from edgeprune.compiler.cache import Journal
from edgeprune.frontends import checkpoint
from edgeprune.groups import CostModel
from edgeprune.model import TorchModel
from edgeprune.passes import judging, sparsify
from edgeprune.passes.base import Context
from edgeprune.passes.pool import Threads
from edgeprune.passes.ways import Way
from edgeprune.profiles import board
from edgeprune.tasks.classification import Classification
from edgeprune.tracing import trace

TARGET = 0.6
"""The ceiling searched under, as a share of the original's MACs."""
PARTS = {"plan": "choosing channels", "slice": "slicing", "norms": "BatchNorm re-estimation", "score": "scoring"}
_RESNETS = Path(__file__).parents[1] / "examples" / "cifar10" / "resnet.py"


class Clock:
    """CPU seconds by part: those of an evaluation in its worker thread, a searcher's own in the thread that searches.

    A searcher's own seconds are everything but the evaluations: episodes, learning, book-keeping, the journal.
    """

    def __init__(self) -> None:
        self.parts: defaultdict[str, float] = defaultdict(float)
        self.searchers: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Time the functions that an evaluation and a search go through while the block runs."""
        with ExitStack() as stack:
            for owner, name, part in (
                (sparsify, "plan_of", "plan"),
                (judging, "rebuild", "slice"),
                (judging, "recalibrate", "norms"),
                (Way, "predict", "score"),
            ):
                stack.enter_context(mock.patch.object(owner, name, self._evaluating(part, getattr(owner, name))))
            stack.enter_context(mock.patch.object(Agent, "search", self._searching(Agent.search)))
            yield

    def _evaluating(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                return function(*args, **kwargs)  # the winner's own cut, after the search
            start = time.thread_time()
            result = function(*args, **kwargs)
            with self._lock:
                self.parts[part] += time.thread_time() - start
            return result

        return timed

    def _searching(self, search: Callable[..., Any]) -> Callable[..., Any]:
        def timed(agent: Agent, *args: Any, **kwargs: Any) -> Any:
            start = time.thread_time(), time.perf_counter()
            result = search(agent, *args, **kwargs)
            self.searchers[agent.name] += time.thread_time() - start[0]
            self.wall[agent.name] += time.perf_counter() - start[1]
            return result

        return timed


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Time searches on CIFAR-10's ResNets.")
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--agent", default="ppo")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    pack, before = data_pack(), load()
    torch.set_num_threads(1)
    for network in options.networks:
        model, task = opened(network, pack)
        cost = trace(model, tuple(board.load("host-cpu").channel_multiples.values()))
        print(f"## {network}: {len(Space(cost, {}).free)} free groups\n", flush=True)
        print(searched(model, task, cost, options.agent, options.evaluations, options.workers), flush=True)
        print("Microseconds a call, median (10th–90th percentile) over batches of 100:\n")
        print(table(("call", "µs"), list(algebra(cost))), flush=True)
    more = {"workers": options.workers, "evaluations": options.evaluations, "ceiling": f"{TARGET} of the MACs"}
    print(conditions(before, **more))


def opened(network: str, pack: Path) -> tuple[TorchModel, Classification]:
    """Return a trained network and the data that judges it."""
    source = checkpoint.Source(pack / "weights" / f"cifar10_{network}.safetensors", f"{_RESNETS}:{network}")
    model = checkpoint.load(source, None).model
    return model, Classification.open(pack / "cifar10", model.spec)


def searched(
    model: TorchModel, task: Classification, cost: CostModel, agent: str, evaluations: int, workers: int
) -> str:
    """Search once, without a cache, and return what was spent where, as markdown."""
    limits = (("macs", TARGET * cost.full["macs"]),)
    usual = sparsify.Sparsify(agent=find.find("agents", agent)(), evaluations=evaluations, limits=limits)
    search = dataclasses.replace(usual, **task.searching)
    facts: dict[str, Any] = {}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, clock.attached():
        search.run(model.clone(), context(model, task, Path(folder), workers, facts))
    return _evaluating(clock, facts["evaluations"]) + "\n" + _searching(clock, facts, workers)


def context(
    model: TorchModel, task: Classification, folder: Path, workers: int, facts: dict[str, Any], seed: int = 0
) -> Context:
    """Return what a search runs in that stands alone; its facts come to ``facts``, its scores to ``folder``."""
    return Context(
        board=board.load("host-cpu"), task=task, budget=Budget(), seed=seed, original=model, baseline=None,
        open=not_needed, measure=not_needed, workspace=folder, pool=Threads(workers), record=facts.__setitem__,
        journal=lambda name: Journal(folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.jsonl"),
    )  # fmt: skip


def not_needed(_: Any) -> Any:
    raise AssertionError("a search neither runs nor times an artifact")


def _evaluating(clock: Clock, evaluations: int) -> str:
    own, judged = sum(clock.searchers.values()), sum(clock.parts.values())
    seconds = [*((PARTS[part], clock.parts[part]) for part in PARTS), ("searching, all searchers", own)]
    rows = [(name, f"{s:.1f}", f"{1e3 * s / evaluations:.1f}", f"{s / (own + judged):.1%}") for name, s in seconds]
    return table(("part", "CPU s", "ms an evaluation", "share"), rows)


def _searching(clock: Clock, facts: dict[str, Any], workers: int) -> str:
    rows = []
    for found in facts["searchers"]:
        if found.name not in clock.wall:
            continue  # of the rankings that chose the criterion
        own, wall = clock.searchers[found.name], clock.wall[found.name]
        rate = f"{found.evaluations / wall:.2f}"
        rows.append((found.name, str(found.evaluations), f"{found.best:.4f}", rate, f"{own:.2f}"))
    titles = ("searcher", "evaluations", "best score", "evaluations a second (wall)", "its own CPU s")
    total = facts["evaluations"] / sum(clock.wall.values())
    return (
        table(titles, rows)
        + f"\nIn all {total:.2f} evaluations a second with {workers} workers; of the search's wall time "
        f"{facts['agent_overhead']:.1%} was not spent evaluating.\n"
    )


def algebra(cost: CostModel) -> Iterator[tuple[str, str]]:
    """Yield what the calls inside an episode cost, without a model being built."""
    limits = {"macs": TARGET * cost.full["macs"]}
    space = Space(cost, limits)
    rng = np.random.default_rng(0)
    partial = [
        space.complete([int(rng.choice(options)) for options in space.options[: rng.integers(len(space.free))]],
                       space.full())
        for _ in range(100)
    ]  # fmt: skip
    yield "cost of a partial plan", _microseconds(lambda i: cost.cost(partial[i]))
    env = SparsityEnv(space, Evaluator(lambda plans: [0.0] * len(plans), sys.maxsize, {}))
    env.reset()

    def step(i: int) -> None:
        if env.step(int(rng.integers(9)))[2]:
            env.reset()

    yield "step of the environment, wall and observation included", _microseconds(step)


def _microseconds(call: Callable[[int], object], batches: int = 30, calls: int = 100) -> str:
    found = []
    for _ in range(batches):
        start = time.thread_time()
        for i in range(calls):
            call(i)
        found.append((time.thread_time() - start) / calls * 1e6)
    return spread(found, 1)


if __name__ == "__main__":
    main(sys.argv[1:])

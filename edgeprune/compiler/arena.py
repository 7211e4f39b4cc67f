"""Where cells are run: searched by their agent, then judged on images that chose nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeprune import layers
from edgeprune.agents import warm
from edgeprune.agents.base import Evaluator, Space
from edgeprune.agents.base import key as plan_key
from edgeprune.agents.env import SparsityEnv
from edgeprune.benches.base import Bench
from edgeprune.budget import Budget
from edgeprune.compiler import tabling
from edgeprune.compiler.auditing import Audited
from edgeprune.compiler.cache import Journal, Store, code_digest, finish, finished, key, source_digest, versions
from edgeprune.compiler.cells import SCHEMA, Ceiling, Cell, Finding
from edgeprune.compiler.pipeline import AnyPass, Pipeline, describe
from edgeprune.compiler.statistics import improvements
from edgeprune.compiler.workshop import Means
from edgeprune.errors import UnmetRequirement
from edgeprune.groups import CostModel, Widths, aligned
from edgeprune.model import OnnxModel, Predict, TorchModel, batched
from edgeprune.passes.base import Context
from edgeprune.passes.finalists import Election, elect
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.judging import Judge
from edgeprune.passes.sparsify import Sparsify
from edgeprune.threads import threads
from edgeprune.tracing import size_of


class Arena:
    """Where the cells of one comparison are run: one model, one cut of the data, one journal of true scores.

    ``means.seed`` fixes images and importance, so that a plan's score is the same in every cell; a cell's own seed is
    the agent's and the fine-tuning's. With ``ending`` (passes to a finished graph) the final models are timed on
    ``bench``.
    """

    def __init__(self, original: TorchModel, task: Audited, usual: Sparsify, means: Means, bench: Bench, store: Store,
                 ending: tuple[AnyPass, ...] = ()) -> None:  # fmt: skip
        self.original, self.task, self.usual, self.means, self.bench = original, task, usual, means, bench
        self.store, self.ending = store, ending
        self.identity = key(original.digest(), task.digest(), means.seed, source_digest(),
                            code_digest([task.given, *original.module.modules()]), versions())  # fmt: skip
        self.context = Context(
            board=means.board, task=task, budget=Budget(None), seed=means.seed, original=original, baseline=None,
            open=self._open, measure=bench.measure, workspace=store.folder, journal=self._journal,
            progress=means.progress, cost="macs", threads=means.threads, train_threads=means.train_threads,
            pool=means.pool, device=means.device,
        )  # fmt: skip
        self.told = ""
        """The table that searches go by, if any."""
        self.tried: tuple[str, ...] = ()
        """The criteria that the usual one was chosen from, where it was."""
        self._judges: dict[str, tuple[Judge, MutableMapping[str, float]]] = {}

    def aim(self, path: Path) -> None:
        """Let searches know the latency that the table at ``path`` tells of any plan's float32 graph, on widths that
        the target likes; what the table lacks is measured into it. To be called before anything is run.
        """
        graph = self._graph(self.original, "original")
        found, table = tabling.units_of(graph), tabling.open_table(path, self.bench)
        tabling.extend(table, path, self.bench, graph, found, self.means.progress)
        self.usual = dataclasses.replace(self.usual, tallies=(tabling.tally_of(table, found),), aligned=True)
        self.told = f"{path} ({table.digest()[:12]})"

    def settle(self, ceiling: Ceiling) -> str:
        """Return the criterion that all cells go by: the one asked for, or the best under this ceiling. To be called
        after ``aim``.
        """
        step = dataclasses.replace(self.usual, limits=tuple(sorted(ceiling.limits.items())))
        ctx = dataclasses.replace(self.context, workspace=self.store.folder)
        found = step.measured(self.original, Space(self.rows, ceiling.limits), ctx)
        self.usual = dataclasses.replace(self.usual, criterion=found.taken.criterion)
        self.tried = tuple(sorted(one.criterion for one in (found.taken, *found.lost))) if found.lost else ()
        return found.taken.criterion

    def limits(self, cell: Cell) -> dict[str, float]:
        """Return the ceilings that a cell searches under. Without measured cost the share of the latency that its
        budget allows is that of the MACs.
        """
        limits = dict(cell.ceiling.limits)
        if cell.method.ablation == "no-measured-cost":
            full = self.rows.full
            macs = limits.pop("latency") / full["latency"] * full["macs"]
            limits["macs"] = min(macs, limits.get("macs", macs))
        return limits

    @cached_property
    def rows(self) -> CostModel:
        """What every search chooses about, with its cost algebra."""
        cost = self.usual.rows(self.original, self.means.board)
        narrow = self.usual.aligned and self.usual.granularity == "channel"
        return aligned(cost, self.means.board.widest_multiple) if narrow else cost

    @cached_property
    def _ranking(self) -> Any:
        return self.usual.ranking(self.original, self.rows.groups, self.task, self.means.seed)

    def key(self, cell: Cell) -> str:
        """Return the hash of everything that decides what a cell finds, and on which processor."""
        training = cell.method.finetune
        return key(SCHEMA, self._search_key(cell), describe(training), self._runtime(training.epochs > 0))

    def _search_key(self, cell: Cell) -> str:
        """Return the hash of everything that decides which plan a cell takes: whatever but its fine-tuning."""
        method = cell.method
        return key(
            "searched", SCHEMA, self.identity, self._runtime(method.sparsify.halving > 0.0), describe(method.sparsify),
            describe(self.usual), code_digest([method.agent]), method.warm, cell.seed, self.limits(cell),
        )  # fmt: skip

    def dense(self) -> dict[str, float]:
        """Return the original's scores on the images that choose, on the audit and on test; each is read once."""
        with self.store.open(key("compared", self.identity, self._runtime(), "original")) as folder:
            record = finished(folder)
            if record is None:
                predict = self.original.predict
                record = {
                    "search": self.task.score(predict, "search").value, "audit": self.task.audit(predict).value,
                    "test": self.task.score(predict, "test").value,
                }  # fmt: skip
                finish(folder, [], record)
            return {split: record[split] for split in ("search", "audit", "test")}

    def run(self, cell: Cell, name: str) -> Finding:
        """Search and judge. Raises UnmetRequirement where the evaluations found no plan under the ceiling."""
        widths, facts = self._searched(cell)
        return Finding(
            schema=SCHEMA, key=name, method=cell.method.label, agent=cell.method.agent.name, warm=cell.method.warm,
            ablation=cell.method.ablation, seed=cell.seed, budget=cell.ceiling.label, plan=plan_key(widths),
            **facts, **self._finish(cell, widths),
        )  # fmt: skip

    def _searched(self, cell: Cell) -> tuple[Widths, dict[str, Any]]:
        """Return the plan that a cell takes and what its search came to. Cells that differ in their fine-tuning alone
        share the search, and a kill while the plan is trained does not cost it.
        """
        with self.store.open(self._search_key(cell)) as folder:
            record = finished(folder)
            if record is None:
                widths, facts = self._measured(cell)
                finish(folder, [], {"widths": list(widths), "facts": facts})
                record = finished(folder)
            assert record is not None
            return tuple(record["widths"]), record["facts"]

    def _measured(self, cell: Cell) -> tuple[Widths, dict[str, Any]]:
        started = time.perf_counter()
        space = Space(self.rows, self.limits(cell), self._ranking)
        evaluator, own, elected = self._search(cell, space)
        scores = [score if space.share(plan) <= 1.0 else None for _, plan, score in evaluator.history]
        return elected.widths, {
            "search": elected.ranked[0].score, "images": elected.ranked[0].images,
            "evaluations": len(evaluator.known), "own": own, "improvements": improvements(scores),
            "journalled": evaluator.resumed, "seconds": time.perf_counter() - started,
            "told_ms": self.rows.cost(elected.widths).get("latency"),
        }  # fmt: skip

    def _search(self, cell: Cell, space: Space) -> tuple[Evaluator, int, Election]:
        judge, memo = self._judge(cell.method.sparsify)
        evaluator = Evaluator(judge.scores, cell.method.sparsify.evaluations, memo)
        with judge.running():
            env = SparsityEnv(space, evaluator)
            baselines, found = warm.search(cell.method.agent, env, cell.seed, warm=cell.method.warm)
        step = cell.method.sparsify
        ctx = dataclasses.replace(self.context, workspace=self.store.folder)
        settle = step.settling(judge, ctx, f"{self.identity}-{step.criterion}-{step.granularity}-{step.scoring(judge)}")
        elected = elect(judge, baselines, [found], step.finalists, step.evaluations, settle)
        if elected is None:
            raise UnmetRequirement(
                f"{evaluator.limit} evaluations of {cell.method.label} found no plan under {cell.ceiling.label}; raise "
                "--evaluations"
            )
        return evaluator, found.spent, elected

    def _judge(self, step: Sparsify) -> tuple[Judge, MutableMapping[str, float]]:
        """Return who scores plans, and the journal of the scores, which every cell shares."""
        by = step.criterion if step.granularity == "channel" else step.granularity
        name = f"{by}-{step.recalibration}"
        if name not in self._judges:
            judge = Judge(
                self.original, self.rows.groups, self._ranking, self.context, step.surgery, total=step.evaluations,
                images=self.usual.looks_at(step.objective), recalibration=step.recalibration,
                arithmetic=step.arithmetic, reconstruction=step.reconstruction, objective=step.objective,
            )  # fmt: skip
            self._judges[name] = judge, self._journal(f"compared-{by}-{step.scoring(judge)}")
        return self._judges[name]

    def _finish(self, cell: Cell, widths: Widths) -> dict[str, Any]:
        """Cut, audit, train, audit again, read the test split once. Cells that end in the same model share it."""
        training = cell.method.finetune
        trained = (describe(training), cell.seed) if training.epochs else None
        runtime = self._runtime(trained is not None)
        name = key("compared", self.identity, runtime, describe(self.usual), plan_key(widths), trained)
        with self.store.open(name) as folder:
            record = finished(folder)
            if record is None:
                finish(folder, [], {"found": self._judged(name, widths, training, cell.seed)})
                record = finished(folder)
            assert record is not None
            found: dict[str, Any] = record["found"]
            return found

    def _judged(self, name: str, widths: Widths, training: Finetune, seed: int) -> dict[str, Any]:
        model = self._judge(self.usual)[0].cut(widths)
        found: dict[str, Any] = {"audit": None, "tuned": None}
        last = "tuned" if training.epochs else "audit"
        if training.epochs:
            found["audit"] = self.task.audit(model.predict).value
            ctx = dataclasses.replace(self.context, seed=seed)
            trained, _ = Pipeline((training,)).run(model, ctx, self.store, name, "compared")
            assert isinstance(trained, TorchModel)
            model = trained
        found[last], found["test"] = self._reported(model)
        found |= layers.nonzero(model) or size_of(model)
        if self.ending:
            graphs = {"original": self._graph(self.original, "original"), "compared": self._graph(model, name)}
            found["measurement"] = self.bench.measure(graphs)["compared"].model_dump(mode="json")
        return found

    def _reported(self, model: TorchModel) -> tuple[float, float]:
        """Return a model's scores on the audit and on test, on one thread each: thousands of images, side by side."""
        with threads(1), ThreadPoolExecutor(2) as both:
            audit = both.submit(self.task.audit, model.clone().predict)
            test = both.submit(self.task.score, model.predict, "test")
            return audit.result().value, test.result().value

    def _graph(self, model: TorchModel, name: str) -> OnnxModel:
        base = key("graph", self.identity, self._runtime(), name)
        graph, _ = Pipeline(self.ending).run(model, self.context, self.store, base, name[:12])
        assert isinstance(graph, OnnxModel)
        return graph

    def _runtime(self, trains: bool = False) -> str:
        """Return the key of what computes and times: scores are the same to the bit on one kind of processor alone, and
        weights that it ``trains`` by one number of threads.
        """
        means = self.means
        board = means.board.model_dump(exclude={"detected"})
        graph = [describe(one) for one in self.ending]
        trainer = (means.train_threads, means.device) if trains else None
        return key(self._processor(), board, self.bench.identity, graph, means.threads, trainer)

    def _processor(self) -> dict[str, Any]:
        return {name: self.bench.processor().get(name) for name in ("cpu", "machine", "isa")}

    def _journal(self, name: str) -> MutableMapping[str, float]:
        return Journal(self.store.folder / "journals" / f"{key(self.identity, self._processor(), name)}.jsonl")

    @contextmanager
    def _open(self, model: OnnxModel) -> Iterator[Predict]:
        with self.bench.open(model) as runner:
            yield batched(runner, model.spec)

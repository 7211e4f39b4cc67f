"""Where candidates are finished: one place that turns a model and passes into an artifact, scores it and times it."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeprune import find, layers
from edgeprune.backends.base import Artifact
from edgeprune.benches.base import Bench
from edgeprune.benches.choose import bench_for
from edgeprune.budget import Budget, Cost, holds_floor
from edgeprune.compiler.cache import Journal, Store, code_digest, finish, finished, key, source_digest, versions
from edgeprune.compiler.pipeline import AnyPass, Pipeline, step_key
from edgeprune.errors import BadModel
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel, Predict, TorchModel, batched
from edgeprune.passes.base import Context, Progress
from edgeprune.passes.pool import Pool
from edgeprune.profiles.board import Board
from edgeprune.report import Candidate, Measurement, Score, ScoreReport, StepRecord
from edgeprune.tasks.base import Split, Task
from edgeprune.tracing import size_of


@dataclass(frozen=True)
class Means:
    """With what a build is made: everything but the model and its task. Thread counts are part of every key."""

    board: Board
    budget: Budget
    seed: int
    cost: Cost
    threads: int
    train_threads: int
    pool: Pool
    device: str
    progress: Progress
    table: Path | None = None


@dataclass(frozen=True)
class Finished:
    """A candidate as a finished artifact, scored on the search split and not yet timed.

    ``macs`` and ``parameters`` are what the artifact computes and holds; ``nonzero`` are both without the zeros of its
    masks, None where it has none.
    """

    name: str
    model: OnnxModel
    torch: TorchModel | None
    macs: float
    parameters: int
    size_bytes: int
    precisions: Mapping[str, int]
    score: Score | None
    steps: tuple[StepRecord, ...]
    passes: tuple[AnyPass, ...]
    nonzero: Mapping[str, float] | None = None

    def counts(self) -> dict[str, float]:
        """Return what ceilings are held against: bytes of the file, MACs and parameters; zeros of masks not counted."""
        return {"size": self.size_bytes, "macs": self.macs, "parameters": self.parameters, **(self.nonzero or {})}

    def compressed_bytes(self) -> int:
        """Return the size of the graph's file deflated (level 9), as an archive or a download would hold it."""
        return len(zlib.compress(self.model.path.read_bytes(), 9))

    def fact(self, one: str, name: str) -> Any:
        """Return a fact that a pass of this candidate recorded, or None."""
        return next(iter(self.facts(one, name)), None)

    def facts(self, one: str, name: str) -> list[Any]:
        """Return a fact of every run of a pass, in order: some run more than once in a candidate."""
        return [step.facts[name] for step in self.steps if step.name == one and name in step.facts]


class Workshop:
    """Finishes candidates of one original under one set of means; everything it does is taken from the store if it is
    there.

    ``prepare`` are passes that make the given model the original: a transfer to other classes. ``digest`` is the given
    model's, where it is known: it takes an export.
    """

    def __init__(
        self,
        original: TorchModel,
        task: Task | None,
        means: Means,
        store: Store | None = None,
        prepare: Sequence[AnyPass] = (),
        bench: Bench | None = None,
        digest: str | None = None,
    ) -> None:
        self.task, self.means = task, means
        self.preparation: tuple[StepRecord, ...] = ()
        """How the original was trained here; empty where it was given."""
        self.store = store or Store()
        self.bench = bench or bench_for(means.board, means.threads, means.seed)
        self._own_bench = bench is None
        self.steps: list[StepRecord] = []
        self._context: Context
        try:
            self._adopt(original, digest or original.digest())
            if prepare:
                self._prepare(original, tuple(prepare))
            self.source = self._finish_original()
        except BaseException:
            self._close()
            raise
        self._context = dataclasses.replace(self._context, baseline=self.source.score)

    def _prepare(self, given: TorchModel, passes: tuple[AnyPass, ...]) -> None:
        """Make the original of what was given. Builds of other budgets share it, so it must not know this one's."""
        ctx = dataclasses.replace(self._context, budget=Budget(None))
        base = key("prepare", self.identity, self.means.train_threads, self.means.device)
        ready, self.preparation = Pipeline(passes).run(given, ctx, self.store, base, "original")
        if not isinstance(ready, TorchModel):
            raise BadModel("what prepares the original must give a TorchModel")
        self.steps.extend(self.preparation)
        self._adopt(ready, ready.digest())

    def _adopt(self, original: TorchModel, digest: str) -> None:
        """Take a model for the original: everything that is done from now on is keyed by it."""
        task, means, self.original = self.task, self.means, original
        self.identity = key(
            digest,
            task.digest() if task else None,
            means.seed,
            source_digest(),
            code_digest([task, *original.module.modules()]),
            versions(),
        )
        self._detected = detected = {name: self.bench.processor().get(name) for name in ("cpu", "machine", "isa")}
        self._base = key(
            self.identity,
            means.board.model_dump(exclude={"detected"}),
            self.bench.identity,
            detected,
            dataclasses.astuple(means.budget),
            means.cost,
            means.threads,
            means.train_threads,
            means.device,
        )
        runner = self.bench.runner
        self._runtime = key(self.identity, runner.name, runner.version(), detected, means.threads)
        self._context = self._start()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bench that was made here; what is in the store stays."""
        self._close()

    def _close(self) -> None:
        if self._own_bench:
            self.bench.close()

    def _start(self) -> Context:
        means = self.means
        return Context(
            board=means.board,
            task=self.task,
            budget=means.budget,
            seed=means.seed,
            original=self.original,
            baseline=None,
            open=self.open,
            measure=self.measure,
            workspace=self.store.folder,
            journal=self._journal,
            progress=means.progress,
            cost=means.cost,
            threads=means.threads,
            train_threads=means.train_threads,
            pool=means.pool,
            device=means.device,
        )

    def _finish_original(self) -> Finished:
        return self.finish("original", (find.find("passes", "export")(),))

    def finish(self, name: str, passes: Sequence[AnyPass]) -> Finished:
        """Run ``passes`` on the original (they end in an ONNX model), count, and score the emitted graph on the
        search split.
        """
        self.means.progress.note(f"{name}: {' → '.join(p.name for p in passes)}")
        split = next((i for i, p in enumerate(passes) if p.gives is OnnxModel), len(passes))
        upper, steps = Pipeline(tuple(passes[:split])).run(self.original, self._context, self.store, self._base, name)
        lower, more = Pipeline(tuple(passes[split:])).run(
            upper, self._context, self.store, self._after(passes[:split]), name
        )
        if not isinstance(upper, TorchModel) or not isinstance(lower, OnnxModel):
            raise BadModel(f"the passes of {name} must lead from a TorchModel to an OnnxModel")
        size = size_of(upper)
        self.steps.extend((*steps, *more))
        cached = [step.name for step in (*steps, *more) if step.cached]
        if cached:
            self.means.progress.note(f"{name}: from the cache: {', '.join(cached)}")
        return Finished(
            name,
            lower,
            upper,
            size["macs"],
            int(size["parameters"]),
            lower.path.stat().st_size,
            self.bench.precisions(lower),
            self.score(lower, "search"),
            (*steps, *more),
            tuple(passes),
            layers.nonzero(upper),
        )

    def on(self, candidate: Finished, runtime: str) -> Finished:
        """Return a candidate as another runtime of the target's runs it: the same file, scored there."""
        model = dataclasses.replace(candidate.model, runtime=runtime)
        return dataclasses.replace(
            candidate,
            name=f"{candidate.name}, {runtime}",
            model=model,
            precisions=self.bench.precisions(model),
            score=self.score(model, "search"),
        )

    def _after(self, passes: Sequence[AnyPass]) -> str:
        name = self._base
        for one in passes:
            name = step_key(name, one)
        return name

    def score(self, model: OnnxModel, split: Split) -> Score | None:
        """Score an emitted graph on the target's runtime; None without a task."""
        if self.task is None:
            return None
        with self.store.open(key("score", self._runtime, model.digest(), model.runtime, split)) as folder:
            if finished(folder):
                saved = np.load(folder / "score.npz", allow_pickle=False)
                replicates = saved.get("replicates")
                return Score(float(saved["value"]), int(saved["n"]), saved["per_item"], replicates)
            with self.open(model) as predict:
                score = self.task.score(predict, split)
            buffer = io.BytesIO()
            extra = {} if score.replicates is None else {"replicates": score.replicates}
            np.savez(buffer, allow_pickle=False, value=score.value, n=score.n, per_item=score.per_item, **extra)
            write_atomic(folder / "score.npz", buffer.getvalue())
            finish(folder, ["score.npz"], {})
            return score

    @contextmanager
    def open(self, model: OnnxModel) -> Iterator[Predict]:
        """Load a graph on the target's runtime, or on ONNX Runtime, which computes the same, if that is elsewhere."""
        with self.bench.open(model) as runner:
            yield batched(runner, model.spec)

    def deploy(self, model: OnnxModel, directory: Path) -> Artifact | None:
        """Write what the target wants beside the graph, if anything."""
        return self.bench.deploy(model, directory)

    def measure(self, models: Mapping[str, OnnxModel]) -> Mapping[str, Measurement]:
        """Time graphs in turns on the bench, batch by batch as they are; ratios are against the first."""
        return self.bench.measure(models)

    def recorded_measure(self, candidate: Finished) -> Measurement:
        """Time a candidate against the original, once: a decision that hangs on it is taken the same way after an
        interruption.

        The recorded Measurement carries its date; figures of the final report never come from here.
        """
        name = key("measure", self._base, self.source.model.digest(), candidate.model.digest(), candidate.model.runtime)
        with self.store.open(name) as folder:
            record = finished(folder)
            if record is not None:
                return Measurement.model_validate(record["measurement"])
            found = self.measure({"original": self.source.model, "candidate": candidate.model})["candidate"]
            finish(folder, [], {"measurement": found.model_dump(mode="json")})
            return found

    def recorded_energy(self, candidate: Finished) -> float | None:
        """Return the millijoules of one run, measured once and recorded as ``recorded_measure`` does; None without a
        sensor.
        """
        name = key(
            "energy", self._base, candidate.model.digest(), candidate.model.runtime, self.bench.energy_method,
            self.bench.power_log is not None,
        )  # fmt: skip
        with self.store.open(name) as folder:
            record = finished(folder)
            if record is not None:
                return float(record["total_mj"])
            found = self.bench.energy(candidate.model)
            if found is not None:  # that none answered is not for ever
                finish(folder, [], {"total_mj": found.total_mj})
            return None if found is None else found.total_mj

    def complete(self, measured: Measurement, model: OnnxModel) -> Measurement:
        """Return a measurement with what is taken of one graph by itself: peak memory and energy."""
        return self.bench.complete(measured, model)

    def _journal(self, name: str) -> MutableMapping[str, float]:
        return Journal(self.store.folder / "journals" / f"{key(self.identity, self._detected, name)}.jsonl")

    def holds(self, candidate: Finished) -> bool | None:
        """Whether a candidate holds the accuracy floor on the search split; None when nothing can be said."""
        if self.means.budget.max_accuracy_drop is None or self.source.score is None or candidate.score is None:
            return None
        drop, error = self.source.score.drop_to(candidate.score)
        return holds_floor(drop, error, self.means.budget.max_accuracy_drop)

    def drop(self, candidate: Finished) -> float | None:
        """Return how much lower than the original a candidate scores on the search split; None without a score."""
        if self.source.score is None or candidate.score is None:
            return None
        return self.source.score.drop_to(candidate.score)[0]

    def describe(
        self,
        candidate: Finished,
        measurement: Measurement | None = None,
        score: Score | None = None,
        baseline: Score | None = None,
        split: Split = "search",
        chosen: bool = False,
        note: str = "",
        compressed: bool = False,
    ) -> Candidate:
        """Return a candidate's row of the report; without ``score`` the one on the search split.

        ``compressed`` asks for the deflated size too: for builds with masks, whose zeros no other size shows.
        """
        if score is None:
            score, baseline = candidate.score, self.source.score
        return Candidate(
            name=candidate.name,
            score=_score_row(score, baseline, split, self.task),
            macs=candidate.macs,
            parameters=candidate.parameters,
            size_bytes=candidate.size_bytes,
            compressed_bytes=candidate.compressed_bytes() if compressed else None,
            nonzero_parameters=round(candidate.nonzero["parameters"]) if candidate.nonzero else None,
            nonzero_macs=candidate.nonzero["macs"] if candidate.nonzero else None,
            precisions=dict(candidate.precisions),
            measurement=measurement or Measurement(source="unavailable"),
            held_floor=self.holds(candidate),
            chosen=chosen,
            runtime=candidate.model.runtime or self.bench.backend.name,
            note=note,
        )


def _score_row(score: Score | None, baseline: Score | None, split: Split, task: Task | None) -> ScoreReport | None:
    if score is None:
        return None
    drop = interval = None
    if baseline is not None:
        drop, interval = baseline.drop_to(score)[0], baseline.drop_interval(score)
    named: Literal["search", "test", "synthetic"] = (
        "synthetic" if task is not None and task.name == "synthetic" else split
    )
    metric = task.metric if task is not None else "score"
    return ScoreReport(metric=metric, value=score.value, n=score.n, split=named, drop=drop, drop_interval=interval)

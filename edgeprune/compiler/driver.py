"""compile: from a model to a folder that holds a smaller, verified artifact and a report that can be trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.agents.base import Agent
from edgeprune.agents.presets import preset
from edgeprune.benches.base import Bench
from edgeprune.benches.choose import bench_for
from edgeprune.budget import Budget, Cost, Limit
from edgeprune.compiler import replay, runtimes, writing
from edgeprune.compiler.cache import require_writable, root
from edgeprune.compiler.metering import with_meter
from edgeprune.compiler.opening import Opened, open_request
from edgeprune.compiler.outcome import Choice, choose, conclude
from edgeprune.compiler.pipeline import AnyPass, Pipeline
from edgeprune.compiler.pooling import cores, pool_for
from edgeprune.compiler.request import Request
from edgeprune.compiler.strategy import Outcome, Strategy
from edgeprune.compiler.tabling import open_table
from edgeprune.compiler.toolbox import Toolbox, toolbox, transfer
from edgeprune.compiler.workshop import Means, Workshop
from edgeprune.errors import BadOption, Infeasible
from edgeprune.model import OnnxModel, TorchModel
from edgeprune.passes.base import Progress, Silent
from edgeprune.passes.pool import Pool
from edgeprune.profiles import board as boards
from edgeprune.profiles.ssh import lease_name
from edgeprune.report import Report
from edgeprune.tasks.base import Task
from edgeprune.threads import threads
from edgeprune.tracing import trace


@dataclass(frozen=True)
class Build:
    """What a build left behind: its report, and the folder everything was written to."""

    report: Report
    directory: Path


def compile(
    model: nn.Module | TorchModel | str | Path | None = None,
    *,
    task: Task | str = "auto",
    passes: Sequence[AnyPass] | None = None,
    agent: Agent | str | None = None,
    max_accuracy_drop: float | None = 0.01,
    max_latency: str | None = None,
    max_energy: str | None = None,
    max_size: str | None = None,
    max_macs: str | None = None,
    max_parameters: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Build:
    """Compile a model; the command line's options by the same names, plus instances in place of names.

    ``model`` is an eager module, a TorchModel, or a path; ``task`` a Task instance or what ``--task`` takes;
    ``agent`` an Agent instance or a name. ``passes`` replaces the default pipeline: a sequence from TorchModel to
    OnnxModel, run as it is. ``options`` are the other fields of ``Request`` (``data``, ``arch``, ``target``,
    ``evaluations``, ``epochs``, ``seed``, ``threads``, ``out`` …). Ceilings are written as on the command line
    (``"12ms"``, ``"0.5x"``). Raises EdgepruneError subclasses; see edgeprune.errors.
    """
    ceilings = {
        "latency": max_latency,
        "energy": max_energy,
        "size": max_size,
        "macs": max_macs,
        "parameters": max_parameters,
    }
    limits = {f"max_{q}": Limit.parse(q, str(text)) for q, text in ceilings.items() if text is not None}
    known = {f.name for f in dataclasses.fields(Request)} - {"budget", "agent", "task", "model"}
    unknown = set(options) - known
    if unknown:
        raise BadOption(f"compile has no option {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    files = ("data", "recipe", "out", "table", "power_log")
    paths = {name: Path(options[name]) for name in files if options.get(name) is not None}
    request = Request(
        model=Path(model) if isinstance(model, str | Path) else None,
        task=task if isinstance(task, str) else task.name,
        agent=agent if isinstance(agent, str) else None,
        budget=Budget(max_accuracy_drop, **limits),
        **{**options, **paths},
    )
    return _compile(
        request,
        progress or Silent(),
        module=None if isinstance(model, str | Path) else model,
        task=None if isinstance(task, str) else task,
        agent=None if isinstance(agent, str) else agent,
        passes=None if passes is None else tuple(passes),
    )


def compile_request(request: Request, progress: Progress) -> Build:
    """Compile what the command line asked for. Raises EdgepruneError subclasses; KeyboardInterrupt passes through."""
    return _compile(request, progress)


def _compile(
    request: Request,
    progress: Progress,
    module: nn.Module | TorchModel | None = None,
    task: Task | None = None,
    agent: Agent | None = None,
    passes: tuple[AnyPass, ...] | None = None,
) -> Build:
    _require_another(request)
    require_writable(request.out)
    with threads(1):  # whatever is not told otherwise, so that bytes do not hang on the core count
        recipe = None
        notes: tuple[str, ...] = ()
        if request.recipe is not None:
            asked = request
            request, recipe = replay.adopt(asked, given=module is not None)
            notes = replay.overruled(asked, request, agent=agent, passes=passes)
            passes = replay.passes(recipe)
            _require_another(request)
        opened = open_request(request, module, task)
        if recipe is not None:
            replay.check(recipe, opened)
        if request.preset is not None and passes is None:
            notes = tuple(preset(request.preset).warnings())
        opened = dataclasses.replace(opened, notes=(*opened.notes, *notes))
        for note in opened.notes:
            progress.note(note)
        tools = _tools(request, opened, agent) if passes is None else None
        if passes is not None:
            _check_chain(passes)
        first = (transfer(request.settings, request.effort, opened.task),) if opened.transfer else ()
        with ExitStack() as stack:
            bench = stack.enter_context(closing(_bench(request, progress)))
            if request.table is not None:
                open_table(request.table, bench)  # refused now, and not after the first candidate
            pool = stack.enter_context(closing(pool_for(request)))
            means = _means(request, opened, progress, recipe, bench, pool)
            workshop = stack.enter_context(Workshop(
                opened.original, opened.task, means, prepare=first, bench=bench, digest=opened.inputs["original"]
            ))  # fmt: skip
            if tools is None:
                outcome = _as_given(workshop, passes or (), (recipe or {}).get("runtime", ""))
            else:
                try:
                    outcome = Strategy(workshop, tools).run()
                    runtimes.offer(workshop, outcome)
                except Infeasible as error:
                    writing.infeasible(request, opened, workshop, str(error))
                    raise
            choice = _only(outcome) if tools is None else choose(workshop, outcome)
            report = conclude(workshop, opened, outcome, choice, tools, request)
            if recipe is not None:
                report = replay.compare(recipe, workshop, choice, report)
            writing.write(request, opened, workshop, choice, report)
        return Build(writing.read_report(request.out), request.out)


def _require_another(request: Request) -> None:
    """Raise BadOption where the build would take the place of one that it is made from."""
    for read in (request.model, request.recipe):
        if read is not None and read.is_dir() and read.resolve() == request.out.resolve():
            raise BadOption(f"--out {request.out} is the build that is read, and would be replaced; give another")


def _tools(request: Request, opened: Opened, agent: Agent | None) -> Toolbox:
    multiples = tuple(boards.load(request.target).channel_multiples.values())
    own = _own(request, opened)
    counts = opened.has_data and request.evaluations is None  # else nothing hangs on how many groups there are
    free = sum(len(g.options()) > 1 for g in trace(opened.original, multiples).groups) if counts else 0
    tools = toolbox(
        request.settings,
        agent=agent or request.agent,
        preset=request.preset,
        evaluations=request.evaluations,
        epochs=request.epochs,
        effort=request.effort,
        precision=request.precision,
        data=opened.has_data,
        free_groups=free,
        task=opened.task,
        dialect=boards.load(request.target).backend != "onnxruntime",
    )
    return tools if own is None else dataclasses.replace(tools, quantize=dataclasses.replace(tools.quantize, **own))


def _own(request: Request, opened: Opened) -> dict[str, Any] | None:
    """Return the int8 layers and ranges of the build that MODEL is, where there are no images to find others by."""
    if opened.kind != "build" or opened.has_data or request.precision not in ("auto", "int8"):
        return None
    assert request.model is not None
    recipe = replay.read(request.model)
    options = [one.get("options", {}) for one in recipe["passes"] if one.get("pass") == "quantize"]
    decided: dict[str, Any] = options[0] if options else {}
    if not decided.get("lowered") or not recipe.get("ranges") or "int8" not in boards.load(request.target).precisions:
        return None
    rest = "fp16" if "fp16" in boards.load(request.target).precisions else "fp32"
    return {"lowered": tuple(decided["lowered"]), "ranges": recipe["ranges"], "rest": rest}


def _check_chain(passes: Sequence[AnyPass]) -> None:
    """Raise BadOption unless the passes lead from a TorchModel to an OnnxModel."""
    if not passes or passes[-1].gives is not OnnxModel:
        raise BadOption("passes must end with one that gives an OnnxModel, such as edgeprune.passes.export.Export()")
    if passes[0].takes is not TorchModel:
        raise BadOption(f"the first pass is given the original, a TorchModel, but {passes[0].name!r} does not take one")
    Pipeline(tuple(passes))


def _as_given(workshop: Workshop, passes: Sequence[AnyPass], runtime: str) -> Outcome:
    """Run exactly these passes, for the runtime that a recipe names."""
    result = workshop.finish("result", passes)
    if runtime:
        result = dataclasses.replace(workshop.on(result, runtime), name="result")
    return Outcome({"original": workshop.source, "result": result})


def _only(outcome: Outcome) -> Choice:
    return Choice(outcome.candidates["result"], {name: "" for name in outcome.candidates})


def _bench(request: Request, progress: Progress) -> Bench:
    """Return where finished graphs of this build run."""
    board, cache = boards.load(request.target), root() / "boards"
    owner = "" if request.board is None else lease_name(request.out)
    bench = bench_for(board, request.threads, request.seed, request.board, owner, progress, cache)
    with_meter(bench, request.energy, request.power_log, progress)
    return bench


def _means(
    request: Request, opened: Opened, progress: Progress, recipe: replay.Recipe | None, bench: Bench, pool: Pool
) -> Means:
    """Return the means of this build; without data there is no floor to hold, and a replay trains as it was recorded.
    """
    if request.device == "cuda" and not torch.cuda.is_available():
        raise BadOption("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    device = "cuda" if request.device != "cpu" and torch.cuda.is_available() else "cpu"
    budget = request.budget if opened.has_data else dataclasses.replace(request.budget, max_accuracy_drop=None)
    return Means(
        board=bench.board,
        budget=budget,
        seed=request.seed,
        cost=_cost(request, bench),
        threads=request.threads,
        train_threads=cores() if recipe is None else int(recipe["means"]["train_threads"]),
        pool=pool,
        device=device,
        progress=progress,
        table=request.table,
    )


def _cost(request: Request, bench: Bench) -> Cost:
    """Return who decides what is faster: for a target that is elsewhere no clock can. Raises BadOption for estimates
    that are asked for where there is a clock, or no figures to make them of.
    """
    figures = bench.board.tera_ops and bench.board.bandwidth_gb_s
    if request.cost == "estimated" and (bench.source == "measured" or not figures):
        why = "is measured here" if bench.source == "measured" else "has no figures to estimate by"
        raise BadOption(f"--cost estimated: {bench.board.name} {why}; use --cost measured, or macs")
    if request.cost == "macs" or (request.cost == "measured" and bench.source == "measured"):
        return request.cost
    return "estimated" if figures else "macs"

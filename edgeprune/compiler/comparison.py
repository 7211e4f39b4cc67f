"""compare: agents side by side at equal numbers of true evaluations and equal fine-tuning, in one resumable run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune import find
from edgeprune.agents.base import Agent, Space
from edgeprune.benches.choose import bench_for
from edgeprune.budget import Budget, Limit
from edgeprune.compiler import cells as cell_files
from edgeprune.compiler import comparison_plots, comparison_text
from edgeprune.compiler.arena import Arena
from edgeprune.compiler.assembly import assemble
from edgeprune.compiler.auditing import Audited
from edgeprune.compiler.cache import Store, key, require_writable, root
from edgeprune.compiler.cells import Ablation, Ceiling, Cell, Finding
from edgeprune.compiler.comparison_report import Comparison
from edgeprune.compiler.contest import EVALUATIONS, SEEDS, Contest, budgets, methods, written
from edgeprune.compiler.opening import Opened, open_request
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.pooling import cores, pool_for
from edgeprune.compiler.request import Request
from edgeprune.compiler.toolbox import Toolbox, toolbox
from edgeprune.compiler.workshop import Means
from edgeprune.errors import BadOption, Infeasible, UnmetRequirement, nearest
from edgeprune.files import write_atomic
from edgeprune.model import TorchModel
from edgeprune.passes.base import Progress, Silent
from edgeprune.passes.finalists import seats
from edgeprune.passes.judging import IMAGES
from edgeprune.passes.pool import Pool
from edgeprune.passes.sparsify import Sparsify
from edgeprune.profiles import board as boards
from edgeprune.profiles.ssh import lease_name
from edgeprune.tasks.base import Task
from edgeprune.threads import threads

_WIDER = 4
"""Times the images that a search scores its plans on, those for its finalists included; but no fewer than a search by
the metric usually scores where it goes by agreement, which needs few. The audit is left half of the split at least.
"""


def compare(
    model: nn.Module | TorchModel | str | Path | None = None,
    *,
    task: Task | str = "auto",
    agents: Iterable[str | Agent] | None = None,
    seeds: int = SEEDS,
    evaluations: int = EVALUATIONS,
    epochs: int = 0,
    max_macs: str | Sequence[str] = (),
    max_parameters: str | Sequence[str] = (),
    max_latency: str | Sequence[str] = (),
    cold: bool = False,
    ablations: Sequence[Ablation] = (),
    measure: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Compare agents; the command line's options by the same names, plus instances in place of names (its ``--images``
    is ``settings={"sparsify": {"images": …}}``).

    ``model`` and ``task`` are what ``edgeprune.compile`` takes; ``agents`` names or Agent instances (default: all there
    are). A ceiling is one text such as ``"0.5x"``, or several for several budgets; on latency it is of what ``table``
    tells. ``options`` are other fields of ``Request``: ``data``, ``arch``, ``target``, ``table``,
    ``settings``, ``seed``, ``device``, ``workers``, ``out`` and the like.
    Writes compare.json, compare.md, the plots and one file a cell to ``out``. Raises EdgepruneError subclasses.
    """
    known = {"arch", "trust_pickle", "data", "input_shape", "target", "board", "settings", "threads", "device", "seed",
             "out", "workers", "ray", "ray_address", "table"}  # fmt: skip
    unknown = sorted(set(options) - known)
    if unknown:
        raise BadOption(f"compare has no option {unknown[0]!r}{nearest(unknown[0], known)}")
    paths = {name: Path(options[name]) for name in ("data", "out", "table") if options.get(name) is not None}
    request = Request(
        model=Path(model) if isinstance(model, str | Path) else None,
        task=task if isinstance(task, str) else task.name,
        **{"out": Path("build/compare"), **options, **paths},
    )
    asked = {"macs": max_macs, "parameters": max_parameters, "latency": max_latency}
    texts = {quantity: [given] if isinstance(given, str) else given for quantity, given in asked.items()}
    contest = Contest(
        request, tuple(find.names("agents") if agents is None else agents),
        budgets(**{quantity: [Limit.parse(quantity, text) for text in given] for quantity, given in texts.items()}),
        seeds, evaluations, epochs, cold, tuple(ablations), measure,
    )  # fmt: skip
    module = None if isinstance(model, str | Path) else model
    return run(contest, progress or Silent(), module, None if isinstance(task, str) else task)


def run(
    contest: Contest, progress: Progress, module: nn.Module | TorchModel | None = None, task: Task | None = None
) -> Comparison:
    """Run what is not finished yet, and write what came out. Raises Infeasible before any work for a budget out of
    reach; KeyboardInterrupt passes through, and the same call goes on.
    """
    request = contest.request
    require_writable(request.out)
    with threads(1):  # as a build: whatever is not told otherwise, so that bytes do not hang on the core count
        for agent in contest.agents:
            if isinstance(agent, str):
                find.find("agents", agent)  # refused now, and not after the model was loaded
        opened = open_request(request, module, task)
        _require_data(opened)
        for note in opened.notes:
            progress.note(note)
        tools = _tools(contest, opened)
        bench = bench_for(boards.load(request.target), request.threads, request.seed, request.board,
                          lease_name(request.out) if request.board else "", progress, root() / "boards")  # fmt: skip
        with closing(bench), closing(pool_for(request)) as pool:
            means = _means(request, bench.board, progress, pool)
            audited = Audited(opened.task, choosing(tools.sparsify, contest.evaluations), request.seed)
            ending: tuple[AnyPass, ...] = (tools.export, *tools.dialect) if contest.emits else ()
            arena = Arena(opened.original, audited, tools.sparsify, means, bench, Store(), ending)
            with arena.store.open(key("comparison", arena.identity)):  # one at a time, from the first measurement on
                if request.table is not None:
                    arena.aim(request.table)
                return _run(contest, arena, tools, progress)


def choosing(step: Sparsify, evaluations: int) -> int:
    """Return how many images had better choose: those that a search of so many evaluations scores its plans on, and
    more where it has finalists.
    """
    images = step.looks_at(step.objective)
    if seats(step.finalists, evaluations, step.objective) < 2:
        return images
    return max(_WIDER * images, IMAGES["metric"] if step.objective == "agreement" else 0)


def _run(contest: Contest, arena: Arena, tools: Toolbox, progress: Progress) -> Comparison:
    out, seed = contest.request.out, contest.request.seed
    ceilings = _ceilings(contest, arena)
    for method in methods(contest, tools):  # what cannot be is refused before any plan is scored
        for ceiling in ceilings:
            _require_reachable(arena, Cell(method, seed, ceiling))
    criterion = arena.settle(ceilings[0])
    progress.note(f"channels go by {criterion}")
    sparsify = dataclasses.replace(tools.sparsify, criterion=criterion)
    chosen = methods(contest, dataclasses.replace(tools, sparsify=sparsify))
    cells = [Cell(method, number, ceiling) for ceiling in ceilings for number in range(seed, seed + contest.seeds)
             for method in chosen]  # fmt: skip
    found: list[Finding] = []
    for cell in progress.track(cells, "compare: cells", len(cells)):
        name = arena.key(cell)
        path = cell_files.path_of(out / "cells", cell, name)
        finding = cell_files.read(path, name)
        if finding is None:
            finding = arena.run(cell, name)
            cell_files.write(path, finding)
            progress.note(f"{cell.method.label}, {cell.ceiling.label}, seed {cell.seed}: {finding.evaluations} "
                          f"evaluations, search {finding.search:.4f}, audit {finding.audit:.4f}")  # fmt: skip
        found.append(finding)
    report = assemble(contest.request, arena, chosen, ceilings, found, arena.dense())
    write_atomic(out / "compare.json", report.to_json())
    write_atomic(out / "compare.md", comparison_text.markdown(report))
    for file, drawn in comparison_plots.draw(report).items():
        write_atomic(out / file, drawn)
    return report


def _require_reachable(arena: Arena, cell: Cell) -> None:
    """Raise Infeasible where no plan keeps what a cell searches under, which is not the budget's without its cost."""
    if cell.method.ablation == "no-measured-cost":
        try:
            Space(arena.rows, arena.limits(cell))
        except Infeasible as error:
            raise Infeasible(
                f"--ablation no-measured-cost searches under the same share of the MACs as {cell.ceiling.label}, and "
                f"{str(error).rpartition(';')[0]}; leave out the ablation, or that ceiling"
            ) from error


def _require_data(opened: Opened) -> None:
    if not opened.has_data:
        raise UnmetRequirement("a comparison needs data to score plans by; give --data")
    if opened.transfer:
        raise UnmetRequirement(
            "the model knows other classes than the data, and a comparison trains no new head; give a model that was "
            "trained on these classes"
        )


def _tools(contest: Contest, opened: Opened) -> Toolbox:
    settings = {table: fields for table, fields in contest.request.settings.items() if table != "agent"}
    board = boards.load(contest.request.target)
    return toolbox(
        settings, agent="uniform", evaluations=contest.evaluations, epochs=contest.epochs, effort="normal",
        precision="fp32", data=True, free_groups=0, task=opened.task, dialect=board.backend != "onnxruntime",
    )  # fmt: skip


def _ceilings(contest: Contest, arena: Arena) -> list[Ceiling]:
    """Return the budgets in absolute terms. Raises Infeasible where no plan keeps one of them."""
    full = arena.rows.full
    ceilings = []
    for budget in contest.budgets:
        label = ", ".join(written(quantity, limit) for quantity, limit in budget.items())
        ceilings.append(Ceiling(label, {quantity: limit.resolve(full[quantity]) for quantity, limit in budget.items()}))
        Space(arena.rows, ceilings[-1].limits)
    if len({ceiling.label for ceiling in ceilings}) < len(ceilings):
        raise BadOption("a budget is given twice")
    return ceilings


def _means(request: Request, board: boards.Board, progress: Progress, pool: Pool) -> Means:
    if request.device == "cuda" and not torch.cuda.is_available():
        raise BadOption("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    device = "cuda" if request.device != "cpu" and torch.cuda.is_available() else "cpu"
    return Means(board, Budget(None), request.seed, "macs", request.threads, cores(), pool, device, progress)

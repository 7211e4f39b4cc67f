"""What a dense model would take on a target, told from its graph alone: for ``edgeprune inspect``, never measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeprune import find
from edgeprune.backends.base import Backend
from edgeprune.budget import Budget
from edgeprune.compiler import tabling
from edgeprune.dialects.units import Unit, moved_by
from edgeprune.errors import EdgepruneError
from edgeprune.groups import CostModel
from edgeprune.model import OnnxModel, Predict, TorchModel, batched
from edgeprune.passes.base import Context
from edgeprune.passes.export import Export
from edgeprune.profiles.board import Board, Precision
from edgeprune.profiles.energy_model import FORMULAS
from edgeprune.profiles.roofline import estimate_ms, kernel_ms
from edgeprune.report import Measurement
from edgeprune.tally import Tallied, Tally, Term

FORMULA = FORMULAS[0]


@dataclass(frozen=True)
class Estimates:
    """Milliseconds of one run by roofline, all of it in one precision, and its millijoules in fp32 by ``FORMULA``.

    ``latency_ms`` holds None for a precision that the board's file tells too little of. ``shares`` are those of each
    group, like its share of MACs, of ``energy`` and, where it can be told, of ``latency``, in ``shares_of``. ``why``
    says why there is nothing at all.
    """

    latency_ms: dict[Precision, float | None] = field(default_factory=dict)
    energy_mj: float | None = None
    shares_of: Precision | None = None
    shares: tuple[dict[str, float], ...] = ()
    why: str = ""


def estimate(model: TorchModel, cost: CostModel, board: Board) -> Estimates:
    """Export a dense model into a folder that goes again, and tell what its kernels would take on ``board``."""
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        try:
            found = tabling.units_of(_exported(model, board, Path(folder)))
        except EdgepruneError as error:
            return Estimates(why=str(error))
    latency = {p: estimate_ms([u.split.kernel(u.part, p) for u in found], board) for p in board.precisions}
    known = next((p for p, ms in latency.items() if ms is not None), None)
    tallies = [tabling.energy_of(found, FORMULA)]
    if known is not None:
        tallies.append(_latency(found, board, known))
    whole = Tallied(cost, tallies)
    rows = tuple(
        {name: share for name, share in whole.share_of(i).items() if name in ("energy", "latency")}
        for i in range(len(cost.groups))
    )
    return Estimates(latency, whole.full["energy"], known, rows)


def _latency(found: tuple[Unit, ...], board: Board, precision: Precision) -> Tally:
    """Return the roofline's latency at full width, kernel by kernel."""
    terms, moved = [], moved_by(found)
    for unit in found:
        ms = kernel_ms(unit.split.kernel(unit.part, precision), board) or 0.0
        if unit.scalable:
            grid = np.array([[ms]])
            terms.append(Term(unit.part.name, (float(unit.outputs),), (float(unit.inputs),), grid))
        else:
            terms.append(Term(whole=ms, moved=moved.get(unit.part.name, {})))
    return Tally("latency", terms)


def _exported(model: TorchModel, board: Board, folder: Path) -> OnnxModel:
    runner: Backend = find.find("backends", "onnxruntime")()

    @contextmanager
    def opened(graph: OnnxModel) -> Iterator[Predict]:
        with runner.open(runner.emit(graph, board, folder / "opened"), 1) as run:
            yield batched(run, graph.spec)

    def unmeasured(models: object) -> dict[str, Measurement]:
        return {}

    ctx = Context(board=board, task=None, budget=Budget(), seed=0, original=model, baseline=None, open=opened,
                  measure=unmeasured, workspace=folder)  # fmt: skip
    return Export().run(model.clone(), ctx)

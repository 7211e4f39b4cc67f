"""inspect: what of a model can be pruned, what cannot, and why."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.compiler.opening import open_request
from edgeprune.compiler.request import Request
from edgeprune.groups import DROP
from edgeprune.passes.base import Progress
from edgeprune.profiles import board as boards
from edgeprune.report import GroupRow
from edgeprune.tracing import trace


@dataclass(frozen=True)
class Inspection:
    """A model at a glance: its size, and a row for every group of coupled channels, in forward order.

    In the rows ``dropped_block`` is the residual block a search *may* drop there.
    """

    name: str
    parameters: int
    macs: float
    least_macs: float
    rows: tuple[GroupRow, ...]
    notes: tuple[str, ...]


def inspect_model(request: Request, progress: Progress) -> Inspection:
    """Load a model and trace its groups with a trial cut of each. Raises BadInput subclasses as ``compile`` does."""
    opened = open_request(request)
    progress.note("tracing the dependency graph, one trial cut a group")
    cost = trace(opened.original, tuple(boards.load(request.target).channel_multiples.values()))
    rows = tuple(
        GroupRow(
            group=g.name,
            channels=g.channels,
            kept=g.channels,
            ladder=g.ladder,
            macs_share=cost.share_of(i)["macs"],
            dropped_block=g.block,
            reason=g.locked,
        )
        for i, g in enumerate(cost.groups)
    )
    smallest = tuple(DROP if g.block else g.ladder[-1] for g in cost.groups)
    notes = tuple(n for n in opened.notes if "--data" not in n)
    name = request.arch or str(request.model)
    return Inspection(name, int(cost.full["parameters"]), cost.full["macs"], cost.cost(smallest)["macs"], rows, notes)

"""inspect: what of a model can be pruned, what cannot, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeprune.compiler.board_facts import BoardFacts, facts_of
from edgeprune.compiler.estimates import FORMULA, Estimates, estimate
from edgeprune.compiler.opening import open_request
from edgeprune.compiler.request import Request
from edgeprune.groups import DROP
from edgeprune.passes.base import Progress
from edgeprune.report import GroupRow
from edgeprune.tracing import trace


class InspectedGroup(GroupRow):
    """A group with its estimated shares of the dense model's latency and energy, where they can be told.

    ``dropped_block`` is the residual block that a search *may* drop there.
    """

    latency_share: float | None = None
    energy_share: float | None = None


@dataclass(frozen=True)
class Inspection:
    """A model at a glance on a target: its size, what it would take there, and a row for every group of coupled
    channels, in forward order.
    """

    name: str
    parameters: int
    macs: float
    least_macs: float
    rows: tuple[InspectedGroup, ...]
    notes: tuple[str, ...]
    target: BoardFacts
    estimates: Estimates

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data; what is estimated says so."""
        told = self.estimates
        return {
            "name": self.name,
            "parameters": self.parameters,
            "macs": self.macs,
            "least_macs": self.least_macs,
            "latency_ms": {p: {"estimated": ms, "method": "roofline"} for p, ms in told.latency_ms.items()},
            "energy_mj": {"estimated": told.energy_mj, "method": FORMULA},
            "shares_of": told.shares_of,
            "rows": [row.model_dump() for row in self.rows],
            "notes": list(self.notes),
            "target": self.target.to_json(),
        }


def inspect_model(request: Request, progress: Progress) -> Inspection:
    """Load a model and trace its groups with a trial cut of each. Raises BadInput subclasses as ``compile`` does."""
    opened = open_request(request)
    progress.note("tracing the dependency graph, one trial cut a group")
    target = facts_of(request.target)
    cost = trace(opened.original, tuple(target.board.channel_multiples.values()))
    progress.note("exporting it, for estimates of latency and energy")
    told = estimate(opened.original, cost, target.board)
    rows = tuple(
        InspectedGroup(
            group=g.name,
            channels=g.channels,
            kept=g.channels,
            ladder=g.ladder,
            macs_share=cost.share_of(i)["macs"],
            dropped_block=g.block,
            reason=g.locked,
            latency_share=told.shares[i].get("latency") if told.shares else None,
            energy_share=told.shares[i].get("energy") if told.shares else None,
        )
        for i, g in enumerate(cost.groups)
    )
    smallest = tuple(DROP if g.block else g.ladder[-1] for g in cost.groups)
    notes = [n for n in opened.notes if "--data" not in n]
    notes += [f"nothing could be estimated: {told.why}"] if told.why else []
    name = request.arch or str(request.model)
    return Inspection(
        name,
        int(cost.full["parameters"]),
        cost.full["macs"],
        cost.cost(smallest)["macs"],
        rows,
        tuple(notes),
        target,
        told,
    )

"""What a search tells the report: its plan group by group, who searched, every evaluation, the finalists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeprune import layers
from edgeprune.agents.base import Evaluator, Space, Trace, key
from edgeprune.groups import CostModel, Group, Widths
from edgeprune.mixed import MARK, parted
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context
from edgeprune.passes.criteria import Measured
from edgeprune.passes.finalists import Election
from edgeprune.report import Evaluation, FinalistRow, GroupRow, SearcherRow


def group_rows(cost: CostModel, widths: Widths) -> list[GroupRow]:
    """Return the report's row of every group: its ladder, what was kept and why it may not be cut."""
    rows = []
    dropped = {g.block for g, w in zip(cost.groups, widths, strict=True) if w == 0}
    channels, kept, floating = parted(cost.groups, widths)
    lowered = {group.name.removesuffix(MARK): group.lowers for group in cost.groups if group.lowers}
    for index, (group, width) in enumerate(zip(channels, kept, strict=True)):
        choice = lowered.get(group.name)
        gone = group.inside in dropped and group.inside is not None
        reason = group.locked or (f"went with block {group.inside}" if gone and width else "")
        rows.append(
            GroupRow(
                group=group.name,
                channels=group.channels,
                kept=0 if gone else width,
                dropped_block=group.block if width == 0 else None,
                ladder=group.ladder,
                macs_share=cost.share_of(index)["macs"],
                reason=reason,
                precision=None if choice is None or gone or width == 0 else
                "float" if choice[0] in floating else "int8",
            )
        )
    return rows


def in_weights(row: GroupRow, model: TorchModel, group: Group) -> GroupRow:
    """Return a layer's row with numbers of weights where the search has eighths."""
    kept, *ladder = (layers.counted(model.module, group, width) for width in (row.kept, *row.ladder))
    whole = layers.counted(model.module, group, group.channels)
    return row.model_copy(update={"channels": whole, "kept": kept, "ladder": tuple(ladder), "unit": "weights"})


def record(
    ctx: Context,
    space: Space,
    measured: Measured,
    baselines: Sequence[Trace],
    found: Sequence[Trace],
    elected: Election,
    seconds: float,
) -> None:
    """Tell the report all that a search found, in ``seconds`` without rankings by criteria and the finalists."""
    evaluator, lost = measured.taken.evaluator, measured.lost
    evaluators = [*(one.evaluator for one in lost), evaluator]
    quantity, limit = next(iter(space.limits.items()))
    target = limit / space.cost.full[quantity]

    def share(widths: Widths) -> float:
        return space.cost.cost(widths)[quantity] / space.cost.full[quantity]

    ctx.record(
        "searchers",
        [
            SearcherRow(
                name=t.searcher,
                target=target,
                evaluations=t.spent,
                best=t.best.score if t.best else None,
                cost=share(t.best.widths) if t.best else None,
            )
            for t in [*measured.traces, *baselines, *found]
        ],
    )
    ctx.record(
        "history",
        [
            Evaluation(searcher=searcher, target=target, cost=share(widths), score=score)
            for one in evaluators
            for searcher, widths, score in one.history
        ],
    )
    every = (*lost, measured.taken)  # another search of this build may have taken another criterion
    ctx.record("asked", {one.name: {key(plan): score for plan, score in one.evaluator.known.items()} for one in every})
    ctx.record(
        "finalists",
        [
            FinalistRow(plan=key(one.widths), cost=share(one.widths), searched=one.searched, score=one.score,
                        images=one.images, trained=one.trained, epochs=one.epochs)
            for one in elected.ranked
        ],
    )  # fmt: skip
    facts: Mapping[str, Any] = {
        "agent": found[0].searcher,
        "quantity": quantity,
        "target": target,
        "evaluations": sum(len(one.known) for one in evaluators),
        "resumed": sum(one.resumed for one in evaluators),
        "warm_start": elected.start,
        "best": elected.best,
        "images": elected.images,
        "reached": share(elected.widths),
        "agent_overhead": _overhead(evaluator, seconds),
        "agent_seconds": max(0.0, seconds - evaluator.seconds),
    }
    for name, value in facts.items():
        ctx.record(name, value)


def _overhead(evaluator: Evaluator, seconds: float) -> float | None:
    """Return the share of a search's time spent on anything but evaluating, had it made every evaluation itself.

    Those it found in the journal count as long as the others took on average; None where it made none.
    """
    made = len(evaluator.known) - evaluator.resumed
    if made < 1:
        return None
    own = max(0.0, seconds - evaluator.seconds)
    return own / (own + evaluator.seconds / made * len(evaluator.known))

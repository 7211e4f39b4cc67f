"""dialect: make a graph one that the target's runtime reads, and prove that it still computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from edgeprune.dialects.conform import conform
from edgeprune.errors import BadModel
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.graph import write


@dataclass(frozen=True)
class Dialect(Pass[OnnxModel, OnnxModel]):
    """Hold the graph against every rule of the target's dialect and mend what breaks one; refuse what cannot be mended.

    What was mended is run in ONNX Runtime beside the graph as it was: their outputs may differ by ``tolerance`` of the
    outputs' spread, on the task's own images where there are any.
    """

    name: ClassVar[str] = "dialect"
    takes: ClassVar[type] = OnnxModel
    gives: ClassVar[type] = OnnxModel

    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be above zero, not {self.tolerance}")

    def run(self, model: OnnxModel, ctx: Context) -> OnnxModel:
        """Return the mended graph of ``ctx.workspace``, or ``model`` itself where it breaks no rule.

        Raises BadModel when a rule stays broken, or when mending changed what is computed.
        """
        proto = onnx.load(model.path)
        mended = conform(proto, ctx.board)
        ctx.record("mended", [str(finding) for finding in mended])
        if not mended:
            return model
        written = write(proto, OnnxModel(ctx.workspace / "model.onnx", model.spec))
        difference = _difference(model, written, ctx)
        if not difference <= self.tolerance:
            rules = ", ".join(sorted({finding.rule for finding in mended}))
            raise BadModel(
                f"mending the graph for {ctx.board.name} ({rules}) changed its outputs by {difference:.1e} of their "
                f"spread; this is a fault of edgeprune's"
            )
        ctx.record("difference", difference)
        return written


def _difference(before: OnnxModel, after: OnnxModel, ctx: Context) -> float:
    """Return the largest difference of two graphs' outputs as a share of their spread."""
    images = np.random.default_rng(0).standard_normal(before.spec.input_shape).astype(np.float32)
    if ctx.task is not None and (batch := next(iter(ctx.task.calibration_batches()), None)) is not None:
        images = batch[:16].numpy()
    with ctx.open(before.reference()) as predict:
        expected = predict(images)
    with ctx.open(after.reference()) as predict:
        found = predict(images)
    return float(np.abs(found - expected).max() / (expected.std() or 1.0))

"""recut: apply recorded cuts. A search's decision as a pass, for replays and for plans that are known beforehand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from edgeprune import surgery
from edgeprune.activations import CHEAPER
from edgeprune.masks import HALF
from edgeprune.model import Surgery, TorchModel, first_line
from edgeprune.passes.base import Context, Pass
from edgeprune.recalibration import follow
from edgeprune.reconstruction import gathered, reconstruct, record


@dataclass(frozen=True)
class Recut(Pass[TorchModel, TorchModel]):
    """Apply a recorded Surgery (its JSON), then reconstruct and re-estimate batch norms as sparsify does after its
    search.
    """

    name: ClassVar[str] = "recut"
    takes: ClassVar[type] = TorchModel
    gives: ClassVar[type] = TorchModel

    cuts: str = '{"dropped": [], "kept": {}}'
    recalibration: int = 0
    reconstruction: bool = False

    def __post_init__(self) -> None:
        read_cuts(json.loads(self.cuts))

    @staticmethod
    def of(cuts: Surgery, recalibration: int = 0, reconstruction: bool = False) -> Recut:
        """Return the pass that applies these cuts."""
        return Recut(json.dumps(cuts.to_json(), sort_keys=True), recalibration, reconstruction)

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        """Return the cut model."""
        cuts = Surgery.from_json(json.loads(self.cuts))
        result = surgery.rebuild(model, cuts)
        task = ctx.task  # a synthetic one has no images that the statistics could be those of
        if self.reconstruction and task:
            taught = gathered(list(task.calibration_batches()))
            reconstruct(result.module, result.surgery, record(ctx.original.module, taught), taught)
        if task and task.name != "synthetic":
            follow(result.module, model.module, cuts.kept, task.calibration_batches(), self.recalibration)
        return result


def read_cuts(raw: Any) -> Surgery:
    """Return the cuts a recipe holds. Raises ValueError for anything else."""
    try:
        found = Surgery.from_json(raw)
        indices = [i for sides in found.kept.values() for side in sides for i in side or ()]
        sound = all(isinstance(i, int) and i >= 0 for i in indices)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"its cuts cannot be read ({first_line(error)})") from error
    if not sound or not all(isinstance(name, str) for name in found.dropped):
        raise ValueError("its cuts are not indices and names")
    if not all(isinstance(name, str) for name in found.floating):
        raise ValueError("its layers in float are not names")
    if not all(isinstance(k, str) and isinstance(v, str) and v in CHEAPER for k, v in found.activations.items()):
        raise ValueError(f"its activations are not names and kinds ({', '.join(CHEAPER)})")
    if not all(isinstance(k, str) and (v == HALF or (type(v) is int and v >= 0)) for k, v in found.masks.items()):
        raise ValueError(f"its masks are not names and numbers of weights (or {HALF})")
    return found

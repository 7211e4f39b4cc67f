"""activation: replace smooth activations by cheaper ones, which int8 gains more from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from edgeprune import surgery
from edgeprune.activations import smooth
from edgeprune.errors import BadOption, UnmetRequirement, nearest
from edgeprune.model import Surgery, TorchModel
from edgeprune.operators import Call, observe
from edgeprune.passes.base import Context, Pass
from edgeprune.recalibration import first_images, has_batch_norm, recalibrate

Kind = Literal["none", "hardswish", "relu", "relu6", "leaky_relu"]
IMAGES = 32
"""Images on which activations are told apart."""


@dataclass(frozen=True)
class Activation(Pass[TorchModel, TorchModel]):
    """Replace SiLU, Mish and GELU modules by ``to``, or nothing if that is ``none``.

    ``share`` in (0, 1] is how much of what they compute is replaced, counted in elements: first what moves the outputs
    least for its size (see ``harms``), without images the largest maps. ``names`` says instead which ones, as a recipe
    does.

    What the weights were trained for changes with it, so fine-tune afterwards. Under int8 ONNX Runtime folds ReLU and
    ReLU6 into the convolution's own rounding, looks LeakyReLU up in a table, and takes two operators for SiLU (a table
    and a product). For Hardswish it has no int8 kernel: its values go to float and back, so that it gains nothing
    there, though of all it is the nearest to SiLU. Weights stay as they are. Activations that a forward calls as
    functions are out of reach and stay. Batch-norm statistics stay too: fine-tuning finds new ones.
    """

    name: ClassVar[str] = "activation"
    takes: ClassVar[type] = TorchModel
    gives: ClassVar[type] = TorchModel

    to: Kind = "relu"
    share: float = 1.0
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.to not in get_args(Kind):
            raise BadOption(f"activation.to {self.to!r} is not known{nearest(str(self.to), get_args(Kind))}")
        if not 0.0 < self.share <= 1.0:
            raise BadOption(f"activation.share is a fraction above 0 and at most 1, not {self.share}")

    def requires(self, model: TorchModel, ctx: Context) -> None:
        """Raise UnmetRequirement when there is no module to replace."""
        if self.to != "none" and not smooth(model.module):
            raise UnmetRequirement(
                "no SiLU, Mish or GELU module is left to replace; one that a forward calls as a function "
                "(torch.nn.functional.silu) must become a module (torch.nn.SiLU) first"
            )

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        """Return the model with other activations and the same weights; with ``none``, the model as it is."""
        if self.to == "none":
            return model
        names = self.names
        if names is None:
            moved = harms(model, self.to, ctx) if self.share < 1.0 else {}
            names = least(model, self.share, moved)
            if moved:
                ctx.record("moved", moved)
        result = surgery.rebuild(model, Surgery(activations=dict.fromkeys(names, self.to)))
        parts = dict(model.module.named_modules(remove_duplicate=False))
        types = sorted({type(parts[name]).__name__ for name in names})
        ctx.record("replaced", len({id(parts[name]) for name in names}))
        ctx.record("from", types)
        ctx.record("to", self.to)
        ctx.record("names", list(names))
        return result


def harms(model: TorchModel, to: Kind, ctx: Context) -> dict[str, float]:
    """Return by name how far the outputs move when this activation alone is replaced; empty without images.

    The distance is the task's own, at temperature 1, on the first IMAGES images for calibration, between models whose
    batch norms were re-estimated on them: what training puts right at once is not counted. Of one instance with several
    names the first is tried for all.
    """
    if ctx.task is None or ctx.task.name == "synthetic":
        return {}
    images = first_images(ctx.task.calibration_batches(), IMAGES)
    parts = dict(model.module.named_modules(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name in smooth(model.module):
        names.setdefault(id(parts[name]), []).append(name)
    wanted = _outputs(model.clone().module, images)
    moved: dict[str, float] = {}
    for same in ctx.progress.track(list(names.values()), "which activations matter"):
        changed = surgery.rebuild(model, Surgery(activations=dict.fromkeys(same, to)))
        given = zip(_outputs(changed.module, images), wanted, strict=True)
        apart = sum(ctx.task.distance(output, taught, 1.0).item() for output, taught in given)
        moved |= dict.fromkeys(same, apart / len(images))
    return moved


def _outputs(module: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of each batch after batch norms were re-estimated on them, in place."""
    if has_batch_norm(module):
        recalibrate(module, images)
    with torch.no_grad():
        return [module(batch) for batch in images]


def least(model: TorchModel, share: float, moved: Mapping[str, float]) -> tuple[str, ...]:
    """Return the names of the smooth activations that move the outputs least for what they compute, until they make up
    ``share`` of all elements; those that ``moved`` does not tell apart by size, the largest first.

    Elements are those of the outputs for the example input, over all calls. All names of a shared instance go
    together; a module that is never called goes with the whole only.
    """
    names, parts = smooth(model.module), dict(model.module.named_modules(remove_duplicate=False))
    calls = observe(model.module, model.inputs)
    size: dict[int, int] = {}
    cost: dict[int, float] = {}
    for name in names:
        part = id(parts[name])
        size[part] = max(size.get(part, 0), _elements(calls.get(name)))
        cost[part] = moved.get(name, 0.0)
    total, taken = sum(size.values()), 0
    chosen: set[int] = set()
    for part in sorted(size, key=lambda one: (cost[one] / size[one] if size[one] else math.inf, -size[one])):
        if share < 1.0 and taken >= share * total:
            break
        chosen.add(part)
        taken += size[part]
    return tuple(name for name in names if id(parts[name]) in chosen)


def _elements(call: Call | None) -> int:
    return call.count * math.prod(call.returned) if call is not None and call.returned is not None else 0

"""activation: replace smooth activations by cheaper ones, which int8 gains more from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from edgeprune import surgery
from edgeprune.activations import smooth
from edgeprune.errors import BadOption, UnmetRequirement, nearest
from edgeprune.model import Surgery, TorchModel
from edgeprune.operators import Call, observe
from edgeprune.passes.base import Context, Pass

Kind = Literal["none", "hardswish", "relu", "relu6", "leaky_relu"]


@dataclass(frozen=True)
class Activation(Pass[TorchModel, TorchModel]):
    """Replace SiLU, Mish and GELU modules by ``to``, or nothing if that is ``none``.

    ``share`` in (0, 1] is how much of what they compute is replaced, counted in elements and the largest maps first:
    the first layers of a network take most of the time and mind the least.

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
        names = largest(model, self.share)
        result = surgery.rebuild(model, Surgery(activations=dict.fromkeys(names, self.to)))
        parts = dict(model.module.named_modules(remove_duplicate=False))
        types = sorted({type(parts[name]).__name__ for name in names})
        ctx.record("replaced", len({id(parts[name]) for name in names}))
        ctx.record("from", types)
        ctx.record("to", self.to)
        return result


def largest(model: TorchModel, share: float) -> tuple[str, ...]:
    """Return the names of those smooth activations that compute the most, until they make up ``share`` of all elements.

    Elements are those of the outputs for the example input, over all calls. All names of a shared instance go
    together; a module that is never called goes with the whole only.
    """
    names, parts = smooth(model.module), dict(model.module.named_modules(remove_duplicate=False))
    calls = observe(model.module, model.inputs)
    size = {name: _elements(calls.get(name)) for name in names}
    whole: dict[int, int] = {}
    for name in names:
        whole[id(parts[name])] = max(whole.get(id(parts[name]), 0), size[name])
    total, taken = sum(whole.values()), 0
    chosen: set[int] = set()
    for part in sorted(whole, key=lambda one: -whole[one]):
        if share < 1.0 and taken >= share * total:
            break
        chosen.add(part)
        taken += whole[part]
    return tuple(name for name in names if id(parts[name]) in chosen)


def _elements(call: Call | None) -> int:
    return call.count * math.prod(call.returned) if call is not None and call.returned is not None else 0

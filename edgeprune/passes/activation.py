"""activation: replace smooth activations by cheaper ones, which int8 gains more from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from edgeprune import surgery
from edgeprune.activations import smooth
from edgeprune.errors import BadOption, UnmetRequirement, nearest
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes.base import Context, Pass

Kind = Literal["none", "hardswish", "relu", "relu6", "leaky_relu"]


@dataclass(frozen=True)
class Activation(Pass[TorchModel, TorchModel]):
    """Replace every SiLU, Mish and GELU module by ``to``, or nothing if that is ``none``.

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

    def __post_init__(self) -> None:
        if self.to not in get_args(Kind):
            raise BadOption(f"activation.to {self.to!r} is not known{nearest(str(self.to), get_args(Kind))}")

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
        names = smooth(model.module)
        result = surgery.rebuild(model, Surgery(activations=dict.fromkeys(names, self.to)))
        parts = dict(model.module.named_modules(remove_duplicate=False))
        types = sorted({type(parts[name]).__name__ for name in names})
        ctx.record("replaced", len({id(parts[name]) for name in names}))
        ctx.record("from", types)
        ctx.record("to", self.to)
        return result

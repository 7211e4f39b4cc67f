"""Smooth activations and the cheaper ones that may stand in for them: found by type, replaced by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from edgeprune.errors import BadModel

SMOOTH = (nn.SiLU, nn.Mish, nn.GELU)
"""What may be replaced: smooth gates, each nearly a ReLU away from zero. A runtime computes them from exponentials or
the error function, in operators of their own that no int8 kernel fuses with the convolution before them.
"""
CHEAPER: Mapping[str, Callable[[], nn.Module]] = {
    "hardswish": nn.Hardswish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
}
"""What may replace them. Hardswish is SiLU made of straight lines and a parabola (Howard et al., ICCV 2019, equation
in section 5.2); the slope of the leaky ReLU is that of the early YOLOs.
"""


def smooth(module: nn.Module) -> tuple[str, ...]:
    """Return every name under which a module of SMOOTH is reached, in the order of ``named_modules``.

    One instance that serves in several places has several names. Functions called inside a forward have none.
    """
    named = module.named_modules(remove_duplicate=False)
    return tuple(name for name, part in named if name and isinstance(part, SMOOTH))


def replace(module: nn.Module, kinds: Mapping[str, str]) -> None:
    """Put the activations of CHEAPER that ``kinds`` names (module name -> kind) in the places named, in place.

    Raises BadModel for a name that is no activation of SMOOTH in this module, or a kind that is not in CHEAPER.
    """
    named = dict(module.named_modules(remove_duplicate=False))
    for name, kind in kinds.items():
        if not name or not isinstance(named.get(name), SMOOTH):
            raise BadModel(f"the plan replaces {name!r}, which is no SiLU, Mish or GELU of this model")
        if kind not in CHEAPER:
            raise BadModel(f"the plan replaces {name!r} by {kind!r}; known are {', '.join(CHEAPER)}")
    for name, kind in kinds.items():
        parent, _, child = name.rpartition(".")
        part = CHEAPER[kind]()
        setattr(named[parent], child, part.train(named[name].training))

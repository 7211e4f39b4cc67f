"""What an episode is paid: pure functions of the score and the costs it ends in, chosen by name. No torch here.

    constrained           score
    accuracy-guaranteed   −ln(C/C₀) while the drop is at most ``drop``, else −1 − ``k`` · (drop − allowed) / allowed
    akperl                a · acc/acc₀ − b · E/E₀ − c · pruned
    driving               l1 · (mAP − mAP₀) + l2 · S
    depgraphrl            −max(error, 0.001) · (1 + ln(1 + E/E₀))
    …-paper               the three papers' own, as printed

Scores and shares are fractions, ₀ is the original's, C is energy where it is told, else latency, else MACs, S is the
share of parameters removed. The environment centres and scales each of them alike, (value − reference) / scale, which
changes nothing about which plan is best; the forms as printed are paid as they are. A reward trains an agent and
chooses no plan: that is done by the true score, under the ceilings.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgeprune.errors import BadOption, nearest

Weight = tuple[float, ...]
"""One number, or one for each free group."""
BY_LAYER = ("a", "b", "c")
"""Weights that may be given for each free group."""
_LEAST_ERROR = _LEAST_SCORE = 1e-3
_MJ_PER_J = 1e3


@dataclass(frozen=True)
class Ended:
    """What an episode ended in. ``shares`` are costs as shares of the original's: ``macs``, ``parameters``, and
    ``latency`` or ``energy`` where told. ``removed`` is the share of channels gone, one a free group of channels.
    ``energy_mj`` is of one run.
    """

    score: float
    original: float
    shares: Mapping[str, float]
    removed: tuple[float, ...] = ()
    energy_mj: float = math.nan


def constrained(ended: Ended) -> float:
    """The score alone: the ceilings are held by the action wall, so nothing needs to be traded."""
    return ended.score


def accuracy_guaranteed(ended: Ended, drop: Weight = (0.01,), k: Weight = (1.0,)) -> float:
    """Cost, once the drop against the original is small enough (after AMC's "accuracy-guaranteed compression", He et
    al., ECCV 2018, section 3.3, with a share in place of FLOPs, so that no unit decides its sign).
    """
    lost, allowed = ended.original - ended.score, drop[0]
    if lost <= allowed:
        return -math.log(max(_cost(ended), 1e-9))
    return -1.0 - k[0] * (lost - allowed) / allowed


def akperl(ended: Ended, a: Weight = (1.0,), b: Weight = (0.1,), c: Weight = (0.0,)) -> float:
    """AKPERL's bracket, with everything as a share of the original's, so that weights do not stand for units.

    Repaired: the paper calls this a Q-function, and it is the reward; it subtracts γ · pruned although more pruning is
    wanted and energy pays for it already, so c is 0 unless it is asked for. The weights may be given by layer: accuracy
    and energy are the whole network's, so that a and b count by their means, and c by layer.
    """
    kept = ended.score / max(ended.original, _LEAST_SCORE)
    paid = float(np.mean(b)) * ended.shares["energy"] + _mean_product(c, ended.removed)
    return float(np.mean(a)) * kept - paid


def driving(ended: Ended, l1: Weight = (1.0,), l2: Weight = (0.1,)) -> float:
    """λ₁ · ΔmAP + λ₂ · Δsparsity, summed over the episode: with γ = 1 the sum is what its ends differ by.

    Repaired: paid once, at the end, so that a score is needed there alone.
    """
    return l1[0] * (ended.score - ended.original) + l2[0] * (1.0 - ended.shares["parameters"])


def depgraphrl(ended: Ended) -> float:
    """−error · log(energy) with energy as a share of the original's, in a logarithm that is never below 1.

    Repaired: an error of 0 does not make all plans equal, and less of either is better whatever the unit.
    """
    return -max(1.0 - ended.score, _LEAST_ERROR) * (1.0 + math.log(1.0 + ended.shares["energy"]))


def akperl_paper(
    ended: Ended, a: Weight = (1.0,), b: Weight = (1.0,), c: Weight = (1.0,), absolute: Weight = (1.0,)
) -> float:
    """Σ over layers of (α · accuracy − β · power − γ · pruned) − λ · |a|, as printed.

    Accuracy in percent; millijoules of a run stand for the milliwatts that nobody can tell of a plan; both are the
    whole network's, repeated for each layer. |a| of a choice among five is read as the share removed.
    """
    layers = max(len(ended.removed), 1)
    whole = float(np.mean(a)) * 100.0 * ended.score - float(np.mean(b)) * ended.energy_mj
    return layers * (whole - _mean_product(c, ended.removed)) - absolute[0] * sum(ended.removed)


def driving_paper(ended: Ended, l1: Weight = (1.0,), l2: Weight = (1.0,)) -> float:
    """λ₁ · mAP + λ₂ · sparsity: what each step is paid is the difference it makes to this."""
    return l1[0] * ended.score + l2[0] * (1.0 - ended.shares["parameters"])


def depgraphrl_paper(ended: Ended) -> float:
    """−error · ln(energy in joules), as printed. Below one joule the logarithm is negative, and so more error is paid
    more.
    """
    return -(1.0 - ended.score) * math.log(ended.energy_mj / _MJ_PER_J)


def _cost(ended: Ended) -> float:
    return next(ended.shares[quantity] for quantity in ("energy", "latency", "macs") if quantity in ended.shares)


def _mean_product(weights: Weight, removed: Sequence[float]) -> float:
    if not removed:
        return 0.0
    return float(np.mean(np.broadcast_to(weights, len(removed)) * np.asarray(removed)))


@dataclass(frozen=True)
class Form:
    """A reward's function, the formula that tells its energy (None: it needs none), and how it is paid: divided by
    ``scale``, or ``verbatim``; ``stepwise`` at every step.
    """

    function: Callable[..., float]
    energy: Literal["theoretical", "theoretical-published"] | None = None
    scale: float = 0.1
    verbatim: bool = False
    stepwise: bool = False


FORMS: Mapping[str, Form] = {
    "constrained": Form(constrained),
    "accuracy-guaranteed": Form(accuracy_guaranteed, scale=0.5),
    "akperl": Form(akperl, "theoretical"),
    "driving": Form(driving),
    "depgraphrl": Form(depgraphrl, "theoretical"),
    "akperl-paper": Form(akperl_paper, "theoretical", verbatim=True),
    "driving-paper": Form(driving_paper, verbatim=True, stepwise=True),
    "depgraphrl-paper": Form(depgraphrl_paper, "theoretical-published", verbatim=True),
}


@dataclass(frozen=True)
class Reward:
    """A reward by name, with the weights that are not as usual. Raises BadOption for others than it has."""

    name: str = "constrained"
    weights: tuple[tuple[str, Weight], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.name not in FORMS:
            raise BadOption(f"unknown reward {self.name!r}{nearest(self.name, FORMS)}")
        known = list(inspect.signature(self.form.function).parameters)[1:]
        for weight, values in self.weights:
            if weight not in known:
                raise BadOption(f"reward {self.name} has no weight {weight!r}"
                                + (nearest(weight, known) if known else "; it has none"))  # fmt: skip
            if len(values) > 1 and weight not in BY_LAYER:
                raise BadOption(f"reward weight {weight} is one number, not {len(values)}")
        if min(dict(self.weights).get("drop", (1.0,))) <= 0.0:
            raise BadOption("reward weight drop is the loss allowed, a fraction above 0: cost is paid within it alone")

    @property
    def form(self) -> Form:
        """How it is computed and paid."""
        return FORMS[self.name]

    def require_layers(self, layers: int) -> None:
        """Raise BadOption where a weight is given for another number of layers."""
        for weight, values in self.weights:
            if len(values) not in (1, layers):
                raise BadOption(f"reward weight {weight} by layer needs {layers} values here, not {len(values)}")

    def value(self, ended: Ended) -> float:
        """Return what an episode is worth, before it is centred and scaled."""
        return float(self.form.function(ended, **dict(self.weights)))

    def __str__(self) -> str:
        """Write it as an option is written."""
        told = ",".join(f"{name}={'/'.join(f'{v:g}' for v in values)}" for name, values in self.weights)
        return f"{self.name} {told}".strip()


def rewards(name: str, weights: str, grid: str = "") -> tuple[Reward, ...]:
    """Return one reward, or every one of a grid: ``weights`` such as ``a=1,b=0.5``, ``grid`` such as
    ``b=0.05|0.1|0.2,c=0|0.1``; ``c=0/0/0.1`` are values by layer.

    Raises BadOption for text of another form.
    """
    fixed = {key: values[0] for key, values in _parsed(weights, "reward_weights", 1).items()}
    varied = _parsed(grid, "reward_grid", None)
    points = itertools.product(*varied.values())
    return tuple(Reward(name, tuple({**fixed, **dict(zip(varied, point, strict=True))}.items())) for point in points)


def _parsed(text: str, option: str, most: int | None) -> dict[str, list[Weight]]:
    found: dict[str, list[Weight]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, values = item.partition("=")
        try:
            found[name.strip()] = [tuple(float(v) for v in one.split("/")) for one in values.split("|")]
        except ValueError:
            found[name.strip()] = []
        numbers = [v for one in found[name.strip()] for v in one]
        if not numbers or not all(map(math.isfinite, numbers)) or (most and len(found[name.strip()]) > most):
            example = "a=1,b=0.5" if most else "b=0.05|0.1,c=0|0.1"
            raise BadOption(f"sparsify.{option} {item!r} is not understood; give NAME=VALUE, such as {example}")
    return found

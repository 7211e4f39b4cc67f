"""Lower the precision as far as the accuracy floor and the target's clock allow: static int8 Q/DQ, or fp16."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import onnx

from edgeprune.errors import BadOption, UnmetRequirement, nearest
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.graph import kept_floating
from edgeprune.passes.lowering import Ranges, lowerable
from edgeprune.passes.trial import Choice, Trial

Wanted = Literal["auto", "fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Quantize(Pass[OnnxModel, OnnxModel]):
    """Lower the precision by constrained bisection: as many layers as hold the floor, kept only if that is faster.

    ``precision`` names one, or leaves the choice to accuracy and clock; one that is named is not dropped for being
    slow, in no layer. ``method`` finds the ranges of int8: minimum and maximum, least entropy lost, or the 99.999th
    percentile; auto tries the first and the last and takes whichever whole int8 graph scores better. ``gain`` is the
    speed-up that the lower 95 % bound must reach. ``lowered`` names exactly the layers to lower to int8, ``rest`` what
    the others run in, and they decide everything: a recipe's replay, or, with ``ranges`` of an earlier build by node, a
    build without images. There ``precision`` matters only where no layer is named, and an automatic ``method`` is
    minmax.
    """

    name: ClassVar[str] = "quantize"
    takes: ClassVar[type] = OnnxModel
    gives: ClassVar[type] = OnnxModel

    precision: Wanted = "auto"
    method: Ranges = "auto"
    gain: float = 1.02
    lowered: tuple[str, ...] | None = None
    rest: Literal["fp32", "fp16"] = "fp32"
    ranges: Mapping[str, tuple[float, float]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for option, value, known in (
            ("precision", self.precision, get_args(Wanted)),
            ("method", self.method, get_args(Ranges)),
        ):
            if value not in known:
                raise BadOption(f"quantize.{option} {value!r} is not known{nearest(value, known)}")
        if self.gain < 1.0:
            raise BadOption(f"quantize.gain is a speed-up of at least 1, such as 1.02, not {self.gain}")

    def requires(self, model: OnnxModel, ctx: Context) -> None:
        """Raise UnmetRequirement when a precision that was named cannot be had on this target or without data."""
        if self.precision in ("fp16", "int8") and self.precision not in ctx.board.precisions:
            raise UnmetRequirement(
                f"{ctx.board.name} has no {self.precision} arithmetic; its precisions are "
                f"{', '.join(ctx.board.precisions)}"
            )
        if (self.precision == "int8" or self.lowered) and not _has_data(ctx) and self.ranges is None:
            raise UnmetRequirement("int8 needs images to calibrate on; give them with --data")

    def run(self, model: OnnxModel, ctx: Context) -> OnnxModel:
        """Return a lowered graph of ``ctx.workspace``, or ``model`` itself when nothing pays, and record why."""
        layers = lowerable(onnx.load(model.path).graph)
        given = self.lowered is not None and self.method == "auto"
        trial = Trial(model, ctx, "minmax" if given else self.method, self.ranges)
        if self.lowered is None:
            choice = self._choose(trial, [node.name for node in layers])
        else:
            choice = self._replay(trial, self.lowered, [node.name for node in layers])
        trial.tidy(choice.model)
        convolutions = [node.name for node in layers if node.op_type == "Conv"]
        ctx.record("precision", choice.precision)
        ctx.record("lowered", list(choice.lowered))
        ctx.record("rest", choice.rest)
        ctx.record("share", len(choice.lowered) / len(layers) if layers else 0.0)
        ctx.record("convolutions", len(convolutions))
        ctx.record("convolutions_int8", len(set(convolutions) & set(choice.lowered)))
        ctx.record("reason", choice.reason)
        if choice.precision == "int8":
            ctx.record("ranges", trial.recorded())
        return choice.model

    def _choose(self, trial: Trial, layers: Sequence[str]) -> Choice:
        """Try what is allowed and return the fastest that holds the floor; the float graph always does."""
        found: list[Choice] = []
        reasons: list[str] = []
        if self._wants("int8", trial.ctx):
            if not layers:
                reasons.append("no layer has constant weights that int8 could hold")
            elif not _has_data(trial.ctx):
                reasons.append("int8 needs images to calibrate on")
            else:
                found.append(trial.int8(slower=self.precision == "int8"))
        if self._wants("fp16", trial.ctx):
            found.append(trial.fp16())
            if found[0].precision == "int8":
                found.append(trial.mixed(found[0]))
        reasons += [choice.reason for choice in found if choice.precision == "fp32"]
        found = [choice for choice in found if choice.precision != "fp32"]
        if not found:
            reason = "; ".join(reasons) or "no lower precision was asked for or exists on the target"
            return Choice(trial.model, "fp32", (), reason)
        if self.precision != "auto" or trial.ctx.cost == "macs":
            return found[0]
        return self._fastest(trial, found)

    def _wants(self, precision: Literal["fp16", "int8"], ctx: Context) -> bool:
        return self.precision in ("auto", precision) and precision in ctx.board.precisions

    def _fastest(self, trial: Trial, found: Sequence[Choice]) -> Choice:
        """Return the fastest whose gain is beyond doubt; int8 gets a second try with just the layers that gain."""
        best, seen = self._race(trial, found)
        if best is None and (gaining := trial.gaining(found[0])) is not None:
            best, more = self._race(trial, [gaining])
            seen += more
        return best or Choice(trial.model, "fp32", (), "; ".join(seen))

    def _race(self, trial: Trial, choices: Sequence[Choice]) -> tuple[Choice | None, list[str]]:
        """Time the choices against the float graph: the winner, if any, and what was seen of each."""
        models = {"float": trial.model}
        models |= {choice.title: choice.model for choice in choices}
        measured = trial.ctx.measure(models)
        best, least, seen = None, math.inf, []
        for choice in choices:
            result = measured[choice.title]
            if result.ratio is None:
                seen.append(f"{choice.title} could not be timed")
                continue
            slowest = result.ratio_interval[1] if result.ratio_interval else result.ratio
            layers = f" in {len(choice.lowered)} layers" if choice.lowered else ""
            text = f"{choice.title}{layers} takes {result.ratio:.3f}x of fp32, at most {slowest:.3f}x"
            text += " (estimated)" if result.source == "estimated" else " (on a noisy machine)" if result.noisy else ""
            seen.append(text)
            if slowest <= 1.0 / self.gain and result.ratio < least:
                best, least = replace(choice, reason=f"{choice.reason}; {text}"), result.ratio
        return best, seen

    def _replay(self, trial: Trial, lowered: tuple[str, ...], layers: Sequence[str]) -> Choice:
        """Do what a recipe says and decide nothing; what a plan left in float stays there."""
        floating = kept_floating(onnx.load(trial.model.path))
        lowered = tuple(name for name in lowered if name not in floating)
        if self.ranges is not None:
            lowered = tuple(name for name in lowered if name in trial.candidates())
        for name in lowered:
            if name not in layers:
                hint = nearest(name, layers)
                raise BadOption(f"quantize.lowered names {name!r}, which is no layer of the graph{hint}")
        if lowered:
            made = trial.lower(lowered)
            made = made if self.rest == "fp32" else trial.half(made)
            return Choice(made, "int8", lowered, "given", self.rest)
        if self.precision == "fp16":
            return Choice(trial.half(trial.model), "fp16", (), "given")
        return Choice(trial.model, "fp32", (), "given")


def _has_data(ctx: Context) -> bool:
    """Whether there are real images to calibrate on and to judge by."""
    return ctx.task is not None and ctx.task.name != "synthetic"

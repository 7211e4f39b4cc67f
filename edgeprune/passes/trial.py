"""The graphs of lower precision that one float graph can become, and their judgement by the task on the target."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgeprune.budget import holds_floor, largest
from edgeprune.dialects.typing import to_half
from edgeprune.model import OnnxModel
from edgeprune.passes import ranking
from edgeprune.passes.base import Context
from edgeprune.passes.graph import clean, kept_floating, write
from edgeprune.passes.lowering import Lowering, Method, Ranges, calibrate, uncalibrated
from edgeprune.report import Score

AUTO: tuple[Method, ...] = ("minmax", "percentile")
"""Ways to find ranges that are compared where none is named. A few extreme values can spoil the rest: YOLOv5n in int8
loses 2.5 points of mAP50-95 on KITTI by the first, 0.8 by the second, 2.2 by entropy.
"""
SLOWER = 0.01
"""Share of a graph's time that a layer must lose in int8 for float to be tried for it: less is within the noise."""
RISKIEST = 0.05
"""Share of the layers that bisection leaves out first: a few, as a detector's last ones, can do most of the harm."""
_RANKED_IMAGES = 32


@dataclass(frozen=True)
class Choice:
    """A finished graph, what was lowered in it and why it is the one. ``rest`` is what stayed above int8 runs in."""

    model: OnnxModel
    precision: Literal["fp32", "fp16", "int8"]
    lowered: tuple[str, ...] = ()
    reason: str = ""
    rest: Literal["fp32", "fp16"] = "fp32"

    @property
    def title(self) -> str:
        """What to call it beside others."""
        mixed = self.precision == "int8" and self.rest != "fp32"
        return f"{self.precision} and {self.rest}" if mixed else self.precision


@dataclass(eq=False)
class Trial:
    """The graphs that can be made of one float graph, and their judgement. Lives for one run of the pass."""

    model: OnnxModel
    ctx: Context
    method: Ranges
    given: Mapping[str, tuple[float, float]] | None = None
    """Ranges by node, of an earlier build: nothing is calibrated where there are any."""
    probes: list[dict[str, Any]] = field(default_factory=list)
    _floor: str = "the floor"
    _written: set[Path] = field(default_factory=set)
    _images: list[NDArray[np.float32]] = field(default_factory=list)
    _lowering: Lowering | None = None
    _scores: dict[str, Score] = field(default_factory=dict)
    _times: dict[tuple[str, ...], tuple[Mapping[str, float], ...]] = field(default_factory=dict)
    _baseline: Score | None = None

    def int8(self, slower: bool) -> Choice:
        """Return the int8 graph with the largest share of layers, in order of risk, that holds the floor; layers that
        int8 slows down, or that a plan left in float, are among them only if ``slower``.
        """
        every = len(self._calibrated().candidates())
        names, kind = self._calibrated().candidates(), "layers"
        if not slower:
            floating = kept_floating(self._calibrated().proto)
            left = tuple(name for name in names if name not in floating)
            if not left and names:
                return Choice(self.model, "fp32", (), "the plan leaves every layer in float")
            names = self._worthwhile(left)
            if len(names) < every:
                kind = f"layers that {'the plan lowers and ' if floating else ''}int8 does not slow down"
        whole = self.lower(names)
        if self.holds(whole, len(names), every):
            return Choice(whole, "int8", names, f"all {len(names)} {kind} in int8 hold {self._floor}")
        if self._judge_beside_float() and self.holds(whole, len(names), every):
            return Choice(whole, "int8", names, f"all {len(names)} {kind} in int8 hold {self._floor}")
        ranked = self._ranked(names)
        first = len(names) - round(RISKIEST * len(names))
        share = largest(len(names) - 1, lambda k: self.holds(self.lower(ranked[:k]), k, every), first=first)
        if share == 0:
            return Choice(self.model, "fp32", (), f"no share of the layers in int8 holds {self._floor}")
        chosen = tuple(n for n in names if n in set(ranked[:share]))
        return Choice(self.lower(chosen), "int8", chosen, f"{share} of {len(names)} {kind} in int8 hold {self._floor}")

    def _worthwhile(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return these layers, without those that int8 slows down where the clock says that the graph is faster so.

        A convolution of three channels is such a layer: the first one of YOLOv5n takes 1.0 ms in int8 and 0.6 in float.
        """
        spent = self._spent(names)
        if spent is None:
            return names
        before, after = spent
        least = SLOWER * sum(before[name] for name in names)
        kept = tuple(name for name in names if after[name] - before[name] < least)
        if not kept or kept == names:
            return names
        both = self.ctx.measure({"all": self.lower(names), "some": self.lower(kept)})
        return kept if (both["some"].ratio or math.inf) < 1.0 else names

    def gaining(self, choice: Choice) -> Choice | None:
        """Return the int8 graph of just those layers of ``choice`` that it speeds up; None if those are none or all."""
        if choice.precision != "int8":
            return None
        gain = self._gain(choice.lowered)
        chosen = tuple(n for n in choice.lowered if gain.get(n, 0.0) > 0.0)
        if not chosen or chosen == choice.lowered:
            return None
        lowered = self.lower(chosen)
        if not self.holds(lowered, len(chosen), len(self._calibrated().candidates())):
            return None
        return Choice(lowered, "int8", chosen, f"the {len(chosen)} layers that int8 speeds up hold {self._floor}")

    def fp16(self) -> Choice:
        """Return the fp16 graph if it holds the floor, else the float one."""
        half = self.half(self.model)
        if self.holds(half, 0, 0):
            return Choice(half, "fp16", (), f"fp16 holds {self._floor}")
        return Choice(self.model, "fp32", (), f"fp16 does not hold {self._floor}")

    def candidates(self) -> tuple[str, ...]:
        """Return the layers that can be lowered."""
        return self._calibrated().candidates()

    def recorded(self) -> dict[str, tuple[float, float]]:
        """Return the ranges in use, by node."""
        return self._calibrated().recorded()

    def tidy(self, keep: OnnxModel) -> None:
        """Delete every graph written here but ``keep``."""
        for path in self._written - {keep.path}:
            path.unlink()

    def mixed(self, choice: Choice) -> Choice:
        """Return an int8 choice with all that is not int8 in fp16, if that holds the floor too; else the choice."""
        half, every = self.half(choice.model), len(self._calibrated().candidates())
        if not self.holds(half, len(choice.lowered), every):
            return choice
        return replace(choice, model=half, rest="fp16", reason=f"{choice.reason}, with the rest in fp16")

    def half(self, model: OnnxModel) -> OnnxModel:
        """Write a graph with fp16 weights and arithmetic; its input and output stay float32, and int8 layers int8."""
        return self._write(to_half(onnx.load(model.path)), f"{model.path.stem}-fp16")

    def lower(self, names: Sequence[str]) -> OnnxModel:
        """Write the graph with exactly these layers in int8; equal choices give the same file."""
        return self._lower(self._calibrated(), names)

    def _lower(self, lowering: Lowering, names: Sequence[str]) -> OnnxModel:
        key = hashlib.sha256("\n".join([lowering.method, *sorted(names)]).encode()).hexdigest()[:16]
        return self._write(lowering.build(names), f"int8-{key}")

    def holds(self, model: OnnxModel, lowered: int, of: int) -> bool:
        """Score a graph on the target's runtime and judge it against the floor; True where nothing can be scored."""
        if self.ctx.task is None:
            return True
        baseline, score = self._reference(), self._score(model)
        drop, error = baseline.drop_to(score)
        held = holds_floor(drop, error, self.ctx.budget.max_accuracy_drop)
        probe = {"precision": "int8" if of else "fp16", "lowered": lowered, "of": of, "score": score.value,
                 "drop": drop, "standard_error": error, "held": held}  # fmt: skip
        self.probes.append(probe)
        self.ctx.record("probes", list(self.probes))
        what = f"{lowered} of {of} layers in int8" if of else "fp16"
        self.ctx.progress.note(f"{what}: drop {drop:+.4f} ± {error:.4f}, {'held' if held else 'too much'}")
        return held

    def _judge_beside_float(self) -> bool:
        """Return whether the float graph misses the floor by itself; if so, judge beside that graph from now on.

        Float precision would then not save the floor, it would only lose the speed; what a lower one may cost beside
        the float graph stays bounded.
        """
        if self.ctx.task is None or self.holds(self.model, 0, len(self._calibrated().candidates())):
            return False
        self._baseline = self._score(self.model)
        self._floor = "the floor beside the float graph, which misses it by itself"
        return True

    def _reference(self) -> Score:
        """Return the score drops are measured from: the original model's, else the float graph's."""
        if self._baseline is None:
            self._baseline = self.ctx.baseline
        if self._baseline is None:
            self._baseline = self._score(self.model)
        return self._baseline

    def _score(self, model: OnnxModel) -> Score:
        """Score a graph on the target's runtime, once."""
        assert self.ctx.task is not None
        digest = model.digest()
        if digest not in self._scores:
            with self.ctx.open(model) as predict:
                self._scores[digest] = self.ctx.task.score(predict, "search")
        return self._scores[digest]

    def _calibrated(self) -> Lowering:
        """Return the graph with the ranges of the method named, or of the one in AUTO whose int8 graph scores best."""
        if self._lowering is not None:
            return self._lowering
        if self.given is not None:
            assert self.ctx.board.int8 is not None
            self._lowering = uncalibrated(self.model.path, self.given, self.ctx.board.int8, self._guarded)
            return self._lowering
        self._images = calibration_images(self.ctx, self.model.spec.input_shape[0])
        digest = hashlib.sha256(b"".join(image.tobytes() for image in self._images)).hexdigest()
        found = {method: self._calibrate(method) for method in (AUTO if self.method == "auto" else (self.method,))}
        scores: dict[str, float] = {}
        if len(found) > 1:
            for method, lowering in found.items():
                scores[method] = self._score(self._lower(lowering, lowering.candidates())).value
        method = max(found, key=lambda one: scores.get(one, 0.0))
        count = sum(map(len, self._images))
        self.ctx.record("method", method)
        self.ctx.record("calibration", {"method": method, "images": count, "sha256": digest, "scores": scores})
        self._lowering = found[method]
        return self._lowering

    def _calibrate(self, method: Method) -> Lowering:
        assert self.ctx.board.int8 is not None
        images = self.ctx.progress.track(self._images, f"calibration ({method})", len(self._images))
        return calibrate(self.model.path, images, self.ctx.board.int8, method, self.ctx.threads, self._guarded)

    @property
    def _guarded(self) -> bool:
        return self.ctx.board.backend == "onnxruntime"

    def _ranked(self, names: Sequence[str]) -> tuple[str, ...]:
        images = np.concatenate(self._images)[:_RANKED_IMAGES]
        with self.ctx.open(self.model.reference()) as predict:
            reference = predict(images)
        risk, plain = {}, {}
        for name in self.ctx.progress.track(names, "ranking layers", len(names)):
            with self.ctx.open(self.lower([name]).reference()) as predict:
                outputs = predict(images)
            risk[name], plain[name] = self._apart(outputs, reference), ranking.deviation(reference, outputs)
        return ranking.order(names, risk if any(risk.values()) else plain, self._gain(names))

    def _apart(self, outputs: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        """Return the task's own distance: most of a detector's outputs are background, which does not matter."""
        assert self.ctx.task is not None
        return self.ctx.task.distance(torch.from_numpy(outputs), torch.from_numpy(reference), 1.0).item()

    def _gain(self, names: Sequence[str]) -> dict[str, float]:
        """Return what lowering each layer saves: milliseconds where the clock decides and knows them all, else MACs."""
        spent = self._spent(names)
        if spent is None:
            return ranking.macs(self._calibrated().proto.graph)
        before, after = spent
        return {name: before[name] - after[name] for name in names}

    def _spent(self, names: Sequence[str]) -> tuple[Mapping[str, float], Mapping[str, float]] | None:
        """Return milliseconds in each layer, in float and with ``names`` in int8; None where no clock decides or knows
        them all.
        """
        if self.ctx.cost != "measured":
            return None
        key = tuple(names)
        if key not in self._times:
            graph, feed, threads = self._calibrated().proto.graph, self._images[0], self.ctx.threads
            paths = (self.model.path, self.lower(names).path)
            self._times[key] = tuple(ranking.milliseconds(path, graph, feed, threads) for path in paths)
        before, after = self._times[key]
        return (before, after) if all(name in before and name in after for name in names) else None

    def _write(self, proto: onnx.ModelProto, stem: str) -> OnnxModel:
        clean(proto, self.model.spec.to_json(), self.ctx.board.ir_version)
        written = write(proto, OnnxModel(self.ctx.workspace / f"{stem}.onnx", self.model.spec))
        self._written.add(written.path)
        return written


def calibration_images(ctx: Context, batch: int) -> list[NDArray[np.float32]]:
    """Return the task's calibration images as arrays of the graph's static batch, the last one filled by repetition."""
    assert ctx.task is not None
    images = np.concatenate([part.numpy() for part in ctx.task.calibration_batches()])
    missing = -len(images) % batch
    if missing:
        images = np.concatenate([images, images[np.arange(missing) % len(images)]])
    return [images[i : i + batch] for i in range(0, len(images), batch)]

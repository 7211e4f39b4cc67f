"""Write a torch module as one clean, reproducible ONNX file, and prove that the two agree."""

from __future__ import annotations

import copy
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgeprune.errors import BadModel, UnmetRequirement
from edgeprune.model import OnnxModel, TorchModel, first_line
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.graph import PROTOBUF_LIMIT, clean, keep_floating, name_nodes, opset_of, write

DYNAMO_OPSET = 18
"""The oldest opset torch's dynamo exporter writes; asked for an older one it silently writes this one."""
_COMPARED_IMAGES = 16
_DOUBTS = 4
_UNKNOWN_OPERATOR = re.compile(
    r"for <OpOverload\(op='([\w.:]+)'|operator '([\w:]+)'|unrecognized namespace (\w+::\w+)"
)


@dataclass(frozen=True)
class Export(Pass[TorchModel, OnnxModel]):
    """Write the module as ONNX: static shapes, one file, equal bytes for equal models on any machine.

    The graph's input is called ``input`` and its output ``output``. ``tolerance`` is the largest allowed
    difference to the torch module, as a share of the standard deviation of its outputs; where the module itself is
    less sure than that in single precision, a few times what it differs from its own double precision.
    """

    name: ClassVar[str] = "export"
    takes: ClassVar[type] = TorchModel
    gives: ClassVar[type] = OnnxModel

    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be above zero, not {self.tolerance}")

    def requires(self, model: TorchModel, ctx: Context) -> None:
        """Raise UnmetRequirement for weights that cannot fit in one file of less than 2 GB."""
        state = model.module.state_dict().values()
        size = sum(t.numel() * t.element_size() for t in state)
        if size > PROTOBUF_LIMIT:
            raise UnmetRequirement(
                f"the weights take {size / 1e9:.1f} GB, but an ONNX file of one piece holds at most 2 GB; "
                f"use a smaller model"
            )

    def run(self, model: TorchModel, ctx: Context) -> OnnxModel:
        """Write ``ctx.workspace/"model.onnx"``.

        Raises BadModel when an operator has no ONNX form, when the opset exceeds the target's, or when ONNX
        and torch disagree.
        """
        proto = to_proto(model, ctx.board.opset)
        clean(proto, model.spec.to_json(), ctx.board.ir_version)
        name_nodes(proto.graph)
        keep_floating(proto, model.surgery.floating)
        exported = write(proto, OnnxModel(ctx.workspace / "model.onnx", model.spec))
        difference = self._compare(model, exported, ctx)
        ctx.record("opset", opset_of(proto))
        ctx.record("ir_version", proto.ir_version)
        ctx.record("nodes", len(proto.graph.node))
        ctx.record("difference", difference)
        return exported

    def _compare(self, model: TorchModel, exported: OnnxModel, ctx: Context) -> float:
        """Return the largest difference of the outputs as a share of their spread, on real images if any."""
        images = _images(model, ctx)
        expected = model.predict(images)
        with ctx.open(exported.reference()) as predict:
            found = predict(images)
        if found.shape != expected.shape:
            raise BadModel(
                f"the exported graph returns shape {found.shape} where the module returns {expected.shape}; "
                f"its forward depends on something that the export fixed"
            )
        spread = float(expected.std()) or max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(found - expected).max()) / spread
        if not difference <= self.tolerance and not difference <= _DOUBTS * _doubt(model, images, expected) / spread:
            raise BadModel(
                f"the exported graph differs from the module by {difference:.1e} of the outputs' spread "
                f"(allowed: {self.tolerance:.0e}); its forward depends on data or state that the export fixed"
            )
        return difference


def _doubt(model: TorchModel, images: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference that double precision makes to the module's outputs.

    Sums in another order differ about as much: attention over untrained norms loses four of seven digits that way. A
    module that does not even repeat itself is given none: what it differs by is no matter of precision.
    """
    if not np.array_equal(model.predict(images), expected):
        return 0.0
    double = copy.deepcopy(model.module).double()
    with torch.no_grad():
        outputs = [double(torch.from_numpy(image[None]).double()) for image in images]
    return float(np.abs(torch.cat(outputs).numpy() - expected).max())


def to_proto(model: TorchModel, opset: int) -> onnx.ModelProto:
    """Run torch's exporter at the shape of ``model.inputs``; raises BadModel naming what cannot be written."""
    model.module.eval()
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "opset_version": opset}
    try:
        with _quietly():
            if opset >= DYNAMO_OPSET:
                program = torch.onnx.export(
                    model.module, model.inputs, dynamo=True, external_data=False, verbose=False, **names
                )
                assert program is not None
                proto = program.model_proto
            else:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "model.onnx"
                    torch.onnx.export(model.module, model.inputs, path, dynamo=False, **names)
                    proto = onnx.load(path)
                _fix_output(proto, model)
    except Exception as error:
        raise BadModel(_why(error)) from error
    found = opset_of(proto)
    if found > opset:
        raise BadModel(f"torch writes this model as ONNX opset {found}, but the target takes at most {opset}")
    return proto


def _fix_output(proto: onnx.ModelProto, model: TorchModel) -> None:
    """Write the output's sizes where the older exporter wrote names: it loses them behind padding and slicing."""
    with torch.no_grad():
        sizes = model.module(*model.inputs).shape
    dimensions = proto.graph.output[0].type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, sizes, strict=True):
        dimension.dim_value = int(size)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hush the exporters, which tell of their own deprecations, of fixed shapes and of absent packages that the model
    does not use: nothing a user could act on.
    """
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _images(model: TorchModel, ctx: Context) -> NDArray[np.float32]:
    if ctx.task is not None and ctx.task.name != "synthetic":
        first = next(iter(ctx.task.calibration_batches()), None)
        if first is not None:
            images: NDArray[np.float32] = first[:_COMPARED_IMAGES].numpy()
            return images
    example: NDArray[np.float32] = model.inputs[0].numpy()
    return example


def _why(error: BaseException) -> str:
    """Say which operator could not be written; the exporters bury it in a chain of causes."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(str(e) for e in chain)
    match = _UNKNOWN_OPERATOR.search(text)
    if match:
        operator = next(group for group in match.groups() if group)
        return f"the operator {operator} has no ONNX form; write the model's forward without it"
    deepest = chain[-1]
    return f"torch cannot write this model as ONNX ({type(deepest).__name__}: {first_line(deepest)})"

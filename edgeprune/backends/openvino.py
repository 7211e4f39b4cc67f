"""OpenVINO on the processor: reads the same ONNX file, and is often the faster for int8 convolutions on x86."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeprune.backends.base import Artifact, Backend, LayerTime, peak_memory_bytes
from edgeprune.errors import BadModel, MissingPackage
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel, Runner, first_line
from edgeprune.profiles.board import Board

_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_LOADS = 5
_CUT_MS = 1e-3


@dataclass(frozen=True)
class Openvino(Backend):
    """OpenVINO's CPU plug-in with one stream; layers in float are computed in ``floats`` (OpenVINO's name of the type).

    Left to itself the plug-in runs float32 graphs in bf16 on processors that have it, and says nothing.
    """

    name: ClassVar[str] = "openvino"
    floats: ClassVar[str] = "f32"

    def version(self) -> str | None:
        """Return the installed one; None without the extra."""
        if importlib.util.find_spec("openvino") is None:
            return None
        return metadata.version("openvino")

    def emit(self, model: OnnxModel, board: Board, directory: Path) -> Artifact:
        """Put the model into ``directory/"model.onnx"`` and count the convolutions as they are executed.

        Raises BadModel if OpenVINO cannot load it, and MissingPackage without the extra.
        """
        path = directory / "model.onnx"
        if not (path.exists() and path.samefile(model.path)):
            write_atomic(path, model.path.read_bytes())
        counts = Counter(
            _PRECISIONS.get(info["runtimePrecision"], info["runtimePrecision"])
            for info in map(_info, self._compiled(path, 1).get_runtime_model().get_ops())
            if info["layerType"] in ("Convolution", "GroupConvolution", "Deconvolution")
        )
        return Artifact(path, model.spec, self.name, dict(sorted(counts.items())))

    @contextmanager
    def open(self, artifact: Artifact, threads: int) -> Iterator[Runner]:
        """Load the artifact with ``threads`` threads and one stream."""
        compiled = self._compiled(artifact.path, threads)
        request = compiled.create_infer_request()
        names = [output.get_any_name() for output in compiled.outputs]

        def run(feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            found = request.infer(dict(feeds), share_inputs=True)
            return dict(zip(names, found.values(), strict=True))

        yield run

    def layer_times(self, artifact: Artifact, threads: int, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return what each node takes: the middle of several loads of the artifact, which share ``runs``.

        The plug-in tells the mean of all runs since it loaded, with the first, slow one and every interruption, in
        whole microseconds: the first is taken out again, and what was cut off each run and of their mean, half a
        microsecond, put back on.
        """
        image = np.random.default_rng(0).standard_normal(artifact.spec.input_shape, np.float32)
        more = math.ceil(runs / _LOADS)
        spans: dict[tuple[str, str], list[float]] = {}
        for _ in range(_LOADS):
            request = self._compiled(artifact.path, threads, PERF_COUNT=True).create_infer_request()
            request.infer([image])
            first = _executed(request.profiling_info)
            for _ in range(more):
                request.infer([image])
            for at, mean in _executed(request.profiling_info).items():
                rest = ((more + 1) * mean - first.get(at, mean)) / more
                spans.setdefault(at, []).append(max(rest, 0.0) + _CUT_MS)
        means = {at: float(np.median(times)) for at, times in spans.items()}
        total = sum(means.values()) or 1.0
        return tuple(LayerTime(name, kind, ms, ms / total) for (name, kind), ms in means.items())

    def peak_memory_bytes(self, artifact: Artifact, threads: int) -> int | None:
        """Return what loading and running adds to the resident memory of a fresh process, at its peak."""
        return peak_memory_bytes("openvino", self.floats, artifact, threads)

    def _compiled(self, path: Path, threads: int, **more: Any) -> Any:
        if self.version() is None:
            raise MissingPackage("openvino", "openvino", f"the runtime {self.name}")
        import openvino

        try:
            return openvino.Core().compile_model(str(path), "CPU", {**options(threads, self.floats), **more})
        except Exception as error:
            raise BadModel(f"OpenVINO cannot load {path} ({type(error).__name__}: {first_line(error)})") from error


def options(threads: int, floats: str) -> dict[str, Any]:
    """Return properties with a fixed thread count, one stream and no threads tied to cores, as ONNX Runtime has it."""
    return {
        "INFERENCE_PRECISION_HINT": floats,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }


def _executed(told: Iterable[Any]) -> dict[tuple[str, str], float]:
    """Return the milliseconds of every node that really ran, by name and type."""
    return {
        (one.node_name, one.node_type): one.real_time.total_seconds() * 1e3
        for one in told
        if one.status == one.Status.EXECUTED
    }


def _info(operation: Any) -> dict[str, str]:
    told = operation.get_rt_info()
    return {name: str(told[name].value) if name in told else "" for name in ("layerType", "runtimePrecision")}

"""ONNX Runtime on the processor: the file that was exported is the artifact."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from scipy.stats import trim_mean

from edgeprune.backends.base import Artifact, Backend, LayerTime, peak_memory_bytes
from edgeprune.errors import BadModel
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel, Runner, first_line
from edgeprune.profiles.board import Board

_LOG_ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxRuntime(Backend):
    """ONNX Runtime's CPU execution provider, one session with a fixed number of threads."""

    name: ClassVar[str] = "onnxruntime"
    fuses_constants: ClassVar[bool] = True

    def version(self) -> str | None:
        """Return ONNX Runtime's own."""
        return str(onnxruntime.__version__)

    def emit(self, model: OnnxModel, board: Board, directory: Path) -> Artifact:
        """Put the model into ``directory/"model.onnx"`` and count the convolutions of the optimized graph.

        Raises BadModel if ONNX Runtime cannot load it.
        """
        path = directory / "model.onnx"
        if not (path.exists() and path.samefile(model.path)):
            write_atomic(path, model.path.read_bytes())
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options = session_options(1)
            options.optimized_model_filepath = str(optimized)
            _session(path, options)
            precisions = count_convolutions(onnx.load(optimized))
        return Artifact(path, model.spec, self.name, precisions)

    @contextmanager
    def open(self, artifact: Artifact, threads: int) -> Iterator[Runner]:
        """Load the artifact with ``threads`` threads within an operator and one between operators."""
        session = _session(artifact.path, session_options(threads))
        outputs = [output.name for output in session.get_outputs()]

        def run(feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            return dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))

        yield run

    def layer_times(self, artifact: Artifact, threads: int, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return the interquartile mean of ``runs`` runs of each node of the optimized graph, after one more.

        The profiler tells whole microseconds, which a median would keep; a mean would not survive an interruption.
        """
        with tempfile.TemporaryDirectory() as folder:
            options = session_options(threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = _session(artifact.path, options)
            feed = np.random.default_rng(0).standard_normal(artifact.spec.input_shape, np.float32)
            for _ in range(runs + 1):
                session.run(None, {session.get_inputs()[0].name: feed})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        spans: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                at = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
                spans.setdefault(at, []).append(event["dur"] / 1e3)
        means = {at: float(trim_mean(times[1:] or times, 0.25)) for at, times in spans.items()}
        total = sum(means.values()) or 1.0
        return tuple(LayerTime(name, op, ms, ms / total) for (name, op), ms in means.items())

    def peak_memory_bytes(self, artifact: Artifact, threads: int) -> int | None:
        """Return what loading and running adds to the resident memory of a fresh process, at its peak."""
        return peak_memory_bytes("onnxruntime", "f32", artifact, threads)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options with a fixed thread count, sequential execution and errors alone on stderr."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_ERRORS_ONLY
    # Idle threads that spin steal the core of whoever shares the machine, the next measurement included.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    return options


def count_convolutions(optimized: onnx.ModelProto) -> dict[str, int]:
    """Count the convolutions of an optimized graph by the precision they run in, for example ``{"int8": 19}``.

    Fused and re-laid-out forms (FusedConv, NCHWc, NHWC) count as what they compute in.
    """
    types = {i.name: i.data_type for i in optimized.graph.initializer}
    for node in optimized.graph.node:
        if node.op_type == "Cast":
            types[node.output[0]] = next(a.i for a in node.attribute if a.name == "to")
    counts = Counter(
        _precision(node.op_type, types.get(node.input[1]))
        for node in optimized.graph.node
        if "Conv" in node.op_type and len(node.input) > 1
    )
    return dict(sorted(counts.items()))


def _precision(op_type: str, weight: int | None) -> str:
    if op_type.startswith(("QLinear", "ConvInteger")):
        return "int8"
    return "fp16" if weight == onnx.TensorProto.FLOAT16 else "fp32"


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadModel(f"ONNX Runtime cannot load {path} ({type(error).__name__}: {first_line(error)})") from error

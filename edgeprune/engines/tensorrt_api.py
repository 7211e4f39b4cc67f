"""TensorRT's Python package, 8.4 to 11: the one place that knows what its versions share.

It goes by what is there, an attribute or a member of an enumeration, and never by the version. Every function takes the
module, so that it can be held against the recorded names of each version. Nothing else that is heavy is imported: a
process of its own starts with this for every build.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NEEDED = ("Builder.build_serialized_network", "OnnxParser.parse_from_file", "ICudaEngine.create_engine_inspector",
           "IBuilderConfig.profiling_verbosity")  # fmt: skip
_LEVELS = ("INTERNAL_ERROR", "ERROR", "WARNING")
_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64",
          "BOOL": "bool"}  # fmt: skip
"""Not by the package's own ``nptype``: those of 8.5 and 8.6 want an alias that NumPy 1.24 to 1.26 lack."""


class Refused(Exception):
    """Raised when TensorRT does not take a graph or an engine; its arguments are TensorRT's reasons."""


class NoGpu(Exception):
    """Raised when TensorRT cannot work with the GPU of this machine, or finds none; its text is TensorRT's reason."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine: its static shape, and its type in NumPy's words, empty where NumPy has none."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: str


def installed() -> bool:
    """Return whether the package is there; whether it can be imported is another matter."""
    return importlib.util.find_spec("tensorrt") is not None


def load() -> Any:
    """Import the package. Raises whatever it raises."""
    import tensorrt

    return tensorrt


def missing(trt: Any) -> str | None:
    """Return the first thing that building wants and this version is too old to have; None if it has all."""
    for name in _NEEDED:
        owner, _, member = name.partition(".")
        if not hasattr(getattr(trt, owner, None), member):
            return name
    return None


def flagged(trt: Any) -> tuple[str, ...]:
    """Return the precisions that a flag of the builder allows beside a float32 graph; none where typing is strong."""
    return tuple(one for one in ("fp16", "bf16", "int8") if hasattr(trt.BuilderFlag, one.upper()))


def builder(trt: Any) -> tuple[Any, Any]:
    """Return a builder and the log it writes to. Raises NoGpu."""
    log = _log(trt)
    try:
        return trt.Builder(log), log
    except TypeError as error:  # it failed in C++, and why is only in the log; 8.x warns of it, and no more
        raise NoGpu(next(iter(log.told), str(error))) from error


def build(trt: Any, graph: str, strong: bool, precisions: Sequence[str], workspace_mib: int) -> bytes:
    """Return the engine of an ONNX file.

    A ``strong`` graph says itself what is computed in what; to a weak one ``precisions`` are what its float32 may be
    lowered to. ``workspace_mib`` bounds the memory of a kernel. Raises Refused and NoGpu.
    """
    maker, log = builder(trt)
    network = maker.create_network(_creation(trt, strong))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(graph):
        reasons = [_reason(parser.get_error(i)) for i in range(parser.num_errors)]
        raise Refused(*(reasons or log.reasons()))
    config = maker.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector tells names alone
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    else:
        config.max_workspace_size = workspace_mib << 20
    for one in () if strong else precisions:
        if one not in flagged(trt):
            raise Refused(f"TensorRT {trt.__version__} cannot be allowed {one}")
        config.set_flag(getattr(trt.BuilderFlag, one.upper()))
    engine = maker.build_serialized_network(network, config)
    if engine is None:
        raise Refused(*log.reasons())
    return bytes(memoryview(engine))


class Loaded:
    """An engine on the GPU of this process, ready to run."""

    def __init__(self, trt: Any, engine: bytes) -> None:
        """Raises Refused where this TensorRT or this GPU cannot take the engine."""
        self._trt, self._log = trt, _log(trt)
        self._runtime = trt.Runtime(self._log)  # it must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise Refused(*self._log.reasons())
        self._context: Any = None
        self._profiler: Any = None
        self._bindings: list[int] = []

    def layers(self) -> str:
        """Return the engine inspector's report, as JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def memory(self) -> dict[str, int]:
        """Return the bytes of the GPU that running takes beside the weights."""
        for name in ("device_memory_size_v2", "device_memory_size"):
            if hasattr(self._engine, name):
                return {"activation": int(getattr(self._engine, name))}
        return {}

    def tensors(self) -> tuple[Tensor, ...]:
        """Return inputs and outputs in the engine's own order."""
        engine = self._engine
        if self._named:
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            mode = self._trt.TensorIOMode.INPUT
            return tuple(
                _tensor(x, engine.get_tensor_mode(x) == mode, engine.get_tensor_shape(x), engine.get_tensor_dtype(x))
                for x in names
            )
        return tuple(
            _tensor(engine.get_binding_name(i), engine.binding_is_input(i), engine.get_binding_shape(i),
                    engine.get_binding_dtype(i))
            for i in range(engine.num_bindings)
        )  # fmt: skip

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Say where on the GPU each tensor lies. Raises Refused where there is no memory left to run in."""
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise Refused(*self._log.reasons())
        if self._named:
            for name, address in addresses.items():
                self._context.set_tensor_address(name, address)
        else:
            self._bindings = [addresses[tensor.name] for tensor in self.tensors()]

    def start(self, stream: int) -> None:
        """Run once on a CUDA stream, and return before it is done. Raises Refused where it cannot start."""
        if self._named:
            started = self._context.execute_async_v3(stream)
        else:
            started = self._context.execute_async_v2(self._bindings, stream)
        if not started:
            raise Refused(*self._log.reasons())

    def profile(self) -> list[tuple[str, float]]:
        """Return a list that each run adds its layers to, by name and milliseconds; runs are slower from now on."""
        trt: Any = self._trt
        found: list[tuple[str, float]] = []

        class Profiler(trt.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                found.append((layer_name, ms))

        self._profiler = Profiler()  # TensorRT does not keep it
        self._context.profiler = self._profiler
        return found

    def close(self) -> None:
        """Give the engine's memory back, in the order that TensorRT wants."""
        self._context = self._engine = self._runtime = None

    @property
    def _named(self) -> bool:
        return hasattr(self._engine, "num_io_tensors")


def _creation(trt: Any, strong: bool) -> int:
    """Return the flags of a network: a batch in its shapes, which is all there is since the flag for it went."""
    wanted = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if strong else [])]
    members = trt.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(members, one)) for one in wanted if hasattr(members, one))


def _reason(error: Any) -> str:
    """Return a parser's error with the node that it is about, by name where the version tells that."""
    if not hasattr(error, "node_name"):
        return f"node {error.node()}: {error.desc()}"
    return f"{error.node_operator()} {error.node_name()}: {error.desc()}"


def _tensor(name: str, is_input: bool, shape: Sequence[int], dtype: Any) -> Tensor:
    return Tensor(name, bool(is_input), tuple(shape), _TYPES.get(str(dtype).rpartition(".")[2], ""))


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            level = str(severity).rpartition(".")[2]
            if level in _LEVELS:
                self.kept.append((level, text))

        @property
        def told(self) -> list[str]:
            """What went wrong before what may have, and of each the last first."""
            return [text for one in _LEVELS for level, text in reversed(self.kept) if level == one]

        def reasons(self) -> tuple[str, ...]:
            errors = [text for level, text in self.kept if level != "WARNING"]
            return tuple(errors) or ("no reason was given",)

    return Log()

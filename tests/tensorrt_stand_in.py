"""SYNTHETIC: stands in for TensorRT's Python package, of several versions, where there is no GPU.

Which names there are is real, recorded in tests/engines/api: any other raises AttributeError, to read and to set. What
they do is made up: an "engine" is the ONNX file, and ONNX Runtime computes on the memory of ``cuda_stand_in``. Every
call and every attribute that is set lands in ``calls``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cuda_stand_in import MEMORY, members

API = Path(__file__).parent / "engines" / "api"
MARK = b"SYNTHETIC"


class Trt:
    """The module. ``fails`` names where it does: gpu, parse, build, load, context, run."""

    def __init__(self, manifest: str | dict[str, Any], fails: str = "") -> None:
        told = json.loads((API / f"{manifest}.json").read_text()) if isinstance(manifest, str) else manifest
        self.calls: list[tuple[str, Any]] = []
        self.__version__ = told["version"]
        for name, names in told["enums"].items():
            setattr(self, name, members(name, names))
        made = Behaviour(self, fails).table()
        for name, names in told["classes"].items():
            setattr(self, name, restricted(self, name, names, made.get(name, {})))

    def called(self, name: str) -> list[Any]:
        return [arguments for one, arguments in self.calls if one == name]


def restricted(trt: Trt, owner: str, names: list[str], made: dict[str, Any]) -> type:
    """Return a class with exactly ``names``; those in ``made`` do something, the others must not be called."""

    def setter(self: Any, name: str, value: Any) -> None:
        if owner not in ("ILogger", "IProfiler"):  # those are subclassed in Python
            if name not in names and not name.startswith("own_"):
                raise AttributeError(f"{owner!r} object has no attribute {name!r}")
            trt.calls.append((f"{owner}.{name}", value))
        object.__setattr__(self, name, value)

    def recorded(name: str) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            trt.calls.append((f"{owner}.{name}", arguments))
            return made[name](self, *arguments)

        return call

    body = {n: made[n] if isinstance(made.get(n), property) else recorded(n) for n in names}

    def start(self: Any, *arguments: Any) -> None:
        made.get("__init__", lambda *_: None)(self, *arguments)

    return type(owner, (), {**body, "__init__": start, "__setattr__": setter})


class Behaviour:
    """What the classes do, where they do something."""

    def __init__(self, trt: Any, fails: str) -> None:
        self.trt, self.fails = trt, fails

    def error(self, log: Any, text: str, level: str = "ERROR") -> None:
        log.log(f"Severity.{level}", text)

    def new(self, owner: str, **own: Any) -> Any:
        made = object.__new__(getattr(self.trt, owner))
        for name, value in own.items():
            object.__setattr__(made, f"own_{name}", value)
        return made

    def builder(self, one: Any, log: Any) -> None:
        if self.fails == "gpu":
            self.error(log, "Unable to determine GPU memory usage", "WARNING")
            self.error(log, "CUDA initialization failure with error: 35", "WARNING")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        one.own_log = log

    def parser(self, one: Any, network: Any, log: Any) -> None:
        one.own_network = network

    def parse(self, one: Any, path: str) -> bool:
        one.own_network.own_graph = Path(path).read_bytes()
        return self.fails != "parse"

    def build(self, one: Any, network: Any, config: Any) -> bytes | None:
        if self.fails == "build":
            self.error(one.own_log, "a warning", "WARNING")
            self.error(one.own_log, "no kernel for conv")
            return None
        return MARK + bytes(network.own_graph)

    def runtime(self, one: Any, log: Any) -> None:
        one.own_log = log

    def load(self, one: Any, blob: bytes) -> Any:
        if self.fails == "load" or not blob.startswith(MARK):
            self.error(one.own_log, "the engine is of another version")
            return None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(blob[len(MARK) :], options, providers=["CPUExecutionProvider"])
        return self.new("ICudaEngine", session=session, log=one.own_log, graph=onnx.load_from_string(blob[len(MARK) :]))

    def tensors(self, engine: Any) -> list[Any]:
        return [*engine.own_session.get_inputs(), *engine.own_session.get_outputs()]

    def named(self, engine: Any, name: str) -> Any:
        return next(x for x in self.tensors(engine) if x.name == name)

    def is_input(self, engine: Any, name: str) -> bool:
        return name in [x.name for x in engine.own_session.get_inputs()]

    def context(self, engine: Any) -> Any:
        return None if self.fails == "context" else self.new("IExecutionContext", engine=engine, addresses={})

    def run(self, one: Any, addresses: dict[str, int]) -> bool:
        if self.fails == "run":
            self.error(one.own_engine.own_log, "an illegal address")
            return False
        session = one.own_engine.own_session
        feeds = {
            x.name: np.frombuffer(MEMORY[addresses[x.name]], np.float32).reshape(x.shape) for x in session.get_inputs()
        }
        for output, value in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            MEMORY[addresses[output.name]][:] = np.ascontiguousarray(value).tobytes()
        if isinstance(getattr(one, "profiler", None), self.trt.IProfiler):
            for node in one.own_engine.own_graph.graph.node:
                one.profiler.report_layer_time(node.name, 0.25)
        return True

    def set_address(self, one: Any, name: str, address: int) -> bool:
        one.own_addresses[name] = address
        return True

    def inspect(self, one: Any, form: Any) -> str:
        graph = one.own_engine.own_graph.graph
        producers = {name: node.op_type for node in graph.node for name in node.output}
        rows = [
            {"Name": n.name, "LayerType": "CaskConvolution" if n.op_type == "Conv" else n.op_type, "Inputs": [
                {"Format/Datatype": "Int8" if producers.get(n.input[0]) == "DequantizeLinear" else "Float"}]}
            for n in graph.node
        ]  # fmt: skip
        return json.dumps({"Layers": rows, "Bindings": []})

    def table(self) -> dict[str, dict[str, Any]]:
        trt, flat = self.trt, self.trt.DataType.FLOAT
        errors = ["no such operator", "nor this"]
        return {
            "Builder": {
                "__init__": self.builder,
                "create_network": lambda one, flags: self.new("INetworkDefinition", graph=b""),
                "create_builder_config": lambda one: self.new("IBuilderConfig"),
                "build_serialized_network": self.build,
            },
            "IBuilderConfig": {
                "set_flag": lambda one, flag: None,
                "set_memory_pool_limit": lambda one, pool, size: None,
            },
            "OnnxParser": {
                "__init__": self.parser,
                "parse_from_file": self.parse,
                "num_errors": property(lambda one: len(errors)),
                "get_error": lambda one, i: self.new("ParserError", i=i),
            },
            "ParserError": {
                "desc": lambda one: errors[one.own_i],
                "node": lambda one: one.own_i,
                "node_name": lambda one: f"node_{one.own_i}",
                "node_operator": lambda one: "Odd",
            },
            "Runtime": {"__init__": self.runtime, "deserialize_cuda_engine": self.load},
            "ICudaEngine": {
                "create_engine_inspector": lambda one: self.new("EngineInspector", engine=one),
                "create_execution_context": self.context,
                "device_memory_size": property(lambda one: 4096),
                "device_memory_size_v2": property(lambda one: 4096),
                "num_io_tensors": property(lambda one: len(self.tensors(one))),
                "get_tensor_name": lambda one, i: self.tensors(one)[i].name,
                "get_tensor_mode": lambda one, x: getattr(
                    trt.TensorIOMode, "INPUT" if self.is_input(one, x) else "OUTPUT"
                ),
                "get_tensor_shape": lambda one, x: self.named(one, x).shape,
                "get_tensor_dtype": lambda one, x: flat,
                "num_bindings": property(lambda one: len(self.tensors(one))),
                "get_binding_name": lambda one, i: self.tensors(one)[i].name,
                "binding_is_input": lambda one, i: self.is_input(one, self.tensors(one)[i].name),
                "get_binding_shape": lambda one, i: self.tensors(one)[i].shape,
                "get_binding_dtype": lambda one, i: flat,
            },
            "EngineInspector": {"get_engine_information": self.inspect},
            "IExecutionContext": {
                "set_tensor_address": self.set_address,
                "execute_async_v3": lambda one, stream: self.run(one, one.own_addresses),
                "execute_async_v2": lambda one, bindings, stream: self.run(
                    one, dict(zip([x.name for x in self.tensors(one.own_engine)], bindings, strict=True))
                ),
            },
        }


def packages(folder: Path, manifest: str) -> Path:
    """Write packages ``tensorrt`` and ``cuda.bindings`` that are the stand-ins, and return where they lie."""
    (folder / "tensorrt").mkdir(parents=True)
    (folder / "tensorrt" / "__init__.py").write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nfrom tensorrt_stand_in import Trt\n"
        f"globals().update(vars(Trt({manifest!r})))\n"
    )
    (folder / "cuda" / "bindings").mkdir(parents=True)
    for one in ("", "bindings/"):
        (folder / "cuda" / f"{one}__init__.py").write_text("")
    (folder / "cuda" / "bindings" / "runtime.py").write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nfrom cuda_stand_in import Cuda\nown = Cuda()\n"
        "cudaError_t, cudaMemcpyKind = own.cudaError_t, own.cudaMemcpyKind\n"
        "def __getattr__(name): return getattr(own, name)\n"
    )
    return folder

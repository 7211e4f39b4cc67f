"""SYNTHETIC: stands in for trtexec in tests, speaking the documented formats of 8.2, 8.5, 10 and 11. No GPU is used.

Times are made up from the graph's size, so nothing that it says of speed means anything; outputs are ONNX Runtime's.
``STAND_IN_VERSION`` names the version, ``STAND_IN_FAIL`` a word of the command line at which it gives up.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

VERSION = tuple(int(n) for n in os.environ.get("STAND_IN_VERSION", "8.5.2").split("."))
MAGIC = b"SYNTHETIC ENGINE\n"
FOLDED = ("QuantizeLinear", "DequantizeLinear", "Cast", "Relu", "Constant")
"""What becomes part of other layers, or is gone once the engine is built."""
COMMON = {"onnx", "saveEngine", "exportLayerInfo", "profilingVerbosity", "loadEngine", "exportTimes", "duration",
          "warmUp", "avgRuns", "percentile", "useSpinWait", "exportProfile", "separateProfileRun", "dumpProfile",
          "loadInputs", "exportOutput", "iterations", "timingCacheFile", "help"}  # fmt: skip


def flags() -> set[str]:
    if VERSION < (8, 5):
        return COMMON | {"workspace", "fp16", "int8", "buildOnly", "noDataTransfers"}
    if VERSION < (8, 6):
        return COMMON | {"workspace", "memPoolSize", "fp16", "int8", "buildOnly", "noDataTransfers"}
    if VERSION < (11,):
        return COMMON | {"memPoolSize", "fp16", "bf16", "int8", "skipInference", "noDataTransfers", "stronglyTyped"}
    return COMMON | {"memPoolSize", "skipInference", "noCudaGraph"}


def main() -> int:
    asked = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
    packed = VERSION[0] * (10000 if VERSION[0] >= 10 else 1000) + VERSION[1] * 100 + (VERSION[2:] or (0,))[0]
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{packed}] # {' '.join(sys.argv)}")
    if "help" in asked:
        print("=== Model Options ===")
        return 0
    unknown = set(asked) - flags()
    failing = os.environ.get("STAND_IN_FAIL")
    if unknown or (failing and any(failing in word for word in sys.argv[1:])):
        print(f"[E] Unknown option: --{min(unknown)}" if unknown else "[E] Error Code 2: made to fail")
        print(f"&&&& FAILED TensorRT.trtexec [TensorRT v{packed}]")
        return 1
    print(f"[I] TensorRT version: {'.'.join(map(str, VERSION))}")
    build(asked) if "onnx" in asked else use(asked)
    print(f"&&&& PASSED TensorRT.trtexec [TensorRT v{packed}] # {' '.join(sys.argv)}")
    return 0


def build(asked: dict[str, str]) -> None:
    content = Path(asked["onnx"]).read_bytes()
    graph = onnx.load_from_string(content).graph
    Path(asked["saveEngine"]).write_bytes(MAGIC + content)
    weak = {"Int8" if "int8" in asked else "", "Half" if "fp16" in asked else ""} - {""}
    layers = []
    fused = fusions(graph)
    quantized = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    for node in graph.node:
        if node.op_type in FOLDED:
            continue
        said = "Int8" if node.input[0] in quantized else ("Half" if "Half" in weak else "Float")
        kind = "CaskConvolution" if node.op_type == "Conv" else node.op_type
        tensor = {"Name": node.input[0], "Location": "Device", "Dimensions": [1]}
        tensor |= {"Format": "NC/32HW32", "Datatype": said} if VERSION >= (11,) else {"Format/Datatype": f"{said} NCHW"}
        told = [node.name, *fused.get(node.name, ())]
        layers.append({"Name": " + ".join(told), "LayerType": kind, "Inputs": [tensor], "Outputs": []})
        if VERSION >= (8, 6) or len(told) == 1:
            layers[-1]["Metadata"] = "\x1e".join(f"[ONNX Layer: {name}]" for name in told)
    report = {"Layers": layers, "I/O Tensors" if VERSION >= (11,) else "Bindings": ["input", "output"]}
    Path(asked["exportLayerInfo"]).write_text(json.dumps(report))
    print("[I] Engine built in 12.5 sec.")


def fusions(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """The Relu that follows a layer, by the layer's name: it becomes part of it."""
    makers = {name: node.name for node in graph.node for name in node.output}
    return {makers[n.input[0]]: [n.name] for n in graph.node if n.op_type == "Relu" and n.input[0] in makers}


def took(node: onnx.NodeProto, graph: onnx.GraphProto) -> float:
    """Milliseconds of a layer: by its weights, wherever Q/DQ nodes stand before them."""
    sizes = {one.name: int(np.prod(one.dims)) for one in graph.initializer}
    makers = {n.output[0]: n for n in graph.node}
    name = node.input[1] if node.op_type == "Conv" else ""
    while name in makers:
        name = makers[name].input[0]
    return 0.05 * max(1.0, (sizes.get(name, 0) / 16) ** 0.5)


def use(asked: dict[str, str]) -> None:
    content = Path(asked["loadEngine"]).read_bytes()
    assert content.startswith(MAGIC), "the engine is damaged"
    model = onnx.load_from_string(content[len(MAGIC) :])
    nodes = [n for n in model.graph.node if n.op_type not in FOLDED]
    if "exportTimes" in asked:
        base = sum(took(n, model.graph) for n in nodes)
        warm, start, rows = float(asked.get("warmUp", 200)), 0.0, []
        while start < warm + 1e3 * float(asked["duration"]) and len(rows) < 400:
            compute = base * (1.0 + 0.01 * (len(rows) % 7 - 3))
            row = {"startEnqMs": start, "endEnqMs": start, "startH2dMs": start, "endH2dMs": start,
                   "startComputeMs": start, "endComputeMs": start + compute, "startD2hMs": start, "endD2hMs": start,
                   "h2dMs": 0, "computeMs": compute, "d2hMs": 0, "latencyMs": compute}  # fmt: skip
            if VERSION < (8, 5):
                row["endToEndMs"] = compute
            if VERSION < (8, 5) or start >= warm:
                rows.append(row)
            start += 20.0
        Path(asked["exportTimes"]).write_text(json.dumps(rows))
    if "exportProfile" in asked:
        fused = fusions(model.graph)
        rows = [{"name": " + ".join([n.name, *fused.get(n.name, ())]), "timeMs": 5.0,
                 "averageMs": took(n, model.graph), "percentage": 1.0} for n in nodes]  # fmt: skip
        rows = [row if VERSION < (8, 5) else {**row, "medianMs": row["averageMs"]} for row in rows]
        lines = ["[", '  { "count" : 100 }', *(f", {json.dumps(row)}" for row in rows), "]"]
        Path(asked["exportProfile"]).write_text("\n".join(lines))
    if "exportOutput" in asked:
        name, _, values = asked["loadInputs"].partition(":")
        session = onnxruntime.InferenceSession(content[len(MAGIC) :], providers=["CPUExecutionProvider"])
        image = np.fromfile(values, np.float32).reshape(session.get_inputs()[0].shape)
        outputs = session.run(None, {name: image})
        rows = [{"name": o.name, "dimensions": "x".join(map(str, v.shape)), "values": v.reshape(-1).tolist()}
                for o, v in zip(session.get_outputs(), outputs, strict=True)]  # fmt: skip
        Path(asked["exportOutput"]).write_text(json.dumps(rows))


if __name__ == "__main__":
    sys.exit(main())

"""One build by TensorRT-RTX, alone in its process: ``python rtx_child.py GRAPH ENGINE CAPABILITY...`` prints JSON.

A build that fails can spoil the next one of its process (its int8 convolutions become float, without a word), and some
graphs end it by a segmentation fault. Nothing of edgeprune is imported, so that starting it costs little.
"""

import json
import sys
from pathlib import Path


def main(graph: str, target: str, capabilities: list[str]) -> dict[str, object]:
    """Build ``target`` from ``graph`` and return what is known of it, or ``errors``."""
    import tensorrt_rtx as trt

    messages: list[tuple[str, str]] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, text: str) -> None:
            messages.append((str(severity).rpartition(".")[2], text))

    builder = trt.Builder(Log())
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, Log())
    if not parser.parse_from_file(graph):
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        return {"errors": [f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in found]}
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = len(capabilities)
    for i, one in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + one.replace(".", "")), i)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"errors": [text for severity, text in messages if severity == "ERROR"] or ["no reason was given"]}
    Path(target).write_bytes(engine)
    told = [text for severity, text in messages if text.startswith(("Layers:", "Total ")) or severity == "WARNING"]
    return {"version": trt.__version__, "log": told}


if __name__ == "__main__":
    print("\n" + json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3:])))

"""TensorRT on this machine's GPU, one task a process: ``python -m edgeprune.engines.local_child`` prints JSON.

    look                                          which TensorRT and which GPU are here, or what is lacking
    build GRAPH ENGINE [--strong] [--allow fp16 bf16 int8] [--workspace-mib N]

A build that fails can spoil the next one of its process, and some graphs end it by a crash.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.engines import gpu, tensorrt_api
from edgeprune.errors import EdgepruneError

_AGAIN = "install it again with: pip install 'edgeprune[tensorrt]'"


def look() -> dict[str, Any]:
    """Return what is found, or ``lacking`` with what is not and how to mend that."""
    try:
        trt = tensorrt_api.load()
    except Exception as error:  # whatever a broken installation does
        return {"lacking": f"TensorRT cannot be imported ({type(error).__name__}: {error}); {_AGAIN}"}
    if name := tensorrt_api.missing(trt):
        return {"lacking": f"TensorRT {trt.__version__} is too old: it has no {name}; install 8.5 or newer"}
    try:
        card = gpu.open_gpu()
        device = card.device()
        card.close()
        tensorrt_api.builder(trt)
    except EdgepruneError as error:
        return {"lacking": str(error)}
    except tensorrt_api.NoGpu as error:
        return {
            "lacking": f"TensorRT {trt.__version__} cannot use the GPU ({error}); install a newer driver, or the "
            f"TensorRT that belongs to the one that is there"
        }
    return {"version": trt.__version__, "flags": tensorrt_api.flagged(trt), "device": dataclasses.asdict(device)}


def build(graph: str, target: str, strong: bool, allowed: Sequence[str], workspace_mib: int) -> dict[str, Any]:
    """Build ``target`` from ``graph`` and return what is known of it, or ``errors``."""
    trt = tensorrt_api.load()
    try:
        engine = tensorrt_api.build(trt, graph, strong, allowed, workspace_mib)
        loaded = tensorrt_api.Loaded(trt, engine)
    except tensorrt_api.Refused as error:
        return {"errors": list(error.args)}
    Path(target).write_bytes(engine)
    return {"layers": loaded.layers(), "memory": loaded.memory()}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Do what the command line says and return what to print."""
    parser = argparse.ArgumentParser(prog="local_child")
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("look")
    building = tasks.add_parser("build")
    building.add_argument("graph")
    building.add_argument("engine")
    building.add_argument("--strong", action="store_true")
    building.add_argument("--allow", nargs="*", default=[])
    building.add_argument("--workspace-mib", type=int, default=512)
    asked = parser.parse_args(arguments)
    if asked.task == "look":
        return look()
    return build(asked.graph, asked.engine, asked.strong, asked.allow, asked.workspace_mib)


if __name__ == "__main__":
    print("\n" + json.dumps(main(sys.argv[1:])), flush=True)
    sys.stderr.flush()
    os._exit(0)  # what is told is told: TensorRT 8.6 without a driver ends by a crash when Python takes it down

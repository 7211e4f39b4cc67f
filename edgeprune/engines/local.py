"""TensorRT on the GPU of this machine: what is there, and engines built of it."""

from __future__ import annotations

import functools
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeprune.engines import gpu, tensorrt_api
from edgeprune.engines.base import Engine, EngineBuilder
from edgeprune.engines.child import ask
from edgeprune.engines.gpu import Device
from edgeprune.engines.trtexec import count_convolutions, parse_layers
from edgeprune.errors import EdgepruneError, Lacking
from edgeprune.files import write_atomic
from edgeprune.profiles.board import Board, Precision

_CHILD = ("-m", "edgeprune.engines.local_child")
_LOOK_SECONDS = 120.0
_WORKSPACE_SHARE = 0.25
"""Of the GPU's memory, for one kernel: others may run there."""


@dataclass(frozen=True)
class Found:
    """A TensorRT and a GPU that it can use. ``flags`` are the precisions that weak typing may be allowed; where there
    are none, graphs are strongly typed.
    """

    version: str
    flags: tuple[str, ...]
    device: Device

    @property
    def strong(self) -> bool:
        """Whether a graph itself has to say what is computed in what."""
        return not self.flags

    def fit(self, board: Board) -> Board:
        """Return ``board`` narrowed to what is here: typing, version, precisions, compute capability, memory."""
        lacks = {"bf16"} - set(self.flags) if self.flags else set()
        numbers = re.match(r"\d+(\.\d+)*", self.version)
        update = {
            "version": numbers[0] if numbers else "",
            "typing": ("strong",) if self.strong else ("weak",),
            "precisions": tuple(p for p in board.precisions if p not in lacks),
            "channel_multiples": {p: n for p, n in board.channel_multiples.items() if p not in lacks},
            "compute_capabilities": (self.device.capability,),
            "memory_gib": self.device.memory / 2**30,
            # by the names that processors have: what is decided on one GPU is not another's
            "detected": {"cpu": self.device.name, "machine": f"CUDA {self.device.driver}"},
        }
        return board.model_copy(update=update)


@functools.cache
def look() -> Found | str:
    """Return what is here, or why nothing can be built and how to mend that; asked once, in a process of its own."""
    if not tensorrt_api.installed():
        return "TensorRT is not installed; install it with: pip install 'edgeprune[tensorrt]'"
    if gpu.installed() is None:
        return "neither cuda-bindings nor pycuda is installed; install one with: pip install 'edgeprune[tensorrt]'"
    try:
        told = ask("TensorRT", [*_CHILD, "look"], _LOOK_SECONDS, task="when it was asked for its GPU")
    except EdgepruneError as error:
        return str(error)
    if "lacking" in told:
        return str(told["lacking"])
    return Found(told["version"], tuple(told["flags"]), Device(**told["device"]))


@dataclass(frozen=True)
class Local(EngineBuilder):
    """Builds with the installed TensorRT, 8.5 to 11, on the GPU that it is for.

    ``allowed`` are the precisions that the float32 of a weakly typed graph may be lowered to. One child process a
    build, ended after ``timeout`` seconds.
    """

    name: ClassVar[str] = "local"

    allowed: tuple[Precision, ...] = ()
    timeout: float = 3600.0

    def unavailable(self, board: Board) -> str | None:
        """Say what is missing: TensorRT, a way to the GPU's memory, a driver, a GPU."""
        if not board.local:
            return f"{board.name} is not this machine"
        found = look()
        return found if isinstance(found, str) else None

    def build(self, graph: Path, board: Board, directory: Path) -> Engine:
        """Build ``directory/"model.engine"``; its choice of kernels hangs on its clock, so that no two need agree."""
        found = look()
        if not board.local or isinstance(found, str):
            raise Lacking(str(self.unavailable(board)))
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / "model.engine"
        options = [f"--workspace-mib={max(64, int(found.device.memory * _WORKSPACE_SHARE / 2**20))}"]
        options += ["--strong"] if found.strong else ["--allow", *self.allowed]
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "model.engine"
            told = ask("TensorRT", [*_CHILD, "build", str(graph.resolve()), str(made), *options], self.timeout)
            write_atomic(target, made.read_bytes())
        layers = parse_layers(told["layers"], "TensorRT's engine inspector")
        return Engine(
            path=target,
            builder=self.name,
            version=found.version,
            compute_capabilities=(found.device.capability,),
            command=("python", *_CHILD, "build", graph.name, target.name, *options),
            seconds=time.perf_counter() - start,
            layers=layers,
            precisions=count_convolutions(layers),
            memory=told["memory"],
        )

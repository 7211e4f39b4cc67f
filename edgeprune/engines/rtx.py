"""TensorRT-RTX, ahead of time: builds real engines on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeprune.engines.base import Engine, EngineBuilder, EngineLayer
from edgeprune.engines.child import ask
from edgeprune.errors import Lacking
from edgeprune.files import write_atomic
from edgeprune.profiles.board import Board

_CHILD = Path(__file__).with_name("rtx_child.py")
_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), (?P<rest>.*)$")
_FIRST_INPUT = re.compile(r"Inputs: \[ \{ .*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TOTAL = re.compile(r"^Total (?P<what>[\w ]+ Memory): (?P<bytes>\d+) bytes")
_PRECISIONS = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8"}


@dataclass(frozen=True)
class Rtx(EngineBuilder):
    """Builds for every compute capability of the board at once; kernels are compiled on the GPU that loads the engine,
    so that nothing is known of its speed here.

    One child process a build, ended after ``timeout`` seconds.
    """

    name: ClassVar[str] = "rtx"

    timeout: float = 300.0

    def unavailable(self, board: Board) -> str | None:
        """Say which package is missing."""
        if importlib.util.find_spec("tensorrt_rtx") is None:
            return "TensorRT-RTX is not installed; install it with: pip install 'edgeprune[rtx]'"
        return None

    def build(self, graph: Path, board: Board, directory: Path) -> Engine:
        """Build ``directory/"model.engine"``; the same graph and version give an engine that does the same, though not
        always the same bytes.
        """
        if reason := self.unavailable(board):
            raise Lacking(reason)
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / "model.engine"
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "model.engine"
            arguments = [str(_CHILD), str(graph.resolve()), str(made), *board.compute_capabilities]
            told = ask("TensorRT-RTX", arguments, self.timeout)
            write_atomic(target, made.read_bytes())
        layers = parse_layers(told["log"])
        command = ("python", "-m", "edgeprune.engines.rtx_child", graph.name, target.name, *board.compute_capabilities)
        return Engine(
            path=target,
            builder=self.name,
            version=told["version"],
            compute_capabilities=board.compute_capabilities,
            command=command,
            seconds=time.perf_counter() - start,
            layers=layers,
            precisions=count_convolutions(layers),
            memory=parse_memory(told["log"]),
        )


def parse_layers(log: Sequence[str]) -> tuple[EngineLayer, ...]:
    """Read the kernels out of the builder's messages: the one that starts with ``Layers:``, a line a kernel.

    Its form is not documented; a line that is not understood is passed over.
    """
    lines = [line for text in log if text.startswith("Layers:") for line in text.splitlines()]
    layers = []
    for line in lines:
        if match := _LAYER.match(line):
            first = _FIRST_INPUT.search(match["rest"])
            precision = _PRECISIONS.get(first[1], first[1].lower()) if first else ""
            layers.append(EngineLayer(match["name"], match["kind"], precision, tuple(_NODE.findall(match["rest"]))))
    return tuple(layers)


def parse_memory(log: Sequence[str]) -> dict[str, int]:
    """Read the totals of memory, in bytes, such as ``{"activation": 8192512}``, out of the builder's messages."""
    found = [match for text in log if (match := _TOTAL.match(text))]
    return {match["what"].removesuffix(" Memory").lower(): int(match["bytes"]) for match in found}


def count_convolutions(layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Count the convolutions by what they read: kernels of the type ``correlation``."""
    counts = Counter(layer.precision for layer in layers if layer.kind == "correlation")
    return dict(sorted(counts.items()))

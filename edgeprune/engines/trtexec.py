"""trtexec: the command lines that each version of it understands, and the files it writes.

Sources: samples/common/sampleOptions.cpp and sampleReporting.cpp of NVIDIA/TensorRT at 8.2.1, 8.5.3, v8.6.1, v10.3.0
and v11.1.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.engines.base import EngineLayer
from edgeprune.errors import BadModel

Version = tuple[int, ...]
ON_BOARD = "/usr/src/tensorrt/bin/trtexec"
"""Where JetPack puts it."""

_VERSION = re.compile(r"TensorRT(?: version: |\.trtexec \[TensorRT v)(\d+(?:\.\d+)*)")
_BUILT = re.compile(r"Engine built in ([\d.]+) sec")
_UNSTABLE = re.compile(r"GPU compute time is unstable, with coefficient of variance = ([\d.]+)%")
_ERROR = re.compile(r"\[E\] (.*)")
_NAME = re.compile(r'"name"\s*:\s*"(.*)",\s*"timeMs"')


@dataclass(frozen=True)
class Trtexec:
    """A trtexec at ``path`` of ``version``: what to ask of it. Every argument is one word of its command line."""

    path: str
    version: Version

    def build(
        self, graph: str, engine: str, precisions: Sequence[str], workspace_mib: int, layers: str, strong: bool = False
    ) -> list[str]:
        """Return the command that builds ``engine`` from ``graph``.

        ``precisions`` are those the weakly typed graph may be run in beside fp32; a ``strong`` graph, which from
        TensorRT 11 on every one is, says so itself. ``layers`` is the file for the layer report.
        """
        arguments = [self.path, f"--onnx={graph}", f"--saveEngine={engine}", f"--exportLayerInfo={layers}"]
        arguments.append("--profilingVerbosity=detailed")
        if self.version < (8, 5):
            arguments.append(f"--workspace={workspace_mib}")
        else:
            arguments.append(f"--memPoolSize=workspace:{workspace_mib}{'M' if self.version >= (10,) else ''}")
        if strong and (10,) <= self.version < (11,):
            arguments.append("--stronglyTyped")
        elif self.version < (11,):
            arguments += [f"--{one}" for one in ("fp16", "bf16", "int8") if one in precisions]
        arguments.append("--skipInference" if self.version >= (8, 6) else "--buildOnly")
        return arguments

    def time(self, engine: str, times: str, seconds: float, warmup_ms: int) -> list[str]:
        """Return the command that times ``engine`` for ``seconds`` and writes every run to ``times``.

        What to count is said openly, as the defaults changed with 11: the CPU spins while it waits, and the transfers
        of input and output are left out. CUDA graphs stay off, which 11 would otherwise use.
        """
        arguments = [self.path, f"--loadEngine={engine}", f"--exportTimes={times}", f"--duration={seconds:g}"]
        arguments += [f"--warmUp={warmup_ms}", "--avgRuns=1", "--percentile=99", "--useSpinWait"]
        arguments.append("--noCudaGraph" if self.version >= (11,) else "--noDataTransfers")
        return arguments

    def profile(self, engine: str, profile: str, seconds: float) -> list[str]:
        """Return the command that writes the mean time of each layer to ``profile``, in a run of its own."""
        arguments = [self.path, f"--loadEngine={engine}", f"--exportProfile={profile}", "--separateProfileRun"]
        return [*arguments, "--dumpProfile", f"--duration={seconds:g}"]

    def infer(self, engine: str, name: str, values: str, output: str) -> list[str]:
        """Return the command that runs ``engine`` once on the raw float32 values of a file, and writes its output."""
        return [self.path, f"--loadEngine={engine}", f"--loadInputs={name}:{values}", f"--exportOutput={output}",
                "--iterations=1", "--warmUp=0", "--duration=0"]  # fmt: skip


def version_of(text: str) -> Version:
    """Read the version out of what trtexec prints first, whatever it was asked: 8.5.3, 8503 or 100300.

    Raises BadModel where there is none.
    """
    match = _VERSION.search(text)
    if match is None:
        raise BadModel("trtexec did not say its version; is it TensorRT's?")
    numbers = tuple(map(int, match[1].split(".")))
    if len(numbers) > 1:
        return numbers
    packed = numbers[0]  # NV_TENSORRT_VERSION: 1000 a major below 10, 10000 from then on
    if packed >= 100_000:
        return packed // 10_000, packed // 100 % 100, packed % 100
    return packed // 1000, packed // 100 % 10, packed % 100


def passed(code: int, text: str) -> None:
    """Raise BadModel with trtexec's own reason unless it ended with exit code 0 and said PASSED at its end.

    Where it names none, as when it crashes, its last line is what there is.
    """
    if code == 0 and any(line.startswith("&&&& PASSED") for line in text.splitlines()[-5:]):
        return
    reasons = [match[1].strip() for line in text.splitlines() if (match := _ERROR.search(line))]
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
    raise BadModel(f"trtexec failed (exit code {code}): {'; '.join(reasons[:3]) or last}")


def seconds_of_build(text: str) -> float | None:
    """Return how long trtexec says that the build took, or None."""
    match = _BUILT.search(text)
    return float(match[1]) if match else None


def instability(text: str) -> float | None:
    """Return the coefficient of variance, as a fraction, that trtexec warns of; None if it does not."""
    match = _UNSTABLE.search(text)
    return float(match[1]) / 100 if match else None


def parse_times(text: str, warmup_ms: int) -> list[float]:
    """Return the milliseconds of GPU time of every run of ``--exportTimes``.

    8.2 lists the runs of the warm-up too, those that began before it was over. Raises BadModel for another form.
    """
    rows = _json(text, "trtexec's --exportTimes")
    try:
        early = any("endToEndMs" in row for row in rows)
        found = [float(r["computeMs"]) for r in rows if not early or float(r["startComputeMs"]) >= warmup_ms]
    except (TypeError, KeyError, ValueError) as error:
        raise BadModel(f"trtexec's --exportTimes is not in a known form: {error!r}") from error
    if not found:
        raise BadModel("trtexec timed no run after its warm-up")
    return found


def parse_pace(text: str, warmup_ms: int) -> float:
    """Return the mean milliseconds from the start of one run to the start of the next, after the warm-up."""
    starts = [float(row["startComputeMs"]) for row in _json(text, "trtexec's --exportTimes")]
    starts = [one for one in starts if one >= warmup_ms] or starts
    if len(starts) < 2:
        raise BadModel("trtexec timed too few runs to tell their pace")
    return (starts[-1] - starts[0]) / (len(starts) - 1)


def parse_profile(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers of ``--exportProfile`` with their mean milliseconds.

    Names are not escaped in that file, so one with a quotation mark is read as it stands.
    """
    try:
        rows = json.loads(text)
    except ValueError:
        rows = _json("\n".join(_escaped(line) for line in text.splitlines()), "trtexec's --exportProfile")
    try:
        return tuple(EngineLayer(row["name"], "", ms=float(row["averageMs"])) for row in rows if "name" in row)
    except (TypeError, KeyError, ValueError) as error:
        raise BadModel(f"trtexec's --exportProfile is not in a known form: {error!r}") from error


def parse_output(text: str) -> dict[str, NDArray[np.float32]]:
    """Return the outputs of ``--exportOutput`` by name, in their shapes."""
    try:
        return {
            row["name"]: np.array(row["values"], np.float32).reshape([int(n) for n in row["dimensions"].split("x")])
            for row in _json(text, "trtexec's --exportOutput")
        }
    except (TypeError, KeyError, ValueError) as error:
        raise BadModel(f"trtexec's --exportOutput is not in a known form: {error!r}") from error


def parse_layers(text: str, who: str = "trtexec's --exportLayerInfo") -> tuple[EngineLayer, ...]:
    """Return the layers of the engine inspector's report: names alone where the engine was built without details.

    From 11 on format and type of a tensor are two fields; before, the type is the first word of one. ``who`` gave it.
    """
    rows = _json(text, who)
    layers = rows.get("Layers") if isinstance(rows, dict) else None
    if not isinstance(layers, list):
        raise BadModel(f"{who} has no list of Layers")
    found = []
    for row in layers:
        if isinstance(row, str):
            found.append(EngineLayer(row, ""))
            continue
        inputs = row.get("Inputs") or [{}]
        first = inputs[0] if isinstance(inputs[0], dict) else {}
        said = str(first.get("Datatype") or first.get("Format/Datatype") or "")
        nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(row.get("Metadata", ""))))
        found.append(EngineLayer(str(row.get("Name", "")), str(row.get("LayerType", "")), _precision(said), nodes))
    return tuple(found)


def count_convolutions(layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Count the layers that are convolutions by what they read; empty where the report tells no types."""
    convolutions = [x for x in layers if re.search("conv|correlation", x.kind, re.IGNORECASE)]
    counts = Counter(x.precision for x in convolutions if x.precision)
    return dict(sorted(counts.items()))


def _precision(said: str) -> str:
    """Translate what the inspector says of a tensor, such as "Int8 NC/32HW32" or "Half"."""
    for word, precision in (("int8", "int8"), ("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "fp16"),
                            ("half", "fp16"), ("fp32", "fp32"), ("float", "fp32")):  # fmt: skip
        if word in said.lower():
            return precision
    return ""


def _escaped(line: str) -> str:
    match = _NAME.search(line)
    return line if match is None else line.replace(match[1], match[1].replace("\\", "\\\\").replace('"', '\\"'))


def _json(text: str, who: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadModel(f"{who} is not JSON ({error})") from error

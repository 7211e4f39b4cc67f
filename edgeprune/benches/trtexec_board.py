"""TensorRT on a board: its own trtexec builds, times and profiles; no Python is needed there."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.backends.base import Artifact, LayerTime
from edgeprune.benches.over_ssh import OverSsh
from edgeprune.dialects.base import version_of as version_wanted
from edgeprune.dialects.conform import spoken
from edgeprune.engines import trtexec
from edgeprune.engines.base import Engine, EngineLayer
from edgeprune.errors import BadModel, Lacking
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel
from edgeprune.profiles.measure import Plan, Rounds, from_rounds
from edgeprune.profiles.ssh import CommandFailed
from edgeprune.report import Measurement

_FIND = 'for one in "$@"; do command -v "$one" && exit 0; done; exit 127'
_BUILD_SECONDS = 3600
_WORKSPACE_SHARE = 0.25
"""Of the board's free memory, for the builder's tactics; more would take it from the graph and the system."""


@dataclass(frozen=True)
class _Built:
    """An engine on the board and here: its file's stem, what it was built with, and its layers."""

    stem: str
    command: tuple[str, ...]
    seconds: float
    layers: tuple[EngineLayer, ...]


class TrtexecBoard(OverSsh):
    """A Jetson, or any machine with a GPU and TensorRT: trtexec in JetPack's place or on the PATH."""

    plan = Plan(rounds=5, spread=0.1)
    seconds = 1.0
    warmup_ms = 300
    _found: tuple[str, trtexec.Version] | None = None

    def session(self, models: Mapping[str, OnnxModel], folder: str, plan: Plan) -> dict[str, Measurement]:
        """Build what is not built yet, then let trtexec time the engines in turns, a second each."""
        tool = self.tool()
        built = {name: self.built(model, folder) for name, model in models.items()}
        times: dict[str, list[list[float]]] = {name: [] for name in models}
        names = list(models)
        unstable: list[float] = []
        for turn in range(plan.rounds):
            for i in range(len(names)):
                name = names[(turn + i) % len(names)]
                command = tool.time(f"{built[name].stem}.engine", "times.json", self.seconds, self.warmup_ms)
                said = self._run(command, folder)
                unstable += [told for told in [trtexec.instability(said)] if told is not None]
                text = self.ssh.run(["cat", "--", f"{folder}/times.json"], 60).decode()
                times[name].append(trtexec.parse_times(text, self.warmup_ms))
        conditions = {
            "version": ".".join(map(str, tool.version)),
            "seconds_a_round": self.seconds,
            "warmup_ms": self.warmup_ms,
            "flags": "spin wait, no transfers, no CUDA graph",
            "variation_told": max(unstable, default=None),
        }
        return from_rounds([Rounds(times)], self.seed, conditions, plan)

    def work(self, model: OnnxModel, folder: str, seconds: float) -> tuple[Sequence[str], Callable[[], float]]:
        """Let trtexec run the engine back to back."""
        built = self.built(model, folder)
        command = self.tool().time(f"{built.stem}.engine", "times.json", seconds, self.warmup_ms)

        def pace() -> float:
            text = self.ssh.run(["cat", "--", f"{folder}/times.json"], 60).decode()
            return trtexec.parse_pace(text, self.warmup_ms) / 1e3

        return command, pace

    def deploy(self, model: OnnxModel, directory: Path) -> Artifact | None:
        """Build the engine there, time its layers, see that it computes what this machine does, and bring it here."""
        tool = self.tool()
        with self.leased() as folder:
            built = self.built(model, folder)
            layers = self._timed_layers(built, folder)
            difference = self._difference(model, built, folder)
        write_atomic(directory / "model.onnx", (self.cache / f"{built.stem}.onnx").read_bytes())
        write_atomic(directory / "model.engine", (self.cache / f"{built.stem}.engine").read_bytes())
        engine = Engine(
            path=directory / "model.engine",
            builder="trtexec",
            version=".".join(map(str, tool.version)),
            compute_capabilities=self.board.compute_capabilities,
            command=built.command,
            seconds=built.seconds,
            layers=layers,
            precisions=trtexec.count_convolutions(layers),
        )
        notes = [f"the engine's outputs differ from ONNX Runtime's by {difference:.1e} of their spread"]
        wanted = version_wanted(self.board)
        if tool.version[:2] != wanted[:2]:
            notes.append(f"{self.ssh.name} has TensorRT {engine.version}; {self.board.name} was written for "
                         f"{self.board.version}")
        return Artifact(engine.path, model.spec, self.backend.name, engine.precisions, engine, tuple(notes))

    def layer_times(self, model: OnnxModel, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return trtexec's own profile of the engine's layers."""
        with self.leased() as folder:
            layers = self._timed_layers(self.built(model, folder), folder)
        total = math.fsum(x.ms or 0.0 for x in layers) or 1.0
        return tuple(LayerTime(x.name, x.kind, x.ms or 0.0, (x.ms or 0.0) / total, x.nodes) for x in layers)

    def _timed_layers(self, built: _Built, folder: str) -> tuple[EngineLayer, ...]:
        self._run(self.tool().profile(f"{built.stem}.engine", "profile.json", self.seconds), folder)
        profile = self.ssh.run(["cat", "--", f"{folder}/profile.json"], 60).decode()
        return _with_times(built.layers, trtexec.parse_profile(profile))

    def tool(self) -> trtexec.Trtexec:
        """Return the board's trtexec. Raises Lacking where there is none, or one of another TensorRT than the target's.
        """
        if self._found is None:
            try:
                path = self.ssh.run(["sh", "-c", _FIND, "sh", trtexec.ON_BOARD, "trtexec"], 30).decode().strip()
            except CommandFailed as error:
                raise Lacking(
                    f"{self.ssh.name} has no trtexec, neither in {trtexec.ON_BOARD} nor on its PATH; install "
                    f"TensorRT's samples there (JetPack: apt install tensorrt)"
                ) from error
            version = trtexec.version_of(self.ssh.run([path, "--help"], 60).decode("utf-8", "replace"))
            if version[0] != version_wanted(self.board)[0]:
                raise Lacking(
                    f"{self.ssh.name} has TensorRT {'.'.join(map(str, version))}, and {self.board.name} is written "
                    f"for {self.board.version}; choose the target that this board is, or give a TOML file of your own"
                )
            self._found = path, version
        return trtexec.Trtexec(*self._found)

    def built(self, model: OnnxModel, folder: str) -> _Built:
        """Return the engine of a graph, in ``folder`` on the board and in ``cache`` here; built once."""
        content, asked = spoken(model.path, self.board)
        stem = self._key(content, asked)
        graph, kept = self.cache / f"{stem}.onnx", self.cache / f"{stem}.json"
        engine, layers = self.cache / f"{stem}.engine", self.cache / f"{stem}.layers.json"
        if kept.is_file():
            told = json.loads(kept.read_text(encoding="utf-8"))
            self.ssh.put(engine, f"{folder}/{engine.name}")
        else:
            write_atomic(graph, content)
            self.ssh.put(graph, f"{folder}/{graph.name}")
            command = self.tool().build(
                graph.name, engine.name, asked, self._workspace_mib(), layers.name, "strong" in self.board.typing
            )
            self.lease.take(self.owner)  # for as long again: an engine may take most of an hour
            self.progress.note(f"building on {self.ssh.name}: {shlex.join(command)}")
            start = time.perf_counter()
            said = self._run(command, folder, _BUILD_SECONDS)
            for one in (engine, layers):
                self.ssh.get(f"{folder}/{one.name}", one)
            seconds = trtexec.seconds_of_build(said) or time.perf_counter() - start
            told = {"command": command, "seconds": seconds}
            write_atomic(kept, json.dumps(told))
        return _Built(stem, tuple(told["command"]), told["seconds"],
                      trtexec.parse_layers(layers.read_text(encoding="utf-8")))  # fmt: skip

    def _key(self, content: bytes, asked: Sequence[str]) -> str:
        """An engine runs on the kind of board, and with the TensorRT, that it was built on."""
        facts = self.facts()
        tied = {name: facts.get(name) for name in ("model", "l4t", "machine")}
        told = [tied, self.board.compute_capabilities, self.tool().version, list(asked), self.board.typing]
        return hashlib.sha256(json.dumps(told).encode() + b"\0" + content).hexdigest()[:24]

    def _workspace_mib(self) -> int:
        free = self.facts().get("memory_free_bytes") or (self.board.memory_gib or 4) * 2**30
        return max(64, int(free * _WORKSPACE_SHARE / 2**20))

    def _run(self, command: Sequence[str], folder: str, timeout: float = 600) -> str:
        """Run trtexec in our folder and return what it says. Raises BadModel with its own reason when it fails."""
        try:
            said = self._in(folder)(command, timeout).decode("utf-8", "replace")
        except CommandFailed as error:
            trtexec.passed(error.code, f"{error.output}\n{error.errors}")
            raise
        trtexec.passed(0, said)
        return said

    def _difference(self, model: OnnxModel, built: _Built, folder: str) -> float:
        """Run one batch through the engine and through ONNX Runtime here; return how far they are apart."""
        image = np.random.default_rng(self.seed).standard_normal(model.spec.input_shape, np.float32)
        with self.open(model) as runner:
            outputs = {name: value.copy() for name, value in runner({"input": image}).items()}
        with tempfile.TemporaryDirectory() as here:
            (Path(here) / "input.bin").write_bytes(image.tobytes())
            self.ssh.put(Path(here) / "input.bin", f"{folder}/input.bin")
        self._run(self.tool().infer(f"{built.stem}.engine", "input", "input.bin", "output.json"), folder)
        told = trtexec.parse_output(self.ssh.run(["cat", "--", f"{folder}/output.json"], 120).decode())
        worst = 0.0
        for name, expected in outputs.items():
            if name not in told or told[name].size != expected.size:
                raise BadModel(f"the engine gives no output {name!r} of {expected.size} values")
            apart = np.abs(told[name].reshape(-1) - expected.reshape(-1)).max()
            worst = max(worst, float(apart / (expected.std() or 1.0)))
        return worst


def _with_times(layers: Sequence[EngineLayer], timed: Sequence[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Join the layer report and the profile by name; the profile alone knows layers that the report leaves out."""
    known = {layer.name: layer for layer in layers}
    found = [known.get(one.name, one) for one in timed]
    return tuple(EngineLayer(x.name, x.kind, x.precision, x.nodes, t.ms) for x, t in zip(found, timed, strict=True))

"""ONNX Runtime on a board: one self-contained file runs there under the board's own Python and onnxruntime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import trim_mean

from edgeprune.backends.base import Artifact, LayerTime
from edgeprune.benches.over_ssh import OverSsh
from edgeprune.errors import Lacking
from edgeprune.model import OnnxModel
from edgeprune.profiles import onboard
from edgeprune.profiles.measure import Plan, Rounds, from_rounds, quiet
from edgeprune.profiles.ssh import CommandFailed
from edgeprune.report import Measurement


class OnnxRuntimeBoard(OverSsh):
    """A Raspberry Pi or the like: ``python3`` with ``onnxruntime`` is all it needs."""

    def session(self, models: Mapping[str, OnnxModel], folder: str, plan: Plan) -> dict[str, Measurement]:
        """Time graphs in turns; a noisy session is repeated."""
        files = self._bring(models, folder)
        asked = {"models": files, "threads": self.threads, "rounds": plan.rounds,
                 "seconds": plan.round_seconds, "warmup": plan.warmup}  # fmt: skip
        sessions: list[Rounds] = []
        while not sessions or (len(sessions) < plan.attempts and not quiet(sessions[-1], plan)):
            told = self._ask("time", asked, folder)
            sessions.append(Rounds(told["times"], told["stolen"]))
        versions = {key: told[key] for key in ("onnxruntime", "python")}
        return from_rounds(sessions, self.seed, {"threads": self.threads, **versions}, plan)

    def work(self, model: OnnxModel, folder: str, seconds: float) -> tuple[Sequence[str], Callable[[], float]]:
        """Loop over the graph in one process."""
        asked = {"model": self._bring({"model": model}, folder)["model"], "threads": self.threads, "seconds": seconds,
                 "result": "loop.json"}  # fmt: skip

        def pace() -> float:
            told = json.loads(self.ssh.run(["cat", "--", f"{folder}/loop.json"], 60))
            return float(told["seconds"]) / max(int(told["runs"]), 1)

        return [self.board.python, "onboard.py", "loop", json.dumps(asked)], pace

    def layer_times(self, model: OnnxModel, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return the interquartile mean of each node there, by the profiler of the board's ONNX Runtime."""
        with self.leased() as folder:
            files = self._bring({"model": model}, folder)
            told = self._ask("layers", {"model": files["model"], "threads": self.threads, "runs": runs,
                                        "prefix": "profile"}, folder)  # fmt: skip
        means = [float(trim_mean(times, 0.25)) for _, _, times in told["layers"]]
        total = sum(means) or 1.0
        return tuple(
            LayerTime(name, op, ms, ms / total) for (name, op, _), ms in zip(told["layers"], means, strict=True)
        )

    def deploy(self, model: OnnxModel, directory: Path) -> Artifact | None:
        """Run one batch there and here, and note by how much the outputs differ; the graph is all it wants."""
        images = np.random.default_rng(self.seed).standard_normal(model.spec.input_shape, np.float32)
        with self.open(model) as runner:
            expected = next(iter(runner({"input": images}).values())).copy()
        with self.leased() as folder, tempfile.TemporaryDirectory() as here:
            files = self._bring({"model": model}, folder)
            np.save(Path(here) / "in.npy", images)
            self.ssh.put(Path(here) / "in.npy", f"{folder}/in.npy")
            asked = {"model": files["model"], "threads": self.threads, "images": "in.npy", "outputs": "out.npy"}
            self._ask("predict", asked, folder)
            self.ssh.get(f"{folder}/out.npy", Path(here) / "out.npy")
            found = np.load(Path(here) / "out.npy", allow_pickle=False)
        if found.shape != expected.shape:
            raise Lacking(f"{self.ssh.name} gives outputs of shape {found.shape}, not {expected.shape}")
        difference = float(np.abs(found - expected).max() / (expected.std() or 1.0))
        note = f"the outputs on {self.ssh.name} differ from this machine's by {difference:.1e} of their spread"
        emitted = self.emit(model)
        return Artifact(emitted.path, model.spec, emitted.runtime, emitted.precisions, notes=(note,))

    def _bring(self, models: Mapping[str, OnnxModel], folder: str) -> dict[str, str]:
        """Bring what runs there and the graphs; return the graphs' names there."""
        self.ssh.put(Path(onboard.__file__), f"{folder}/onboard.py")
        names = {name: f"{model.digest()}.onnx" for name, model in models.items()}
        for name, model in models.items():
            self.ssh.put(model.path, f"{folder}/{names[name]}")
        return names

    def _ask(self, command: str, asked: Mapping[str, Any], folder: str) -> Any:
        """Run the file on the board, in our folder, and return what it prints last."""
        try:
            printed = self._in(folder)([self.board.python, "onboard.py", command, json.dumps(asked)], 600)
        except CommandFailed as error:
            if "No module named" in error.errors:
                package = error.errors.rpartition("No module named")[2].strip(" '\"\n")
                raise Lacking(
                    f"{self.ssh.name}: its {self.board.python} has no {package}; install it there with: "
                    f"{self.board.python} -m pip install {package}"
                ) from error
            if error.code == 127:
                raise Lacking(f"{self.ssh.name}: there is no {self.board.python}; install it there") from error
            raise
        return json.loads(printed.decode().rstrip().rpartition("\n")[2])

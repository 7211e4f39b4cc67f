"""The contract of a bench: run finished graphs, time them, and make what the target wants beside the graph."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeprune import find
from edgeprune.backends.base import Artifact, Backend, LayerTime
from edgeprune.budget import EnergyMethod
from edgeprune.dialects.kernels import kernels_of
from edgeprune.model import OnnxModel, Runner
from edgeprune.passes.base import Progress, Silent
from edgeprune.profiles.board import Board
from edgeprune.profiles.energy import Energy, Job, Meter, Protocol, StandsStill, measure
from edgeprune.profiles.energy_model import FORMULAS, run_mj
from edgeprune.profiles.log_meter import PowerLog
from edgeprune.profiles.measure import Plan
from edgeprune.report import Measurement

Source = Literal["measured", "estimated"]


@dataclass(frozen=True)
class Stand:
    """Where graphs run beside a meter: ``loop`` loads one, warms it up and gives the job of one window, ``rest`` that
    of as much idle time.
    """

    meter: Meter
    loop: Callable[[OnnxModel, Protocol], AbstractContextManager[Job]]
    rest: Callable[[Protocol], Job]


class Bench(ABC):
    """A place to run graphs for ``board``, with ``threads`` threads; ``seed`` draws the intervals of its figures.

    ``backend`` is the target's runtime, ``runner`` the one that computes here: another where the target is elsewhere.
    What is emitted lies in a folder that goes with the bench: close it.
    """

    source: Source = "measured"
    """What its times are."""
    energy_method: EnergyMethod = "sensor"
    power_log: PowerLog | None = None
    """The file of an external meter, which takes the place of every sensor."""
    protocol = Protocol()
    progress: Progress = Silent()

    def __init__(self, board: Board, threads: int = 1, seed: int = 0) -> None:
        self.board, self.threads, self.seed = board, threads, seed
        self.backend: Backend = find.find("backends", board.backend)()
        self.runner = self.backend
        self._scratch = tempfile.TemporaryDirectory(prefix="edgeprune-")
        self._artifacts: dict[str, Artifact] = {}

    def close(self) -> None:
        """Take what was emitted away."""
        self._scratch.cleanup()

    @property
    def identity(self) -> str:
        """Which of several machines of the board's kind this is; decisions by one's clock are not another's."""
        return ""

    def processor(self) -> Mapping[str, Any]:
        """Return what is known of the processor that computes the scores."""
        return self.board.detected

    def emit(self, model: OnnxModel) -> Artifact:
        """Emit a graph for the runner, once."""
        name = model.digest() + self.runtime(model).name
        if name not in self._artifacts:
            self._artifacts[name] = self.runtime(model).emit(model, self.board, Path(self._scratch.name) / name)
        return self._artifacts[name]

    def runtime(self, model: OnnxModel) -> Backend:
        """Return what runs a graph here: the runner, unless the graph names another."""
        backend: Backend = find.find("backends", model.runtime)() if model.runtime else self.runner
        return backend

    @contextmanager
    def open(self, model: OnnxModel) -> Iterator[Runner]:
        """Load a graph on the runner."""
        with self.runtime(model).open(self.emit(model), self.threads) as runner:
            yield runner

    def precisions(self, model: OnnxModel) -> Mapping[str, int]:
        """Count the convolutions by the precision they run in."""
        return self.emit(model).precisions

    @abstractmethod
    def measure(self, models: Mapping[str, OnnxModel], plan: Plan | None = None) -> dict[str, Measurement]:
        """Time graphs batch by batch, in turns; ratios are against the first. Unavailable where nothing is known.

        ``plan`` says how long, where that is not the bench's own choice.
        """

    def layer_times(self, model: OnnxModel, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return what each layer takes, in order; empty where that cannot be told."""
        return ()

    def peak_memory_bytes(self, model: OnnxModel) -> int | None:
        """Return the peak resident memory of loading and running a graph in a fresh process; None if unknown."""
        return None

    def energy(self, model: OnnxModel) -> Energy | None:
        """Return what one run takes by ``energy_method``; None where it wants a sensor and none answers."""
        for formula in FORMULAS:
            if self.energy_method == formula:
                return Energy(run_mj(kernels_of(model.path), formula), source="estimated", method=formula)
        return self.metered(model)

    def metered(self, model: OnnxModel) -> Energy | None:
        """Return what one run takes by the external meter or a sensor that answers; None where there is none."""
        with self.stand() as stand:
            if stand is None:
                return None
            self.progress.note(f"measuring energy by {stand.meter.name}")
            with stand.loop(model, self.protocol) as busy:
                try:
                    return measure(busy, stand.rest(self.protocol), stand.meter, self.protocol)
                except StandsStill as error:
                    self.progress.note(str(error))
                    return None

    @contextmanager
    def stand(self) -> Iterator[Stand | None]:
        """Give what energy is measured with; None where nothing runs, or no sensor answers."""
        yield None

    def complete(self, measured: Measurement, model: OnnxModel) -> Measurement:
        """Return a measurement with what is taken of one graph by itself: peak memory and energy."""
        update: dict[str, Any] = {"peak_memory_bytes": self.peak_memory_bytes(model)}
        found = self.energy(model)
        if found is not None:
            more = {"method": found.method, "sensor": found.sensor, "net_mj": found.net_mj, "idle_mw": found.idle_mw,
                    "spread": found.spread, "windows": found.windows, "rails_mj": dict(found.rails)}  # fmt: skip
            update |= {"energy_mj": found.total_mj, "power_mw": found.power_mw, "energy_source": found.source}
            update["conditions"] = {**measured.conditions, "energy": more}
        return measured.model_copy(update=update)

    def deploy(self, model: OnnxModel, directory: Path) -> Artifact | None:
        """Write what the target wants into ``directory``: the graph as it reads it, an engine, the way to build it.

        None where the graph is all it wants.
        """
        return None

    def conditions(self) -> dict[str, Any]:
        """Return what belongs to every figure of this bench."""
        return {"runtime": self.backend.name, "board": self.board.name}

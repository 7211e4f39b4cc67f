"""This machine: the target's own runtime, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.backends.base import Artifact, Backend, LayerTime
from edgeprune.benches.base import Bench, Stand
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel
from edgeprune.profiles import sensors
from edgeprune.profiles.energy import Job, Protocol, loop
from edgeprune.profiles.log_meter import LogMeter
from edgeprune.profiles.measure import Plan, interleave
from edgeprune.profiles.sensor_meter import SensorMeter
from edgeprune.report import Measurement


def _named(measured: Measurement, runtime: Backend) -> Measurement:
    """Return a measurement that names what really ran."""
    own = {"runtime": runtime.name, "version": runtime.version()}
    return measured.model_copy(update={"conditions": {**measured.conditions, **own}})


def _rest(protocol: Protocol) -> Job:
    def job() -> float:
        time.sleep(protocol.seconds)
        return 0.0

    return job


class Here(Bench):
    """Runs and times on this machine."""

    def measure(self, models: Mapping[str, OnnxModel], plan: Plan | None = None) -> dict[str, Measurement]:
        """Time graphs interleaved (see ``profiles.measure``)."""
        with ExitStack() as stack:
            calls: dict[str, Callable[[], object]] = {}
            for name, model in models.items():
                runner = stack.enter_context(self.open(model))
                image = np.random.default_rng(0).standard_normal(model.spec.input_shape, np.float32)
                calls[name] = lambda runner=runner, image=image: runner({"input": image})  # type: ignore[misc]
            found = interleave(calls, self.threads, self.seed, self.conditions(), plan)
        return {name: _named(one, self.runtime(models[name])) for name, one in found.items()}

    def layer_times(self, model: OnnxModel, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return the runtime's own profile."""
        return self.runtime(model).layer_times(self.emit(model), self.threads, runs)

    def peak_memory_bytes(self, model: OnnxModel) -> int | None:
        """Return what loading and running adds to a fresh process."""
        return self.runtime(model).peak_memory_bytes(self.emit(model), self.threads)

    @contextmanager
    def stand(self) -> Iterator[Stand | None]:
        """Give the external meter, or the sensor that the board's file names, where it answers here."""
        if self.power_log is not None:
            yield Stand(LogMeter(self.power_log), self._loop, _rest)
            return
        sensor = sensors.find(self.board.power)
        if sensor is None:
            yield None
            return
        with closing(sensor):
            yield Stand(SensorMeter(sensor, self.energy_method), self._loop, _rest)

    @contextmanager
    def _loop(self, model: OnnxModel, protocol: Protocol) -> Iterator[Job]:
        image = np.random.default_rng(0).standard_normal(model.spec.input_shape, np.float32)
        with self.open(model) as runner:
            yield loop(lambda: runner({"input": image}), protocol)

    def deploy(self, model: OnnxModel, directory: Path) -> Artifact | None:
        """Write the engine that was timed and the graph it was built of; another build of it may choose other kernels.
        """
        artifact = self.emit(model)
        if artifact.engine is None:
            return None
        for name in ("model.onnx", artifact.path.name):
            write_atomic(directory / name, (artifact.path.parent / name).read_bytes())
        path = directory / artifact.path.name
        return replace(artifact, path=path, engine=replace(artifact.engine, path=path))

    def conditions(self) -> dict[str, Any]:
        """Name runtime, version and processor."""
        return {
            "runtime": self.backend.name,
            "version": self.backend.version(),
            "processor": self.board.detected.get("cpu"),
        }

"""A board reached by SSH: what every runtime there has in common is the way there, the lease and the conditions."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.backends.base import Artifact, LayerTime
from edgeprune.benches.base import Source, Stand
from edgeprune.benches.estimate import Estimate
from edgeprune.errors import BadOption, Lacking
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress, Silent
from edgeprune.profiles.board import Board
from edgeprune.profiles.conditions import around, gather
from edgeprune.profiles.energy import Job, Protocol
from edgeprune.profiles.log_meter import LogMeter, PowerLog
from edgeprune.profiles.measure import Plan
from edgeprune.profiles.remote_power import BoardMeter, Run, discover
from edgeprune.profiles.ssh import Lease, Ssh, lease_name
from edgeprune.report import Measurement

_SLACK = 3
"""Free memory and disk wanted, as a multiple of the files' size: what is read is held once more in RAM."""
_LEAST = 64 * 2**20
_SURE = 0.8
"""Share of a window, at its end, in which the graph is sure to be running: before, it was loaded."""
_AWAY = 0.1
"""Share of that, at its end, in which by this machine's clock the graph may have ended and word of it be on its way."""
IN_FOLDER = 'cd "$1" && shift && exec "$@"'
"""Shell text that runs its further arguments in the folder that is the first."""


class _LogMeter(LogMeter):
    """An external meter beside commands on a board, by this machine's clock."""

    def __init__(self, log: PowerLog, run: Run) -> None:
        super().__init__(log)
        self._run = run

    def execute(self, command: Sequence[str], timeout: float, seconds: float) -> float:
        """Run a command there, of whose end ``seconds`` count, but for the last of them; return how many do."""
        self._run(command, timeout)
        now = self._log.clock()
        return self.mark(now - seconds, now - _AWAY * seconds)


class OverSsh(Estimate):
    """Times come from the board at ``ssh``; scores stay ONNX Runtime's on this machine.

    The board is leased for every session anew, so that a long search does not keep others away. What is brought there
    lies in one folder, which goes with the lease. ``owner`` names this build among the board's users: started again
    after a kill, it takes its own lease over. ``cache`` keeps what is dear to make there. ``root`` stands before the
    system files that are read there.
    """

    source: Source = "measured"
    plan = Plan()

    def __init__(
        self,
        board: Board,
        ssh: Ssh,
        threads: int = 1,
        seed: int = 0,
        owner: str = "",
        lease: Lease | None = None,
        progress: Progress | None = None,
        cache: Path | None = None,
        root: str = "",
    ) -> None:
        super().__init__(board, threads, seed)
        self.cache = cache or Path(self._scratch.name) / "cache"
        self._socket = tempfile.TemporaryDirectory(prefix="ep-")
        self.ssh = ssh.shared(Path(self._socket.name))
        self.lease = replace(lease or Lease(ssh), board=self.ssh)
        self.root = root
        self.owner = owner or lease_name(Path.cwd())
        self.progress = progress or Silent()

    def close(self) -> None:
        """Hang up, and take what was emitted away."""
        self.ssh.hang_up()
        self._socket.cleanup()
        super().close()

    @property
    def identity(self) -> str:
        """The board's address."""
        return self.ssh.name

    @contextmanager
    def leased(self) -> Iterator[str]:
        """Hold the board and give the folder for our files there; on leaving, that folder is removed."""
        folder = self.lease.take(self.owner)
        try:
            yield folder
        finally:
            try:
                self.lease.give_back(self.owner)
            except Lacking as error:
                self.progress.note(f"the lease could not be given back ({error}); it ends by itself")

    def measure(self, models: Mapping[str, OnnxModel], plan: Plan | None = None) -> dict[str, Measurement]:
        """Time graphs on the board, in turns, with its conditions before and after."""
        self.progress.note(f"timing on {self.ssh.name}: {', '.join(models)}")
        with self.leased() as folder:
            before = self.facts()
            self._require_room(before, sum(model.path.stat().st_size for model in models.values()))
            found = self.session(models, folder, plan or self.plan)
            seen = {**self.conditions(), **around(before, self.facts())}
        return {
            name: one.model_copy(update={"conditions": {**one.conditions, **seen}}) for name, one in found.items()
        }

    @abstractmethod
    def session(self, models: Mapping[str, OnnxModel], folder: str, plan: Plan) -> dict[str, Measurement]:
        """Time graphs with the runtime of the board; ``folder`` there is ours."""

    @contextmanager
    def stand(self) -> Iterator[Stand | None]:
        """Hold the board and give the external meter, or the board's own sensor; None where none answers.

        Of a window its end counts, when the graph is sure to compute; the pace of the runs makes energies of power.
        """
        if self.energy_method == "two-point":
            raise BadOption("--energy two-point is for a sensor of this machine; leave it out for a board")
        with self.leased() as folder:
            run = self._in(folder)
            sensor = discover(run, self.board.power, self.root) if self.power_log is None else None
            if self.power_log is not None:
                meter: _LogMeter | BoardMeter = _LogMeter(self.power_log, run)
            elif sensor is not None:
                meter = BoardMeter(run, sensor)
            else:
                yield None
                return

            @contextmanager
            def loop(model: OnnxModel, protocol: Protocol) -> Iterator[Job]:
                seconds = protocol.seconds
                command, pace = self.work(model, folder, seconds)
                yield lambda: meter.execute(command, 60 + 3 * seconds, _SURE * seconds) / pace()

            def rest(protocol: Protocol) -> Job:
                def job() -> float:
                    meter.execute(["sleep", f"{protocol.seconds:g}"], 60 + protocol.seconds, protocol.seconds)
                    return 0.0

                return job

            yield Stand(meter, loop, rest)

    @abstractmethod
    def work(
        self, model: OnnxModel, folder: str, seconds: float
    ) -> tuple[Sequence[str], Callable[[], float]]:
        """Return the command that runs a graph over and over for ``seconds`` in our folder, and what tells afterwards
        how many seconds there are from one run to the next.
        """

    def _in(self, folder: str) -> Run:
        return lambda words, timeout: self.ssh.run(["sh", "-c", IN_FOLDER, "sh", folder, *words], timeout)

    def layer_times(self, model: OnnxModel, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return nothing unless the board's runtime tells it: an estimate must not stand among measured figures."""
        return ()

    @abstractmethod
    def deploy(self, model: OnnxModel, directory: Path) -> Artifact | None:
        """Make on the board what it wants, and see that it computes there what it computes here."""

    def facts(self) -> dict[str, Any]:
        """Return what the board says of itself now."""
        return gather(lambda words: self.ssh.run(words, 30), self.root)

    def conditions(self) -> dict[str, Any]:
        """Name the runtime and the board that was promised; what it says it is comes beside it."""
        return {"runtime": self.backend.name, "target": self.board.name, "board": self.ssh.name}

    def _require_room(self, facts: Mapping[str, Any], size: int) -> None:
        wanted = _SLACK * size + _LEAST
        for what, name in (("disk", "disk_free_bytes"), ("memory", "memory_free_bytes")):
            free = facts.get(name)
            if free is not None and free < wanted:
                raise Lacking(
                    f"{self.ssh.name} has {free / 2**20:.0f} MiB of {what} free, and {wanted / 2**20:.0f} MiB are "
                    f"wanted; make room there"
                )


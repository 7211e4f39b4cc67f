"""A board reached by SSH: what every runtime there has in common is the way there, the lease and the conditions."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.backends.base import Artifact, LayerTime
from edgeprune.benches.base import Source
from edgeprune.benches.estimate import Estimate
from edgeprune.errors import Lacking
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress, Silent
from edgeprune.profiles.board import Board
from edgeprune.profiles.conditions import around, gather
from edgeprune.profiles.ssh import Lease, Ssh, lease_name
from edgeprune.report import Measurement

_SLACK = 3
"""Free memory and disk wanted, as a multiple of the files' size: what is read is held once more in RAM."""
_LEAST = 64 * 2**20


class OverSsh(Estimate):
    """Times come from the board at ``ssh``; scores stay ONNX Runtime's on this machine.

    The board is leased for every session anew, so that a long search does not keep others away. What is brought there
    lies in one folder, which goes with the lease. ``owner`` names this build among the board's users: started again
    after a kill, it takes its own lease over. ``cache`` keeps what is dear to make there. ``root`` stands before the
    system files that are read there.
    """

    source: Source = "measured"

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
        return self.ssh.target

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

    def measure(self, models: Mapping[str, OnnxModel]) -> dict[str, Measurement]:
        """Time graphs on the board, in turns, with its conditions before and after."""
        self.progress.note(f"timing on {self.ssh.target}: {', '.join(models)}")
        with self.leased() as folder:
            before = self.facts()
            self._require_room(before, sum(model.path.stat().st_size for model in models.values()))
            found = self.session(models, folder)
            seen = {**self.conditions(), **around(before, self.facts())}
        return {
            name: one.model_copy(update={"conditions": {**one.conditions, **seen}}) for name, one in found.items()
        }

    @abstractmethod
    def session(self, models: Mapping[str, OnnxModel], folder: str) -> dict[str, Measurement]:
        """Time graphs with the runtime of the board; ``folder`` there is ours."""

    def layer_times(self, model: OnnxModel) -> tuple[LayerTime, ...]:
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
        return {"runtime": self.backend.name, "target": self.board.name, "board": self.ssh.target}

    def _require_room(self, facts: Mapping[str, Any], size: int) -> None:
        wanted = _SLACK * size + _LEAST
        for what, name in (("disk", "disk_free_bytes"), ("memory", "memory_free_bytes")):
            free = facts.get(name)
            if free is not None and free < wanted:
                raise Lacking(
                    f"{self.ssh.target} has {free / 2**20:.0f} MiB of {what} free, and {wanted / 2**20:.0f} MiB are "
                    f"wanted; make room there"
                )


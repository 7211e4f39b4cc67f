"""Which bench a target gets: this machine, a board by SSH, or estimates."""

from __future__ import annotations

from pathlib import Path

from edgeprune import find
from edgeprune.backends.base import Backend
from edgeprune.benches.base import Bench
from edgeprune.errors import BadOption
from edgeprune.passes.base import Progress
from edgeprune.profiles.board import Board
from edgeprune.profiles.ssh import Ssh


def bench_for(
    board: Board,
    threads: int = 1,
    seed: int = 0,
    url: str | None = None,
    owner: str = "",
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Bench:
    """Return the bench of ``board``: over SSH where ``url`` (ssh://user@host:port) says that one is there, this machine
    where the target is this machine, estimates else.

    Raises BadOption for a URL that is not understood, or a target that cannot be reached in this way.
    """
    backend: Backend = find.find("backends", board.backend)()
    if url is None:
        from edgeprune.benches.estimate import Estimate
        from edgeprune.benches.here import Here

        if backend.elsewhere(board) is not None:
            return Estimate(board, threads, seed)
        return Here(backend.fit(board), threads, seed)
    ssh = Ssh.parse(url)
    if board.backend == "onnxruntime" and not board.local:
        from edgeprune.benches.onnxruntime_board import OnnxRuntimeBoard as Kind
    elif board.backend == "tensorrt":
        from edgeprune.benches.trtexec_board import TrtexecBoard as Kind  # type: ignore[assignment]
    else:
        raise BadOption(f"--board is for a target that is another machine; {board.name} is not measured by SSH")
    return Kind(board, ssh, threads, seed, owner, progress=progress, cache=cache)

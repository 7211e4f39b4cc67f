"""profile: what an artifact costs on the target, as a whole and layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeprune import find
from edgeprune.backends.base import Artifact, Backend, LayerTime
from edgeprune.compiler.cache import versions
from edgeprune.errors import BadInput
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress
from edgeprune.profiles import board as boards
from edgeprune.profiles.measure import interleave
from edgeprune.report import Candidate

__all__ = ["LayerTime", "profile_artifact"]


def profile_artifact(
    path: Path, target: str, threads: int, progress: Progress
) -> tuple[Candidate, tuple[LayerTime, ...]]:
    """Time an ONNX file, or the one in a build's folder, on ``target``.

    Returns the whole (percentiles, peak memory, convolutions by precision) and the layers in execution order.
    Raises BadInput for a file that cannot be run.
    """
    path = path / "model.onnx" if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give an ONNX file, or a folder that `edgeprune compile` wrote")
    board = boards.load(target)
    model = OnnxModel.read(path)
    model.verify()
    backend: Backend = find.find("backends", board.backend)()
    artifact: Artifact = (
        backend.emit(model, board, path.parent) if path.name == "model.onnx" else _aside(backend, model, board)
    )
    progress.note(f"timing {path} with {threads} thread{'s' * (threads > 1)}")
    conditions = {
        "runtime": backend.name,
        "version": versions().get(backend.name),
        "processor": board.detected.get("cpu"),
    }
    with backend.open(artifact, threads) as runner:
        image = np.random.default_rng(0).standard_normal(model.spec.input_shape, np.float32)
        measured = interleave({"artifact": lambda: runner({"input": image})}, threads, conditions=conditions)[
            "artifact"
        ]
    memory = backend.peak_memory_bytes(artifact, threads)
    whole = Candidate(
        name=str(path),
        size_bytes=artifact.size_bytes(),
        precisions=dict(artifact.precisions),
        measurement=measured.model_copy(update={"peak_memory_bytes": memory, "ratio": None, "ratio_interval": None}),
    )
    return whole, backend.layer_times(artifact, threads)


def _aside(backend: Backend, model: OnnxModel, board: boards.Board) -> Artifact:
    """Emit without writing beside a user's file, which may not be ours to touch."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        emitted = backend.emit(model, board, Path(folder))
    return Artifact(model.path, model.spec, emitted.runtime, emitted.precisions)

"""profile: what an artifact costs on the target, as a whole and layer by layer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgeprune.backends.base import LayerTime
from edgeprune.benches import tabulate
from edgeprune.benches.choose import bench_for
from edgeprune.benches.layer_energy import LayerEnergies
from edgeprune.budget import EnergyMethod
from edgeprune.compiler import tabling
from edgeprune.compiler.cache import root
from edgeprune.compiler.metering import energies_of, require_meter, with_meter
from edgeprune.compiler.request import check_power_log
from edgeprune.errors import BadInput
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress
from edgeprune.profiles import board as boards
from edgeprune.profiles.latency_table import Check
from edgeprune.profiles.ssh import lease_name
from edgeprune.report import Candidate

__all__ = ["LayerTime", "Profile", "profile_artifact"]


@dataclass(frozen=True)
class Profile:
    """What an artifact costs: the whole, each layer's time in execution order, and what was asked for besides.

    ``table`` is what a latency table predicts beside what was measured, ``energies`` the energy of each kernel.
    """

    whole: Candidate
    layers: tuple[LayerTime, ...]
    table: Check | None = None
    energies: LayerEnergies | None = None


def profile_artifact(
    path: Path, target: str, threads: int, progress: Progress, board: str | None = None, table: Path | None = None,
    energy: EnergyMethod = "sensor", power_log: Path | None = None, layer_energy: bool = False,
    runtime: str | None = None,
) -> Profile:
    """Time an ONNX file, or the one in a build's folder, on ``target``, which is at ``board`` if that is elsewhere.

    Tells the whole (percentiles, peak memory, energy, convolutions by precision) and the layers in execution order;
    estimates where the target is elsewhere and ``board`` is None. With ``table``, its kernels are measured into that
    file, and what it predicts is held against the clock, recorded there, and told too. ``power_log`` is the file of an
    external meter. ``layer_energy`` asks for the energy of each kernel. ``runtime`` names one of the target's others,
    which then takes the place of its first. Raises BadInput for a file that cannot be run, and UnmetRequirement for
    energy of layers where nothing tells it.
    """
    check_power_log(energy, power_log)
    path = path / "model.onnx" if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give an ONNX file, or a folder that `edgeprune compile` wrote")
    model = OnnxModel.read(path)
    model.verify()
    asked = boards.load(target)
    asked = asked.run_by(runtime) if runtime else asked
    bench = bench_for(asked, threads, 0, board, lease_name(path) if board else "", progress, root() / "boards")
    with closing(bench):
        with_meter(bench, energy, power_log, progress)
        if layer_energy:
            require_meter(bench)
        known = None if table is None else tabling.open_table(table, bench)
        precisions = bench.precisions(model)
        if bench.source == "measured":
            progress.note(f"timing {path} with {threads} thread{'s' * (threads > 1)}")
        measured = bench.measure({"artifact": model})["artifact"]
        alone = {"ratio": None, "ratio_interval": None}
        whole = Candidate(
            name=str(path),
            size_bytes=path.stat().st_size,
            precisions=dict(precisions),
            measurement=bench.complete(measured, model).model_copy(update=alone),
        )
        told = None
        if table is not None and known is not None:
            found = tabling.units_of(model)
            tabling.extend(known, table, bench, model, found, progress)
            told = next(iter(tabulate.check(known, bench, {str(path): (model, found)})), None)
            if told is not None:
                known.checks.append(told)
                known.write(table)
        energies = energies_of(bench, model, whole.measurement, progress) if layer_energy else None
        return Profile(whole, bench.layer_times(model), told, energies)

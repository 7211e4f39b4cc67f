"""How energy is told in a build or a profile: set on its bench, and refused before any work where it cannot be."""

from __future__ import annotations

from pathlib import Path

from edgeprune.benches import layer_energy
from edgeprune.benches.base import Bench
from edgeprune.budget import EnergyMethod
from edgeprune.errors import UnmetRequirement
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress
from edgeprune.profiles.energy_model import FORMULAS
from edgeprune.profiles.log_meter import PowerLog
from edgeprune.report import Measurement


def with_meter(bench: Bench, energy: EnergyMethod, power_log: Path | None, progress: Progress) -> None:
    """Let a bench tell energy by ``energy``, or by the file that an external meter writes.

    Raises BadInput for a file that no meter can have written, and UnmetRequirement where nothing runs beside it.
    """
    bench.energy_method, bench.progress = energy, progress
    if power_log is None:
        return
    if bench.source != "measured":
        raise UnmetRequirement(
            f"--power-log wants graphs to run, and {bench.board.name} is not here; run them on the board with --board"
        )
    bench.power_log = PowerLog(power_log, progress.note)
    bench.power_log.check()


def require_meter(bench: Bench) -> None:
    """Raise UnmetRequirement where energy is wanted of single layers and nothing tells it."""
    if bench.energy_method in FORMULAS:
        return
    with bench.stand() as stand:
        if stand is None:
            raise UnmetRequirement(
                f"--layer-energy needs a power sensor, and none of {bench.board.name} answers here (its file names "
                f"{bench.board.power.sensor}); measure on the board with --board, give the file of an external meter "
                f"with --power-log, or estimate with --energy theoretical"
            )


def energies_of(
    bench: Bench, model: OnnxModel, whole: Measurement, progress: Progress
) -> layer_energy.LayerEnergies:
    """Return the energy of each kernel of a graph, of which ``whole`` was measured.

    Raises UnmetRequirement where the whole's energy could not be told.
    """
    if bench.energy_method in FORMULAS:
        return layer_energy.estimated(bench, model)
    net = whole.conditions.get("energy", {}).get("net_mj")
    if net is None:
        raise UnmetRequirement(
            f"--layer-energy: the power sensor of {bench.board.name} does not tell what a run takes; give the file of "
            f"an external meter with --power-log, or estimate with --energy theoretical"
        )
    return layer_energy.measured(bench, model, net, progress)
